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
        steps in prop::collection::vec((prop::collection::vec(0..NAMES.len(), 0..4), 0..4_u8), 1..12),
    ) {
        let mut entries = if has_foreign { foreign() } else { Vec::new() };
        let mut fields = seal::new_fields();
        fields.insert("annotations".to_owned(), json!({"kept": "by others"}));
        for (names, n) in steps {
            let names: Vec<&str> = names.into_iter().map(|name| NAMES[name]).collect();
            let before = seal::encode(&fields, &entries).unwrap();
            let changed = relabel_all(&mut entries, &names, &descriptor(n));
            let expected = seal::encode(&fields, &entries).unwrap();
            match relabel(before.as_bytes(), &names, &descriptor(n)) {
                Some(Relabelled::Same) => prop_assert!(!changed),
                Some(Relabelled::Changed(text)) => {
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
    let wanted = descriptor(3);
    assert!(relabel(&good, &["b:1"], &wanted).is_some());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(relabel(&bad, &["b:1"], &wanted).is_none(), "bit {bit}");
    }
    for length in 0..good.len() {
        assert!(
            relabel(&good[..length], &["b:1"], &wanted).is_none(),
            "{length} bytes"
        );
    }
}
