//! What can go wrong with a registry, and what can be done about it.

use rbuild_cache::Digest;

use super::credentials::CredentialError;
use super::reference::ReferenceError;

/// An operation on a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The credentials could not be read.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The host could not be reached or broke off.
    #[error("{doing}: cannot reach {host}: {cause}{remedy}")]
    Network {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// Why.
        cause: String,
        /// What may help, with its own separator; may be empty.
        remedy: &'static str,
    },
    /// The registry does not have it.
    #[error("{doing}: {host} answered: not found{detail}")]
    NotFound {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// What the registry said.
        detail: String,
    },
    /// The registry wants (other) credentials.
    #[error("{doing}: {host} denied access{detail}; {remedy}")]
    Denied {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// What the registry said.
        detail: String,
        /// What may help.
        remedy: String,
    },
    /// Any other answer.
    #[error("{doing}: {host} answered {status}{detail}")]
    Status {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// HTTP status.
        status: u16,
        /// What the registry said.
        detail: String,
    },
    /// The registry does not have what it said that it has.
    #[error("{doing}: {host} has lost blobs that it said it had{detail}")]
    LostBlobs {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// Which; none if it does not say.
        blobs: Vec<Digest>,
        /// What the registry said.
        detail: String,
    },
    /// The registry sent something else than what was asked for.
    #[error("{doing}: {host} sent content with digest {actual} instead of {expected}")]
    Digest {
        /// What was being done.
        doing: String,
        /// Host and port.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A document or an answer that is refused.
    #[error("{doing}: {reason}")]
    Refused {
        /// What was being done.
        doing: String,
        /// Why.
        reason: String,
    },
    /// No entry of an index fits.
    #[error("no match for platform {wanted} in {reference}: it has {offered}")]
    Platform {
        /// The image.
        reference: String,
        /// What was wanted.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// Mirrors did not have it, nor did the registry itself.
    #[error("{error} (before that, of its mirrors: {mirrors})")]
    Everywhere {
        /// What the registry said.
        error: Box<RegistryError>,
        /// What the mirrors said.
        mirrors: String,
    },
    /// A certificate for a host cannot be used.
    #[error("reading the certificate {}: {reason}", path.display())]
    Certificate {
        /// The file or directory.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// What was to be sent could not be read.
    #[error("reading what is to be pushed: {0}")]
    Source(std::io::Error),
    /// The machinery of this process failed.
    #[error("starting the registry client: {0}")]
    Start(String),
}

impl RegistryError {
    /// Whether the registry said that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Everywhere { error, .. } => error.is_not_found(),
            _ => false,
        }
    }

    /// Whether another place may do better.
    pub(super) fn is_of_this_place(&self) -> bool {
        matches!(
            self,
            Self::Network { .. }
                | Self::NotFound { .. }
                | Self::Denied { .. }
                | Self::Status { .. }
                | Self::Digest { .. }
        )
    }
}
