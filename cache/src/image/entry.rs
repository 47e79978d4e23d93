//! One entry of `index.json`: what it says, and what binds its name to it.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Descriptor, StoredImage};
use crate::digest::KeyBuilder;

const FULL_NAME: &str = "io.containerd.image.name";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CREATED: &str = "org.opencontainers.image.created";
pub(super) const CHECKSUM: &str = "rbuild.checksum";

/// An entry of this program.
pub(super) fn entry_of(name: Option<&str>, descriptor: &Descriptor) -> Value {
    let mut entry = json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.to_string(),
        "size": descriptor.size,
        "annotations": { CREATED: now() },
    });
    set_name(&mut entry, name, descriptor);
    entry
}

/// What `entry` says; `None` when this program cannot follow it.
pub(super) fn decode(entry: &Value) -> Option<StoredImage> {
    let descriptor = Descriptor::deserialize(entry).ok()?;
    let annotation = |name| entry.get("annotations")?.get(name)?.as_str();
    let (full, reference) = (annotation(FULL_NAME), annotation(REF_NAME));
    let name = match (full, reference) {
        // Another tool may have copied the entry under a new tag, and the full name with it.
        (Some(full), Some(reference)) if tag_of(full) != Some(reference) => Some(reference),
        (Some(full), _) => Some(full),
        (None, reference) => reference,
    };
    let intact = annotation(CHECKSUM).is_none_or(|sum| sum == checksum(full, &descriptor));
    let platform = entry.get("platform").and_then(|platform| {
        let part = |name| {
            platform
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let text = format!("{}/{}", part("os")?, part("architecture")?);
        Some(part("variant").map_or(text.clone(), |variant| format!("{text}/{variant}")))
    });
    Some(StoredImage {
        name: name.filter(|_| intact).map(str::to_owned),
        descriptor,
        created: annotation(CREATED).map(str::to_owned),
        platform,
    })
}

/// The name that we gave to an entry.
pub(super) fn full_name(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(FULL_NAME)?.as_str()
}

/// Whether the tag of an entry is not that of its name: other tools make a new tag by copying an entry.
pub(super) fn is_renamed(entry: &Value) -> bool {
    let reference = entry
        .get("annotations")
        .and_then(|it| it.get(REF_NAME))
        .and_then(Value::as_str);
    full_name(entry).is_some_and(|full| reference != tag_of(full))
}

/// Whether an entry is what was written: one of ours has a checksum, those of other tools can be followed or not.
pub(super) fn is_sound(entry: &Value) -> bool {
    let ours = |entry: &Value| {
        let annotations = entry.get("annotations")?.as_object()?;
        let has = |name| annotations.contains_key(name);
        Some(has(CHECKSUM) || has(FULL_NAME) && has(CREATED))
    };
    let Ok(descriptor) = Descriptor::deserialize(entry) else {
        return !ours(entry).unwrap_or(false);
    };
    let full = entry
        .get("annotations")
        .and_then(|it| it.get(FULL_NAME))
        .and_then(Value::as_str);
    let sum = entry
        .get("annotations")
        .and_then(|it| it.get(CHECKSUM))
        .and_then(Value::as_str);
    match sum {
        Some(sum) => sum == checksum(full, &descriptor),
        None => !ours(entry).unwrap_or(false),
    }
}

/// Gives `entry` the name `name`, or none.
pub(super) fn set_name(entry: &mut Value, name: Option<&str>, descriptor: &Descriptor) {
    let Some(fields) = entry.as_object_mut() else {
        return;
    };
    let annotations = fields.entry("annotations").or_insert_with(|| json!({}));
    let Some(annotations) = annotations.as_object_mut() else {
        return;
    };
    annotations.shift_remove(FULL_NAME);
    annotations.shift_remove(REF_NAME);
    if let Some(name) = name {
        annotations.insert(FULL_NAME.to_owned(), json!(name));
        if let Some(tag) = tag_of(name) {
            annotations.insert(REF_NAME.to_owned(), json!(tag));
        }
    }
    annotations.insert(CHECKSUM.to_owned(), json!(checksum(name, descriptor)));
}

/// Binds a name to what it leads to.
fn checksum(name: Option<&str>, descriptor: &Descriptor) -> String {
    KeyBuilder::new("index-entry/1")
        .field("name", name.unwrap_or_default().as_bytes())
        .field("media type", descriptor.media_type.as_bytes())
        .field("digest", descriptor.digest.as_bytes())
        .field("size", &descriptor.size.to_le_bytes())
        .finish()
        .hex()
}

/// The tag of a canonical reference: what stands after its last colon, if that is no port.
pub(super) fn tag_of(name: &str) -> Option<&str> {
    let (name, _) = name.split_once('@').unwrap_or((name, ""));
    let (_, tag) = name.rsplit_once(':')?;
    (!tag.contains('/')).then_some(tag)
}

/// The current time, RFC 3339, always of the same length: the order of times is that of their texts.
fn now() -> String {
    format!("{:.9}", Timestamp::now())
}
