//! Trees: what is unpacked is what is indexed, whatever order a tar has, and nothing is written outside of them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;

use rbuild_cache::View;
use rbuild_cache::layer::{Compression, Entry, Kind, Ownership, TarWriter, Timestamp, walk_tree};
use rbuild_cache::tree::Tree;

use super::pulled::pulled;
use super::{Fixture, build, dir, entry, file, fixture, path};

#[test]
fn members_in_any_order_unpack_as_they_are_indexed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners and trees need root");
        return;
    }
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
    let layer = store.layer(&id).unwrap();
    layer.tree().unwrap();
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
        let _ = store.layer(&id).unwrap().tree();
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
