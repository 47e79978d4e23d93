//! Where do files come from? Images of registries and stores, directories of this machine, servers.

pub mod agent;
pub mod archive;
pub mod compressed;
pub mod context;
pub mod git;
mod hash_reader;
pub mod http;
pub mod ignore_file;
pub mod image;
pub mod layout;
pub mod leak;
pub mod local;
pub mod lock;
pub mod origins;
pub mod remote;
pub mod secret;
