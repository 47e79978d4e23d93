//! Why a build failed, in the form that is shown to the user: what happened, where, and what to do about it (design D12).

use std::fmt;

use rbuild_cache::Key;

use crate::graph::Location;

/// A build that failed. Printed as one line; the renderer adds the source excerpt for [`BuildError::location`].
#[derive(Debug)]
pub struct BuildError {
    /// What happened; its chain says what was being done.
    pub cause: anyhow::Error,
    /// The instruction that could not be done.
    pub location: Option<Location>,
    /// What to do about it, one line.
    pub hint: Option<String>,
    /// The vertex that failed, by digest and shown name: its last log lines belong to the message.
    pub vertex: Option<(Key, String)>,
}

impl BuildError {
    /// An error that belongs to no line of the Dockerfile.
    pub fn new(cause: impl Into<anyhow::Error>) -> Self {
        Self {
            cause: cause.into(),
            location: None,
            hint: None,
            vertex: None,
        }
    }

    /// An error with this text.
    pub fn message(text: impl fmt::Display) -> Self {
        Self::new(anyhow::anyhow!("{text}"))
    }

    /// Says where it happened, unless something nearer to the cause has said so.
    #[must_use]
    pub fn at(mut self, location: Option<Location>) -> Self {
        self.location = self.location.or(location);
        self
    }

    /// Says which vertex failed.
    #[must_use]
    pub fn of_vertex(mut self, digest: Key, name: &str) -> Self {
        self.vertex = Some((digest, name.to_owned()));
        self
    }

    /// Adds what to do about it, unless something nearer to the cause has.
    #[must_use]
    pub fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = self.hint.or(hint);
        self
    }
}

impl fmt::Display for BuildError {
    /// The whole chain in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.cause)
    }
}

impl std::error::Error for BuildError {}

impl From<anyhow::Error> for BuildError {
    /// Keeps place and hint when the error is a [`BuildError`] that went through `anyhow`.
    fn from(cause: anyhow::Error) -> Self {
        match cause.downcast::<Self>() {
            Ok(error) => error,
            Err(cause) => Self::new(cause),
        }
    }
}
