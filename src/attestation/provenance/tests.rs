use std::path::PathBuf;

use rbuild_cache::Digest;

use super::*;
use crate::graph::op::ImageLayer;
use crate::graph::{ExecOp, LocalOp, Location, MountOp, MountOwner, SecretEnv};

fn vertex(op: Op, base: Option<VertexId>, mounts: Vec<VertexId>) -> Vertex {
    Vertex {
        op,
        base,
        source: None,
        remotes: Vec::new(),
        mounts,
        name: "step".to_owned(),
        location: Some(Location {
            file: "Dockerfile".into(),
            start: 3,
            end: 4,
        }),
        written: None,
        no_cache: false,
        platform: Platform::host(),
    }
}

fn image(reference: &str) -> Op {
    Op::Image(ImageOp {
        reference: reference.to_owned(),
        manifest: Digest::of(b"manifest"),
        platform: "linux/amd64".parse().unwrap(),
        layers: vec![ImageLayer {
            media_type: "m".to_owned(),
            digest: Digest::of(b"layer"),
            size: 5,
            diff_id: rbuild_cache::DiffId(Digest::of(b"tar")),
        }],
    })
}

fn exec(mounts: Vec<MountOp>) -> Op {
    Op::Exec(Box::new(ExecOp {
        args: vec!["curl".to_owned(), "https://u:canary@h/hunter2hunter2".to_owned()],
        env: vec!["PATH=/bin".to_owned(), "MY_TOKEN=canary".to_owned()],
        proxy_env: vec!["http_proxy=http://canary".to_owned()],
        cwd: "/".to_owned(),
        user: String::new(),
        network: NetworkMode::Default,
        insecure: false,
        hostname: "h".to_owned(),
        extra_hosts: Vec::new(),
        ulimits: Vec::new(),
        confinement: Default::default(),
        mounts,
        secret_env: vec![SecretEnv {
            name: "S".to_owned(),
            id: "by-env".to_owned(),
            required: true,
        }],
        script: None,
        platform: Platform::host(),
    }))
}

fn mount(kind: MountKind) -> MountOp {
    MountOp {
        target: "/m".to_owned(),
        read_only: true,
        kind,
    }
}

#[test]
fn sources_are_dependencies_and_secrets_are_ids() {
    let mut definition = Definition::default();
    let owner = MountOwner {
        mode: 0o400,
        uid: 0,
        gid: 0,
    };
    let bases = [
        "docker.io/library/alpine:3".to_owned(),
        format!("ghcr.io/a/b:1@{}", Digest::of(b"x")),
        "oci-layout:///home/canary/lay:1".to_owned(),
    ];
    let mut read: Vec<VertexId> = Vec::new();
    for base in &bases {
        read.push(definition.add(vertex(image(base), None, Vec::new())));
    }
    let sources = [
        Op::Http(HttpOp {
            url: "https://h/f.tar".to_owned(),
            digest: Digest::of(b"file"),
            filename: "f.tar".to_owned(),
            modified: None,
        }),
        Op::Git(GitOp {
            remote: "https://canary@h/r.git".to_owned(),
            reference: "main".to_owned(),
            commit: "ab".repeat(20),
            subdir: String::new(),
            keep_git_dir: false,
            submodules: false,
            commit_time: false,
            lfs: false,
        }),
    ];
    for source in sources {
        read.push(definition.add(vertex(source, None, Vec::new())));
    }
    let unused = image("docker.io/library/unused:1");
    definition.add(vertex(unused, None, Vec::new()));
    let required = false;
    let id = "by-file".to_owned();
    let mounts = vec![
        mount(MountKind::Secret { id, required, owner }),
        mount(MountKind::Ssh {
            id: "default".to_owned(),
            required,
            owner,
        }),
        mount(MountKind::Volume {
            path: PathBuf::from("/home/canary"),
            overlay: false,
        }),
    ];
    let result = definition.add(vertex(exec(mounts), Some(read[0]), read[1..].to_vec()));
    let parameters = BTreeMap::from([
        ("build-arg:API_KEY".to_owned(), "hunter2hunter2".to_owned()),
        ("build-arg:PLAIN".to_owned(), "1".to_owned()),
        ("target".to_owned(), "app".to_owned()),
    ]);
    let results = [result];
    let build = Build {
        definition: &definition,
        results: &results,
        layers: &[],
        file: "Dockerfile",
        text: b"FROM alpine:3\nADD https://u:canary@h/x /\n",
        origin: None,
        is_local_file: true,
        parameters: &parameters,
        run: None,
    };
    let full = build.predicate(true, Some("https://me"), true);
    let dependencies: Vec<&str> = full["buildDefinition"]["resolvedDependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["uri"].as_str().unwrap())
        .collect();
    let wanted = [
        "pkg:docker/alpine@3?platform=linux%2Famd64".to_owned(),
        format!(
            "pkg:docker/ghcr.io/a/b@{}?tag=1&platform=linux%2Famd64",
            Digest::of(b"x")
        ),
        format!("pkg:oci/lay@{}?platform=linux%2Famd64", Digest::of(b"manifest")),
        "https://h/f.tar".to_owned(),
        "https://xxxxx@h/r.git#main".to_owned(),
    ];
    assert_eq!(dependencies, wanted);
    let request = &full["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(
        request["secrets"],
        json!([{"id": "by-env"}, {"id": "by-file", "optional": true}])
    );
    assert_eq!(request["ssh"], json!([{"id": "default", "optional": true}]));
    assert_eq!(request["args"]["target"], "app");
    let metadata = &full["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_hermetic"], false);
    assert_eq!(
        metadata["buildkit_completeness"],
        json!({"request": false, "resolvedDependencies": true})
    );
    assert_eq!(
        metadata["buildkit_metadata"]["layers"]["step0:0"][0][0]["size"],
        5
    );
    let data = metadata["buildkit_metadata"]["source"]["infos"][0]["data"]
        .as_str()
        .unwrap();
    let text = String::from_utf8(BASE64.decode(data).unwrap()).unwrap();
    assert_eq!(text, "FROM alpine:3\nADD https://xxxxx:xxxxx@h/x /\n");
    let all = full.to_string();
    for hidden in ["canary", "hunter2", "/home", "unused"] {
        assert!(!all.contains(hidden), "{hidden}: {all}");
    }
    let min = build.predicate(false, None, false).to_string();
    for left_out in ["build-arg", "by-file", "llbDefinition", "infos"] {
        assert!(!min.contains(left_out), "{left_out}: {min}");
    }
}

#[test]
fn a_context_of_an_address_is_tracked() {
    let mut definition = Definition::default();
    let name = CONTEXT.to_owned();
    let local = definition.add(vertex(Op::Local(LocalOp { name }), None, Vec::new()));
    let name = "other".to_owned();
    let other = definition.add(vertex(Op::Local(LocalOp { name }), None, Vec::new()));
    let origin = Op::Git(GitOp {
        remote: "https://h/r.git".to_owned(),
        reference: String::new(),
        commit: "cd".repeat(20),
        subdir: String::new(),
        keep_git_dir: false,
        submodules: false,
        commit_time: false,
        lfs: false,
    });
    let complete = |results: &[VertexId], origin: Option<&Op>| {
        let build = Build {
            definition: &definition,
            results,
            layers: &[],
            file: "Dockerfile",
            text: b"",
            origin,
            is_local_file: false,
            parameters: &BTreeMap::new(),
            run: None,
        };
        let full = build.predicate(true, None, false);
        let source = full["buildDefinition"]["externalParameters"]["configSource"]["uri"].clone();
        let complete = &full["runDetails"]["metadata"]["buildkit_completeness"];
        (source, complete["resolvedDependencies"].as_bool().unwrap())
    };
    assert_eq!(
        complete(&[local], Some(&origin)),
        (json!("https://h/r.git"), true)
    );
    assert!(!complete(&[local, other], Some(&origin)).1);
    assert_eq!(complete(&[local], None), (Value::Null, false));
}
