//! The grammar of `-o/--output`: text to [`Output`]. No I/O but looking at what a destination is now;
//! every key is either meant or refused, none is dropped.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::annotation::Annotation;

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

/// An `--output` that cannot be understood or met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// Not a line of comma-separated fields.
    #[error("invalid output {text:?}: {reason}")]
    Syntax {
        /// As given.
        text: String,
        /// What is wrong.
        reason: &'static str,
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

const TYPES: &str = "image, registry, oci, docker, tar, local, cacheonly";

/// Keys of the types that write a manifest.
const ENCODING_KEYS: [&str; 7] = [
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "rewrite-timestamp",
    "annotation.KEY",
];

/// Keys that BuildKit and buildx have and this builder does not.
const LATER_KEYS: [&str; 15] = [
    "attestation-inline",
    "attestation-prefix",
    "compatibility-version",
    "context",
    "danging-name-empty-only",
    "dangling-name-prefix",
    "mode",
    "name-canonical",
    "oci-artifact",
    "platform-split",
    "prefer-nondist-layers",
    "push-by-digest",
    "registry.insecure",
    "source-date-epoch",
    "unpack",
];

impl Output {
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

    fn of(kind: OutputKind) -> Self {
        Self {
            kind,
            names: Vec::new(),
            encoding: Encoding::default(),
            rewrite_timestamp: false,
        }
    }

    /// Parses one value of `-o/--output`.
    pub fn parse(text: &str) -> Result<Self, OutputError> {
        let fields = csv_fields(text)?;
        if let [only] = fields.as_slice()
            && only == text
            && !text.starts_with("type=")
        {
            return Ok(Self::of(match text {
                "" => return Err(OutputError::NoDestination { kind: "local" }),
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
            OutputKind::Docker { .. } => "docker",
            OutputKind::Tar { .. } => "tar",
            OutputKind::Local { .. } => "local",
            OutputKind::CacheOnly => "cacheonly",
        }
    }

    /// Whether it writes an image with a manifest, and not only files.
    pub fn has_manifest(&self) -> bool {
        matches!(
            self.kind,
            OutputKind::Image { .. } | OutputKind::Oci { .. } | OutputKind::Docker { .. }
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

/// Attributes as they come, before it is known that they fit together.
struct Draft {
    kind: &'static str,
    dest: Option<String>,
    tar: bool,
    push: bool,
    store: bool,
    output: Output,
}

impl Draft {
    fn new(kind: &str) -> Result<Self, OutputError> {
        let kind = match kind {
            "image" => "image",
            "registry" => "registry",
            "oci" => "oci",
            "docker" => "docker",
            "tar" => "tar",
            "local" => "local",
            "cacheonly" => "cacheonly",
            _ => {
                return Err(OutputError::UnknownType {
                    name: kind.to_owned(),
                });
            }
        };
        let output = Output::of(OutputKind::CacheOnly);
        // A registry output keeps nothing but what the push needs anyway.
        Ok(Self {
            kind,
            dest: None,
            tar: true,
            push: kind == "registry",
            store: kind != "registry",
            output,
        })
    }

    fn own_keys(&self) -> &'static [&'static str] {
        match self.kind {
            "image" | "registry" => &["push", "store", "unpack"],
            "oci" | "docker" => &["dest", "tar"],
            "tar" | "local" => &["dest"],
            _ => &[],
        }
    }

    fn writes_manifest(&self) -> bool {
        matches!(self.kind, "image" | "registry" | "oci" | "docker")
    }

    fn attributes(mut self, attributes: Vec<(String, String)>) -> Result<Self, OutputError> {
        for (key, value) in attributes {
            // The names of annotations keep their case, all other keys have none.
            let lower = key.to_ascii_lowercase();
            let annotation = lower.starts_with("annotation.")
                || lower.starts_with("annotation-")
                || lower.starts_with("annotation[");
            if annotation && self.writes_manifest() {
                self.output
                    .encoding
                    .annotations
                    .push(Annotation::from_attribute(&key, &value)?);
            } else if self.own_keys().contains(&lower.as_str()) {
                self.own(&lower, value)?;
            } else if lower == "rewrite-timestamp" && self.kind != "cacheonly" {
                // Layers are written so from the start, hence it is meant for rootfs exports too.
                self.output.rewrite_timestamp = boolean(&lower, &value)?;
            } else if self.writes_manifest() && ENCODING_KEYS.contains(&lower.as_str()) {
                self.encoding(&lower, value)?;
            } else if LATER_KEYS.contains(&lower.as_str()) {
                self.later(lower, &value)?;
            } else {
                return Err(self.unknown(lower));
            }
        }
        Ok(self)
    }

    fn unknown(&self, key: String) -> OutputError {
        let mut known = self.own_keys().to_vec();
        match self.kind {
            "cacheonly" => {}
            _ if self.writes_manifest() => known.extend(ENCODING_KEYS),
            _ => known.push("rewrite-timestamp"),
        }
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        OutputError::UnknownKey {
            kind: self.kind,
            key,
            known,
        }
    }

    /// Values that name what is done anyway are no reason to refuse.
    fn later(&self, key: String, value: &str) -> Result<(), OutputError> {
        match (self.kind, key.as_str(), value) {
            ("local", "mode", "copy") | ("local" | "tar", "platform-split", "false") => Ok(()),
            _ => Err(OutputError::Unsupported { kind: self.kind, key }),
        }
    }

    fn own(&mut self, key: &str, value: String) -> Result<(), OutputError> {
        match key {
            "dest" => self.dest = Some(value),
            "tar" => self.tar = boolean(key, &value)?,
            "push" => self.push = boolean(key, &value)?,
            "store" => self.store = boolean(key, &value)?,
            // Layers of this store are never unpacked for an export.
            _ if boolean(key, &value)? => {
                return Err(OutputError::Unsupported {
                    kind: self.kind,
                    key: "unpack=true".to_owned(),
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn encoding(&mut self, key: &str, value: String) -> Result<(), OutputError> {
        let encoding = &mut self.output.encoding;
        match key {
            "name" => {
                let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                self.output.names.extend(names.map(str::to_owned));
            }
            "compression" => {
                encoding.codec = Some(match value.as_str() {
                    "uncompressed" => Codec::Uncompressed,
                    "gzip" => Codec::Gzip,
                    "zstd" => Codec::Zstd,
                    "estargz" => {
                        let key = "compression=estargz".to_owned();
                        return Err(OutputError::Unsupported { kind: self.kind, key });
                    }
                    _ => return Err(invalid(key, value, "one of uncompressed, gzip, zstd")),
                });
            }
            "compression-level" => match value.parse() {
                Ok(level) => encoding.level = Some(level),
                Err(_) => return Err(invalid(key, value, "a number")),
            },
            "force-compression" => encoding.force = boolean(key, &value)?,
            _ => encoding.oci_media_types = boolean(key, &value)?,
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Output, OutputError> {
        let encoding = &self.output.encoding;
        if let Some(level) = encoding.level {
            let (top, wanted) = match encoding.codec.unwrap_or(Codec::Gzip) {
                Codec::Uncompressed => (-1, "uncompressed layers have no level"),
                Codec::Gzip => (9, "0 to 9 for gzip"),
                Codec::Zstd => (22, "0 to 22 for zstd"),
            };
            if !(0..=top).contains(&level) {
                return Err(invalid("compression-level", level.to_string(), wanted));
            }
        }
        if encoding.codec == Some(Codec::Zstd) && !encoding.oci_media_types {
            let wanted = "zstd layers need media types of OCI";
            return Err(invalid("oci-mediatypes", "false".to_owned(), wanted));
        }
        let dest = |dest: Option<String>| match dest.as_deref() {
            None | Some("" | "-") => Destination::Stdout,
            Some(path) => Destination::Path(path.into()),
        };
        self.output.kind = match self.kind {
            "image" | "registry" => OutputKind::Image {
                store: self.store,
                push: self.push,
            },
            "oci" => OutputKind::Oci {
                dest: dest(self.dest),
                tar: self.tar,
            },
            // `type=docker` without dest is `--load`.
            "docker" if self.dest.as_deref().unwrap_or_default().is_empty() => OutputKind::Image {
                store: true,
                push: false,
            },
            "docker" => OutputKind::Docker {
                dest: dest(self.dest),
                tar: self.tar,
            },
            "tar" => OutputKind::Tar {
                dest: dest(self.dest),
            },
            "local" => match self.dest {
                Some(path) if !path.is_empty() && path != "-" => OutputKind::Local { dest: path.into() },
                _ => return Err(OutputError::NoDestination { kind: "local" }),
            },
            _ => OutputKind::CacheOnly,
        };
        if let OutputKind::Oci {
            dest: Destination::Stdout,
            tar: false,
        }
        | OutputKind::Docker {
            dest: Destination::Stdout,
            tar: false,
        } = self.output.kind
        {
            return Err(OutputError::NoDestination { kind: "tar=false" });
        }
        Ok(self.output)
    }
}

fn invalid(key: &str, value: String, wanted: &'static str) -> OutputError {
    OutputError::Value {
        key: key.to_owned(),
        value,
        wanted,
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(key: &str, value: &str) -> Result<bool, OutputError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(key, value.to_owned(), "true or false")),
    }
}

/// The fields of one line by the rules of Go's `encoding/csv`: a field that begins with a quote ends with one and
/// writes a quote as two; a quote anywhere else is an error.
pub fn csv_fields(text: &str) -> Result<Vec<String>, OutputError> {
    let fail = |reason| OutputError::Syntax {
        text: text.to_owned(),
        reason,
    };
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(fail("bare \" in a field without quotes"));
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut inside = quoted;
        let after = loop {
            let (piece, after) = inside
                .split_once('"')
                .ok_or_else(|| fail("a quoted field has no end"))?;
            field.push_str(piece);
            match after.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    inside = more;
                }
                None => break after,
            }
        };
        fields.push(field);
        if after.is_empty() {
            return Ok(fields);
        }
        rest = after
            .strip_prefix(',')
            .ok_or_else(|| fail("text after the end of a quoted field"))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> OutputKind {
        Output::parse(text).unwrap().kind
    }

    #[test]
    fn the_grammar_is_dockers() {
        let path = |text: &str| Destination::Path(text.into());
        for (text, wanted) in [
            ("out", OutputKind::Local { dest: "out".into() }),
            (
                "-",
                OutputKind::Tar {
                    dest: Destination::Stdout,
                },
            ),
            ("type=local,dest=a b", OutputKind::Local { dest: "a b".into() }),
            (
                "type=tar",
                OutputKind::Tar {
                    dest: Destination::Stdout,
                },
            ),
            (
                "type=oci,dest=x.tar",
                OutputKind::Oci {
                    dest: path("x.tar"),
                    tar: true,
                },
            ),
            (
                "type=oci,dest=x,tar=false",
                OutputKind::Oci {
                    dest: path("x"),
                    tar: false,
                },
            ),
            (
                "type=docker,dest=-",
                OutputKind::Docker {
                    dest: Destination::Stdout,
                    tar: true,
                },
            ),
            (
                "type=docker",
                OutputKind::Image {
                    store: true,
                    push: false,
                },
            ),
            (
                "type=image,push=true",
                OutputKind::Image {
                    store: true,
                    push: true,
                },
            ),
            (
                "type=registry",
                OutputKind::Image {
                    store: false,
                    push: true,
                },
            ),
            ("type=cacheonly", OutputKind::CacheOnly),
            (
                "\"type=local\",\"dest=a,b\"",
                OutputKind::Local { dest: "a,b".into() },
            ),
        ] {
            assert_eq!(kind(text), wanted, "{text}");
        }
    }

    #[test]
    fn names_and_encoding() {
        let output = Output::parse(
            "type=image,\"name=a:1,b:2\",compression=zstd,compression-level=19,force-compression=true,annotation.Some.Key=x=y",
        )
        .unwrap();
        assert_eq!(output.names, ["a:1", "b:2"]);
        assert_eq!(output.encoding.codec, Some(Codec::Zstd));
        assert_eq!(output.encoding.level, Some(19));
        assert!(output.encoding.force && output.encoding.oci_media_types);
        assert_eq!(output.encoding.annotations[0].key, "Some.Key");
        assert_eq!(output.encoding.annotations[0].value, "x=y");
    }

    #[test]
    fn what_is_not_meant_is_refused() {
        for (text, part) in [
            ("type=nosuch", "unknown output type"),
            ("type=local", "dest is required"),
            ("type=local,dest=-", "dest is required"),
            ("dest=x,name=y", "type is required"),
            ("type=oci,dest", "KEY=VALUE"),
            ("type=oci,\"dest=a", "no end"),
            ("type=oci,de\"st=a", "bare"),
            ("type=oci,colour=red", "known ones are dest, tar, name"),
            ("type=cacheonly,dest=x", "known ones are none"),
            ("type=image,push-by-digest=true", "not supported yet"),
            ("type=image,unpack=true", "not supported yet"),
            ("type=oci,dest=x,compression=estargz", "not supported yet"),
            ("type=oci,dest=x,compression=lzma", "one of uncompressed"),
            ("type=oci,dest=x,compression-level=10", "0 to 9"),
            (
                "type=oci,dest=x,compression=uncompressed,compression-level=1",
                "no level",
            ),
            (
                "type=oci,dest=x,compression=zstd,oci-mediatypes=false",
                "zstd layers",
            ),
            ("type=oci,dest=x,tar=maybe", "true or false"),
            ("type=oci,tar=false", "dest is required"),
            ("", "dest is required"),
        ] {
            let message = Output::parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn only_one_writer_and_no_console() {
        let outputs = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| Output::parse(t).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            Output::check(&outputs(&["-", "type=oci"]), false),
            Err(OutputError::TwoWriters)
        );
        assert_eq!(
            Output::check(&outputs(&["-"]), true),
            Err(OutputError::Console { kind: "tar" })
        );
        assert_eq!(Output::check(&outputs(&["-", "type=image"]), false), Ok(()));
        let here = tempfile::tempdir().unwrap();
        let text = format!("type=oci,dest={}", here.path().display());
        assert!(Output::check(&outputs(&[&text]), false).is_err());
    }
}
