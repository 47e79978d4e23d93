//! What may a manifest, an index and an image config say? Parsing of documents that came from
//! outside, strict where looseness has been a hole (CVE-2021-41190, CVE-2024-3727, CVE-2020-15157):
//! one document is never both manifest and index, digests are sha256, sizes are there, layers have
//! no foreign addresses, and a config lists as many diff ids as the manifest has layers.
//!
//! Invariant: bytes are kept as they came; a [`Manifest`] or an [`Index`] is a reading of them.

mod index;
mod raw;

use rbuild_cache::{Descriptor, DiffId, Digest};

use super::error::RegistryError;
use crate::graph::Platform;

pub use index::{Index, IndexEntry};
use raw::{Object, RawConfig, RawDescriptor, RawDocument, RawKind, parse_json};

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What a client that wants images accepts.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
/// More than this is no manifest (distribution-spec asks registries to take 4 MiB).
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// More than this is no image config.
pub const CONFIG_LIMIT: u64 = 8 << 20;

const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const LAYER_TYPES: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
];

/// A manifest or index as it came: verified bytes with their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its descriptor; the media type is what the registry and the document say.
    pub descriptor: Descriptor,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What a [`Document`] turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Images of several platforms.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// A reading of an image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config.
    pub config: Descriptor,
    /// Layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a config says about what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFacts {
    /// Platform of the image.
    pub platform: Platform,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<DiffId>,
}

impl Document {
    /// `bytes` with what the sender says its media type is; the document's own word must agree.
    pub fn new(bytes: Vec<u8>, media_type: Option<&str>) -> Result<Self, String> {
        let said: RawKind = parse_json(&bytes)?;
        let header = media_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let header = header.filter(|text| MANIFEST_TYPES.contains(text));
        let media_type = match (header, said.media_type.as_deref()) {
            (Some(header), Some(body)) if header != body => {
                return Err(format!("it was sent as {header} but calls itself {body}"));
            }
            (Some(header), _) => header,
            (None, Some(body)) => body,
            (None, None) if said.manifests.is_some() => OCI_INDEX,
            (None, None) => OCI_MANIFEST,
        };
        let size = bytes.len() as u64;
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(&bytes),
            size,
        };
        Ok(Self { descriptor, bytes })
    }

    /// Reads it, strictly. The error says what is wrong.
    pub fn read(&self) -> Result<Reading, String> {
        let raw: RawDocument = parse_json(&self.bytes)?;
        if raw.schema_version == 1 {
            return Err(
                "it has the schema 1 format, which is no longer supported: push it again with a newer tool"
                    .to_owned(),
            );
        }
        if raw.schema_version != 2 {
            return Err(format!("its schemaVersion is {}, not 2", raw.schema_version));
        }
        match (
            self.descriptor.media_type.as_str(),
            raw.manifests,
            raw.config,
            raw.layers,
        ) {
            (OCI_INDEX | DOCKER_LIST, Some(entries), None, None) => {
                let entries = entries
                    .into_iter()
                    .map(|Object(entry)| entry.entry())
                    .collect::<Result<_, _>>()?;
                Ok(Reading::Index(Index { entries }))
            }
            (OCI_MANIFEST | DOCKER_MANIFEST, None, Some(config), Some(layers)) => {
                let config = config.0.plain("config")?;
                if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
                    return Err(format!(
                        "it is not a container image: its config has the media type {:?}",
                        cut(&config.media_type)
                    ));
                }
                let layers = layers
                    .into_iter()
                    .map(|Object(layer)| layer.layer())
                    .collect::<Result<_, _>>()?;
                Ok(Reading::Manifest(Manifest { config, layers }))
            }
            (OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST, manifests, _, layers) => {
                Err(if manifests.is_some() && layers.is_some() {
                    "it has both layers and manifests".to_owned()
                } else {
                    format!(
                        "its contents do not fit its media type {}",
                        self.descriptor.media_type
                    )
                })
            }
            (other, ..) => Err(format!("its media type is {:?}", cut(other))),
        }
    }

    /// The blobs that a manifest names, whatever they are: of what is no image, an attestation for instance.
    pub fn blobs(&self) -> Result<Vec<Descriptor>, String> {
        let raw: RawDocument = parse_json(&self.bytes)?;
        if raw.manifests.is_some() {
            return Err("it is an index".to_owned());
        }
        let layers = raw.layers.into_iter().flatten();
        let blobs = raw.config.into_iter().chain(layers);
        blobs.map(|Object(blob)| blob.plain("blob")).collect()
    }

    /// [`Self::read`] for what must be an image manifest. `what` names it in the error.
    pub fn manifest(&self, what: &str) -> Result<Manifest, RegistryError> {
        let refused = |reason| RegistryError::Refused {
            doing: format!("reading the manifest of {what}"),
            reason,
        };
        match self.read().map_err(refused)? {
            Reading::Manifest(manifest) => Ok(manifest),
            Reading::Index(_) => Err(refused("it is an index".to_owned())),
        }
    }
}

/// Reads a config and checks that it fits a manifest of `layers` layers.
pub fn read_config(bytes: &[u8], layers: usize) -> Result<ConfigFacts, String> {
    let raw: RawConfig = parse_json(bytes)?;
    let Object(rootfs) = raw.rootfs;
    if rootfs.kind != "layers" {
        return Err(format!("its rootfs has the type {:?}", cut(&rootfs.kind)));
    }
    if rootfs.diff_ids.len() != layers {
        let found = rootfs.diff_ids.len();
        return Err(format!(
            "it lists {found} diff ids and the manifest {layers} layers"
        ));
    }
    let platform = Platform::normalised(
        if raw.os.is_empty() { "linux" } else { &raw.os },
        if raw.architecture.is_empty() {
            "amd64"
        } else {
            &raw.architecture
        },
        &raw.variant,
    );
    Ok(ConfigFacts {
        platform,
        diff_ids: rootfs.diff_ids,
    })
}

impl RawDescriptor {
    fn plain(self, what: &str) -> Result<Descriptor, String> {
        if self.urls.is_some_and(|urls| !urls.is_empty()) {
            return Err(format!(
                "{what} {} is to be fetched from other addresses, which is not supported",
                self.digest
            ));
        }
        let media_type = self.media_type.unwrap_or_default();
        Ok(Descriptor {
            media_type,
            digest: self.digest,
            size: self.size,
        })
    }

    fn layer(self) -> Result<Descriptor, String> {
        let layer = self.plain("layer")?;
        if LAYER_TYPES.contains(&layer.media_type.as_str()) {
            return Ok(layer);
        }
        Err(format!(
            "layer {} has the unsupported media type {:?}",
            layer.digest,
            cut(&layer.media_type)
        ))
    }

    fn entry(self) -> Result<IndexEntry, String> {
        let platform = self.platform.as_ref().map(|Object(platform)| {
            Platform::normalised(
                &platform.os,
                &platform.architecture,
                platform.variant.as_deref().unwrap_or_default(),
            )
        });
        let name = |map: &serde_json::Map<String, serde_json::Value>| {
            map.get("org.opencontainers.image.ref.name")?
                .as_str()
                .map(str::to_owned)
        };
        let ref_name = self.annotations.as_ref().and_then(name);
        Ok(IndexEntry {
            // Images may say what they are, too.
            is_artifact: self.artifact_type.is_some() && platform.is_none(),
            descriptor: self.plain("manifest")?,
            platform,
            ref_name,
        })
    }
}

/// Text from outside for a message.
fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", String::from(digit).repeat(64))
    }

    fn descriptor(media_type: &str, more: &str) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":3{more}}}"#,
            digest('a')
        )
    }

    fn image(layers: &str, more: &str) -> String {
        let config = descriptor(CONFIG_TYPES[0], "");
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]{more}}}"#)
    }

    #[test]
    fn manifests_are_strict() {
        let layer = descriptor(LAYER_TYPES[1], "");
        let good = image(&layer, "");
        let read =
            |text: &str, header| Document::new(text.as_bytes().to_vec(), header).and_then(|d| d.read());
        assert!(matches!(read(&good, Some(OCI_MANIFEST)), Ok(Reading::Manifest(m)) if m.layers.len() == 1));
        assert!(read(&good, Some("text/plain; charset=utf-8")).is_ok());
        let other_type = format!(r#","mediaType":"{DOCKER_MANIFEST}""#);
        let nested = format!("{}1{}", "[".repeat(300), "]".repeat(300));
        for (text, header, message) in [
            (
                image(&layer, r#","manifests":[]"#),
                Some(OCI_MANIFEST),
                "both layers and manifests",
            ),
            (
                image(&layer, r#","manifests":[]"#),
                None,
                "both layers and manifests",
            ),
            (good.clone(), Some(OCI_INDEX), "do not fit"),
            (image(&layer, &other_type), Some(OCI_MANIFEST), "calls itself"),
            (image(&layer, r#","layers":[]"#), None, "duplicate field"),
            (
                image(
                    &descriptor(LAYER_TYPES[1], r#","urls":["https://evil.example/x"]"#),
                    "",
                ),
                None,
                "other addresses",
            ),
            (
                image(&descriptor(CONFIG_TYPES[0], ""), ""),
                None,
                "unsupported media type",
            ),
            (good.replace(&digest('a'), "sha256:../../x"), None, "hex digits"),
            (good.replace(&digest('a'), &digest('A')), None, "hex digits"),
            (good.replace(&digest('a'), "sha512:00"), None, "not sha256"),
            (
                good.replace(r#""size":3"#, r#""size":-3"#),
                None,
                "cannot be parsed",
            ),
            (good.replace(r#","size":3"#, ""), None, "missing field `size`"),
            (
                good.replace(CONFIG_TYPES[0], "application/vnd.cncf.helm.config.v1+json"),
                None,
                "not a container image",
            ),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
                None,
                "schema 1",
            ),
            (nested, None, "cannot be parsed"),
            // What serde would take for a struct.
            ("[null,null]".to_owned(), None, "expected an object"),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":["{}",null,"{}",3,null,null,null],"layers":[]}}"#,
                    CONFIG_TYPES[0],
                    digest('a')
                ),
                None,
                "expected an object",
            ),
            (String::new(), None, "cannot be parsed"),
        ] {
            let error = read(&text, header).expect_err(&text);
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_config_must_fit_its_manifest() {
        let config = |ids: &str| {
            format!(
                r#"{{"os":"linux","architecture":"arm64","variant":"v8","rootfs":{{"type":"layers","diff_ids":{ids}}}}}"#
            )
        };
        let one = format!(r#"["{}"]"#, digest('b'));
        let facts = read_config(config(&one).as_bytes(), 1).unwrap();
        assert_eq!(facts.platform.to_string(), "linux/arm64");
        assert!(read_config(config("null").as_bytes(), 0).is_ok());
        for (ids, layers) in [(one.as_str(), 2), ("[]", 1), (r#"["md5:00"]"#, 1)] {
            assert!(read_config(config(ids).as_bytes(), layers).is_err(), "{ids}");
        }
        for list in [
            r#"["linux","amd64","",{"type":"layers","diff_ids":[]}]"#,
            r#"{"rootfs":["layers",[]]}"#,
        ] {
            let error = read_config(list.as_bytes(), 0).unwrap_err();
            assert!(error.contains("expected an object"), "{list}: {error}");
        }
    }
}
