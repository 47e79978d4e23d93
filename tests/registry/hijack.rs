//! Security cases A4: servers that lie, lead astray or ask for what is not theirs. Nobody but its owner ever sees a password, and
//! no byte that was not verified is in the store.

use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rbuild::registry::{CredentialFiles, Registry, RegistryOptions};
use rbuild::source::image::ImageSource;
use rbuild_cache::{Digest, Store};

use super::authority;
use super::common::TestRegistry;
use super::images::{Image, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, blob, image, push};
use super::server::{Answer, Request, Server};
use super::{anonymous, reference, with_login, with_options};

const CHALLENGE: &str = "Basic realm=\"x\"";

/// A server that wants a password, and then answers.
fn locked(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |request| match request.header("authorization") {
        None => Answer::new(401).header("WWW-Authenticate", CHALLENGE),
        Some(_) => answer(request),
    })
}

/// A server that wants a password from everybody, and gets none.
fn evil() -> Server {
    Server::start(|_| Answer::new(401).header("WWW-Authenticate", CHALLENGE))
}

#[track_caller]
fn saw_no_secret(server: &Server) -> usize {
    let requests = server.take();
    assert!(
        requests.iter().all(|request| {
            let all = format!("{request:?}").to_lowercase();
            request.header("authorization").is_none()
                && !all.contains("hunter2")
                && !all.contains("dtpodw50zxiy")
        }),
        "{requests:?}"
    );
    requests.len()
}

fn manifest(bytes: Vec<u8>) -> Answer {
    Answer::of(bytes).header("Content-Type", OCI_MANIFEST)
}

/// Pulls by a fresh store; what went wrong, and the store.
fn pull(client: &Registry, name: &str) -> (Result<(), String>, tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let source = ImageSource::new(store.clone(), client.clone(), Default::default());
    let pulled = source.pull(&reference(name), &"linux/amd64".parse().unwrap());
    (pulled.map(drop).map_err(|error| format!("{error:#}")), dir, store)
}

#[test]
fn a4_1_layers_from_elsewhere_get_no_password() {
    let evil = evil();
    let layer = Digest::of(b"layer").to_string();
    let config = image("amd64", &[5]).config;
    let document = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": config.len()},
        "layers": [{"mediaType": OCI_LAYER, "digest": layer, "size": 5, "urls": [evil.url("/layer")]}],
    });
    let server = locked(move |request| match request.path.as_str() {
        path if path.contains("/manifests/") => manifest(document.to_string().into_bytes()),
        path if path.contains(&Digest::of(&config).to_string()) => Answer::of(config.clone()),
        _ => Answer::new(404),
    });
    let (_dir, client) = with_login(&server.address().to_string(), "u", "hunter2");
    let (error, _dir, store) = pull(&client, &format!("{}/app:1", server.address()));
    assert!(error.is_err());
    assert_eq!(
        saw_no_secret(&evil),
        0,
        "other places that a manifest names are not asked"
    );
    assert!(!store.has_blob(&Digest::of(b"layer")));
}

#[test]
fn a4_2_redirects_of_everything_lose_the_password() {
    let good = image("amd64", &[3000]);
    for status in [301, 302, 303, 307, 308] {
        let evil = evil();
        let to = format!("http://u:hunter2@localhost:{}/x", evil.address().port());
        let server = locked(move |_| Answer::new(status).header("Location", &to));
        let (_dir, client) = with_login(&server.address().to_string(), "u", "hunter2");
        let name = reference(&format!("{}/app:1", server.address()));
        assert!(client.manifest(&name).is_err());
        assert!(client.head_manifest(&name).is_err());
        assert!(client.blob(&name, &Digest::of(&good.layers[0]), 3000).is_err());
        assert!(push(&client, &name, &good).is_err());
        assert!(saw_no_secret(&evil) > 0, "{status}: it was followed");
    }
    // Not for ever.
    let own: Arc<OnceLock<String>> = Arc::default();
    let itself = Arc::clone(&own);
    let round = Server::start(move |_| Answer::redirect(itself.get().map_or("/", String::as_str)));
    own.set(round.url("/v2/again")).unwrap();
    let error = anonymous()
        .manifest(&reference(&format!("{}/app:1", round.address())))
        .unwrap_err()
        .to_string();
    assert!(error.contains("redirected more than 10 times"), "{error}");
    assert!(round.take().len() <= 15);
}

#[test]
fn a4_3_uploads_elsewhere_get_no_password() {
    for size in [100, 2 << 20] {
        let evil = evil();
        let to = evil.url("/upload?sig=1");
        let server = Server::start(move |request| match request.header("authorization") {
            None => Answer::new(401).header("WWW-Authenticate", CHALLENGE),
            Some(_) if request.path.contains("/uploads/") => Answer::new(202).header("Location", &to),
            Some(_) => Answer::new(404),
        });
        let (_dir, client) = with_login(&server.address().to_string(), "u", "hunter2");
        let bytes = vec![7; size];
        let begun = Instant::now();
        let error = client.push_blob(
            &reference(&format!("{}/app", server.address())),
            &blob(&bytes),
            &|_| {},
        );
        assert!(
            error.is_err() && begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
        assert!(saw_no_secret(&evil) > 0);
    }
}

#[test]
fn a4_4_a_realm_of_a_registry_is_believed_over_tls_only() {
    // Both on this machine: who can listen there can do worse. Elsewhere, `registry::auth` decides by the table of its tests.
    let realm = Server::start(|_| Answer::of(r#"{"token":"t"}"#));
    let wanted = format!(
        "Bearer realm=\"http://realm.example:{}/t\",service=\"s\"",
        realm.address().port()
    );
    let server = Server::start(move |_| Answer::new(401).header("WWW-Authenticate", &wanted));
    let (_dir, client) = with_login(&server.address().to_string(), "u", "hunter2");
    let error = client
        .manifest(&reference(&format!("{}/app", server.address())))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("token server without TLS") && error.contains("refused"),
        "{error}"
    );
    assert_eq!(saw_no_secret(&realm), 0);
}

/// An address of this machine that is not the machine itself.
fn outer_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the kernel says from where it would be.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

#[test]
fn a4_4_what_a_registry_without_tls_says_gets_no_password() {
    let Some(outer) = outer_address() else {
        eprintln!("skipped: this machine has no address but 127.0.0.1");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let ours = authority::authority(dir.path(), "ours");
    let signed = authority::server(dir.path(), &ours, &format!("IP:::ffff:{outer}"), None);
    let port = std::net::TcpListener::bind((outer.as_str(), 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("{outer}:{port}");
    // What it is told is on its standard output; it answers nobody.
    let log = dir.path().join("log");
    let mut realm = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &address])
        .arg("-cert")
        .arg(&signed.certificate)
        .arg("-key")
        .arg(&signed.key)
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&log).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while std::net::TcpStream::connect(&address).is_err() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    // By another name: to the very same host it may tell what it tells the registry.
    let realm_url = reqwest::Url::parse(&format!("https://[::ffff:{outer}]:{port}/t")).unwrap();
    let trusted = dir
        .path()
        .join(format!("{}:{port}", realm_url.host_str().unwrap()));
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(&ours.certificate, trusted.join("ca.crt")).unwrap();
    let wanted = format!("Bearer realm=\"{realm_url}\",service=\"s\"");
    let server = Server::start_on(&outer, move |_| {
        Answer::new(401).header("WWW-Authenticate", &wanted)
    });
    let options = RegistryOptions {
        insecure: vec![server.address().to_string()],
        certificates: vec![dir.path().to_owned()],
        stall_limit: Duration::from_millis(200),
        ..RegistryOptions::default()
    };
    let name = reference(&format!("{}/app", server.address()));
    let (_dir, client) = with_options(&server.address().to_string(), "u", "hunter2", options);
    let asking = client.clone();
    let asked = std::thread::spawn(move || asking.manifest(&name).is_err());
    let told = loop {
        let told = std::fs::read_to_string(&log).unwrap();
        if told.ends_with("\r\n\r\n") || begun.elapsed() > Duration::from_secs(60) {
            break told;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    client.quiesce();
    assert!(asked.join().unwrap());
    let _ = realm.kill();
    let _ = realm.wait();
    assert!(told.contains("GET /t?"), "{told:?}");
    assert!(!told.to_lowercase().contains("authorization"), "{told}");
}

#[test]
fn a4_5_a_broken_helper_lets_nobody_in_by_another_door() {
    let server = locked(|_| Answer::new(404));
    let address = server.address().to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let others = format!(
        r#"{{"credHelpers":{{"{address}":"not-installed-anywhere"}},
            "auths":{{"{address}":{{"username":"u","password":"hunter2"}},"{address}.evil":{{"username":"u","password":"hunter2"}}}}}}"#
    );
    std::fs::write(&path, others).unwrap();
    let client = Registry::with_credentials(
        RegistryOptions::default(),
        CredentialFiles::from_files(vec![path]),
    );
    let error = client
        .manifest(&reference(&format!("{address}/app")))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("docker-credential-not-installed-anywhere") && error.contains("not installed"),
        "{error}"
    );
    saw_no_secret(&server);
}

#[test]
fn a4_6_digests_are_digests() {
    let config = image("amd64", &[5]).config;
    let long = "a".repeat(1 << 20);
    for digest in [
        "sha256:../../x",
        "sha256:ABCDEF",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:12",
        &long,
    ] {
        let document = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": config.len()},
            "layers": [{"mediaType": OCI_LAYER, "digest": digest, "size": 5}],
        });
        let bytes = document.to_string().into_bytes();
        let server = Server::start(move |request| match request.path.contains("/manifests/") {
            true => manifest(bytes.clone()),
            false => Answer::new(200),
        });
        let (error, _dir, _store) = pull(&anonymous(), &format!("{}/app:1", server.address()));
        let error = error.unwrap_err();
        assert!(
            error.contains("digest") && error.len() < 2000,
            "{}",
            &error[..error.len().min(300)]
        );
        let asked = server.take();
        assert!(
            asked.iter().all(|request| !request.path.contains("/blobs/")),
            "{asked:?}"
        );
    }
}

#[test]
fn a4_7_other_bytes_are_nowhere_in_the_store() {
    let good = image("amd64", &[4000]);
    let digest = Digest::of(&good.layers[0]);
    let lies: [fn(&Request, Vec<u8>) -> Answer; 3] = [
        // Other bytes of the same length, with the right name.
        |_, bytes| Answer::of(vec![1; bytes.len()]),
        // Fewer than it said.
        |_, bytes| Answer::of(bytes[..100].to_vec()),
        // More.
        |_, bytes| Answer::of([bytes.as_slice(), b"more"].concat()),
    ];
    for lie in lies {
        let Image {
            config,
            layers,
            manifest: document,
        } = image("amd64", &[4000]);
        let server = Server::start(move |request| match request.path.as_str() {
            path if path.contains("/manifests/") => manifest(document.clone()),
            path if path.contains(&digest.to_string()) => {
                lie(request, layers[0].clone()).header("Docker-Content-Digest", &digest.to_string())
            }
            path if path.contains("/blobs/") => Answer::of(config.clone()),
            _ => Answer::new(200),
        });
        let options = RegistryOptions {
            stall_limit: Duration::from_millis(500),
            ..RegistryOptions::default()
        };
        let client = Registry::with_credentials(options, CredentialFiles::default());
        let name = format!("{}/app:1", server.address());
        let (error, dir, store) = pull(&client, &name);
        let error = error.unwrap_err();
        assert!(error.contains(&digest.to_string()), "{error}");
        assert!(!store.has_blob(&digest));
        let kept: Vec<_> = std::fs::read_dir(dir.path().join("blobs/sha256"))
            .unwrap()
            .flatten()
            .collect();
        for entry in kept {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert_eq!(
                Digest::of(&bytes).hex(),
                entry.file_name().to_string_lossy(),
                "only what is verified"
            );
        }
    }
}

#[test]
fn a4_8_a_document_is_one_thing() {
    let good = image("amd64", &[5]);
    let text = String::from_utf8(good.manifest.clone()).unwrap();
    let both = text.replacen('{', r#"{"manifests":[],"#, 1);
    let twice = text.replacen('{', r#"{"layers":[],"#, 1);
    for (bytes, media_type) in [
        (both, OCI_MANIFEST),
        (twice, OCI_MANIFEST),
        (text.clone(), super::images::OCI_INDEX),
        (text, "application/vnd.docker.distribution.manifest.v2+json"),
    ] {
        let shown = bytes.clone();
        let server = Server::start(move |request| match request.path.contains("/manifests/") {
            true => Answer::of(bytes.clone()).header("Content-Type", media_type),
            false => Answer::new(200),
        });
        let (error, _dir, _store) = pull(&anonymous(), &format!("{}/app:1", server.address()));
        assert!(error.is_err(), "{media_type}: {shown}");
    }
}

#[test]
fn a4_10_layers_and_config_agree() {
    let server = TestRegistry::start();
    let client = anonymous();
    // A config with more and with fewer diff ids than there are layers.
    for count in [0, 2, 1000] {
        let mut lie = image("amd64", &[50]);
        let id = Digest::of(&lie.layers[0]).to_string();
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": vec![id; count]},
        });
        let before = Digest::of(&lie.config).to_string();
        let size = format!("\"size\":{}", lie.config.len());
        lie.config = config.to_string().into_bytes();
        let text = String::from_utf8(lie.manifest).unwrap();
        let text = text.replace(&before, &Digest::of(&lie.config).to_string());
        lie.manifest = text
            .replacen(&size, &format!("\"size\":{}", lie.config.len()), 1)
            .into_bytes();
        let name = server.reference("lie:1");
        push(&client, &reference(&name), &lie).unwrap();
        let (error, _dir, _store) = pull(&client, &name);
        let error = error.unwrap_err();
        assert!(error.contains("diff"), "{count}: {error}");
    }
}

#[test]
fn a4_11_no_secret_is_said() {
    let server = Server::start(|_| Answer::new(401).header("WWW-Authenticate", CHALLENGE));
    let (_dir, client) = with_login(&server.address().to_string(), "u", "hunter2");
    let name = reference(&format!("{}/app:1", server.address()));
    let error = client.manifest(&name).unwrap_err();
    let explained = client.explain(&name).unwrap();
    let said = format!("{error} {error:?} {client:?} {explained:?}");
    assert!(!said.contains("hunter2") && said.contains("user u"), "{said}");
}

#[test]
fn a4_12_tls_is_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority::authority(dir.path(), "ours");
    for (names, when, what) in [
        (
            "IP:127.0.0.1",
            Some(("20200101000000Z", "20200201000000Z")),
            "expired",
        ),
        ("IP:127.0.0.2", None, "not valid for name"),
    ] {
        let signed = authority::server(dir.path(), &ours, names, when);
        let server = TestRegistry::with_tls(&signed.certificate, &signed.key);
        let certificates = dir.path().join(server.address());
        std::fs::create_dir(&certificates).unwrap();
        std::fs::copy(&ours.certificate, certificates.join("ca.crt")).unwrap();
        let options = RegistryOptions {
            certificates: vec![dir.path().to_owned()],
            ..RegistryOptions::default()
        };
        let client = Registry::with_credentials(options, CredentialFiles::default());
        let begun = Instant::now();
        let error = client
            .manifest(&reference(&server.reference("app:1")))
            .unwrap_err()
            .to_string();
        assert!(error.contains("certificate") && error.contains(what), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    // Heads without an end, and one that never comes.
    let long = Server::start(|_| Answer::new(200).header("X-Long", &"x".repeat(2 << 20)));
    let slow = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [long.address(), slow.local_addr().unwrap()] {
        let options = RegistryOptions {
            stall_limit: Duration::from_millis(100),
            ..RegistryOptions::default()
        };
        let client = Registry::with_credentials(options, CredentialFiles::default());
        let begun = Instant::now();
        assert!(client.manifest(&reference(&format!("{address}/app:1"))).is_err());
        assert!(
            begun.elapsed() < Duration::from_secs(100),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn a4_13_the_metadata_of_clouds_is_not_asked() {
    for inside in [
        "169.254.169.254",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
    ] {
        let wanted = format!("Bearer realm=\"https://{inside}/t\"");
        let realm = Server::start(move |_| Answer::new(401).header("WWW-Authenticate", &wanted));
        let to = format!("http://{inside}/latest/meta-data/");
        let redirect = Server::start(move |_| Answer::redirect(&to));
        for server in [realm, redirect] {
            let (_dir, client) = with_login(&server.address().to_string(), "u", "hunter2");
            let begun = Instant::now();
            let error = client
                .manifest(&reference(&format!("{}/app", server.address())))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("credentials of their machines, which is refused"),
                "{error}"
            );
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
            saw_no_secret(&server);
        }
    }
}
