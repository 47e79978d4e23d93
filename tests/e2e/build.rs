use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::env::as_every_user;

#[test]
fn the_example_builds_and_holds_what_it_should() {
    as_every_user(|env| {
        env.base();
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/example");
        for file in ["Dockerfile", ".dockerignore", "serve.sh", "src/page.html"] {
            env.write(
                &format!("example/{file}"),
                fs::read(format!("{example}/{file}")).unwrap(),
            );
        }
        env.write("example/notes.md", "not copied");
        let context = env.path("example");
        let args = ["-t", "example", "--build-arg", "BASE=base", "--progress=plain"];
        let run = env
            .rbuild(args.into_iter().chain([context.to_str().unwrap()]))
            .ok();
        assert!(run.stderr.contains("the page is fine"), "{}", run.stderr);

        let image = env.inspect("example");
        let config = &image["Config"];
        assert_eq!(config["User"], "nobody");
        assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/bin/serve"]));
        assert_eq!(config["Cmd"], serde_json::json!(["show"]));
        assert_eq!(config["ExposedPorts"], serde_json::json!({"8080/tcp": {}}));
        assert_eq!(config["Healthcheck"]["Interval"], 30_000_000_000_i64);

        let dest = env.path("root");
        let output = format!("type=local,dest={}", dest.display());
        env.rbuild([
            "-q",
            "-o",
            &output,
            "--build-arg",
            "BASE=base",
            context.to_str().unwrap(),
        ])
        .ok();
        let page = fs::read_to_string(dest.join("srv/www/index.html")).unwrap();
        assert!(page.contains("<h1>Hello from rbuild</h1>"), "{page}");
        assert_eq!(
            fs::metadata(dest.join("usr/bin/serve"))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777,
            0o755
        );
        assert!(!dest.join("work").exists(), "files of another stage");
    });
}

#[test]
fn a_step_sees_the_sandbox_of_the_specification() {
    as_every_user(|env| {
        env.base();
        let dockerfile = r#"FROM base
ARG VERSION=7
ENV NAME=value
WORKDIR /work/dir
RUN pwd; id; umask; hostname; echo "HOME=$HOME NAME=$NAME VERSION=$VERSION PATH=$PATH"; cat /etc/hosts; ls /proc/self/fd | wc -l; \
    grep -c . /etc/resolv.conf; grep CapBnd /proc/self/status; grep Seccomp: /proc/self/status; echo "pid $$"
USER nobody
RUN id -un; grep CapEff /proc/self/status; test ! -w / && echo "cannot write"
"#;
        let run = env.build("sandbox", dockerfile, &[]).ok();
        for text in [
            " /work/dir\n",
            "uid=0(root) gid=0(root)",
            " 0022\n",
            " buildkitsandbox\n",
            "HOME=/root NAME=value VERSION=7 PATH=/usr/local/sbin:",
            "localhost",
            "00000000a80425fb",
            "Seccomp:\t2",
            " pid 1\n",
            " nobody\n",
            "CapEff:\t0000000000000000",
            "cannot write",
        ] {
            assert!(run.stderr.contains(text), "{text:?} is not in:\n{}", run.stderr);
        }
    });
}

#[test]
fn what_the_sandbox_mounts_is_never_committed() {
    as_every_user(|env| {
        env.base();
        env.build(
            "clean",
            "FROM scratch\nCOPY --from=base /bin /bin\nRUN [\"/bin/busybox\", \"true\"]\n",
            &[],
        )
        .ok();
        let dest = env.unpack("clean");
        let names: Vec<_> = fs::read_dir(&dest)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["bin"], "left by RUN");
    });
}

#[test]
fn owners_and_modes_survive() {
    as_every_user(|env| {
        env.base();
        let dockerfile = "FROM base AS made\nRUN mkdir /d && echo x > /d/f && chown -R 1000:2000 /d && chmod 4711 /d/f && ln /d/f /d/g\n\
             FROM base\nCOPY --from=made /d /d\nCOPY --chown=nobody --chmod=600 own /own\nRUN stat -c '%n %u:%g %a %h' /d /d/f /own\n";
        env.write("owners/own", "mine");
        let run = env.build("owners", dockerfile, &[]).ok();
        for text in ["/d 0:0 755", "/d/f 1000:2000 4711 2", "/own 65534:65534 600 1"] {
            assert!(run.stderr.contains(text), "{text:?} is not in:\n{}", run.stderr);
        }
    });
}

#[test]
fn the_image_id_is_printed_and_written() {
    as_every_user(|env| {
        env.base();
        let context = env.context("ids", &[("Dockerfile", "FROM base\nENV A=1\n")]);
        let file = env.path("iid");
        let run = env
            .rbuild(["-q", "--iidfile", file.to_str().unwrap(), "-t", "ids", &context])
            .ok();
        assert_eq!(run.stdout.trim_end(), fs::read_to_string(&file).unwrap());
        assert_eq!(env.inspect("ids")["Id"], run.stdout.trim_end());
        assert_eq!(run.stderr, "");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);

        env.write("ids/Dockerfile", "FROM base\nRUN false\n");
        env.rbuild(["-q", "--iidfile", file.to_str().unwrap(), "-t", "ids", &context])
            .fails(1);
        assert!(!file.exists(), "the id of an older build");
    });
}
