use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::env::{Env, Run, busybox, rbuild_binary};
use crate::errors::nothing_left;

/// What stands in the canary and must never be seen by a step.
pub const SECRET: &str = "the canary's secret";

/// A tier in which a test builds, with its canary.
pub struct Guard {
    pub env: Env,
    pub tier: &'static str,
    binary: PathBuf,
    before: String,
}

/// Runs `test` in every tier that can be entered here, and compares the canary afterwards.
pub fn in_every_tier(test: impl Fn(&Guard)) {
    in_tiers(&["root", "userns", "userns-single", "chroot"], test);
}

/// The same for what only namespaces can promise: mounts, processes, a `/proc` of its own.
pub fn with_namespaces(test: impl Fn(&Guard)) {
    in_tiers(&["root", "userns", "userns-single"], test);
}

/// Runs `test` in these tiers.
pub fn in_tiers(tiers: &[&'static str], test: impl Fn(&Guard)) {
    for &tier in tiers {
        let env = match tier {
            "userns" => Env::ordinary(),
            "userns-single" => Env::without_range(),
            _ => Env::root(),
        };
        let Some(env) = env else {
            eprintln!("skipped: the tier {tier}: no such user to build as");
            continue;
        };
        let guard = Guard::new(env, tier);
        test(&guard);
        guard.check();
    }
}

impl Guard {
    fn new(env: Env, tier: &'static str) -> Self {
        env.base();
        // The binary belongs to the user as well: who could write to it in a step would own the next build.
        let binary = env.path("rbuild");
        fs::copy(rbuild_binary(), &binary).unwrap();
        env.own(&binary);
        env.write("host/.ssh/id", SECRET);
        env.write("host/etc/resolv.conf", "");
        env.write("host/etc/hosts", "");
        env.write("host/null", "");
        env.write("host/deep/er/file", "file");
        let link = env.path("host/link");
        symlink("deep/er", &link).unwrap();
        fs::set_permissions(env.path("host/deep"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut guard = Self {
            env,
            tier,
            binary,
            before: String::new(),
        };
        guard.before = guard.census();
        guard
    }

    /// The canary's directory.
    pub fn host(&self) -> String {
        self.env.path("host").to_str().unwrap().to_owned()
    }

    /// Builds a Dockerfile in the context `name`. The canary's path stands for `HOST` in it.
    pub fn build(&self, name: &str, dockerfile: &str, more: &[&str]) -> Run {
        self.build_command(name, dockerfile, more)
            .output()
            .unwrap()
            .into()
    }

    /// As [`Guard::build`], not started yet.
    pub fn build_command(&self, name: &str, dockerfile: &str, more: &[&str]) -> Command {
        let text = dockerfile.replace("HOST", &self.host());
        self.env.write(&format!("{name}/Dockerfile"), text);
        let mut command = self.env.command(&self.binary);
        command.arg("--root").arg(self.env.store()).args([
            "build",
            "--progress=plain",
            &format!("--isolation={}", self.tier),
            "-t",
            name,
        ]);
        let scratch = self.env.path("tmp");
        let _ = fs::create_dir(&scratch);
        self.env.own(&scratch);
        command.args(more).arg(self.env.path(name)).env("TMPDIR", scratch);
        // With its own directory as working directory, a name that is joined to nothing hits the canary.
        command.current_dir(self.env.path("host"));
        command
    }

    /// Runs rbuild on the store.
    pub fn rbuild(&self, args: &[&str]) -> Run {
        let mut command = self.env.command(&self.binary);
        command.arg("--root").arg(self.env.store()).args(args);
        command.output().unwrap().into()
    }

    /// Imports the busybox base with the files that `make` puts into a directory above it.
    pub fn image(&self, name: &str, make: impl FnOnce(&Path)) {
        let files = self.env.path(&format!("{name}.files"));
        fs::create_dir(&files).unwrap();
        make(&files);
        let archive = self.env.path(&format!("{name}.tar"));
        fs::copy(busybox(), &archive).unwrap();
        let appended = Command::new("tar")
            .args(["--numeric-owner", "--owner=0", "--group=0", "-C"])
            .arg(&files)
            .arg("-rf")
            .arg(&archive)
            .args(
                fs::read_dir(&files)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name()),
            )
            .status();
        assert!(appended.unwrap().success());
        self.env.rbuild(["import", archive.to_str().unwrap(), name]).ok();
    }

    /// The canary is what it was, and no process, mount or temporary file is left.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(self.before, self.census(), "the canary, in tier {}", self.tier);
        nothing_left(&self.env);
        let scratch = self.env.path("tmp");
        if scratch.exists() {
            let left: Vec<_> = fs::read_dir(scratch)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert!(left.is_empty(), "{left:?} in TMPDIR, in tier {}", self.tier);
        }
        // The kernel takes a moment to end a process id namespace whose builder was killed.
        let began = Instant::now();
        while let Some(process) = self.process_left() {
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "left in tier {}: {process}",
                self.tier
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A process that has this folder as root, working directory, program, open file, mount or argument.
    fn process_left(&self) -> Option<String> {
        let folder = self.env.path("");
        let folder = folder.to_str().unwrap().trim_end_matches('/');
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let process = entry.path();
            if !entry.file_name().as_bytes()[0].is_ascii_digit() || entry.file_name() == *own_id() {
                continue;
            }
            let link = |name: &str| fs::read_link(process.join(name)).unwrap_or_default();
            let text = |name: &str| {
                String::from_utf8_lossy(&fs::read(process.join(name)).unwrap_or_default()).into_owned()
            };
            let mut places = vec![link("root"), link("cwd"), link("exe")];
            let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            places.extend(open.filter_map(|entry| fs::read_link(entry.path()).ok()));
            let line = text("cmdline");
            if places.iter().any(|place| place.starts_with(folder))
                || line.contains(folder)
                || text("mountinfo").contains(folder)
            {
                return Some(format!("{} {line:?} {places:?}", process.display()));
            }
        }
        None
    }

    /// The canary and the binary: path, mode, owner, time and content of everything.
    fn census(&self) -> String {
        let mut lines = String::new();
        let mut stack = vec![self.env.path("host"), self.binary.clone()];
        while let Some(path) = stack.pop() {
            let found = fs::symlink_metadata(&path).unwrap();
            let content = match found.file_type() {
                kind if kind.is_dir() => {
                    let mut names: Vec<PathBuf> =
                        fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
                    names.sort();
                    stack.extend(names);
                    String::new()
                }
                kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                _ => rbuild_cache::Digest::of(&fs::read(&path).unwrap()).to_string(),
            };
            writeln!(
                lines,
                "{} {:o} {}:{} {}.{} {content}",
                path.display(),
                found.mode(),
                found.uid(),
                found.gid(),
                found.mtime(),
                found.mtime_nsec()
            )
            .unwrap();
        }
        lines
    }
}

fn own_id() -> &'static OsStr {
    static ID: std::sync::OnceLock<std::ffi::OsString> = std::sync::OnceLock::new();
    ID.get_or_init(|| std::process::id().to_string().into())
}
