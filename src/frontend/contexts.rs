//! Named contexts (`--build-context`, spec 7.3): they stand before stages and images of their name.

use std::collections::BTreeMap;
use std::str::FromStr;

use rbuild_parser::git_url::{GitUrl, GitUrlError};

use super::stage::{Base, CopyFrom};
use crate::graph::Reference;
use crate::graph::address::masked;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory of this machine; the caller knows which one the name means.
    Local,
    /// An image: a reference as [`super::MetaResolver`] takes it.
    Image(String),
    /// A Git repository, or a file of a web server, called `context`.
    Remote(String),
    /// Nothing at all.
    Scratch,
}

/// A value of `--build-context` that is no directory and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A kind that is not there yet.
    #[error(
        "the context {0:?} is not supported yet: use a directory, docker-image://, oci-layout://, https:// or a git URL"
    )]
    Unsupported(String),
    /// A git URL that is refused.
    #[error(transparent)]
    Git(GitUrlError),
    /// No image name.
    #[error("the context {text:?} names no image: {reason}")]
    Reference {
        /// As given.
        text: String,
        /// What is wrong.
        reason: String,
    },
}

impl FromStr for NamedContext {
    type Err = ContextError;

    /// A path is [`NamedContext::Local`]; nobody looks whether it is there.
    fn from_str(text: &str) -> Result<Self, ContextError> {
        for scheme in ["docker-image://", "container-image://", "docker://"] {
            let Some(image) = text.strip_prefix(scheme) else {
                continue;
            };
            if image == "scratch" {
                return Ok(Self::Scratch);
            }
            return match Reference::parse(image) {
                Ok(_) => Ok(Self::Image(image.to_owned())),
                Err(error) => Err(ContextError::Reference {
                    text: text.to_owned(),
                    reason: error.to_string(),
                }),
            };
        }
        if text.starts_with("oci-layout://") {
            return Ok(Self::Image(text.to_owned()));
        }
        let is_git = GitUrl::of_context(text).map_err(ContextError::Git)?.is_some();
        let web = ["http://", "https://"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
        if is_git || web {
            return Ok(Self::Remote(text.to_owned()));
        }
        if text.contains("://") || text.starts_with("target:") {
            return Err(ContextError::Unsupported(masked(text).into_owned()));
        }
        Ok(Self::Local)
    }
}

/// Named contexts by what their names mean.
#[derive(Debug, Default)]
pub(super) struct Contexts(BTreeMap<String, (String, NamedContext)>);

impl Contexts {
    /// A later context of a name wins.
    pub(super) fn new(given: &[(String, NamedContext)]) -> Self {
        let entry = |(name, context): &(String, NamedContext)| {
            Some((normalised(name)?, (name.clone(), context.clone())))
        };
        Self(given.iter().filter_map(entry).collect())
    }

    /// What FROM begins with when it names a context.
    pub(super) fn base(&self, name: &str) -> Option<Base> {
        self.find(name).map(|(name, context)| match context {
            NamedContext::Local => Base::Local(name.clone()),
            NamedContext::Image(reference) => Base::Image(reference.clone()),
            NamedContext::Remote(url) => Base::Remote(url.clone()),
            NamedContext::Scratch => Base::Scratch,
        })
    }

    /// What `--from` reads when it names a context.
    pub(super) fn copy_from(&self, name: &str) -> Option<CopyFrom> {
        self.find(name).map(|(name, context)| match context {
            NamedContext::Local => CopyFrom::Local(name.clone()),
            NamedContext::Image(reference) => CopyFrom::Image(reference.clone()),
            NamedContext::Remote(url) => CopyFrom::Remote(url.clone()),
            NamedContext::Scratch => CopyFrom::Scratch,
        })
    }

    fn find(&self, name: &str) -> Option<&(String, NamedContext)> {
        self.0.get(&normalised(name)?)
    }
}

/// `alpine`, `alpine:latest` and `docker.io/library/alpine` are one name; `scratch` and `context` are none.
fn normalised(name: &str) -> Option<String> {
    if ["scratch", "context"]
        .iter()
        .any(|taken| name.eq_ignore_ascii_case(taken))
    {
        return None;
    }
    let name = name.to_lowercase();
    Some(Reference::parse(&name).map_or(name, |reference| reference.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart() {
        let image = |text: &str| Ok(NamedContext::Image(text.to_owned()));
        for (text, expected) in [
            ("dir/below", Ok(NamedContext::Local)),
            ("/abs", Ok(NamedContext::Local)),
            ("docker-image://alpine:3", image("alpine:3")),
            ("docker://quay.io/a/b", image("quay.io/a/b")),
            ("container-image://scratch", Ok(NamedContext::Scratch)),
            ("oci-layout://dir:tag", image("oci-layout://dir:tag")),
            ("git@host:x", Ok(NamedContext::Remote("git@host:x".to_owned()))),
            (
                "https://host/file.tar",
                Ok(NamedContext::Remote("https://host/file.tar".to_owned())),
            ),
        ] {
            assert_eq!(text.parse::<NamedContext>(), expected, "{text}");
        }
        for bad in [
            "https://x/y.git#-u",
            "git@-host:x",
            "ftp://host/x",
            "target:other",
            "docker-image://UPPER",
        ] {
            assert!(bad.parse::<NamedContext>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_references() {
        let contexts = Contexts::new(&[
            ("alpine".to_owned(), NamedContext::Scratch),
            ("Dep".to_owned(), NamedContext::Local),
            ("scratch".to_owned(), NamedContext::Local),
        ]);
        for same in ["alpine", "alpine:latest", "docker.io/library/alpine"] {
            assert_eq!(contexts.base(same), Some(Base::Scratch), "{same}");
        }
        assert_eq!(contexts.copy_from("dep"), Some(CopyFrom::Local("Dep".to_owned())));
        for other in ["alpine:3", "scratch", "SCRATCH", "context", "x"] {
            assert_eq!(contexts.base(other), None, "{other}");
        }
    }
}
