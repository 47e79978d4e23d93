//! The door: entering the sandbox, and running steps in it.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::net::SendFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::cover::{Cover, wait_for_tick};
use crate::enter::{Means, enter};
use crate::inroot::Created;
use crate::limits::Limits;
use crate::protocol::{
    self, Report, Request, order, receive_network_taken, receive_report, send_network, send_request,
};
use crate::spawner::{self, Plan};
use crate::spec::pack;
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

    /// As [`Executor::run_in_place`], for a root of which nobody wants to know what the sandbox touched.
    pub fn run(
        &self,
        spec: &ExecSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
        cancel: &Cancel,
    ) -> Result<Exit, Error> {
        self.run_in_place(spec, stdout, stderr, cancel)
            .map(|ended| ended.exit)
    }

    /// Runs one step to its end. Both descriptors become the step's output and are closed here at once.
    ///
    /// When this returns, no process of the step is left, and `upper` holds what the step wrote and
    /// nothing else. Nothing has been synced to disk: the step's own `fsync` calls do nothing.
    pub fn run_in_place(
        &self,
        spec: &ExecSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
        cancel: &Cancel,
    ) -> Result<Ended, Error> {
        self.run_attached(spec, None, stdout, stderr, cancel)
    }

    /// As [`Executor::run_in_place`], with an input.
    pub fn run_attached(
        &self,
        spec: &ExecSpec,
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
        cancel: &Cancel,
    ) -> Result<Ended, Error> {
        let _running = cancel.running();
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
        drop(request);

        let (mut result, created) = self.follow(&reports, cancel);
        if let (Ok(exit), Some(group)) = (&mut result, &group)
            && !exit.success()
            && group.ran_out_of_memory()
        {
            *exit = Exit::OutOfMemory;
        }
        let mut touched = Vec::new();
        if !created.is_empty() {
            remove_mount_points(spec.rootfs.changed(), &created)?;
            touched.extend(created.paths());
        }
        if let Some(cover) = cover {
            touched.extend(cover.lift()?);
        }
        result.map(|exit| Ended { exit, touched })
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

    /// Reads reports until the step is gone, passing a cancellation on.
    fn follow(&self, reports: &OwnedFd, cancel: &Cancel) -> (Result<Exit, Error>, Created) {
        let mut created = Created::default();
        let mut failure = None;
        let mut stopping = Stopping::No;
        loop {
            let mut fds = vec![PollFd::new(reports, PollFlags::IN)];
            match stopping {
                Stopping::No => fds.push(PollFd::from_borrowed_fd(cancel.fd(), PollFlags::IN)),
                Stopping::Asked { .. } => {
                    fds.push(PollFd::from_borrowed_fd(cancel.forced_fd(), PollFlags::IN));
                }
                Stopping::Forced => {}
            }
            let timeout = stopping.time_left();
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return (Err(Error::internal("waiting for the step", e)), created),
            }
            let reported = !fds[0].revents().is_empty();
            let pushed = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
            stopping = stopping.next(pushed, reports, cancel.grace());
            if !reported {
                continue;
            }
            match receive_report(reports.as_fd()) {
                Ok(Some(Report::Ready(made))) => created = made,
                Ok(Some(Report::Setup(text))) => failure = Some(Error::Setup(text)),
                Ok(Some(Report::Start(text))) => failure = Some(Error::Start(text)),
                Ok(Some(Report::Gone(exit))) => {
                    let result = match (failure, &stopping) {
                        (Some(error), _) => Err(error),
                        (None, Stopping::No) => Ok(exit),
                        (None, _) => Err(Error::Cancelled),
                    };
                    return (result, created);
                }
                Ok(None) => {
                    let ended = io::Error::other("the spawner ended");
                    return (Err(Error::internal("waiting for the step", ended)), created);
                }
                Err(e) => return (Err(Error::internal("waiting for the step", e)), created),
            }
        }
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

/// How far a cancellation has come.
#[derive(Clone, Copy, Debug)]
enum Stopping {
    No,
    Asked { until: Instant },
    Forced,
}

impl Stopping {
    fn time_left(self) -> Option<Timespec> {
        let Stopping::Asked { until } = self else {
            return None;
        };
        let left = until.saturating_duration_since(Instant::now());
        Some(Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    /// The next state, after `pushed` (the cancellation that was waited for came) or the time has run out.
    fn next(self, pushed: bool, reports: &OwnedFd, grace: Duration) -> Stopping {
        let send = |order: u8| {
            // The step may be gone: then its last report is on the way.
            let _ = rustix::net::send(reports, &[order], SendFlags::NOSIGNAL);
        };
        match self {
            Stopping::No if pushed => {
                send(order::TERMINATE);
                Stopping::Asked {
                    until: Instant::now() + grace,
                }
            }
            Stopping::Asked { until } if pushed || Instant::now() >= until => {
                send(order::KILL);
                Stopping::Forced
            }
            same => same,
        }
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

fn remove_mount_points(upper: &Path, created: &Created) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(upper, flags, Mode::empty())
        .map_err(|e| Error::internal("opening the upper directory", e))?;
    created.remove(upper.as_fd());
    Ok(())
}
