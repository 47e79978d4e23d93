//! What is said of a result beside it: how it came about (SLSA provenance) and what is in it (SPDX), as in-toto
//! statements. What is said is the same wherever the result goes; a statement ties it to one manifest or to files.
//!
//! Invariant: the same build with the same SOURCE_DATE_EPOCH says the same, byte for byte, and no secret is in it.

pub mod provenance;
pub mod spdx;

use rbuild_cache::Digest;
use serde_json::{Value, json};

use crate::graph::{Platform, Reference};
use crate::sbom::package_url::{part, path};

/// Media type of a statement.
pub const STATEMENT: &str = "application/vnd.in-toto+json";
/// The annotation that says what a statement is about.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// Predicate type of provenance.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// Predicate type of lists of packages.
pub const SPDX: &str = "https://spdx.dev/Document";

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Provenance.
    pub provenance: Option<ProvenanceWish>,
    /// A list of packages.
    pub sbom: Option<SbomWish>,
}

/// What provenance shall say, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceWish {
    /// `mode=max`: also build arguments, labels, ids of secrets, the Dockerfile and the steps.
    pub full: bool,
    /// `builder-id=`.
    pub builder: Option<String>,
    /// `reproducible=`: what the user says of his build.
    pub reproducible: bool,
    /// Where it goes.
    pub place: Place,
}

/// Where a list of packages goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SbomWish {
    /// Where it goes.
    pub place: Place,
}

/// Where an attestation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// In the index of the image, as BuildKit does it, and not beside the image.
    pub in_index: bool,
    /// `inline-only=`: only with images, not as a file beside files.
    pub images_only: bool,
    /// Name of the file beside files.
    pub file: String,
}

/// Something that is said of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Attested {
    /// What kind of thing.
    pub predicate_type: &'static str,
    /// What is said.
    pub predicate: Value,
    /// Where it goes.
    pub place: Place,
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
}

impl Wanted {
    /// Whether anything was asked for.
    pub fn is_any(&self) -> bool {
        self.provenance.is_some() || self.sbom.is_some()
    }
}

impl Attested {
    /// The statement about `subjects`.
    pub fn statement(&self, subjects: &[Subject]) -> serde_json::Result<Vec<u8>> {
        let subjects: Vec<Value> = subjects.iter().map(Subject::json).collect();
        serde_json::to_vec(&json!({
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        }))
    }
}

impl Subject {
    /// The image `manifest` under each of its names.
    pub fn of_image(manifest: &Digest, names: &[Reference], platform: &Platform) -> Vec<Self> {
        let digest = *manifest;
        if names.is_empty() {
            let name = "_".to_owned();
            return vec![Self { name, digest }];
        }
        let name = |name: &Reference| Self {
            name: image_url(name, platform),
            digest,
        };
        names.iter().map(name).collect()
    }

    fn json(&self) -> Value {
        json!({"name": self.name, "digest": {"sha256": self.digest.hex()}})
    }
}

/// The statement about what its subject became, when an image got another manifest on its way; `None` when it is
/// about something else or is none.
pub fn moved(statement: &[u8], to: impl Fn(&Digest) -> Option<Digest>) -> Option<Vec<u8>> {
    let mut statement: Value = serde_json::from_slice(statement).ok()?;
    if !statement["_type"]
        .as_str()?
        .starts_with("https://in-toto.io/Statement/")
    {
        return None;
    }
    let mut changed = false;
    for subject in statement["subject"].as_array_mut()? {
        let digest = subject.pointer_mut("/digest/sha256")?;
        let before: Digest = format!("sha256:{}", digest.as_str()?).parse().ok()?;
        if let Some(after) = to(&before).filter(|after| *after != before) {
            *digest = after.hex().into();
            changed = true;
        }
    }
    changed.then(|| serde_json::to_vec(&statement).ok()).flatten()
}

/// The package URL of an image.
fn image_url(name: &Reference, platform: &Platform) -> String {
    let tag = name.tag().unwrap_or("latest");
    let name = name.familiar_name();
    let (name, tag) = (path(&name), part(tag));
    format!("pkg:docker/{name}@{tag}?platform={}", part(&platform.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_named_as_packages() {
        let platform: Platform = "linux/arm/v7".parse().unwrap();
        let digest = Digest::of(b"x");
        let of = |names: &[&str]| -> Vec<String> {
            let names: Vec<Reference> = names.iter().map(|name| Reference::parse(name).unwrap()).collect();
            let subjects = Subject::of_image(&digest, &names, &platform);
            subjects.into_iter().map(|subject| subject.name).collect()
        };
        assert_eq!(of(&[]), ["_"]);
        assert_eq!(
            of(&["alpine:3", "ghcr.io/a/b", "localhost:5000/a:1"]),
            [
                "pkg:docker/alpine@3?platform=linux%2Farm%2Fv7",
                "pkg:docker/ghcr.io/a/b@latest?platform=linux%2Farm%2Fv7",
                "pkg:docker/localhost:5000/a@1?platform=linux%2Farm%2Fv7"
            ]
        );
    }

    #[test]
    fn statements_follow_their_image() {
        let (before, after, other) = (Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"3"));
        let attested = Attested {
            predicate_type: PROVENANCE,
            predicate: json!({"a": 1}),
            place: Place {
                in_index: false,
                images_only: false,
                file: "provenance.json".to_owned(),
            },
        };
        let of = |digest| {
            let name = "n".to_owned();
            attested.statement(&[Subject { name, digest }]).unwrap()
        };
        let to = |digest: &Digest| (*digest == before).then_some(after);
        assert_eq!(moved(&of(before), to), Some(of(after)));
        assert_eq!(moved(&of(other), to), None);
        for broken in [
            "",
            "{}",
            "[]",
            r#"{"_type":"x"}"#,
            r#"{"_type":"https://in-toto.io/Statement/v1","subject":[{}]}"#,
        ] {
            assert_eq!(moved(broken.as_bytes(), to), None, "{broken}");
        }
    }
}
