//! Property: what a diff of two trees says, laid over the first tree, is the second tree — in the view, in the
//! tree form, in the tar.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;
use rbuild_cache::layer::{
    Entry, IndexAssembler, Kind, LayerPath, Ownership, TarReader, Timestamp, walk_tree,
};
use rbuild_cache::tree::Tree;
use rbuild_cache::{LayerId, Store, View};

/// A file system as a map; files carry their bytes.
type Model = BTreeMap<LayerPath, (Node, u32)>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
}

fn path(text: &str) -> LayerPath {
    LayerPath::clean(text.as_bytes())
}

/// Any list of wishes as a consistent tree: parents are directories.
fn model(wishes: &[(String, Node, u32)]) -> Model {
    let mut model = Model::new();
    for (name, node, mode) in wishes {
        let path = path(name);
        let mut parent = path.parent();
        let mut above = Vec::new();
        while let Some(directory) = parent.filter(|d| !d.is_root()) {
            parent = directory.parent();
            above.push(directory);
        }
        if above
            .iter()
            .any(|d| model.get(d).is_some_and(|(node, _)| *node != Node::Directory))
        {
            continue;
        }
        if model
            .keys()
            .any(|other| other.strip_prefix(&path).is_some_and(|rest| !rest.is_root()))
        {
            continue;
        }
        for directory in above {
            model.entry(directory).or_insert((Node::Directory, 0o755));
        }
        model.insert(path, (node.clone(), *mode));
    }
    model
}

fn entry(path: &LayerPath, node: &Node, mode: u32, opaque: bool) -> Entry {
    let kind = match node {
        Node::Directory => Kind::Directory { opaque },
        Node::File(bytes) => Kind::File {
            size: bytes.len() as u64,
        },
        Node::Symlink(target) => Kind::Symlink {
            target: target.clone(),
        },
        Node::Fifo => Kind::Fifo,
    };
    let mode = if matches!(node, Node::Symlink(_)) {
        0o777
    } else {
        mode
    };
    let mtime = Timestamp {
        seconds: 1_600_000_000,
        nanoseconds: 5,
    };
    Entry {
        path: path.clone(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
    }
}

/// The entries of the layer that makes `b` out of `a`, as overlayfs would leave them in its upper directory.
fn diff(a: &Model, b: &Model, opaque: bool) -> Vec<(Entry, Vec<u8>)> {
    let mut changes: BTreeMap<LayerPath, (Entry, Vec<u8>)> = BTreeMap::new();
    let put = |path: &LayerPath, opaque: bool, changes: &mut BTreeMap<LayerPath, (Entry, Vec<u8>)>| {
        let (node, mode) = &b[path];
        let bytes = if let Node::File(bytes) = node {
            bytes.clone()
        } else {
            Vec::new()
        };
        changes.insert(path.clone(), (entry(path, node, *mode, opaque), bytes));
    };
    // A directory of `a` is sometimes replaced as a whole.
    let replaced = b
        .iter()
        .find(|(p, (n, _))| opaque && *n == Node::Directory && a.contains_key(p))
        .map(|(p, _)| p);
    for (p, value) in b {
        let new = a.get(p) != Some(value);
        let below_replaced = replaced.is_some_and(|r| p.lies_in(r));
        if new || below_replaced {
            put(p, Some(p) == replaced, &mut changes);
        }
    }
    for p in a.keys() {
        let parent = p.parent().unwrap();
        let parent_stays = parent.is_root()
            || a.get(&parent).is_some() && b.get(&parent).is_some_and(|(node, _)| *node == Node::Directory);
        if !b.contains_key(p) && parent_stays && replaced.is_none_or(|r| !p.lies_in(r)) {
            let whiteout = Entry {
                kind: Kind::Whiteout,
                mode: 0,
                mtime: Timestamp::default(),
                ..entry(p, &Node::Fifo, 0, false)
            };
            changes.insert(p.clone(), (whiteout, Vec::new()));
        }
    }
    for p in changes.keys().cloned().collect::<Vec<_>>() {
        let mut parent = p.parent();
        while let Some(directory) = parent.filter(|d| !d.is_root()) {
            if !changes.contains_key(&directory) {
                put(&directory, false, &mut changes);
            }
            parent = directory.parent();
        }
    }
    changes.into_values().collect()
}

fn build(store: &Store, entries: &[(Entry, Vec<u8>)]) -> LayerId {
    let mut builder = store.layer_builder().unwrap();
    for (entry, bytes) in entries {
        let mut source = bytes.as_slice();
        let is_file = matches!(entry.kind, Kind::File { .. });
        builder
            .append(entry, is_file.then_some(&mut source as &mut dyn Read))
            .unwrap();
    }
    builder.commit().unwrap()
}

fn seen(view: &View, directory: &LayerPath, model: &mut Model) {
    for entry in view.read_dir(directory).unwrap() {
        assert_eq!(view.lookup(&entry.path).unwrap().as_ref(), Some(&entry));
        let node = match &entry.kind {
            Kind::Directory { .. } => Node::Directory,
            Kind::File { .. } => {
                let mut bytes = Vec::new();
                view.open(&entry.path).unwrap().read_to_end(&mut bytes).unwrap();
                Node::File(bytes)
            }
            Kind::Symlink { target } => Node::Symlink(target.clone()),
            Kind::Fifo => Node::Fifo,
            other => panic!("{other:?}"),
        };
        let mode = if matches!(node, Node::Symlink(_)) {
            0o644
        } else {
            entry.mode
        };
        model.insert(entry.path.clone(), (node, mode));
        if entry.is_dir() {
            seen(view, &entry.path, model);
        }
    }
}

fn wishes() -> impl Strategy<Value = Vec<(String, Node, u32)>> {
    let name = prop::collection::vec("[ab]|c-|[.]d|\u{e9}", 1..4).prop_map(|parts| parts.join("/"));
    let node = prop_oneof![
        Just(Node::Directory),
        prop::collection::vec(any::<u8>(), 0..700).prop_map(Node::File),
        "[a/.]{1,5}".prop_map(|target| Node::Symlink(target.into_bytes())),
        Just(Node::Fifo),
    ];
    let wish = (name, node).prop_flat_map(|(name, node)| {
        let mode = if matches!(node, Node::Symlink(_)) {
            Just(0o644).boxed()
        } else {
            prop_oneof![Just(0o644), Just(0o4755), Just(0o700)].boxed()
        };
        (Just(name), Just(node), mode)
    });
    prop::collection::vec(wish, 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 60, cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_diff_laid_over_a_gives_b(a in wishes(), b in wishes(), opaque: bool) {
        let (a, b) = (model(&a), model(&b));
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let lower: Vec<_> = diff(&Model::new(), &a, false);
        let upper = diff(&a, &b, opaque);
        let ids = [build(&store, &lower), build(&store, &upper)];
        let layers: Vec<_> = ids.iter().map(|id| store.layer(id).unwrap()).collect();
        let mut found = Model::new();
        seen(&View::new(layers.clone()), &LayerPath::root(), &mut found);
        prop_assert_eq!(&found, &b);

        // The tar says what was written, and so does the tree form, which gives the same tar again.
        for (layer, entries) in layers.iter().zip([&lower, &upper]) {
            let written: Vec<&Entry> = entries.iter().map(|(entry, _)| entry).collect();
            let tar = store.open_blob(&layer.tar().unwrap()).unwrap();
            let mut reader = TarReader::layer(tar);
            let mut assembler = IndexAssembler::new();
            while let Some(member) = reader.next_entry().unwrap() {
                assembler.push(member).unwrap();
            }
            let index = assembler.finish();
            prop_assert_eq!(index.entries().iter().map(|e| &e.entry).collect::<Vec<_>>(), written.clone());
            if rustix::process::geteuid().is_root() {
                let walked = walk_tree(&layer.tree().unwrap(), Ownership::Real).unwrap();
                prop_assert_eq!(walked.entries().iter().map(|e| &e.entry).collect::<Vec<_>>(), written);
                let tar = layer.tar().unwrap();
                store.discard_blob(&tar).unwrap();
                prop_assert_eq!(layer.tar().unwrap(), tar);
            }
        }
        if rustix::process::geteuid().is_root() {
            // Now the bytes come from the trees.
            let mut found = Model::new();
            seen(&View::new(layers), &LayerPath::root(), &mut found);
            prop_assert_eq!(&found, &b);
        }
    }
}
