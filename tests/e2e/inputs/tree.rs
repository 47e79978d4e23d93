//! A3-2 to A3-4, A3-10: directories and Dockerfiles that mean no good.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::env::Run;
use crate::escape::guard::{Guard, SECRET, in_tiers};
use crate::server::{Answer, Server};

/// All that a build has made: image, output, messages.
fn without_secret(guard: &Guard, what: &str, run: &Run) {
    assert!(matches!(run.code, Some(0 | 1)), "{what}: {run:?}");
    assert!(
        !run.stderr.contains(SECRET) && !run.stdout.contains(SECRET),
        "{what}: {}",
        run.stderr
    );
    let out = guard.env.path("out.tar");
    if out.exists() {
        let bytes = fs::read(&out).unwrap();
        assert!(
            !bytes
                .windows(SECRET.len())
                .any(|window| window == SECRET.as_bytes()),
            "{what}"
        );
        fs::remove_file(out).unwrap();
    }
    let found = guard
        .env
        .command("grep")
        .args(["-rlF", SECRET])
        .arg(guard.env.store())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{what}");
}

#[test]
fn a3_2_links_of_a_context_lead_not_out_of_it() {
    in_tiers(&["root", "userns"], |guard| {
        let host = guard.host();
        let output = format!("type=tar,dest={}", guard.env.path("out.tar").display());
        guard.env.write("ctx/plain", "plain");
        for (name, target) in [
            ("absolute", host.as_str()),
            ("relative", "../host"),
            ("deep/relative", "../../host"),
            ("file", &format!("{host}/.ssh/id")),
            ("proc", "/proc/self/root"),
            ("chain", "deep/relative"),
        ] {
            let link = guard.env.path(&format!("ctx/{name}"));
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }
        let context = guard.env.path("ctx");
        let named = format!("--build-context=other={}", context.display());
        for instruction in [
            "COPY absolute/ /x/",
            "COPY absolute/.ssh/id /x",
            "COPY relative/.ssh /x/",
            "COPY deep/relative/.ssh/id /x",
            "COPY chain/.ssh/id /x",
            "COPY file /x",
            "COPY absolute/*/id /x/",
            "COPY */.ssh/id /x/",
            "COPY proc/etc/passwd /x",
            "COPY ../host/.ssh/id /x",
            "COPY deep/../../host/.ssh/id /x",
            "COPY --parents absolute/.ssh/id /x/",
            "COPY --parents ./relative/./.ssh /x/",
            "COPY --from=other absolute/.ssh/id /x",
            "COPY --from=other file /x",
            "ADD absolute/.ssh/id /x",
            "ADD file /x",
            "ADD relative /x/",
            "COPY . /x/",
            "RUN --mount=type=bind,source=absolute,target=/m cat /m/.ssh/id",
            "RUN --mount=type=bind,source=file,target=/m cat /m",
            "RUN --mount=type=bind,target=/m cat /m/file; cat /m/relative/.ssh/id",
            "RUN --mount=type=bind,from=other,source=chain,target=/m cat /m/.ssh/id",
        ] {
            let base = if instruction.starts_with("RUN") {
                "base"
            } else {
                "scratch"
            };
            let dockerfile = format!("FROM {base}\n{instruction}\n");
            let run = guard.build("ctx", &dockerfile, &[&named, "-o", &output]);
            without_secret(guard, instruction, &run);
            let run = run.stderr;
            assert!(!run.contains("panicked"), "{instruction}: {run}");
            guard.check();
        }
        // CVE-2022-4122, -4123: the ignore file is a link out of the context.
        for name in [".dockerignore", ".containerignore"] {
            let ignore = guard.env.path(&format!("ctx/{name}"));
            symlink(format!("{host}/.ssh/id"), &ignore).unwrap();
            let run = guard.build("ctx", "FROM scratch\nCOPY plain /x\n", &[]).fails(1);
            assert!(run.stderr.contains(name), "{}", run.stderr);
            without_secret(guard, name, &run);
            fs::remove_file(ignore).unwrap();
        }
        // So is the Dockerfile; one that the user names may lie anywhere.
        fs::remove_file(guard.env.path("ctx/Dockerfile")).unwrap();
        let context = context.to_str().unwrap();
        for target in [
            format!("{host}/.ssh/id"),
            "../host/.ssh/id".to_owned(),
            "/dev/zero".to_owned(),
        ] {
            symlink(&target, guard.env.path("ctx/Dockerfile")).unwrap();
            let run = guard.env.rbuild(["build", context]).fails(1);
            assert!(
                run.stderr.contains("leads out of the context"),
                "{target}: {}",
                run.stderr
            );
            without_secret(guard, &target, &run);
            fs::remove_file(guard.env.path("ctx/Dockerfile")).unwrap();
        }
        guard.env.write("elsewhere", "FROM scratch\nCOPY plain /x\n");
        symlink("../elsewhere", guard.env.path("ctx/link.docker")).unwrap();
        let file = guard.env.path("ctx/link.docker");
        guard
            .env
            .rbuild(["build", "-f", file.to_str().unwrap(), context])
            .ok();
        symlink("link", guard.env.path("ctx/Dockerfile")).unwrap();
        guard.env.write("ctx/link", "FROM scratch\nCOPY plain /x\n");
        guard.env.rbuild(["build", context]).ok();
    });
}

#[test]
fn a3_3_a_foreign_frontend_is_never_fetched() {
    in_tiers(&["userns"], |guard| {
        let server = Server::start(|_| Answer::new(404));
        let image = format!("{}/evil/frontend", server.address());
        let syntax = format!("--build-arg=BUILDKIT_SYNTAX={image}:1");
        for (dockerfile, more) in [
            (format!("# syntax={image}\nFROM scratch\n"), vec![]),
            (
                format!("#syntax = {image}:1@sha256:{}\nFROM scratch\n", "a".repeat(64)),
                vec![],
            ),
            (
                format!("#!/usr/bin/env x\n# syntax={image}\nFROM scratch\n"),
                vec![],
            ),
            (format!("// syntax={image}\nFROM scratch\n"), vec![]),
            (format!("{{\"syntax\": \"{image}\"}}\nFROM scratch\n"), vec![]),
            ("FROM scratch\n".to_owned(), vec![syntax.as_str()]),
        ] {
            let run = guard.build("front", &dockerfile, &more).fails(1);
            assert!(
                run.stderr.contains("evil/frontend") || run.stderr.contains("unknown instruction"),
                "{dockerfile}: {}",
                run.stderr
            );
        }
        assert_eq!(server.take().len(), 0);
    });
}

/// What a parser could take hours or all memory for. Random ones are in `parser/tests/generated.rs`.
#[test]
fn a3_4_dockerfiles_take_bounded_time_and_memory() {
    let mut powers = String::from("FROM scratch\nENV a0=xxxxxxxxxx\n");
    for number in 0..12 {
        let next = number + 1;
        writeln!(powers, "ENV a{next}={}", format!("${{a{number}}}").repeat(10)).unwrap();
    }
    let cases: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("20,000 stages", "FROM scratch\n".repeat(20_000).into(), None),
        (
            "nested substitutions",
            format!(
                "FROM scratch\nENV b={}x{}\n",
                "${a:-".repeat(20_000),
                "}".repeat(20_000)
            )
            .into(),
            Some("nested too deeply"),
        ),
        ("values that grow", powers.into(), Some("larger than 64 MiB")),
        (
            "a heredoc",
            format!("FROM scratch\nCOPY <<E /x\n{}E\n", "y\n".repeat(500_000)).into(),
            None,
        ),
        (
            "no end of a heredoc",
            format!("FROM scratch\nCOPY <<E /x\n{}", "y\n".repeat(500_000)).into(),
            Some("unterminated heredoc"),
        ),
        (
            "a file of 17 MiB",
            vec![b'\n'; 17 << 20],
            Some("more than 16777216 bytes"),
        ),
        (
            "continued lines",
            format!("FROM scratch\nENV a=b {} c=d\n", "\\\n".repeat(1_000_000)).into(),
            None,
        ),
        (
            "nested JSON",
            format!("FROM scratch\nCMD {}\n", "[".repeat(100_000)).into(),
            Some("Dockerfile:2"),
        ),
        (
            "a mark and line ends",
            b"\xef\xbb\xbfFROM scratch\r\nENV a=b\r\n".to_vec(),
            None,
        ),
        ("a NUL", b"FROM scratch\nENV a=\0b\n".to_vec(), None),
        ("no UTF-8", b"FROM scratch\nENV a=\xff\xfe\n".to_vec(), None),
        ("nothing", Vec::new(), Some("cannot be empty")),
    ];
    in_tiers(&["userns"], |guard| {
        for (what, bytes, message) in &cases {
            guard.env.write("many/Dockerfile", bytes);
            let limited = "ulimit -v 1500000; exec \"$@\"";
            let mut command = guard.env.command("timeout");
            command
                .args(["60", "sh", "-c", limited, "sh"])
                .arg(crate::env::rbuild_binary());
            command
                .arg("--root")
                .arg(guard.env.store())
                .args(["build", "--check"])
                .arg(guard.env.path("many"));
            let run: Run = command.output().unwrap().into();
            match message {
                None => assert!(matches!(run.code, Some(0 | 1)), "{what}: {run:?}"),
                Some(message) => {
                    let said = format!("{}{}", run.stdout, run.stderr);
                    assert!(
                        run.code == Some(1) && said.contains(message),
                        "{what}: {:?} {}",
                        run.code,
                        &said[said.len().saturating_sub(2000)..]
                    );
                }
            }
            assert!(!run.stderr.contains("panicked"), "{what}");
        }
    });
}

#[test]
fn a3_10_what_is_no_file_is_not_waited_for() {
    in_tiers(&["root", "userns"], |guard| {
        guard.env.write("ctx/plain", "plain");
        let pipe = CString::new(guard.env.path("ctx/pipe").to_str().unwrap()).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let _socket = UnixListener::bind(guard.env.path("ctx/socket")).unwrap();
        let has_device = guard.env.is_root() || rustix::process::geteuid().is_root();
        if has_device {
            let zero = CString::new(guard.env.path("ctx/zero").to_str().unwrap()).unwrap();
            let device = rustix::fs::makedev(1, 5);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &zero,
                rustix::fs::FileType::CharacterDevice,
                mode,
                device,
            )
            .unwrap();
        }
        for name in ["pipe", "socket", "zero"] {
            if name == "zero" && !has_device {
                eprintln!("skipped: only root makes devices");
                continue;
            }
            for instruction in [
                format!("COPY {name} /x"),
                format!("ADD {name} /x"),
                format!("ADD --unpack=true {name} /x"),
                "COPY . /x/".to_owned(),
            ] {
                let began = Instant::now();
                let run = guard.build("ctx", &format!("FROM scratch\n{instruction}\n"), &["--no-cache"]);
                assert!(matches!(run.code, Some(0 | 1)), "{instruction}: {run:?}");
                // The machine may be busy; what waits for a pipe waits for ever.
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "{instruction}: {:?}",
                    began.elapsed()
                );
            }
            // As a Dockerfile and as an ignore file.
            fs::remove_file(guard.env.path("ctx/Dockerfile")).unwrap();
            let context = guard.env.path("ctx");
            let context = context.to_str().unwrap();
            for place in ["Dockerfile", ".dockerignore"] {
                if place == ".dockerignore" {
                    guard.env.write("ctx/Dockerfile", "FROM scratch\nCOPY plain /\n");
                }
                symlink(name, guard.env.path("ctx").join(place)).unwrap();
                let mut command = guard.env.command("timeout");
                command
                    .arg("20")
                    .arg(crate::env::rbuild_binary())
                    .arg("--root")
                    .arg(guard.env.store());
                let run: Run = command.args(["build", context]).output().unwrap().into();
                assert_eq!(run.code, Some(1), "{name} as {place}: {run:?}");
                fs::remove_file(guard.env.path("ctx").join(place)).unwrap();
            }
        }
        for file in ["pipe", "socket", "zero"] {
            let _ = fs::remove_file(guard.env.path("ctx").join(file));
        }
        // Files of /proc say that they are empty and give more, or wait for ever (kmsg).
        if guard.env.is_root() {
            guard.env.write(
                "ctx/Dockerfile",
                "FROM scratch\nCOPY proc/version proc/self/mem proc/kmsg /x/\n",
            );
            fs::create_dir(guard.env.path("ctx/proc")).unwrap();
            let script = "mount --bind /proc \"$0/ctx/proc\" && cd \"$0/host\" && exec timeout 20 \"$@\"";
            let mut command = guard.env.command("unshare");
            command
                .args(["-m", "sh", "-c", script])
                .arg(guard.env.path(""))
                .arg(crate::env::rbuild_binary());
            command
                .arg("--root")
                .arg(guard.env.store())
                .arg("build")
                .arg(guard.env.path("ctx"));
            let run: Run = Command::output(&mut command).unwrap().into();
            assert!(matches!(run.code, Some(0 | 1)), "{run:?}");
        }
    });
}
