//! What may a manifest, an index and an image config say? Parsing of documents that came from
//! outside, strict where looseness has been a hole (CVE-2021-41190, CVE-2024-3727, CVE-2020-15157):
//! one document is never both manifest and index, digests are sha256, sizes are there, layers have
//! no foreign addresses, and a config lists as many diff ids as the manifest has layers.
//!
//! Invariant: bytes are kept as they came; a [`Manifest`] or an [`Index`] is a reading of them.

use rbuild_cache::{Descriptor, DiffId, Digest};
use serde::Deserialize;

use super::error::RegistryError;
use crate::graph::Platform;

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

/// A reading of an index or manifest list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Entries in their order.
    pub entries: Vec<IndexEntry>,
}

/// One image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// Its platform, when the index says.
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name`: the tag in an OCI layout.
    pub ref_name: Option<String>,
    /// It is no image but something that refers to one: an attestation for instance.
    pub is_artifact: bool,
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
                    .map(RawDescriptor::entry)
                    .collect::<Result<_, _>>()?;
                Ok(Reading::Index(Index { entries }))
            }
            (OCI_MANIFEST | DOCKER_MANIFEST, None, Some(config), Some(layers)) => {
                let config = config.plain("config")?;
                if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
                    return Err(format!(
                        "it is not a container image: its config has the media type {:?}",
                        cut(&config.media_type)
                    ));
                }
                let layers = layers
                    .into_iter()
                    .map(RawDescriptor::layer)
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
        blobs.map(|blob| blob.plain("blob")).collect()
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

impl Index {
    /// The entry for `wanted`: an exact match, else the nearest older variant, else the only entry
    /// that does not say its platform.
    pub fn select(&self, wanted: &Platform) -> Option<&IndexEntry> {
        let ranked = self
            .entries
            .iter()
            .filter_map(|entry| Some((rank(wanted, entry.platform.as_ref()?)?, entry)));
        if let Some((_, entry)) = ranked.min_by_key(|(rank, _)| *rank) {
            return Some(entry);
        }
        let is_silent = |entry: &&IndexEntry| entry.platform.is_none() && !entry.is_artifact;
        let mut silent = self.entries.iter().filter(is_silent);
        silent.next().filter(|_| silent.next().is_none())
    }

    /// Whether the entry is an attestation of another one: its platform is unknown, or it says that it is no image.
    pub fn is_attestation(entry: &IndexEntry) -> bool {
        let unknown = |platform: &Platform| platform.os == "unknown";
        entry.is_artifact || entry.platform.as_ref().is_some_and(unknown)
    }

    /// The platforms that it has, for messages.
    pub fn offered(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for platform in self.entries.iter().filter_map(|entry| entry.platform.as_ref()) {
            let name = platform.to_string();
            // Attestations are entries of the platform unknown/unknown.
            if platform.os != "unknown" && !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            "no platform".to_owned()
        } else {
            names.join(", ")
        }
    }
}

/// Reads a config and checks that it fits a manifest of `layers` layers.
pub fn read_config(bytes: &[u8], layers: usize) -> Result<ConfigFacts, String> {
    let raw: RawConfig = parse_json(bytes)?;
    if raw.rootfs.kind != "layers" {
        return Err(format!("its rootfs has the type {:?}", cut(&raw.rootfs.kind)));
    }
    if raw.rootfs.diff_ids.len() != layers {
        let found = raw.rootfs.diff_ids.len();
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
        diff_ids: raw.rootfs.diff_ids,
    })
}

/// How far `offered` is from `wanted`: 0 is the same, `None` does not run there.
fn rank(wanted: &Platform, offered: &Platform) -> Option<u32> {
    if wanted.os != offered.os || wanted.architecture != offered.architecture {
        return None;
    }
    if wanted.variant == offered.variant {
        return Some(0);
    }
    // Variants of one architecture are levels: newer processors run programs of older levels.
    let level = |platform: &Platform| match (platform.architecture.as_str(), platform.variant.as_str()) {
        ("amd64", "") => Some(1),
        ("arm64", "") => Some(8),
        (_, variant) => variant.strip_prefix('v')?.split('.').next()?.parse::<u32>().ok(),
    };
    level(wanted)?.checked_sub(level(offered)?)
}

/// Only what tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawKind {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    artifact_type: Option<String>,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    diff_ids: Vec<DiffId>,
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
        let platform = self.platform.as_ref().map(|platform| {
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

/// Docker writes `null` for an empty list.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<DiffId>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("it cannot be parsed: {error}"))
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
            (String::new(), None, "cannot be parsed"),
        ] {
            let error = read(&text, header).expect_err(&text);
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn an_index_is_searched_for_the_nearest_platform() {
        let entry = |platform: &str| IndexEntry {
            descriptor: Descriptor {
                media_type: OCI_MANIFEST.to_owned(),
                digest: Digest::of(platform.as_bytes()),
                size: 1,
            },
            platform: platform.parse().ok(),
            ref_name: None,
            is_artifact: false,
        };
        let index = |platforms: &[&str]| Index {
            entries: platforms.iter().map(|p| entry(p)).collect(),
        };
        for (offered, wanted, found) in [
            (
                &["linux/arm64", "linux/amd64"][..],
                "linux/amd64",
                Some("linux/amd64"),
            ),
            (
                &["linux/arm/v5", "linux/arm/v6"],
                "linux/arm/v7",
                Some("linux/arm/v6"),
            ),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["linux/amd64/v3"], "linux/amd64", None),
            (
                &["linux/amd64/v3", "linux/amd64"],
                "linux/amd64/v2",
                Some("linux/amd64"),
            ),
            (&["linux/arm64/v8"], "linux/arm64", Some("linux/arm64/v8")),
            (&["windows/amd64"], "linux/amd64", None),
            (&["?"], "linux/amd64", Some("?")),
            (&["?", "?"], "linux/amd64", None),
        ] {
            let index = index(offered);
            let selected = index
                .select(&wanted.parse().unwrap())
                .map(|e| e.descriptor.digest);
            assert_eq!(
                selected,
                found.map(|p| Digest::of(p.as_bytes())),
                "{wanted} in {offered:?}"
            );
        }
        assert_eq!(
            index(&["linux/arm64", "unknown/unknown", "linux/amd64"]).offered(),
            "linux/arm64, linux/amd64"
        );
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
    }
}
