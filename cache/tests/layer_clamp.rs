//! SOURCE_DATE_EPOCH: layers without later times, however their bytes are kept.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::Read;
use std::time::{Duration, UNIX_EPOCH};

use rbuild_cache::layer::{Compression, Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::{LayerId, Store};

const LATEST: i64 = 1_400_000_000;

fn file(name: &str, seconds: i64, nanoseconds: u32) -> Entry {
    Entry {
        path: LayerPath::clean(name.as_bytes()),
        kind: Kind::File { size: 3 },
        mode: 0o644,
        uid: 7,
        gid: 8,
        mtime: Timestamp { seconds, nanoseconds },
        xattrs: vec![(b"user.x".to_vec(), b"1".to_vec())],
    }
}

fn build(store: &Store, entries: &[Entry], clamp: Option<i64>) -> LayerId {
    let mut builder = store.layer_builder().unwrap();
    if let Some(latest) = clamp {
        builder.clamp(latest);
    }
    for entry in entries {
        builder
            .append(entry, Some(&mut b"abc".as_slice() as &mut dyn Read))
            .unwrap();
    }
    builder.commit().unwrap()
}

#[test]
fn clamped_as_it_is_written_or_later_is_the_same_layer() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let entries = [
        file("a", LATEST - 1, 999),
        file("b", LATEST, 0),
        file("c", LATEST, 1),
        file("d", LATEST + 1, 0),
    ];
    let written = build(&store, &entries, Some(LATEST));
    let plain = store.layer(&build(&store, &entries, None)).unwrap();
    assert_eq!(plain.known_clamped(LATEST).unwrap(), None);
    assert_eq!(plain.clamped(LATEST).unwrap(), written);
    assert_eq!(plain.known_clamped(LATEST).unwrap(), Some(written.clone()));
    let times: Vec<_> = store
        .layer(&written)
        .unwrap()
        .index()
        .unwrap()
        .entries()
        .iter()
        .map(|e| (e.entry.mtime.seconds, e.entry.mtime.nanoseconds))
        .collect();
    assert_eq!(times, [(LATEST - 1, 999), (LATEST, 0), (LATEST, 0), (LATEST, 0)]);
    // What has no later times is what it was.
    assert_eq!(store.layer(&written).unwrap().clamped(LATEST).unwrap(), written);
    assert_eq!(plain.clamped(LATEST + 2).unwrap(), *plain.id());
    // Only so many are remembered.
    for epoch in 0..20 {
        plain.clamped(epoch).unwrap();
    }
    let remembered = plain.record().unwrap().clamped;
    assert_eq!(remembered.len(), 8);
    assert_eq!(remembered.last().unwrap().latest, 19);
}

#[test]
fn a_snapshot_gets_no_tar_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: trees need root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let snapshot = || {
        let snapshot = store.begin_snapshot().unwrap();
        let upper = snapshot.upper().to_owned();
        fs::create_dir(upper.join("d")).unwrap();
        fs::write(upper.join("d/old"), b"old").unwrap();
        fs::File::options()
            .write(true)
            .open(upper.join("d/old"))
            .unwrap()
            .set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000))
            .unwrap();
        fs::write(upper.join("d/new"), b"new").unwrap();
        fs::hard_link(upper.join("d/new"), upper.join("link")).unwrap();
        std::os::unix::fs::symlink("d", upper.join("sym")).unwrap();
        store.layer(&snapshot.commit().unwrap()).unwrap()
    };
    let first = snapshot();
    let clamped = first.clamped(LATEST).unwrap();
    let record = first.record().unwrap();
    assert!(record.tar.is_none() && record.diff_id.is_none());
    // Another run of the same step gives the same bytes.
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(snapshot().clamped(LATEST).unwrap(), clamped);
    let clamped = store.layer(&clamped).unwrap();
    let index = clamped.index().unwrap();
    let time = |name: &str| {
        let found = index.get(&LayerPath::clean(name.as_bytes())).unwrap();
        found.entry.mtime.seconds
    };
    assert_eq!(time("d/old"), 1_000_000_000);
    for late in ["d", "d/new", "link", "sym"] {
        assert_eq!(time(late), LATEST, "{late}");
    }
    let gzip = clamped.compressed(&Compression::GZIP, false).unwrap();
    assert!(store.has_blob(&gzip.digest));
}
