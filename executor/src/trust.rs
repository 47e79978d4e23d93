//! Certificates that a step trusts and that its image does not keep.
//!
//! They lie in the step's own `/dev`, beside those that the image trusts already, and variables of the
//! environment and two configuration files lead programs there. No file of the image is covered: a package that
//! renews the image's bundle does what it always does, and nothing can be copied up into the layer.

use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{Error, inroot};

/// Certificates in PEM form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// Trusted beside those of the image.
    pub given: String,
    /// Stand for those of the image when it has none.
    pub otherwise: String,
}

impl Certificates {
    /// Where systems keep what they trust, in one file.
    pub const BUNDLES: [&str; 6] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/ca-bundle.pem",
        "/var/lib/ca-certificates/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
}

const DIRECTORY: &str = "rbuild";
const BUNDLE: &str = "/dev/rbuild/ca-bundle.crt";
/// Programs that know no variable for the bundle know one for a configuration file.
const SETTINGS: [(&str, &str, &str); 2] = [
    (
        "APT_CONFIG",
        "apt.conf",
        "Acquire::https::CAInfo \"/dev/rbuild/ca-bundle.crt\";\n",
    ),
    (
        "SYSTEM_WGETRC",
        "wgetrc",
        "ca_certificate = /dev/rbuild/ca-bundle.crt\n",
    ),
];
/// OpenSSL, Go, rustls and what stands on them; then programs with a list of their own.
const VARIABLES: [&str; 11] = [
    "SSL_CERT_FILE",
    "SSL_CA_CERT_FILE",
    "NIX_SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "BUNDLE_SSL_CA_CERT",
];
/// No system trusts more than this.
const MAX_BUNDLE: u64 = 8 << 20;

/// Writes the files into `/dev` of `root`, which has to be the step's own already.
pub(crate) fn write(root: BorrowedFd<'_>, certificates: &Certificates) -> Result<(), Error> {
    let fail = |e: io::Error| Error::Setup(format!("placing the certificates of the step: {e}"));
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let dev = inroot::open(root, "/dev", flags).map_err(|e| fail(e.into()))?;
    rustix::fs::mkdirat(&dev, DIRECTORY, Mode::from_raw_mode(0o755)).map_err(|e| fail(e.into()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(&dev, DIRECTORY, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
    // Whatever the umask is, the step may be any user.
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755)).map_err(|e| fail(e.into()))?;

    let mut bundle = of_image(root).unwrap_or_else(|| certificates.otherwise.clone().into_bytes());
    bundle.push(b'\n');
    bundle.extend_from_slice(certificates.given.as_bytes());
    place(&directory, "ca-bundle.crt", &bundle).map_err(fail)?;
    for (_, name, text) in SETTINGS {
        place(&directory, name, text.as_bytes()).map_err(fail)?;
    }
    Ok(())
}

/// The variables that lead to the files, except those that `has` says the step has itself.
pub(crate) fn variables(has: impl Fn(&str) -> bool) -> Vec<String> {
    let bundle = VARIABLES.map(|name| (name, BUNDLE.to_owned()));
    let settings = SETTINGS.map(|(name, file, _)| (name, format!("/dev/{DIRECTORY}/{file}")));
    bundle
        .into_iter()
        .chain(settings)
        .filter(|(name, _)| !has(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// What the image trusts; `None` when it has no bundle that can be read.
fn of_image(root: BorrowedFd<'_>) -> Option<Vec<u8>> {
    Certificates::BUNDLES.iter().find_map(|path| {
        // The image may have anything there, also what never ends or never begins.
        let file = inroot::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut bytes = Vec::new();
        let read = std::fs::File::from(file)
            .take(MAX_BUNDLE)
            .read_to_end(&mut bytes)
            .ok()?;
        (read > 0).then_some(bytes)
    })
}

fn place(directory: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o644))?;
    std::fs::File::from(fd).write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_step_win() {
        let added = variables(|name| name == "PIP_CERT");
        assert_eq!(added.len(), VARIABLES.len() + SETTINGS.len() - 1);
        assert!(added.contains(&"SSL_CERT_FILE=/dev/rbuild/ca-bundle.crt".to_owned()));
        assert!(added.contains(&"APT_CONFIG=/dev/rbuild/apt.conf".to_owned()));
        assert!(!added.iter().any(|v| v.starts_with("PIP_CERT=")));
    }
}
