//! Where the peers are wrong (spec 15): what rbuild does instead, or keeps on purpose. B1, B2, B7, B9 and B10 are with the
//! instructions, B11 and B14 with the mounts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use crate::built::{build, each, last_layer, manifest};

#[test]
fn b3_excluded_files_are_excluded() {
    each(|env| {
        let layout = env.path("layout");
        build(env, "FROM scratch\nCOPY --exclude=a a b.txt /x/", &layout, &[]).ok();
        assert_eq!(last_layer(&layout), ["x d755 0:0", "x/b.txt f4755 0:0 b"]);
    });
}

#[test]
fn b4_the_mode_of_a_directory_is_in_the_key() {
    each(|env| {
        let layout = env.path("layout");
        let body = "FROM scratch\nCOPY . /x/";
        let mode = |mode: u32| {
            fs::set_permissions(env.path("ctx/d"), fs::Permissions::from_mode(mode)).unwrap();
            let run = build(env, body, &layout, &[]).ok();
            let layer = last_layer(&layout);
            fs::remove_dir_all(&layout).unwrap();
            (run.count("CACHED"), layer.contains(&format!("x/d d{mode:o} 0:0")))
        };
        assert_eq!(mode(0o750), (0, true));
        assert_eq!(mode(0o750), (1, true));
        assert_eq!(mode(0o700), (0, true));
    });
}

#[test]
fn b5_d2_archives_with_whiteouts_are_refused() {
    each(|env| {
        let made = env
            .command("sh")
            .args(["-ec", "mkdir w; touch w/.wh.etc; tar -cf ctx/w.tar w"])
            .output()
            .unwrap();
        assert!(made.status.success());
        let run = build(env, "FROM scratch\nADD w.tar /", &env.path("layout"), &[]).fails(1);
        assert!(run.stderr.contains(".wh.etc"), "{}", run.stderr);
        assert!(run.stderr.contains("Dockerfile:2"), "{}", run.stderr);
    });
}

#[test]
fn b6_sockets_are_left_out_and_that_is_said() {
    each(|env| {
        let _socket = UnixListener::bind(env.path("ctx/e/socket")).unwrap();
        let layout = env.path("layout");
        let run = build(env, "FROM scratch\nCOPY e /x", &layout, &[]).ok();
        assert_eq!(last_layer(&layout), ["x d755 0:0"]);
        assert!(run.stderr.contains("e/socket"), "{}", run.stderr);
    });
}

#[test]
fn b8_a_compression_that_was_asked_for_is_used_for_cached_layers() {
    each(|env| {
        let body = "FROM scratch\nCOPY d /x";
        let media = |compression: &str| {
            let output = format!("type=oci,tar=false,compression={compression},dest=zipped");
            env.write("Dockerfile", body);
            env.rbuild(["build", "-o", &output, "-f", "Dockerfile", "ctx"])
                .ok();
            let manifest = manifest(&env.path("zipped"));
            fs::remove_dir_all(env.path("zipped")).unwrap();
            manifest["layers"][0]["mediaType"].as_str().unwrap().to_owned()
        };
        assert_eq!(media("gzip"), "application/vnd.oci.image.layer.v1.tar+gzip");
        assert_eq!(media("zstd"), "application/vnd.oci.image.layer.v1.tar+zstd");
    });
}

#[test]
fn b12_nothing_is_left_in_an_image_without_mount_points() {
    each(|env| {
        let layout = env.path("layout");
        let body = "FROM scratch\nCOPY --from=base /bin /bin\nRUN [\"/bin/busybox\", \"mkdir\", \"/dev/x\", \"/made\"]";
        build(env, body, &layout, &[]).ok();
        assert_eq!(last_layer(&layout), ["made d755 0:0"]);
    });
}

#[test]
fn b13_the_ignore_file_of_a_context_on_standard_input() {
    each(|env| {
        let script = "mkdir t; echo kept > t/kept; echo gone > t/gone; echo gone > t/.dockerignore; \
                      printf 'FROM scratch\\nCOPY . /\\n' > t/Dockerfile; tar -C t -cf t.tar .";
        assert!(
            env.command("sh")
                .args(["-ec", script])
                .status()
                .unwrap()
                .success()
        );
        let output = "type=oci,tar=false,compression=uncompressed,dest=stdin";
        let mut command = env.rbuild_command(["build", "-o", output, "-"]);
        command.stdin(Stdio::from(fs::File::open(env.path("t.tar")).unwrap()));
        let run: crate::env::Run = command.output().unwrap().into();
        run.ok();
        let layer = last_layer(&env.path("stdin"));
        // As BuildKit: what was sent is what there is.
        assert!(layer.iter().any(|line| line.starts_with("gone ")), "{layer:?}");
    });
}

#[test]
fn b15_long_lines() {
    each(|env| {
        let body = format!("FROM scratch\nLABEL long={}\n", "x".repeat(70_000));
        build(env, &body, &env.path("layout"), &[]).ok();
    });
}

#[test]
fn b16_backslashes_of_a_copied_heredoc() {
    each(|env| {
        let layout = env.path("layout");
        build(env, "FROM scratch\nCOPY <<E /x\na\\nb\nE", &layout, &[]).ok();
        assert_eq!(last_layer(&layout), ["x f644 0:0 anb"]);
    });
}

#[test]
fn b17_any_failed_step_is_exit_status_1() {
    each(|env| {
        build(env, "FROM base\nRUN exit 42", &env.path("layout"), &[]).fails(1);
    });
}

#[test]
fn b18_what_buildah_refuses() {
    each(|env| {
        let layout = env.path("layout");
        let body = "FROM base\nCOPY nope* /x/\nCOPY --chmod=u=rw,go= a /y\nHEALTHCHECK CMD true\n";
        build(env, body, &layout, &["--ulimit", "nofile=1000000000:1000000000"]).ok();
        assert_eq!(last_layer(&layout), ["y f600 0:0 a @1000000000"]);
    });
}

#[test]
fn b20_the_directory_of_an_export_has_the_mode_of_the_umask() {
    each(|env| {
        env.write("Dockerfile", "FROM scratch\nCOPY a /a\n");
        env.rbuild(["build", "-o", "out", "-f", "Dockerfile", "ctx"]).ok();
        let mode = fs::metadata(env.path("out")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    });
}

#[test]
fn p10_links_stay_inside_the_context() {
    each(|env| {
        env.write("outside", "secret");
        symlink("../outside", env.path("ctx/out")).unwrap();
        let run = build(env, "FROM scratch\nCOPY out /x", &env.path("layout"), &[]).fails(1);
        assert!(run.stderr.contains("not found"), "{}", run.stderr);
    });
}
