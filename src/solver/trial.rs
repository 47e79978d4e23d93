//! A command in an image, outside of a build (`rbuild run`): the sandbox of a RUN, and what it writes is thrown away, or kept as a layer.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rbuild_cache::{LayerId, Store};
use rbuild_executor::{Cancel, ExecSpec, Executor, Exit, Rootfs, Started};

use super::foreign;
use super::root::{self, Root};
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

/// The trees of an image's layers, topmost first, made where they are missing: what an overlay is mounted of.
pub fn trees(store: &Store, layers: &[LayerId]) -> Result<Vec<PathBuf>, BuildError> {
    root::trees(store, layers)
}

/// What a command is tried in.
#[derive(Debug)]
pub struct Trial<'a> {
    /// The layers of the image, lowest first.
    pub layers: &'a [LayerId],
    /// What the image is for.
    pub platform: &'a Platform,
    /// Whether what the command writes becomes a layer.
    pub keep: bool,
}

/// Runs what `spec` says, and the layer of what it wrote if that is to be kept.
pub fn run(
    store: &Store,
    executor: &Executor,
    trial: &Trial<'_>,
    spec: impl FnOnce(Rootfs) -> ExecSpec,
    streams: Streams,
    cancel: &Cancel,
) -> Result<(Exit, Option<LayerId>), BuildError> {
    let Trial {
        layers,
        platform,
        keep,
    } = *trial;
    let root = Root::begin(store, executor.snapshots(), layers, None)?;
    let mut spec = spec(root.rootfs());
    spec.is_32_bit = foreign::is_predecessor(platform);
    let Streams {
        stdin,
        stdout,
        stderr,
    } = streams;
    let started = executor.start(&spec, stdin, stdout, stderr, cancel);
    let ended = started.and_then(Started::wait);
    let ended = ended.map_err(|error| {
        let text = format!("\"{}\" could not be run", spec.args.join(" "));
        BuildError::new(anyhow::Error::new(error).context(text)).hint(foreign::explain(platform))
    })?;
    let layer = match keep {
        true => Some(root.commit(&ended.touched, 0)?),
        false => None,
    };
    Ok((ended.exit, layer))
}
