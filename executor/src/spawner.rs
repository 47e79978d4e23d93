//! The process that gives birth to steps.
//!
//! It has one thread, so that a child may run on its memory until exec; it is pid 1 of a pid namespace, so that
//! its end (by order, by the death of the builder, by the closed socket) ends every step with all its
//! descendants; it has a mount namespace of its own, in which the files that steps see are kept in
//! memory. It holds nothing of the builder: no descriptor but the control socket, no terminal.

mod birth;
mod blank;
mod etc;
mod running;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

use crate::enter::Means;
use crate::landlock::Landlock;
use crate::network::{self, Surroundings};
use crate::protocol::{self, Report, Request, Wish, receive_wish, send_report};
use crate::seccomp::Filters;
use crate::spec::{ExecSpec, Exit, Network, unpack};
use crate::stage::{Needs, Places};
use crate::step::{self, Around, Shared};
use crate::sys::{self, Stack, namespace};
use crate::{Error, Ownership, emulation, mounts, warden};

pub(crate) use birth::spawn;
use blank::Blank;
pub(crate) use etc::{host_resolv_conf, hosts_text};
use running::{Running, ended_well};

/// The most bytes of a step's description.
const MAX_SPEC: u64 = 64 * 1024 * 1024;

/// What the spawner needs to know from the builder.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The directory of this build.
    pub(crate) scratch: PathBuf,
    pub(crate) in_user_namespace: bool,
    pub(crate) ownership: Ownership,
    pub(crate) means: Means,
}

/// The directory whose tree is the lowest layer of every step.
const STUB: &str = "stub";
/// Where the spawner mounts its files.
const FILES: &str = "files";

/// Makes what lies in the scratch directory; in the builder, so that errors are told there.
pub(crate) fn prepare(scratch: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = |path: &Path| match std::fs::DirBuilder::new().mode(0o755).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    };
    directory(&scratch.join(FILES))?;
    let stub = scratch.join(STUB);
    directory(&stub)?;
    for name in ["proc", "sys", "dev", "etc"] {
        directory(&stub.join(name))?;
    }
    for name in ["etc/resolv.conf", "etc/hosts"] {
        std::fs::File::create(stub.join(name))?;
    }
    Ok(())
}

/// Whether overlays can be mounted on the file system of `scratch`, which [`prepare`] has furnished.
pub(crate) fn can_overlay(scratch: &Path) -> bool {
    mounts::can_overlay(scratch, &scratch.join(STUB))
}

/// The spawner's life: ready byte, then requests until the builder is gone.
fn run(plan: &Plan, control: OwnedFd) -> ! {
    match Spawner::start(plan) {
        Ok(mut spawner) => {
            if rustix::net::send(&control, b"+", rustix::net::SendFlags::NOSIGNAL).is_ok() {
                spawner.serve(control.as_fd());
            }
        }
        Err(error) => {
            // The builder shows it; if it is gone, so is the reader.
            let _ = rustix::net::send(
                &control,
                error.to_string().as_bytes(),
                rustix::net::SendFlags::NOSIGNAL,
            );
        }
    }
    sys::exit_now(0)
}

struct Spawner {
    shared: Shared,
    /// What starts the network knows of the machine.
    surroundings: Surroundings,
    network: network::Network,
    /// Who waits for the network.
    waiting: Vec<OwnedFd>,
    /// The files of `/etc` made so far: text, path.
    made: Vec<(String, PathBuf)>,
    steps: Vec<Running>,
    /// The process of the next step.
    ahead: Option<Blank>,
    /// For the one step at a time that is on its way to exec.
    stack: Stack,
    /// The machine's count of out-of-memory kills when it was last looked at.
    oom_kills: u64,
}

/// What was started for a step.
struct Started {
    child: OwnedFd,
    supervisor: Option<OwnedFd>,
    warden: Option<OwnedFd>,
}

impl Spawner {
    fn start(plan: &Plan) -> Result<Spawner, Error> {
        let setup = |doing: &'static str| move |e: io::Error| Error::Setup(format!("{doing}: {e}"));
        // The terminal's signals are for the builder, which decides what becomes of the steps.
        rustix::process::setsid().map_err(|e| setup("starting a session")(e.into()))?;
        rustix::process::umask(Mode::empty());
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| setup("opening /dev/null")(e.into()))?;
        for target in 0..=2 {
            sys::replace_standard(null.as_fd(), target).map_err(setup("closing the terminal"))?;
        }
        drop(null);

        let files = plan.scratch.join(FILES);
        if plan.means.mounts {
            let memory = mounts::detached(
                "the files of the steps",
                "tmpfs",
                &[("mode", "755"), ("size", "16m")],
                MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC,
            )?;
            let target = rustix::fs::open(&files, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| setup("opening the scratch directory")(e.into()))?;
            mounts::attach("the files of the steps", &memory, target.as_fd())?;
        }
        if !plan.means.namespaces {
            // Should a warden be killed, what it watched comes here.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .map_err(|e| setup("becoming the parent of orphans")(e.into()))?;
        }

        let empty = files.join("empty");
        std::fs::create_dir(&empty).map_err(setup("making an empty directory"))?;
        set_mode(&empty, 0o755).map_err(setup("making an empty directory"))?;
        let staging = files.join("staging");
        std::fs::create_dir(&staging).map_err(setup("making a directory for mounts"))?;
        let places = Places::make(&files).map_err(setup("making directories for mounts"))?;
        Ok(Spawner {
            shared: Shared {
                in_user_namespace: plan.in_user_namespace,
                ownership: plan.ownership,
                means: plan.means,
                landlock: Landlock::of_kernel(),
                has_cgroup2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
                stub: plan.scratch.join(STUB),
                empty,
                staging,
                places,
                filters: Filters::default(),
            },
            surroundings: Surroundings {
                files,
                resolv_conf: String::from_utf8_lossy(&host_resolv_conf()).into_owned(),
                in_user_namespace: plan.in_user_namespace,
            },
            network: network::Network::Absent,
            waiting: Vec::new(),
            made: Vec::new(),
            steps: Vec::new(),
            ahead: None,
            stack: Stack::new().map_err(setup("making a stack"))?,
            oom_kills: oom_kills(),
        })
    }

    /// Returns when the builder is gone. The end of this process then ends the steps.
    fn serve(&mut self, control: BorrowedFd<'_>) {
        loop {
            let mut fds = vec![PollFd::from_borrowed_fd(control, PollFlags::IN)];
            for step in &self.steps {
                fds.push(PollFd::new(&step.child, PollFlags::IN));
                if let Some(reports) = &step.reports {
                    fds.push(PollFd::new(reports, PollFlags::IN));
                }
            }
            let awaited = self.network.awaited();
            let timeout = awaited.map(|(_, until)| time_left(until));
            fds.extend(awaited.map(|(fd, _)| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let mut ready = fds
                .iter()
                .map(|fd| !fd.revents().is_empty())
                .collect::<Vec<_>>()
                .into_iter();
            let requested = ready.next().unwrap_or(false);
            let mut ended = Vec::new();
            for (index, step) in self.steps.iter_mut().enumerate() {
                let has_ended = ready.next().unwrap_or(false);
                let ordered = step.reports.is_some() && ready.next().unwrap_or(false);
                if has_ended {
                    ended.push(index);
                } else if ordered {
                    step.obey();
                }
            }
            for index in ended.into_iter().rev() {
                let step = self.steps.swap_remove(index);
                self.bury(step);
            }
            if timeout.is_some() {
                self.network =
                    std::mem::replace(&mut self.network, network::Network::Absent).advance(&mut self.stack);
                self.tell_network();
            }
            if requested {
                match receive_wish(control) {
                    Ok(Some(Wish::Step(request))) => self.start_step(request),
                    Ok(Some(Wish::Network(plan, answer))) => {
                        if !self.shared.means.mounts {
                            let reason = "isolation without mounts has no network of its own";
                            self.network = network::Network::host(reason);
                        } else if matches!(self.network, network::Network::Absent) {
                            let surroundings = self.surroundings.clone();
                            self.network = network::Network::start(surroundings, plan, &mut self.stack);
                        }
                        self.waiting.push(answer);
                        self.tell_network();
                    }
                    Ok(None) | Err(_) => return,
                }
            }
        }
    }

    /// Answers those who wait for the network, once it is known.
    fn tell_network(&mut self) {
        if let Some(taken) = self.network.taken() {
            for answer in self.waiting.drain(..) {
                // Who has gone is not told.
                let _ = protocol::send_network_taken(answer.as_fd(), taken);
            }
        }
    }

    fn start_step(&mut self, request: Request) {
        let reports = match sys::duplicate_above_standard(request.reports.as_fd()) {
            Ok(reports) => reports,
            // The builder sees the socket close and reports that the spawner failed.
            Err(_) => return,
        };
        let spec = match read_spec(&request) {
            Ok(spec) => spec,
            Err(error) => return refuse(&reports, error),
        };
        match self.try_start(&spec, request) {
            Ok(Started {
                child,
                supervisor,
                warden,
            }) => {
                self.steps.push(Running {
                    child,
                    supervisor,
                    warden,
                    reports: Some(reports),
                    killed: false,
                });
            }
            Err(error) => refuse(&reports, error),
        }
        self.look_ahead(&spec);
    }

    /// Makes the process of the step after `spec`, which runs, or lets go of it if there is no such step.
    fn look_ahead(&mut self, spec: &ExecSpec) {
        if !spec.followed {
            self.ahead = None;
        } else if self.ahead.is_none() && self.shared.means == Means::ALL && spec.cgroups.is_empty() {
            // Without it the next step is made when it is there.
            self.ahead = self.blank_for(spec).ok();
        }
    }

    fn blank_for(&self, spec: &ExecSpec) -> io::Result<Blank> {
        let own = self.network.own().filter(|_| spec.network == Network::Default);
        let network = own.map(network::Own::namespace);
        let mut namespaces =
            namespace::PID | namespace::MOUNT | namespace::IPC | namespace::UTS | namespace::CGROUP;
        if spec.network == Network::None {
            namespaces |= namespace::NET;
        }
        Blank::make(&self.shared, Needs::of(spec), namespaces, network)
    }

    fn try_start(&mut self, spec: &ExecSpec, request: Request) -> Result<Started, Error> {
        self.shared.filters.prepare(spec)?;
        if !self.shared.means.namespaces {
            return self.start_with_warden(spec, request);
        }
        let hosts = self.file_for("/etc/hosts", hosts_text(&spec.hostname, &self.extra_hosts(spec)?))?;
        let own = match spec.network {
            Network::Default if self.network.taken().is_none() => {
                return Err(Error::Setup(
                    "the network of the steps was not waited for".to_owned(),
                ));
            }
            Network::Default => self.network.own(),
            Network::Host | Network::None => None,
        };
        let forward = own.map(|own| own.forward);
        let text = network::resolv::text(&self.surroundings.resolv_conf, &spec.dns, forward.as_ref());
        let resolv_conf = self.file_for("/etc/resolv.conf", text)?;
        let around = Around { hosts, resolv_conf };
        let (supervisor, socket) = match self.shared.ownership {
            Ownership::Real => (None, None),
            Ownership::Emulated => {
                let started = emulation::start();
                let (supervisor, socket) = started
                    .map_err(|e| Error::Setup(format!("starting the process that keeps owners: {e}")))?;
                (Some(supervisor), Some(socket))
            }
        };
        let needs = Needs::of(spec);
        let become_step =
            |blank: Blank| blank.become_step(&self.shared, spec, &around, &request, socket.as_ref());
        let ahead = self.ahead.take_if(|ahead| ahead.serves(&needs));
        let child = match ahead.map(become_step) {
            Some(Ok(child)) => Ok(child),
            _ => self.blank_for(spec).and_then(become_step),
        };
        let child = child.map_err(|e| {
            let knob = match e.raw_os_error() {
                Some(libc::ENOSPC) => " (a limit below /proc/sys/user/max_*_namespaces is reached)",
                Some(libc::EAGAIN) => " (the limit of processes, ulimit -u or pids.max, is reached)",
                _ => "",
            };
            Error::Setup(format!("making the namespaces of the step: {e}{knob}"))
        })?;
        Ok(Started {
            child,
            supervisor,
            warden: None,
        })
    }

    /// Where there are no namespaces, the step has a parent of its own that ends with all that the step has started.
    fn start_with_warden(&mut self, spec: &ExecSpec, request: Request) -> Result<Started, Error> {
        if spec.network == Network::None {
            return Err(Error::Setup(
                "--network=none needs a network namespace, which isolation \"chroot\" has not (give the container that rbuild \
                 runs in user namespaces: --security-opt seccomp=unconfined)"
                    .to_owned(),
            ));
        }
        let fail = |e: io::Error| Error::Setup(format!("starting the step: {e}"));
        let (ours, theirs) = protocol::sockets().map_err(fail)?;
        let child = sys::clone_into(0).map_err(fail)?;
        let Some(child) = child else {
            let mut kept = vec![
                theirs.as_fd(),
                request.stdout.as_fd(),
                request.stderr.as_fd(),
                request.reports.as_fd(),
            ];
            kept.extend(request.stdin.as_ref().map(AsFd::as_fd));
            if sys::close_all_but(&kept).is_err() {
                sys::exit_now(1)
            }
            // With the closed ones in it, it must never be dropped.
            let request = std::mem::ManuallyDrop::new(request);
            warden::run(&theirs, self.shared.landlock, !spec.insecure, || {
                let Some(child) = sys::clone_into(0)? else {
                    let begun = step::begin(&self.shared, &Needs::of(spec), None);
                    step::run(&self.shared, spec, &Around::default(), &request, None, begun)
                };
                sys::close_all_but(&[theirs.as_fd(), child.as_fd()])?;
                Ok(child)
            })
        };
        Ok(Started {
            child,
            supervisor: None,
            warden: Some(ours),
        })
    }

    /// The step's lines for `/etc/hosts`, with addresses only.
    fn extra_hosts(&self, spec: &ExecSpec) -> Result<Vec<(String, String)>, Error> {
        let own = self.network.own();
        let machine = match (spec.network, own) {
            (Network::Host, _) | (Network::Default, None) => Some("127.0.0.1".to_owned()),
            (Network::Default, Some(own)) => own.machine.map(|address| address.to_string()),
            // Nothing can be reached by any name.
            (Network::None, _) => None,
        };
        let mut lines = Vec::new();
        for (name, address) in &spec.extra_hosts {
            if address != ExecSpec::HOST_GATEWAY {
                lines.push((name.clone(), address.clone()));
            } else if let Some(machine) = &machine {
                lines.push((name.clone(), machine.clone()));
            } else if spec.network == Network::Default {
                return Err(Error::Setup(format!(
                    "{name}: the network of the step has no address for {}: use the machine's network (--network host)",
                    ExecSpec::HOST_GATEWAY
                )));
            }
        }
        Ok(lines)
    }

    /// A file with this text, shared by all steps that want the same.
    fn file_for(&mut self, name: &str, text: String) -> Result<PathBuf, Error> {
        if let Some((_, path)) = self.made.iter().find(|(known, _)| *known == text) {
            return Ok(path.clone());
        }
        let path = self.surroundings.files.join(format!("etc{}", self.made.len()));
        write_public(&path, text.as_bytes()).map_err(|e| Error::Setup(format!("writing {name}: {e}")))?;
        self.made.push((text, path.clone()));
        Ok(path)
    }

    fn bury(&mut self, step: Running) {
        let status =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(step.child.as_fd()), WaitIdOptions::EXITED));
        let exit = match status {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Code(1),
            },
            _ => Exit::Code(1),
        };
        let exit = match &step.warden {
            None => exit,
            Some(warden) => self.last_word(warden),
        };
        let kill = Signal::KILL.as_raw();
        let looks_killed = exit == Exit::Signal(kill) || exit == Exit::Code(128 + kill);
        let exit = if looks_killed && !step.killed && self.memory_ran_out() {
            Exit::OutOfMemory
        } else {
            exit
        };
        let unattended = step.supervisor.is_some_and(|supervisor| !ended_well(&supervisor));
        if let Some(reports) = step.reports {
            if unattended && !step.killed {
                let lost = "the process that keeps the owners of files ended before the step";
                let _ = send_report(reports.as_fd(), &Report::Setup(lost.to_owned()));
            }
            let _ = send_report(reports.as_fd(), &Report::Gone(exit));
        }
    }

    /// How the step of a warden that has ended has ended itself.
    fn last_word(&self, warden: &OwnedFd) -> Exit {
        let mut packet = [0u8; 256];
        let received = rustix::net::recv(warden, &mut packet[..], rustix::net::RecvFlags::DONTWAIT);
        let told = received
            .ok()
            .and_then(|(length, _)| serde_json::from_slice(packet.get(..length)?).ok());
        if let Some(exit) = told {
            return exit;
        }
        // It was killed: its children are ours now.
        let spared: Vec<_> = self
            .steps
            .iter()
            .filter_map(|step| sys::pid_of(step.child.as_fd()).ok())
            .collect();
        loop {
            let killed = warden::kill_children(&spared);
            if killed.is_empty() {
                return Exit::Signal(Signal::KILL.as_raw());
            }
            for pid in killed {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
        }
    }

    /// Has the kernel killed anything for memory since the last look? That it was this step is
    /// likely, not certain: without a cgroup of its own nothing tells.
    fn memory_ran_out(&mut self) -> bool {
        let now = oom_kills();
        std::mem::replace(&mut self.oom_kills, now) < now
    }
}

/// Tells why a step cannot be started.
fn refuse(reports: &OwnedFd, error: Error) {
    let _ = send_report(reports.as_fd(), &Report::of(error));
    let _ = send_report(reports.as_fd(), &Report::Gone(Exit::Code(1)));
}

fn read_spec(request: &Request) -> Result<ExecSpec, Error> {
    let fail = |e: io::Error| Error::Setup(format!("reading the step: {e}"));
    let mut spec: ExecSpec =
        serde_json::from_slice(&read_memory(&request.spec).map_err(fail)?).map_err(|e| fail(e.into()))?;
    let secrets = read_memory(&request.secrets).map_err(fail)?;
    spec.secrets = unpack(&secrets).ok_or_else(|| fail(io::ErrorKind::InvalidData.into()))?;
    Ok(spec)
}

fn read_memory(file: &OwnedFd) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::from(file.try_clone()?);
    let length = usize::try_from(file.metadata()?.len().min(MAX_SPEC)).unwrap_or(0);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn time_left(until: Instant) -> Timespec {
    let left = until.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    }
}

fn write_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::write(path, bytes)?;
    set_mode(path, 0o644)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

fn oom_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("oom_kill "))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}
