//! A layer is an ordered list of entries (design D3). Its bytes have up to three forms: a
//! directory tree (an overlay lower), an uncompressed tar, a compressed blob.

pub mod entry;

pub use entry::{Entry, Kind, LayerPath, Timestamp};
