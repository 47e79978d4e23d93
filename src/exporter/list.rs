//! An index that is put together by hand: `manifest`, `merge` and `imagetools create`. All that it says is kept, also what this
//! program does not understand.

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::{Descriptor, Digest, Store};
use serde_json::{Map, Value, json};

use crate::graph::Platform;
use crate::registry::document::{DOCKER_LIST, MANIFEST_LIMIT, OCI_INDEX};

/// An index.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    fields: Map<String, Value>,
    entries: Vec<Value>,
}

/// What `annotate` and `add` say of an entry; what is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Operating system.
    pub os: Option<String>,
    /// Architecture.
    pub arch: Option<String>,
    /// Variant.
    pub variant: Option<String>,
    /// Version of the operating system.
    pub os_version: Option<String>,
    /// What the operating system has to have.
    pub os_features: Vec<String>,
    /// Annotations, `key` and `value`.
    pub annotations: Vec<(String, String)>,
}

impl Default for List {
    fn default() -> Self {
        let mut fields = Map::new();
        fields.insert("schemaVersion".to_owned(), json!(2));
        fields.insert("mediaType".to_owned(), json!(OCI_INDEX));
        fields.insert("manifests".to_owned(), Value::Null);
        Self {
            fields,
            entries: Vec::new(),
        }
    }
}

impl List {
    /// The index `descriptor` of the store.
    pub fn read(store: &Store, descriptor: &Descriptor) -> anyhow::Result<Self> {
        let bytes = store.read_blob(&descriptor.digest, MANIFEST_LIMIT)?;
        Self::parse(&bytes).with_context(|| format!("reading {} of the store", descriptor.digest))
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut fields: Map<String, Value> = serde_json::from_slice(bytes)?;
        match fields.get_mut("manifests").map(Value::take) {
            Some(Value::Array(entries)) => Ok(Self { fields, entries }),
            _ => bail!("it is an image and no index of several"),
        }
    }

    /// Adds an entry; an earlier one of the same manifest goes.
    pub fn add(&mut self, entry: Value) {
        self.entries.retain(|known| known["digest"] != entry["digest"]);
        self.entries.push(entry);
    }

    /// Takes the entry `digest` away. Whether there was one.
    pub fn remove(&mut self, digest: &Digest) -> bool {
        let before = self.entries.len();
        let digest = Value::from(digest.to_string());
        self.entries.retain(|entry| entry["digest"] != digest);
        self.entries.len() < before
    }

    /// Says more of the entry `digest`. Whether there is one.
    pub fn annotate(&mut self, digest: &Digest, notes: &Notes) -> bool {
        let digest = Value::from(digest.to_string());
        let mut entries = self.entries.iter_mut();
        match entries.find(|entry| entry["digest"] == digest) {
            None => false,
            Some(entry) => {
                notes.write(entry);
                true
            }
        }
    }

    /// Says something of the index itself.
    pub fn annotate_index(&mut self, annotations: &[(String, String)]) {
        for (key, value) in annotations {
            set(
                member(&mut self.fields, "annotations"),
                key,
                value.as_str().into(),
            );
        }
    }

    /// Its entries.
    pub fn entries(&self) -> &[Value] {
        &self.entries
    }

    /// Its JSON.
    pub fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        let mut fields = self.fields.clone();
        fields.insert("manifests".to_owned(), Value::Array(self.entries.clone()));
        Ok(serde_json::to_vec(&fields)?)
    }

    /// Puts it into the store.
    pub fn put(&self, store: &Store) -> anyhow::Result<Descriptor> {
        let bytes = self.bytes()?;
        let docker = self.fields.get("mediaType").and_then(Value::as_str) == Some(DOCKER_LIST);
        ensure!(
            !docker || !self.fields.contains_key("annotations"),
            "docker's manifest list has no annotations"
        );
        Ok(Descriptor {
            media_type: if docker { DOCKER_LIST } else { OCI_INDEX }.to_owned(),
            digest: store.put_blob(&bytes)?,
            size: bytes.len() as u64,
        })
    }
}

impl Notes {
    /// Writes them into `entry`.
    pub fn write(&self, entry: &mut Value) {
        let Value::Object(entry) = entry else { return };
        for (field, value) in [
            ("os", &self.os),
            ("architecture", &self.arch),
            ("variant", &self.variant),
            ("os.version", &self.os_version),
        ] {
            if let Some(value) = value {
                set(member(entry, "platform"), field, value.as_str().into());
            }
        }
        if !self.os_features.is_empty() {
            set(member(entry, "platform"), "os.features", json!(self.os_features));
        }
        for (key, value) in &self.annotations {
            set(member(entry, "annotations"), key, value.as_str().into());
        }
    }
}

fn member<'a>(object: &'a mut Map<String, Value>, name: &str) -> &'a mut Value {
    object.entry(name).or_insert(Value::Null)
}

/// Sets a member of what ought to be an object. The index of a stranger may have anything in its place; that goes.
fn set(object: &mut Value, name: &str, value: Value) {
    match object {
        Value::Object(members) => {
            members.insert(name.to_owned(), value);
        }
        other => *other = json!({ name: value }),
    }
}

/// The entry of one image.
pub fn entry(descriptor: &Descriptor, platform: &Platform) -> Value {
    json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        "platform": platform,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_stays() {
        let text = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"sha256:1","x":1}],"y":2}"#;
        let mut list = List::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(list.bytes().unwrap()).unwrap(), text);
        list.annotate_index(&[("k".to_owned(), "v".to_owned())]);
        assert!(
            String::from_utf8(list.bytes().unwrap())
                .unwrap()
                .ends_with(r#""y":2,"annotations":{"k":"v"}}"#)
        );
        for odd in [r#""x""#, "[]", "null", "3"] {
            let text = format!(
                r#"{{"manifests":[{{"digest":"d","platform":{odd},"annotations":{odd}}}],"annotations":{odd}}}"#
            );
            let mut list = List::parse(text.as_bytes()).unwrap();
            let annotations = vec![("k".to_owned(), "v".to_owned())];
            list.annotate_index(&annotations);
            let os = Some("linux".to_owned());
            Notes {
                os,
                annotations,
                ..Notes::default()
            }
            .write(&mut list.entries[0]);
            let expected = r#"{"manifests":[{"digest":"d","platform":{"os":"linux"},"annotations":{"k":"v"}}],"annotations":{"k":"v"}}"#;
            assert_eq!(
                String::from_utf8(list.bytes().unwrap()).unwrap(),
                expected,
                "{odd}"
            );
        }
        assert!(List::parse(b"{}").is_err() && List::parse(b"[]").is_err());
    }

    #[test]
    fn entries_come_go_and_are_annotated() {
        let descriptor = |n: u8| Descriptor {
            media_type: "m".to_owned(),
            digest: Digest::of(&[n]),
            size: 1,
        };
        let platform: Platform = "linux/arm64".parse().unwrap();
        let mut list = List::default();
        for n in [1, 2, 1] {
            list.add(entry(&descriptor(n), &platform));
        }
        assert_eq!(list.entries().len(), 2);
        let notes = Notes {
            variant: Some("v8".to_owned()),
            os_features: vec!["win32k".to_owned()],
            annotations: vec![("k".to_owned(), "v".to_owned())],
            ..Notes::default()
        };
        assert!(list.annotate(&Digest::of(&[1]), &notes) && !list.annotate(&Digest::of(&[9]), &notes));
        let noted = &list.entries()[1];
        let wanted =
            json!({"os": "linux", "architecture": "arm64", "variant": "v8", "os.features": ["win32k"]});
        assert_eq!(
            (&noted["platform"], &noted["annotations"]),
            (&wanted, &json!({"k": "v"}))
        );
        assert!(list.remove(&Digest::of(&[1])) && !list.remove(&Digest::of(&[1])));
    }
}
