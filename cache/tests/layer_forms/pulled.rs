//! Layers that only an origin has: fetched once, verified, and made again from another form when they are damaged.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::blob::BlobProvider;
use rbuild_cache::layer::{Compression, Compressor, Kind, LayerBlob};
use rbuild_cache::tree::Tree;
use rbuild_cache::{DiffId, Digest, View};

use super::{Fixture, build, dir, entry, file, fixture, path};

/// Serves blobs from memory and counts.
#[derive(Default)]
pub struct Origin {
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

fn compressed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut out = Compressor::new(Vec::new(), compression).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A layer that only an origin has: its blob, its diff id, the origin.
pub fn pulled(tar: &[u8], compression: Compression) -> (LayerBlob, DiffId, Origin) {
    let bytes = compressed(tar, compression);
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
        ("another layer", compressed(b"", Compression::GZIP), diff_id),
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
        let layer = store.layer(&id).unwrap();
        if rustix::process::geteuid().is_root() {
            assert!(layer.tree().is_err(), "{what}");
        }
        assert!(layer.index().is_err(), "{what}");
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
    let layer = store.layer(&id).unwrap();
    layer.index().unwrap();
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
