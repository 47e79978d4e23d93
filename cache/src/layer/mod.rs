//! A layer is an ordered list of entries (design D3). Its bytes have up to three forms: a
//! directory tree (an overlay lower), an uncompressed tar, a compressed blob.

mod compress;
pub mod entry;
mod record;
mod tar_header;
mod tar_read;

pub use compress::{Compression, MEDIA_TYPE_GZIP, MEDIA_TYPE_TAR, MEDIA_TYPE_ZSTD};
pub use entry::{Entry, Kind, LayerPath, Timestamp};
pub use record::{CompressedForm, LayerBlob, LayerRecord, RECORD_VERSION, TarForm};
pub use tar_read::{TarEntry, TarError, TarReader};
