use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::*;
use crate::layer::walk_tree;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: copied roots are made by root or inside a user namespace");
    }
    root
}

/// What the executor does before a step: afterwards no change has the time of an earlier one.
fn tick(root: &CopiedRoot) {
    let probe = root.aside().join("tick");
    let touch = || {
        fs::write(&probe, "").unwrap();
        let meta = fs::metadata(&probe).unwrap();
        (meta.ctime(), meta.ctime_nsec())
    };
    let first = touch();
    while touch() == first {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::remove_file(probe).unwrap();
}

/// Runs a step, and gives its layer's entries: path and kind, `opaque` for directories that hide.
fn step(store: &Store, stack: &mut Vec<LayerId>, work: impl FnOnce(&Path)) -> Vec<String> {
    let root = store.begin_copied(stack).unwrap();
    tick(&root);
    work(&root.path());
    let layer = root.commit(&[], 1).unwrap();
    stack.push(layer.clone());
    let index = store.layer(&layer).unwrap().index().unwrap();
    index.entries().iter().map(|found| told(&found.entry)).collect()
}

fn told(entry: &Entry) -> String {
    let what = match &entry.kind {
        Kind::Directory { opaque: true } => " opaque".to_owned(),
        Kind::Directory { .. } => "/".to_owned(),
        Kind::File { .. } => String::new(),
        Kind::Hardlink { target } => format!(" = {target}"),
        Kind::Whiteout => " gone".to_owned(),
        other => format!(" {other:?}"),
    };
    format!("{}{what}", entry.path)
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

#[test]
fn a_layer_has_what_an_overlay_would_have_kept() {
    if !is_root() {
        return;
    }
    let (_folder, store) = store();
    let mut stack = Vec::new();
    let first = step(&store, &mut stack, |root| {
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::write(root.join("a/b/file"), "one").unwrap();
        fs::write(root.join("a/other"), "two").unwrap();
        fs::hard_link(root.join("a/other"), root.join("a/second")).unwrap();
        symlink("nowhere", root.join("link")).unwrap();
    });
    assert_eq!(
        first,
        [
            "/a/",
            "/a/b/",
            "/a/b/c/",
            "/a/b/file",
            "/a/other",
            "/a/second = /a/other",
            "/link Symlink { target: [110, 111, 119, 104, 101, 114, 101] }"
        ]
    );
    assert_eq!(step(&store, &mut stack, |_| {}), [""; 0]);
    // Size and time as before.
    let rewritten = step(&store, &mut stack, |root| {
        let file = root.join("a/b/file");
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        fs::write(&file, "ONE").unwrap();
        let open = fs::File::options().write(true).open(&file).unwrap();
        open.set_modified(modified).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    });
    assert_eq!(rewritten, ["/a/", "/a/b/", "/a/b/file"]);
    // One name less is no change of the file.
    let unlinked = step(&store, &mut stack, |root| {
        fs::remove_file(root.join("a/second")).unwrap();
    });
    assert_eq!(unlinked, ["/a/", "/a/second gone"]);
    let replaced = step(&store, &mut stack, |root| {
        fs::remove_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/new"), "").unwrap();
        fs::remove_file(root.join("link")).unwrap();
        fs::create_dir(root.join("link")).unwrap();
    });
    assert_eq!(replaced, ["/a/", "/a/b opaque", "/a/b/new", "/link opaque"]);
    let attributes = step(&store, &mut stack, |root| {
        fs::set_permissions(root.join("a/b/new"), fs::Permissions::from_mode(0o4711)).unwrap();
        rustix::fs::setxattr(root.join("a"), "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    });
    assert_eq!(attributes, ["/a/", "/a/b/", "/a/b/new"]);
    let moved = step(&store, &mut stack, |root| {
        fs::rename(root.join("a"), root.join("z")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        drop(socket);
    });
    assert_eq!(moved, ["/a gone", "/z/", "/z/b/", "/z/b/new", "/z/other"]);
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    if !is_root() {
        return;
    }
    let (folder, store) = store();
    let mut stack = Vec::new();
    step(&store, &mut stack, |root| {
        fs::write(root.join("a"), "one").unwrap();
        for other in ["b", "c", "d"] {
            fs::hard_link(root.join("a"), root.join(other)).unwrap();
        }
    });
    // Fewer names than before, and one of them is new.
    let renamed = step(&store, &mut stack, |root| {
        fs::remove_file(root.join("c")).unwrap();
        fs::remove_file(root.join("d")).unwrap();
        fs::hard_link(root.join("b"), root.join("z")).unwrap();
    });
    assert_eq!(renamed, ["/a", "/b = /a", "/c gone", "/d gone", "/z = /a"]);
    let other = Store::open(&folder.path().join("store")).unwrap();
    let made = other.begin_copied(&stack).unwrap();
    let left = store.begin_copied(&stack).unwrap();
    assert_eq!(picture(&made.path()), picture(&left.path()));
}

#[test]
fn what_the_sandbox_touched_does_not_count() {
    if !is_root() {
        return;
    }
    let (_folder, store) = store();
    let mut stack = Vec::new();
    step(&store, &mut stack, |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/hosts"), "").unwrap();
    });
    let root = store.begin_copied(&stack).unwrap();
    tick(&root);
    let etc = root.path().join("etc");
    let before = fs::metadata(&etc).unwrap();
    fs::rename(etc.join("hosts"), root.aside().join("hosts")).unwrap();
    fs::rename(root.aside().join("hosts"), etc.join("hosts")).unwrap();
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        last_modification: Timespec {
            tv_sec: before.mtime(),
            tv_nsec: before.mtime_nsec(),
        },
    };
    rustix::fs::utimensat(CWD, &etc, &times, AtFlags::empty()).unwrap();
    let touched = ["/etc".to_owned(), "/etc/hosts".to_owned()];
    let layer = root.commit(&touched, 0).unwrap();
    assert_eq!(store.layer(&layer).unwrap().index().unwrap().entries().len(), 0);
}

#[test]
fn roots_are_taken_over_or_copied() {
    if !is_root() {
        return;
    }
    let (folder, store) = store();
    let first = store.begin_copied(&[]).unwrap();
    fs::write(first.path().join("base"), "").unwrap();
    let place = first.path();
    let stack = vec![first.commit(&[], 2).unwrap()];
    let copy = store.begin_copied(&stack).unwrap();
    assert_ne!(copy.path(), place);
    let same = store.begin_copied(&stack).unwrap();
    assert_eq!(same.path(), place, "the last that may come takes it over");
    for root in [&copy, &same] {
        assert!(root.path().join("base").exists());
        assert_eq!(fs::read_dir(root.aside()).unwrap().count(), 0);
    }
    drop((copy, same));
    // With nothing to take over, from the layers.
    let fresh = store.begin_copied(&stack).unwrap();
    assert!(fresh.path().join("base").exists());
    drop(fresh);
    drop(store);
    assert_eq!(fs::read_dir(folder.path().join("store/tmp")).unwrap().count(), 0);
}

/// Something that a step does, to names of a small set.
#[derive(Debug, Clone)]
enum Edit {
    Write(usize, u8),
    Directory(usize),
    Remove(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Symlink(usize),
    Mode(usize, u32),
    Swap(usize),
}

const NAMES: [&str; 11] = [
    "a", "b", "a/c", "a/d", "b/e", "a/c/f", "a/c/g", "b/e/h", "x", "y", "z",
];

/// A file of three names, to begin with.
fn three_names(root: &Path) {
    fs::write(root.join("x"), "three").unwrap();
    for other in ["y", "z"] {
        fs::hard_link(root.join("x"), root.join(other)).unwrap();
    }
}

impl Edit {
    /// Does it as far as it can be done.
    fn apply(&self, root: &Path) {
        let path = |name: &usize| root.join(NAMES[*name]);
        let _ = match self {
            Edit::Write(name, byte) => fs::write(path(name), [*byte]),
            Edit::Directory(name) => fs::create_dir(path(name)),
            Edit::Remove(name) => fs::remove_file(path(name)).or_else(|_| fs::remove_dir_all(path(name))),
            Edit::Rename(from, to) => fs::rename(path(from), path(to)),
            Edit::Link(from, to) => fs::hard_link(path(from), path(to)),
            Edit::Symlink(name) => symlink("target", path(name)),
            Edit::Mode(name, mode) if path(name).is_symlink() => {
                let _ = mode;
                Ok(())
            }
            Edit::Mode(name, mode) => fs::set_permissions(path(name), fs::Permissions::from_mode(*mode)),
            // Removed and made again, as something else or as the same.
            Edit::Swap(name) => fs::remove_dir_all(path(name))
                .and_then(|()| fs::create_dir(path(name)))
                .and_then(|()| fs::write(path(name).join("new"), "x")),
        };
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let name = || 0..NAMES.len();
    let edit = prop_oneof![
        4 => (name(), any::<u8>()).prop_map(|(name, byte)| Edit::Write(name, byte)),
        4 => name().prop_map(Edit::Directory),
        2 => name().prop_map(Edit::Remove),
        2 => (name(), name()).prop_map(|(from, to)| Edit::Rename(from, to)),
        3 => (name(), name()).prop_map(|(from, to)| Edit::Link(from, to)),
        1 => name().prop_map(Edit::Symlink),
        1 => (name(), prop_oneof![Just(0o755), Just(0o700), Just(0o4711)]).prop_map(|(name, mode)| Edit::Mode(name, mode)),
        1 => name().prop_map(Edit::Swap),
    ];
    prop::collection::vec(edit, 0..12)
}

/// All that an image can tell of a tree.
fn picture(root: &Path) -> Vec<(Entry, Option<Vec<u8>>)> {
    let index = walk_tree(root, Ownership::Real).unwrap();
    let entries = index.entries().iter().map(|found| found.entry.clone());
    entries
        .map(|entry| {
            let path = root.join(String::from_utf8_lossy(entry.path.as_bytes()).as_ref());
            // Another name of a symlink is a hard link too, and leads nowhere.
            let is_file = fs::symlink_metadata(&path).unwrap().is_file();
            let bytes = is_file.then(|| fs::read(&path).unwrap());
            // Which name of a file is the first is told by the order of names alone, not by the layer.
            (entry, bytes)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The layers of any two steps give, on each other, the tree that the steps have left.
    #[test]
    fn layers_give_the_tree_again(first in edits(), second in edits()) {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let (folder, store) = store();
        let mut stack = Vec::new();
        step(&store, &mut stack, |root| {
            three_names(root);
            first.iter().for_each(|edit| edit.apply(root));
        });
        step(&store, &mut stack, |root| second.iter().for_each(|edit| edit.apply(root)));
        let left = store.begin_copied(&stack).unwrap();
        // Another process has only the layers.
        let other = Store::open(&folder.path().join("store")).unwrap();
        let made = other.begin_copied(&stack).unwrap();
        prop_assert_eq!(picture(&made.path()), picture(&left.path()));
    }
}
