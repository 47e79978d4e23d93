//! Which image of an index is the one for a platform?

use rbuild_cache::Descriptor;

use crate::graph::Platform;

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

#[cfg(test)]
mod tests {
    use rbuild_cache::Digest;

    use super::*;
    use crate::registry::document::OCI_MANIFEST;

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
}
