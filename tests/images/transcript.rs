//! The image chapter of docker's book, command by command, with what is printed.

use serde_json::Value;

use super::Place;
use super::registry::TestRegistry;

/// What differs from run to run, by a name.
fn plain(text: &str, names: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (value, name) in names {
        text = text.replace(value, name);
    }
    text
}

#[test]
fn the_image_chapter() {
    let place = Place::new();
    let registry = TestRegistry::start();
    let id = place.import("base");
    let short = id["sha256:".len()..][..12].to_owned();
    let digest = place
        .rbuild(&["images", "--format", "{{.Digest}}"])
        .trim()
        .to_owned();
    let address = registry.address().to_owned();
    let names = [
        (id.as_str(), "ID"),
        (short.as_str(), "SHORT"),
        (digest.as_str(), "DIGEST"),
        (address.as_str(), "HOST"),
    ];
    let says = |args: &[&str], wanted: &str| {
        let args: Vec<String> = args
            .iter()
            .map(|arg| arg.replace("HOST", &address).replace("SHORT", &short))
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        assert_eq!(plain(&place.rbuild(&args), &names), wanted, "{args:?}");
    };
    let row = "{{.Repository}}|{{.Tag}}|{{.ID}}";
    says(&["images", "--format", row], "base|latest|SHORT\n");
    says(&["image", "ls", "--no-trunc", "-q"], "ID\n");
    says(&["images", "--digests", "--format", "{{.Digest}}"], "DIGEST\n");
    says(&["tag", "base", "HOST/team/base:1"], "");
    says(&["tag", "SHORT", "HOST/team/base:2"], "");
    says(
        &["images", "--format", row],
        "HOST/team/base|1|SHORT\nHOST/team/base|2|SHORT\nbase|latest|SHORT\n",
    );
    says(
        &["images", "-f", "reference=*/team/*:2", "--format", "{{.Tag}}"],
        "2\n",
    );
    says(&["save", "-o", "base.tar", "base"], "");
    says(&["rmi", "base:latest"], "Untagged: base:latest\n");
    says(&["load", "-i", "base.tar"], "Loaded image: base:latest\n");
    says(
        &["history", "--format", "{{.ID}}|{{.Comment}}", "base"],
        "SHORT|Imported from root.tar\n",
    );
    // By its id an image with several repositories goes only by force.
    assert!(place.refused(&["rmi", &short]).contains("must be forced"));
    says(
        &["rmi", "HOST/team/base:1", "HOST/team/base:2"],
        "Untagged: HOST/team/base:1\nUntagged: HOST/team/base:2\n",
    );
    says(
        &["rmi", "SHORT"],
        "Untagged: base:latest\nUntagged: base@DIGEST\nDeleted: ID\n",
    );
    says(&["images", "-q"], "");
    says(&["load", "-i", "base.tar"], "Loaded image: base:latest\n");

    // What is built again loses its name, and goes.
    place.build("app", "FROM base\nLABEL n=1\n", &[]);
    let before = place
        .rbuild(&["images", "-q", "--no-trunc", "app"])
        .trim()
        .to_owned();
    place.build("app", "FROM base\nLABEL n=2\n", &[]);
    says(
        &[
            "images",
            "-f",
            "dangling=true",
            "--format",
            "{{.Repository}}:{{.Tag}}",
        ],
        "<none>:<none>\n",
    );
    assert!(place.refused(&["image", "prune"]).contains("give --force"));
    let table = place.rbuild(&["system", "df"]);
    assert!(
        table.starts_with("TYPE            TOTAL     ACTIVE    SIZE "),
        "{table}"
    );
    assert!(
        table
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("Images          3         2  "),
        "{table}"
    );
    let things = place.rbuild(&["du", "--format", "table {{.Type}}\\t{{.InUse}}"]);
    assert!(things.starts_with("TYPE "), "{things}");
    assert!(
        things
            .lines()
            .next()
            .is_some_and(|heads| heads.ends_with(" IN USE")),
        "{things}"
    );
    let pruned = place.rbuild(&["image", "prune", "-f"]);
    let wanted = format!("Deleted Images:\ndeleted: {before}\n\nTotal reclaimed space: ");
    assert!(pruned.starts_with(&wanted), "{pruned}");
    says(&["images", "-f", "dangling=true", "-q"], "");
    // Nothing that builds use again has gone.
    place.build("app", "FROM base\nLABEL n=2\n", &[]);
    let kept = place.rbuild(&["image", "prune", "-af", "--filter", "label!=n"]);
    assert!(
        kept.contains("untagged: base:latest\n") && !kept.contains("app"),
        "{kept}"
    );
    assert!(
        place
            .refused(&["system", "prune", "--volumes", "-f"])
            .contains("no volumes")
    );
    let all = place.rbuild(&["system", "prune", "-af"]);
    assert!(
        all.starts_with("Deleted Images:\nuntagged: app:latest\n"),
        "{all}"
    );
    says(
        &["system", "df", "--format", "{{.Type}} {{.TotalCount}}"],
        "Images 0\nContainers 0\nLocal Volumes 0\nBuild Cache 0\n",
    );
}

#[test]
fn the_chapter_of_registries_and_platforms() {
    let place = Place::new();
    let registry = TestRegistry::start();
    let host = registry.address();
    let on = |store: &str, args: &[&str]| {
        let output = place.run_on(store, args, None);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let name = |rest: &str| format!("{host}/team/{rest}");
    for architecture in ["amd64", "arm64"] {
        let platform = format!("linux/{architecture}");
        on(
            "store",
            &[
                "import",
                "--platform",
                &platform,
                "root.tar",
                &name(&format!("{architecture}:1")),
            ],
        );
        let pushed = on("store", &["push", &name(&format!("{architecture}:1"))]);
        let first = format!(
            "The push refers to repository [{}]\n1: digest: sha256:",
            name(architecture)
        );
        assert!(pushed.starts_with(&first), "{pushed}");
    }
    assert_eq!(on("store", &["push", "-q", &name("amd64:1")]), name("amd64:1\n"));
    // A list of two platforms.
    let list = name("multi:1");
    let made = on(
        "store",
        &["manifest", "create", &list, &name("amd64:1"), &name("arm64:1")],
    );
    assert_eq!(made, format!("Created manifest list {list}\n"));
    let tree = on("store", &["images", "--tree", &list]);
    let first: Vec<&str> = tree
        .lines()
        .map(|line| line.split("   ").next().unwrap().trim_end())
        .collect();
    assert_eq!(
        first,
        ["IMAGE", list.as_str(), "├─ linux/amd64", "└─ linux/arm64"],
        "{tree}"
    );
    let digest = on("store", &["manifest", "push", &list]);
    let digest = digest.trim();
    for store in ["store", "empty"] {
        let shown: Value = serde_json::from_str(&on(store, &["manifest", "inspect", "-v", &list])).unwrap();
        let shown = shown.as_array().unwrap();
        let architectures: Vec<&Value> = shown
            .iter()
            .map(|one| &one["Descriptor"]["platform"]["architecture"])
            .collect();
        assert_eq!(architectures, ["amd64", "arm64"], "{store}");
        assert_eq!(shown[1]["OCIManifest"]["schemaVersion"], 2);
        let one: Value =
            serde_json::from_str(&on(store, &["manifest", "inspect", "-v", &name("arm64:1")])).unwrap();
        assert_eq!(one["Ref"], name("arm64:1"));
        assert_eq!(one["Descriptor"], shown[1]["Descriptor"]);
    }
    // Pulled by platform, by digest, with all tags.
    let pulled = on("other", &["pull", "--platform", "linux/arm64", &list]);
    let wanted = format!(
        "1: Pulling from team/multi\nDigest: {digest}\nStatus: Downloaded newer image for {list}\n{list}\n"
    );
    assert_eq!(pulled, wanted);
    let again = on("other", &["pull", "--platform", "linux/arm64", &list]);
    assert!(
        again.contains(&format!("Status: Image is up to date for {list}\n")),
        "{again}"
    );
    let shown = on(
        "other",
        &[
            "inspect",
            "-f",
            "{{.Architecture}}",
            "--platform",
            "linux/arm64",
            &list,
        ],
    );
    assert_eq!(shown, "arm64\n");
    let by_digest = name(&format!("multi@{digest}"));
    assert_eq!(on("third", &["pull", "-q", &by_digest]), format!("{by_digest}\n"));
    let digests = on(
        "third",
        &[
            "images",
            "--digests",
            "--format",
            "{{.Repository}} {{.Tag}} {{.Digest}}",
        ],
    );
    assert_eq!(digests, format!("{} <none> {digest}\n", name("multi")));
    on("store", &["tag", &name("amd64:1"), &name("amd64:2")]);
    on("store", &["push", "-a", &name("amd64")]);
    let tags = on("third", &["pull", "-a", &name("amd64")]);
    assert!(
        tags.contains("1: Pulling from team/amd64") && tags.contains("2: Pulling from"),
        "{tags}"
    );
    let refused = place.refused(&["rmi", "--platform", "linux/amd64", &list]);
    assert!(
        refused.contains("`rbuild manifest remove` takes one out"),
        "{refused}"
    );
}

#[test]
fn every_filter_and_format() {
    let place = Place::new();
    place.import("base");
    for (name, time) in [("one", "1000"), ("two", "2000"), ("three", "3000")] {
        let context = place.path("context");
        std::fs::create_dir_all(&context).unwrap();
        std::fs::write(
            context.join("Dockerfile"),
            format!("FROM scratch\nLABEL n={name}\n"),
        )
        .unwrap();
        let epoch = format!("SOURCE_DATE_EPOCH={time}");
        place.rbuild(&["build", "-q", "--build-arg", &epoch, "-t", name, "context"]);
    }
    let names = |filter: &str| {
        let listed = place.rbuild(&["images", "-f", filter, "--format", "{{.Repository}}"]);
        listed.lines().collect::<Vec<_>>().join(" ")
    };
    for (filter, wanted) in [
        ("before=two", "one"),
        ("since=two", "base three"),
        ("after=two", "base three"),
        ("until=1970-01-01T00:40:00Z", "two one"),
        ("label=n", "three two one"),
        ("label=n=two", "two"),
        ("label!=n", "base"),
        ("dangling=false", "base three two one"),
        ("reference=t*", "three two"),
    ] {
        assert_eq!(names(filter), wanted, "{filter}");
    }
    let one = |format: &str| place.rbuild(&["images", "--format", format, "one"]);
    let id = place.rbuild(&["images", "-q", "one"]);
    let id = id.trim();
    let usual = one("table");
    assert!(
        usual.starts_with("REPOSITORY   TAG       IMAGE ID       CREATED        SIZE\none "),
        "{usual}"
    );
    assert_eq!(
        one("table {{.ID}}\\t{{.Repository}}"),
        format!("IMAGE ID       REPOSITORY\n{id}   one\n")
    );
    assert_eq!(
        one("{{.CreatedAt}} {{.Size}}"),
        "1970-01-01 00:16:40 +0000 UTC 0B\n"
    );
    assert_eq!(
        one("{{printf \"%-6s|\" .Repository}}{{if eq .Tag \"1\"}}a{{else if eq .Tag \"latest\"}}b{{end}}"),
        "one   |b\n"
    );
    let row: Value = serde_json::from_str(&one("json")).unwrap();
    assert_eq!((&row["Repository"], &row["ID"]), (&"one".into(), &id.into()));
    // What the user has told docker's own command counts where no flag says otherwise.
    std::fs::create_dir(place.path("docker")).unwrap();
    let told = r#"{"imagesFormat": "table {{.Tag}}\t{{.Repository}}"}"#;
    std::fs::write(place.path("docker/config.json"), told).unwrap();
    let told = |more: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_rbuild"))
            .args(["--root", "store", "images", "one"])
            .args(more)
            .env("DOCKER_CONFIG", place.path("docker"))
            .current_dir(place.path(""))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(told(&[]), "TAG       REPOSITORY\nlatest    one\n");
    assert_eq!(told(&["-q"]), format!("{id}\n"));
    assert_eq!(told(&["--format", "{{.Tag}}"]), "latest\n");
}

#[test]
fn a_root_file_system_is_imported_from_an_address() {
    let place = Place::new();
    let tar = std::fs::read(place.path("root.tar")).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            tar.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&tar).unwrap();
        String::from_utf8(request).unwrap().to_ascii_lowercase()
    });
    let here = place.import("base");
    let there = place.rbuild(&["import", &format!("http://u:secret@{address}/root.tar"), "far"]);
    assert!(
        server
            .join()
            .unwrap()
            .contains("authorization: basic dtpzzwnyzxq=")
    );
    assert_ne!(there.trim(), here, "the comment is another");
    assert_eq!(place.rbuild(&["diff", "base", "far"]), "");
    let comment = place.rbuild(&["history", "--format", "{{.Comment}}", "far"]);
    assert_eq!(comment, format!("Imported from http://{address}/root.tar\n"));
}
