//! Whose word is taken for a registry beside that of the machine's authorities? Directories in the form that docker and
//! podman know: `DIR/HOST[:PORT]/*.crt` are authorities, a `NAME.cert` with its `NAME.key` shows who we are.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::RegistryError;

/// A file larger than this is no certificate.
const LIMIT: u64 = 1 << 20;

/// What one host needs, as PEM.
#[derive(Default)]
pub(super) struct HostCertificates {
    pub(super) authorities: Vec<Vec<u8>>,
    /// Certificate and key.
    pub(super) identity: Option<Vec<u8>>,
}

impl HostCertificates {
    /// What `directories` have for `host`; the first directory that knows the host wins.
    pub(super) fn find(directories: &[PathBuf], host: &str) -> Result<Option<Self>, RegistryError> {
        for directory in places(directories, host) {
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            names.sort();
            let mut found = Self::default();
            for path in names {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => found.authorities.push(read(&path)?),
                    Some("cert") => {
                        let mut identity = read(&path)?;
                        identity.push(b'\n');
                        identity.extend(read(&path.with_extension("key"))?);
                        found.identity = Some(identity);
                    }
                    _ => {}
                }
            }
            return Ok(Some(found));
        }
        Ok(None)
    }
}

/// Whether somebody put certificates for `host` there: then it is meant to be verified, also on this machine.
pub(super) fn are_for(directories: &[PathBuf], host: &str) -> bool {
    places(directories, host).any(|place| place.is_dir())
}

fn places(directories: &[PathBuf], host: &str) -> impl Iterator<Item = PathBuf> {
    // What names a host names no other directory.
    let is_name = !(host.is_empty() || host.starts_with('.') || host.contains('/'));
    directories
        .iter()
        .filter(move |_| is_name)
        .map(move |directory| directory.join(host))
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let fail = |cause: std::io::Error| RegistryError::Certificate {
        path: path.to_owned(),
        reason: cause.to_string(),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(LIMIT).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// Where docker and podman look.
pub fn usual_directories() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from);
    let own = home.iter().flat_map(|home| {
        [
            home.join(".config/containers/certs.d"),
            home.join(".docker/certs.d"),
        ]
    });
    own.chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_by_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("r.example:5000");
        std::fs::create_dir(&host).unwrap();
        for (name, text) in [
            ("b.crt", "B"),
            ("a.crt", "A"),
            ("me.cert", "C"),
            ("me.key", "K"),
            ("README", "x"),
        ] {
            std::fs::write(host.join(name), text).unwrap();
        }
        let directories = [dir.path().join("none"), dir.path().to_owned()];
        let find = |host: &str| HostCertificates::find(&directories, host).unwrap();
        let found = find("r.example:5000").unwrap();
        assert_eq!(found.authorities, [b"A", b"B"]);
        assert_eq!(found.identity.unwrap(), b"C\nK");
        for other in ["r.example", "r.example:5001", "..", "", "../x"] {
            assert!(find(other).is_none(), "{other}");
        }
        std::fs::remove_file(host.join("me.key")).unwrap();
        let error = HostCertificates::find(&directories, "r.example:5000")
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("me.key"), "{error}");
    }
}
