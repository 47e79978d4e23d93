//! The attributes of an output, one by one: taken into a draft, which then has to make sense as a whole.

use rbuild_parser::value::parse_bool;

use super::{Codec, Destination, Output, OutputError, OutputKind};
use crate::exporter::annotation::Annotation;

pub(super) const TYPES: &str = "image, registry, oci, docker, tar, local, cacheonly";

/// Keys of the types that write a manifest.
const ENCODING_KEYS: [&str; 8] = [
    "name",
    "attestation-inline",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "rewrite-timestamp",
    "annotation.KEY",
];

/// Keys that BuildKit and buildx have and this builder does not.
const LATER_KEYS: [&str; 13] = [
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

/// Attributes as they come, before it is known that they fit together.
pub(super) struct Draft {
    kind: &'static str,
    dest: Option<String>,
    tar: bool,
    push: bool,
    store: bool,
    output: Output,
}

impl Draft {
    pub(super) fn new(kind: &str) -> Result<Self, OutputError> {
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
            "tar" | "local" => &["dest", "attestation-prefix"],
            _ => &[],
        }
    }

    fn writes_manifest(&self) -> bool {
        matches!(self.kind, "image" | "registry" | "oci" | "docker")
    }

    pub(super) fn attributes(mut self, attributes: Vec<(String, String)>) -> Result<Self, OutputError> {
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
            "attestation-prefix" if value.contains('/') => {
                return Err(invalid(key, value, "a text without slashes"));
            }
            "attestation-prefix" => self.output.attestation_prefix = value,
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
            "attestation-inline" => self.output.attestation_inline = boolean(key, &value)?,
            _ => encoding.oci_media_types = boolean(key, &value)?,
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Output, OutputError> {
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
            "docker" if self.dest.as_deref().unwrap_or_default().is_empty() => OutputKind::Load,
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

fn boolean(key: &str, value: &str) -> Result<bool, OutputError> {
    parse_bool(value).ok_or_else(|| invalid(key, value.to_owned(), "true or false"))
}
