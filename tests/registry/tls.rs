//! TLS with an authority that only the user knows.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rbuild::registry::{CredentialFiles, Registry, RegistryOptions};

use super::authority::{self, Signed};
use super::common::TestRegistry;
use super::faults::Faults;
use super::flaps::{go_over, options};
use super::images::{image, push};
use super::reference;

/// Two authorities, and a certificate of the first for this machine.
fn authorities(dir: &Path) -> (Signed, Signed, Signed) {
    let ours = authority::authority(dir, "ours");
    let signed = authority::server(dir, &ours, "IP:127.0.0.1", None);
    (ours, authority::authority(dir, "other"), signed)
}

/// Puts what is known of `host` below `certificates`.
fn trust(certificates: &Path, host: &str, authority: Option<&Signed>) {
    let directory = certificates.join(host);
    std::fs::create_dir_all(&directory).unwrap();
    if let Some(authority) = authority {
        std::fs::copy(&authority.certificate, directory.join("ca.crt")).unwrap();
    }
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other, signed) = authorities(dir.path());
    let server = TestRegistry::with_tls(&signed.certificate, &signed.key);
    let client = |authority: Option<&Signed>| {
        let certs = tempfile::tempdir().unwrap();
        if let Some(authority) = authority {
            trust(certs.path(), server.address(), Some(authority));
        }
        let options = RegistryOptions {
            certificates: vec![certs.path().to_owned()],
            ..options()
        };
        (
            certs,
            Registry::with_credentials(options, CredentialFiles::default()),
        )
    };
    let name = reference(&server.reference("app:1"));
    let image = image("amd64", &[1000, 2_000_000]);
    let (_certs, trusting) = client(Some(&ours));
    push(&trusting, &name, &image).unwrap();
    assert_eq!(trusting.manifest(&name).unwrap().bytes, image.manifest);
    // With certificates for a host, those count, also on this machine; without any, a host of this machine is not doubted.
    let (_certs, wrong) = client(Some(&other));
    let begun = Instant::now();
    let error = wrong.manifest(&name).unwrap_err().to_string();
    assert!(
        error.contains("certificate") && error.contains(server.address()),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(3));
    let (_certs, careless) = client(None);
    assert_eq!(careless.manifest(&name).unwrap().bytes, image.manifest);

    // Those of the machine, as SSL_CERT_FILE names them: a host with a directory is verified even here.
    let home = tempfile::tempdir().unwrap();
    trust(
        &home.path().join(".config/containers/certs.d"),
        server.address(),
        None,
    );
    for (authority, code) in [(&ours, 0), (&other, 1)] {
        let begun = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_rbuild"))
            .args(["manifest", "inspect", &name.to_string()])
            .env_clear()
            .env("HOME", home.path())
            .env("SSL_CERT_FILE", &authority.certificate)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        if code == 1 {
            assert!(
                said.contains("certificate") && said.contains(server.address()),
                "{said}"
            );
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        }
    }
}

#[test]
fn twenty_layers_with_tls_and_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, _, signed) = authorities(dir.path());
    let server = TestRegistry::with_tls_and_password(&signed.certificate, &signed.key);
    let line = Faults::around(server.address(), 4);
    trust(dir.path(), &line.address(), Some(&ours));
    let options = RegistryOptions {
        certificates: vec![dir.path().to_owned()],
        ..options()
    };
    println!("with TLS and a password: {}", go_over(&line, &options));
}
