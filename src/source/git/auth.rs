//! Whom git tells who we are: tokens and headers given as secrets, user names and passwords of URLs. Each is for one server;
//! no redirect and no submodule takes it elsewhere, because it is configured for the server's own URLs only.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::ensure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_parser::git_url::{Credentials, Remote, Scheme};

/// Ids of secrets that are for Git servers, without the server.
const HEADER: &str = "GIT_AUTH_HEADER";
const TOKEN: &str = "GIT_AUTH_TOKEN";

/// What is known of who we are.
#[derive(Default)]
pub struct GitAuth {
    /// `GIT_AUTH_TOKEN[.HOST]` and `GIT_AUTH_HEADER[.HOST]`.
    secrets: BTreeMap<String, String>,
    /// Servers that the secrets without a host are for.
    trusted: Mutex<Vec<String>>,
    of_urls: Mutex<Vec<(Remote, Credentials)>>,
}

impl GitAuth {
    /// Those of `secrets`, ids and values, that are for Git servers.
    pub fn new<'s>(secrets: impl IntoIterator<Item = (&'s str, &'s [u8])>) -> anyhow::Result<Self> {
        let mut known = BTreeMap::new();
        for (id, value) in secrets {
            let is_ours = [HEADER, TOKEN].iter().any(|name| {
                let rest = id.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            if !is_ours {
                continue;
            }
            let value = std::str::from_utf8(value).ok();
            let value = value
                .map(|text| text.trim_end_matches(['\r', '\n']))
                .filter(|text| !text.chars().any(char::is_control));
            ensure!(value.is_some(), "the secret {id} is not one line of text");
            known.insert(id.to_owned(), value.unwrap_or_default().to_owned());
        }
        Ok(Self {
            secrets: known,
            ..Self::default()
        })
    }

    /// The user named this server: it may be told the secrets that name none.
    pub fn trust(&self, remote: &Remote) {
        let mut trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        let authority = remote.authority();
        if !trusted.contains(&authority) {
            trusted.push(authority);
        }
    }

    /// Takes the credentials of a URL for its repository, and for others of the same server.
    pub fn learn(&self, remote: &Remote, credentials: Option<&Credentials>) {
        if let Some(credentials) = credentials {
            let mut known = self.of_urls.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|(other, _)| other != remote);
            known.push((remote.clone(), credentials.clone()));
        }
    }

    /// The configuration with which git tells the server of `remote` who we are.
    pub fn config(&self, remote: &Remote) -> Vec<(String, String)> {
        let Some(header) = self.header(remote) else {
            return Vec::new();
        };
        let (scheme, authority) = (remote.scheme().as_str(), remote.authority());
        vec![(
            format!("http.{scheme}://{authority}/.extraHeader"),
            format!("Authorization: {header}"),
        )]
    }

    /// The value of `Authorization` for the server of `remote`.
    pub fn header(&self, remote: &Remote) -> Option<String> {
        if !matches!(remote.scheme(), Scheme::Http | Scheme::Https) {
            return None;
        }
        let basic = |text: &str| format!("basic {}", STANDARD.encode(text));
        let known = self.of_urls.lock().unwrap_or_else(PoisonError::into_inner);
        let same_server =
            |other: &Remote| other.scheme() == remote.scheme() && other.authority() == remote.authority();
        let own = known.iter().find(|(other, _)| other == remote);
        if let Some((_, credentials)) = own.or_else(|| known.iter().find(|(other, _)| same_server(other))) {
            return Some(basic(&credentials.reveal()));
        }
        drop(known);
        let authority = remote.authority();
        let trusted = self
            .trusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&authority);
        let mut ids = vec![format!(".{authority}")];
        if trusted {
            ids.push(String::new());
        }
        ids.iter().find_map(|suffix| {
            let header = self.secrets.get(&format!("{HEADER}{suffix}")).cloned();
            let token = self.secrets.get(&format!("{TOKEN}{suffix}"));
            header.or_else(|| token.map(|token| basic(&format!("x-access-token:{token}"))))
        })
    }
}

impl std::fmt::Debug for GitAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitAuth").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rbuild_parser::git_url::GitUrl;

    use super::*;

    fn remote(text: &str) -> Remote {
        Remote::parse(text).unwrap().0
    }

    fn auth(secrets: &[(&str, &str)]) -> GitAuth {
        let secrets = secrets.iter().map(|(id, value)| (*id, value.as_bytes()));
        GitAuth::new(secrets).unwrap()
    }

    #[test]
    fn each_server_is_told_its_own() {
        let auth = auth(&[
            ("GIT_AUTH_TOKEN", "all\n"),
            ("GIT_AUTH_TOKEN.one:8443", "port"),
            ("GIT_AUTH_TOKEN.one", "one"),
            ("GIT_AUTH_HEADER.two", "Bearer two"),
            ("GIT_AUTH_TOKEN.two", "never"),
            ("OTHER", "x"),
        ]);
        let token = |token: &str| {
            Some(format!(
                "basic {}",
                STANDARD.encode(format!("x-access-token:{token}"))
            ))
        };
        assert_eq!(auth.header(&remote("https://one/r")), token("one"));
        assert_eq!(auth.header(&remote("https://one:8443/r")), token("port"));
        assert_eq!(
            auth.header(&remote("https://two/r")),
            Some("Bearer two".to_owned())
        );
        // A submodule's server, a redirect's: the user did not name it.
        assert_eq!(auth.header(&remote("https://three/r")), None);
        auth.trust(&remote("https://three/r"));
        assert_eq!(auth.header(&remote("https://three/other")), token("all"));
        assert_eq!(auth.header(&remote("https://four/r")), None);
        assert_eq!(auth.header(&remote("ssh://git@one/r")), None);
        let config = auth.config(&remote("https://one:8443/r"));
        assert_eq!(config[0].0, "http.https://one:8443/.extraHeader");
        assert!(config[0].1.starts_with("Authorization: basic "));
        assert!(!format!("{auth:?}").contains("one"));
    }

    #[test]
    fn credentials_of_urls_stay_with_their_server() {
        let auth = auth(&[]);
        let url = GitUrl::of_context("https://u:p@host/a.git").unwrap().unwrap();
        auth.learn(&url.remote, url.credentials.as_ref());
        let expected = Some(format!("basic {}", STANDARD.encode("u:p")));
        assert_eq!(auth.header(&remote("https://host/a.git")), expected);
        assert_eq!(auth.header(&remote("https://host/sub.git")), expected);
        assert_eq!(auth.header(&remote("http://host/a.git")), None);
        assert_eq!(auth.header(&remote("https://host:1/a.git")), None);
    }

    #[test]
    fn headers_cannot_be_split() {
        let bad = [("GIT_AUTH_HEADER", &b"a\r\nX-Evil: 1"[..])];
        assert!(GitAuth::new(bad).unwrap_err().to_string().contains("one line"));
    }
}
