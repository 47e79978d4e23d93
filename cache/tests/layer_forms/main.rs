//! The forms of a layer: each gives the others, other programs read them, damage heals or is told.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

// What other programs write and read.
mod interchange;
// Layers that only an origin has, and damage.
mod pulled;
// Trees, in whatever order a tar has its members; nothing is written outside of them.
mod unpacking;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rbuild_cache::layer::{
    Compression, Entry, Kind, LayerPath, MEDIA_TYPE_GZIP, Ownership, Pace, Timestamp, walk_tree,
};
use rbuild_cache::{LayerId, Store};

fn path(text: &str) -> LayerPath {
    LayerPath::clean(text.as_bytes())
}

fn entry(name: &str, kind: Kind, mode: u32) -> Entry {
    let mtime = Timestamp {
        seconds: 1_500_000_000,
        nanoseconds: 0,
    };
    Entry {
        path: path(name),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
    }
}

fn dir(name: &str) -> Entry {
    entry(name, Kind::Directory { opaque: false }, 0o755)
}

fn file(name: &str, size: usize) -> Entry {
    entry(name, Kind::File { size: size as u64 }, 0o644)
}

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    Fixture {
        _directory: directory,
        store,
    }
}

fn build(store: &Store, entries: &[(Entry, &[u8])]) -> LayerId {
    let mut builder = store.layer_builder().unwrap();
    for &(ref entry, mut bytes) in entries {
        let is_file = matches!(entry.kind, Kind::File { .. });
        builder
            .append(entry, is_file.then_some(&mut bytes as &mut dyn Read))
            .unwrap();
    }
    builder.commit().unwrap()
}

#[test]
fn the_empty_layer_has_its_well_known_name() {
    let Fixture { store, .. } = &fixture();
    let id = build(store, &[]);
    let expected = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(store.layer(&id).unwrap().diff_id().unwrap().to_string(), expected);
}

#[test]
fn builders_insist_on_order_parents_and_sizes() {
    let Fixture { store, .. } = &fixture();
    let mut builder = store.layer_builder().unwrap();
    builder.append(&dir("b"), None).unwrap();
    assert!(builder.append(&dir("a"), None).is_err());
    assert!(builder.append(&dir("b"), None).is_err());
    assert!(builder.append(&file("c/d", 0), Some(&mut &b""[..])).is_err());
    assert!(
        builder
            .append(&file("b/short", 5), Some(&mut &b"1234"[..]))
            .is_err()
    );
    for deceptive in [
        file(".wh.x", 0),
        entry("x", Kind::CharDevice { major: 0, minor: 0 }, 0),
    ] {
        let mut builder = store.layer_builder().unwrap();
        assert!(builder.append(&deceptive, Some(&mut &b""[..])).is_err());
    }
    let mut builder = store.layer_builder().unwrap();
    assert!(builder.append(&file("long", 3), Some(&mut &b"1234"[..])).is_err());
    drop(builder);
    assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
}

#[test]
fn a_snapshot_is_a_layer() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners and trees need root");
        return;
    }
    let Fixture { store, .. } = &fixture();
    let snapshot = store.begin_snapshot().unwrap();
    let upper = snapshot.upper().to_owned();
    assert_eq!(fs::metadata(&upper).unwrap().permissions().mode() & 0o7777, 0o755);
    fs::create_dir(upper.join("d")).unwrap();
    fs::write(upper.join("d/f"), b"text").unwrap();
    fs::hard_link(upper.join("d/f"), upper.join("a")).unwrap();
    let directory = fs::File::open(upper.join("d")).unwrap();
    for name in [
        "user.overlay.opaque",
        "user.overlay.origin",
        "user.overlay.impure",
    ] {
        rustix::fs::fsetxattr(&directory, name, b"y", rustix::fs::XattrFlags::empty()).unwrap();
    }
    let node = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(&directory, "gone", node, rustix::fs::Mode::empty(), 0).unwrap();
    let id = snapshot.commit().unwrap();
    assert!(!upper.exists());
    let layer = store.layer(&id).unwrap();
    let index = layer.index().unwrap();
    let kinds: Vec<(String, Kind)> = index
        .entries()
        .iter()
        .map(|e| (e.entry.path.to_string(), e.entry.kind.clone()))
        .collect();
    let expected = [
        ("/a", Kind::File { size: 4 }),
        ("/d", Kind::Directory { opaque: true }),
        ("/d/f", Kind::Hardlink { target: path("a") }),
        ("/d/gone", Kind::Whiteout),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert!(index.entries().iter().all(|e| e.entry.xattrs.is_empty()));
    // Compressed first: the diff id comes with it, without the tar.
    let zstd = layer.compressed(&Compression::ZSTD, false).unwrap();
    let diff_id = layer.diff_id().unwrap();
    assert!(store.has_blob(&zstd.digest) && !store.has_blob(&diff_id.0));
    let gzip = layer.compressed(&Compression::GZIP, true).unwrap();
    assert_eq!(
        (layer.tar().unwrap(), gzip.media_type.as_str()),
        (diff_id.0, MEDIA_TYPE_GZIP)
    );
    assert_eq!(layer.compressed(&Compression::GZIP, true).unwrap(), gzip);
    store.discard_blob(&gzip.digest).unwrap();
    layer.ensure_blob(&gzip.digest).unwrap();
    // As a pulled layer it has the same entries.
    let other = fixture();
    let mut writer = other.store.blob_writer().unwrap();
    io::copy(&mut store.open_blob(&gzip.digest).unwrap(), &mut writer).unwrap();
    writer.commit(Some(&gzip.digest)).unwrap();
    let copy = other
        .store
        .layer(&other.store.register_layer(&gzip, &diff_id, &[]).unwrap())
        .unwrap();
    assert_eq!(copy.content().unwrap(), layer.content().unwrap());
    let unpacked = walk_tree(&copy.tree().unwrap(), Ownership::Real).unwrap();
    assert_eq!(
        unpacked,
        walk_tree(&layer.tree().unwrap(), Ownership::Real).unwrap()
    );
}

#[test]
fn what_is_compressed_beside_other_work_has_the_same_bytes() {
    let (one, other) = (fixture(), fixture());
    let layer = |store: &Store| {
        let mut builder = store.layer_builder().unwrap();
        let bytes: Vec<u8> = (0..600_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        builder
            .append(&file("f", bytes.len()), Some(&mut bytes.as_slice()))
            .unwrap();
        store.layer(&builder.commit().unwrap()).unwrap()
    };
    let (one, other) = (layer(&one.store), layer(&other.store));
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let given_up = Arc::new(Pace::default());
        given_up.give_up();
        given_up.hurry();
        let failed = one.compressed_beside(&compression, true, &given_up).unwrap_err();
        assert!(failed.to_string().contains("not wanted any more"), "{failed}");
        let beside = one
            .compressed_beside(&compression, true, &Arc::default())
            .unwrap();
        assert_eq!(beside, other.compressed(&compression, true).unwrap());
        assert_eq!(beside, one.compressed(&compression, true).unwrap());
    }
    // What cannot be made faster is given up when it is urgent.
    let hurried = Arc::new(Pace::default());
    hurried.hurry();
    let gzip = one
        .compressed_beside(&Compression::Gzip(1), true, &hurried)
        .unwrap();
    assert_eq!(gzip, other.compressed(&Compression::Gzip(1), true).unwrap());
    assert!(
        one.compressed_beside(&Compression::Zstd(1), true, &hurried)
            .is_err()
    );
    one.compressed(&Compression::Zstd(1), true).unwrap();
}
