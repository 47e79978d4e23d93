//! Git repositories as contexts and sources (spec 7.2, D6, D7). Those that mean no good are in `inputs`.

pub mod served;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use served::{Repositories, SshServer, WebServer};

use crate::env::{Env, Run, as_every_user};

const DOCKERFILE: &str = "FROM scratch\nCOPY . /\n";

/// Builds a context into a folder.
fn build(env: &Env, context: &str, more: &[&str]) -> Run {
    let out = env.path("out");
    if out.exists() {
        fs::remove_dir_all(&out).unwrap();
    }
    let output = format!("type=local,dest={}", out.display());
    let args = ["build", "--progress=plain", "-o", &output];
    env.rbuild(args.into_iter().chain(more.iter().copied()).chain([context]))
}

fn text(env: &Env, file: &str) -> String {
    fs::read_to_string(env.path("out").join(file)).unwrap()
}

#[test]
fn contexts_of_every_form_are_fetched_once() {
    as_every_user(|env| {
        let repositories = Repositories::new();
        let files = [
            ("Dockerfile", DOCKERFILE),
            ("f", "one"),
            ("sub/Dockerfile", DOCKERFILE),
            ("sub/f", "sub"),
            ("other.docker", "FROM scratch\nCOPY sub/f /other\n"),
        ];
        let first = repositories.make("r.git", &files);
        repositories.git("r.git", &["tag", "-a", "-m", "t", "v1"]);
        repositories.git("r.git", &["update-ref", "refs/pull/1/head", &first]);
        repositories.commit("r.git", &[("f", "two")]);
        let server = WebServer::start(repositories.path("").as_path(), |_| None);
        let url = server.url("r.git");
        for (rest, file) in [
            (String::new(), "two"),
            ("#main:sub".to_owned(), "sub"),
            ("?branch=main&subdir=sub".to_owned(), "sub"),
            ("#v1".to_owned(), "one"),
            ("?tag=v1".to_owned(), "one"),
            ("#refs/pull/1/head".to_owned(), "one"),
            (format!("#{first}"), "one"),
            (format!("?ref=v1&checksum={}", &first[..8]), "one"),
        ] {
            let context = format!("{url}{rest}");
            build(env, &context, &[]).ok();
            assert_eq!(text(env, "f"), file, "{context}");
            assert!(!env.path("out/.git").exists());
            server.take();
            let again = build(env, &context, &[]).ok();
            let asked = server.take();
            let fetched = asked
                .iter()
                .any(|asked| asked.path.contains(&first) || asked.sent > 2000);
            let most = if rest.contains(&first) { 0 } else { 2 };
            assert!(!fetched && asked.len() <= most, "{context}: {asked:?}");
            assert_eq!(again.count("CACHED"), 1, "{context}: {}", again.stderr);
        }
        build(env, &url, &["-f", "other.docker"]).ok();
        assert_eq!(text(env, "other"), "sub");
        build(env, &url, &["--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]).ok();
        assert!(text(env, ".git/HEAD").len() > 40);
        let wrong = build(env, &format!("{url}?ref=main&checksum={first}"), &[]).fails(1);
        assert!(
            wrong
                .stderr
                .contains(&format!("expected checksum to match {first}, got ")),
            "{}",
            wrong.stderr
        );
    });
}

#[test]
fn named_contexts_and_add() {
    as_every_user(|env| {
        let repositories = Repositories::new();
        repositories.make("r.git", &[("f", "f"), ("sub/run", "#!"), ("sub/deep/g", "g")]);
        let server = WebServer::start(repositories.path("").as_path(), |_| None);
        let url = server.url("r.git");
        let dockerfile = format!(
            "FROM named AS files\nFROM scratch\nCOPY --from=named sub /copied\nCOPY --from=files f /from\n\
             ADD --chown=5:6 {url}#main:sub /added/\nADD --keep-git-dir=true {url} /whole\n\
             ADD --keep-git-dir=true {url}#main:sub /part\n"
        );
        let context = env.context("ctx", &[("Dockerfile", &dockerfile)]);
        let named = format!("named={url}");
        build(env, &context, &["--build-context", &named]).ok();
        for (file, content) in [
            ("copied/run", "#!"),
            ("from", "f"),
            ("added/deep/g", "g"),
            ("whole/f", "f"),
        ] {
            assert_eq!(text(env, file), content, "{file}");
        }
        assert!(env.path("out/whole/.git/config").exists() && !env.path("out/added/.git").exists());
        // As in BuildKit, a sub-directory is no repository.
        assert!(env.path("out/part/run").exists() && !env.path("out/part/.git").exists());
        for (body, message) in [
            (format!("ADD {url}#--upload-pack=touch /x"), "Dockerfile:2"),
            (format!("ADD {url}?depth=1 /x"), "unexpected query \"depth\""),
            (
                format!("ADD --checksum=00000000 {url} /x"),
                "expected checksum to match 00000000, got ",
            ),
            (format!("ADD {url}#main:nope /x"), "does not exist"),
            (format!("COPY {url} /x"), "source can't be a git ref for COPY"),
        ] {
            let context = env.context("ctx", &[("Dockerfile", &format!("FROM scratch\n{body}\n"))]);
            let failed = build(env, &context, &[]).fails(1);
            assert!(failed.stderr.contains(message), "{body}: {}", failed.stderr);
        }
    });
}

/// A token reaches its server, and neither the one that this redirects to nor any file.
#[test]
fn tokens_stay_with_their_server() {
    as_every_user(|env| {
        let repositories = Repositories::new();
        repositories.make("r.git", &[("Dockerfile", DOCKERFILE), ("f", "f")]);
        let root = repositories.path("");
        let open = WebServer::start(&root, |_| None);
        let target = open.url("");
        let closed = WebServer::start(&root, move |asked| {
            if asked.path.starts_with("/moved.git") {
                let rest = asked.path.trim_start_matches("/moved.git");
                return Some((301, format!("Location: {target}r.git{rest}\r\n")));
            }
            if asked.path.starts_with("/metadata.git") {
                return Some((302, "Location: http://169.254.169.254/x/info/refs\r\n".to_owned()));
            }
            match asked.authorization {
                Some(_) => None,
                None => Some((401, "WWW-Authenticate: Basic realm=x\r\n".to_owned())),
            }
        });
        let url = closed.url("r.git");
        let refused = build(env, &url, &[]).fails(1);
        assert!(
            refused.stderr.contains("--secret id=GIT_AUTH_TOKEN."),
            "{}",
            refused.stderr
        );
        let own = format!("id=GIT_AUTH_TOKEN.{}", closed.authority());
        for id in ["id=GIT_AUTH_TOKEN", &own] {
            let token = env.write("token", "hunter2-token\n");
            let secret = format!("{id},src={}", token.display());
            let built = build(env, &url, &["--secret", &secret]).ok();
            assert_eq!(text(env, "f"), "f");
            assert!(!built.stderr.contains("hunter2"));
        }
        // x-access-token:hunter2-token
        let expected = "basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMi10b2tlbg==";
        assert!(
            closed
                .take()
                .iter()
                .any(|asked| asked.authorization.as_deref() == Some(expected))
        );

        let with_user = url.replace("http://", "http://u:hunter2-token@");
        build(env, &with_user, &[]).ok();
        let secret = format!("id=GIT_AUTH_TOKEN,src={}", env.path("token").display());
        open.take();
        build(
            env,
            &closed.url("moved.git"),
            &["--secret", &secret, "--no-cache"],
        )
        .ok();
        assert!(closed.take().iter().any(|asked| asked.authorization.is_some()));
        let asked = open.take();
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked.authorization.is_none()),
            "{asked:?}"
        );
        let metadata = build(env, &closed.url("metadata.git"), &[]).fails(1);
        assert!(metadata.stderr.contains("redirects to"), "{}", metadata.stderr);
        let found = env
            .command("grep")
            .args(["-rlE", "hunter2|eC1hY2Nlc3M"])
            .arg(env.store())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    });
}

/// The real `ssh`.
fn ssh_program() -> String {
    let found = std::process::Command::new("sh")
        .args(["-c", "command -v ssh"])
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

#[test]
fn repositories_behind_ssh() {
    as_every_user(|env| {
        let Some(server) = SshServer::start(env) else {
            return;
        };
        let repositories = Repositories::new();
        repositories.make(
            "r",
            &[
                ("Dockerfile", DOCKERFILE),
                ("f", "f"),
                ("sub/Dockerfile", DOCKERFILE),
                ("sub/f", "f"),
            ],
        );
        let url = format!(
            "ssh://{}@127.0.0.1:{}{}",
            server.user,
            server.port,
            repositories.path("r").display()
        );
        let build = |url: &str, agent: bool, more: &[&str]| -> Run {
            let output = format!("type=local,dest={}", env.path("out").display());
            let args = ["build", "--progress=plain", "-o", &output, url];
            let mut command = env.rbuild_command(args.into_iter().chain(more.iter().copied()));
            if agent {
                command.env("SSH_AUTH_SOCK", &server.agent_socket);
            }
            if !url.starts_with("ssh://") {
                let path = std::env::var("PATH").unwrap();
                command.env("PATH", format!("{}:{path}", env.path("programs").display()));
            }
            command.output().unwrap().into()
        };
        // A3-8: a host that is not known is not spoken to.
        let unknown = build(&url, true, &[]).fails(1);
        assert!(unknown.stderr.contains("known_hosts"), "{}", unknown.stderr);
        env.write(".ssh/known_hosts", &server.host_key);
        let commit = repositories.git("r", &["rev-parse", "HEAD"]);
        // As it is typed for a server at the usual port.
        let ssh = format!("#!/bin/sh\nexec {} -p {} \"$@\"\n", ssh_program(), server.port);
        let ssh = env.write("programs/ssh", ssh);
        fs::set_permissions(ssh, fs::Permissions::from_mode(0o755)).unwrap();
        let short = format!("{}@127.0.0.1:{}", server.user, repositories.path("r").display());
        for (url, asked) in [
            (format!("{url}#main"), 1),
            (format!("{url}#{commit}"), 0),
            (format!("{url}?branch=main&subdir=sub"), 1),
            (format!("{short}#main:sub"), 1),
        ] {
            build(&url, true, &[]).ok();
            assert_eq!(text(env, "f"), "f");
            let before = server.commands();
            let again = build(&url, true, &[]).ok();
            assert_eq!(again.count("CACHED"), 1, "{url}: {}", again.stderr);
            // Which commit it is, and no more.
            assert_eq!(server.commands() - before, asked, "{url}");
        }
        // Without keys nobody is let in; --ssh gives them, by the file or by the agent.
        let nobody = build(&url, false, &[]).fails(1);
        assert!(nobody.stderr.contains("--ssh default=KEY"), "{}", nobody.stderr);
        let key = format!("default={}", env.path("login_key").display());
        let socket = format!("default={}", server.agent_socket.display());
        for value in [&key, &socket] {
            repositories.commit("r", &[("f", value)]);
            build(&url, false, &["--ssh", value]).ok();
            assert_eq!(&text(env, "f"), value);
        }
        crate::errors::nothing_left(env);
    });
}
