//! Trees whose owners are notes: the same entries as trees with real owners.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use rbuild_cache::Store;
use rbuild_cache::layer::{Entry, Kind, LayerPath, Ownership, Timestamp, walk_tree};

/// `cap_net_raw+ep`, as `setcap` writes it.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn entry(name: &str, kind: Kind, mode: u32, owner: (u32, u32)) -> Entry {
    Entry {
        path: LayerPath::clean(name.as_bytes()),
        kind,
        mode,
        uid: owner.0,
        gid: owner.1,
        mtime: Timestamp {
            seconds: 1_500_000_000,
            nanoseconds: 7,
        },
        xattrs: Vec::new(),
    }
}

fn entries() -> Vec<Entry> {
    let file = || Kind::File { size: 3 };
    let directory = || Kind::Directory { opaque: false };
    let target = || b"file".to_vec();
    let mut capable = entry("d/capable", file(), 0o755, (0, 0));
    capable.xattrs = vec![
        (b"security.capability".to_vec(), NET_RAW.to_vec()),
        (b"user.own".to_vec(), b"kept".to_vec()),
    ];
    let link = Kind::Hardlink {
        target: LayerPath::clean(b"d/file"),
    };
    vec![
        entry("d", directory(), 0o2750, (1000, 50)),
        entry(
            "d/block",
            Kind::BlockDevice { major: 7, minor: 300 },
            0o660,
            (0, 6),
        ),
        capable,
        entry("d/file", file(), 0o4755, (4_000_000, 1)),
        entry("d/link", link, 0o4755, (4_000_000, 1)),
        entry("d/null", Kind::CharDevice { major: 1, minor: 3 }, 0o666, (0, 0)),
        entry("d/pipe", Kind::Fifo, 0o600, (33, 33)),
        entry("plain", Kind::Symlink { target: target() }, 0o777, (0, 0)),
        entry("symlink", Kind::Symlink { target: target() }, 0o777, (65534, 2)),
    ]
}

fn build(store: &Store) -> rbuild_cache::LayerId {
    let mut builder = store.layer_builder().unwrap();
    for entry in entries() {
        let mut data = b"abc".as_slice();
        let data = matches!(entry.kind, Kind::File { .. }).then_some(&mut data as &mut dyn std::io::Read);
        builder.append(&entry, data).unwrap();
    }
    builder.commit().unwrap()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: trees are read by root or inside a user namespace");
    }
    root
}

#[test]
fn notes_give_the_entries_back() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let id = build(&store);
    store.set_ownership(Ownership::Emulated);
    let tree = store.layer(&id).unwrap().tree().unwrap();
    assert!(tree.ends_with("fs.single"), "{}", tree.display());
    for name in ["d", "d/file", "d/null", "symlink", "d/pipe"] {
        let stat = fs::symlink_metadata(tree.join(name)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (0, 0), "{name}");
    }
    assert!(fs::symlink_metadata(tree.join("d/null")).unwrap().is_file());
    let walked = walk_tree(&tree, Ownership::Emulated).unwrap();
    let walked: Vec<Entry> = walked.entries().iter().map(|e| e.entry.clone()).collect();
    assert_eq!(walked, entries());
}

/// A snapshot taken with notes has the diff id of the same layer with real owners, wherever it is read.
#[test]
fn a_tree_of_notes_has_the_same_digest() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let expected = store.layer(&build(&store)).unwrap().diff_id().unwrap();

    let other = Store::open(&folder.path().join("other")).unwrap();
    let id = build(&other);
    other.set_ownership(Ownership::Emulated);
    let tree = other.layer(&id).unwrap().tree().unwrap();
    let snapshot = other.begin_snapshot().unwrap();
    assert!(snapshot.upper().ends_with("fs.single"));
    fs::remove_dir(snapshot.upper()).unwrap();
    fs::rename(&tree, snapshot.upper()).unwrap();
    let committed = snapshot.commit().unwrap();
    // A process with many ids reads it too, and makes itself a tree to stand on.
    let later = Store::open(other.root()).unwrap();
    let layer = later.layer(&committed).unwrap();
    assert!(layer.has_tree() && !layer.has_tree_for_steps());
    let real = layer.tree().unwrap();
    assert!(real.ends_with("fs"), "{}", real.display());
    assert_eq!(fs::symlink_metadata(real.join("symlink")).unwrap().uid(), 65534);
    assert_eq!(layer.diff_id().unwrap(), expected);
}

/// The tree of a process with many ids says nothing to one that has a single one.
#[test]
fn real_owners_are_not_read_as_notes() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let snapshot = store.begin_snapshot().unwrap();
    fs::write(snapshot.upper().join("file"), "bytes").unwrap();
    let id = snapshot.commit().unwrap();
    assert!(store.layer_exists(&id));
    store.set_ownership(Ownership::Emulated);
    assert!(!store.layer_exists(&id));
}

/// An image may bring names that look like notes: they are dropped.
#[test]
fn notes_of_an_image_are_not_believed() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let mut builder = store.layer_builder().unwrap();
    let mut file = entry("file", Kind::File { size: 0 }, 0o644, (0, 0));
    file.xattrs = vec![(b"user.rbuild.owner".to_vec(), b"1:2".to_vec())];
    builder.append(&file, Some(&mut std::io::empty())).unwrap();
    let mut link = entry(
        "link",
        Kind::Symlink {
            target: b"file".to_vec(),
        },
        0o777,
        (0, 0),
    );
    link.xattrs = vec![(b"security.capability".to_vec(), NET_RAW.to_vec())];
    builder.append(&link, None).unwrap();
    let id = builder.commit().unwrap();
    store.set_ownership(Ownership::Emulated);
    let tree = store.layer(&id).unwrap().tree().unwrap();
    let walked = walk_tree(&tree, Ownership::Emulated).unwrap();
    for found in walked.entries() {
        assert_eq!((found.entry.uid, found.entry.gid), (0, 0));
        assert_eq!(found.entry.xattrs, []);
    }
}
