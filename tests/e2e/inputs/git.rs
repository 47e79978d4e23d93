//! A3-1, A3-5, A3-6, A3-8: repositories, and servers of repositories, that mean no good.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::env::Run;
use crate::escape::guard::{Guard, SECRET, in_tiers};
use crate::git::served::{Repositories, WebServer};

pub const DOCKERFILE: &str = "FROM scratch\nCOPY . /\n";

/// Builds a context into `out`, as a user who stands in the canary.
pub fn build(guard: &Guard, context: &str, more: &[&str]) -> Run {
    let out = guard.env.path("out");
    if out.exists() {
        fs::remove_dir_all(&out).unwrap();
    }
    let output = format!("type=local,dest={}", out.display());
    let args = ["build", "-o", &output];
    let args = args
        .into_iter()
        .chain(more.iter().copied())
        .chain(["--", context]);
    let mut command = guard.env.rbuild_command(args);
    command.current_dir(guard.host());
    command.output().unwrap().into()
}

pub fn text(guard: &Guard, file: &str) -> String {
    fs::read_to_string(guard.env.path("out").join(file)).unwrap()
}

/// Fails when git is run in a directory that is asked for programs first.
fn without_git(guard: &Guard, args: &[&str]) -> Run {
    let path = std::env::var("PATH").unwrap();
    let programs = guard.env.path("programs");
    for name in ["git", "ssh"] {
        let script = format!("#!/bin/sh\ntouch {}/run\n", guard.env.path("").display());
        let file = guard.env.write(&format!("programs/{name}"), script);
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = guard.env.rbuild_command(args.iter().copied());
    command
        .current_dir(guard.host())
        .env("PATH", format!("{}:{path}", programs.display()));
    let run: Run = command.output().unwrap().into();
    assert!(!guard.env.path("run").exists(), "{args:?}: {}", run.stderr);
    run
}

#[test]
fn a3_1_sub_directories_lead_not_out_of_their_repository() {
    in_tiers(&["userns"], |guard| {
        let repositories = Repositories::new();
        repositories.make(
            "r.git",
            &[("d/f", "f"), ("good/Dockerfile", DOCKERFILE), ("file", "x")],
        );
        let secret = format!("{}/.ssh/id", guard.host());
        for (link, target) in [
            ("Dockerfile", secret.as_str()),
            ("up", "../.."),
            ("away", &guard.host()),
            ("good/out", &guard.host()),
            ("d/in", "../good"),
        ] {
            symlink(target, repositories.path("r.git").join(link)).unwrap();
        }
        let commit = repositories.commit("r.git", &[("more", "x")]);
        let module = format!("160000,{commit},module");
        repositories.git("r.git", &["update-index", "--add", "--cacheinfo", &module]);
        repositories.git("r.git", &["commit", "-q", "-m", "module"]);
        let server = WebServer::start(&repositories.path(""), |_| None);
        let url = server.url("r.git");
        for (rest, message) in [
            ("?submodules=false", "no file \"Dockerfile\""),
            ("#main:up", "is a symbolic link"),
            ("#main:away", "is a symbolic link"),
            ("#main:away/.ssh", "is a symbolic link"),
            ("#main:d/in", "is a symbolic link"),
            ("#main:module", "is a submodule"),
            ("#main:file", "is a file"),
            ("#main:..", "leads out"),
            ("#main:../../etc", "leads out"),
            ("#main:d/../..", "leads out"),
            ("#main:%2e%2e/%2e%2e", "leads out"),
            ("?branch=main&subdir=../x", "leads out"),
            ("?branch=main&subdir=%2e%2e%2f", "leads out"),
        ] {
            for context in [true, false] {
                let url = format!("{url}{rest}");
                let failed = if context {
                    build(guard, &url, &[])
                } else {
                    let dockerfile = format!("FROM scratch\nADD {url} /x/\n");
                    guard.build("added", &dockerfile, &[])
                };
                if !context && rest.starts_with("?submodules") {
                    // To ADD it is a link as others.
                    failed.ok();
                    continue;
                }
                let failed = failed.fails(1);
                assert!(failed.stderr.contains(message), "{rest}: {}", failed.stderr);
                assert!(!failed.stderr.contains(SECRET), "{rest}");
            }
        }
        build(guard, &format!("{url}#main:good"), &[]).ok();
        assert!(guard.env.path("out/out").is_symlink());
    });
}

#[test]
fn a3_5_nothing_of_an_address_is_an_option_or_a_command() {
    in_tiers(&["userns"], |guard| {
        let host = guard.host();
        let touch = format!("touch {host}/evil");
        let contexts = [
            "https://h/r.git#--upload-pack=X".replace('X', &touch),
            "https://h/r.git?ref=--upload-pack=x".to_owned(),
            "https://h/r.git#-:d".to_owned(),
            "https://-oProxyCommand=x/r.git".to_owned(),
            "https://h\n/r.git".to_owned(),
            "https://h/r.git#a\nb".to_owned(),
            "https://h%0d%0aX:%20y/r.git".to_owned(),
            format!("ssh://-oProxyCommand={touch}/r"),
            "ssh://-F../x@h/r".to_owned(),
            "ssh://u@-h/r".to_owned(),
            "ssh://h/-r".replace("/-r", "-oX"),
            "git@-oProxyCommand=x:r".to_owned(),
            "-oProxyCommand@h:r".to_owned(),
            "git@h:--upload-pack=x".to_owned(),
            format!("ext::sh -c '{touch}'"),
            "fd::17".to_owned(),
            "file:///etc".to_owned(),
            format!("file://{host}"),
            "gopher://h/r.git".to_owned(),
            "ftp://h/r.git".to_owned(),
        ];
        guard
            .env
            .write("ctx/Dockerfile", "FROM scratch\nCOPY --from=x / /\n");
        let directory = guard.env.path("ctx");
        let directory = directory.to_str().unwrap();
        for context in &contexts {
            // One of them is a host name that does not exist, which only a run of git could tell.
            if context == "ssh://h-oX" {
                continue;
            }
            let run = without_git(guard, &["build", "--", context]);
            assert!(matches!(run.code, Some(1)), "{context:?}: {run:?}");
            let named = format!("--build-context=x={context}");
            let run = without_git(guard, &["build", &named, directory]);
            assert!(matches!(run.code, Some(1)), "{context:?}: {run:?}");
            if context.contains('\n') || context.contains(' ') || !context.contains("://") {
                continue;
            }
            guard
                .env
                .write("added/Dockerfile", format!("FROM scratch\nADD {context} /x/\n"));
            let run = without_git(guard, &["build", guard.env.path("added").to_str().unwrap()]);
            assert!(matches!(run.code, Some(1)), "{context:?}: {run:?}");
        }
        // What a repository says of its submodules is judged alike.
        let repositories = Repositories::new();
        let commit = repositories.make("r.git", &[("Dockerfile", DOCKERFILE)]);
        let module = format!("160000,{commit},d");
        repositories.git("r.git", &["update-index", "--add", "--cacheinfo", &module]);
        let server = WebServer::start(&repositories.path(""), |_| None);
        for url in [
            format!("ext::sh -c '{touch}'"),
            format!("file://{host}"),
            host.clone(),
            "--upload-pack=x".to_owned(),
            "-u./x".to_owned(),
            "ssh://-oProxyCommand=x/r".to_owned(),
            "../../../../x".to_owned(),
            "https://h/r\r.git".to_owned(),
        ] {
            let modules = format!(
                "[submodule \"d\"]\n\tpath = d\n\turl = \"{}\"\n",
                url.replace('\r', "\\r")
            );
            fs::write(repositories.path("r.git/.gitmodules"), modules).unwrap();
            repositories.git("r.git", &["add", ".gitmodules"]);
            repositories.git("r.git", &["commit", "-q", "-m", "x", "--allow-empty"]);
            let failed = build(guard, &server.url("r.git"), &[]).fails(1);
            assert!(
                failed.stderr.contains("submodule \"d\"") || failed.stderr.contains(".gitmodules"),
                "{url}: {}",
                failed.stderr
            );
        }
    });
}

#[test]
fn a3_6_repositories_that_would_write_or_run() {
    in_tiers(&["userns"], |guard| {
        let repositories = Repositories::new();
        let marker = guard.env.path("host/evil");
        let touch = format!("touch {}", marker.display());
        repositories.make("r.git", &[("Dockerfile", DOCKERFILE), ("f", "f")]);
        // The machine's own configuration has no say, nor has the environment.
        let config = format!(
            "[core]\n\tfsmonitor = {touch}\n\tsshCommand = {touch}\n\thooksPath = {hooks}\n\tpager = {touch}\n\
             [filter \"evil\"]\n\tsmudge = {touch}\n\tprocess = {touch}\n[diff \"evil\"]\n\ttextconv = {touch}\n\
             [credential]\n\thelper = !{touch}\n[url \"http://127.0.0.1:1/\"]\n\tinsteadOf = http://\n",
            hooks = guard.env.path("hooks").display()
        );
        guard.env.write(".gitconfig", &config);
        guard
            .env
            .write(".config/git/attributes", "* filter=evil diff=evil\n");
        for hook in ["post-checkout", "reference-transaction", "post-index-change"] {
            let hook = guard
                .env
                .write(&format!("hooks/{hook}"), format!("#!/bin/sh\n{touch}\n"));
            fs::set_permissions(hook, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let modules = format!(
            "[submodule \"x\"]\n\tpath = d\n\turl = ./x\n\tupdate = !{touch}\n[core]\n\tfsmonitor = {touch}\n\tsshCommand = {touch}\n\
             [filter \"evil\"]\n\tsmudge = {touch}\n"
        );
        repositories.commit(
            "r.git",
            &[
                (".gitmodules", &modules),
                (
                    ".gitattributes",
                    "* filter=evil diff=evil merge=evil ident export-subst\nf export-ignore\n",
                ),
                ("x.git/hooks/post-checkout", "#!/bin/sh\n"),
            ],
        );
        let server = WebServer::start(&repositories.path(""), |_| None);
        let url = server.url("r.git");
        let output = format!("type=local,dest={}", guard.env.path("out").display());
        let mut command = guard.env.rbuild_command(["build", "-o", &output, &url]);
        for name in [
            "GIT_SSH_COMMAND",
            "GIT_EXTERNAL_DIFF",
            "GIT_PROXY_COMMAND",
            "GIT_ASKPASS",
            "SSH_ASKPASS",
            "GIT_PAGER",
            "GIT_EDITOR",
        ] {
            command.env(name, &touch);
        }
        command
            .env("GIT_DIR", guard.host())
            .env("GIT_TEMPLATE_DIR", guard.env.path("hooks"))
            .env("GIT_TRACE", guard.env.path("host/trace"))
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "core.fsmonitor")
            .env("GIT_CONFIG_VALUE_0", &touch)
            .env("GIT_CONFIG_PARAMETERS", "'core.fsmonitor=x'")
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", guard.host());
        Run::from(command.output().unwrap()).ok();
        assert_eq!(text(guard, "f"), "f");
        assert!(!marker.exists());

        // Trees that no git writes: names that other systems take for .git, links beside directories of their name.
        let blob = repositories.git("r.git", &["hash-object", "-w", "f"]);
        let target = repositories.path("target");
        fs::write(&target, guard.host()).unwrap();
        let link = repositories.git("r.git", &["hash-object", "-w", target.to_str().unwrap()]);
        let commit = repositories.git("r.git", &["rev-parse", "HEAD"]);
        let tree = |lines: &str| -> String {
            let file = repositories.path("tree");
            fs::write(
                &file,
                lines
                    .replace("BLOB", &blob)
                    .replace("LINK", &link)
                    .replace("COMMIT", &commit),
            )
            .unwrap();
            let output = Command::new("git")
                .args([
                    "-C",
                    repositories.path("r.git").to_str().unwrap(),
                    "mktree",
                    "-z",
                    "--missing",
                ])
                .stdin(fs::File::open(file).unwrap())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let inner = tree("100755 blob BLOB\tpost-checkout\0");
        let hooks = tree(&format!("040000 tree {inner}\thooks\0"));
        let named = |name: &str| format!("040000 tree {hooks}\t{name}\0");
        let modules = |path: &str| {
            let text = format!("[submodule \"x\"]\n\tpath = \"{path}\"\n\turl = {url}\n");
            let file = repositories.path("modules");
            fs::write(&file, text).unwrap();
            repositories.git("r.git", &["hash-object", "-w", file.to_str().unwrap()])
        };
        let with_modules =
            |path: &str, rest: &str| format!("100644 blob {}\t.gitmodules\0{rest}", modules(path));
        let cases = [
            ("dot-git", named(".git")),
            ("upper case", named(".GIT")),
            ("short name", named("git~1")),
            ("ignorable character", named(".g\u{200c}it")),
            ("stream", named(".git::$INDEX_ALLOCATION")),
            ("blank", named(".git ")),
            ("parent", named("..")),
            ("whiteout", "100644 blob BLOB\t.wh.x\0".to_owned()),
            ("opaque", "100644 blob BLOB\t.wh..wh..opq\0".to_owned()),
            (
                "link and directory",
                format!("120000 blob LINK\ta\0040000 tree {inner}\ta\0"),
            ),
            // CVE-2024-32002: a submodule below a link that leads into .git.
            (
                "submodule through a link",
                with_modules(
                    "a/x",
                    &format!(
                        "120000 blob LINK\tA\0040000 tree {}\ta\0",
                        tree("160000 commit COMMIT\tx\0")
                    ),
                ),
            ),
            // CVE-2025-48384: a carriage return at the end of a path.
            (
                "carriage return",
                with_modules("d\\r", "160000 commit COMMIT\td\0"),
            ),
            (
                "submodule without a place",
                with_modules("e", "160000 commit COMMIT\td\0"),
            ),
            (
                "submodule as .git",
                with_modules(".git", "160000 commit COMMIT\t.git\0"),
            ),
        ];
        for (number, (what, lines)) in cases.iter().enumerate() {
            let made = repositories.git("r.git", &["commit-tree", "-m", "x", &tree(lines)]);
            repositories.git(
                "r.git",
                &["update-ref", &format!("refs/heads/bad{number}"), &made],
            );
            let run = guard.build("bad", &format!("FROM scratch\nADD {url}#bad{number} /x/\n"), &[]);
            // A name that only differs by case is another one here, and its submodule lies in a directory of its own.
            if *what == "submodule through a link" {
                assert!(matches!(run.code, Some(0 | 1)), "{what}: {}", run.stderr);
            } else {
                run.fails(1);
            }
            assert!(!marker.exists(), "{what}");
            guard.check();
        }
        fs::remove_dir_all(guard.env.path("hooks")).unwrap();
    });
}

#[test]
fn a3_8_modes_kinds_of_ids_and_collisions() {
    in_tiers(&["userns"], |guard| {
        let repositories = Repositories::new();
        repositories.make(
            "r.git",
            &[("Dockerfile", DOCKERFILE), ("run", "#!"), ("d/f", "f")],
        );
        repositories.git("r.git", &["update-index", "--chmod=+x", "run"]);
        repositories.git("r.git", &["commit", "-q", "-m", "x"]);
        fs::create_dir(repositories.path("s.git")).unwrap();
        repositories.git("s.git", &["init", "-q", "-b", "main", "--object-format=sha256"]);
        let long = repositories.commit(
            "s.git",
            &[("Dockerfile", DOCKERFILE), ("run", "#!"), ("d/f", "f")],
        );
        assert_eq!(long.len(), 64);
        repositories.git("s.git", &["update-index", "--chmod=+x", "run"]);
        repositories.git("s.git", &["commit", "-q", "-m", "x"]);
        let server = WebServer::start(&repositories.path(""), |_| None);
        for name in ["r.git", "s.git"] {
            let layout = guard.env.path("layout");
            let output = format!(
                "type=oci,tar=false,compression=uncompressed,dest={}",
                layout.display()
            );
            let mut command = guard.env.command("sh");
            let script = "umask 0; exec \"$@\"";
            command
                .args(["-c", script, "sh"])
                .arg(crate::env::rbuild_binary())
                .arg("--root")
                .arg(guard.env.store());
            command.args(["build", "-o", &output, &server.url(name)]);
            Run::from(command.output().unwrap()).ok();
            let members = crate::built::last_layer(&layout);
            let modes: Vec<&str> = members
                .iter()
                .map(|line| line.split(" 0:0").next().unwrap())
                .collect();
            assert_eq!(
                modes,
                ["Dockerfile f644", "d d755", "d/f f644", "run f755"],
                "{name}"
            );
            fs::remove_dir_all(layout).unwrap();
        }
    });
    // Two files of one SHA-1 are too much data to have here; that the git at hand would find them out is in its binary.
    let directory = Command::new("git").arg("--exec-path").output().unwrap().stdout;
    let git = std::path::Path::new(String::from_utf8(directory).unwrap().trim()).join("git");
    let bytes = fs::read(git).unwrap();
    let says = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(
        says(b"collision attack"),
        "this git does not detect collisions of SHA-1"
    );
}

#[test]
fn a3_7_redirects_of_repositories_take_no_credentials_along() {
    in_tiers(&["userns"], |guard| {
        let repositories = Repositories::new();
        repositories.make("r.git", &[("Dockerfile", DOCKERFILE), ("f", "f")]);
        let root = repositories.path("");
        let other = WebServer::start(&root, |_| None);
        let target = other.url("");
        let first = WebServer::start(&root, move |asked| {
            let rest = asked.path.strip_prefix("/moved.git")?;
            Some((302, format!("Location: {target}r.git{rest}\r\n")))
        });
        let url = first
            .url("moved.git")
            .replace("http://", "http://me:hunter2-token@");
        let run = build(guard, &url, &[]).ok();
        assert!(!run.stderr.contains("hunter2"), "{}", run.stderr);
        assert!(first.take().iter().any(|asked| asked.authorization.is_some()));
        let asked = other.take();
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked.authorization.is_none()),
            "{asked:?}"
        );
    });
}

/// Neither arguments of programs, which everybody can read, nor messages, nor files hold what is secret in an address.
#[test]
fn credentials_of_addresses_are_in_no_argument_and_no_message() {
    in_tiers(&["userns"], |guard| {
        let repositories = Repositories::new();
        repositories.make("r.git", &[("Dockerfile", DOCKERFILE), ("f", "f")]);
        let root = repositories.path("");
        let server = WebServer::start(&root, |asked| {
            asked
                .authorization
                .is_none()
                .then(|| (401, "WWW-Authenticate: Basic realm=x\r\n".to_owned()))
        });
        let secret = |path: &str| server.url(path).replace("http://", "http://me:hunter2-token@");
        let dockerfile = format!(
            "FROM scratch\nADD {} /a/\nCOPY --from=named f /b\n",
            secret("r.git")
        );
        let directory = guard.env.context("ctx", &[("Dockerfile", &dockerfile)]);
        let named = format!("--build-context=named={}", secret("r.git"));
        // The caller has it in his own arguments; no program that is started has.
        let args = [
            "build",
            "--progress=plain",
            "-t",
            "x",
            "--build-context",
            &named[16..],
            &directory,
        ];
        if let Some(trace) = guard.env.trace("execve", &args) {
            let started: Vec<&str> = trace.lines().filter(|line| line.contains("hunter2")).collect();
            assert!(
                started.iter().all(|line| line.contains("rbuild\"")),
                "{started:?}"
            );
            assert!(trace.contains("\"git\", \"fetch\""), "{trace}");
        }
        for (context, more, code) in [
            (secret("r.git"), vec![], 0),
            (directory.clone(), vec![named.as_str()], 0),
            (secret("none.git"), vec![], 1),
            (secret("r.git#none"), vec![], 1),
            (secret("r.git#main:none"), vec![], 1),
            (secret("r.git?x=y"), vec![], 1),
            (secret("file"), vec![], 1),
            (secret("file").replace("http", "gopher"), vec![], 1),
            (secret("r.git").replace("http:", "ssh:"), vec![], 1),
        ] {
            for progress in ["--progress=plain", "--progress=tty", "-q"] {
                let more: Vec<&str> = more.iter().copied().chain([progress]).collect();
                let run = build(guard, &context, &more);
                assert_eq!(run.code, Some(code), "{context}: {}", run.stderr);
                assert!(
                    !run.stderr.contains("hunter2") && !run.stdout.contains("hunter2"),
                    "{context}: {run:?}"
                );
            }
        }
        let inspected = guard.rbuild(&["inspect", "x"]);
        assert!(!inspected.stdout.contains("hunter2"), "{}", inspected.stdout);
        let found = guard
            .env
            .command("grep")
            .args(["-rlE", "hunter2|bWU6aHVudGVyMi10b2tlbg"])
            .arg(guard.env.store())
            .output();
        assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
        let _ = fs::remove_file(guard.env.path("trace"));
    });
}

#[test]
fn a_git_server_that_stalls_is_given_up_and_a_signal_ends_the_fetch() {
    in_tiers(&["userns"], |guard| {
        let repositories = Repositories::new();
        repositories.make("r.git", &[("Dockerfile", DOCKERFILE), ("f", "f")]);
        let (sender, reached) = std::sync::mpsc::channel();
        let sender = Mutex::new(sender);
        let server = WebServer::start(&repositories.path(""), move |asked| {
            if asked.path.ends_with("/git-upload-pack") {
                sender.lock().unwrap().send(()).unwrap();
                std::thread::sleep(Duration::from_secs(8));
            }
            None
        });
        let url = server.url("r.git");
        let began = Instant::now();
        let stalled = build(guard, &url, &["--stall-timeout=1s"]).fails(1);
        assert!(
            stalled.stderr.contains("sent nothing for 1 seconds"),
            "{}",
            stalled.stderr
        );
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        guard.check();
        while reached.try_recv().is_ok() {}
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
            let mut command = guard.env.rbuild_command(["build", "-q", "-t", "x", &url]);
            let child = command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            reached.recv_timeout(Duration::from_secs(60)).unwrap();
            let id = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            rustix::process::kill_process(id, signal).unwrap();
            let began = Instant::now();
            let run: Run = child.wait_with_output().unwrap().into();
            assert_eq!(run.code, Some(128 + signal.as_raw()), "{}", run.stderr);
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            guard.check();
        }
    });
}
