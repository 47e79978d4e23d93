//! The grammar of `-o/--output`: text to [`Output`]. No I/O but looking at what a destination is now;
//! every key is either meant or refused, none is dropped.

mod attributes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rbuild_cache::layer::Compression;
use rbuild_parser::value::{CsvError, csv_fields};

use super::annotation::Annotation;
use attributes::{Draft, TYPES};

/// One `--output`: where a result goes and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where to.
    pub kind: OutputKind,
    /// `name=`: references as written. Empty means those of `--tag`.
    pub names: Vec<String>,
    /// How manifests and layers are written.
    pub encoding: Encoding,
    /// `rewrite-timestamp=true`: times of new layers are cut to SOURCE_DATE_EPOCH. The builder makes its layers so.
    pub rewrite_timestamp: bool,
    /// `attestation-prefix=`: what stands before the names of files that tell of the files.
    pub attestation_prefix: String,
    /// `attestation-inline=true`: what is said of the image is in its index.
    pub attestation_inline: bool,
}

impl Output {
    /// Whether bytes of layers go elsewhere, in a form of OCI's, where each compression is known.
    pub fn leaves_store(&self) -> bool {
        let leaves = matches!(
            self.kind,
            OutputKind::Image { push: true, .. } | OutputKind::Oci { .. }
        );
        leaves && self.encoding.oci_media_types
    }
}

/// What kind of exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// An image: kept in the local store, pushed to its registry, or both.
    Image {
        /// Tag it in the local store.
        store: bool,
        /// Push it under all its names.
        push: bool,
    },
    /// An OCI image layout, as tar or as a directory.
    Oci {
        /// Where to.
        dest: Destination,
        /// One tar file; otherwise `dest` is a directory.
        tar: bool,
    },
    /// A `docker load` archive that is an OCI image layout as well.
    Docker {
        /// Where to.
        dest: Destination,
        /// One tar file; otherwise `dest` is a directory.
        tar: bool,
    },
    /// Into a docker daemon, podman or containerd on this machine.
    Load,
    /// The flattened root file system as a tar.
    Tar {
        /// Where to.
        dest: Destination,
    },
    /// The flattened root file system as files of the invoking user.
    Local {
        /// Directory; made when it is missing.
        dest: PathBuf,
    },
    /// Nothing: the build only fills the cache.
    CacheOnly,
}

impl OutputKind {
    /// The compression of layers when nobody names one: compressed bytes are only for those who get them over a network.
    pub(super) fn default_codec(&self) -> Option<Codec> {
        match self {
            Self::Image { push: true, .. } | Self::Oci { .. } | Self::Docker { .. } => Some(Codec::Gzip),
            Self::Image { .. } | Self::Load | Self::Tar { .. } | Self::Local { .. } | Self::CacheOnly => None,
        }
    }
}

/// A file, a directory or standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// Path of a file, or of a directory with `tar=false` .
    Path(PathBuf),
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Plain tar.
    Uncompressed,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// How manifest, config and layers of an image are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// `compression=`; `None` leaves it to the exporter: gzip where bytes leave the store, else the form that is there.
    pub codec: Option<Codec>,
    /// `compression-level=`.
    pub level: Option<i32>,
    /// `force-compression=`: layers that came compressed (those of a base image) are converted too.
    pub force: bool,
    /// `oci-mediatypes=`: media types of OCI (default) or of Docker.
    pub oci_media_types: bool,
    /// `annotation.*=`.
    pub annotations: Vec<Annotation>,
}

impl Default for Encoding {
    fn default() -> Self {
        Self {
            codec: None,
            level: None,
            force: false,
            oci_media_types: true,
            annotations: Vec::new(),
        }
    }
}

impl Encoding {
    /// Codec and level as the store takes them; `default` is the codec when none is named.
    pub(super) fn compression(&self, default: Option<Codec>) -> Option<Compression> {
        let level = self.level;
        Some(match self.codec.or(default)? {
            Codec::Uncompressed => Compression::Uncompressed,
            Codec::Gzip => Compression::Gzip(level.and_then(|l| u32::try_from(l).ok()).unwrap_or(6)),
            Codec::Zstd => Compression::Zstd(level.unwrap_or(3)),
        })
    }
}

/// An `--output` that cannot be understood or met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// Not a line of comma-separated fields.
    #[error("invalid output {text:?}: {reason}")]
    Syntax {
        /// As given.
        text: String,
        /// What is wrong.
        reason: CsvError,
    },
    /// A field without `=`.
    #[error("invalid output field {field:?}: it must be KEY=VALUE")]
    Field {
        /// The field.
        field: String,
    },
    /// Fields but no type.
    #[error("type is required for output {text:?}: one of {TYPES}")]
    NoType {
        /// As given.
        text: String,
    },
    /// A type that does not exist.
    #[error("unknown output type {name:?}: it must be one of {TYPES}")]
    UnknownType {
        /// As given.
        name: String,
    },
    /// A key of BuildKit's that does not work here.
    #[error("output attribute {key:?} of type={kind} is not supported yet")]
    Unsupported {
        /// Type.
        kind: &'static str,
        /// Key.
        key: String,
    },
    /// A key that the type does not have.
    #[error("unknown output attribute {key:?} of type={kind}: known ones are {known}")]
    UnknownKey {
        /// Type.
        kind: &'static str,
        /// Key.
        key: String,
        /// Keys of the type.
        known: String,
    },
    /// A value that the key does not take.
    #[error("invalid value {value:?} of output attribute {key:?}: {wanted}")]
    Value {
        /// Key.
        key: String,
        /// As given.
        value: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// The type needs a destination.
    #[error("dest is required for the {kind} exporter")]
    NoDestination {
        /// Type.
        kind: &'static str,
    },
    /// A tar for a person's eyes.
    #[error("dest file is required for the {kind} exporter: refusing to write to console")]
    Console {
        /// Type.
        kind: &'static str,
    },
    /// Only one can have standard output.
    #[error("multiple outputs configured to write to stdout")]
    TwoWriters,
    /// A directory is where a file has to be, or the other way round.
    #[error("destination {path} is {found}, the {kind} exporter writes {wanted}")]
    WrongKind {
        /// Type.
        kind: &'static str,
        /// Destination.
        path: String,
        /// What is there.
        found: &'static str,
        /// What has to be.
        wanted: &'static str,
    },
    /// An annotation that cannot be understood.
    #[error("invalid annotation {text:?}: {reason}")]
    Annotation {
        /// As given.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Output {
    /// What layers are compressed by; `None` where each goes out, or stays, in the form that it has.
    pub fn compression(&self) -> Option<Compression> {
        self.encoding.compression(self.kind.default_codec())
    }

    /// Keeps the image in the local store under the names of `--tag`: what a build without `-o` does.
    pub fn store() -> Self {
        Self::of(OutputKind::Image {
            store: true,
            push: false,
        })
    }

    /// `--push`.
    pub fn push() -> Self {
        Self::of(OutputKind::Image {
            store: true,
            push: true,
        })
    }

    /// `--load`.
    pub fn load() -> Self {
        Self::of(OutputKind::Load)
    }

    fn of(kind: OutputKind) -> Self {
        Self {
            kind,
            names: Vec::new(),
            encoding: Encoding::default(),
            rewrite_timestamp: false,
            attestation_prefix: String::new(),
            attestation_inline: false,
        }
    }

    /// Parses one value of `-o/--output`.
    pub fn parse(text: &str) -> Result<Self, OutputError> {
        if text.is_empty() {
            return Err(OutputError::NoDestination { kind: "local" });
        }
        let fields = csv_fields(text).map_err(|reason| OutputError::Syntax {
            text: text.to_owned(),
            reason,
        })?;
        if let [only] = fields.as_slice()
            && only == text
            && !text.starts_with("type=")
        {
            return Ok(Self::of(match text {
                "-" => OutputKind::Tar {
                    dest: Destination::Stdout,
                },
                path => OutputKind::Local { dest: path.into() },
            }));
        }
        let mut kind = None;
        let mut attributes = Vec::new();
        for field in fields {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| OutputError::Field { field: field.clone() })?;
            let key = key.trim();
            if key.eq_ignore_ascii_case("type") {
                kind = Some(value.to_owned());
            } else {
                attributes.push((key.to_owned(), value.to_owned()));
            }
        }
        let kind = kind.ok_or_else(|| OutputError::NoType {
            text: text.to_owned(),
        })?;
        Draft::new(&kind)?.attributes(attributes)?.finish()
    }

    /// Name of the type, for messages.
    pub fn type_name(&self) -> &'static str {
        match &self.kind {
            OutputKind::Image { .. } => "image",
            OutputKind::Oci { .. } => "oci",
            OutputKind::Docker { .. } | OutputKind::Load => "docker",
            OutputKind::Tar { .. } => "tar",
            OutputKind::Local { .. } => "local",
            OutputKind::CacheOnly => "cacheonly",
        }
    }

    /// Whether it writes an image with a manifest, and not only files.
    pub fn has_manifest(&self) -> bool {
        matches!(
            self.kind,
            OutputKind::Image { .. } | OutputKind::Oci { .. } | OutputKind::Docker { .. } | OutputKind::Load
        )
    }

    /// Whether it writes to standard output.
    pub fn writes_to_stdout(&self) -> bool {
        matches!(
            &self.kind,
            OutputKind::Oci {
                dest: Destination::Stdout,
                ..
            } | OutputKind::Docker {
                dest: Destination::Stdout,
                ..
            } | OutputKind::Tar {
                dest: Destination::Stdout
            }
        )
    }

    /// Whether all of `outputs` can be met: at most one on standard output and that no terminal, no
    /// directory where a file is to be. Called before the build, so that minutes of work are not lost.
    pub fn check(outputs: &[Output], stdout_is_terminal: bool) -> Result<(), OutputError> {
        let mut writers = outputs.iter().filter(|output| output.writes_to_stdout());
        if let Some(writer) = writers.next() {
            if stdout_is_terminal {
                return Err(OutputError::Console {
                    kind: writer.type_name(),
                });
            }
            if writers.next().is_some() {
                return Err(OutputError::TwoWriters);
            }
        }
        outputs.iter().try_for_each(Output::check_destination)
    }

    fn check_destination(&self) -> Result<(), OutputError> {
        let (path, directory) = match &self.kind {
            OutputKind::Local { dest } => (dest, true),
            OutputKind::Oci {
                dest: Destination::Path(path),
                tar,
            }
            | OutputKind::Docker {
                dest: Destination::Path(path),
                tar,
            } => (path, !tar),
            OutputKind::Tar {
                dest: Destination::Path(path),
            } => (path, false),
            _ => return Ok(()),
        };
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() != directory => Err(OutputError::WrongKind {
                kind: self.type_name(),
                path: path.display().to_string(),
                found: if directory { "a file" } else { "a directory" },
                wanted: if directory { "a directory" } else { "a file" },
            }),
            _ => Ok(()),
        }
    }
}

impl FromStr for Output {
    type Err = OutputError;

    fn from_str(text: &str) -> Result<Self, OutputError> {
        Self::parse(text)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}
