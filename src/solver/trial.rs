//! A command in an image, outside of a build (`rbuild run`): the sandbox of a RUN, and nothing of what it writes stays.

use std::os::fd::OwnedFd;

use rbuild_cache::{LayerId, Store};
use rbuild_executor::{Cancel, ExecSpec, Executor, Exit, Rootfs};

use super::foreign;
use super::root::Root;
use crate::error::BuildError;
use crate::graph::Platform;

/// Where the command reads and writes.
#[derive(Debug)]
pub struct Streams {
    /// Its input; nothing can be read without it.
    pub stdin: Option<OwnedFd>,
    /// Its output.
    pub stdout: OwnedFd,
    /// Its messages.
    pub stderr: OwnedFd,
}

/// Runs what `spec` says on the layers of an image for `platform`, lowest first.
pub fn run(
    store: &Store,
    executor: &Executor,
    layers: &[LayerId],
    platform: &Platform,
    spec: impl FnOnce(Rootfs) -> ExecSpec,
    streams: Streams,
    cancel: &Cancel,
) -> Result<Exit, BuildError> {
    let root = Root::begin(store, executor.snapshots(), layers)?;
    let mut spec = spec(root.rootfs());
    spec.is_32_bit = foreign::is_predecessor(platform);
    let Streams {
        stdin,
        stdout,
        stderr,
    } = streams;
    let ended = executor.run_attached(&spec, stdin, stdout, stderr, cancel);
    let ended = ended.map_err(|error| {
        let text = format!("\"{}\" could not be run", spec.args.join(" "));
        BuildError::new(anyhow::Error::new(error).context(text)).hint(foreign::explain(platform))
    })?;
    Ok(ended.exit)
}
