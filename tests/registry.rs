//! The registry client against a real registry and against small servers that misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot be set up has failed, and one that cannot run says so"
)]

#[path = "common/authority.rs"]
mod authority;
#[path = "registry/commands.rs"]
mod commands;
#[path = "common/registry.rs"]
mod common;
#[path = "registry/config.rs"]
mod config;
#[path = "common/faults.rs"]
mod faults;
#[path = "registry/flaps.rs"]
mod flaps;
#[path = "registry/hijack.rs"]
mod hijack;
#[path = "common/image.rs"]
mod images;
#[path = "registry/mirrors.rs"]
mod mirrors;
#[path = "registry/permanent.rs"]
mod permanent;
#[path = "registry/ranges.rs"]
mod ranges;
#[path = "registry/referrers.rs"]
mod referrers;
#[path = "common/server.rs"]
mod server;
#[path = "registry/tls.rs"]
mod tls;
#[path = "common/token.rs"]
mod token;
#[path = "registry/uploads.rs"]
mod uploads;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::TestRegistry;
use images::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, blob, image, index, push};
use rbuild::graph::Platform;
use rbuild::registry::{CredentialFiles, Reference, Registry, RegistryError, RegistryOptions, Transferred};
use rbuild_cache::{Descriptor, Digest};

fn anonymous() -> Registry {
    Registry::with_credentials(RegistryOptions::default(), CredentialFiles::default())
}

fn with_login(host: &str, user: &str, password: &str) -> (tempfile::TempDir, Registry) {
    with_options(host, user, password, RegistryOptions::default())
}

fn with_options(
    host: &str,
    user: &str,
    password: &str,
    options: RegistryOptions,
) -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let text = format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"{password}"}}}}}}"#);
    std::fs::write(&path, text).unwrap();
    let files = CredentialFiles::from_files(vec![path]);
    (dir, Registry::with_credentials(options, files))
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn read_all(mut reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn an_image_goes_up_and_comes_back() {
    let server = TestRegistry::start();
    let registry = anonymous();
    let name = reference(&server.reference("team/app:1"));
    let image = image("amd64", &[10, 3_000_000, 1]);
    let digest = push(&registry, &name, &image).unwrap();
    assert_eq!(digest, Digest::of(&image.manifest));

    let head = registry.head_manifest(&name).unwrap().unwrap();
    assert_eq!(
        (head.digest, head.media_type.as_str(), head.size),
        (digest, OCI_MANIFEST, image.manifest.len() as u64)
    );
    let resolved = registry.resolve(&name, &"linux/arm64".parse().unwrap()).unwrap();
    assert_eq!(
        resolved.manifest.bytes, image.manifest,
        "bytes are kept, and a single manifest is taken whatever its platform"
    );
    assert!(resolved.index.is_none());
    let manifest = resolved.manifest.manifest("x").unwrap();
    assert_eq!(
        registry.small_blob(&name, &manifest.config, 1 << 20).unwrap(),
        image.config
    );

    // Several threads at once.
    std::thread::scope(|scope| {
        for (layer, expected) in manifest.layers.iter().zip(&image.layers) {
            let (registry, name) = (&registry, &name);
            scope.spawn(move || {
                let reader = registry.blob(name, &layer.digest, layer.size).unwrap();
                assert_eq!(&read_all(reader).unwrap(), expected);
            });
        }
    });
    // Other programs see the same.
    let output = std::process::Command::new("skopeo")
        .args([
            "inspect",
            "--tls-verify=false",
            &format!("docker://{}", server.reference("team/app:1")),
        ])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(&digest.to_string()),
        "{output:?}"
    );
    // A second push has nothing to send.
    assert_eq!(
        registry
            .push_blob(&name, &blob(&image.layers[0]), &|_| {})
            .unwrap(),
        Transferred::Present
    );
    // Under its digest, without a tag.
    let pinned = name.with_digest(digest);
    assert_eq!(registry.manifest(&pinned).unwrap().descriptor.digest, digest);
}

#[test]
fn quiesce_ends_all_threads_and_the_next_call_starts_again() {
    let server = TestRegistry::start();
    let registry = anonymous();
    // By name, so that a thread looks it up.
    let name = reference(&format!(
        "{}/app",
        server.address().replace("127.0.0.1", "localhost")
    ));
    push(&registry, &name, &image("amd64", &[10])).unwrap();
    for _ in 0..3 {
        registry.manifest(&name).unwrap();
        registry.quiesce();
    }
    // Other tests of this process have clients of their own: a reader of this one must fail, not hang.
    let big = image("amd64", &[40_000_000]);
    push(&registry, &name, &big).unwrap();
    let mut reader = registry
        .blob(&name, &Digest::of(&big.layers[0]), 40_000_000)
        .unwrap();
    let mut some = [0; 10];
    reader.read_exact(&mut some).unwrap();
    registry.quiesce();
    assert!(read_all(reader).is_err());
    assert!(registry.manifest(&name).is_ok());
}

#[test]
fn an_index_is_answered_by_platform() {
    let server = TestRegistry::start();
    let registry = anonymous();
    let name = reference(&server.reference("multi:1"));
    let images = ["amd64", "arm64"].map(|architecture| (architecture, image(architecture, &[20])));
    for (architecture, image) in &images {
        push(&registry, &name.with_tag(architecture).unwrap(), image).unwrap();
    }
    let index = index(&[("amd64", &images[0].1), ("arm64", &images[1].1)]);
    registry.push_manifest(&name, OCI_INDEX, &index).unwrap();
    let arm: Platform = "linux/arm64".parse().unwrap();
    let resolved = registry.resolve(&name, &arm).unwrap();
    assert_eq!(resolved.manifest.bytes, image("arm64", &[20]).manifest);
    assert_eq!(resolved.index.unwrap().bytes, index);
    let error = registry
        .resolve(&name, &"linux/s390x".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no match for platform linux/s390x") && error.contains("linux/amd64, linux/arm64"),
        "{error}"
    );

    // An index that lies about an entry's size.
    let mut lie: serde_json::Value = serde_json::from_slice(&index).unwrap();
    lie["manifests"][0]["size"] = 7.into();
    let wrong = name.with_tag("lie").unwrap();
    registry
        .push_manifest(&wrong, OCI_INDEX, lie.to_string().as_bytes())
        .unwrap();
    let error = registry
        .resolve(&wrong, &"linux/amd64".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains("its index says 7 bytes"), "{error}");
}

#[test]
fn a_blob_of_the_same_registry_is_mounted() {
    let server = TestRegistry::start();
    let registry = anonymous();
    let layer = vec![7; 100_000];
    let base = reference(&server.reference("base:1"));
    assert_eq!(
        registry.push_blob(&base, &blob(&layer), &|_| {}).unwrap(),
        Transferred::Sent
    );
    let mut again = blob(&layer);
    again.mount_from = vec!["elsewhere.example/base".to_owned(), base.name()];
    again.open = Box::new(|| panic!("the blob must not be read"));
    let other = reference(&server.reference("other:1"));
    assert_eq!(
        registry.push_blob(&other, &again, &|_| {}).unwrap(),
        Transferred::Mounted
    );
    // An origin that does not have it is no obstacle.
    let new = vec![8; 1000];
    let mut missing = blob(&new);
    missing.mount_from = vec![server.reference("nothing/here")];
    assert_eq!(
        registry.push_blob(&other, &missing, &|_| {}).unwrap(),
        Transferred::Sent
    );
}

#[test]
fn what_is_missing_is_said_so() {
    let server = TestRegistry::start();
    let registry = anonymous();
    let name = reference(&server.reference("no/such:1"));
    let error = registry.manifest(&name).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(
        error.to_string().contains("no/such:1") && error.to_string().contains(server.address()),
        "{error}"
    );
    assert!(registry.head_manifest(&name).unwrap_err().is_not_found());
    assert!(
        registry
            .blob(&name, &Digest::of(b"x"), 1)
            .unwrap_err()
            .is_not_found()
    );
}

#[test]
fn a_password_opens_the_door() {
    let server = TestRegistry::with_password();
    let name = reference(&server.reference("app:1"));
    let error = anonymous().manifest(&name).unwrap_err().to_string();
    assert!(
        error.contains("denied access") && error.contains("docker login"),
        "{error}"
    );
    let (_dir, wrong) = with_login(server.address(), common::USER, "hunter2");
    let error = wrong.manifest(&name).unwrap_err();
    let shown = format!("{error} {error:?} {wrong:?}");
    assert!(
        shown.contains("the credentials for") && !shown.contains("hunter2"),
        "{shown}"
    );
    let (_dir, registry) = with_login(server.address(), common::USER, common::PASSWORD);
    let image = image("amd64", &[1000, 2000]);
    push(&registry, &name, &image).unwrap();
    assert_eq!(registry.manifest(&name).unwrap().bytes, image.manifest);
}

#[test]
fn a_registry_that_is_down_is_told_soon() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let begun = Instant::now();
    let error = anonymous()
        .manifest(&reference(&format!("{address}/app")))
        .unwrap_err()
        .to_string();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(
        error.contains("cannot reach") && error.contains("refused") && error.contains(&address.to_string()),
        "{error}"
    );
}

/// A server that answers each request, given as its head in lower case, with what `answer` says.
fn server(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            std::thread::spawn(move || serve(stream.unwrap(), &seen, &*answer));
        }
    });
    (address, requests)
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, answer: &dyn Fn(&str) -> Vec<u8>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
        if head[0] == 0x16 {
            // TLS is not spoken here.
            let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    seen.lock().unwrap().push(head.clone());
    let _ = stream.write_all(&answer(&head));
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend_from_slice(body);
    text
}

#[test]
fn other_bytes_than_asked_for_are_refused() {
    let good = image("amd64", &[50]);
    let digest = Digest::of(&good.manifest);
    let other = image("arm64", &[50]).manifest;
    let (address, _) = server(move |head| match head {
        head if head.starts_with("get /v2/ ") => response("200 OK", "", b""),
        head if head.contains("/manifests/tag ") => response(
            "200 OK",
            &format!("Content-Type: {OCI_MANIFEST}\r\nDocker-Content-Digest: {digest}\r\n"),
            &other,
        ),
        head if head.contains("/manifests/") => response(
            "200 OK",
            &format!("Content-Type: {OCI_MANIFEST}\r\nDocker-Content-Digest: {digest}\r\n"),
            &other,
        ),
        head if head.contains("/manifests/big") => response("200 OK", "", &vec![b' '; 5 << 20]),
        _ => response("200 OK", "", &[0; 50]),
    });
    let registry = anonymous();
    let name = reference(&format!("{address}/app:tag"));
    for name in [name.clone(), name.with_digest(digest)] {
        let error = registry.manifest(&name).unwrap_err();
        assert!(
            matches!(&error, RegistryError::Digest { expected, .. } if *expected == digest),
            "{error}"
        );
    }
    let layer = Digest::of(&good.layers[0]);
    let config = Descriptor {
        media_type: OCI_CONFIG.to_owned(),
        digest: layer,
        size: 50,
    };
    assert!(matches!(
        registry.small_blob(&name, &config, 100),
        Err(RegistryError::Digest { .. })
    ));
    let error = read_all(registry.blob(&name, &layer, 50).unwrap()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    // More than announced.
    let error = read_all(registry.blob(&name, &layer, 49).unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than the 49 bytes"), "{error}");
}

#[test]
fn a_document_that_is_too_large_is_refused() {
    let (address, _) = server(|head| match head {
        head if head.starts_with("get /v2/ ") => response("200 OK", "", b""),
        _ => response("200 OK", "", &vec![b' '; 5 << 20]),
    });
    let error = anonymous()
        .manifest(&reference(&format!("{address}/app")))
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than 4194304 bytes"), "{error}");
}

#[test]
fn a_redirect_gets_no_password() {
    let layer = vec![9; 5000];
    let digest = Digest::of(&layer);
    let (store, seen_by_store) = server(move |_| response("200 OK", "", &layer));
    let (address, seen) = server(move |head| {
        if !head.contains("authorization:") {
            return response("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b"");
        }
        response(
            "307 Temporary Redirect",
            &format!("Location: http://user:pw@{store}/signed?x=1\r\n"),
            b"",
        )
    });
    let (_dir, registry) = with_login(&address, "u", "hunter2");
    let name = reference(&format!("{address}/app"));
    assert_eq!(
        read_all(registry.blob(&name, &digest, 5000).unwrap()).unwrap(),
        vec![9; 5000]
    );
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .any(|head| head.contains("authorization: basic"))
    );
    let at_store = seen_by_store.lock().unwrap();
    assert!(
        !at_store.is_empty() && at_store.iter().all(|head| !head.contains("authorization")),
        "{at_store:?}"
    );
}

#[test]
fn an_upload_elsewhere_gets_no_password() {
    let (store, seen_by_store) = server(|_| response("201 Created", "", b""));
    let (address, _) = server(move |head| match head {
        head if !head.contains("authorization:") => {
            response("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b"")
        }
        head if head.starts_with("head") => response("404 Not Found", "", b""),
        _ => response(
            "202 Accepted",
            &format!("Location: http://{store}/put?sig=a%2Fb\r\n"),
            b"",
        ),
    });
    let (_dir, registry) = with_login(&address, "u", "hunter2");
    let name = reference(&format!("{address}/app"));
    assert_eq!(
        registry.push_blob(&name, &blob(b"abc"), &|_| {}).unwrap(),
        Transferred::Sent
    );
    let at_store = seen_by_store.lock().unwrap();
    let put = at_store.iter().find(|head| head.starts_with("put")).unwrap();
    assert!(
        put.contains("sig=a%2fb&digest=sha256:") && put.contains("content-length: 3"),
        "{put}"
    );
    assert!(
        at_store.iter().all(|head| !head.contains("authorization")),
        "{at_store:?}"
    );
}

#[test]
fn a_broken_download_goes_on_where_it_was() {
    let layer: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let digest = Digest::of(&layer);
    let whole = layer.clone();
    let (address, seen) = server(move |head| {
        let from: usize = match head.split("range: bytes=").nth(1) {
            Some(rest) => rest.split('-').next().unwrap().parse().unwrap(),
            None if head.starts_with("get /v2/ ") => return response("200 OK", "", b""),
            None => 0,
        };
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let range = format!(
            "Content-Range: bytes {from}-{}/{}\r\n",
            layer.len() - 1,
            layer.len()
        );
        let mut text = response(status, &range, &layer[from..]);
        // Never more than 90,000 bytes before the connection breaks.
        text.truncate(90_000);
        text
    });
    let registry = anonymous();
    let reader = registry
        .blob(&reference(&format!("{address}/app")), &digest, 200_000)
        .unwrap();
    assert_eq!(read_all(reader).unwrap(), whole);
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .filter(|head| head.contains("range: bytes="))
            .count()
            >= 2
    );
}

#[test]
fn a_token_is_fetched_once_and_sent_to_its_registry_only() {
    let (realm, at_realm) = server(|head| {
        assert!(head.contains("scope=repository%3aapp%3apull"), "{head}");
        response("200 OK", "", br#"{"token":"t0k3n","expires_in":300}"#)
    });
    let manifest = image("amd64", &[5]).manifest;
    let (address, _) = server(move |head| {
        if !head.contains("authorization: bearer t0k3n") {
            let challenge =
                format!("WWW-Authenticate: Bearer realm=\"http://{realm}/token\",service=\"s\"\r\n");
            return response("401 Unauthorized", &challenge, b"");
        }
        response("200 OK", &format!("Content-Type: {OCI_MANIFEST}\r\n"), &manifest)
    });
    let (_dir, registry) = with_login(&address, "u", "p");
    let name = reference(&format!("{address}/app"));
    for _ in 0..3 {
        registry.manifest(&name).unwrap();
    }
    let at_realm = at_realm.lock().unwrap();
    assert_eq!(at_realm.len(), 1, "{at_realm:?}");
    assert!(at_realm[0].contains("authorization: basic dtpw"), "{at_realm:?}");
}

#[test]
fn a_tired_registry_is_asked_again() {
    let manifest = image("amd64", &[5]).manifest;
    let count = std::sync::atomic::AtomicUsize::new(0);
    let (address, _) = server(move |head| {
        if head.starts_with("get /v2/ ") {
            return response("200 OK", "", b"");
        }
        match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => response(
                "503 Service Unavailable",
                "",
                br#"{"errors":[{"code":"X","message":"tired"}]}"#,
            ),
            1 => response("429 Too Many Requests", "Retry-After: 1\r\n", b""),
            // In a second of the registry's own clock.
            2 => response(
                "429 Too Many Requests",
                "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:38 GMT\r\n",
                b"",
            ),
            _ => response("200 OK", &format!("Content-Type: {OCI_MANIFEST}\r\n"), &manifest),
        }
    });
    let registry = anonymous();
    let begun = Instant::now();
    registry.manifest(&reference(&format!("{address}/app"))).unwrap();
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "what it asked for was waited for"
    );
    let (address, _) = server(|head| match head {
        head if head.starts_with("get /v2/ ") => response("200 OK", "", b""),
        _ => response(
            "429 Too Many Requests",
            "Retry-After: 3600\r\n",
            br#"{"errors":[{"message":"slow down"}]}"#,
        ),
    });
    let begun = Instant::now();
    let error = registry
        .manifest(&reference(&format!("{address}/app")))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("429: slow down") && begun.elapsed() < Duration::from_secs(2),
        "{error}"
    );
}
