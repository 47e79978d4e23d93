//! One RUN: a snapshot over the base's trees, a process in it, its log as events.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rbuild_cache::layer::Snapshot;
use rbuild_cache::{Key, LayerId};
use rbuild_executor::{
    Capabilities, ExecSpec, Executor, Exit, Network, Rlimit, Rootfs, Script, Snapshots, Started, SystemCalls,
};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};

use super::mounts::{self, Asking, MountInput};
use super::root::Root;
use super::{Inputs, foreign, leaks, network};
use crate::error::BuildError;
use crate::graph::{self, Confinement, ExecOp, NetworkMode, Ulimit};
use crate::progress::{Event, Stream};
use crate::source::leak::Leak;

/// Bytes read of a process' output at once.
const CHUNK: usize = 64 * 1024;

/// Bytes of a process' output that are looked at when it has failed.
const LAST: usize = 8 * 1024;

/// What comes after a process.
pub(super) struct Next<'a> {
    /// How many steps will run directly on the result.
    pub(super) successors: usize,
    /// Whether another process has yet to be started.
    pub(super) followed: bool,
    /// Where its snapshot is made ready.
    pub(super) spare: &'a Mutex<Option<Snapshot>>,
}

impl Next<'_> {
    fn take_spare(&self) -> Option<Snapshot> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Uses the time that a step takes.
    fn prepare(&self, inputs: &Inputs<'_>, executor: &Executor) {
        if !self.followed || executor.snapshots() != Snapshots::Overlay {
            return;
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_none() {
            // If this fails, the next step tries again and tells why.
            *spare = inputs.store.begin_snapshot().ok();
        }
    }
}

/// Runs `op` on the stack of layers `base` and gives the layer of what it changed. `read` is what its mounts read.
pub(super) fn run(
    asking: &Asking<'_>,
    executor: &Executor,
    op: &ExecOp,
    base: &[LayerId],
    read: &[MountInput],
    next: &Next<'_>,
) -> Result<LayerId, BuildError> {
    let Asking {
        inputs,
        cancel,
        vertex,
        ..
    } = asking;
    let root = Root::begin(inputs.store, executor.snapshots(), base, next.take_spare())?;
    let mut spec = spec(op, root.rootfs());
    spec.followed = next.followed;
    spec.dns.clone_from(inputs.dns);
    spec.certificates = inputs.certificates.cloned();
    network::join(inputs, executor, cancel, op)?;
    let mut prepared = mounts::prepare(asking, op, read)?;
    spec.mounts = std::mem::take(&mut prepared.mounts);
    spec.secret_env = std::mem::take(&mut prepared.secret_env);
    spec.secrets = std::mem::take(&mut prepared.secrets);
    let (stdout, stdout_write) = pipe()?;
    let (stderr, stderr_write) = pipe()?;
    let (exit, printed) = std::thread::scope(|scope| {
        let started = executor.start(&spec, None, stdout_write, stderr_write, cancel);
        let log = scope.spawn(|| forward(inputs, vertex, &stdout, &stderr));
        next.prepare(inputs, executor);
        let exit = started.and_then(Started::wait);
        (exit, log.join().unwrap_or_default())
    });
    // A step that was killed from here leaves its caches unfinished.
    if exit.is_ok() {
        prepared.finish()?;
    }
    let ended = exit.map_err(|error| failed_to_start(op, error))?;
    if !ended.exit.success() {
        // As long as what the step wrote is there.
        let hint = inputs
            .store
            .shortage()
            .or_else(|| network::explain(inputs, executor, op, &printed.last));
        return Err(failed(op, ended.exit, executor.memory_limit()).hint(hint));
    }
    refuse_leaks(asking, &root.written(), &printed.leaks)?;
    root.commit(&ended.touched, next.successors)
}

/// Looks for secrets in what the step wrote, and at what it printed.
fn refuse_leaks(asking: &Asking<'_>, written: &Path, printed: &BTreeSet<Leak>) -> Result<(), BuildError> {
    let inputs = asking.inputs;
    if !inputs.leaks.are_sought() {
        return Ok(());
    }
    let location = asking.location;
    if let Some(leak) = printed.iter().next() {
        leaks::report(inputs, leak, "the output of the step", location)?;
    }
    let found = leaks::in_tree(inputs.leaks, written).map_err(|error| {
        BuildError::new(anyhow::Error::new(error).context("looking for secrets in what the step wrote"))
    })?;
    match found {
        Some((path, leak)) => {
            let place = format!("the layer of the step: {}", path.display());
            leaks::report(inputs, leak, &place, location)
        }
        None => Ok(()),
    }
}

fn spec(op: &ExecOp, rootfs: Rootfs) -> ExecSpec {
    let mut spec = ExecSpec::new(rootfs, op.args.clone());
    spec.env = op.env.iter().chain(&op.proxy_env).cloned().collect();
    spec.cwd.clone_from(&op.cwd);
    spec.user.clone_from(&op.user);
    spec.hostname.clone_from(&op.hostname);
    spec.network = match op.network {
        NetworkMode::None => Network::None,
        NetworkMode::Host => Network::Host,
        NetworkMode::Default => Network::Default,
    };
    spec.insecure = op.insecure;
    spec.is_32_bit = foreign::is_predecessor(&op.platform);
    spec.extra_hosts.clone_from(&op.extra_hosts);
    let limit = |limit: &Ulimit| Rlimit {
        name: limit.name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    };
    spec.ulimits = op.ulimits.iter().map(limit).collect();
    confine(&mut spec, &op.confinement);
    spec.script = op.script.as_ref().map(|script| Script {
        path: script.name.clone(),
        data: script.data.clone().into_bytes(),
    });
    spec
}

fn confine(spec: &mut ExecSpec, confinement: &Confinement) {
    if let Some(capabilities) = confinement.capabilities {
        spec.privileges.capabilities = Capabilities {
            held: capabilities.held,
            demanded: capabilities.demanded,
        };
    }
    spec.privileges.system_calls = match &confinement.system_calls {
        graph::SystemCalls::Usual => SystemCalls::Usual,
        graph::SystemCalls::Unconfined => SystemCalls::Unconfined,
        graph::SystemCalls::Profile(text) => SystemCalls::Profile(text.clone()),
    };
    spec.privileges.no_new_privileges = confinement.no_new_privileges;
    if let Some(size) = confinement.shm_size {
        spec.shm_size = size;
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), BuildError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| {
        BuildError::new(anyhow::Error::new(error).context("making a pipe for the output of RUN"))
    })
}

/// What is known of a process' output.
#[derive(Default)]
struct Printed {
    /// The secrets in it that are long enough not to be there by chance.
    leaks: BTreeSet<Leak>,
    /// Its end, as it was written.
    last: Vec<u8>,
}

/// Hands on what the process writes until both pipes are closed by everybody, with secrets hidden.
fn forward(inputs: &Inputs<'_>, vertex: &Key, stdout: &OwnedFd, stderr: &OwnedFd) -> Printed {
    let mut open = vec![
        (Stream::Stdout, stdout, inputs.leaks.mask()),
        (Stream::Stderr, stderr, inputs.leaks.mask()),
    ];
    let emit = |stream: Stream, data: Vec<u8>| {
        if !data.is_empty() {
            inputs.sink.emit(Event::Log {
                vertex: *vertex,
                stream,
                data,
                at: Instant::now(),
            });
        }
    };
    let mut printed = Printed::default();
    // Not written before the kernel does so: most processes print little.
    let mut buffer = Vec::with_capacity(CHUNK);
    while !open.is_empty() {
        let mut polled: Vec<PollFd<'_>> = open
            .iter()
            .map(|(_, fd, _)| PollFd::new(*fd, PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut index = 0;
        open.retain_mut(|(stream, fd, mask)| {
            index += 1;
            if !ready[index - 1] {
                return true;
            }
            buffer.clear();
            match rustix::io::read(&**fd, spare_capacity(&mut buffer)) {
                Ok(0) => {}
                Ok(_) => {
                    printed.last.extend_from_slice(&buffer);
                    let surplus = printed.last.len().saturating_sub(LAST);
                    printed.last.drain(..surplus);
                    emit(*stream, mask.push(buffer.clone()));
                    return true;
                }
                Err(rustix::io::Errno::INTR) => return true,
                Err(_) => {}
            }
            emit(*stream, mask.finish());
            printed
                .leaks
                .extend(mask.found().filter(|leak| leak.sought).cloned());
            false
        });
    }
    printed
}

/// BuildKit's words (spec R8).
fn failed(op: &ExecOp, exit: Exit, memory: Option<u64>) -> BuildError {
    let command = op.args.join(" ");
    let text = format!(
        "process \"{command}\" did not complete successfully: exit code: {}",
        exit.code()
    );
    if exit != Exit::OutOfMemory {
        return BuildError::message(text);
    }
    let hint = match memory {
        Some(bytes) => format!("each step may use {bytes} bytes of memory: raise --memory"),
        None => "this machine ran out of memory: give it more, or build less at the same time".to_owned(),
    };
    BuildError::message(format!("{text}: killed: out of memory")).hint(Some(hint))
}

fn failed_to_start(op: &ExecOp, error: rbuild_executor::Error) -> BuildError {
    let text = format!("process \"{}\" could not be run", op.args.join(" "));
    BuildError::new(anyhow::Error::new(error).context(text)).hint(foreign::explain(&op.platform))
}
