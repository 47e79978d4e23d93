//! Files of images: `export`, `cp`, `diff`.

use super::Place;

#[test]
fn an_image_is_exported_as_a_tar() {
    let place = Place::new();
    place.import("base");
    place.build("app", "FROM base\nCOPY --chown=7:8 a /etc/a\n", &[("a", "1")]);
    place.rbuild(&["export", "-o", "out.tar", "app"]);
    let listed = place.tool("tar", &["--numeric-owner", "-tvf", "out.tar"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(
        listed
            .lines()
            .any(|line| line.contains(" 7/8 ") && line.ends_with(" etc/a")),
        "{listed}"
    );
    // What was exported is imported again, with the same files.
    place.rbuild(&["import", "out.tar", "again"]);
    assert_eq!(place.rbuild(&["diff", "app", "again"]), "");
    let binary = env!("CARGO_BIN_EXE_rbuild");
    let script = format!("{binary} --root store export app | tar t");
    assert_eq!(place.tool("bash", &["-c", &script]).lines().count(), 4);
}

#[test]
fn two_images_are_compared() {
    let place = Place::new();
    place.import("base");
    place.build(
        "app",
        "FROM base\nCOPY motd /etc/motd\nCOPY a /new/a\n",
        &[("motd", "changed"), ("a", "")],
    );
    assert_eq!(
        place.rbuild(&["diff", "base", "app"]),
        "C /etc\nC /etc/motd\nA /new\nA /new/a\n"
    );
    assert_eq!(
        place.rbuild(&["diff", "app", "base"]),
        "C /etc\nC /etc/motd\nD /new\n"
    );
    assert_eq!(place.rbuild(&["diff", "app", "app"]), "");
}

#[test]
fn files_are_copied_out_by_the_rules_of_docker() {
    let place = Place::new();
    place.import("base:1");
    let read = |path: &str| std::fs::read_to_string(place.path(path)).unwrap();
    // A file: to a new name, into a directory, over a file.
    place.rbuild(&["cp", "base:1:/etc/motd", "copy"]);
    std::fs::create_dir(place.path("there")).unwrap();
    place.rbuild(&["cp", "base:1:etc/motd", "there"]);
    std::fs::write(place.path("over"), "old").unwrap();
    place.rbuild(&["cp", "base:1:/etc/motd", "over"]);
    for path in ["copy", "there/motd", "over"] {
        assert_eq!(read(path), "hello\n", "{path}");
    }
    // A directory: as a new one, into one, only what is in it.
    place.rbuild(&["cp", "base:1:/etc", "new"]);
    place.rbuild(&["cp", "base:1:/etc", "there"]);
    place.rbuild(&["cp", "base:1:/etc/.", "there"]);
    for path in ["new/motd", "there/etc/motd", "there/motd"] {
        assert_eq!(read(path), "hello\n", "{path}");
    }
    place.rbuild(&["cp", "base:1:/", "whole"]);
    assert_eq!(read("whole/etc/motd"), "hello\n");
    // A link, and what it leads to.
    place.rbuild(&["cp", "base:1:/motd", "link"]);
    assert_eq!(
        std::fs::read_link(place.path("link")).unwrap().to_str(),
        Some("etc/motd")
    );
    place.rbuild(&["cp", "-L", "base:1:/motd", "file"]);
    assert!(place.path("file").symlink_metadata().unwrap().is_file());
    let binary = env!("CARGO_BIN_EXE_rbuild");
    let script = format!("{binary} --root store cp base:1:/etc - | tar t");
    assert_eq!(place.tool("bash", &["-c", &script]), "etc/\netc/motd\n");
    for (args, reason) in [
        (
            &["cp", "base:1:/nosuch", "x"][..],
            "could not find the file /nosuch",
        ),
        (&["cp", "base:1:/etc/motd/.", "x"], "is not a directory"),
        (&["cp", "base:1:/etc", "copy"], "which is a file"),
        (&["cp", "base:1:/etc/motd", "nosuch/"], "does not exist"),
        (
            &["cp", "base:1:/etc/motd", "nosuch/x"],
            "the directory nosuch does not exist",
        ),
        (&["cp", "copy", "base:1:/etc"], "never changes"),
        (&["cp", "copy", "other"], "IMAGE:PATH"),
        (&["cp", "-a", "base:1:/etc", "x"], "keeps owners"),
        (&["cp", "other:/etc", "x"], "No such image: other"),
    ] {
        let error = place.refused(args);
        assert!(error.contains(reason), "{args:?}: {error}");
    }
}
