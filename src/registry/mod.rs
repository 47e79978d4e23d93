//! What do registries have, and how does it get there and back? The OCI distribution protocol, and files of other web servers.
//!
//! * [`credentials`]: which password belongs to which host;
//! * [`certificates`]: whose word is taken for a host, beside that of the machine's authorities;
//! * [`document`]: what a manifest, an index and a config may say;
//! * [`client`]: the blocking operations that the rest of the program calls, [`push`] for uploads;
//! * `tags`: what a repository has;
//! * [`fetch`]: a file of any web server;
//! * `upload`: one blob on its way up; `retry`: what is tried again, and when;
//! * `auth`, `transport` and `origin`: tokens, redirects, and to whom a secret may go.
//!
//! The only room with async code. Nothing here knows the store.

mod auth;
pub mod certificates;
pub mod client;
pub mod credentials;
pub mod document;
pub mod error;
pub mod fetch;
mod origin;
pub mod push;
mod retry;
mod tags;
mod transport;
mod upload;

pub use client::{BlobReader, Registry, RegistryOptions, Resolved};
pub use credentials::CredentialFiles;
pub use document::{Document, Manifest};
pub use error::RegistryError;
pub use fetch::{FetchOptions, FetchRequest, Fetched, FetchedFile, Post, Validators};
pub use push::{PushBlob, Transferred};

pub use crate::graph::reference::{self, Reference, ReferenceError};
