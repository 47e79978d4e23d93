//! What is said of images: `history`, `images`, `inspect`, and docker's groups of the same.

use super::Place;

#[test]
fn the_history_is_that_of_docker() {
    let place = Place::new();
    let id = place.import("base");
    let long = format!("LABEL long={}", "x".repeat(60));
    place.build(
        "app",
        &format!("FROM base\nCOPY a /a\n{long}\n"),
        &[("a", "12345")],
    );
    let table = place.rbuild(&["history", "app"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("IMAGE          CREATED "), "{table}");
    assert!(
        lines[0].contains("CREATED BY") && lines[0].ends_with("COMMENT"),
        "{table}"
    );
    let app = place.rbuild(&["images", "-q", "--no-trunc", "app"]);
    assert!(lines[1].starts_with(&app["sha256:".len()..][..12]), "{table}");
    assert!(lines[1].contains('…') && lines[1].contains(" 0B "), "{table}");
    assert!(
        lines[2].starts_with("<missing>  ") && lines[2].contains("5B"),
        "{table}"
    );
    assert!(lines[3].contains("Imported from root.tar"), "{table}");

    let whole = place.rbuild(&[
        "history",
        "--no-trunc",
        "--format",
        "{{.ID}}|{{.CreatedBy}}|{{.Size}}",
        "app",
    ]);
    let first = whole.lines().next().unwrap();
    assert_eq!(first, format!("{}|{long}|0B", app.trim()));
    let plain = place.rbuild(&[
        "history",
        "--human=false",
        "--format",
        "{{.Size}} {{.CreatedSince}}",
        "app",
    ]);
    assert!(plain.lines().nth(1).unwrap().starts_with("5 20"), "{plain}");
    assert_eq!(
        place.rbuild(&["history", "-q", "base"]).trim(),
        &id["sha256:".len()..][..12]
    );
    assert_eq!(place.rbuild(&["history", "-q", "--no-trunc", "base"]).trim(), id);
    let json = place.rbuild(&["image", "history", "--format", "json", "base"]);
    let row: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(row["Comment"], "Imported from root.tar");
    assert!(
        place
            .refused(&["history", "nosuch"])
            .contains("No such image: nosuch:latest")
    );
    assert!(
        place
            .refused(&["history", "--platform", "linux/s390x", "base"])
            .contains("not for linux/s390x")
    );
}

#[test]
fn groups_are_other_names() {
    let place = Place::new();
    let id = place.import("base");
    for args in [&["image", "ls"][..], &["image", "list"]] {
        let listed = place.rbuild(args);
        assert!(listed.contains("base         latest    "), "{args:?}: {listed}");
    }
    place.rbuild(&["image", "tag", "base", "other:1"]);
    assert_eq!(
        place.rbuild(&["image", "inspect", "-f", "{{.Id}} {{.ID}}", "other:1"]),
        format!("{id} {id}\n")
    );
    place.build("built", "FROM base\n", &[]);
    for build in [
        &["buildx", "build"][..],
        &["builder", "build"],
        &["image", "build"],
        &["build"],
    ] {
        let again = place.rbuild(&[build, &["-q", "context"]].concat());
        assert!(again.starts_with("sha256:"), "{again}");
    }
    assert!(
        place
            .rbuild(&["image", "rm", "other:1"])
            .starts_with("Untagged: other:1")
    );
    assert!(
        place
            .rbuild(&["buildx", "prune", "-f"])
            .contains("Total reclaimed space:")
    );
}

#[test]
fn filters_narrow_the_list() {
    let place = Place::new();
    let id = place.import("base");
    place.build("app:1", "FROM base\nLABEL tier=web\n", &[]);
    place.build("app:2", "FROM base\nLABEL tier=db\n", &[]);
    place.build("app:2", "FROM base\nLABEL tier=cache\n", &[]);
    let shown = |filters: &[&str]| -> String {
        let mut args = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        filters.iter().for_each(|filter| args.extend(["-f", filter]));
        let text = place.rbuild(&args);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join(" ")
    };
    for (filters, wanted) in [
        (&["label=tier"][..], "<none>:<none> app:1 app:2"),
        (&["label=tier=web"], "app:1"),
        (&["label=tier", "label!=tier=web"], "<none>:<none> app:2"),
        (&["label!=tier"], "base:latest"),
        (&["dangling=true"], "<none>:<none>"),
        (&["dangling=false"], "app:1 app:2 base:latest"),
        (&["reference=app"], "app:1 app:2"),
        (&["reference=app:*", "reference=base"], "app:1 app:2 base:latest"),
        (&["reference=app:1", "label=tier=db"], ""),
        (&["until=1h"], ""),
        (&[&format!("id={}", &id[7..15])], "base:latest"),
    ] {
        assert_eq!(shown(filters), wanted, "{filters:?}");
    }
    let table = place.rbuild(&["images", "--format", "table {{.Repository}}\\t{{.Tag}}", "app:1"]);
    assert_eq!(table, "REPOSITORY   TAG\napp          1\n");
}

#[test]
fn several_ids_are_removed_at_once() {
    let place = Place::new();
    let base = place.import("base");
    place.build("cafe", "FROM base\nLABEL n=1\n", &[]);
    place.rbuild(&["tag", "cafe", "other:1"]);
    let ids = place.rbuild(&["images", "-q", "--no-trunc", "--filter", "reference=cafe"]);
    let id = ids.trim();
    // A name that could be an id is a name.
    assert_eq!(place.rbuild(&["inspect", "-f", "{{.Id}}", "cafe"]).trim(), id);
    // What the first one did is known to those after it: one name is left, so that nothing has to be forced.
    let output = place.run_on("store", &["rmi", "other:1", id, &base[..20], &id[..20]], None);
    let told = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = told.lines().map(|line| line.split('@').next().unwrap()).collect();
    let [deleted, gone] = [id, &base].map(|id| format!("Deleted: {id}"));
    assert_eq!(
        lines,
        [
            "Untagged: other:1",
            "Untagged: cafe:latest",
            "Untagged: cafe",
            &deleted,
            "Untagged: base:latest",
            "Untagged: base",
            &gone
        ]
    );
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told, format!("error: No such image: {}\n", &id[..20]));
    assert_eq!(place.rbuild(&["images", "-q"]), "");
}
