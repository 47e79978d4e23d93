//! An OCI image layout of several images, as one tar or as a directory, with `manifest.json` beside it when docker is to
//! read it. Blobs are streamed out of the store and verified on the way; equal ones are written once. The bytes
//! depend on the images, their names and the given time only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, ensure};
use rbuild_cache::layer::{Entry, Kind, LayerPath, TarWriter, Timestamp, read_ahead};
use rbuild_cache::{Descriptor, Digest, Store, VerifiedReader};
use serde_json::{Value, json};

use super::Destination;
use super::attached::Attached;
use super::full_disk::explained;
use super::replacement::Replacement;
use super::stored::StoredManifest;
use crate::graph::Platform;
use crate::registry::Reference;
use crate::registry::document::OCI_INDEX;

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image to archive.
#[derive(Debug, Clone)]
pub struct ArchiveImage {
    /// Its manifest.
    pub manifest: Descriptor,
    /// The manifest's bytes.
    pub manifest_bytes: Vec<u8>,
    /// Its config.
    pub config: Descriptor,
    /// The config's bytes.
    pub config_bytes: Vec<u8>,
    /// Its layers; their blobs are in the store.
    pub layers: Vec<Descriptor>,
    /// Platform, for the index.
    pub platform: Platform,
    /// Names, one entry of the index each. Without a name the image is found by digest.
    pub names: Vec<Reference>,
    /// Annotations of the manifest's descriptor.
    pub annotations: BTreeMap<String, String>,
}

impl ArchiveImage {
    /// An image of the store, byte for byte.
    pub fn stored(image: StoredManifest, names: Vec<Reference>) -> Self {
        Self {
            config: image.manifest.config,
            config_bytes: image.config,
            layers: image.manifest.layers,
            platform: image.facts.platform,
            manifest: image.descriptor,
            manifest_bytes: image.bytes,
            names,
            annotations: BTreeMap::new(),
        }
    }
}

/// An image of several platforms to archive.
#[derive(Debug, Clone)]
pub struct ArchiveIndex {
    /// The index.
    pub descriptor: Descriptor,
    /// The index's bytes.
    pub bytes: Vec<u8>,
    /// The images that it names; their own names do not count.
    pub images: Vec<ArchiveImage>,
    /// Other blobs of the store that belong to it: attestations.
    pub others: Vec<Descriptor>,
    /// Names, as those of an image.
    pub names: Vec<Reference>,
    /// Annotations of the index's descriptor.
    pub annotations: BTreeMap<String, String>,
}

/// What an entry of the layout leads to.
#[derive(Debug, Clone)]
pub enum Archived {
    /// One image.
    Image(ArchiveImage),
    /// One for each of several platforms.
    Index(ArchiveIndex),
    /// What is said of an image beside it.
    Attached(Attached),
}

impl Archived {
    fn images(&self) -> &[ArchiveImage] {
        match self {
            Self::Image(image) => std::slice::from_ref(image),
            Self::Index(index) => &index.images,
            Self::Attached(_) => &[],
        }
    }
}

/// Which files stand beside the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `oci-layout` and `index.json`.
    Oci,
    /// Those and docker's `manifest.json`.
    Docker,
}

/// Writes `images` as a tar to `dest`.
pub fn write_tar(
    store: &Store,
    images: &[Archived],
    format: Format,
    dest: &Destination,
    epoch: Option<i64>,
) -> anyhow::Result<()> {
    to_destination(dest, |out| stream_tar(store, images, format, epoch, out))
}

/// Writes `images` as a tar to `out`.
pub fn stream_tar(
    store: &Store,
    images: &[Archived],
    format: Format,
    epoch: Option<i64>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut tar = TarWriter::new(out);
    let member = |name: &str, kind, mode| Entry {
        path: LayerPath::clean(name.as_bytes()),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            seconds: epoch.unwrap_or(0),
            nanoseconds: 0,
        },
        xattrs: Vec::new(),
    };
    for directory in ["blobs", "blobs/sha256"] {
        tar.append(&member(directory, Kind::Directory { opaque: false }, 0o755), None)?;
    }
    write_members(store, images, format, epoch, &mut |name, size, bytes| {
        let member = member(name, Kind::File { size }, 0o644);
        match bytes {
            Bytes::Here(mut bytes) => tar.append_unhashed(&member, size, &mut bytes),
            Bytes::Stored(blob) => read_ahead(blob, |blob| tar.append_unhashed(&member, size, blob)),
        }
    })?;
    tar.finish()?;
    Ok(())
}

/// Writes `images` as a layout into the directory `dest`. Files that are there stay, so that an export over the last one
/// writes only what is new. Layers are not read to find that out: a blob gets its name when it is whole, so its size says
/// whether it is. The index, which comes last, names the new images only.
pub fn write_directory(
    store: &Store,
    images: &[Archived],
    format: Format,
    dest: &Path,
    epoch: Option<i64>,
) -> anyhow::Result<()> {
    explained(write_layout(store, images, format, dest, epoch), dest)
}

fn write_layout(
    store: &Store,
    images: &[Archived],
    format: Format,
    dest: &Path,
    epoch: Option<i64>,
) -> anyhow::Result<()> {
    let doing = || format!("writing the image layout {}", dest.display());
    std::fs::create_dir_all(dest.join("blobs/sha256")).with_context(doing)?;
    let mut last = None;
    write_members(store, images, format, epoch, &mut |name, size, bytes| {
        let path = dest.join(name);
        let file = match bytes {
            Bytes::Stored(_) if is_file_of(&path, size) => return Ok(()),
            Bytes::Here(bytes) if is_file_of(&path, size) && std::fs::read(&path)? == bytes => return Ok(()),
            Bytes::Here(bytes) => Replacement::write(&path, |out| out.write_all(bytes))?,
            Bytes::Stored(blob) => blob_file(&path, size, blob)?,
        };
        if name == "index.json" {
            last = Some(file);
        } else {
            file.commit()?;
        }
        Ok(())
    })
    .with_context(doing)?;
    if let Some(index) = last {
        index.commit().with_context(doing)?;
    }
    Ok(())
}

fn is_file_of(path: &Path, size: u64) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// A blob as a file of its own. On file systems that can, the two share their bytes until one is written to. A hard link
/// would share the file itself: whoever may write to or chown the export would do it to the store.
fn blob_file(path: &Path, size: u64, blob: VerifiedReader) -> io::Result<Replacement> {
    if let Some(file) = Replacement::clone_of(path, blob.file())? {
        blob.finish()?;
        return Ok(file);
    }
    Replacement::write(path, |out| match read_ahead(blob, |blob| blob.write_to(out))? {
        copied if copied == size => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    })
}

/// What a file of the archive consists of.
enum Bytes<'a> {
    Here(&'a [u8]),
    Stored(VerifiedReader),
}

/// Takes a file of the archive: name, size, bytes.
type Member<'a> = dyn FnMut(&str, u64, Bytes<'_>) -> io::Result<()> + 'a;

fn write_members(
    store: &Store,
    images: &[Archived],
    format: Format,
    epoch: Option<i64>,
    write: &mut Member<'_>,
) -> anyhow::Result<()> {
    // Size, and the bytes of what is not in the store.
    let mut blobs: BTreeMap<Digest, (u64, Option<&[u8]>)> = BTreeMap::new();
    for archived in images {
        match archived {
            Archived::Image(_) => {}
            Archived::Index(index) => {
                let Descriptor { digest, size, .. } = index.descriptor;
                for other in &index.others {
                    blobs.insert(other.digest, (other.size, None));
                }
                blobs.insert(digest, (size, Some(&index.bytes)));
            }
            Archived::Attached(attached) => {
                for blob in attached.blobs() {
                    blobs.insert(blob.digest, (blob.size, None));
                }
            }
        }
    }
    for image in images.iter().flat_map(Archived::images) {
        for layer in &image.layers {
            blobs.insert(layer.digest, (layer.size, None));
        }
        for (descriptor, bytes) in [
            (&image.manifest, &image.manifest_bytes),
            (&image.config, &image.config_bytes),
        ] {
            blobs.insert(descriptor.digest, (descriptor.size, Some(bytes)));
        }
    }
    for (digest, (size, bytes)) in blobs {
        let bytes = match bytes {
            Some(bytes) => Bytes::Here(bytes),
            None => Bytes::Stored(store.open_blob(&digest)?),
        };
        write(&blob_path(&digest), size, bytes).with_context(|| format!("archiving the blob {digest}"))?;
    }
    let mut document = |name: &str, bytes: &[u8]| write(name, bytes.len() as u64, Bytes::Here(bytes));
    document("index.json", &serde_json::to_vec(&index(images, epoch))?)?;
    if format == Format::Docker {
        document("manifest.json", &serde_json::to_vec(&docker_manifest(images))?)?;
    }
    document("oci-layout", LAYOUT.as_bytes())?;
    Ok(())
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// `index.json`: an entry for each name of each image.
fn index(images: &[Archived], epoch: Option<i64>) -> Value {
    let mut entries = Vec::new();
    for archived in images {
        let (descriptor, names, annotations) = match archived {
            Archived::Image(image) => (&image.manifest, &image.names, &image.annotations),
            Archived::Index(index) => (&index.descriptor, &index.names, &index.annotations),
            Archived::Attached(attached) => {
                entries.push(json!(attached.referrer));
                continue;
            }
        };
        let platform = match archived {
            Archived::Image(image) => Some(&image.platform),
            Archived::Index(_) | Archived::Attached(_) => None,
        };
        let mut common = annotations.clone();
        if let Some(created) = created(archived.images(), epoch) {
            common.insert("org.opencontainers.image.created".to_owned(), created);
        }
        let mut entry = |annotations: BTreeMap<String, String>| {
            let mut entry = json!({
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
            });
            if !annotations.is_empty() {
                entry["annotations"] = json!(annotations);
            }
            if let Some(platform) = platform {
                entry["platform"] = json!(platform);
            }
            entries.push(entry);
        };
        if names.is_empty() {
            entry(common.clone());
        }
        for name in names {
            let mut annotations = common.clone();
            annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
            if let Some(tag) = name.tag() {
                annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.to_owned());
            }
            entry(annotations);
        }
    }
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
}

/// When the images were made: `epoch`, else what the config of the first says.
fn created(images: &[ArchiveImage], epoch: Option<i64>) -> Option<String> {
    if let Some(time) = epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        return Some(time.to_string());
    }
    let config: Value = serde_json::from_slice(&images.first()?.config_bytes).ok()?;
    config.get("created")?.as_str().map(str::to_owned)
}

/// Docker's `manifest.json`. It knows one platform: of several that of this machine, else the first.
fn docker_manifest(images: &[Archived]) -> Value {
    let entry = |image: &ArchiveImage, names: &[Reference]| {
        let tags: Vec<String> = names
            .iter()
            .filter(|n| n.tag().is_some())
            .map(Reference::familiar)
            .collect();
        let layers: Vec<String> = image
            .layers
            .iter()
            .map(|layer| blob_path(&layer.digest))
            .collect();
        json!({"Config": blob_path(&image.config.digest), "RepoTags": tags, "Layers": layers})
    };
    let host = Platform::host();
    let entries = images.iter().filter_map(|archived| match archived {
        Archived::Image(image) => Some(entry(image, &image.names)),
        Archived::Index(index) => {
            let mut images = index.images.iter();
            let ours = images.clone().find(|image| host.accepts(&image.platform));
            Some(entry(ours.or_else(|| images.next())?, &index.names))
        }
        Archived::Attached(_) => None,
    });
    entries.collect()
}

/// Standard output was closed by its reader, which has seen enough: no failure.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct StdoutClosed;

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(rbuild_cache::error::io_cause);
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Lets `write` write to `dest`. A file gets its name when all of it is written; before, nothing is seen of it.
pub fn to_destination(
    dest: &Destination,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match dest {
        Destination::Stdout => {
            let mut out = BufWriter::with_capacity(1 << 17, io::stdout().lock());
            let written = write(&mut out).and_then(|()| out.flush().context("writing to standard output"));
            written.map_err(|error| {
                if is_broken_pipe(&error) {
                    StdoutClosed.into()
                } else {
                    error
                }
            })
        }
        Destination::Path(path) => explained(to_path(path, write), path),
    }
}

fn to_path(path: &Path, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let doing = || format!("writing {}", path.display());
    // A pipe or a device is written to as it is: renaming would put a file in its place.
    let special = std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    if special {
        let file = File::options().write(true).open(path).with_context(doing)?;
        let mut out = BufWriter::with_capacity(1 << 17, file);
        write(&mut out).with_context(doing)?;
        return out.flush().with_context(doing);
    }
    let mut failure = None;
    let file = Replacement::write(path, |out| {
        write(out).map_err(|error| {
            failure = Some(error);
            io::ErrorKind::Other.into()
        })
    });
    match failure {
        Some(error) => Err(error).with_context(doing),
        None => file.and_then(Replacement::commit).with_context(doing),
    }
}

/// Whether an image may be archived under these names: a name with a digest only has no tag to write.
pub fn check_names(names: &[Reference]) -> anyhow::Result<()> {
    for name in names {
        ensure!(
            name.tag().is_some(),
            "invalid tag {name}: an image is named by a tag, not by a digest"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str]) -> ArchiveImage {
        let config_bytes = br#"{"created":"2024-05-06T07:08:09Z"}"#.to_vec();
        let descriptor = |bytes: &[u8], media_type: &str| Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        ArchiveImage {
            manifest: descriptor(b"{}", crate::registry::document::OCI_MANIFEST),
            manifest_bytes: b"{}".to_vec(),
            config: descriptor(&config_bytes, "application/vnd.oci.image.config.v1+json"),
            config_bytes,
            layers: Vec::new(),
            platform: "linux/arm/v7".parse().unwrap(),
            names: names.iter().map(|n| Reference::parse(n).unwrap()).collect(),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn every_tag_has_an_entry() {
        let images = [image(&["a:1", "quay.io/b/c:2"]), image(&[])].map(Archived::Image);
        let index = index(&images, None);
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(
            entries[0]["annotations"]["io.containerd.image.name"],
            "docker.io/library/a:1"
        );
        assert_eq!(
            entries[1]["annotations"]["org.opencontainers.image.ref.name"],
            "2"
        );
        assert_eq!(
            entries[2]["annotations"]["org.opencontainers.image.created"],
            "2024-05-06T07:08:09Z"
        );
        assert_eq!(entries[0]["platform"]["variant"], "v7");
        let manifest = docker_manifest(&images);
        assert_eq!(manifest[0]["RepoTags"], json!(["a:1", "quay.io/b/c:2"]));
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("out.tar");
        std::fs::write(&path, "old").unwrap();
        let dest = Destination::Path(path.clone());
        let failed = to_destination(&dest, |out| {
            out.write_all(b"half")?;
            anyhow::bail!("no more")
        });
        assert!(format!("{:#}", failed.unwrap_err()).ends_with("no more"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 1);
        to_destination(&dest, |out| Ok(out.write_all(b"new")?)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}
