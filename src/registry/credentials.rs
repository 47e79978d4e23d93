//! Which password belongs to which host? Docker's config.json, containers' auth.json and their
//! credential helpers. [`super::keeping`] writes them.
//!
//! Invariant: an entry serves exactly the host (or, in containers' notation, the repository prefix)
//! that it names. A helper or a file that is broken is an error: nothing falls back to another entry
//! (CVE-2021-41092). No secret is in `Debug` or in an error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::credential_helper::{self, ask_helper};
use super::reference::DEFAULT_DOMAIN;

/// Under which docker keeps the password of docker.io.
const DOCKER_IO_KEY: &str = "https://index.docker.io/v1/";
const DOCKER_IO_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// A file larger than this holds no credentials.
const FILE_LIMIT: u64 = 4 << 20;
/// Credentials could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("reading credentials from {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file is not what it should be.
    #[error("reading credentials from {path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, without its contents.
        reason: String,
    },
    /// A file cannot be written.
    #[error("keeping credentials in {path}: {cause}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A helper failed.
    #[error("asking credential helper {helper} for {host}: {reason}")]
    Helper {
        /// Name of the program.
        helper: String,
        /// For which host.
        host: String,
        /// What happened, without its output.
        reason: String,
    },
}

/// How to show a registry who is asking.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// User name and password.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token, to be exchanged at the registry's realm.
    Identity(String),
    /// A token that the registry takes as it is.
    Bearer(String),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::Identity(_) => "Identity(..)",
            Self::Bearer(_) => "Bearer(..)",
        })
    }
}

/// Where credentials are looked for, first to last.
#[derive(Debug, Clone, Default)]
pub struct CredentialFiles {
    files: Vec<PathBuf>,
    /// `PATH` for helpers; `None` for that of this process.
    path: Option<OsString>,
    /// A login that is in no file yet, and its host.
    given: Option<(String, Login)>,
}

impl CredentialFiles {
    /// As docker, podman and buildah look: `REGISTRY_AUTH_FILE`, docker's config.json (`DOCKER_CONFIG`
    /// or `~/.docker`), then containers' auth.json below `XDG_RUNTIME_DIR` and `~/.config`.
    pub fn from_environment() -> Self {
        let dir = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = dir("HOME");
        let files = [
            dir("REGISTRY_AUTH_FILE"),
            dir("DOCKER_CONFIG")
                .or_else(|| Some(home.as_ref()?.join(".docker")))
                .map(|d| d.join("config.json")),
            dir("XDG_RUNTIME_DIR").map(|d| d.join("containers/auth.json")),
            dir("XDG_CONFIG_HOME")
                .or_else(|| Some(home.as_ref()?.join(".config")))
                .map(|d| d.join("containers/auth.json")),
        ];
        Self {
            files: files.into_iter().flatten().collect(),
            ..Self::default()
        }
    }

    /// Only these files.
    pub fn from_files(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }

    /// One login, of no file.
    pub fn given(host: &str, login: Login) -> Self {
        Self {
            given: Some((host.to_owned(), login)),
            ..Self::default()
        }
    }

    pub(super) fn programs(&self) -> Option<&OsString> {
        self.path.as_ref()
    }

    /// The login for `repository` on `host` (both as a reference has them); the first file with one wins.
    pub fn login(&self, host: &str, repository: &str) -> Result<Option<Login>, CredentialError> {
        if let Some((_, login)) = self.given.as_ref().filter(|(known, _)| known == host) {
            return Ok(Some(login.clone()));
        }
        for path in &self.files {
            let Some(file) = AuthFile::read(path)? else {
                continue;
            };
            if let Some(login) = file.login(path, host, repository, self.path.as_ref())? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// From where the login for `repository` on `host` would come; no helper is asked.
    pub fn explain(&self, host: &str, repository: &str) -> Result<Option<String>, CredentialError> {
        for path in &self.files {
            let Some(file) = AuthFile::read(path)? else {
                continue;
            };
            if let Some(helper) = file.helper(host) {
                return Ok(Some(format!(
                    "what docker-credential-{helper} has ({})",
                    path.display()
                )));
            }
            let login = file.entry_login(path, host, repository)?;
            let whose = match login {
                Some(Login::Password { user, .. }) => format!("user {user}"),
                Some(Login::Identity(_)) => "an identity token".to_owned(),
                Some(Login::Bearer(_)) => "a registry token".to_owned(),
                None => continue,
            };
            return Ok(Some(format!("{whose} ({})", path.display())));
        }
        Ok(None)
    }

    /// The files, for messages.
    pub fn describe(&self) -> String {
        let names: Vec<String> = self.files.iter().map(|path| path.display().to_string()).collect();
        names.join(", ")
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, AuthEntry>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
struct AuthEntry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
    #[serde(default)]
    registrytoken: Option<String>,
}

impl AuthFile {
    /// `None` when there is no file.
    fn read(path: &Path) -> Result<Option<Self>, CredentialError> {
        let fail = |cause| CredentialError::Read {
            path: path.to_owned(),
            cause,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(fail(e)),
        };
        let mut text = Vec::new();
        file.take(FILE_LIMIT + 1).read_to_end(&mut text).map_err(fail)?;
        if text.len() as u64 > FILE_LIMIT {
            return Err(CredentialError::Malformed {
                path: path.to_owned(),
                reason: "it is too large".to_owned(),
            });
        }
        if text.trim_ascii().is_empty() {
            return Ok(Some(Self::default()));
        }
        // The parser's own message could quote a secret, so only its place is told.
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| CredentialError::Malformed {
                path: path.to_owned(),
                reason: format!(
                    "it is not what is expected at line {} column {}",
                    error.line(),
                    error.column()
                ),
            })
    }

    fn login(
        &self,
        path: &Path,
        host: &str,
        repository: &str,
        programs: Option<&OsString>,
    ) -> Result<Option<Login>, CredentialError> {
        let server = server_key(host);
        if let Some(helper) = self.helper(host)
            && let Some(login) = ask_helper(helper, server, programs, credential_helper::TIMEOUT)?
        {
            return Ok(Some(login));
        }
        self.entry_login(path, host, repository)
    }

    /// Who keeps the secrets of `host`.
    fn helper(&self, host: &str) -> Option<&String> {
        let mut helpers = self.cred_helpers.iter().flatten();
        let helper = helpers.find(|(key, _)| names_host(key, host));
        let store = self.creds_store.as_ref().filter(|name| !name.is_empty());
        helper.map(|(_, helper)| helper).or(store)
    }

    /// What the file itself has.
    fn entry_login(
        &self,
        path: &Path,
        host: &str,
        repository: &str,
    ) -> Result<Option<Login>, CredentialError> {
        // The longest repository prefix first, then the host.
        let mut scope = format!("{host}/{repository}");
        loop {
            let is_host = !scope.contains('/');
            let mut entries = self.auths.iter().flatten();
            let entry = entries.find(|(key, _)| {
                if is_host {
                    names_host(key, host)
                } else {
                    **key == scope
                }
            });
            if let Some((key, entry)) = entry {
                let malformed = |reason: &str| CredentialError::Malformed {
                    path: path.to_owned(),
                    reason: format!("the entry of {key} {reason}"),
                };
                if let Some(login) = entry.login().map_err(malformed)? {
                    return Ok(Some(login));
                }
            }
            match scope.rfind('/') {
                Some(end) => scope.truncate(end),
                None => return Ok(None),
            }
        }
    }
}

impl AuthEntry {
    /// `None` for an entry without a secret: docker leaves such when a helper has it.
    fn login(&self) -> Result<Option<Login>, &'static str> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = set(&self.registrytoken) {
            return Ok(Some(Login::Bearer(token)));
        }
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Some(Login::Identity(token)));
        }
        if let Some(auth) = set(&self.auth) {
            let bytes = STANDARD
                .decode(auth.trim())
                .map_err(|_| "has an auth that is not base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "has an auth that is not text")?;
            let (user, password) = text.split_once(':').ok_or("has an auth without a password")?;
            let password = password.trim_end_matches('\0');
            return Ok(Some(Login::Password {
                user: user.to_owned(),
                password: password.to_owned(),
            }));
        }
        match (set(&self.username), set(&self.password)) {
            (Some(user), Some(password)) => Ok(Some(Login::Password { user, password })),
            _ => Ok(None),
        }
    }
}

/// Under which name docker keeps what belongs to `host`.
pub(super) fn server_key(host: &str) -> &str {
    if host == DEFAULT_DOMAIN {
        DOCKER_IO_KEY
    } else {
        host
    }
}

/// Whether a key of a file names this host: as it is, or as the address of a registry's API.
pub(super) fn names_host(key: &str, host: &str) -> bool {
    let bare = match key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
    {
        Some(address) => match address.split_once('/') {
            Some((bare, "" | "v1" | "v1/" | "v2" | "v2/")) => bare,
            Some(_) => return false,
            None => address,
        },
        None => key,
    };
    bare == host || (host == DEFAULT_DOMAIN && DOCKER_IO_NAMES.contains(&bare))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    use super::*;

    fn password(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    fn files(text: &str) -> (tempfile::TempDir, CredentialFiles) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let mut files =
            CredentialFiles::from_files(vec![dir.path().join("none.json"), dir.path().join("config.json")]);
        let path = std::env::var("PATH").unwrap_or_default();
        files.path = Some(format!("{}:{path}", dir.path().display()).into());
        (dir, files)
    }

    #[test]
    fn an_entry_serves_its_host_only() {
        let auth = |text: &str| STANDARD.encode(text);
        let text = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}},"ghcr.io":{{"auth":"{}"}},
                "https://old.example/v1/":{{"username":"u","password":"p"}},"quay.io/team":{{"auth":"{}"}},
                "idp.example":{{"auth":"{}","identitytoken":"it"}},"empty.example":{{}},"localhost:5000":{{"registrytoken":"rt"}}}}}}"#,
            auth("hub:secret"),
            auth("gh:a:b"),
            auth("team:t"),
            auth("<token>:"),
        );
        let (_dir, files) = files(&text);
        for (host, repository, expected) in [
            ("docker.io", "library/busybox", password("hub", "secret")),
            ("ghcr.io", "x", password("gh", "a:b")),
            ("ghcr.io.evil", "x", None),
            ("evil-ghcr.io", "x", None),
            ("ghcr.io:443", "x", None),
            ("GHCR.io", "x", None),
            ("old.example", "x", password("u", "p")),
            ("quay.io", "team/app", password("team", "t")),
            ("quay.io", "teammate/app", None),
            ("quay.io", "app", None),
            ("idp.example", "x", Some(Login::Identity("it".to_owned()))),
            ("localhost:5000", "x", Some(Login::Bearer("rt".to_owned()))),
            ("localhost", "x", None),
            ("empty.example", "x", None),
        ] {
            assert_eq!(
                files.login(host, repository).unwrap(),
                expected,
                "{host}/{repository}"
            );
        }
    }

    #[test]
    fn what_is_broken_is_an_error_without_secrets() {
        for text in [
            "{",
            r#"{"auths":["hunter2"]}"#,
            r#"{"auths":{"a.example":{"auth":"hunter2!"}}}"#,
            r#"{"auths":{"a.example":{"auth":"aHVudGVyMg=="}}}"#,
        ] {
            let (_dir, files) = files(text);
            let error = files.login("a.example", "x").expect_err(text);
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains("config.json") && !shown.contains("hunter2"),
                "{shown}"
            );
        }
        assert_eq!(format!("{:?}", password("u", "hunter2").unwrap()), "Password(..)");
    }

    #[test]
    fn helpers_are_asked_and_believed_only_when_they_work() {
        let text = r#"{"auths":{"b.example":{"auth":"dTpw"},"fail.example":{"auth":"dTpw"}},"credsStore":"store",
            "credHelpers":{"a.example":"good","fail.example":"bad","junk.example":"junk","gone.example":"gone","up.example":"../x"}}"#;
        let (dir, files) = files(text);
        let script = |name: &str, body: &str| {
            let path = dir.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        };
        script(
            "good",
            r#"read -r server; printf '{"ServerURL":"","Username":"%s","Secret":"s"}' "$server$1""#,
        );
        script("bad", "echo 'hunter2 exploded'; exit 1");
        script("junk", "echo hunter2");
        script("store", "echo 'credentials not found in native keychain'; exit 1");
        script("slow", "sleep 60");
        assert_eq!(
            files.login("a.example", "x").unwrap(),
            password("a.exampleget", "s")
        );
        // The store has nothing, the file has.
        assert_eq!(files.login("b.example", "x").unwrap(), password("u", "p"));
        for host in ["fail.example", "junk.example", "gone.example", "up.example"] {
            let error = files.login(host, "x").expect_err(host);
            assert!(
                matches!(error, CredentialError::Helper { .. }) && !error.to_string().contains("hunter2"),
                "{error}"
            );
        }
        let begun = Instant::now();
        let error = ask_helper("slow", "x", files.path.as_ref(), Duration::from_millis(100)).unwrap_err();
        assert!(
            error.to_string().contains("no answer") && begun.elapsed() < Duration::from_secs(5),
            "{error}"
        );
    }
}
