//! Races: parts of the paths that the sandbox opens and mounts on are swapped, a hundred thousand times, while steps start
//! (A2-2b, A2-4, A2-7 of the security tests). Whatever a step then gets, it is inside, and the masks hold.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rbuild_executor::{Mount, MountSource};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Case;
use super::bench::Bench;

pub const CASES: &[Case] = &[
    ("a2_2b_parts_of_the_image_swapped", parts_of_the_image_swapped),
    (
        "a2_4_mount_points_of_the_layer_swapped",
        mount_points_of_the_layer_swapped,
    ),
    ("a2_7_parts_of_a_cache_swapped", parts_of_a_cache_swapped),
];

const SWAPS: usize = 100_000;
const STEPS: usize = 50;

/// Tries what the masks forbid, and reads and writes where the links lead. What it prints is wrong, but for the last
/// line; what it writes may be in the layer.
const CHECKS: &str = "( echo 11 >/proc/sys/kernel/printk_ratelimit_burst; echo x >/proc/sysrq-trigger ) 2>/dev/null; \
    test -c /dev/null && { test $(stat -c %t,%T /dev/null) = 1,3 || echo other device; }; \
    cat /dev/id /etc/id /proc/id /sys/id /w/id 2>/dev/null; touch /etc/made /dev/made /w/made 2>/dev/null; echo end";

/// A setting of the machine that [`CHECKS`] would change, were it not for the masks.
const SETTING: &str = "/proc/sys/kernel/printk_ratelimit_burst";

fn parts_of_the_image_swapped() {
    let bench = Bench::new();
    let canary = Canary::new(&bench);
    let mut pairs = Vec::new();
    for name in ["dev", "proc", "sys", "w"] {
        fs::create_dir_all(bench.image.join(name)).unwrap();
        pairs.push(canary.twin(&bench.image, name));
    }
    fs::create_dir_all(bench.image.join("etc")).unwrap();
    pairs.push(canary.twin(&bench.image, "etc"));
    let swaps = while_swapping(&pairs, || check(&bench, |_| {}));
    assert!(swaps >= SWAPS);
    canary.unchanged();
}

fn mount_points_of_the_layer_swapped() {
    let bench = Bench::new();
    let canary = Canary::new(&bench);
    // The directory that a step writes to has its own mount points, and those are swapped while it starts.
    let upper = bench.directory.join("swapped");
    fs::create_dir(&upper).unwrap();
    let mut pairs = Vec::new();
    for name in ["etc", "dev", "w"] {
        fs::create_dir(upper.join(name)).unwrap();
        fs::write(upper.join(name).join("resolv.conf"), "").unwrap();
        fs::write(upper.join(name).join("hosts"), "").unwrap();
        pairs.push(canary.twin(&upper, name));
    }
    let swaps = while_swapping(&pairs, || {
        check(&bench, |spec| {
            let rbuild_executor::Rootfs::Overlay { upper: own, work, .. } = &mut spec.rootfs else {
                panic!("a bench makes overlays");
            };
            *own = upper.clone();
            // A work directory belongs to one mount.
            assert!(work.is_dir());
        });
    });
    assert!(swaps >= SWAPS);
    canary.unchanged();
}

/// Another step of the same cache swaps directories of it while parts of it are mounted, and things are mounted in it.
fn parts_of_a_cache_swapped() {
    let bench = Bench::new();
    let canary = Canary::new(&bench);
    let cache = bench.directory.join("cache");
    fs::create_dir_all(cache.join("a")).unwrap();
    fs::write(cache.join("a/id"), "mine").unwrap();
    let pairs = [canary.twin(&cache, "a")];
    let mount = |target: &str, path: &str, source| Mount {
        target: target.to_owned(),
        source,
        path: path.to_owned(),
        read_only: false,
    };
    let host = |create| MountSource::Host {
        path: cache.clone(),
        create,
        recursive: false,
    };
    let swaps = while_swapping(&pairs, || {
        let mut spec = bench.spec(&[
            "sh",
            "-c",
            "cat /part/id /all/a/id 2>/dev/null; touch /part/made /all/a/t/made /made/made 2>/dev/null; true",
        ]);
        spec.mounts = vec![
            mount("/part", "a", host(false)),
            mount("/made", "a/b/c", host(true)),
            mount("/all", "/", host(false)),
            mount("/all/a/t", "/", MountSource::Memory { size: None }),
        ];
        let outcome = bench.run(&spec);
        if outcome.exit.is_ok() {
            assert!(!outcome.out.contains("secret"), "{}", outcome.out);
        }
    });
    assert!(swaps >= SWAPS);
    canary.unchanged();
}

/// One step; it may be refused, because the image is in motion, but it must not get out.
fn check(bench: &Bench, change: impl FnOnce(&mut rbuild_executor::ExecSpec)) {
    let mut spec = bench.spec(&["sh", "-c", CHECKS]);
    spec.cwd = "/w".to_owned();
    change(&mut spec);
    let outcome = bench.run(&spec);
    if outcome.exit.is_ok() {
        let seen = outcome.out.trim_end();
        assert!(seen.is_empty() || seen == "end", "{seen}");
    }
}

/// Swaps all pairs over and over while `step` runs, [`STEPS`] times at least and until [`SWAPS`] are done; the swaps.
fn while_swapping(pairs: &[(PathBuf, PathBuf)], mut step: impl FnMut()) -> usize {
    let (done, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for (one, other) in pairs {
                    if renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        // A panic of a step must not leave the other thread running.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut steps = 0;
            while steps < STEPS || swaps.load(Ordering::Relaxed) < SWAPS {
                step();
                steps += 1;
                assert!(steps < 100 * STEPS, "only {swaps:?} swaps");
            }
        }));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    swaps.into_inner()
}

/// A directory outside of every root.
struct Canary {
    path: PathBuf,
    before: Vec<(String, std::time::SystemTime, Vec<u8>)>,
    setting: String,
}

impl Canary {
    fn new(bench: &Bench) -> Self {
        let path = bench.directory.join("canary");
        fs::create_dir(&path).unwrap();
        for name in ["id", "resolv.conf", "hosts", "null"] {
            fs::write(path.join(name), "secret").unwrap();
        }
        let mut canary = Self {
            path,
            before: Vec::new(),
            setting: fs::read_to_string(SETTING).unwrap(),
        };
        canary.before = canary.now();
        canary
    }

    /// A link to the canary beside `name`, to swap with it.
    fn twin(&self, root: &Path, name: &str) -> (PathBuf, PathBuf) {
        let link = root.join(format!("{name}-link"));
        symlink(&self.path, &link).unwrap();
        (root.join(name), link)
    }

    fn now(&self) -> Vec<(String, std::time::SystemTime, Vec<u8>)> {
        let mut found = vec![(
            String::new(),
            fs::metadata(&self.path).unwrap().modified().unwrap(),
            Vec::new(),
        )];
        for entry in fs::read_dir(&self.path).unwrap() {
            let entry = entry.unwrap();
            let time = entry.metadata().unwrap().modified().unwrap();
            let name = entry.file_name().into_string().unwrap();
            found.push((name, time, fs::read(entry.path()).unwrap()));
        }
        found.sort();
        found
    }

    fn unchanged(&self) {
        assert_eq!(self.before, self.now());
        assert_eq!(self.setting, fs::read_to_string(SETTING).unwrap());
    }
}
