//! An archive that is a whole tree: a build context.

use std::io::{self, Read};
use std::sync::Arc;

use anyhow::Context as _;
use rbuild_cache::layer::{LayerPath, Timestamp};
use rbuild_cache::tree::Tree;
use rbuild_cache::{LayerId, Store, View};

use super::Sources;
use super::add::is_tar_header;
use super::copy;
use super::select::{Item, Relative, Selection};
use crate::graph::CopyOp;

const BLOCK: usize = 512;

/// Whether a file begins as an archive does: compressed, with the header of a tar, or with a tar's end.
pub fn begins_as_archive(mut reader: impl Read) -> io::Result<bool> {
    let mut block = Vec::with_capacity(BLOCK);
    reader.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
    let compressed = [
        &[0x1f, 0x8b, 8][..],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    let blank = || block.iter().all(|byte| *byte == 0);
    Ok(compressed.iter().any(|magic| block.starts_with(magic))
        || (block.len() == BLOCK && (is_tar_header(&block) || blank())))
}

/// Extracts the archive at `path` of `source` into a layer, by the rules of ADD: nothing of it leads out. `limit` is how
/// many bytes it may become.
pub fn extract(
    store: &Store,
    source: &dyn Tree,
    path: &LayerPath,
    limit: Option<u64>,
) -> anyhow::Result<LayerId> {
    let entry = source
        .lookup(path)?
        .with_context(|| format!("there is no {path}"))?;
    let digest = Some(source.content_digest(&entry)?);
    let item = Item {
        relative: Relative::Path(path.clone()),
        entry: Arc::new(entry),
        digest,
        link: None,
    };
    let selection = Selection::of_archive(item, limit);
    let nothing = View::new(Vec::new());
    let sources = Sources {
        growth: store.growth(),
        ..Sources::of(source)
    };
    let plan = copy::plan(&CopyOp::of_all(), &selection, sources, &nothing)?;
    let mut builder = store.layer_builder()?;
    // Directories that the archive only implies have no time of their own.
    plan.write(sources, None, &mut builder, Timestamp::default())?;
    Ok(builder.commit()?)
}
