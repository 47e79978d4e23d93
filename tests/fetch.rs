//! Files of servers that are slow, lie or never end, through the library: limits are set that a build would wait too long
//! for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

#[path = "common/server.rs"]
mod server;

use std::io::Read;
use std::time::{Duration, Instant};

use rbuild::frontend::HttpRequest;
use rbuild::registry::{FetchOptions, FetchRequest, Fetched, Registry, RegistryOptions, Validators};
use rbuild::source::http::HttpSource;
use rbuild_cache::{Digest, Store};

use server::{Answer, Server, file};

fn options(milliseconds: u64) -> FetchOptions {
    FetchOptions {
        stall_limit: Duration::from_millis(milliseconds),
        ..FetchOptions::default()
    }
}

fn fetch(url: String, options: &FetchOptions, limit: Option<u64>) -> Result<Vec<u8>, String> {
    let request = FetchRequest {
        url,
        authorization: None,
        known: Validators::default(),
        limit,
        ..FetchRequest::default()
    };
    let registry = Registry::new(RegistryOptions::default());
    match registry
        .fetch(request, options)
        .map_err(|error| error.to_string())?
    {
        Fetched::NotModified => Err("not modified".to_owned()),
        Fetched::File(mut file) => {
            let mut bytes = Vec::new();
            match file.body.read_to_end(&mut bytes) {
                Ok(_) => Ok(bytes),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}

#[test]
fn a_stall_ends_and_slowness_does_not() {
    let server = Server::start(|request| Answer {
        pause: Some(Duration::from_millis(if request.path == "/slow" {
            300
        } else {
            5000
        })),
        ..Answer::of("0123456789")
    });
    assert_eq!(
        fetch(server.url("/slow"), &options(3000), None).unwrap(),
        b"0123456789"
    );
    let began = Instant::now();
    let said = fetch(server.url("/stalls"), &options(200), None).unwrap_err();
    assert!(said.contains("sent nothing for 0.2 s"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn sizes_that_nobody_announced_are_limited() {
    let server = Server::start(|request| {
        let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
        let end = if request.path == "/broken" {
            ""
        } else {
            "0\r\n\r\n"
        };
        Answer::of(chunk.repeat(50) + end).header("Transfer-Encoding", "chunked")
    });
    assert_eq!(
        fetch(server.url("/"), &options(3000), None).unwrap().len(),
        50_000
    );
    assert_eq!(
        fetch(server.url("/"), &options(3000), Some(50_000))
            .unwrap()
            .len(),
        50_000
    );
    let said = fetch(server.url("/"), &options(3000), Some(49_999)).unwrap_err();
    assert!(said.contains("more than the 49999 bytes allowed"), "{said}");
    assert!(fetch(server.url("/broken"), &options(3000), None).is_err());
}

#[test]
fn a_file_of_unknown_size_is_kept_like_any_other() {
    let server = Server::start(|request| match request.header("if-none-match") {
        Some("W/\"weak\"") => Answer::new(304),
        _ => Answer::of("5\r\nhello\r\n0\r\n\r\n")
            .header("Transfer-Encoding", "chunked")
            .header("ETag", "W/\"weak\""),
    });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let registry = Registry::new(RegistryOptions::default());
    let source = HttpSource::new(store, registry, options(3000));
    let request = HttpRequest {
        url: server.url("/f"),
        filename: "f".to_owned(),
        checksum: None,
        limit: None,
    };
    let op = source.resolve(&request).unwrap();
    assert_eq!((op.digest, op.modified), (Digest::of(b"hello"), Some(0)));
    assert_eq!(source.read(&op, 5).unwrap(), b"hello");
    assert!(source.read(&op, 4).is_err());
    assert_eq!(source.resolve(&request).unwrap(), op);
    assert_eq!(server.take().len(), 2);
}

#[test]
fn credentials_stay_with_their_origin() {
    let server = Server::start(
        |request| match (request.path.as_str(), request.header("authorization")) {
            ("/a", Some("token")) => Answer::redirect("/b"),
            ("/b", Some("token")) => Answer::of("same origin"),
            _ => Answer::new(403),
        },
    );
    let port = server.address().port();
    let elsewhere = Server::start(move |_| Answer::redirect(&format!("http://localhost:{port}/b")));
    let registry = Registry::new(RegistryOptions::default());
    let ask = |url: String| {
        let request = FetchRequest {
            url,
            authorization: Some("token".to_owned()),
            known: Validators::default(),
            limit: None,
            ..FetchRequest::default()
        };
        registry
            .fetch(request, &options(3000))
            .map_err(|error| error.to_string())
    };
    assert!(ask(format!("http://localhost:{port}/a")).is_ok());
    let said = ask(elsewhere.url("/")).unwrap_err();
    assert!(said.contains("invalid response status 403"), "{said}");
}

#[test]
fn a_server_that_sends_what_is_known_is_not_listened_to() {
    let content = vec![7; 4 << 20];
    let sent = content.clone();
    // It does not look at conditions.
    let server = Server::start(move |_| Answer::of(sent.clone()).header("ETag", "\"same\""));
    let known = Validators {
        etag: Some("\"same\"".to_owned()),
        modified: None,
    };
    let registry = Registry::new(RegistryOptions::default());
    let request = FetchRequest {
        url: server.url("/"),
        authorization: None,
        known,
        limit: None,
        ..FetchRequest::default()
    };
    let answer = registry.fetch(request, &options(3000)).unwrap();
    assert!(matches!(answer, Fetched::NotModified));
    // Ranges of another file are no part of this one.
    let lying = Server::start(move |request| match request.header("range") {
        Some(_) => Answer::new(206)
            .header("Content-Range", "bytes 5-9/10")
            .header("ETag", "\"1\""),
        None => Answer {
            cut: Some(100_000),
            ..file(request, "\"1\"", &content)
        },
    });
    let said = fetch(lying.url("/"), &options(3000), None).unwrap_err();
    assert!(said.contains("answered with the range"), "{said}");
}
