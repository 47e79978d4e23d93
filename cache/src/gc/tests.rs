use std::time::SystemTime;

use serde_json::Value;

use super::*;
use crate::digest::{ContentDigest, DiffId};
use crate::image::Descriptor;
use crate::layer::{LayerRecord, RECORD_VERSION, TarForm};
use crate::record::{Made, Record};

/// As the layers write it.
fn write_record(directory: &std::path::Path, record: &LayerRecord) {
    let check = ContentDigest::of(&serde_json::to_vec(record).unwrap());
    let stored = serde_json::json!({"check": check, "record": record});
    std::fs::write(directory.join("record.json"), stored.to_string()).unwrap();
    let version = LayerRecord::load(directory, &record.id).map(|loaded| loaded.unwrap());
    assert!(version.map_or(record.version > RECORD_VERSION, |loaded| loaded == *record));
}

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Self {
            _directory: directory,
            store,
        }
    }

    /// A layer with a tree and a tar blob, and a record that leads to it. `n` names it and tells its age in hours.
    fn layer(&self, n: u8) -> (LayerId, Digest, Key) {
        let id = LayerId::from_random([n; 16]);
        let tar = self.store.put_blob(&[n; 5000]).unwrap();
        let directory = self.store.root().join("layers").join(id.as_str());
        std::fs::create_dir_all(directory.join("fs/etc")).unwrap();
        std::fs::write(directory.join("fs/etc/file"), [n; 9000]).unwrap();
        let mut record = LayerRecord::new(id.clone());
        record.diff_id = Some(DiffId(tar));
        record.tar = Some(TarForm {
            digest: tar,
            size: 5000,
        });
        write_record(&directory, &record);
        let key = Key([n; 32]);
        let record = Record {
            op: Key([0; 32]),
            layer: id.clone(),
            inputs: Vec::new(),
            created: 0,
            duration_ms: 0,
            made: Made::Step,
            description: format!("RUN step {n}"),
        };
        self.store.put_record(&key, &record).unwrap();
        let keys = self.store.0.keys.path_of(&key.hex());
        for path in [directory, self.store.blob_path(&tar), keys] {
            let file = std::fs::File::open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(3600 * u64::from(n)))
                .unwrap();
        }
        (id, tar, key)
    }

    fn image(&self, name: &str, layers: &[Digest]) -> Digest {
        let config = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": layers}});
        let config = self.store.put_blob(config.to_string().as_bytes()).unwrap();
        let layers: Vec<Value> = layers
            .iter()
            .map(|digest| serde_json::json!({"digest": digest}))
            .collect();
        let manifest = serde_json::json!({"config": {"digest": config}, "layers": layers, "name": name});
        let manifest = self.store.put_blob(manifest.to_string().as_bytes()).unwrap();
        let index = serde_json::json!({"manifests": [{"digest": manifest}]}).to_string();
        let digest = self.store.put_blob(index.as_bytes()).unwrap();
        let descriptor = Descriptor {
            media_type: "index".to_owned(),
            digest,
            size: index.len() as u64,
        };
        self.store.tag(name, &descriptor).unwrap();
        digest
    }

    fn has(&self, (id, tar, key): &(LayerId, Digest, Key)) -> [bool; 3] {
        let layer = self.store.root().join("layers").join(id.as_str()).is_dir();
        [
            layer,
            self.store.has_blob(tar),
            self.store.record(key).unwrap().is_some(),
        ]
    }
}

#[test]
fn images_keep_what_they_need() {
    let fixture = Fixture::new();
    let [base, top, loose] = [1, 2, 3].map(|n| fixture.layer(n));
    let image = fixture.image("localhost/a:1", &[base.1, top.1]);
    let blobs = fixture.store.0.blobs.names().unwrap().len();
    let options = PruneOptions {
        dry_run: true,
        ..PruneOptions::default()
    };
    let dry = fixture.store.prune(&options).unwrap();
    assert_eq!(
        (&dry.layers[..], &dry.blobs[..], dry.records),
        (&[loose.0.clone()][..], &[loose.1][..], 1)
    );
    assert_eq!(fixture.has(&loose), [true; 3]);

    let report = fixture.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(report, dry);
    assert!(report.freed >= 14_000, "{report:?}");
    assert_eq!(fixture.has(&base), [true; 3]);
    assert_eq!(fixture.has(&top), [true; 3]);
    assert_eq!(fixture.has(&loose), [false; 3]);
    assert_eq!(fixture.store.0.blobs.names().unwrap().len(), blobs - 1);
    assert_eq!(fixture.store.keys_of_op(&Key([0; 32])).unwrap(), [top.2, base.2]);
    assert_eq!(
        fixture.store.prune(&PruneOptions::default()).unwrap(),
        PruneReport::default()
    );

    let all = fixture
        .store
        .prune(&PruneOptions {
            all: true,
            ..PruneOptions::default()
        })
        .unwrap();
    assert_eq!((all.records, all.layers.len(), all.blobs.len()), (2, 0, 0));
    assert!(
        all.freed >= 18_000,
        "the trees can be made again from the blobs: {all:?}"
    );
    assert_eq!(fixture.has(&top), [true, true, false]);
    let layer = fixture.store.root().join("layers").join(top.0.as_str());
    assert!(layer.join("record.json").exists() && !layer.join("fs").exists());

    // Without its name, the image goes with all that only it needed.
    fixture.image("localhost/a:1", &[base.1]);
    let report = fixture.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(report.images, [image]);
    assert_eq!(report.layers, std::slice::from_ref(&top.0));
    assert_eq!(fixture.has(&base)[..2], [true; 2]);
    assert_eq!(fixture.store.images().unwrap().len(), 1);
}

#[test]
fn the_longest_unused_goes_first() {
    let fixture = Fixture::new();
    let layers = [1, 2, 3, 4].map(|n| fixture.layer(n));
    // Not by looking for the records, which would be a use.
    let present = || {
        layers
            .each_ref()
            .map(|(id, ..)| fixture.store.root().join("layers").join(id.as_str()).exists())
    };
    let hours = |n: u64| Some(Duration::from_secs(n * 3600 + 1800));
    fixture
        .store
        .prune(&PruneOptions {
            until: hours(3),
            ..PruneOptions::default()
        })
        .unwrap();
    assert_eq!(present(), [true, true, true, false]);

    let dry = PruneOptions {
        dry_run: true,
        ..PruneOptions::default()
    };
    let total = fixture.store.prune(&dry).unwrap().freed;
    let keep_storage = Some(total - 1);
    fixture
        .store
        .prune(&PruneOptions {
            keep_storage,
            ..PruneOptions::default()
        })
        .unwrap();
    assert_eq!(present(), [true, true, false, false]);
    let report = fixture
        .store
        .prune(&PruneOptions {
            keep_storage,
            ..PruneOptions::default()
        })
        .unwrap();
    assert_eq!(report, PruneReport::default());
}

#[test]
fn damaged_documents_and_records_are_survived() {
    let fixture = Fixture::new();
    let [one, two] = [1, 2].map(|n| fixture.layer(n));
    fixture.image("localhost/a:1", &[one.1]);
    let broken = fixture.image("localhost/b:1", &[two.1]);
    std::fs::write(fixture.store.blob_path(&broken), b"{").unwrap();
    std::fs::write(fixture.store.0.keys.path_of(&one.2.hex()), b"rubbish").unwrap();
    std::fs::write(fixture.store.root().join("locks").join(one.2.hex()), b"").unwrap();
    let report = fixture.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(report.layers, [two.0]);
    assert_eq!(fixture.has(&one), [true, true, false]);
    assert!(fixture.store.0.locks.names().unwrap().is_empty());
}

#[test]
fn layers_of_a_newer_version_stay_with_all_blobs() {
    let fixture = Fixture::new();
    let [old, new] = [1, 2].map(|n| fixture.layer(n));
    let mut record = LayerRecord::new(new.0.clone());
    record.version = RECORD_VERSION + 1;
    write_record(&fixture.store.root().join("layers").join(new.0.as_str()), &record);
    let report = fixture.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!((report.layers, report.blobs), (vec![old.0], vec![old.1]));
    assert_eq!(fixture.has(&new), [true; 3]);
}

#[test]
fn clones_go_with_all() {
    let fixture = Fixture::new();
    let clones = fixture.store.root().join("git");
    for (name, hours) in [("old", 5), ("new", 1)] {
        let path = clones.join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("pack"), [0; 9000]).unwrap();
        let used = SystemTime::now() - Duration::from_secs(3600 * hours);
        std::fs::File::open(&path).unwrap().set_modified(used).unwrap();
    }
    fixture.store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(std::fs::read_dir(&clones).unwrap().count(), 2);
    let all = |until| PruneOptions {
        all: true,
        until,
        ..PruneOptions::default()
    };
    let report = fixture
        .store
        .prune(&all(Some(Duration::from_secs(7200))))
        .unwrap();
    assert!(report.freed >= 9000 && clones.join("new").exists() && !clones.join("old").exists());
    fixture.store.prune(&all(None)).unwrap();
    assert_eq!(std::fs::read_dir(&clones).unwrap().count(), 0);
}

#[test]
fn what_others_use_stays() {
    let fixture = Fixture::new();
    let [used, unused] = [1, 2].map(|n| fixture.layer(n));
    let other = Store::open(fixture.store.root()).unwrap();
    assert!(other.record(&used.2).unwrap().is_some() && other.layer_exists(&used.0));
    let made = other.put_blob(b"made a moment ago").unwrap();
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    let report = fixture.store.prune(&all).unwrap();
    assert_eq!(
        (&report.layers[..], &report.blobs[..]),
        (&[unused.0][..], &[unused.1][..])
    );
    assert!(other.has_blob(&made));
    let own = PruneOptions {
        for_own_build: true,
        ..all.clone()
    };
    let report = other.prune(&own).unwrap();
    assert_eq!(report, PruneReport::default());
    // Nobody else is here: what this process has used itself goes as well.
    drop(fixture.store);
    let report = other.prune(&all).unwrap();
    assert_eq!((report.layers, report.records), (vec![used.0], 1));
    assert!(!other.has_blob(&made));
}

#[test]
fn an_image_that_gets_its_name_meanwhile_stays() {
    let fixture = Fixture::new();
    let layer = fixture.layer(1);
    let plan = fixture.store.plan(&PruneOptions::default()).unwrap();
    fixture.image("localhost/a:1", &[layer.1]);
    let options = PruneOptions::default();
    let mut removal = Removal {
        store: &fixture.store,
        out: fixture.store.temp_dir().unwrap(),
        options: &options,
        pinned: None,
        evicted: Vec::new(),
        taken: 0,
        report: PruneReport::default(),
    };
    assert!(!removal.carry_out(plan).unwrap());
    drop(removal);
    fixture.store.prune(&options).unwrap();
    assert_eq!(fixture.has(&layer), [true; 3]);
}
