//! What will not get better is said at once, with the host and the cause: whoever asks, for whatever reason.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rbuild_cache::Digest;

use super::authority::{authority, server as certificate};
use super::commands::{rbuild, text};
use super::common::TestRegistry;
use super::images::{OCI_MANIFEST, image, push};
use super::server::{Answer, Server};
use super::{anonymous, reference};

/// A user and what is wrong with the registries that he names.
struct Case {
    what: &'static str,
    host: String,
    /// What each of the commands has to say beside the host.
    said: [&'static str; 3],
}

fn case(what: &'static str, host: impl ToString, said: [&'static str; 3]) -> Case {
    Case {
        what,
        host: host.to_string(),
        said,
    }
}

#[test]
fn permanent_errors_end_soon_and_name_host_and_cause() {
    let errors = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"{code} it is"}}]}}"#);
    let answering = |status: u16| {
        Server::start(move |_| {
            let answer = Answer::of(errors("X")).header("WWW-Authenticate", "Basic realm=\"r\"");
            Answer { status, ..answer }
        })
    };
    let (unauthorized, forbidden, missing) = (answering(401), answering(403), answering(404));
    // Blobs are there, and the manifest is none.
    let invalid = Server::start(|request| match request.path.as_str() {
        path if path.contains("/manifests/") => Answer::of("{}").header("Content-Type", OCI_MANIFEST),
        _ => Answer::new(200),
    });
    let refusing = Server::start(move |request| match request.path.as_str() {
        path if path.contains("/manifests/") => Answer {
            status: 400,
            ..Answer::of(errors("MANIFEST_INVALID"))
        },
        _ => Answer::new(200),
    });
    let home = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A registry whose certificate somebody else has signed than the one who is trusted with it.
    let (trusted, other) = (authority(home.path(), "trusted"), authority(home.path(), "other"));
    let signed = certificate(home.path(), &other, "IP:127.0.0.1", None);
    let stranger = TestRegistry::with_tls(&signed.certificate, &signed.key);
    let certificates = home.path().join("certs.d");
    let own = certificates.join(stranger.address());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(&trusted.certificate, own.join("ca.crt")).unwrap();
    let config = home.path().join("config.toml");
    std::fs::write(
        &config,
        format!(
            "[registries]\nblocked = [\"blocked.example\"]\ncertificates = [{:?}]\n",
            certificates.display().to_string()
        ),
    )
    .unwrap();

    let cases = [
        case("401", unauthorized.address(), ["denied access"; 3]),
        case("403", forbidden.address(), ["denied access"; 3]),
        case("404", missing.address(), ["not found"; 3]),
        case(
            "a bad manifest",
            invalid.address(),
            ["reading the manifest", "", "reading the manifest"],
        ),
        case(
            "a refused request",
            refusing.address(),
            [
                // A HEAD is answered without words.
                "answered 400",
                "MANIFEST_INVALID it is",
                "MANIFEST_INVALID it is",
            ],
        ),
        case("an unknown authority", stranger.address(), ["certificate"; 3]),
        case("no such name", "no-such-host.invalid", ["cannot reach"; 3]),
        case("nobody listens", nobody, ["refused"; 3]),
        case("blocked", "blocked.example", ["the configuration blocks"; 3]),
    ];
    let context = home.path().join("context");
    std::fs::create_dir(&context).unwrap();
    let run = |args: &[&str]| {
        let config = config.to_str().unwrap();
        rbuild(home.path(), &[&["--config", config], args].concat(), "")
    };
    for Case { what, host, said } in cases {
        let name = format!("{host}/team/app:1");
        std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
        let context = context.to_str().unwrap();
        let made = run(&["build", "-q", "-t", &name, context]);
        assert!(made.status.success(), "{}", text(&made));
        std::fs::write(
            format!("{context}/Dockerfile"),
            format!("FROM {host}/team/base:1\nCOPY Dockerfile /\n"),
        )
        .unwrap();
        let commands: [&[&str]; 3] = [
            &["pull", &name],
            &["push", &name],
            &["build", "--progress=plain", context],
        ];
        for (args, expected) in commands.into_iter().zip(said) {
            if expected.is_empty() {
                continue;
            }
            // A machine may be busy once.
            let attempt = || {
                let begun = Instant::now();
                (run(args), begun.elapsed())
            };
            let (mut output, mut took) = attempt();
            if took >= Duration::from_secs(3) {
                (output, took) = attempt();
            }
            let shown = text(&output);
            assert_eq!(output.status.code(), Some(1), "{what}, {args:?}: {shown}");
            assert!(took < Duration::from_secs(3), "{what}, {args:?}: {took:?}");
            assert!(
                shown.contains(expected) && shown.contains(&host),
                "{what}, {args:?}: {shown}"
            );
            if args[0] == "build" {
                assert!(shown.contains("Dockerfile:1"), "{what}: {shown}");
            }
        }
    }
}

/// A registry that says that it has all blobs, and finds out that it has lost one when it is sent the manifest.
fn forgetful(lost: Digest) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let mut lines = BufReader::new(&stream);
                let (mut first, mut length) = (String::new(), 0_u64);
                if lines.read_line(&mut first).is_err() || !first.contains("/v2/") {
                    return;
                }
                let mut line = String::new();
                while lines.read_line(&mut line).is_ok_and(|read| read > 2) {
                    if let Some(size) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = size.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = Vec::new();
                lines.take(length).read_to_end(&mut body).unwrap();
                let request = first.rsplit_once(' ').unwrap().0.to_owned();
                let sent_again = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.iter()
                        .any(|request| request.contains(&format!("?digest={}", lost)))
                };
                let (status, more, answer) = match request.split_once(' ').unwrap() {
                    ("POST", _) => (
                        202,
                        format!("Location: http://{address}/v2/app/up?\r\n"),
                        String::new(),
                    ),
                    ("PUT", path) if path.contains("/manifests/") && !sent_again => {
                        let error = format!(
                            r#"{{"errors":[{{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown","detail":"{lost}"}}]}}"#
                        );
                        (404, String::new(), error)
                    }
                    ("PUT", _) => (201, String::new(), String::new()),
                    _ => (200, String::new(), String::new()),
                };
                let _ = (&stream).write_all(
                    format!(
                        "HTTP/1.1 {status} x\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{answer}",
                        answer.len()
                    )
                    .as_bytes(),
                );
            });
        }
    });
    (address.to_string(), log)
}

#[test]
fn a_blob_that_a_registry_has_lost_is_sent_again_once() {
    let image = image("amd64", &[1000, 2000]);
    let lost = Digest::of(&image.layers[1]);
    let (address, log) = forgetful(lost);
    let name = reference(&format!("{address}/app:1"));
    push(&anonymous(), &name, &image).unwrap();
    let seen = log.lock().unwrap().clone();
    let count = |what: &str| seen.iter().filter(|request| request.contains(what)).count();
    assert_eq!(
        (count("PUT /v2/app/manifests/"), count("POST ")),
        (2, 1),
        "{seen:?}"
    );
    // One that never has it is not sent it for ever.
    let (address, log) = forgetful(Digest::of(b"something else"));
    let name = reference(&format!("{address}/app:1"));
    let error = push(&anonymous(), &name, &image).unwrap_err().to_string();
    assert!(
        error.contains("has lost blobs that it said it had: blob unknown") && error.contains(&address),
        "{error}"
    );
    let puts = log
        .lock()
        .unwrap()
        .iter()
        .filter(|request| request.contains("/manifests/"))
        .count();
    assert!(puts <= 2, "{puts}");
}
