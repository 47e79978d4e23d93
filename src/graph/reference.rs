//! What does an image name mean? Docker's familiar rules (distribution/reference): a first component
//! with a dot, a port or an upper-case letter, or `localhost`, is a host; everything else lives on
//! `docker.io`, and there a single component lives below `library/`.
//!
//! Invariant: a [`Reference`] is canonical. Its parts are safe in a URL path and as a map key, and
//! `to_string()` parses to an equal value.

use std::fmt;
use std::str::FromStr;

use rbuild_cache::Digest;

/// The domain of names that have none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const TAG_MAX: usize = 128;
const NAME_MAX: usize = 255;

/// Why a text is no reference, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text does not follow the grammar.
    #[error("invalid reference format: {0:?}")]
    Format(String),
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The repository is too long.
    #[error("repository name must not be more than {NAME_MAX} characters")]
    TooLong,
    /// 64 hex digits could be an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// The digest is not one this program can verify.
    #[error("invalid reference format: {0}")]
    Digest(rbuild_cache::digest::DigestError),
}

impl From<rbuild_cache::digest::DigestError> for ReferenceError {
    fn from(error: rbuild_cache::digest::DigestError) -> Self {
        Self::Digest(error)
    }
}

/// A canonical image reference: `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses what a user may write. Without tag and digest the tag is `latest`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let format = || ReferenceError::Format(text.chars().take(300).collect());
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        // A path has no colon, so the first one starts the tag.
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !valid_domain(domain) || !valid_path(&path.to_ascii_lowercase()) || !tag.is_none_or(valid_tag) {
            return Err(format());
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path.to_owned()));
        }
        let digest = digest.map(str::parse).transpose()?;
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL_PREFIX}{path}")
        } else {
            path.to_owned()
        };
        if path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        let tag = match tag {
            None if digest.is_none() => Some(DEFAULT_TAG),
            tag => tag,
        };
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The host as it is named, with its port: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on that host: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.path
    }

    /// The tag; `None` when only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and repository, as layers name their origin: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository at this digest, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository at this tag, without a digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !valid_tag(tag) {
            return Err(ReferenceError::Format(tag.chars().take(300).collect()));
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The shortest text that means the same, as docker shows it: `busybox:latest`.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), Suffix(self))
    }

    /// [`Self::familiar`] without tag and digest: `busybox`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(short) if !short.contains('/') => short.to_owned(),
            // `docker.io/localhost/x` without its domain would mean another host.
            _ if split_domain(&self.path).1 != self.path => self.name(),
            _ => self.path.clone(),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, Suffix(self))
    }
}

/// Tag and digest as they follow a name.
struct Suffix<'a>(&'a Reference);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = &self.0.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.0.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn split_domain(text: &str) -> (&str, &str) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    if domain == LEGACY_DEFAULT_DOMAIN {
        (DEFAULT_DOMAIN, rest)
    } else {
        (domain, rest)
    }
}

/// `host[:port]`, where host is dotted labels or an IPv6 address in brackets.
fn valid_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            match rest.strip_prefix(':') {
                None => return rest.is_empty(),
                Some(port) => ("v6", Some(port)),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
}

/// Lower-case components of letters and digits, joined inside by `.`, `_`, `__` or dashes.
fn valid_path(path: &str) -> bool {
    path.split('/').all(|component| {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        component.bytes().next().is_some_and(alphanumeric)
            && component.bytes().next_back().is_some_and(alphanumeric)
            && separators
                .filter(|run| !run.is_empty())
                .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
    })
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn familiar_names_become_canonical() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (given, canonical, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            (
                "library/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            (
                "localhost:5000/a/b:t",
                "localhost:5000/a/b:t",
                "localhost:5000/a/b:t",
            ),
            (
                "127.0.0.1:5000/a",
                "127.0.0.1:5000/a:latest",
                "127.0.0.1:5000/a:latest",
            ),
            ("[::1]:5000/a:x", "[::1]:5000/a:x", "[::1]:5000/a:x"),
            (
                "ghcr.io/o/r.s/t_u/v__w/x--y:Z.1",
                "ghcr.io/o/r.s/t_u/v__w/x--y:Z.1",
                "ghcr.io/o/r.s/t_u/v__w/x--y:Z.1",
            ),
            ("Foo/bar", "Foo/bar:latest", "Foo/bar:latest"),
            ("myhost/app", "docker.io/myhost/app:latest", "myhost/app:latest"),
            (
                "docker.io/library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
        ] {
            let reference = Reference::parse(given).unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(reference.to_string(), canonical, "{given}");
            assert_eq!(reference.familiar(), familiar, "{given}");
        }
        let pinned = Reference::parse(&format!("busybox:1@{digest}")).unwrap();
        assert_eq!(
            pinned.to_string(),
            format!("docker.io/library/busybox:1@{digest}")
        );
        assert_eq!(pinned.digest().unwrap().to_string(), digest);
        let untagged = Reference::parse(&format!("busybox@{digest}")).unwrap();
        assert_eq!(untagged.tag(), None);
    }

    #[test]
    fn bad_names_are_refused_in_dockers_words() {
        let long = format!("busybox:{}", "t".repeat(129));
        let deep = "a/".repeat(130) + "a";
        for (given, message) in [
            ("", "invalid reference format"),
            (":tag", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a@", "invalid digest"),
            ("a b", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("/a", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("../a", "invalid reference format"),
            ("a/../b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("https://a.b/c", "invalid reference format"),
            ("host:port/a", "invalid reference format"),
            ("host:99999/a", "invalid reference format"),
            ("-x.io/a", "invalid reference format"),
            ("a@b.io/c", "invalid"),
            ("Busybox", "repository name (Busybox) must be lowercase"),
            ("ghcr.io/Foo/bar:x", "repository name (Foo/bar) must be lowercase"),
            ("a@md5:d41d8cd98f00b204e9800998ecf8427e", "sha256"),
            ("a@sha256:../../x", "invalid reference format"),
            ("a@sha256:00", "64 lower-case hex"),
            (&"0a".repeat(32), "cannot specify 64-byte hexadecimal"),
            (&long, "invalid reference format"),
            (&deep, "must not be more than 255"),
            ("é/x", "invalid reference format"),
        ] {
            let error = Reference::parse(given).expect_err(given).to_string();
            assert!(error.contains(message), "{given}: {error}");
        }
    }

    proptest! {
        #[test]
        fn canonical_text_is_stable(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }
    }
}
