//! A1-8: somebody swaps directories of the tree for links while a layer is unpacked into it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rbuild_cache::layer::{
    Entry, IndexAssembler, Kind, LayerPath, Ownership, TarReader, TarWriter, Timestamp, Unpacker,
};

/// Swaps of a directory for a link and back, at least.
const SWAPS: u32 = 100_000;

fn entry(name: &str, kind: Kind, mode: u32) -> Entry {
    Entry {
        path: LayerPath::clean(name.as_bytes()),
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp {
            seconds: 1_500_000_000,
            nanoseconds: 0,
        },
        xattrs: vec![(b"user.mark".to_vec(), b"1".to_vec())],
    }
}

/// Directories, files, links and hard links three levels deep, all over the place that is swapped.
fn layer() -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    let directory = |name: &str| entry(name, Kind::Directory { opaque: false }, 0o777);
    let mut put = |entry: Entry, data: &[u8]| {
        let mut data = data;
        let is_file = matches!(entry.kind, Kind::File { .. });
        writer
            .append(&entry, is_file.then_some(&mut data as &mut dyn std::io::Read))
            .unwrap();
    };
    put(directory("swapped"), b"");
    put(directory("swapped/in"), b"");
    for name in ["secret", "swapped/in/secret", "swapped/secret"] {
        put(entry(name, Kind::File { size: 4 }, 0o4777), b"evil");
    }
    let target = LayerPath::clean(b"secret");
    put(entry("swapped/in/hard", Kind::Hardlink { target }, 0o4777), b"");
    let target = b"/nowhere".to_vec();
    let mut soft = entry("swapped/in/soft", Kind::Symlink { target }, 0o777);
    // Links have no attributes of users.
    soft.xattrs.clear();
    put(soft, b"");
    writer.finish().unwrap().0
}

/// Path, mode, owner, time and content.
fn census(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let (mode, time) = (found.mode(), (found.mtime(), found.mtime_nsec(), found.nlink()));
        lines.push(format!(
            "{} {mode:o} {}:{} {time:?} {content:?}",
            path.display(),
            found.uid(),
            found.gid()
        ));
    }
    lines.sort();
    lines
}

/// Unpacks; what another process did to the tree may make it fail.
fn unpack(tar: &[u8], root: &Path) -> std::io::Result<()> {
    let mut unpacker = Unpacker::new(root, Ownership::Real)?;
    let mut reader = TarReader::layer(tar);
    let mut index = IndexAssembler::new();
    while let Some(member) = reader.next_entry().expect("the tar is good") {
        let entry = member.entry.clone();
        index.push(member).expect("the tar is good");
        unpacker.member(&entry, &mut reader)?;
    }
    unpacker.finish(&index.finish())
}

/// Ends the other thread, also when an assertion fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a1_8_swapped_directories_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::create_dir_all(place("host/in")).unwrap();
    fs::write(place("host/secret"), "mine").unwrap();
    fs::write(place("host/in/secret"), "mine").unwrap();
    fs::set_permissions(place("host/secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = census(&place("host"));
    symlink(place("host"), place("link")).unwrap();

    let tar = layer();
    fs::create_dir(place("calm")).unwrap();
    unpack(&tar, &place("calm")).unwrap();
    assert_eq!(fs::read(place("calm/swapped/in/hard")).unwrap(), b"evil");
    let (swaps, done) = (AtomicU32::new(0), AtomicBool::new(false));
    let (mut whole, mut disturbed) = (0u32, 0u32);
    let exchange = |one: &str, other: &str| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let here = rustix::fs::CWD;
        if rustix::fs::renameat_with(here, place(one), here, place(other), flags).is_ok() {
            swaps.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let _ends = Ends(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for _ in 0..512 {
                    exchange("tree/swapped", "link");
                }
                // Now and then a tree is left alone.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        while swaps.load(Ordering::Relaxed) < SWAPS {
            fs::create_dir(place("tree")).unwrap();
            match unpack(&tar, &place("tree")) {
                Ok(()) => whole += 1,
                Err(_) => disturbed += 1,
            }
            // Out of the way of the other thread, and the link back where it was.
            fs::rename(place("tree"), place("old")).unwrap();
            // A swap that was on its way when the tree went may still arrive.
            while !fs::symlink_metadata(place("link")).is_ok_and(|found| found.is_symlink()) {
                let _ = fs::remove_dir_all(place("link"));
                let _ = symlink(place("host"), place("link"));
            }
            while fs::symlink_metadata(place("old")).is_ok() {
                let _ = fs::remove_dir_all(place("old"));
            }
        }
    });
    assert_eq!(census(&place("host")), before);
    // Both happened, or nothing was raced.
    assert!(whole > 0 && disturbed > 0, "{whole} {disturbed}");
}
