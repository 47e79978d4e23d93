//! Limits of steps by the kernel's control groups.
//!
//! Below the cgroup that rbuild was started in it makes one of its own, named `rbuild.PID` and locked, with one below
//! it for each running step. In the second version processes may only be in leaves, so the builder moves into one.
//! A small process stays outside of all this and removes everything when the builder is gone, however it went; what
//! even that one could not remove, the next build does.

mod place;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::resources::{Controller, Resources, Setting};
use crate::{Error, sys};
use place::Place;

const PREFIX: &str = "rbuild.";
const LEAF: &str = "builder";
const PROCESSES: &str = "cgroup.procs";
const SUBTREE: &str = "cgroup.subtree_control";

/// Files that are there only when the kernel was told so at its start.
const OPTIONAL: [&str; 2] = ["memory.memsw.limit_in_bytes", "memory.swap.max"];

/// How often and how long it is tried to remove a cgroup whose last process has just ended.
const RETRY: Duration = Duration::from_millis(2);
const RETRIES: u32 = 500;

/// The cgroups of a build.
#[derive(Debug)]
pub(crate) struct Cgroups {
    groups: Vec<Group>,
    steps: AtomicU32,
    /// Its end tells the remover that the builder has gone.
    end: Option<OwnedFd>,
    remover: OwnedFd,
}

/// The build's cgroup in one hierarchy.
#[derive(Debug)]
struct Group {
    directory: PathBuf,
    settings: Vec<(&'static str, String)>,
    counts_kills: Option<&'static str>,
    /// The cgroup that the builder came from, and what was switched on there.
    home: Option<(PathBuf, Vec<&'static str>)>,
    /// Held as long as the build lives.
    _lock: File,
}

/// Flags that cannot be enforced.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) controller: Controller,
    pub(crate) flags: Vec<&'static str>,
    pub(crate) reason: String,
}

/// The cgroups of a running step.
#[derive(Debug)]
pub(crate) struct StepGroup {
    directories: Vec<PathBuf>,
    counts: Vec<PathBuf>,
}

/// Whether a controller can be used, and if not why.
pub(crate) fn available(controller: Controller) -> Result<String, String> {
    match own(controller)? {
        Place::V1(directory) => {
            may_write(&directory)?;
            Ok(format!("version 1, {}", directory.display()))
        }
        Place::V2 { own, .. } => {
            may_write(&own)?;
            Ok(format!("version 2, {}", own.display()))
        }
    }
}

fn may_write(directory: &Path) -> Result<(), String> {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK)
        .map_err(|error| format!("{}: {error}", directory.display()))
}

fn own(controller: Controller) -> Result<Place, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("reading {path}: {error}"));
    let offers = |directory: &Path| {
        let text = std::fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().any(|name| name == controller.name())
    };
    place::find(
        controller,
        &read("/proc/self/cgroup")?,
        &read("/proc/self/mountinfo")?,
        offers,
    )
    .ok_or_else(|| format!("the cgroup of rbuild has no {} controller", controller.name()))
}

impl Cgroups {
    /// Makes what `resources` needs, as far as that can be; for the rest the reasons. The process has one thread.
    pub(crate) fn make(resources: &Resources) -> Result<(Option<Cgroups>, Vec<Refused>), Error> {
        let mut groups: Vec<Group> = Vec::new();
        let mut refused = Vec::new();
        let mut second: Vec<(Controller, PathBuf, PathBuf)> = Vec::new();
        let refuse = |controller: Controller, reason: String| Refused {
            controller,
            flags: resources.flags(controller),
            reason,
        };
        for controller in Controller::ALL {
            if resources.flags(controller).is_empty() {
                continue;
            }
            match own(controller) {
                Ok(Place::V1(parent)) => match Group::in_v1(&parent, controller, resources) {
                    Ok(group) => groups.push(group),
                    Err(error) => refused.push(refuse(controller, format!("{}: {error}", parent.display()))),
                },
                Ok(Place::V2 { own, root }) => second.push((controller, own, root)),
                Err(reason) => refused.push(refuse(controller, reason)),
            }
        }
        if let Some((_, own, root)) = second.first() {
            let controllers: Vec<Controller> = second.iter().map(|(controller, ..)| *controller).collect();
            match Group::in_v2(own, root, &controllers, resources) {
                Ok(group) => groups.push(group),
                Err(reason) => {
                    refused.extend(controllers.into_iter().map(|one| refuse(one, reason.clone())));
                }
            }
        }
        for group in &mut groups {
            let directory = &group.directory;
            let kept = |(file, _): &(&str, String)| !OPTIONAL.contains(file) || directory.join(file).exists();
            let count = group.settings.len();
            group.settings.retain(kept);
            if group.settings.len() < count {
                refused.push(Refused {
                    controller: Controller::Memory,
                    flags: vec!["--memory-swap"],
                    reason: "the kernel keeps no account of swap space".to_owned(),
                });
            }
        }
        if groups.is_empty() {
            return Ok((None, refused));
        }
        let (end, remover) = start_remover(&groups)?;
        let cgroups = Cgroups {
            groups,
            steps: AtomicU32::new(0),
            end: Some(end),
            remover,
        };
        Ok((Some(cgroups), refused))
    }

    /// Makes the cgroups of one step.
    pub(crate) fn begin(&self) -> Result<StepGroup, Error> {
        let number = self.steps.fetch_add(1, Ordering::Relaxed);
        let mut step = StepGroup {
            directories: Vec::new(),
            counts: Vec::new(),
        };
        for group in &self.groups {
            let directory = group.directory.join(format!("step-{number}"));
            let fail =
                |e: io::Error| Error::Setup(format!("limiting the step in {}: {e}", directory.display()));
            std::fs::create_dir(&directory).map_err(fail)?;
            step.directories.push(directory.clone());
            step.counts
                .extend(group.counts_kills.map(|file| directory.join(file)));
            for (file, value) in &group.settings {
                let setting = directory.join(file);
                std::fs::write(&setting, value).map_err(|e| {
                    Error::Setup(format!(
                        "limiting the step: writing {value} to {}: {e}",
                        setting.display()
                    ))
                })?;
            }
        }
        Ok(step)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for group in &self.groups {
            group.go_home();
        }
        self.end = None;
        // It has only to remove what is empty now; without it the next build would.
        let _ =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.remover.as_fd()), WaitIdOptions::EXITED));
    }
}

impl StepGroup {
    /// Where the step has to enter itself before it does anything.
    pub(crate) fn entrances(&self) -> Vec<PathBuf> {
        self.directories
            .iter()
            .map(|directory| directory.join(PROCESSES))
            .collect()
    }

    /// Whether something of the step was killed for using more memory than it may.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.counts.iter().any(|file| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            kills.is_some_and(|count| count.trim() != "0")
        })
    }
}

impl Drop for StepGroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            remove(directory);
        }
    }
}

/// Puts this process into cgroups, by the files that let it in, and makes them the roots that it sees.
pub(crate) fn enter(entrances: &[PathBuf]) -> Result<(), Error> {
    for entrance in entrances {
        std::fs::write(entrance, "0")
            .map_err(|e| Error::Setup(format!("entering the cgroup {}: {e}", entrance.display())))?;
    }
    if !entrances.is_empty() {
        // A chroot may not make one: its step sees where it is, which gives it nothing.
        let _ = sys::unshare(sys::namespace::CGROUP);
    }
    Ok(())
}

fn pairs(settings: Vec<Setting>) -> Vec<(&'static str, String)> {
    settings
        .into_iter()
        .map(|setting| (setting.file, setting.value))
        .collect()
}

impl Group {
    fn in_v1(parent: &Path, controller: Controller, resources: &Resources) -> io::Result<Group> {
        let (directory, lock) = make_directory(parent)?;
        let group = Group {
            directory,
            settings: pairs(resources.settings_v1(controller)),
            counts_kills: (controller == Controller::Memory).then_some("memory.oom_control"),
            home: None,
            _lock: lock,
        };
        let mut settings = group.settings.clone();
        if controller == Controller::Cpuset {
            // A set is empty, and takes no process, until it is filled from above.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = std::fs::read_to_string(parent.join(file))?;
                std::fs::write(group.directory.join(file), value.trim())?;
                if !settings.iter().any(|(given, _)| *given == file) {
                    settings.push((file, value.trim().to_owned()));
                }
            }
        }
        Ok(Group { settings, ..group })
    }

    /// Below the builder's own cgroup; where that has other processes, root may use the top of the hierarchy.
    fn in_v2(
        own: &Path,
        root: &Path,
        controllers: &[Controller],
        resources: &Resources,
    ) -> Result<Group, String> {
        let first = Group::below(own, own != root, controllers, resources);
        let error = match first {
            Ok(group) => return Ok(group),
            Err(error) => error,
        };
        if own != root
            && rustix::process::geteuid().is_root()
            && let Ok(group) = Group::below(root, false, controllers, resources)
        {
            return Ok(group);
        }
        Err(match error.raw_os_error() {
            Some(libc::EBUSY) => format!(
                "other processes are in the cgroup {}: start rbuild in one of its own (systemd-run --user --scope \
                 -p Delegate=yes rbuild ...)",
                own.display()
            ),
            _ => format!(
                "{}: {error}; start rbuild in a cgroup of its own (systemd-run --user --scope -p Delegate=yes rbuild ...)",
                own.display()
            ),
        })
    }

    fn below(
        parent: &Path,
        moves: bool,
        controllers: &[Controller],
        resources: &Resources,
    ) -> io::Result<Group> {
        let (directory, lock) = make_directory(parent)?;
        let mut group = Group {
            directory,
            settings: Vec::new(),
            counts_kills: controllers
                .contains(&Controller::Memory)
                .then_some("memory.events"),
            home: None,
            _lock: lock,
        };
        for controller in controllers {
            group.settings.extend(pairs(resources.settings_v2(*controller)));
        }
        let made = group.switch_on(parent, moves, controllers);
        if let Err(error) = made {
            group.go_home();
            remove_group(&group.directory);
            return Err(error);
        }
        Ok(group)
    }

    fn switch_on(&mut self, parent: &Path, moves: bool, controllers: &[Controller]) -> io::Result<()> {
        let subtree = parent.join(SUBTREE);
        let known = std::fs::read_to_string(&subtree)?;
        let is_off = |name: &&'static str| !known.split_whitespace().any(|on| on == *name);
        let missing: Vec<&'static str> = controllers.iter().map(|one| one.name()).filter(is_off).collect();
        if moves {
            let leaf = self.directory.join(LEAF);
            std::fs::create_dir(&leaf)?;
            self.home = Some((parent.to_owned(), missing.clone()));
            std::fs::write(leaf.join(PROCESSES), "0")?;
        }
        for name in &missing {
            std::fs::write(&subtree, format!("+{name}"))?;
        }
        for controller in controllers {
            std::fs::write(self.directory.join(SUBTREE), format!("+{}", controller.name()))?;
        }
        Ok(())
    }

    /// Moves this process to where it came from.
    fn go_home(&self) {
        let Some((home, switched_on)) = &self.home else {
            return;
        };
        // Processes and controllers for children cannot be in one cgroup.
        for name in switched_on {
            let _ = std::fs::write(self.directory.join(SUBTREE), format!("-{name}"));
            let _ = std::fs::write(home.join(SUBTREE), format!("-{name}"));
        }
        let _ = std::fs::write(home.join(PROCESSES), "0");
    }
}

/// The build's directory below `parent`, locked, after those of builds that are gone have been removed.
fn make_directory(parent: &Path) -> io::Result<(PathBuf, File)> {
    for entry in std::fs::read_dir(parent)?.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let lock = is_ours.then(|| File::open(entry.path()).ok()).flatten();
        let abandoned = lock
            .is_some_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
        if abandoned {
            remove_group(&entry.path());
        }
    }
    let directory = parent.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let lock = File::open(&directory)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok((directory, lock))
}

/// Removes a build's cgroup with what is in it.
fn remove_group(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    remove(directory);
}

/// Removes a cgroup; its last process may still be on its way out.
fn remove(directory: &Path) {
    for _ in 0..RETRIES {
        match std::fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(RETRY),
            // Gone, or not to be removed by waiting.
            _ => return,
        }
    }
}

/// Lets go of what the builder writes to: somebody may be waiting for its end.
fn close_standard() {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    for target in 0..=2 {
        if let Ok(null) = &null {
            let _ = sys::replace_standard(null.as_fd(), target);
        }
    }
}

/// Starts the process that removes everything once the builder is gone: what ends it, and a pidfd.
fn start_remover(groups: &[Group]) -> Result<(OwnedFd, OwnedFd), Error> {
    let fail = |e: io::Error| Error::internal("starting the process that removes cgroups", e);
    let (wait, end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    match sys::clone_into(0).map_err(fail)? {
        Some(remover) => Ok((end, remover)),
        None => {
            // The terminal's signals are for the builder; without a session it would only share them.
            let _ = rustix::process::setsid();
            close_standard();
            if sys::close_all_but(&[wait.as_fd()]).is_ok() {
                let _ = rustix::io::retry_on_intr(|| rustix::io::read(&wait, &mut [0u8; 1][..]));
                for group in groups {
                    group.go_home();
                    remove_group(&group.directory);
                }
            }
            sys::exit_now(0)
        }
    }
}
