//! Certificates of a test, by openssl.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and a test that cannot be set up has failed"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A key and its certificate.
pub struct Signed {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// An authority that signs itself, in `dir`.
pub fn authority(dir: &Path, name: &str) -> Signed {
    make(
        dir,
        name,
        &[
            "-days",
            "10",
            "-addext",
            "keyUsage=critical,keyCertSign,digitalSignature",
        ],
    )
}

/// What `authority` says of `names` (`IP:..`, `DNS:..`), good from and until then (`YYYYMMDDHHMMSSZ`), or now.
pub fn server(dir: &Path, authority: &Signed, names: &str, when: Option<(&str, &str)>) -> Signed {
    let signed = Signed {
        certificate: dir.join("server.crt"),
        key: dir.join("server.pem"),
    };
    let at = |name: &str| dir.join(name);
    let request = Command::new("openssl")
        .args([
            "req",
            "-new",
            "-nodes",
            "-newkey",
            "rsa:2048",
            "-subj",
            "/CN=server",
            "-keyout",
        ])
        .arg(&signed.key)
        .arg("-out")
        .arg(at("server.csr"))
        .output();
    assert!(request.unwrap().status.success());
    let place = dir.display();
    let config = format!(
        "[ca]\ndefault_ca=d\n[d]\ndatabase={place}/index.txt\nnew_certs_dir={place}\nrand_serial=yes\ndefault_md=sha256\n\
         policy=p\nunique_subject=no\nx509_extensions=x\n[p]\ncommonName=supplied\n[x]\nbasicConstraints=critical,CA:FALSE\n\
         subjectAltName={names}\n"
    );
    std::fs::write(at("ca.conf"), config).unwrap();
    std::fs::write(at("index.txt"), "").unwrap();
    let mut command = Command::new("openssl");
    command
        .args(["ca", "-batch", "-notext", "-config"])
        .arg(at("ca.conf"));
    command
        .arg("-cert")
        .arg(&authority.certificate)
        .arg("-keyfile")
        .arg(&authority.key);
    command
        .arg("-in")
        .arg(at("server.csr"))
        .arg("-out")
        .arg(&signed.certificate);
    match when {
        Some((from, until)) => command.args(["-startdate", from, "-enddate", until]),
        None => command.args(["-days", "10"]),
    };
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    signed
}

fn make(dir: &Path, name: &str, arguments: &[&str]) -> Signed {
    let signed = Signed {
        certificate: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.pem")),
    };
    let output = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj"])
        .arg(format!("/CN={name}"))
        .arg("-keyout")
        .arg(&signed.key)
        .arg("-out")
        .arg(&signed.certificate)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    signed
}

/// An RSA signature of `text` (RS256).
pub fn sign(key: &Path, text: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}
