//! The door: entering the sandbox, and running steps in it.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::cover::{Cover, wait_for_tick};
use crate::enter::{Means, enter};
use crate::limits::Limits;
use crate::protocol::{self, Request, receive_network_taken, send_network, send_request};
use crate::spawner::{self, Plan};
use crate::spec::pack;
use crate::started::Started;
use crate::{
    Cancel, Error, ExecSpec, Exit, Isolation, Network, NetworkPlan, NetworkTaken, Ownership, Resources,
    Rootfs,
};

/// The process inside its namespaces, with the spawner beside it. Share it among threads.
///
/// Dropping it ends the spawner and with it whatever still runs.
#[derive(Debug)]
pub struct Executor {
    line: String,
    warnings: Vec<String>,
    ownership: Ownership,
    means: Means,
    snapshots: Snapshots,
    limits: Limits,
    control: OwnedFd,
    /// A pidfd.
    spawner: OwnedFd,
    network: Mutex<AskedNetwork>,
}

/// The network of the steps, as far as the builder knows.
#[derive(Debug)]
enum AskedNetwork {
    Not,
    /// The answer comes here.
    Coming(OwnedFd),
    Known {
        own: bool,
    },
}

/// How a step that ran to its end has left its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How the command ended.
    pub exit: Exit,
    /// Absolute paths inside the root that the sandbox itself has touched while the step did not: their change times moved, and
    /// nothing else. Only for a [`crate::Rootfs::Directory`].
    pub touched: Vec<String>,
}

/// How the changes of a step can be told from what was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshots {
    /// An overlay can be mounted over layers: [`crate::Rootfs::Overlay`].
    Overlay,
    /// It cannot, on the file system of the layers or at all: [`crate::Rootfs::Directory`].
    Copy,
}

impl Executor {
    /// Moves the calling process into the namespaces of `isolation`. It must have one thread, the main one.
    ///
    /// `scratch` is an existing, empty directory of this build on the file system of the layers; the
    /// executor keeps its stub layer there, and the caller removes it after the build. From here on
    /// file owners are those of the namespace: the process is uid 0 in it.
    pub fn enter(isolation: Isolation, scratch: &Path) -> Result<Executor, Error> {
        Executor::enter_with(isolation, scratch, &Resources::default())
    }

    /// The same, with limits for each step.
    pub fn enter_with(
        isolation: Isolation,
        scratch: &Path,
        resources: &Resources,
    ) -> Result<Executor, Error> {
        resources.check()?;
        let scratch = scratch
            .canonicalize()
            .map_err(|e| Error::internal(format!("finding {}", scratch.display()), e))?;
        let entered = enter(isolation)?;
        let plan = Plan {
            scratch,
            in_user_namespace: entered.in_user_namespace,
            ownership: entered.ownership,
            means: entered.means,
        };
        // Before the spawner is there: it has to follow the builder into its cgroup.
        let (limits, warnings) = Limits::make(resources)?;
        let (spawner, control) = spawner::spawn(&plan)?;
        let snapshots = match entered.means.mounts && spawner::can_overlay(&plan.scratch) {
            true => Snapshots::Overlay,
            false => Snapshots::Copy,
        };
        Ok(Executor {
            line: entered.line,
            warnings,
            limits,
            ownership: entered.ownership,
            means: entered.means,
            snapshots,
            control,
            spawner,
            network: Mutex::new(AskedNetwork::Not),
        })
    }

    /// Which isolation was taken, in one line.
    pub fn describe(&self) -> String {
        self.line.clone()
    }

    /// Bytes of memory that each step may use.
    pub fn memory_limit(&self) -> Option<u64> {
        self.limits.memory()
    }

    /// What was asked for and cannot be had, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How owners lie on the disk from now on.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// Starts the network of steps with [`Network::Default`] and does not wait for it: it takes some 30 milliseconds.
    /// Only the first call does something.
    pub fn start_network(&self, plan: NetworkPlan) -> Result<(), Error> {
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*network, AskedNetwork::Not) {
            let fail = |e| Error::internal("asking for the network of the steps", e);
            let (ours, theirs) = protocol::sockets().map_err(fail)?;
            send_network(self.control.as_fd(), plan, theirs.as_fd()).map_err(fail)?;
            *network = AskedNetwork::Coming(ours);
        }
        Ok(())
    }

    /// Waits until the network of steps with [`Network::Default`] is there. Tells what it is, to the first caller only.
    pub fn join_network(&self, cancel: &Cancel) -> Result<Option<NetworkTaken>, Error> {
        self.start_network(NetworkPlan::default())?;
        let fail = |e: io::Error| Error::internal("waiting for the network of the steps", e);
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        let AskedNetwork::Coming(answer) = &*network else {
            return Ok(None);
        };
        loop {
            let mut fds = [
                PollFd::new(answer, PollFlags::IN),
                PollFd::from_borrowed_fd(cancel.fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(fail(e.into())),
            }
            if !fds[0].revents().is_empty() {
                break;
            }
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
        }
        let taken = receive_network_taken(answer.as_fd()).map_err(fail)?;
        *network = AskedNetwork::Known { own: taken.own };
        Ok(Some(taken))
    }

    /// Whether steps with [`Network::Default`] have a network of their own; no while that is not known.
    pub fn has_own_network(&self) -> bool {
        let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*network, AskedNetwork::Known { own: true })
    }

    /// Whether mounts can be made for a step, or what it mounts has to be moved into its root.
    pub fn can_mount(&self) -> bool {
        self.means.mounts
    }

    /// What root file systems steps can have here.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots
    }

    /// Runs one step to its end.
    pub fn run(
        &self,
        spec: &ExecSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
        cancel: &Cancel,
    ) -> Result<Exit, Error> {
        let started = self.start(spec, None, stdout, stderr, cancel)?;
        started.wait().map(|ended| ended.exit)
    }

    /// Starts one step and does not wait for it. The descriptors become the step's input (without one it has none) and output, and
    /// are closed here at once.
    pub fn start<'a>(
        &'a self,
        spec: &'a ExecSpec,
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
        cancel: &'a Cancel,
    ) -> Result<Started<'a>, Error> {
        let running = cancel.running();
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if spec.network == Network::Default {
            self.join_network(cancel)?;
        }
        let (reports, theirs) =
            protocol::sockets().map_err(|e| Error::internal("making the step's socket", e))?;
        let cover = self.prepare(spec)?;
        let (group, limited) = self.limits.begin(spec)?;
        let (spec_file, secrets) =
            describe_step(&limited).map_err(|e| Error::internal("describing the step", e))?;
        let request = Request {
            spec: spec_file,
            secrets,
            stdout,
            stderr,
            reports: theirs,
            stdin,
        };
        send_request(self.control.as_fd(), &request).map_err(|e| Error::internal("starting the step", e))?;
        Ok(Started {
            reports,
            root: &spec.rootfs,
            cover,
            group,
            cancel,
            _running: running,
        })
    }

    /// What has to be done before a step starts that changes its root in place.
    fn prepare(&self, spec: &ExecSpec) -> Result<Option<Cover>, Error> {
        let Rootfs::Directory { path, aside } = &spec.rootfs else {
            return match self.means.mounts {
                true => Ok(None),
                false => Err(Error::Setup("an overlay cannot be mounted here".to_owned())),
            };
        };
        if !self.means.mounts {
            return Cover::lay(path, aside, spec).map(Some);
        }
        let waited = std::fs::File::open(aside).and_then(|aside| wait_for_tick(aside.as_fd()));
        waited.map_err(|e| Error::internal("waiting for the clock of the file system", e))?;
        Ok(None)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = pidfd_send_signal(&self.spawner, Signal::KILL);
        let _ =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.spawner.as_fd()), WaitIdOptions::EXITED));
    }
}

/// The description of the step and its secrets, each in a memory file.
fn describe_step(spec: &ExecSpec) -> io::Result<(OwnedFd, OwnedFd)> {
    let memory = |name: &str, bytes: &[u8]| {
        let mut file = std::fs::File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        io::Result::Ok(OwnedFd::from(file))
    };
    let secrets = memory("secrets", &pack(&spec.secrets))?;
    Ok((memory("step", &serde_json::to_vec(spec)?)?, secrets))
}
