//! What of a directory is used: ignore files, the list of it, the modes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::built::{build, each, last_layer, manifest};
use crate::env::as_every_user;

#[test]
fn one_ignore_file_holds_and_the_others_are_told_of() {
    each(|env| {
        let layout = env.path("layout");
        let built = |more: &[&str]| {
            let run = build(env, "FROM scratch\nCOPY d /", &layout, more).ok();
            let layer = last_layer(&layout);
            fs::remove_dir_all(&layout).unwrap();
            (layer, run.stderr)
        };
        let (one, two) = (["1 f644 0:0 1"], ["sub d755 0:0", "sub/2 f644 0:0 2"]);
        env.write("ctx/.containerignore", "d/1\n");
        assert_eq!(built(&[]).0, two);
        env.write("ctx/.dockerignore", "d/sub\n");
        let (layer, told) = built(&[]);
        assert_eq!(layer, one);
        assert!(
            told.contains("ctx/.containerignore is not used: ") && told.contains("ctx/.dockerignore is"),
            "{told}"
        );
        env.write("mine", "d/1\n");
        assert_eq!(built(&["--ignorefile", "mine"]).0, two);
        let refused = build(
            env,
            "FROM scratch\nCOPY d /",
            &layout,
            &["--ignorefile", "absent"],
        )
        .fails(1);
        assert!(
            refused.stderr.contains("absent: No such file"),
            "{}",
            refused.stderr
        );
        env.write("ctx/.dockerignore", "a\n[\n");
        let refused = build(env, "FROM scratch\nCOPY d /", &layout, &[]).fails(1);
        assert!(
            refused
                .stderr
                .contains(".dockerignore: line 2: syntax error in pattern"),
            "{}",
            refused.stderr
        );
    });
}

#[test]
fn a_context_is_listed_and_every_path_explained() {
    as_every_user(|env| {
        let context = env.context(
            "listed",
            &[
                (".dockerignore", "# notes\n*.md\n!README*.md\nlogs\n!logs/keep\n"),
                ("main.c", "int main;"),
                ("a.md", ""),
                ("README.md", "read"),
                ("logs/keep", "kept"),
                ("logs/gone", ""),
            ],
        );
        let run = env.rbuild(["context", "ls", &context]).ok();
        let paths: Vec<&str> = run
            .stdout
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert_eq!(
            paths,
            [
                ".dockerignore",
                "README.md",
                "logs/",
                "main.c",
                "logs/keep",
                "files,"
            ],
            "{}",
            run.stdout
        );
        assert!(run.stdout.ends_with("4 files, 58B\n"), "{}", run.stdout);
        let run = env.rbuild(["context", "ls", "--format=json", &context]).ok();
        let first: serde_json::Value = serde_json::from_str(run.stdout.lines().nth(1).unwrap()).unwrap();
        assert_eq!(
            first,
            serde_json::json!({"path": "README.md", "type": "file", "size": 4})
        );

        let ask = [
            "main.c",
            "a.md",
            "./README.md",
            "logs",
            "logs/gone",
            "logs/keep",
            "absent",
            "no.md",
        ];
        let args = ["context", "ls"]
            .into_iter()
            .chain(ask.iter().flat_map(|path| ["--why", *path]));
        let run = env.rbuild(args.chain([context.as_str()])).ok();
        let file = format!("{context}/.dockerignore");
        let expected = [
            format!("main.c: used, no pattern of {file} matches it"),
            format!("a.md: left out, by {file}:2: *.md"),
            format!("README.md: used, by {file}:3: !README*.md"),
            format!("logs: used for what is below it, else left out by {file}:4: logs"),
            format!("logs/gone: left out, by {file}:4: logs"),
            format!("logs/keep: used, by {file}:5: !logs/keep"),
            "absent: not found".to_owned(),
            format!("no.md: left out, by {file}:2: *.md"),
        ];
        assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected);
        env.rbuild(["context", "ls", "--why", "../x", &context]).fails(1);
    });
}

#[test]
fn in_git_mode_only_the_executable_bit_counts() {
    each(|env| {
        let layout = env.path("layout");
        let built = |mode: &str| {
            let run = build(
                env,
                "FROM scratch\nCOPY d /\nCOPY a b.txt /",
                &layout,
                &["--context-mode", mode],
            )
            .ok();
            let layer = last_layer(&layout);
            let digests = manifest(&layout)["layers"].clone();
            fs::remove_dir_all(&layout).unwrap();
            (run.count("CACHED"), layer, digests)
        };
        let chmod = |name: &str, mode| {
            fs::set_permissions(env.path(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let (_, layer, first) = built("git");
        assert_eq!(layer, ["a f644 0:0 a @0", "b.txt f755 0:0 b @0"]);
        // As another user with another umask has checked it out, at another time, in another place of the disk.
        chmod("ctx/d", 0o700);
        chmod("ctx/a", 0o600);
        chmod("ctx/b.txt", 0o700);
        for name in ["ctx/a", "ctx/d/1"] {
            let file = fs::File::options().write(true).open(env.path(name)).unwrap();
            file.set_modified(epoch + std::time::Duration::from_secs(5))
                .unwrap();
        }
        let (cached, _, again) = built("git");
        assert_eq!((cached, &again), (2, &first));
        // And a build without any memory makes the same bytes.
        env.rbuild(["prune", "--all", "--force"]).ok();
        let (cached, _, again) = built("git");
        assert_eq!((cached, &again), (0, &first));
        chmod("ctx/a", 0o755);
        let (cached, layer, _) = built("git");
        assert_eq!((cached, layer[0].as_str()), (1, "a f755 0:0 a @0"));
        assert_eq!(built("raw").1[1], "b.txt f700 0:0 b");
        build(env, "FROM scratch\n", &layout, &["--context-mode", "nope"]).fails(2);
    });
}
