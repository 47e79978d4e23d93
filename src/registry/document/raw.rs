//! The JSON of documents as it is written: nothing here says what is right.

use std::fmt;
use std::marker::PhantomData;

use rbuild_cache::{DiffId, Digest};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What has to be a JSON object. serde takes an array of the members as well, which no other reader of these documents does.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfMap(PhantomData))
    }
}

struct OfMap<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

/// Only what tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawKind {
    pub(super) media_type: Option<String>,
    pub(super) manifests: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawDocument {
    pub(super) schema_version: u32,
    pub(super) manifests: Option<Vec<Object<RawDescriptor>>>,
    pub(super) config: Option<Object<RawDescriptor>>,
    pub(super) layers: Option<Vec<Object<RawDescriptor>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawDescriptor {
    pub(super) media_type: Option<String>,
    pub(super) artifact_type: Option<String>,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) urls: Option<Vec<String>>,
    pub(super) platform: Option<Object<RawPlatform>>,
    #[serde(default)]
    pub(super) annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
pub(super) struct RawPlatform {
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) variant: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: String,
    pub(super) rootfs: Object<RawRootfs>,
}

#[derive(Deserialize)]
pub(super) struct RawRootfs {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) diff_ids: Vec<DiffId>,
}

/// Docker writes `null` for an empty list.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DiffId>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Parses one object.
pub(super) fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    let parsed: Result<Object<T>, _> = serde_json::from_slice(bytes);
    parsed
        .map(|Object(parsed)| parsed)
        .map_err(|error| format!("it cannot be parsed: {error}"))
}
