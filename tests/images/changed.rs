//! `commit`: a changed root file system as an image.

use std::fs;

use super::Place;

#[test]
fn a_changed_root_file_system_becomes_an_image() {
    let place = Place::new();
    let base = place.import("base");
    let owner = if rustix::process::geteuid().is_root() {
        "-xp"
    } else {
        "-x"
    };
    place.rbuild(&["export", "-o", "flat.tar", "base"]);
    fs::create_dir(place.path("tree")).unwrap();
    place.tool("tar", &["-C", "tree", owner, "-f", "flat.tar"]);
    // Nothing has changed, so there is no layer.
    place.rbuild(&["commit", "--base", "base", "-c", "ENV A=1", "tree", "same"]);
    assert_eq!(place.rbuild(&["diff", "base", "same"]), "");
    let layers = |image: &str| place.rbuild(&["inspect", "-f", "{{len .RootFS.Layers}}", image]);
    assert_eq!((layers("base"), layers("same")), ("1\n".into(), "1\n".into()));

    fs::write(place.path("tree/etc/motd"), "hello again\n").unwrap();
    fs::write(place.path("tree/new"), "1\n").unwrap();
    fs::remove_file(place.path("tree/motd")).unwrap();
    let id = place.rbuild(&[
        "commit",
        "--base",
        "base",
        "-m",
        "by hand",
        "-a",
        "Jane",
        "-c",
        "CMD [\"new\"]",
        "tree",
        "changed:1",
    ]);
    assert_eq!(place.rbuild(&["images", "-q", "--no-trunc", "changed"]), id);
    assert_eq!(
        place.rbuild(&["diff", "base", "changed:1"]),
        "C /etc\nC /etc/motd\nD /motd\nA /new\n"
    );
    assert_eq!(layers("changed:1"), "2\n");
    let shown = place.rbuild(&["inspect", "-f", "{{json .Config.Cmd}} {{.Author}}", "changed:1"]);
    assert_eq!(shown, "[\"new\"] Jane\n");
    let steps = place.rbuild(&["history", "--format", "{{.CreatedBy}}|{{.Comment}}", "changed:1"]);
    assert_eq!(steps.lines().next(), Some("rbuild commit tree|by hand"));
    // The base is what it was.
    assert_eq!(place.rbuild(&["images", "-q", "--no-trunc", "base"]).trim(), base);

    fs::write(place.path("tree/.wh.new"), "").unwrap();
    let refused = place.refused(&["commit", "--base", "base", "tree"]);
    assert!(
        refused.contains("/.wh.new has a name by which layers say"),
        "{refused}"
    );
    for (args, wanted) in [
        (&["--base", "nosuch", "tree"][..], "No such image: nosuch:latest"),
        (&["--base", "base", "nosuch"], "opening nosuch"),
        (&["--base", "base", "flat.tar"], "is not a directory"),
        (&["--base", "base", "-c", "RUN x", "tree"], "change \"RUN x\""),
    ] {
        let refused = place.refused(&[&["commit"], args].concat());
        assert!(refused.contains(wanted), "{refused}");
    }
}
