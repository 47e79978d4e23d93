//! Moving the builder into its namespaces, once per build, or saying which knob is in the way.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::idmap::{IdMaps, SingleId};
use crate::landlock::Landlock;
use crate::sys::{self, namespace};
use crate::{Error, Isolation, Ownership, protocol};

/// How long threads that have been joined may take to disappear from the kernel's books.
const LINGERING_THREADS: Duration = Duration::from_secs(1);

/// Where the builder is after entering.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) in_user_namespace: bool,
    pub(crate) ownership: Ownership,
    pub(crate) means: Means,
    /// One line for the user.
    pub(crate) line: String,
}

/// What the kernel lets a step have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Means {
    /// Namespaces of processes, host names and so on.
    pub(crate) namespaces: bool,
    /// Mounts.
    pub(crate) mounts: bool,
}

impl Means {
    /// Where nothing is refused.
    pub(crate) const ALL: Means = Means {
        namespaces: true,
        mounts: true,
    };
    const NONE: Means = Means {
        namespaces: false,
        mounts: false,
    };
}

/// Enters the namespaces of `isolation`. The process has one thread.
pub(crate) fn enter(isolation: Isolation) -> Result<Entered, Error> {
    wait_for_single_thread()?;
    let is_root = rustix::process::geteuid().is_root();
    match isolation {
        Isolation::Root => enter_as_root(),
        Isolation::Userns => enter_user_namespace(Ids::Range),
        Isolation::UsernsSingle => enter_user_namespace(Ids::Single),
        Isolation::Auto if !is_root => enter_user_namespace(Ids::RangeOrSingle),
        Isolation::Chroot => enter_nothing(None),
        Isolation::Auto => enter_as_root().or_else(|root| {
            // Halfway into a user namespace there is no way back: first another process tries.
            match would_work(|| enter_user_namespace(Ids::RangeOrSingle)) {
                Ok(()) => enter_user_namespace(Ids::RangeOrSingle),
                Err(userns) => enter_nothing(Some(&format!("{}; {userns}", reason(root)))),
            }
        }),
    }
}

fn unavailable(reason: impl Into<String>) -> Error {
    Error::Unavailable {
        reason: reason.into(),
    }
}

fn reason(error: Error) -> String {
    match error {
        Error::Unavailable { reason } => reason,
        other => other.to_string(),
    }
}

fn wait_for_single_thread() -> Result<(), Error> {
    let begin = Instant::now();
    loop {
        let alone = match sys::unshare(namespace::NONE_IF_SINGLE_THREADED) {
            // The filter of a container refuses the call whatever it is to do.
            Err(e) if e.raw_os_error() != Some(libc::EINVAL) => has_one_thread(),
            answer => answer,
        };
        match alone {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && begin.elapsed() < LINGERING_THREADS => {
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(e) => {
                let what = "entering the build sandbox: the builder still has more than one thread";
                return Err(Error::internal(what, e));
            }
        }
    }
}

/// Whether entering by `enter` would succeed, found out by a child.
fn would_work(enter: impl FnOnce() -> Result<Entered, Error>) -> Result<(), String> {
    let ask = || -> io::Result<Result<(), String>> {
        let (ours, theirs) = protocol::sockets()?;
        let Some(child) = sys::clone_into(0)? else {
            drop(ours);
            let answer = enter().map_or_else(reason, |_| "+".to_owned());
            // Nobody to tell when the builder is gone.
            let _ = rustix::io::write(&theirs, answer.as_bytes());
            sys::exit_now(0)
        };
        drop(theirs);
        let mut answer = vec![0u8; 16 * 1024];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&ours, &mut answer[..]))?;
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED))?;
        Ok(match &answer[..length] {
            b"+" => Ok(()),
            text => Err(String::from_utf8_lossy(text).into_owned()),
        })
    };
    ask().unwrap_or_else(|error| Err(format!("trying a user namespace: {error}")))
}

/// Stays where it is: steps get a changed root. `why` says what better there was not.
fn enter_nothing(why: Option<&str>) -> Result<Entered, Error> {
    let failed = |text: &str| match why {
        Some(why) => unavailable(format!("{why}; {text}")),
        None => unavailable(text),
    };
    if !rustix::process::geteuid().is_root() {
        return Err(failed(
            "isolation \"chroot\" needs root, and the user is not root",
        ));
    }
    let held = capabilities(None)
        .map_err(|e| Error::internal("reading capabilities", e))?
        .effective;
    let needed = [
        (CapabilitySet::SYS_CHROOT, "SYS_CHROOT"),
        (CapabilitySet::CHOWN, "CHOWN"),
        (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE"),
        (CapabilitySet::FOWNER, "FOWNER"),
        (CapabilitySet::SETUID, "SETUID"),
        (CapabilitySet::SETGID, "SETGID"),
    ];
    let lacking: Vec<&str> = needed
        .iter()
        .filter(|(capability, _)| !held.contains(*capability))
        .map(|(_, name)| *name)
        .collect();
    if !lacking.is_empty() {
        return Err(failed(&format!(
            "isolation \"chroot\" needs capabilities that this container was started without (start it with --cap-add {})",
            lacking.join(" --cap-add ")
        )));
    }
    // What is in the builder's memory, and where its descriptors lead, is nobody's business.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| Error::internal("closing the builder's memory", e))?;
    let landlock = Landlock::of_kernel();
    let shared = match (landlock.has_files(), landlock.has_signals()) {
        (true, true) => {
            "steps share the processes and the network of this container, and see neither its files nor its signals"
        }
        (true, false) => {
            "steps share the processes and the network of this container and may kill its processes"
        }
        _ => {
            "steps share the processes and the network of this container, may kill its processes and could get at its files"
        }
    };
    let line = match why {
        None => format!("isolation: chroot, which is weak: {shared}"),
        Some(why) => {
            format!("isolation: chroot, which is weak: {shared}. Nothing better was possible: {why}")
        }
    };
    Ok(Entered {
        in_user_namespace: false,
        ownership: Ownership::Real,
        means: Means::NONE,
        line,
    })
}

/// The same answer from the list of threads.
fn has_one_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn enter_as_root() -> Result<Entered, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(unavailable(
            "isolation \"root\" was asked for, but the user is not root",
        ));
    }
    let held = capabilities(None)
        .map_err(|e| Error::internal("reading capabilities", e))?
        .effective;
    if !held.contains(CapabilitySet::SYS_ADMIN) {
        return Err(unavailable(
            "root lacks CAP_SYS_ADMIN, as in an ordinary container (start that container with --cap-add SYS_ADMIN \
             --security-opt seccomp=unconfined --security-opt apparmor=unconfined, or run rbuild as an ordinary user)",
        ));
    }
    sys::unshare(namespace::MOUNT).map_err(|e| {
        unavailable(format!(
            "root may not make a mount namespace: {e}{}",
            confinement()
        ))
    })?;
    make_private()?;
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let in_user_namespace = map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"];
    let line = if in_user_namespace {
        "isolation: root of the user namespace that rbuild was started in"
    } else {
        "isolation: root, namespaces without a user namespace"
    };
    Ok(Entered {
        in_user_namespace,
        ownership: Ownership::Real,
        means: Means::ALL,
        line: line.to_owned(),
    })
}

fn make_private() -> Result<(), Error> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| unavailable(format!("mounting is refused: {e}{}", confinement())))
}

/// Which ids a user namespace is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    Range,
    Single,
    /// A range if the caller can have one.
    RangeOrSingle,
}

fn enter_user_namespace(ids: Ids) -> Result<Entered, Error> {
    // What is certain to fail is told before anything is tried.
    if let Some(obstacle) = switched_off() {
        return Err(unavailable(obstacle));
    }
    match ids {
        Ids::Range => enter_with_range(&IdMaps::of_caller().map_err(unavailable)?),
        Ids::Single => enter_with_one_id("as asked for"),
        Ids::RangeOrSingle => match IdMaps::of_caller() {
            Ok(maps) => enter_with_range(&maps),
            Err(missing) => enter_with_one_id(&missing),
        },
    }
}

/// The namespace has the caller's id as 0 and no other. Nobody has to allow that.
fn enter_with_one_id(why: &str) -> Result<Entered, Error> {
    let maps = SingleId::of_caller();
    sys::unshare(namespace::USER | namespace::MOUNT)
        .map_err(|e| unavailable(format!("a user namespace is refused: {e}{}", namespace_hint(&e))))?;
    maps.write()
        .map_err(|e| unavailable(format!("mapping the user's id is refused: {e}{}", confinement())))?;
    let (means, limits) = means_of_user_namespace();
    Ok(Entered {
        in_user_namespace: true,
        ownership: Ownership::Emulated,
        means,
        line: format!("isolation: user namespace with one id, owners of files by emulation ({why}){limits}"),
    })
}

fn enter_with_range(maps: &IdMaps) -> Result<Entered, Error> {
    // The maps are written from outside: by a child that stays there.
    let (ours, theirs) = protocol::sockets().map_err(|e| Error::internal("making a socket", e))?;
    let builder = rustix::process::getpid().as_raw_nonzero().get();
    let child = sys::clone_into(0).map_err(|e| Error::internal("forking", e))?;
    let Some(child) = child else {
        drop(ours);
        let mut byte = [0u8; 1];
        if matches!(rustix::io::read(&theirs, &mut byte[..]), Ok(1)) {
            let answer = match maps.write(builder) {
                Ok(()) => "+".to_owned(),
                Err(error) => reason(error),
            };
            // Nobody to tell when the builder is gone.
            let _ = rustix::io::write(&theirs, answer.as_bytes());
        }
        sys::exit_now(0)
    };
    drop(theirs);

    let unshared = sys::unshare(namespace::USER | namespace::MOUNT);
    let mapped = match &unshared {
        Ok(()) => ask_for_maps(&ours),
        Err(e) => Err(unavailable(format!(
            "a user namespace is refused: {e}{}",
            namespace_hint(e)
        ))),
    };
    drop(ours);
    // The child ends by itself: it has answered, or its socket has closed.
    let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED));
    mapped?;
    let (means, limits) = means_of_user_namespace();
    Ok(Entered {
        in_user_namespace: true,
        ownership: Ownership::Real,
        means,
        line: format!("isolation: user namespace with {} ids{limits}", maps.count),
    })
}

/// What a user namespace that was just entered allows, and what is to be said about that.
fn means_of_user_namespace() -> (Means, String) {
    match make_private() {
        Ok(()) => (Means::ALL, String::new()),
        Err(error) => {
            let means = Means {
                mounts: false,
                ..Means::ALL
            };
            (
                means,
                format!(", with a changed root instead of mounts: {}", reason(error)),
            )
        }
    }
}

fn ask_for_maps(socket: &std::os::fd::OwnedFd) -> Result<(), Error> {
    let mut answer = vec![0u8; 4096];
    let length = rustix::io::write(socket, b"!")
        .and_then(|_| rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut answer[..])))
        .map_err(|e| Error::internal("waiting for the id maps", e))?;
    match &answer[..length] {
        b"+" => Ok(()),
        b"" => Err(Error::internal(
            "writing the id maps",
            io::Error::from(io::ErrorKind::UnexpectedEof),
        )),
        text => Err(unavailable(String::from_utf8_lossy(text))),
    }
}

fn setting(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A setting that forbids user namespaces to this user, and how to change it.
fn switched_off() -> Option<String> {
    if setting("/proc/sys/user/max_user_namespaces") == Some(0) {
        return Some(
            "user namespaces are switched off (as root: sysctl -w user.max_user_namespaces=15000)".into(),
        );
    }
    let privileged = rustix::process::geteuid().is_root();
    if setting("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) && !privileged {
        return Some(
            "user namespaces are switched off for ordinary users (as root: sysctl -w kernel.unprivileged_userns_clone=1)"
                .into(),
        );
    }
    None
}

fn namespace_hint(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => {
            " (user.max_user_namespaces is reached, or namespaces are nested too deeply)".into()
        }
        _ => confinement(),
    }
}

/// Who usually stands behind a refusal without a setting that explains it.
fn confinement() -> String {
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return " (AppArmor restricts user namespaces; as root: sysctl -w \
                kernel.apparmor_restrict_unprivileged_userns=0, or give rbuild an AppArmor profile with userns)"
            .into();
    }
    " (a chroot, or the system call filter of a surrounding container: start it with --security-opt \
     seccomp=unconfined --security-opt apparmor=unconfined)"
        .into()
}
