//! Many processes on one store, some of them killed. The processes are this test program itself, started
//! again to run [`worker`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rbuild_cache::{Descriptor, Digest, Key, LayerId, Made, Record, Store};

const ROOT: &str = "RBUILD_TEST_WORKER_ROOT";
const NUMBER: &str = "RBUILD_TEST_WORKER_NUMBER";
const ROUNDS: &str = "RBUILD_TEST_WORKER_ROUNDS";

fn start(root: &Path, number: u64, rounds: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--ignored"])
        .env(ROOT, root)
        .env(NUMBER, number.to_string())
        .env(ROUNDS, rounds.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn descriptor(digest: Digest) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest,
        size: 1,
    }
}

fn record(op: u8, layer: u8) -> Record {
    let inputs = vec![("filler".to_owned(), "x".repeat(3000))];
    Record {
        op: Key([op; 32]),
        layer: LayerId::from_random([layer; 16]),
        inputs,
        created: 1,
        duration_ms: 1,
        made: Made::Step,
        description: String::new(),
    }
}

/// Fills a store with blobs, records and tags.
#[test]
#[ignore = "started by the other tests"]
fn worker() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let number: u64 = std::env::var(NUMBER).unwrap().parse().unwrap();
    let rounds: u64 = std::env::var(ROUNDS).unwrap().parse().unwrap();
    let store = Store::open(Path::new(&root)).unwrap();
    for round in 0..rounds {
        let mut writer = store.blob_writer().unwrap();
        for piece in 0..20 {
            std::io::Write::write_all(&mut writer, &[(number ^ round ^ piece) as u8; 10_000]).unwrap();
        }
        writer.commit(None).unwrap();
        let digest = store.put_blob(format!("{number} {round}").as_bytes()).unwrap();
        let temporary = store.temp_dir().unwrap();
        std::fs::create_dir_all(temporary.path().join("fs/a/b")).unwrap();

        // One key is everybody's: whoever holds its lock finds it as the last one left it.
        let shared = Key([255; 32]);
        let lock = store.lock_key(&shared).unwrap();
        let before = store.record(&shared).unwrap().map_or(0, |record| record.created);
        store
            .put_record(
                &shared,
                &Record {
                    created: before + 1,
                    ..record(0, 0)
                },
            )
            .unwrap();
        drop(lock);
        store
            .put_record(&Key([(round % 50) as u8; 32]), &record(1, number as u8))
            .unwrap();
        store
            .tag(
                &format!("localhost/worker{number}:{}", round % 20),
                &descriptor(digest),
            )
            .unwrap();
    }
}

#[test]
fn nobody_loses_an_update() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let mut workers: Vec<Child> = (0..4).map(|number| start(&root, number, 20)).collect();
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success());
    }
    let store = Store::open(&root).unwrap();
    let named = store
        .images()
        .unwrap()
        .into_iter()
        .filter(|image| image.name.is_some())
        .count();
    assert_eq!(named, 80);
    assert_eq!(store.record(&Key([255; 32])).unwrap().unwrap().created, 80);
    assert_eq!(std::fs::read_dir(root.join("locks")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}

#[test]
fn killed_processes_leave_nothing_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    // Who opens a store for the first time has a temporary directory in it.
    drop(Store::open(&root).unwrap());
    for round in 0..12 {
        let mut workers: Vec<Child> = (0..3).map(|number| start(&root, number, u64::MAX)).collect();
        std::thread::sleep(Duration::from_millis(20 + 17 * round));
        for worker in &mut workers {
            worker.kill().unwrap();
            worker.wait().unwrap();
        }
        let store = Store::open(&root).unwrap();
        store.sweep_temporary().unwrap();
        assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
        for image in store.images().unwrap() {
            assert!(
                store.read_blob(&image.descriptor.digest, 100).is_ok(),
                "{image:?}"
            );
        }
        for blob in std::fs::read_dir(root.join("blobs/sha256")).unwrap() {
            let name = blob.unwrap().file_name().into_string().unwrap();
            let digest: Digest = format!("sha256:{name}").parse().unwrap();
            store.open_blob(&digest).unwrap().finish().unwrap();
        }
        for name in std::fs::read_dir(root.join("keys/v1")).unwrap() {
            let key: Key = name.unwrap().file_name().into_string().unwrap().parse().unwrap();
            let record = store.record(&key).unwrap().expect("a whole record");
            assert!(store.keys_of_op(&record.op).unwrap().contains(&key));
        }
        assert!(store.try_lock_key(&Key([255; 32])).unwrap().is_some());
    }
}
