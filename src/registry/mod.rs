//! What do registries have, and how does it get there and back? The OCI distribution protocol, and files of other web servers.
//!
//! * [`credentials`]: which password belongs to which host; [`keeping`]: how it is kept;
//! * [`certificates`]: whose word is taken for a host, beside that of the machine's authorities;
//! * [`document`]: what a manifest, an index and a config may say;
//! * [`client`]: the blocking operations that the rest of the program calls: [`manifests`] for what names mean, [`push`] for uploads,
//!   [`download`] for blobs, `ahead` for parts of them on connections of their own;
//! * `tags`: what a repository has; [`referrers`]: what refers to an image there;
//! * [`mirror`]: where else an image may be, and what nobody may ask for;
//! * [`fetch`]: a file of any web server, and what that says of it ([`fetched`]); [`daemon`]: a docker daemon on this machine, which
//!   takes an archive;
//! * `upload`: one blob on its way up; `retry`: what is tried again, and when;
//! * `challenge`, `auth`, `transport`, `connection` and `origin`: tokens, redirects, and to whom a secret may go; `words`: what is
//!   said when it goes wrong.
//!
//! The only room with async code. Nothing here knows the store.

mod ahead;
mod auth;
pub mod certificates;
mod challenge;
pub mod client;
mod connection;
mod credential_helper;
pub mod credentials;
pub mod daemon;
pub mod document;
pub mod download;
pub mod error;
pub mod fetch;
pub mod fetched;
pub mod keeping;
pub mod manifests;
pub mod mirror;
mod origin;
pub mod push;
pub mod referrers;
mod retry;
mod tags;
mod transport;
mod upload;
mod words;

pub use client::{Asked, Registry, RegistryOptions};
pub use credentials::CredentialFiles;
pub use document::{Document, Manifest};
pub use download::BlobReader;
pub use error::RegistryError;
pub use fetch::{FetchOptions, FetchRequest, Post};
pub use fetched::{Fetched, FetchedFile, Validators};
pub use manifests::Resolved;
pub use mirror::{Alias, Decisions, Mirror, Place, Rule, Rules};
pub use push::{PushBlob, Transferred};

pub use crate::graph::reference::{self, Reference, ReferenceError};
