use proptest::prelude::*;
use serde_json::json;

use super::super::entry::CHECKSUM;
use super::super::seal;
use super::*;

fn descriptor(n: u8) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest: Digest::of(&[n]),
        size: u64::from(n),
    }
}

/// Entries that other tools wrote, of which one has a digest of ours and one a name.
fn foreign() -> Vec<Value> {
    let shared = descriptor(1);
    vec![
        json!("no entry,"),
        json!({"digest": "sha512:00", "x": [1, "y\n"]}),
        json!({
            "mediaType": "m", "digest": shared.digest.to_string(), "size": 1,
            "annotations": {"org.opencontainers.image.ref.name": "a:1", "k": shared.digest.to_string()},
        }),
    ]
}

/// Entries without the times at which they were written.
fn timeless(text: &str) -> Value {
    let mut file: Value = serde_json::from_str(text).unwrap();
    for entry in file["manifests"].as_array_mut().unwrap() {
        if let Some(notes) = entry.get_mut("annotations").and_then(Value::as_object_mut) {
            notes.remove("org.opencontainers.image.created");
        }
    }
    file["annotations"].as_object_mut().unwrap().remove(CHECKSUM);
    file
}

const NAMES: [&str; 5] = ["a:1", "a:2", "localhost/b:1", "localhost/b:11", "c"];

proptest! {
    /// The few related entries give the file that all entries give.
    #[test]
    fn what_is_left_alone_has_nothing_to_do_with_it(
        has_foreign: bool,
        steps in prop::collection::vec((prop::collection::vec(0..NAMES.len(), 0..4), 0..4_u8, prop::bool::weighted(0.2)), 1..12),
    ) {
        let mut entries = if has_foreign { foreign() } else { Vec::new() };
        let mut fields = seal::new_fields();
        fields.insert("annotations".to_owned(), json!({"kept": "by others"}));
        for (names, n, removes) in steps {
            let names: Vec<&str> = names.into_iter().map(|name| NAMES[name]).collect();
            let before = seal::encode(&fields, &entries).unwrap();
            let digest = descriptor(n).digest;
            let texts: Vec<String> = names.iter().map(|name| name.to_string()).chain([digest.to_string()]).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let change = |entries: &mut Vec<Entry>| {
                if !removes {
                    return assign_all(entries, &names, &descriptor(n));
                }
                let before = entries.len();
                entries.retain(|entry| entry.image().is_none_or(|image| image.descriptor.digest != digest));
                entries.len() < before
            };
            let changed = change_all(&mut entries, change);
            let expected = seal::encode(&fields, &entries).unwrap();
            match change_related(before.as_bytes(), &texts, change) {
                Some(Changed::Not) => prop_assert!(!changed),
                Some(Changed::To(text)) => {
                    prop_assert!(changed && seal::is_whole(text.as_bytes()), "{}", text);
                    prop_assert_eq!(timeless(&text), timeless(&expected));
                    prop_assert_eq!(text.lines().count(), expected.lines().count());
                }
                None => prop_assert!(false, "not understood: {before}"),
            }
        }
    }
}

#[test]
fn nothing_is_built_on_a_damaged_list() {
    let entries = vec![
        entry_of(Some("a:1"), &descriptor(1)),
        entry_of(None, &descriptor(2)),
    ];
    let good = seal::encode(&seal::new_fields(), &entries).unwrap().into_bytes();
    let change = |bytes: &[u8]| {
        change_related(bytes, &["b:1"], |entries| {
            assign_all(entries, &["b:1"], &descriptor(3))
        })
    };
    assert!(change(&good).is_some());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(change(&bad).is_none(), "bit {bit}");
    }
    for length in 0..good.len() {
        assert!(change(&good[..length]).is_none(), "{length} bytes");
    }
}
