//! A layer is an ordered list of entries (design D3). Its bytes have up to three forms: a
//! directory tree (an overlay lower), an uncompressed tar, a compressed blob.

mod ahead;
mod assemble;
mod beneath;
mod builder;
mod changes;
mod clamp;
mod compress;
mod compressed;
mod copied;
pub mod entry;
mod forms;
mod growth;
mod index;
mod index_writer;
mod make;
mod ownership;
mod pace;
mod pipe;
mod receive;
mod record;
mod reuse;
mod root_directory;
mod snapshot;
mod survival;
mod tar_header;
mod tar_member;
mod tar_read;
mod tar_write;
mod trees;
mod unpack;
mod upper;
mod verify;

pub use ahead::{Ahead, read_ahead};
pub use assemble::{AssembleError, IndexAssembler};
pub(crate) use beneath::open_file;
pub use builder::LayerBuilder;
pub use clamp::ClampedLayer;
pub use compress::{
    Compression, Compressor, Decompressor, MEDIA_TYPE_GZIP, MEDIA_TYPE_TAR, MEDIA_TYPE_ZSTD, explained,
};
pub use copied::CopiedRoot;
pub(crate) use copied::ParkedRoots;
pub use entry::{Entry, Kind, LayerPath, Timestamp};
pub use forms::Layer;
pub use growth::Growth;
pub use index::{Children, IndexDamaged, IndexEntry, LayerIndex};
pub use ownership::Ownership;
pub(crate) use ownership::note_owner;
pub use pace::Pace;
pub use record::{CompressedForm, LayerBlob, LayerRecord, RECORD_VERSION, TarForm};
pub use reuse::{Reuse, Wanted};
pub use root_directory::Owners;
pub use snapshot::Snapshot;
pub use tar_read::{TarEntry, TarError, TarReader};
pub use tar_write::{TarWriter, Written};
pub use unpack::Unpacker;
pub use upper::walk_tree;
pub(crate) use verify::Soundness;
