//! The forms of a layer: each gives the others, other programs read them, damage heals or is told.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::blob::BlobProvider;
use rbuild_cache::layer::{
    Compression, Compressor, Entry, Kind, LayerBlob, LayerPath, MEDIA_TYPE_GZIP, Ownership, TarReader,
    Timestamp, walk_tree,
};
use rbuild_cache::tree::Tree;
use rbuild_cache::{DiffId, Digest, LayerId, Store, View};

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

/// Everything that makes headers difficult.
fn awkward() -> Vec<(Entry, &'static [u8])> {
    let long = format!("d/{}", "l".repeat(150));
    let deep = format!("d/{}/{}", "p".repeat(120), "q".repeat(90));
    let mut fractional = file("d/fraction", 3);
    fractional.mtime = Timestamp {
        seconds: -5,
        nanoseconds: 250_000_000,
    };
    fractional.xattrs = vec![(b"user.binary".to_vec(), b"a\0=\n\xff".to_vec())];
    let mut owned = file("d/owned", 0);
    (owned.uid, owned.gid, owned.mode) = (3_000_000, 4_000_000_000, 0o6755);
    let mut list = vec![
        (dir("d"), &b""[..]),
        (file("d/new\nline", 1), b"n"),
        (file(&long, 2), b"ll"),
        (dir(&format!("d/{}", "p".repeat(120))), b""),
        (file(&deep, 4), b"deep"),
        (fractional, b"abc"),
        (owned, b""),
        (file("d/\u{fc}ber", 2), b"uu"),
        (
            entry(
                "d/link",
                Kind::Symlink {
                    target: "t/".repeat(80).into_bytes(),
                },
                0o777,
            ),
            b"",
        ),
        (
            entry("d/zz-hard", Kind::Hardlink { target: path(&long) }, 0o644),
            b"",
        ),
        (entry("fifo", Kind::Fifo, 0o600), b""),
    ];
    let mut raw = file("x", 1);
    raw.path = LayerPath::root().join(b"raw-\xff\xfe");
    list.push((raw, b"r"));
    list.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    list
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
fn other_programs_read_what_is_written() {
    let Fixture { store, _directory } = &fixture();
    let id = build(store, &awkward());
    let tar = store.blob_path(&store.layer(&id).unwrap().tar().unwrap());
    let script = "import tarfile,sys\nfor m in tarfile.open(sys.argv[1]): print(ascii(m.name), m.type.decode(), oct(m.mode), m.uid, m.gid, m.size, float(m.mtime), ascii(m.linkname[:9]))";
    if let Ok(output) = Command::new("python3").args(["-c", script]).arg(&tar).output() {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), awkward().len());
        assert!(text.contains("'d/fraction' 0 0o644 0 0 3 -4.75"), "{text}");
        assert!(text.contains("'d/owned' 0 0o6755 3000000 4000000000 0"), "{text}");
        assert!(text.contains("'d/\\xfcber'"), "{text}");
    }
    if rustix::process::geteuid().is_root() {
        let out = _directory.path().join("gnu");
        fs::create_dir(&out).unwrap();
        let status = Command::new("tar")
            .args([
                "-x",
                "--xattrs",
                "--xattrs-include=*",
                "--numeric-owner",
                "-p",
                "-f",
            ])
            .arg(&tar)
            .arg("-C")
            .arg(&out)
            .status()
            .unwrap();
        assert!(status.success());
        let extracted = walk_tree(&out, Ownership::Real).unwrap();
        let expected: Vec<Entry> = awkward().into_iter().map(|(entry, _)| entry).collect();
        let unpacked = walk_tree(&store.layer(&id).unwrap().tree().unwrap(), Ownership::Real).unwrap();
        for (ours, written) in unpacked.entries().iter().zip(&expected) {
            if matches!(written.kind, Kind::Hardlink { .. }) {
                assert_eq!(ours.entry.kind, written.kind);
            } else {
                assert_eq!(ours.entry, *written);
            }
        }
        assert_eq!(extracted, unpacked);
    }
}

#[test]
fn what_other_programs_write_is_read() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners and trees need root");
        return;
    }
    let Fixture { store, _directory } = &fixture();
    let id = build(store, &awkward());
    let tree = store.layer(&id).unwrap().tree().unwrap();
    let expected = walk_tree(&tree, Ownership::Real).unwrap();
    for format in ["gnu", "pax", "posix", "oldgnu"] {
        let out = _directory.path().join(format!("{format}.tar"));
        let mut command = Command::new("tar");
        command
            .arg("-c")
            .arg(format!("--format={format}"))
            .args(["--numeric-owner", "--sort=name", "-f"])
            .arg(&out);
        if format != "gnu" && format != "oldgnu" {
            command.args(["--xattrs", "--xattrs-include=*"]);
        }
        assert!(command.arg("-C").arg(&tree).arg(".").status().unwrap().success());
        let mut reader = TarReader::archive(fs::File::open(&out).unwrap());
        let mut assembler = rbuild_cache::layer::IndexAssembler::new();
        while let Some(member) = reader.next_entry().unwrap() {
            assembler.push(member).unwrap();
        }
        let index = assembler.finish();
        assert_eq!(index.entries().len(), expected.entries().len(), "{format}");
        for (read, is) in index.entries().iter().zip(expected.entries()) {
            let mut is = is.entry.clone();
            if format == "gnu" || format == "oldgnu" {
                is.xattrs.clear();
                is.mtime.nanoseconds = 0;
            }
            let mut read = read.entry.clone();
            if format == "gnu" || format == "oldgnu" {
                // GNU cuts a negative time with a fraction the other way.
                read.mtime = is.mtime;
            }
            assert_eq!(read, is, "{format}");
        }
    }
}

/// Serves blobs from memory and counts.
#[derive(Default)]
struct Origin {
    blobs: HashMap<Digest, Vec<u8>>,
    fetched: AtomicUsize,
}

impl BlobProvider for Origin {
    fn fetch(&self, digest: &Digest, _size: u64, origins: &[String]) -> io::Result<Box<dyn Read + Send>> {
        assert_eq!(origins, ["registry.example/library/x"]);
        self.fetched.fetch_add(1, Ordering::SeqCst);
        let bytes = self.blobs.get(digest).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes)))
    }
}

fn gzip(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut out = Compressor::new(Vec::new(), compression).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A layer that only an origin has: its blob, its diff id, the origin.
fn pulled(tar: &[u8], compression: Compression) -> (LayerBlob, DiffId, Origin) {
    let bytes = gzip(tar, compression);
    let blob = LayerBlob {
        media_type: compression.media_type().to_owned(),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
    };
    let origin = Origin {
        blobs: HashMap::from([(blob.digest, bytes)]),
        fetched: AtomicUsize::new(0),
    };
    (blob, DiffId(Digest::of(tar)), origin)
}

fn sample_tar() -> Vec<u8> {
    let Fixture { store, .. } = &fixture();
    let mut entries = vec![
        (dir("etc"), &b""[..]),
        (file("etc/big", 700_000), &[9; 700_000][..]),
        (file("etc/hosts", 5), b"hosts"),
    ];
    entries.push((
        entry(
            "etc/link",
            Kind::Hardlink {
                target: path("etc/hosts"),
            },
            0o644,
        ),
        b"",
    ));
    let id = build(store, &entries);
    fs::read(store.blob_path(&store.layer(&id).unwrap().tar().unwrap())).unwrap()
}

#[test]
fn a_pulled_layer_is_fetched_once_when_somebody_looks() {
    let tar = sample_tar();
    for compression in [Compression::GZIP, Compression::ZSTD, Compression::Uncompressed] {
        let Fixture { store, .. } = &fixture();
        let (blob, diff_id, origin) = pulled(&tar, compression);
        let origin = Arc::new(origin);
        store.set_provider(origin.clone());
        let origins = ["registry.example/library/x".to_owned()];
        let id = store.register_layer(&blob, &diff_id, &origins).unwrap();
        assert_eq!(store.register_layer(&blob, &diff_id, &origins).unwrap(), id);
        let layer = store.layer(&id).unwrap();
        assert!(store.layer_exists(&id));
        assert_eq!(
            (layer.diff_id().unwrap(), layer.blob().unwrap()),
            (diff_id, blob.clone())
        );
        assert_eq!(origin.fetched.load(Ordering::SeqCst), 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| store.layer(&id).unwrap().index().unwrap());
            }
        });
        assert!(store.has_blob(&blob.digest));
        let view = View::new(vec![layer.clone()]);
        let mut bytes = String::new();
        view.open(&path("etc/link"))
            .unwrap()
            .read_to_string(&mut bytes)
            .unwrap();
        assert_eq!(bytes, "hosts");
        let link = view.lookup(&path("etc/link")).unwrap().unwrap();
        assert_eq!(link.kind, Kind::File { size: 5 });
        let other = view.lookup(&path("etc/hosts")).unwrap().unwrap();
        assert!(view.link_group(&link).unwrap().is_some());
        assert_eq!(view.link_group(&link).unwrap(), view.link_group(&other).unwrap());
        assert_eq!(
            view.content_digest(&link).unwrap(),
            rbuild_cache::ContentDigest::of(b"hosts")
        );
        assert_eq!(layer.tar().unwrap(), diff_id.0);
        if rustix::process::geteuid().is_root() {
            let tree = layer.tree().unwrap();
            assert_eq!(fs::metadata(tree.join("etc/link")).unwrap().nlink(), 2);
        }
        assert_eq!(origin.fetched.load(Ordering::SeqCst), 1, "{compression:?}");
    }
}

#[test]
fn wrong_bytes_from_an_origin_leave_nothing() {
    let tar = sample_tar();
    let (blob, diff_id, good) = pulled(&tar, Compression::GZIP);
    let bytes = good.blobs[&blob.digest].clone();
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let longer = [bytes.clone(), vec![0]].concat();
    let cases: Vec<(&str, Vec<u8>, DiffId)> = vec![
        ("a flipped bit", flipped, diff_id),
        ("cut off", bytes[..bytes.len() - 9].to_vec(), diff_id),
        ("longer", longer, diff_id),
        ("another layer", gzip(b"", Compression::GZIP), diff_id),
        ("a wrong diff id", bytes, DiffId(Digest::of(b"other"))),
    ];
    for (what, bytes, diff_id) in cases {
        let Fixture { store, .. } = &fixture();
        store.set_provider(Arc::new(Origin {
            blobs: HashMap::from([(blob.digest, bytes)]),
            fetched: AtomicUsize::new(0),
        }));
        let id = store
            .register_layer(&blob, &diff_id, &["registry.example/library/x".to_owned()])
            .unwrap();
        let root = rustix::process::geteuid().is_root();
        assert!(store.receive_layer(&id, root).is_err(), "{what}");
        let layer = store.root().join("layers").join(id.as_str());
        assert!(
            !store.has_blob(&blob.digest) && !layer.join("fs").exists() && !layer.join("index").exists(),
            "{what}"
        );
    }
}

#[test]
fn damage_heals_from_another_form_or_is_told() {
    let tar = sample_tar();
    let Fixture { store, .. } = &fixture();
    let (blob, diff_id, origin) = pulled(&tar, Compression::GZIP);
    store.set_provider(Arc::new(origin));
    let id = store
        .register_layer(&blob, &diff_id, &["registry.example/library/x".to_owned()])
        .unwrap();
    store.receive_layer(&id, false).unwrap();
    let layer = store.layer(&id).unwrap();
    layer.tar().unwrap();
    let flip = |path: &std::path::Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path, bytes).unwrap();
    };
    // A file in the tar: the reader says so, the next one gets it right.
    flip(&store.blob_path(&diff_id.0), 2000);
    let view = View::new(vec![store.layer(&id).unwrap()]);
    let error = view
        .open(&path("etc/big"))
        .unwrap()
        .read_to_end(&mut Vec::new())
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(
        view.open(&path("etc/big"))
            .unwrap()
            .read_to_end(&mut Vec::new())
            .unwrap(),
        700_000
    );
    // The blob, the index, the record: made again.
    flip(&store.blob_path(&blob.digest), 50);
    flip(&store.root().join("layers").join(id.as_str()).join("index"), 60);
    store.discard_blob(&diff_id.0).unwrap();
    assert_eq!(store.layer(&id).unwrap().index().unwrap().entries().len(), 4);
    flip(
        &store.root().join("layers").join(id.as_str()).join("record.json"),
        80,
    );
    assert_eq!(store.layer(&id).unwrap().diff_id().unwrap(), diff_id);
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
fn members_in_any_order_unpack_as_they_are_indexed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners and trees need root");
        return;
    }
    use rbuild_cache::layer::TarWriter;
    let mut tar = TarWriter::new(Vec::new());
    let whiteout = |name: &str| Entry {
        mtime: Timestamp::default(),
        ..entry(name, Kind::Whiteout, 0)
    };
    let members: Vec<(Entry, &[u8])> = vec![
        (file("late/parent/f", 2), b"11"),
        (file("late/parent/f", 3), b"222"),
        (entry("late", Kind::Directory { opaque: false }, 0o750), b""),
        (dir("was-dir"), b""),
        (file("was-dir/x", 1), b"x"),
        (file("was-dir", 2), b"no"),
        (file("was-file", 1), b"f"),
        (dir("was-file"), b""),
        (file("was-file/y", 1), b"y"),
        (file("zz", 4), b"link"),
        (entry("aa", Kind::Hardlink { target: path("zz") }, 0o644), b""),
        (file("zz", 5), b"other"),
        (
            entry("zz-too", Kind::Hardlink { target: path("zz") }, 0o4711),
            b"",
        ),
        (file("back", 1), b"b"),
        (whiteout("back"), b""),
        (whiteout("renewed"), b""),
        (dir("renewed"), b""),
        (whiteout("gone"), b""),
    ];
    for (entry, mut bytes) in members {
        let is_file = matches!(entry.kind, Kind::File { .. });
        tar.append(&entry, is_file.then_some(&mut bytes as &mut dyn Read))
            .unwrap();
    }
    let (tar, _) = tar.finish().unwrap();
    let Fixture { store, .. } = &fixture();
    let (blob, diff_id, origin) = pulled(&tar, Compression::GZIP);
    store.set_provider(Arc::new(origin));
    let id = store
        .register_layer(&blob, &diff_id, &["registry.example/library/x".to_owned()])
        .unwrap();
    store.receive_layer(&id, true).unwrap();
    let layer = store.layer(&id).unwrap();
    let index = layer.index().unwrap();
    let indexed: Vec<&Entry> = index.entries().iter().map(|e| &e.entry).collect();
    let walked = walk_tree(&layer.tree().unwrap(), Ownership::Real).unwrap();
    assert_eq!(
        walked.entries().iter().map(|e| &e.entry).collect::<Vec<_>>(),
        indexed
    );
    let kind = |name: &str| index.get(&path(name)).map(|e| e.entry.kind.clone());
    assert_eq!(kind("aa"), Some(Kind::File { size: 4 }));
    assert_eq!(kind("zz"), Some(Kind::File { size: 5 }));
    // The last header of a file counts, that of a hard link as well.
    assert_eq!(index.get(&path("zz")).unwrap().entry.mode, 0o4711);
    assert_eq!(kind("renewed"), Some(Kind::Directory { opaque: true }));
    assert_eq!(kind("back"), Some(Kind::File { size: 1 }));
    assert_eq!(kind("gone"), Some(Kind::Whiteout));
    assert_eq!(kind("was-dir/x"), None);
    assert_eq!(index.get(&path("late")).unwrap().entry.mode, 0o750);
}

#[test]
fn nothing_is_written_through_a_link() {
    use rbuild_cache::layer::TarWriter;
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(outside.path().join("victim"), b"v").unwrap();
    let target = outside.path().to_str().unwrap().as_bytes().to_vec();
    let link = || {
        (
            entry(
                "d",
                Kind::Symlink {
                    target: target.clone(),
                },
                0o777,
            ),
            &b""[..],
        )
    };
    let cases: Vec<Vec<(Entry, &[u8])>> = vec![
        vec![link(), (file("d/new", 1), b"n")],
        vec![
            link(),
            (entry("d", Kind::Directory { opaque: false }, 0o777), b""),
        ],
        vec![link(), (entry("d/victim", Kind::Whiteout, 0), b"")],
        vec![
            link(),
            (
                entry(
                    "h",
                    Kind::Hardlink {
                        target: path("d/victim"),
                    },
                    0o777,
                ),
                b"",
            ),
        ],
        vec![
            link(),
            (entry("h", Kind::Hardlink { target: path("d") }, 0o777), b""),
            (file("h", 1), b"x"),
        ],
    ];
    for members in cases {
        let mut tar = TarWriter::new(Vec::new());
        for (entry, mut bytes) in members {
            let is_file = matches!(entry.kind, Kind::File { .. });
            tar.append(&entry, is_file.then_some(&mut bytes as &mut dyn Read))
                .unwrap();
        }
        let (tar, _) = tar.finish().unwrap();
        let Fixture { store, .. } = &fixture();
        let (blob, diff_id, origin) = pulled(&tar, Compression::Uncompressed);
        store.set_provider(Arc::new(origin));
        let id = store
            .register_layer(&blob, &diff_id, &["registry.example/library/x".to_owned()])
            .unwrap();
        let _ = store.receive_layer(&id, true);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        let metadata = fs::metadata(outside.path().join("victim")).unwrap();
        assert_eq!((metadata.nlink(), metadata.len()), (1, 1));
        assert_eq!(
            fs::metadata(outside.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}

#[test]
fn overlayfs_sees_what_the_view_sees() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let Fixture { store, _directory } = &fixture();
    let lower = [
        (dir("a"), &b""[..]),
        (file("a/gone", 1), b"1"),
        (file("a/kept", 1), b"2"),
        (dir("b"), b""),
        (dir("b/hidden"), b""),
        (file("b/hidden/x", 1), b"3"),
    ];
    let upper = [
        (dir("a"), &b""[..]),
        (
            Entry {
                mtime: Timestamp::default(),
                ..entry("a/gone", Kind::Whiteout, 0)
            },
            b"",
        ),
        (entry("b", Kind::Directory { opaque: true }, 0o755), b""),
        (file("b/new", 1), b"4"),
    ];
    let layers: Vec<_> = [&lower[..], &upper]
        .iter()
        .map(|e| store.layer(&build(store, e)).unwrap())
        .collect();
    let trees: Vec<_> = layers
        .iter()
        .rev()
        .map(|layer| layer.tree().unwrap().display().to_string())
        .collect();
    let mount = _directory.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let script = "mount -t overlay overlay -o ro,userxattr,lowerdir=\"$1\" \"$2\" && cd \"$2\" && find . -mindepth 1 | LC_ALL=C sort";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh", &trees.join(":")])
        .arg(&mount)
        .output()
        .unwrap();
    if !output.status.success() {
        eprintln!(
            "skipped: no overlayfs here: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "./a\n./a/kept\n./b\n./b/new\n"
    );
    let view = View::new(layers);
    let names = |name| {
        view.read_dir(&path(name))
            .unwrap()
            .iter()
            .map(|e| e.path.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(""), names("a"), names("b")),
        (
            vec!["/a".into(), "/b".into()],
            vec!["/a/kept".into()],
            vec!["/b/new".into()]
        )
    );
}
