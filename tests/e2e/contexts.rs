use std::fs;

use crate::env::{Run, as_every_user, has};

#[test]
fn named_contexts_stand_for_stages_and_images() {
    as_every_user(|env| {
        env.base();
        let dir = env.context(
            "other",
            &[
                ("f", "from the directory\n"),
                ("secret", "x"),
                (".dockerignore", "secret\n"),
            ],
        );
        let layout = env.path("layout");
        env.context("img", &[("g", "from the layout\n")]);
        env.write("img/Dockerfile", "FROM scratch\nCOPY g /g\n");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        env.rbuild(["build", "-o", &output, env.path("img").to_str().unwrap()])
            .ok();
        let contexts = [
            format!("--build-context=dep={dir}"),
            format!("--build-context=other={dir}"),
            format!("--build-context=nosuch=oci-layout://{}", layout.display()),
            "--build-context=stand-in:1=docker-image://base".to_owned(),
        ];
        let contexts: Vec<&str> = contexts.iter().map(String::as_str).collect();
        let dockerfile = "FROM base AS dep\nRUN false\n\
                          FROM other AS local\nCOPY own /own\n\
                          FROM stand-in:1\n\
                          COPY --from=dep /f /dep\nCOPY --from=nosuch /g /g\nCOPY --from=local / /all/\n\
                          RUN ls /all > /list && cat /dep /g >> /list\n";
        env.write("main/own", "own\n");
        env.build("main", dockerfile, &contexts).ok();
        let dest = env.path("out");
        let output = format!("type=local,dest={}", dest.display());
        let more: Vec<&str> = contexts.iter().copied().chain(["-o", &output]).collect();
        let again = env.build("main", dockerfile, &more).ok();
        assert_eq!(again.count("CACHED"), 6, "{}", again.stderr);
        let list = fs::read_to_string(dest.join("list")).unwrap();
        assert_eq!(list, "f\nown\nfrom the directory\nfrom the layout\n");

        // A file changes: only what reads it is made again.
        env.write("other/f", "changed\n");
        env.build("main", dockerfile, &more).ok();
        let list = fs::read_to_string(dest.join("list")).unwrap();
        assert_eq!(list, "f\nown\nchanged\nfrom the layout\n");
        let missing = env.build("main", dockerfile, &["--build-context=dep=/no/such"]);
        assert!(missing.fails(1).stderr.contains("/no/such"));
    });
}

#[test]
fn a_context_comes_on_standard_input() {
    as_every_user(|env| {
        env.base();
        env.context(
            "ctx",
            &[
                ("sub/f", "text\n"),
                ("Dockerfile", "FROM base\nCOPY . /c/\nRUN cat /c/sub/f > /seen\n"),
                ("other/D", "FROM scratch\nCOPY sub /s/\n"),
                (".dockerignore", "sub\n"),
            ],
        );
        let out = env.path("out");
        let piped = |archive: &str, more: &str| -> Run {
            let command = env.rbuild_command(["build", "--progress=plain", "-o", out.to_str().unwrap()]);
            let words: Vec<String> = std::iter::once(command.get_program())
                .chain(command.get_args())
                .map(|word| format!("'{}'", word.to_str().unwrap()))
                .collect();
            let script = format!("{archive} | {} {more} -", words.join(" "));
            std::process::Command::new("sh")
                .args(["-c", &script])
                .current_dir(env.path(""))
                .env("HOME", env.path(""))
                .output()
                .unwrap()
                .into()
        };
        for archive in ["cat", "gzip", "bzip2", "xz", "zstd"] {
            if !has(archive) {
                continue;
            }
            let _ = fs::remove_dir_all(&out);
            let archive = format!("tar -C ctx --sort=name -c . | {archive}");
            piped(&archive, "").ok();
            // An ignore file does not hold for an archive.
            assert_eq!(fs::read_to_string(out.join("c/sub/f")).unwrap(), "text\n");
            assert_eq!(fs::read_to_string(out.join("seen")).unwrap(), "text\n");
            let again = piped(&archive, "").ok();
            assert_eq!(again.count("CACHED"), 2, "{}", again.stderr);
        }
        piped("tar -C ctx -c .", "-f other/D").ok();
        assert!(out.join("s/f").exists());
        piped("printf 'FROM base\\nRUN echo hi > /hi\\n'", "").ok();
        assert_eq!(fs::read_to_string(out.join("hi")).unwrap(), "hi\n");
        let again = piped("printf 'FROM base\\nRUN echo hi > /hi\\n'", "").ok();
        assert_eq!(again.count("CACHED"), 1, "{}", again.stderr);
        for (archive, more, text) in [
            (
                "echo FROM base",
                "-f x",
                "stdin and flag correspond to Dockerfiles",
            ),
            ("echo FROM base", "-f -", "can't use stdin for both"),
            ("tar -C ctx -c .", "-f ../x", "is not in the context"),
            ("true", "", "cannot be empty"),
        ] {
            let refused = piped(archive, more).fails(1);
            assert!(refused.stderr.contains(text), "{}", refused.stderr);
        }
        // Nothing of it stays.
        let left = fs::read_dir(env.store().join("tmp")).unwrap().count();
        assert_eq!(left, 0);
    });
}

/// `-f` of a directory; those of addresses are in `received`, those in archives above, those in repositories in `git`.
#[test]
fn the_dockerfile_of_a_directory_lies_anywhere() {
    as_every_user(|env| {
        env.context(
            "work/ctx",
            &[("f", "f"), ("own.docker", "FROM scratch\nCOPY f /in-context\n")],
        );
        env.write("work/own.docker", "FROM scratch\nCOPY f /beside\n");
        env.write("outside/other.docker", "FROM scratch\nCOPY f /outside\n");
        let absolute = env.path("outside/other.docker");
        let piped = env.write("piped", "FROM scratch\nCOPY f /piped\n");
        for (file, made) in [
            ("own.docker", "beside"),
            ("ctx/own.docker", "in-context"),
            ("../outside/other.docker", "outside"),
            (absolute.to_str().unwrap(), "outside"),
            ("-", "piped"),
        ] {
            for time in [1, 2] {
                let out = env.path("out");
                let output = format!("type=local,dest={}", out.display());
                let mut command = env.rbuild_command(["build", "-f", file, "-o", &output, "ctx"]);
                command
                    .current_dir(env.path("work"))
                    .stdin(fs::File::open(&piped).unwrap());
                let run: Run = command.output().unwrap().into();
                // The same file by another name is nothing new.
                let known = time == 2 || file.starts_with('/');
                assert_eq!(run.ok().count("CACHED"), usize::from(known), "{file}");
                assert_eq!(fs::read_to_string(out.join(made)).unwrap(), "f", "{file}");
                fs::remove_dir_all(out).unwrap();
            }
        }
        let missing = env
            .rbuild([
                "build",
                "-f",
                "none.docker",
                env.path("work/ctx").to_str().unwrap(),
            ])
            .fails(1);
        assert!(missing.stderr.contains("none.docker"), "{}", missing.stderr);
    });
}
