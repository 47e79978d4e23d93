//! Which tiers work: each is entered in a child, where a step of a few bytes runs with all that a step has. So a tier that is
//! said to work does.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::machines::native_program;
use crate::{Cancel, ExecSpec, Executor, Isolation, Rootfs, Snapshots, sys};

/// How long a tier may take to say whether it works.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// A way of confining steps, and whether it works here.
#[derive(Clone, Debug)]
pub struct Tier {
    /// The way.
    pub isolation: Isolation,
    /// What it says of itself, or why it does not work.
    pub result: Result<String, String>,
}

/// Tries every tier, in the order in which they are preferred. `scratch` is an empty directory on the store's file system. The
/// process has one thread.
pub fn tiers(scratch: &Path) -> Vec<Tier> {
    let preferred = Isolation::in_order();
    let tiers = preferred.iter().enumerate().map(|(number, isolation)| Tier {
        isolation: *isolation,
        result: try_tier(*isolation, &scratch.join(format!("tier{number}"))),
    });
    tiers.collect()
}

/// Enters the tier in a child and runs a step there.
fn try_tier(isolation: Isolation, scratch: &Path) -> Result<String, String> {
    let fail = |doing: &str, error: std::io::Error| format!("{doing}: {error}");
    std::fs::create_dir(scratch).map_err(|e| fail("making a directory", e))?;
    let (theirs, ours) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail("making a pipe", e.into()))?;
    let Some(child) = sys::clone_into(0).map_err(|e| fail("forking", e))? else {
        drop(theirs);
        let said = match run_in(isolation, scratch) {
            Ok(line) => format!("+{line}"),
            Err(reason) => format!("-{reason}"),
        };
        let _ = std::fs::File::from(ours).write_all(said.as_bytes());
        sys::exit_now(0)
    };
    drop(ours);
    let mut fds = [PollFd::new(&theirs, PollFlags::IN)];
    let in_time = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE))).is_ok_and(|ready| ready > 0);
    if !in_time {
        let _ = pidfd_send_signal(&child, Signal::KILL);
    }
    let mut said = String::new();
    let _ = std::fs::File::from(theirs).read_to_string(&mut said);
    let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED));
    match (said.strip_prefix('+'), said.strip_prefix('-')) {
        (Some(line), _) => Ok(line.to_owned()),
        (None, Some(reason)) => Err(reason.to_owned()),
        (None, None) if in_time => Err("the attempt ended without an answer".to_owned()),
        (None, None) => Err("the attempt took longer than 10 seconds".to_owned()),
    }
}

/// Enters the tier and runs a program that ends at once.
fn run_in(isolation: Isolation, scratch: &Path) -> Result<String, String> {
    let files = scratch.join("files");
    let make =
        |path: &Path| std::fs::create_dir_all(path).map_err(|e| format!("making {}: {e}", path.display()));
    make(&files)?;
    let executor = Executor::enter(isolation, &files).map_err(|error| match error {
        crate::Error::Unavailable { reason } => reason,
        other => other.to_string(),
    })?;
    let place = |name: &str| -> Result<PathBuf, String> {
        let path = scratch.join(name);
        make(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .map_err(|e| format!("making {}: {e}", path.display()))?;
        Ok(path)
    };
    let root = place("root")?;
    let program = root.join("program");
    std::fs::write(&program, native_program())
        .and_then(|()| std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)))
        .map_err(|e| format!("writing {}: {e}", program.display()))?;
    let (rootfs, how) = match executor.snapshots() {
        Snapshots::Overlay => {
            let overlay = Rootfs::Overlay {
                lowers: vec![root],
                upper: place("upper")?,
                work: place("work")?,
            };
            (overlay, "layers are mounted over each other")
        }
        Snapshots::Copy => {
            let directory = Rootfs::Directory {
                path: root,
                aside: place("aside")?,
            };
            (directory, "layers are copied, for no overlay can be mounted")
        }
    };
    step(&executor, rootfs)?;
    Ok(format!("{}; {how}", executor.describe()))
}

fn step(executor: &Executor, rootfs: Rootfs) -> Result<(), String> {
    let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let cancel = Cancel::new().map_err(|e| e.to_string())?;
    let (out, err): (OwnedFd, OwnedFd) = match (null(), null()) {
        (Ok(out), Ok(err)) => (out, err),
        _ => return Err("opening /dev/null".to_owned()),
    };
    let spec = ExecSpec::new(rootfs, vec!["/program".to_owned()]);
    match executor.run(&spec, out, err, &cancel) {
        Ok(exit) if exit.success() => Ok(()),
        Ok(exit) => Err(format!("a step of a few bytes ended with {}", exit.code())),
        Err(error) => Err(error.to_string()),
    }
}
