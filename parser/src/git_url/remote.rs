//! Where a repository lies.

use std::fmt;

use super::GitUrlError;
use super::decode::percent;

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// `https://`.
    Https,
    /// `http://`.
    Http,
    /// `ssh://`, or `user@host:path`.
    Ssh,
    /// `git://`.
    Git,
}

impl Scheme {
    fn of(text: &str) -> Option<Self> {
        [Self::Https, Self::Http, Self::Ssh, Self::Git]
            .into_iter()
            .find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
    }

    /// As in a URL, without `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Git => "git",
        }
    }
}

/// User and password of a URL. They are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    /// `user:password`, as basic authentication wants it before it is encoded.
    pub fn reveal(&self) -> String {
        format!("{}:{}", self.user, self.password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A repository on a server. Shown, it is the URL that git takes, without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Remote {
    scheme: Scheme,
    /// Only with ssh, where it is no secret.
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// From its `/` on; of `user@host:path`, what follows the colon.
    path: String,
    scp_like: bool,
}

impl Remote {
    /// Reads the URL of a remote as repositories name others (`.gitmodules`): no fragment, no query, and everything
    /// that is not one of the known transports is refused.
    pub fn parse(text: &str) -> Result<(Self, Option<Credentials>), GitUrlError> {
        if let Some((scheme, rest)) = text.split_once("://") {
            let scheme = Scheme::of(scheme).ok_or_else(|| GitUrlError::Transport(transport(text)))?;
            return Self::of_url(scheme, rest);
        }
        match scp_like(text) {
            Some((user, host, path)) => Ok((Self::of_scp(user, host, path)?, None)),
            None => Err(GitUrlError::Transport(transport(text))),
        }
    }

    /// How it is reached.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, without port; an IPv6 address has brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `host` or `host:port`.
    pub fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// The port, if one is named.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// What follows host and port.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `user@host` as ssh takes it.
    pub fn destination(&self) -> String {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        match &self.user {
            Some(user) => format!("{user}@{host}"),
            None => host.to_owned(),
        }
    }

    /// The URL that `relative` (`./x`, `../x`) names from here, as git resolves those of submodules.
    pub fn relative(&self, relative: &str) -> Result<Self, GitUrlError> {
        let mut path: &str = self.path.trim_end_matches('/');
        let mut rest = relative;
        loop {
            if let Some(after) = rest.strip_prefix("./") {
                rest = after;
            } else if let Some(after) = rest.strip_prefix("../") {
                let Some((parent, _)) = path.rsplit_once('/') else {
                    return Err(GitUrlError::Path(relative.to_owned()));
                };
                path = parent;
                rest = after;
            } else {
                break;
            }
        }
        let remote = Self {
            path: format!("{path}/{}", rest.trim_end_matches('/')),
            ..self.clone()
        };
        check_path(&remote.path)?;
        Ok(remote)
    }

    /// `rest` is what follows `://`, up to the query.
    fn of_url(scheme: Scheme, rest: &str) -> Result<(Self, Option<Credentials>), GitUrlError> {
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let (userinfo, place) = match authority.rsplit_once('@') {
            Some((userinfo, place)) => (Some(userinfo), place),
            None => (None, authority),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (place, None),
        };
        let port = match port {
            None => None,
            Some(text) => match text.parse() {
                Ok(0) | Err(_) => return Err(GitUrlError::Port(text.to_owned())),
                Ok(port) => Some(port),
            },
        };
        check_host(host)?;
        check_path(path)?;
        if path.len() < 2 {
            return Err(GitUrlError::Path(path.to_owned()));
        }
        let mut remote = Self {
            scheme,
            user: None,
            host: host.to_ascii_lowercase(),
            port,
            path: path.to_owned(),
            scp_like: false,
        };
        let Some(userinfo) = userinfo else {
            return Ok((remote, None));
        };
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (percent(user, false)?, Some(percent(password, false)?)),
            None => (percent(userinfo, false)?, None),
        };
        match scheme {
            Scheme::Https | Scheme::Http => {
                let password = password.unwrap_or_default();
                Ok((remote, Some(Credentials { user, password })))
            }
            Scheme::Ssh | Scheme::Git if password.is_some() => Err(GitUrlError::Password(scheme.as_str())),
            Scheme::Git => Err(GitUrlError::User(user)),
            Scheme::Ssh => {
                check_user(&user)?;
                remote.user = Some(user);
                Ok((remote, None))
            }
        }
    }

    fn of_scp(user: &str, host: &str, path: &str) -> Result<Self, GitUrlError> {
        check_user(user)?;
        check_host(host)?;
        check_path(path)?;
        Ok(Self {
            scheme: Scheme::Ssh,
            user: Some(user.to_owned()),
            host: host.to_ascii_lowercase(),
            port: None,
            path: path.to_owned(),
            scp_like: true,
        })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_deref().map(|user| format!("{user}@"));
        let user = user.unwrap_or_default();
        if self.scp_like {
            return write!(f, "{user}{}:{}", self.host, self.path);
        }
        let authority = self.authority();
        write!(f, "{}://{user}{authority}{}", self.scheme.as_str(), self.path)
    }
}

type Split<'a> = (Result<(Remote, Option<Credentials>), GitUrlError>, &'a str);

/// The remote that `text` begins with, and what follows it; `None` when `text` is no git URL. An http(s) URL is one only
/// when its path ends in `.git`, or with `any_path`.
pub(super) fn split(text: &str, any_path: bool) -> Option<Split<'_>> {
    let end = text.find(['?', '#']).unwrap_or(text.len());
    let (url, rest) = text.split_at(end);
    if let Some((scheme, after)) = url.split_once("://")
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        let scheme = Scheme::of(scheme)?;
        let web = matches!(scheme, Scheme::Http | Scheme::Https);
        if web && !any_path && !after.ends_with(".git") {
            return None;
        }
        return Some((Remote::of_url(scheme, after), rest));
    }
    let (user, host, path) = scp_like(url)?;
    Some((
        Remote::of_scp(user, host, path).map(|remote| (remote, None)),
        rest,
    ))
}

/// `user@host:path`, by the characters that BuildKit takes there.
fn scp_like(text: &str) -> Option<(&str, &str, &str)> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let plain = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    (plain(user, b"-_.") && plain(host, b"-.") && !path.is_empty()).then_some((user, host, path))
}

/// What names the transport in a text that names none of the known: without what may be a secret.
fn transport(text: &str) -> String {
    let end = text.find([':', '/', '@']).unwrap_or(text.len().min(20));
    text.get(..end).unwrap_or_default().to_owned()
}

fn check_host(host: &str) -> Result<(), GitUrlError> {
    let name = |host: &str| {
        !host.is_empty()
            && !host.starts_with(['-', '.'])
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let address = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    match name(host) || address(host) {
        true => Ok(()),
        false => Err(GitUrlError::Host(host.to_owned())),
    }
}

fn check_user(user: &str) -> Result<(), GitUrlError> {
    let valid = !user.is_empty()
        && !user.starts_with('-')
        && user
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte));
    match valid {
        true => Ok(()),
        false => Err(GitUrlError::User(user.to_owned())),
    }
}

/// `..` is refused also when it is encoded: what a server makes of it, nobody knows.
fn check_path(path: &str) -> Result<(), GitUrlError> {
    let decoded = percent(path, false)?;
    let valid = !path.contains([' ', '\\'])
        && !path.trim_start_matches('/').starts_with('-')
        && !decoded.trim_start_matches('/').starts_with('-')
        && !decoded.split('/').any(|part| part == "..");
    match valid {
        true => Ok(()),
        false => Err(GitUrlError::Path(path.to_owned())),
    }
}
