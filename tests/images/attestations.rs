//! What is said of an image beside it: provenance and packages, in registries, layouts, archives, files and the store.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::registry::TestRegistry;
use super::{Place, has};

const EPOCH: &str = "1700000000";
const STATUS: &str = "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\nArchitecture: amd64\n";

impl Place {
    /// A Dockerfile with two layers and a package that comes and goes, and what it copies.
    fn packages(&self) {
        let root = self.path("app/root");
        for (file, text) in [
            ("etc/os-release", "ID=debian\nVERSION_ID=12\n"),
            ("var/lib/dpkg/status", STATUS),
            (
                "srv/node_modules/left/package.json",
                r#"{"name":"left","version":"1.3.0","license":"MIT"}"#,
            ),
            (
                "srv/p/Foo_Bar-1.dist-info/METADATA",
                "Name: Foo_Bar\nVersion: 1.2\n",
            ),
        ] {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), text).unwrap();
        }
        std::fs::write(
            self.path("app/Dockerfile"),
            "FROM scratch AS base\nARG API_TOKEN\nARG WHERE\nLABEL where=$WHERE\nCOPY root /\nFROM base\nCOPY root/etc /etc2\n",
        )
        .unwrap();
    }

    /// Standard output of a build of it with `args`.
    fn attested(&self, store: &str, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_rbuild"))
            .args(["--root", store, "build", "-q"])
            .args(args)
            .args([
                "--build-arg",
                "API_TOKEN=sesame-opens-all",
                "--build-arg",
                "WHERE=http://me:canary7@h/x",
                "app",
            ])
            .current_dir(self.path("."))
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What a template of `inspect` gives for an image of a store.
    fn inspected(&self, store: &str, format: &str, image: &str) -> Value {
        let output = self.run_on(store, &["inspect", "--format", format, image], None);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn json_file(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(file)).unwrap()).unwrap()
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The package URLs of a document.
fn packages(document: &Value) -> Vec<&str> {
    let packages = document["SPDX"]["packages"].as_array().unwrap();
    packages
        .iter()
        .filter_map(|package| package["externalRefs"][0]["referenceLocator"].as_str())
        .collect()
}

fn files_of(directory: &Path, found: &mut Vec<u8>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files_of(&entry.path(), found),
            _ => found.extend(std::fs::read(entry.path()).unwrap()),
        }
    }
}

#[test]
fn a_build_says_how_it_came_about_and_what_is_in_it() {
    let place = Place::new();
    place.packages();
    // Of Debian's own programs some are Go's.
    if has("skopeo") {
        std::fs::create_dir_all(place.path("app/root/bin")).unwrap();
        std::fs::copy("/usr/bin/skopeo", place.path("app/root/bin/skopeo")).unwrap();
    }
    let all = [
        "-t",
        "app:1",
        "--provenance=mode=max",
        "--sbom=true",
        "--metadata-file",
        "said.json",
    ];
    let id = place.attested("store", &all);
    let said = place.json_file("said.json");
    // The image is the same without.
    assert_eq!(
        place.attested("plain", &["-t", "app:1", "--metadata-file", "plain.json"]),
        id
    );
    let plain = place.json_file("plain.json");
    assert_eq!(
        said["containerimage.descriptor"],
        plain["containerimage.descriptor"]
    );
    assert_eq!(said["containerimage.config.digest"], id.as_str());
    assert_eq!(plain["image.name"], "docker.io/library/app:1");
    assert_eq!(
        plain["containerimage.descriptor"]["annotations"]["config.digest"],
        id.as_str()
    );
    assert_eq!(plain.get("buildx.build.provenance"), None);

    let provenance = place.inspected("store", "{{json .Provenance.SLSA}}", "app:1");
    assert_eq!(said["buildx.build.provenance"], provenance);
    let definition = &provenance["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:API_TOKEN"], "xxxxx");
    assert_eq!(request["args"]["build-arg:WHERE"], "http://xxxxx:xxxxx@h/x");
    assert_eq!(
        request["locals"],
        serde_json::json!([{"name": "context"}, {"name": "dockerfile"}])
    );
    let steps = definition["internalParameters"]["buildConfig"]["llbDefinition"]
        .as_array()
        .unwrap();
    let texts: Vec<&str> = steps.iter().filter_map(|step| step["text"].as_str()).collect();
    assert_eq!(texts, ["COPY root /", "COPY root/etc /etc2"]);
    assert_eq!(steps[2]["inputs"], serde_json::json!(["step1:0", "step0:0"]));
    let metadata = &provenance["runDetails"]["metadata"];
    assert_eq!(metadata.get("startedOn"), None);
    let layers = &metadata["buildkit_metadata"]["layers"];
    let diff_ids = place.inspected("store", "{{json .RootFS.Layers}}", "app:1");
    assert_eq!(
        [
            &layers["step1:0"][0][0]["digest"],
            &layers["step2:0"][0][0]["digest"]
        ],
        [&diff_ids[0], &diff_ids[1]]
    );

    let document = place.inspected("store", "{{json .SBOM}}", "app:1");
    let found = packages(&document);
    for wanted in [
        "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
        "pkg:npm/left@1.3.0",
        "pkg:pypi/foo-bar@1.2",
    ] {
        assert!(found.contains(&wanted), "{found:?}");
    }
    if place.path("app/root/bin/skopeo").exists() {
        assert!(
            found.iter().any(|url| url.starts_with("pkg:golang/stdlib@1.")),
            "{found:?}"
        );
    }
    assert_eq!(
        document["SPDX"]["creationInfo"]["created"],
        "2023-11-14T22:13:20Z"
    );
    let sources = document["SPDX"]["packages"].to_string();
    assert!(sources.contains(&format!(
        "/var/lib/dpkg/status of layer {}",
        diff_ids[0].as_str().unwrap()
    )));

    // What must not be told is in none of it.
    let told = format!("{provenance} {document} {said}");
    for secret in ["sesame-opens-all", "canary7"] {
        assert!(!told.contains(secret), "{told}");
    }

    // Another store, the same bytes.
    place.attested("other", &all);
    let lists = |store: &str| {
        let mut bytes = Vec::new();
        files_of(&place.path(store).join("referrers"), &mut bytes);
        bytes
    };
    assert_eq!(lists("store"), lists("other"));

    let min = ["-t", "app:2", "--provenance=mode=min"];
    place.attested("store", &min);
    let provenance = place
        .inspected("store", "{{json .Provenance}}", "app:2")
        .to_string();
    for text in ["build-arg", "label:", "llbDefinition", "infos"] {
        assert!(!provenance.contains(text), "{text}: {provenance}");
    }
}

#[test]
fn a_registry_without_referrers_has_a_tag_for_them() {
    let place = Place::new();
    place.packages();
    let registry = TestRegistry::start();
    let name = registry.reference("app:1");
    place.attested(
        "store",
        &["-t", &name, "--provenance=mode=max", "--sbom=true", "--push"],
    );
    if !has("skopeo") {
        return;
    }
    let raw = |name: &str| {
        let name = format!("docker://{name}");
        place.tool("skopeo", &["inspect", "--tls-verify=false", "--raw", &name])
    };
    let manifest = raw(&name);
    let digest = sha256(manifest.as_bytes());
    let list = |digest: &str| -> Value {
        serde_json::from_str(&raw(&registry.reference(&format!("app:sha256-{digest}")))).unwrap()
    };
    let kinds = |digest: &str| -> Vec<String> {
        let list = list(digest);
        let entries = list["manifests"].as_array().unwrap().iter();
        entries
            .map(|entry| {
                entry["annotations"]["in-toto.io/predicate-type"]
                    .as_str()
                    .unwrap_or("?")
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(
        kinds(&digest),
        ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"]
    );
    let first = list(&digest)["manifests"][0].clone();
    let attestation: Value = serde_json::from_str(&raw(
        &registry.reference(&format!("app@{}", first["digest"].as_str().unwrap()))
    ))
    .unwrap();
    assert_eq!(attestation["subject"]["digest"], format!("sha256:{digest}"));
    assert_eq!(attestation["artifactType"], "application/vnd.in-toto+json");

    // Pushed once more, nothing is there twice; what somebody else says stays.
    place.attested(
        "store",
        &["-t", &name, "--provenance=mode=max", "--sbom=true", "--push"],
    );
    assert_eq!(kinds(&digest).len(), 2);
    place.attested(
        "store",
        &[
            "-t",
            &name,
            "--provenance=mode=min,builder-id=https://me",
            "--push",
        ],
    );
    assert_eq!(kinds(&digest).len(), 3);

    let tool = ["buildx", "imagetools", "inspect"];
    let format = "{{.SBOM.SPDX.spdxVersion}} {{.Provenance.SLSA.runDetails.builder.id}}";
    let shown = place.rbuild(&[&tool[..], &["--format", format, &name]].concat());
    assert_eq!(shown, "SPDX-2.3 https://me\n");
    let shown = place.rbuild(&[&tool[..], &[name.as_str()]].concat());
    assert_eq!(
        shown
            .matches("ArtifactType: application/vnd.in-toto+json")
            .count(),
        3,
        "{shown}"
    );

    // What was built without compression is another manifest when it is pushed, and the statements say so.
    let second = registry.reference("app:2");
    place.attested("local", &["-t", &second, "--provenance=mode=min"]);
    let stored = place.inspected("local", "{{json .Descriptor.digest}}", &second);
    place.run_on("local", &["push", "-q", &second], None);
    assert_ne!(stored, format!("sha256:{digest}").as_str());
    assert_eq!(sha256(raw(&second).as_bytes()), digest);
    let pulled = place.run_on("pulled", &["pull", "-q", &second], None);
    assert!(pulled.status.success());
    assert_eq!(
        place.inspected("pulled", "{{json .Descriptor.digest}}", &second),
        format!("sha256:{digest}").as_str()
    );
    let last = list(&digest)["manifests"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    let last: Value = serde_json::from_str(&raw(
        &registry.reference(&format!("app@{}", last["digest"].as_str().unwrap()))
    ))
    .unwrap();
    let blob = last["layers"][0]["digest"].as_str().unwrap().replace(':', "/");
    let hex = blob.rsplit('/').next().unwrap();
    let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    let statement: Value =
        serde_json::from_slice(&std::fs::read(registry.data().join(path)).unwrap()).unwrap();
    assert_eq!(statement["subject"][0]["digest"]["sha256"], digest.as_str());
}

#[test]
fn in_the_index_it_is_as_with_buildkit() {
    let place = Place::new();
    place.packages();
    let registry = TestRegistry::start();
    let name = registry.reference("app:1");
    let plain = place.attested("store", &["-t", "app:1", "-o", "type=oci,dest=plain,tar=false"]);
    let attest = [
        "-t",
        &name,
        "--attest",
        "type=provenance,mode=min,inline=true",
        "--sbom=inline=true",
    ];
    let id = place.attested(
        "store",
        &[&attest[..], &["--push", "--metadata-file", "said.json"]].concat(),
    );
    assert_eq!(id, plain);
    let shown = place.rbuild(&["buildx", "imagetools", "inspect", "--raw", &name]);
    let index: Value = serde_json::from_str(&shown).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        place.json_file("said.json")["containerimage.digest"],
        format!("sha256:{}", sha256(shown.as_bytes()))
    );
    assert_eq!(
        entries[0]["digest"],
        place.json_file("plain/index.json")["manifests"][0]["digest"]
    );
    assert_eq!(entries[1]["platform"]["os"], "unknown");
    assert_eq!(
        entries[1]["annotations"]["vnd.docker.reference.type"],
        "attestation-manifest"
    );
    assert_eq!(
        entries[1]["annotations"]["vnd.docker.reference.digest"],
        entries[0]["digest"]
    );
    let format = "{{.SBOM.SPDX.spdxVersion}} {{.Provenance.SLSA.buildDefinition.buildType}}";
    for args in [&["inspect"][..], &["buildx", "imagetools", "inspect"]] {
        let shown = place.rbuild(&[args, &["--format", format, &name]].concat());
        assert_eq!(shown, "SPDX-2.3 urn:rbuild:dockerfile:v1\n");
    }
    let pulled = place.run_on("pulled", &["pull", "-q", "--all-platforms", &name], None);
    assert!(
        pulled.status.success(),
        "{}",
        String::from_utf8_lossy(&pulled.stderr)
    );
    assert_eq!(
        place.inspected("pulled", "{{json .SBOM.SPDX.spdxVersion}}", &name),
        "SPDX-2.3"
    );
    // An output can ask for it, too.
    place.attested(
        "store",
        &[
            "-t",
            "app:1",
            "--sbom=true",
            "-o",
            "type=oci,dest=inside,tar=false,attestation-inline=true",
        ],
    );
    assert_eq!(
        place.json_file("inside/index.json")["manifests"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let docker = "type=oci,dest=x,tar=false,oci-mediatypes=false";
    let refused = place.refused(&["build", "-q", "--sbom=inline=true", "-o", docker, "app"]);
    assert!(refused.contains("need media types of OCI"), "{refused}");
}

#[test]
fn layouts_archives_and_files_have_it_beside_them() {
    let place = Place::new();
    place.packages();
    let both = ["-t", "app:1", "--provenance=mode=max", "--sbom=true"];
    let build = |output: &str| place.attested("store", &[&both[..], &["-o", output]].concat());
    build("type=oci,dest=layout,tar=false");
    build("type=oci,dest=app.tar");
    let index = place.json_file("layout/index.json");
    let kinds: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["artifactType"].as_str().unwrap_or("image"))
        .collect();
    assert_eq!(
        kinds,
        [
            "image",
            "application/vnd.in-toto+json",
            "application/vnd.in-toto+json"
        ]
    );
    if has("skopeo") {
        for image in ["oci:layout:1", "oci-archive:app.tar:1"] {
            place.tool("skopeo", &["inspect", image]);
        }
    }
    if has("umoci") {
        assert_eq!(place.tool("umoci", &["ls", "--layout", "layout"]), "1\n");
        place.tool(
            "umoci",
            &["unpack", "--rootless", "--image", "layout:1", "unpacked"],
        );
    }
    // As a base, the only image of the layout is meant.
    std::fs::create_dir(place.path("next")).unwrap();
    std::fs::write(place.path("next/Dockerfile"), "FROM base\nLABEL a=b\n").unwrap();
    place.rbuild(&[
        "build",
        "-q",
        "--build-context",
        "base=oci-layout://layout",
        "next",
    ]);

    // Through an archive into another store, and out of that again.
    let format = "{{json .SBOM.SPDX.spdxVersion}}";
    for (store, archive) in [("second", "app.tar"), ("third", "saved.tar")] {
        let loaded = place.run_on(store, &["load", "-i", archive], None);
        assert!(
            loaded.status.success(),
            "{}",
            String::from_utf8_lossy(&loaded.stderr)
        );
        assert_eq!(String::from_utf8(loaded.stdout).unwrap(), "Loaded image: app:1\n");
        assert_eq!(place.inspected(store, format, "app:1"), "SPDX-2.3");
        place.run_on(store, &["save", "-o", "saved.tar", "app:1"], None);
    }
    if has("skopeo") {
        place.tool("skopeo", &["inspect", "docker-archive:saved.tar"]);
    }
    // What is said goes when the image has gone.
    let referrers = || {
        std::fs::read_dir(place.path("third/referrers/v1"))
            .unwrap()
            .count()
    };
    assert_eq!(referrers(), 1);
    place.run_on("third", &["rmi", "app:1"], None);
    std::thread::sleep(std::time::Duration::from_millis(20));
    place.run_on("third", &["prune", "-af"], None);
    assert_eq!(referrers(), 0);

    build("type=local,dest=files,attestation-prefix=app.");
    let statement = place.json_file("files/app.sbom.spdx.json");
    assert_eq!(statement["predicateType"], "https://spdx.dev/Document");
    let subjects = statement["subject"].as_array().unwrap();
    let status = subjects
        .iter()
        .find(|subject| subject["name"] == "var/lib/dpkg/status")
        .unwrap();
    assert_eq!(status["digest"]["sha256"], sha256(STATUS.as_bytes()).as_str());
    assert_eq!(
        place.json_file("files/app.provenance.json")["_type"],
        "https://in-toto.io/Statement/v1"
    );
    build("type=tar,dest=files.tar");
    let members = place.tool("tar", &["-tf", "files.tar"]);
    assert!(
        members.contains("\nprovenance.json\nsbom.spdx.json\n"),
        "{members}"
    );
    place.attested(
        "store",
        &[
            "--provenance=mode=min,inline-only=true",
            "--sbom=true",
            "-o",
            "few",
        ],
    );
    assert!(place.path("few/sbom.spdx.json").exists() && !place.path("few/provenance.json").exists());

    for (args, error) in [
        (
            &["--sbom=true", "-o", "type=docker,dest=x.tar"][..],
            "no place in an archive of docker's",
        ),
        (&["--sbom=generator=x"], "the generator is built in"),
        (&["--attest", "type=provenance,depth=3"], "no key \"depth\""),
    ] {
        let refused = place.refused(&[&["build"], args, &["app"]].concat());
        assert!(refused.contains(error), "{refused}");
    }
}

#[test]
fn each_platform_has_its_own() {
    let place = Place::new();
    place.packages();
    let registry = TestRegistry::start();
    let name = registry.reference("app:1");
    let both = [
        "--platform",
        "linux/amd64,linux/arm64",
        "--provenance=mode=max",
        "--sbom=true",
    ];
    place.attested(
        "store",
        &[
            &both[..],
            &["-t", &name, "--push", "--metadata-file", "said.json"],
        ]
        .concat(),
    );
    let said = place.json_file("said.json");
    for platform in ["linux/amd64", "linux/arm64"] {
        assert!(
            said[format!("buildx.build.provenance/{platform}")].is_object(),
            "{said}"
        );
        let subject = place.run_on(
            "store",
            &[
                "inspect",
                "--platform",
                platform,
                "--format",
                "{{json .SBOM.SPDX.packages}}",
                &name,
            ],
            None,
        );
        assert!(
            String::from_utf8_lossy(&subject.stdout).contains("libc6"),
            "{platform}"
        );
    }
    let index = place.rbuild(&["buildx", "imagetools", "inspect", "--raw", &name]);
    let index: Value = serde_json::from_str(&index).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        let digest = entry["digest"].as_str().unwrap().replace(':', "-");
        let list = place.rbuild(&[
            "buildx",
            "imagetools",
            "inspect",
            "--raw",
            &registry.reference(&format!("app:{digest}")),
        ]);
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["manifests"].as_array().unwrap().len(), 2);
    }
}
