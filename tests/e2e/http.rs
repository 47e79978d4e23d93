//! ADD of URLs (spec D4, D5, D7), from servers that behave and from servers that do not.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::Digest;

use crate::built::{build, each, last_layer};
use crate::env::Env;
use crate::server::{Answer, Server, file};

const OLD: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

/// What the last layer of `FROM scratch` and `body` is.
fn layer(env: &Env, body: &str) -> Vec<String> {
    let layout = env.path("layout");
    build(env, &format!("FROM scratch\n{body}"), &layout, &[]).ok();
    let found = last_layer(&layout);
    fs::remove_dir_all(layout).unwrap();
    found
}

/// What a build that has to fail says.
fn refused(env: &Env, body: &str, more: &[&str]) -> String {
    let layout = env.path("layout");
    let run = build(env, &format!("FROM scratch\n{body}"), &layout, more).fails(1);
    assert!(!layout.exists(), "{body}: something was made");
    run.stderr
}

#[test]
fn d5_a_file_comes_with_its_name_and_time() {
    each(|env| {
        let server = Server::start(|request| match request.path.as_str() {
            "/none" => Answer::new(404),
            "/moved" => Answer::redirect("/a/file.txt"),
            _ => Answer::of("text").header("Last-Modified", OLD),
        });
        let (url, moved) = (server.url("/a/file.txt?x=/y#z"), server.url("/moved"));
        let body = format!("ADD --chown=3:4 --chmod=644 {url} {moved} /d/");
        let expected = [
            "d d644 3:4",
            "d/file.txt f644 3:4 text @1000000000",
            "d/moved f644 3:4 text @1000000000",
        ];
        assert_eq!(layer(env, &body), expected);
        let body = format!(
            "ARG NAME=file\nADD --link {}/$NAME.txt /renamed",
            server.url("/a")
        );
        assert_eq!(layer(env, &body), ["renamed f600 0:0 text @1000000000"]);
        let body = format!("ADD {} a <<E /m/\ninline\nE", server.url("/x"));
        let found = layer(env, &body);
        assert!(
            found.contains(&"m/x f600 0:0 text @1000000000".to_owned()),
            "{found:?}"
        );
        assert_eq!(found.len(), 4, "{found:?}");

        server.take();
        let said = refused(env, &format!("ADD {} /x", server.url("/none")), &[]);
        assert!(
            said.contains("Dockerfile:2") && said.contains("invalid response status 404"),
            "{said}"
        );
        assert_eq!(server.take().len(), 1, "what is not there is not asked for again");
    });
}

#[test]
fn an_unchanged_file_is_not_sent_again() {
    each(|env| {
        let version = std::sync::Arc::new(AtomicUsize::new(1));
        let current = version.clone();
        let server = Server::start(move |request| {
            let version = current.load(Ordering::Relaxed);
            if request.path == "/dated" {
                if request.header("if-modified-since") == Some(OLD) {
                    return Answer::new(304);
                }
                let answer = Answer::of("dated").header("Last-Modified", OLD);
                return answer.header("Date", "Sun, 09 Sep 2001 01:50:00 GMT");
            }
            file(
                request,
                &format!("\"{version}\""),
                format!("version {version}").as_bytes(),
            )
        });
        let body = format!(
            "FROM base\nADD {} {} /d/\nRUN date +%s%N >/made",
            server.url("/f"),
            server.url("/dated")
        );
        let run = |more: &[&str]| build(env, &body, &env.path("layout"), more).ok();
        run(&[]);
        assert_eq!(server.take().len(), 2);
        assert_eq!(run(&[]).count("CACHED"), 4, "two steps and their two sources");
        let asked = server.take();
        assert_eq!(asked.len(), 2);
        for request in &asked {
            let conditional = ["if-none-match", "if-modified-since"];
            assert!(
                conditional.iter().any(|name| request.header(name).is_some()),
                "{request:?}"
            );
        }
        version.store(2, Ordering::Relaxed);
        let changed = run(&[]);
        assert!(changed.count("CACHED") < 4, "{}", changed.stderr);
    });
}

#[test]
fn a_demanded_digest_needs_no_server() {
    each(|env| {
        let server = Server::start(|_| Answer::of("text").header("Last-Modified", OLD));
        let digest = Digest::of(b"text");
        let body = format!("ADD --checksum={digest} {} /x", server.url("/f"));
        assert_eq!(layer(env, &body), ["x f600 0:0 text @1000000000"]);
        assert_eq!(server.take().len(), 1);
        assert_eq!(layer(env, &body).len(), 1);
        // Another step with the same file, and one that was fetched without a digest before.
        assert_eq!(layer(env, &body.replace("/x", "/y")).len(), 1);
        assert_eq!(server.take().len(), 0);

        let other = Digest::of(b"other");
        let said = refused(
            env,
            &format!("ADD --checksum={other} {} /x", server.url("/f")),
            &[],
        );
        assert!(
            said.contains(&format!("digest mismatch {digest}: {other}")),
            "{said}"
        );
        for (flags, message) in [
            ("--checksum=sha512:00", "unsupported digest algorithm"),
            ("--checksum=sha256:00", "invalid checksum digest format"),
            ("--checksum=abc", "invalid checksum digest format"),
        ] {
            let said = refused(env, &format!("ADD {flags} {} /x", server.url("/f")), &[]);
            assert!(said.contains(message), "{flags}: {said}");
        }
        let two = format!(
            "ADD --checksum={digest} {} {} /x/",
            server.url("/f"),
            server.url("/g")
        );
        assert!(refused(env, &two, &[]).contains("checksum can't be specified for multiple sources"));
        let local = refused(env, &format!("ADD --checksum={digest} a /x"), &[]);
        assert!(
            local.contains("checksum can't be specified for local sources"),
            "{local}"
        );
    });
}

#[test]
fn d4_archives_are_unpacked_when_that_is_said() {
    each(|env| {
        let archive = fs::read(env.path("ctx/p.tar.gz")).unwrap();
        let server = Server::start(move |request| file(request, "\"1\"", &archive));
        let url = server.url("/p.tar.gz");
        let found = layer(env, &format!("ADD {url} /n/"));
        assert!(
            found.len() == 2 && found[1].starts_with("n/p.tar.gz f600 0:0"),
            "{found:?}"
        );
        let expected = [
            "n d755 0:0",
            "n/tt d700 33:44",
            "n/tt/f f644 33:44 f @1100000000",
            "n/tt/l l777 33:44 f",
        ];
        assert_eq!(layer(env, &format!("ADD --unpack=true {url} /n/")), expected);
        assert_eq!(layer(env, &format!("ADD --unpack=false {url} /n/")).len(), 2);
    });
}

#[test]
fn credentials_go_to_their_server_and_nowhere_else() {
    each(|env| {
        let other = Server::start(|_| Answer::of("other"));
        let to = other.url("/stolen");
        let server = Server::start(move |request| match request.path.as_str() {
            "/away" => Answer::redirect(&to),
            _ if request.header("authorization") == Some("Basic bWU6czNjcjN0") => Answer::of("private"),
            _ => Answer::new(401),
        });
        let url = |path: &str| format!("http://me:s3cr3t@{}{path}", server.address());
        let layout = env.path("layout");
        let body = format!("FROM scratch\nADD {} {} /d/", url("/f"), url("/away"));
        let run = build(env, &body, &layout, &[]).ok();
        assert!(!run.stderr.contains("s3cr3t"), "{}", run.stderr);
        assert!(run.stderr.contains("xxxxx:xxxxx@"), "{}", run.stderr);
        let other = other.take();
        assert!(
            other.len() == 1 && other[0].header("authorization").is_none(),
            "{other:?}"
        );
        // Neither in the image nor in the store.
        for folder in [&layout, &env.store()] {
            let found = std::process::Command::new("grep")
                .arg("-rl")
                .arg("s3cr3t")
                .arg(folder)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{}", folder.display());
        }
        fs::remove_dir_all(layout).unwrap();
        // The same by a secret.
        let host = server.address().to_string();
        let secret = env.write("header", "Basic bWU6czNjcjN0\n");
        let source = format!("--secret=id=HTTP_AUTH_HEADER_{host},src={}", secret.display());
        let body = format!("FROM scratch\nADD {} /by-secret", server.url("/g"));
        build(env, &body, &env.path("layout"), &[&source]).ok();
        fs::remove_dir_all(env.path("layout")).unwrap();
        let said = refused(env, &format!("ADD {} /x", server.url("/f")), &[]);
        assert!(said.contains("invalid response status 401"), "{said}");
        let said = refused(env, &format!("ADD {}x /x", url("/f").replace("me:", "you:")), &[]);
        assert!(said.contains("401") && !said.contains("s3cr3t"), "{said}");
    });
}

#[test]
fn what_breaks_off_is_continued() {
    each(|env| {
        let content: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::of(&content);
        let tries = AtomicUsize::new(0);
        let server = Server::start(move |request| {
            let attempt = tries.fetch_add(1, Ordering::Relaxed);
            match request.path.as_str() {
                // Breaks off twice, and is busy once.
                "/parts" if attempt == 1 => Answer::new(503),
                "/parts" => Answer {
                    cut: (attempt < 3).then_some(700_000),
                    ..file(request, "\"a\"", &content)
                },
                // Nothing to go on with: only another start helps.
                "/whole" => Answer {
                    cut: (attempt.is_multiple_of(2)).then_some(10_000),
                    ..Answer::of(content.clone())
                },
                // It is another file by then.
                "/other" => Answer {
                    cut: (attempt.is_multiple_of(2)).then_some(10_000),
                    ..file(request, &format!("\"{}\"", attempt / 2), &content)
                },
                // Promises more than it has.
                "/lies" => Answer::of("short").header("Content-Length", "500"),
                // Parts of something else.
                _ => Answer {
                    cut: Some(10_000),
                    ..Answer::of(content.clone()).header("ETag", "\"x\"")
                },
            }
        });
        let body = format!("ADD --checksum={digest} {} /x", server.url("/parts"));
        assert_eq!(layer(env, &body).len(), 1);
        let asked = server.take();
        let ranges: Vec<_> = asked.iter().map(|request| request.header("range")).collect();
        assert_eq!(ranges[0], None);
        assert!(
            ranges.len() == 4 && ranges[1..].iter().all(Option::is_some),
            "{ranges:?}"
        );
        for path in ["/whole", "/other"] {
            let body = format!("ADD --checksum={digest} {} /{path}", server.url(path));
            assert_eq!(layer(env, &body).len(), 1, "{path}");
            server.take();
        }
        for path in ["/lies", "/never"] {
            let said = refused(env, &format!("ADD {} /x", server.url(path)), &[]);
            assert!(said.contains(path) && said.contains("Dockerfile:2"), "{said}");
            assert!(server.take().len() <= 12, "{path}");
        }
    });
}
