//! The image chapter of docker's book, command by command, with what is printed.

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
