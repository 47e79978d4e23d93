use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env::{Env, Run};
use crate::registry::TestRegistry;

/// A small disk of its own, with the store on it.
struct Disk(PathBuf);

impl Disk {
    fn mount(env: &Env, options: &str) -> Option<Self> {
        Self::mount_at(env.path("disk"), options)
    }

    fn mount_at(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "rbuild-test"])
            .arg(&path)
            .output()
            .unwrap();
        if mounted.status.success() {
            return Some(Self(path));
        }
        eprintln!(
            "skipped: no disk can be mounted here: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        None
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Leaves so many bytes.
    fn fill(&self, left: u64) {
        let taken = self.free().saturating_sub(left);
        let file = fs::File::create(self.0.join("filler")).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken.max(1)).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn rbuild(env: &Env, disk: &Disk, args: &[&str]) -> Run {
    env.rbuild_in(&disk.0.join("store"), args)
}

/// Nothing temporary is left, and all images can be read.
fn is_in_order(env: &Env, disk: &Disk, what: &str) {
    let left: Vec<_> = fs::read_dir(disk.0.join("store/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    let check = rbuild(env, disk, &["store", "check"]);
    assert_eq!(check.code, Some(0), "{what}: {check:?}");
}

/// It says where, how much is free, and what helps.
fn says_that_the_disk_is_full(run: &Run, disk: &Path, what: &str) {
    assert_eq!(run.code, Some(1), "{what}: {run:?}");
    for part in [disk.to_str().unwrap(), "free", "rbuild prune"] {
        assert!(run.stderr.contains(part), "{what}: no {part:?} in {run:?}");
    }
}

const STEPS: [&str; 3] = [
    "FROM base\nARG turn\nRUN echo $turn; head -c 3000000 /dev/zero > /big; mkdir -p /a/b; seq 1000 > /a/b/c\n",
    "FROM base\nARG turn\nCOPY big /big-$turn\n",
    "FROM base AS a\nARG turn\nRUN echo $turn > /turn; head -c 1000000 /dev/zero > /big\nFROM base\nCOPY --from=a /big /turn /\n",
];

/// An image in `registry` that is larger than what is sometimes left, and does not shrink.
fn remote_image(env: &Env, registry: &TestRegistry) -> String {
    let name = registry.reference("remote");
    let mut random = crate::random::Random::new(3);
    let bytes: Vec<u8> = (0..2_000_000).map(|_| random.next() as u8).collect();
    env.write(
        "base/Dockerfile",
        "FROM scratch\nCOPY --from=base / /\nCOPY big /big\n",
    );
    env.write("base/big", bytes);
    let tar = crate::env::busybox();
    env.rbuild(["import", tar.to_str().unwrap(), "base"]).ok();
    env.rbuild(["build", "-t", &name, "base"]).ok();
    env.rbuild(["push", &name]).ok();
    name
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left_of_what_did_not_fit() {
    let Some(env) = Env::root() else {
        eprintln!("skipped: only root can mount a small disk");
        return;
    };
    let Some(disk) = Disk::mount(&env, "size=40m") else {
        return;
    };
    let tar = crate::env::busybox();
    rbuild(&env, &disk, &["import", tar.to_str().unwrap(), "base"]).ok();
    for (number, dockerfile) in STEPS.iter().enumerate() {
        env.write(&format!("{number}/Dockerfile"), dockerfile);
        env.write(&format!("{number}/big"), vec![b'x'; 3_000_000]);
    }
    let archive = env.path("base.tar");
    let archive = archive.to_str().unwrap();
    rbuild(&env, &disk, &["save", "-o", archive, "base"]).ok();
    let registry = TestRegistry::start();
    let remote = remote_image(&env, &registry);
    env.write(
        "remote/Dockerfile",
        format!("FROM {remote}\nARG turn\nRUN echo $turn > /turn\n"),
    );
    let points = std::env::var("RBUILD_FULL_DISK")
        .ok()
        .and_then(|text| text.parse().ok());
    let points: u64 = points.unwrap_or(10);
    let mut failed = 0;
    for point in 0..points {
        let turn = format!("turn={point}");
        let context = (point % 3).to_string();
        let dest = format!(
            "type=oci,compression=uncompressed,dest={}",
            disk.0.join("out.tar").display()
        );
        let build = ["build", "-t", "built", "--build-arg", &turn, &context];
        let export = ["build", "-o", &dest, "--build-arg", &turn, &context];
        let on_remote = ["build", "-t", "built", "--build-arg", &turn, "remote"];
        // What it does, and to which image it gives a name.
        let (what, args, names) = match point % 7 {
            0..3 => ("build", &build[..], "built"),
            3 => ("load", &["load", "-i", archive][..], "base"),
            4 => ("pull", &["pull", &remote][..], &*remote),
            5 => ("build on a pulled image", &on_remote[..], "built"),
            _ => ("export", &export[..], "none"),
        };
        for name in [names, &remote] {
            let _ = rbuild(&env, &disk, &["rmi", "-f", name]);
        }
        rbuild(&env, &disk, &["prune", "--all", "--force"]).ok();
        // Spread over all that the work takes, and not evenly.
        let left = (point * 7919 % 97) * 80_000;
        disk.fill(left);
        let what = format!("{what} {context} with {left} bytes left, point {point}");
        let run = rbuild(&env, &disk, args);
        let _ = fs::remove_file(disk.0.join("out.tar"));
        if run.code != Some(0) {
            failed += 1;
            says_that_the_disk_is_full(&run, &disk.0, &what);
            is_in_order(&env, &disk, &what);
            let images = rbuild(&env, &disk, &["images", "-q", names]).ok();
            assert_eq!(images.stdout, "", "{what}: {run:?}");
        }
        rbuild(&env, &disk, &["prune", "--all", "--force"]).ok();
        disk.empty();
        let again = rbuild(&env, &disk, args);
        assert_eq!(again.code, Some(0), "{what}: {again:?}");
        let _ = fs::remove_file(disk.0.join("out.tar"));
        rbuild(&env, &disk, &["prune", "--all", "--force"]).ok();
        is_in_order(&env, &disk, &what);
    }
    println!("{failed} of {points} did not fit");
    assert!(failed > 0, "nothing was too large");
}

#[test]
fn files_and_descriptors_that_run_out_are_said() {
    let Some(env) = Env::root() else {
        eprintln!("skipped: only root can mount a small disk");
        return;
    };
    let Some(disk) = Disk::mount(&env, "size=60m,nr_inodes=700") else {
        return;
    };
    let tar = crate::env::busybox();
    rbuild(&env, &disk, &["import", tar.to_str().unwrap(), "base"]).ok();
    env.write(
        "many/Dockerfile",
        "FROM base\nRUN for i in $(seq 2000); do echo > /f$i || exit 1; done\n",
    );
    env.write("big/Dockerfile", "FROM base\nCOPY big /big\n");
    env.write("big/big", vec![b'x'; 3_000_000]);
    let many = rbuild(&env, &disk, &["build", "-t", "x", "many"]);
    says_that_the_disk_is_full(&many, &disk.0, "files");
    is_in_order(&env, &disk, "files");
    rbuild(&env, &disk, &["prune", "--all", "--force"]).ok();

    let limited = |limit: &str, context: &str| -> Run {
        let rbuild = crate::env::rbuild_binary().display().to_string();
        let script = format!("ulimit {limit}; exec \"$@\"");
        let store = disk.0.join("store");
        let mut command = env.command("sh");
        command.args(["-c", &script, "sh", &rbuild, "--root", store.to_str().unwrap()]);
        command.args(["build", "-t", "limited", context]);
        command.output().unwrap().into()
    };
    // In blocks of 512 bytes.
    let run = limited("-f 2000", "big").fails(1);
    assert!(
        run.stderr.contains("File too large") && run.stderr.contains("ulimit -f"),
        "{run:?}"
    );
    is_in_order(&env, &disk, "file size");
    env.write(
        "few/Dockerfile",
        "FROM base\nRUN echo few > /few\nCOPY Dockerfile /\n",
    );
    limited("-n 64", "few").ok();
    let run = limited("-n 12", "few").fails(1);
    assert!(run.stderr.contains("Too many open files"), "{run:?}");
    limited("-n 1024", "big").ok();
}

#[test]
fn a_store_keeps_to_its_limit() {
    let Some(env) = Env::ordinary().or_else(Env::root) else {
        return;
    };
    env.base();
    let most: u64 = 16 << 20;
    for turn in 0..6 {
        let step = match turn % 3 {
            0 => "RUN head -c 3000000 /dev/urandom > /big",
            1 => "RUN head -c 1000000 /dev/urandom > /big\nRUN cp /big /more",
            _ => "COPY big /big\nRUN --mount=type=cache,target=/c head -c 500000 /dev/urandom > /c/$turn",
        };
        env.write(
            "c/Dockerfile",
            format!("FROM base\nARG turn\nRUN echo $turn > /turn\n{step}\n"),
        );
        env.write("c/big", vec![turn; 2_000_000]);
        let argument = format!("turn={turn}");
        let context = env.path("c");
        let args = [
            "build",
            "-t",
            "k",
            "--store-max",
            "16m",
            "--build-arg",
            &argument,
            context.to_str().unwrap(),
        ];
        env.rbuild(args).ok();
        let counted = taken(&env.store());
        assert!(counted <= most + most / 20, "{counted} bytes after {turn} builds");
    }
    let out = env.path("out.tar");
    env.rbuild(["save", "-o", out.to_str().unwrap(), "k"]).ok();
    let context = env.path("c");
    let args = [
        "build",
        "--min-free",
        "1000000GB",
        "-t",
        "k",
        "--build-arg",
        "turn=9",
        context.to_str().unwrap(),
    ];
    let run = env.rbuild(args).ok();
    assert!(run.stderr.contains("--min-free"), "{}", run.stderr);
    // What was built goes by no limit, with a name or without.
    let args = ["build", "-q", "--store-max", "1m", "--build-arg", "turn=8"];
    let run = env.rbuild(args.into_iter().chain(context.to_str())).ok();
    let id = run.stdout.trim();
    env.rbuild(["save", "-o", out.to_str().unwrap(), id]).ok();
    env.rbuild(["build", "--store-max", "much", "."]).fails(2);
}

/// What a directory takes on the disk.
fn taken(directory: &Path) -> u64 {
    let counted = Command::new("du")
        .args(["-s", "-B1"])
        .arg(directory)
        .output()
        .unwrap();
    let counted = String::from_utf8(counted.stdout).unwrap();
    counted.split_whitespace().next().unwrap().parse().unwrap()
}

/// Each of several builds makes room for itself while the others need what they stand on.
#[test]
fn builds_at_once_keep_to_a_limit_that_is_too_small_for_all_they_leave() {
    let Some(env) = Env::ordinary().or_else(Env::root) else {
        return;
    };
    let most: u64 = 16 << 20;
    several_at_once(&env, ["--store-max", "16m"]);
    // Who ended last saw what all had left.
    let counted = taken(&env.store());
    assert!(counted <= most + most / 20, "{counted} bytes");
}

#[test]
fn builds_at_once_leave_free_what_has_to_stay_free() {
    let Some(env) = Env::root() else {
        eprintln!("skipped: only root can mount a small disk");
        return;
    };
    let Some(disk) = Disk::mount_at(env.store(), "size=32m,mode=700") else {
        return;
    };
    several_at_once(&env, ["--min-free", "20m"]);
    let free = disk.free();
    assert!(free >= 20 << 20, "{free} bytes");
}

/// Four builds with `limit` at once, and again: all have the right result.
fn several_at_once(env: &Env, limit: [&str; 2]) {
    env.base();
    let rounds = std::env::var("RBUILD_LIMITED_ROUNDS");
    let rounds: u32 = rounds.ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let contexts: Vec<String> = (0..4)
        .map(|n| {
            let dockerfile = "FROM base AS one\nARG turn\nRUN echo $turn > /turn; head -c 1000000 /dev/urandom > /left\n\
                              FROM base\nCOPY big /big\nCOPY --from=one /turn /turn\nRUN cp /turn /again\n";
            env.write(&format!("c{n}/big"), vec![n; 1_000_000]);
            env.context(&format!("c{n}"), &[("Dockerfile", dockerfile)])
        })
        .collect();
    for round in 0..rounds {
        let start = |(n, context): (usize, &String)| {
            let (turn, name) = (format!("turn={round}-{n}"), format!("k{n}"));
            let args = ["build", "-q", "--build-arg", &turn, "-t", &name];
            let mut command = env.rbuild_command(args.into_iter().chain(limit));
            command.arg(context).stdout(std::process::Stdio::piped());
            command.stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let builds: Vec<_> = contexts.iter().enumerate().map(start).collect();
        for build in builds {
            Run::from(build.wait_with_output().unwrap()).ok();
        }
        for n in 0..contexts.len() {
            let dest = env.path(&format!("again-{round}-{n}"));
            let source = format!("k{n}:/again");
            env.rbuild(["cp", &source, dest.to_str().unwrap()]).ok();
            assert_eq!(fs::read_to_string(&dest).unwrap(), format!("{round}-{n}\n"));
        }
        env.rbuild(["store", "check", "--read-data"]).ok();
    }
}
