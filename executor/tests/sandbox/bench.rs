//! The bench on which cases run steps: a busybox image, an executor, fresh upper directories.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_executor::{Cancel, Error, ExecSpec, Executor, Exit, Isolation, Rootfs};

const PROGRAMS: &str = "sh true ls cat id mount umount ps sleep touch stat unshare kill env pwd readlink mkdir \
    rmdir hostname grep chroot dd rm ln chmod chown mknod wc echo test head sort tr printf find ip nc timeout sed mv \
    mkfifo cp cut su chgrp";

pub struct Bench {
    pub executor: Executor,
    pub directory: PathBuf,
    pub image: PathBuf,
    pub cancel: Cancel,
    count: AtomicUsize,
}

pub struct Outcome {
    pub exit: Result<Exit, Error>,
    pub out: String,
    pub upper: PathBuf,
}

impl Outcome {
    /// The output of a step that succeeded.
    pub fn ok(&self) -> &str {
        match &self.exit {
            Ok(Exit::Code(0)) => self.out.trim_end(),
            other => panic!("{other:?}: {}", self.out),
        }
    }

    /// The text of the error.
    pub fn error(&self) -> String {
        match &self.exit {
            Err(e) => e.to_string(),
            Ok(exit) => panic!("{exit:?}: {}", self.out),
        }
    }

    /// Everything below the upper directory.
    pub fn changes(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut stack = vec![self.upper.clone()];
        while let Some(directory) = stack.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                found.push(
                    entry
                        .path()
                        .strip_prefix(&self.upper)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
                if entry.file_type().unwrap().is_dir() {
                    stack.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }
}

pub fn directory() -> PathBuf {
    std::env::var_os(super::DIRECTORY).unwrap().into()
}

/// Is this the pass in a namespace with one id?
pub fn is_single() -> bool {
    std::env::var_os(super::SINGLE).is_some_and(|value| !value.is_empty())
}

impl Bench {
    pub fn new() -> Bench {
        let directory = directory();
        let scratch = directory.join("scratch");
        fs::create_dir(&scratch).unwrap();
        let isolation = if is_single() {
            Isolation::UsernsSingle
        } else {
            Isolation::Auto
        };
        let executor = Executor::enter(isolation, &scratch).unwrap();
        let image = directory.join("image");
        busybox(&image);
        Bench {
            executor,
            directory,
            image,
            cancel: Cancel::new().unwrap(),
            count: AtomicUsize::new(0),
        }
    }

    /// A spec on the image with a fresh upper directory.
    pub fn spec(&self, args: &[&str]) -> ExecSpec {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let make = |name: &str| {
            let path = self.directory.join(format!("{name}{n}"));
            fs::create_dir(&path).unwrap();
            path
        };
        let rootfs = Rootfs::Overlay {
            lowers: vec![self.image.clone()],
            upper: make("upper"),
            work: make("work"),
        };
        let mut spec = ExecSpec::new(rootfs, args.iter().map(|a| a.to_string()).collect());
        spec.env = vec!["PATH=/usr/bin:/bin".to_owned()];
        // So the first step of each case is made as it comes, and others ahead of time.
        spec.followed = true;
        spec
    }

    pub fn shell(&self, script: &str) -> Outcome {
        self.run(&self.spec(&["/bin/sh", "-c", script]))
    }

    pub fn run(&self, spec: &ExecSpec) -> Outcome {
        self.run_with(spec, &self.cancel)
    }

    pub fn run_with(&self, spec: &ExecSpec, cancel: &Cancel) -> Outcome {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let reading = std::thread::spawn(move || {
            let mut out = String::new();
            reader.read_to_string(&mut out).unwrap();
            out
        });
        let stdout: OwnedFd = writer.try_clone().unwrap().into();
        let exit = self.executor.run(spec, stdout, writer.into(), cancel);
        Outcome {
            exit,
            out: reading.join().unwrap(),
            upper: spec.rootfs.changed().to_owned(),
        }
    }
}

/// Puts other layers below the upper directory.
pub fn set_lowers(spec: &mut ExecSpec, layers: Vec<PathBuf>) {
    match &mut spec.rootfs {
        Rootfs::Overlay { lowers, .. } => *lowers = layers,
        Rootfs::Directory { .. } => panic!("a directory has no layers"),
    }
}

/// A small image: busybox, its names, two users.
pub fn busybox(image: &Path) {
    for directory in ["bin", "etc", "tmp", "home/alice"] {
        fs::create_dir_all(image.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", image.join("bin/busybox")).unwrap();
    for program in PROGRAMS.split_whitespace() {
        symlink("busybox", image.join("bin").join(program)).unwrap();
    }
    let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n";
    fs::write(image.join("etc/passwd"), passwd).unwrap();
    fs::write(
        image.join("etc/group"),
        "root:x:0:\nwheel:x:10:alice\nalice:x:1001:\n",
    )
    .unwrap();
}
