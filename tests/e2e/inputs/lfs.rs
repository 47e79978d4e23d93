//! A3-7: large files of repositories (LFS), and servers that would send those who ask for them elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use rbuild_cache::Digest;

use super::git::{DOCKERFILE, build, text};
use crate::env::Run;
use crate::escape::guard::in_tiers;
use crate::git::served::{Repositories, SshServer, WebServer};
use crate::server::{Answer, Server};

/// The pointer that stands for a large file.
fn pointer(content: &str) -> String {
    let digest = Digest::of(content.as_bytes());
    let size = content.len();
    format!("version https://git-lfs.github.com/spec/v1\noid {digest}\nsize {size}\n")
}

/// What a server of large files answers: where each of them is.
fn batch(content: &str, action: &str) -> Option<(u16, String)> {
    let digest = Digest::of(content.as_bytes());
    let (oid, size) = (digest.hex(), content.len());
    let object = format!("{{\"oid\": \"{oid}\", \"size\": {size}, {action}}}");
    let body = format!("{{\"transfer\": \"basic\", \"objects\": [{object}]}}");
    Some((
        200,
        format!("Content-Type: application/vnd.git-lfs+json\r\n\r\n{body}"),
    ))
}

#[test]
fn a3_7_large_files_come_from_their_server_and_what_is_secret_stays_there() {
    in_tiers(&["userns"], |guard| {
        let repositories = Repositories::new();
        let evil = Server::start(|_| Answer::new(500));
        let lfsconfig = format!("[lfs]\n\turl = {}\n", evil.url("/lfs"));
        let attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n";
        let files = [
            ("Dockerfile", DOCKERFILE),
            (".gitattributes", attributes),
            (".lfsconfig", &lfsconfig),
            ("sub/big.bin", &pointer("a large file")),
            ("plain.txt", &pointer("nobody's")),
        ];
        repositories.make("r.git", &files);
        let store = Server::start(|_| Answer::of("a large file"));
        let away = store.url("/object");
        // What the server says of the file: one after another by the tests below.
        let action = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&action);
        let root = repositories.path("");
        let server = WebServer::start(&root, move |asked| {
            if asked.authorization.is_none() {
                return Some((401, "WWW-Authenticate: Basic realm=x\r\n".to_owned()));
            }
            match asked.path.as_str() {
                "/r.git/info/lfs/objects/batch" => batch("a large file", &said.lock().unwrap()),
                "/own" => Some((200, "X: y\r\n\r\na large file".to_owned())),
                "/other" => Some((200, "X: y\r\n\r\na larg. file".to_owned())),
                "/long" => Some((200, format!("X: y\r\n\r\n{}", "a large file".repeat(99)))),
                _ => None,
            }
        });
        let url = server.url("r.git").replace("http://", "http://u:hunter2-token@");
        let download = |href: &str, header: &str| {
            *action.lock().unwrap() =
                format!("\"actions\": {{\"download\": {{\"href\": \"{href}\", \"header\": {{{header}}}}}}}");
        };

        for (href, message) in [
            ("http://169.254.169.254/x", "link-local"),
            ("file:///etc/passwd", "scheme \"file\""),
            ("gopher://x/", "scheme \"gopher\""),
            ("", "GIT_LFS_SKIP_SMUDGE"),
            (&server.url("other"), "another file"),
            (&server.url("long"), "more than the 12 bytes allowed"),
            (&server.url("none/such"), "invalid response status 404"),
        ] {
            download(href, "");
            let refused = build(guard, &url, &[]).fails(1);
            assert!(refused.stderr.contains(message), "{href}: {}", refused.stderr);
            assert!(
                refused.stderr.contains("GIT_LFS_SKIP_SMUDGE=1"),
                "{href}: {}",
                refused.stderr
            );
            assert!(!refused.stderr.contains("hunter2"), "{href}: {}", refused.stderr);
            guard.check();
        }
        *action.lock().unwrap() =
            "\"error\": {\"code\": 410, \"message\": \"over quota\\u001b[31m\"}".to_owned();
        let refused = build(guard, &url, &[]).fails(1);
        assert!(
            refused.stderr.contains("over quota[31m (410)"),
            "{}",
            refused.stderr
        );

        server.take();
        download(&away, "\"X-Ticket\": \"for the store\", \"Host\": \"evil\"");
        build(guard, &url, &[]).ok();
        assert_eq!(text(guard, "sub/big.bin"), "a large file");
        assert_eq!(text(guard, "plain.txt"), pointer("nobody's"));
        let asked = store.take();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].header("authorization"), None);
        assert_eq!(asked[0].header("x-ticket"), Some("for the store"));
        assert_eq!(
            asked[0].header("host"),
            Some(store.address().to_string().as_str())
        );
        assert_eq!(evil.take().len(), 0, "nobody listens to .lfsconfig");

        // What is here is not asked for again, by no commit and no directory.
        repositories.commit("r.git", &[("f", "more"), ("sub/Dockerfile", DOCKERFILE)]);
        server.take();
        build(guard, &url, &[]).ok();
        build(guard, &format!("{url}#main:sub"), &[]).ok();
        assert_eq!(text(guard, "big.bin"), "a large file");
        assert!(server.take().iter().all(|asked| !asked.path.contains("lfs")));
        assert_eq!(store.take().len(), 0);

        // A file at the server itself: it knows us there.
        guard.env.rbuild(["prune", "--all", "--force"]).ok();
        download(&server.url("own"), "");
        build(guard, &url, &[]).ok();
        assert_eq!(text(guard, "sub/big.bin"), "a large file");

        guard.env.rbuild(["prune", "--all", "--force"]).ok();
        server.take();
        let mut command = guard.env.rbuild_command(["build", "-q", "-o", "out", &url]);
        command
            .current_dir(guard.env.path(""))
            .env("GIT_LFS_SKIP_SMUDGE", "1");
        Run::from(command.output().unwrap()).ok();
        assert_eq!(text(guard, "sub/big.bin"), pointer("a large file"));
        assert!(server.take().iter().all(|asked| !asked.path.contains("lfs")));
    });
}

/// What is encrypted up to a server stays so: it names no place that is spoken to without TLS.
#[test]
fn a3_7_large_files_come_not_without_encryption_from_behind_ssh() {
    in_tiers(&["userns"], |guard| {
        let Some(ssh) = SshServer::start(&guard.env) else {
            return;
        };
        guard.env.write(".ssh/known_hosts", &ssh.host_key);
        let repositories = Repositories::new();
        let attributes = "*.bin filter=lfs\n";
        repositories.make(
            "it's",
            &[
                ("Dockerfile", DOCKERFILE),
                (".gitattributes", attributes),
                ("big.bin", &pointer("large")),
            ],
        );
        let web = Server::start(|_| Answer::of("{}"));
        let arguments = guard.env.path("arguments");
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > {}\n\
             echo '{{\"href\": \"{}\", \"header\": {{\"Authorization\": \"RemoteAuth hunter2\"}}}}'\n",
            arguments.display(),
            web.url("/lfs")
        );
        let script = guard.env.write("served/git-lfs-authenticate", script);
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
        let path = repositories.path("it's");
        let url = format!("ssh://{}@127.0.0.1:{}{}", ssh.user, ssh.port, path.display());
        let key = format!("default={}", guard.env.path("login_key").display());
        let refused = build(guard, &url, &["--ssh", &key]).fails(1);
        assert!(
            refused.stderr.contains("redirects from https to http://"),
            "{}",
            refused.stderr
        );
        assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
        assert_eq!(
            fs::read_to_string(arguments).unwrap(),
            format!("{}\ndownload\n", path.display())
        );
        assert_eq!(web.take().len(), 0);
    });
}
