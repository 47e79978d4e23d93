//! How is a password kept? In the file that docker keeps it in, or by the helper that this file names.
//!
//! Invariant: a file is replaced as a whole, belongs to its user alone, and keeps all that we do not know. The password is in no error.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::credential_helper::run_helper;
use super::credentials::{CredentialError, CredentialFiles, names_host, server_key};

/// Where a password went, or went from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In this file, readable for who may read it.
    File(PathBuf),
    /// With the program of this name.
    Helper(String),
}

impl CredentialFiles {
    /// Keeps a login for `host` in docker's config.json, or where that says.
    pub fn keep(&self, path: &Path, host: &str, user: &str, password: &str) -> Result<Kept, CredentialError> {
        let mut document = read(path)?;
        if let Some(helper) = helper(&document, host) {
            let secret = json!({"ServerURL": server_key(host), "Username": user, "Secret": password});
            run_helper(&helper, "store", &secret.to_string(), self.programs())?;
            return Ok(Kept::Helper(format!("docker-credential-{helper}")));
        }
        let auths = document.entry("auths").or_insert_with(|| json!({}));
        let Some(auths) = auths.as_object_mut() else {
            return Err(malformed(path, "its auths are no object"));
        };
        auths.retain(|key, _| !names_host(key, host));
        let auth = STANDARD.encode(format!("{user}:{password}"));
        auths.insert(server_key(host).to_owned(), json!({"auth": auth}));
        write(path, &document)?;
        Ok(Kept::File(path.to_owned()))
    }

    /// Forgets what is known of `host`; whether there was anything.
    pub fn forget(&self, path: &Path, host: &str) -> Result<bool, CredentialError> {
        let mut document = read(path)?;
        let mut found = false;
        if let Some(helper) = helper(&document, host) {
            found = run_helper(&helper, "erase", server_key(host), self.programs()).is_ok();
        }
        if let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|key, _| !names_host(key, host));
            if auths.len() < before {
                found = true;
                write(path, &document)?;
            }
        }
        Ok(found)
    }
}

/// docker's config.json: `DOCKER_CONFIG`, else `~/.docker`.
pub fn usual_file() -> Option<PathBuf> {
    let dir = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = dir("DOCKER_CONFIG").or_else(|| Some(dir("HOME")?.join(".docker")))?;
    Some(directory.join("config.json"))
}

fn helper(document: &Map<String, Value>, host: &str) -> Option<String> {
    let helpers = document.get("credHelpers").and_then(Value::as_object);
    let own = helpers
        .into_iter()
        .flatten()
        .find(|(key, _)| names_host(key, host));
    let name = own.map(|(_, helper)| helper).or(document.get("credsStore"))?;
    name.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

fn malformed(path: &Path, reason: &str) -> CredentialError {
    CredentialError::Malformed {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, CredentialError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(cause) => {
            return Err(CredentialError::Read {
                path: path.to_owned(),
                cause,
            });
        }
    };
    if text.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    // The parser's own message could quote a secret.
    serde_json::from_slice(&text).map_err(|_| malformed(path, "it is no JSON object"))
}

fn write(path: &Path, document: &Map<String, Value>) -> Result<(), CredentialError> {
    let fail = |cause| CredentialError::Write {
        path: path.to_owned(),
        cause,
    };
    // A link stays what it is; what it leads to is replaced.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(fail)?;
    let mut file = tempfile::Builder::new()
        .prefix(".config.json")
        .tempfile_in(directory)
        .map_err(fail)?;
    let only_ours = std::fs::Permissions::from_mode(0o600);
    file.as_file().set_permissions(only_ours).map_err(fail)?;
    serde_json::to_writer_pretty(&mut file, document).map_err(|error| fail(error.into()))?;
    file.write_all(b"\n")
        .and_then(|()| file.as_file().sync_all())
        .map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_kept_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        let files = CredentialFiles::from_files(vec![path.clone()]);
        for host in ["r.example:5000", "docker.io"] {
            assert_eq!(
                files.keep(&path, host, "u", "p:w").unwrap(),
                Kept::File(path.clone())
            );
            assert!(format!("{:?}", files.login(host, "x")).contains("Password"));
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let mut document = read(&path).unwrap();
        assert!(document["auths"]["https://index.docker.io/v1/"].is_object());
        document.insert("psFormat".to_owned(), json!("x"));
        write(&path, &document).unwrap();
        assert!(files.forget(&path, "docker.io").unwrap());
        assert!(!files.forget(&path, "docker.io").unwrap());
        assert!(files.login("docker.io", "x").unwrap().is_none());
        assert!(files.login("r.example:5000", "x").unwrap().is_some());
        assert_eq!(read(&path).unwrap()["psFormat"], "x", "what is not ours stays");
        std::fs::write(&path, "secret").unwrap();
        let error = files.keep(&path, "h", "u", "p").unwrap_err().to_string();
        assert!(
            !error.contains("secret") && error.contains("no JSON object"),
            "{error}"
        );
    }
}
