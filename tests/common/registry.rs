//! A registry of its own for one test: Debian's `docker-registry` on a free port of this machine,
//! with its data in a temporary directory. It ends with the value.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses its part, and a test that cannot be set up has failed"
)]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// User that a registry with [`TestRegistry::with_password`] knows.
pub const USER: &str = "tester";
/// That user's password.
pub const PASSWORD: &str = "secret";
const PASSWORD_HASH: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

const HTPASSWD: &str = "auth:\n  htpasswd:\n    realm: test\n    path: DIR/htpasswd\n";

/// A running registry.
pub struct TestRegistry {
    dir: tempfile::TempDir,
    address: String,
    child: Child,
}

impl TestRegistry {
    /// One that lets everybody read and write.
    pub fn start() -> Self {
        Self::spawn("")
    }

    /// One that only [`USER`] gets into.
    pub fn with_password() -> Self {
        Self::spawn(HTPASSWD)
    }

    /// One that speaks TLS with `certificate` and `key` (PEM files).
    pub fn with_tls(certificate: &Path, key: &Path) -> Self {
        Self::spawn(&tls(certificate, key))
    }

    /// The same, and only [`USER`] gets into it.
    pub fn with_tls_and_password(certificate: &Path, key: &Path) -> Self {
        Self::spawn(&format!("{}{HTPASSWD}", tls(certificate, key)))
    }

    /// One that wants tokens of `realm`, signed by the owner of the certificate.
    pub fn with_tokens(realm: &str, certificate: &Path) -> Self {
        let certificate = certificate.display();
        Self::spawn(&format!(
            "auth:\n  token:\n    realm: {realm}\n    service: test\n    issuer: test\n    rootcertbundle: {certificate}\n"
        ))
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// What the registry wrote so far: one line per request.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Where its data lies.
    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// With `more` at the end of its configuration.
    fn spawn(more: &str) -> Self {
        // Between finding a free port and using it somebody else may take it.
        (0..5)
            .find_map(|_| Self::try_spawn(more))
            .expect("docker-registry does not start")
    }

    fn try_spawn(more: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        std::fs::write(dir.path().join("config.yml"), config(dir.path(), &address, more)).unwrap();
        std::fs::write(dir.path().join("htpasswd"), format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("docker-registry is not installed");
        let mut registry = Self { dir, address, child };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if registry.child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect(&registry.address).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tls(certificate: &Path, key: &Path) -> String {
    let (certificate, key) = (certificate.display(), key.display());
    format!("  tls:\n    certificate: {certificate}\n    key: {key}\n")
}

fn config(dir: &Path, address: &str, more: &str) -> String {
    let dir = dir.display().to_string();
    let more = more.replace("DIR", &dir);
    format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {dir}/data\n  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n{more}"
    )
}
