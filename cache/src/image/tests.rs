use std::os::unix::fs::FileExt;

use super::entry::{REF_NAME, entry_of, tag_of};
use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn descriptor(n: u8) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest: Digest::of(&[n]),
        size: u64::from(n),
    }
}

fn names(store: &Store) -> Vec<(Option<String>, u64)> {
    store
        .images()
        .unwrap()
        .into_iter()
        .map(|image| (image.name, image.descriptor.size))
        .collect()
}

const A: &str = "docker.io/library/a:latest";
const B: &str = "localhost:5000/b:1";

#[test]
fn one_name_of_thousands_is_found_without_the_others() {
    let (_directory, store) = store();
    assert_eq!(store.entries_with(A).unwrap(), None);
    let name = |n: u32| format!("localhost/image-{n}:latest");
    store
        .change_index(|entries| {
            let many = (0..5000).map(|n| entry_of(Some(&name(n)), &descriptor((n % 200) as u8)));
            entries.extend(many);
            true
        })
        .unwrap();
    for n in [0, 7, 4999] {
        assert_eq!(store.entries_with(&name(n)).unwrap().unwrap().len(), 1);
        assert_eq!(store.image(&name(n)).unwrap(), Some(descriptor((n % 200) as u8)));
        assert!(
            store
                .is_tagged(&[&name(n)], &descriptor((n % 200) as u8))
                .unwrap()
        );
        assert!(!store.is_tagged(&[&name(n)], &descriptor(250)).unwrap());
    }
    assert_eq!(store.image("image-7").unwrap(), None);
    assert!(store.is_tagged(&[], &descriptor(3)).unwrap());
    assert!(!store.is_tagged(&[], &descriptor(250)).unwrap());
    // As another tool writes it, every entry is read.
    let path = store.root().join(INDEX);
    let index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::write(&path, serde_json::to_vec_pretty(&index).unwrap()).unwrap();
    assert_eq!(store.entries_with(&name(7)).unwrap(), None);
    assert_eq!(store.image(&name(7)).unwrap(), Some(descriptor(7)));
    store.tag(&name(7), &descriptor(8)).unwrap();
    assert_eq!(store.image(&name(7)).unwrap(), Some(descriptor(8)));
    assert_eq!(store.images().unwrap().len(), 5000);
}

#[test]
fn a_long_list_is_looked_through_once() {
    let (_directory, store) = store();
    store
        .change_index(|entries| {
            entries.extend((0..500).map(|n| entry_of(Some(&format!("localhost/{n}:1")), &descriptor(1))));
            true
        })
        .unwrap();
    let name = "localhost/7:1";
    let seen = store.root().join(SEEN);
    let look = || Look::begin(&store, &std::fs::File::open(store.root().join(INDEX)).unwrap()).unwrap();
    let settle = || std::thread::sleep(std::time::Duration::from_millis(40));
    // What changed a moment ago may change again unseen.
    assert!(look().is_none() && store.image(name).unwrap().is_some() && !seen.exists());
    settle();
    for text in [name, B] {
        let found = store.entries_with(text).unwrap();
        assert_eq!(store.entries_with(text).unwrap(), found);
        assert_eq!(look().unwrap().take(text), found);
    }
    assert_eq!(look().unwrap().take(name).unwrap().len(), 1);
    // So it is that which answers.
    look().unwrap().keep(name, Vec::new());
    assert_eq!(store.image(name).unwrap(), None);
    // Damaged, it answers nothing.
    let good = std::fs::read(&seen).unwrap();
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 1;
        std::fs::write(&seen, &bad).unwrap();
        assert!(!store.is_seen_whole().unwrap(), "{position}");
        assert_eq!(look().unwrap().take(name), None, "{position}");
    }
    std::fs::write(&seen, &good).unwrap();
    // Of a list that has changed it knows nothing.
    store.tag(B, &descriptor(2)).unwrap();
    settle();
    assert_eq!(store.image(name).unwrap(), Some(descriptor(1)));
    assert_eq!(store.image(B).unwrap(), Some(descriptor(2)));
}

#[test]
fn names_move_and_the_last_one_leaves_a_nameless_image() {
    let (_directory, store) = store();
    assert_eq!(names(&store), []);
    store.tag(A, &descriptor(1)).unwrap();
    store.tag(B, &descriptor(1)).unwrap();
    store.tag(A, &descriptor(2)).unwrap();
    let named = |name: &str, n| (Some(name.to_owned()), n);
    assert_eq!(names(&store), [named(B, 1), named(A, 2)], "1 still has a name");
    store.tag(B, &descriptor(2)).unwrap();
    assert_eq!(names(&store), [(None, 1), named(A, 2), named(B, 2)]);
    store.tag(A, &descriptor(1)).unwrap();
    assert_eq!(
        names(&store),
        [named(B, 2), named(A, 1)],
        "a nameless image got its name back"
    );
    assert_eq!(store.image(A).unwrap(), Some(descriptor(1)));
    assert_eq!(store.image("a").unwrap(), None);
    assert!(store.untag(B).unwrap());
    assert!(!store.untag(B).unwrap());
    store.tag(B, &descriptor(1)).unwrap();
    assert_eq!(store.remove_image(&descriptor(1).digest).unwrap(), [A, B]);
    assert_eq!(names(&store), []);
}

#[test]
fn tagging_again_writes_nothing() {
    use std::os::unix::fs::MetadataExt;
    let (_directory, store) = store();
    store.tag(A, &descriptor(1)).unwrap();
    let inode = || store.root().join(INDEX).metadata().unwrap().ino();
    let before = inode();
    store.tag(A, &descriptor(1)).unwrap();
    assert_eq!(inode(), before);
}

#[test]
fn what_other_tools_wrote_is_kept() {
    let (_directory, store) = store();
    let text = r#"{"schemaVersion":2,"extra":{"z":1,"a":2},"manifests":[
        {"mediaType":"m","digest":"sha512:00","size":1,"x":true},
        {"mediaType":"m","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":5,
         "annotations":{"org.opencontainers.image.ref.name":"v1","k":"v"},"platform":{"os":"linux","architecture":"arm","variant":"v7"}}],
        "annotations":{"top":"1"}}"#;
    std::fs::write(store.root().join(INDEX), text).unwrap();
    assert_eq!(
        store.images().unwrap()[0].platform.as_deref(),
        Some("linux/arm/v7")
    );
    assert_eq!(store.image("v1").unwrap().unwrap().size, 5);
    store.tag(A, &descriptor(1)).unwrap();
    let after: Value = serde_json::from_slice(&std::fs::read(store.root().join(INDEX)).unwrap()).unwrap();
    let mut expected: Value = serde_json::from_str(text).unwrap();
    let added = after["manifests"][2].clone();
    let sum = after["annotations"][super::entry::CHECKSUM].clone();
    expected["annotations"][super::entry::CHECKSUM] = sum;
    expected["manifests"].as_array_mut().unwrap().push(added.clone());
    assert_eq!(after.to_string(), expected.to_string());
    assert_eq!(added["annotations"][REF_NAME], "latest");
    assert_eq!(
        std::fs::read(store.root().join(INDEX_BACKUP)).unwrap(),
        text.as_bytes()
    );
}

#[test]
fn no_flipped_bit_leads_a_name_to_another_image() {
    let (_directory, store) = store();
    store.tag(A, &descriptor(1)).unwrap();
    store.tag("docker.io/library/b:latest", &descriptor(2)).unwrap();
    let path = store.root().join(INDEX);
    let good = std::fs::read(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for bit in 0..good.len() * 8 {
        file.write_all_at(&good, 0).unwrap();
        file.write_all_at(&[good[bit / 8] ^ 1 << (bit % 8)], bit as u64 / 8)
            .unwrap();
        let Ok(images) = store.images() else { continue };
        for image in images {
            let expected = match image.name.as_deref() {
                Some(A) => descriptor(1),
                Some("docker.io/library/b:latest") => descriptor(2),
                // Its own copy of the tag is all that another tool may have written; such a name is no reference.
                other => {
                    assert!(
                        other.is_none_or(|name| !name.contains('/')),
                        "bit {bit} made the name {other:?}"
                    );
                    continue;
                }
            };
            assert_eq!(image.descriptor, expected, "bit {bit}");
        }
    }
}

#[test]
fn a_damaged_index_is_named_and_not_overwritten() {
    let (_directory, store) = store();
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{\"schemaVersion\":2}",
        "{\"schemaVersion\":1,\"manifests\":[]}",
    ] {
        std::fs::write(store.root().join(INDEX), bad).unwrap();
        let error = store.tag(A, &descriptor(1)).unwrap_err().to_string();
        assert!(
            error.contains("index.json is damaged") && error.contains("index.json.bak"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(store.root().join(INDEX)).unwrap(), bad);
    }
}

#[test]
fn a_lost_list_is_missed() {
    let (_directory, store) = store();
    store.put_blob(&[1]).unwrap();
    store.tag(A, &descriptor(1)).unwrap();
    std::fs::remove_file(store.root().join(INDEX)).unwrap();
    let check = |repair| {
        let options = crate::CheckOptions {
            read_data: false,
            repair,
        };
        store.check(options).unwrap().is_damaged()
    };
    assert_eq!([check(false), check(true), check(false)], [true, true, false]);
    assert_eq!(names(&store), []);
}

#[test]
fn no_update_is_lost() {
    let (directory, _store) = store();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let root = directory.path().join("store");
            scope.spawn(move || {
                let store = Store::open(&root).unwrap();
                for n in 0..10_u8 {
                    store
                        .tag(&format!("localhost/t{thread}:{n}"), &descriptor(thread * 10 + n))
                        .unwrap();
                }
            });
        }
    });
    let store = Store::open(&directory.path().join("store")).unwrap();
    assert_eq!(store.images().unwrap().len(), 40);
}

#[test]
fn tags_of_names() {
    for (name, tag) in [
        (A, Some("latest")),
        (B, Some("1")),
        ("localhost:5000/b", None),
        ("a:1@sha256:00", Some("1")),
    ] {
        assert_eq!(tag_of(name), tag, "{name}");
    }
}
