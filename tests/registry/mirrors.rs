//! Mirrors: asked first, not waited for, and shown nobody else's password.

use std::time::{Duration, Instant};

use rbuild::registry::{CredentialFiles, Mirror, Registry, RegistryOptions, Rule, Rules};

use super::common::TestRegistry;
use super::images::{image, push};
use super::server::{Answer, Server};
use super::{anonymous, read_all, reference};

fn rules(prefix: &str, mirrors: &[&str], blocked: bool) -> Rules {
    let mirror = |location: &&str| Mirror {
        location: (*location).to_owned(),
        tags: true,
        digests: true,
    };
    Rules {
        rules: vec![Rule {
            prefix: prefix.to_owned(),
            mirrors: mirrors.iter().map(mirror).collect(),
            blocked,
            location: None,
        }],
        ..Rules::default()
    }
}

fn client(rules: Rules, credentials: CredentialFiles) -> Registry {
    let options = RegistryOptions {
        rules,
        ..RegistryOptions::default()
    };
    Registry::with_credentials(options, credentials)
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_when_it_cannot_help() {
    let (main, mirror) = (TestRegistry::start(), TestRegistry::start());
    let both = image("amd64", &[1000]);
    let only_main = image("arm64", &[2000]);
    let name = reference(&main.reference("team/app:1"));
    push(&anonymous(), &name, &both).unwrap();
    push(
        &anonymous(),
        &reference(&mirror.reference("cache/team/app:1")),
        &both,
    )
    .unwrap();
    push(&anonymous(), &name.with_tag("2").unwrap(), &only_main).unwrap();
    let at = mirror.reference("cache");
    let client = client(rules(main.address(), &[&at], false), CredentialFiles::default());
    let before = main.log().matches("GET /v2/team").count();
    assert_eq!(client.manifest(&name).unwrap().bytes, both.manifest);
    let layer = rbuild_cache::Digest::of(&both.layers[0]);
    assert_eq!(
        read_all(client.blob(&name, &layer, 1000).unwrap()).unwrap(),
        both.layers[0]
    );
    assert_eq!(
        main.log().matches("GET /v2/team").count(),
        before,
        "the registry itself is not asked"
    );
    assert_eq!(
        client.manifest(&name.with_tag("2").unwrap()).unwrap().bytes,
        only_main.manifest
    );
    let error = client.manifest(&name.with_tag("3").unwrap()).unwrap_err();
    let text = error.to_string();
    assert!(
        error.is_not_found() && text.contains(mirror.address()) && text.contains(main.address()),
        "{text}"
    );
}

#[test]
fn a_mirror_that_is_down_or_busy_costs_little() {
    let main = TestRegistry::start();
    let image = image("amd64", &[1000]);
    let name = reference(&main.reference("app:1"));
    push(&anonymous(), &name, &image).unwrap();
    let down = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let busy = Server::start(|_| Answer::new(429).header("Retry-After", "60"));
    let broken = Server::start(|_| Answer::new(503));
    let (busy, broken) = (busy.address().to_string(), broken.address().to_string());
    let mirrors = [down.as_str(), &busy, &broken];
    let client = client(rules(main.address(), &mirrors, false), CredentialFiles::default());
    for limit in [3000, 2000, 2000] {
        let begun = Instant::now();
        assert_eq!(client.manifest(&name).unwrap().bytes, image.manifest);
        assert!(
            begun.elapsed() < Duration::from_millis(limit),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn a_mirror_sees_its_own_password_only() {
    let main = TestRegistry::start();
    let image = image("amd64", &[1000]);
    let name = reference(&main.reference("app:1"));
    push(&anonymous(), &name, &image).unwrap();
    let mirror = Server::start(|_| Answer::new(401).header("WWW-Authenticate", "Basic realm=\"m\""));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let auths = format!(
        r#"{{"auths":{{"{}":{{"username":"u","password":"hunter2"}}}}}}"#,
        main.address()
    );
    std::fs::write(&path, auths).unwrap();
    let address = mirror.address().to_string();
    let client = client(
        rules(main.address(), &[&address], false),
        CredentialFiles::from_files(vec![path]),
    );
    assert_eq!(client.manifest(&name).unwrap().bytes, image.manifest);
    let asked = mirror.take();
    assert!(
        !asked.is_empty()
            && asked
                .iter()
                .all(|request| request.header("authorization").is_none()),
        "{asked:?}"
    );
}

#[test]
fn a_blocked_registry_is_not_spoken_to() {
    let server = Server::start(|_| Answer::new(200));
    let address = server.address().to_string();
    let client = client(rules(&address, &[], true), CredentialFiles::default());
    let name = reference(&format!("{address}/app:1"));
    let pulled = client.manifest(&name).unwrap_err().to_string();
    let pushed = push(&client, &name, &image("amd64", &[10]))
        .unwrap_err()
        .to_string();
    for error in [pulled, pushed] {
        assert!(error.contains("the configuration blocks"), "{error}");
    }
    assert!(server.take().is_empty());
}
