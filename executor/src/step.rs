//! A step from its birth to exec.
//!
//! [`run`] is the whole life of the child that the spawner makes (on shared memory, as after vfork): mounts, a new root, the
//! identity, the limits, the filter, the command. The order is forced: mounts need the old root and all
//! capabilities, the filter needs CAP_SYS_ADMIN (there is no `no_new_privs`), and after the change of
//! user nothing privileged is left to do.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::CapabilitySet;

use crate::enter::Means;
use crate::inroot::{self, Created, Kind};
use crate::landlock::Landlock;
use crate::mounts;
use crate::protocol::{Report, Request, send_report};
use crate::seccomp::Filters;
use crate::spec::{ExecSpec, Network, Rootfs, Secret};
use crate::stage::{Needs, Places, Stage};
use crate::user::{self, Identity};
use crate::{
    Error, Ownership, attach, caps, cgroup, chroot, emulation, limits, network, program, sys, trust,
};

/// What all steps of a build share; made once by the spawner.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) in_user_namespace: bool,
    pub(crate) ownership: Ownership,
    pub(crate) means: Means,
    pub(crate) landlock: Landlock,
    pub(crate) has_cgroup2: bool,
    /// The lowest layer of every step: the mount points.
    pub(crate) stub: PathBuf,
    /// An empty directory.
    pub(crate) empty: PathBuf,
    /// A directory over which a step puts file systems of which it mounts parts elsewhere.
    pub(crate) staging: PathBuf,
    /// Where each step puts together what does not depend on its image.
    pub(crate) places: Places,
    pub(crate) filters: Filters,
}

/// What the spawner has made ready for one step.
#[derive(Debug, Default)]
pub(crate) struct Around {
    /// Its `/etc/hosts`.
    pub(crate) hosts: PathBuf,
    /// Its `/etc/resolv.conf`.
    pub(crate) resolv_conf: PathBuf,
}

/// What can be done for a step before it is known: `None` where nothing can be mounted. Runs as pid 1 of the new namespaces.
/// `network` is the namespace to enter; without one the step stays in that which it was born in.
pub(crate) fn begin(
    shared: &Shared,
    needs: &Needs,
    network: Option<BorrowedFd<'_>>,
) -> Result<Option<Stage>, Error> {
    die_with_spawner()?;
    // Before /sys/fs/cgroup is mounted, which begins with the cgroup that it is mounted in.
    cgroup::enter(&needs.cgroups)?;
    rustix::process::setsid().map_err(|e| setup("starting a session", e))?;
    rustix::process::umask(Mode::empty());
    sys::reset_signals();
    // Before /sys is mounted, which shows the interfaces of the network that it is mounted in.
    if let Some(namespace) = network {
        network::join(namespace).map_err(|e| setup("entering the network of the steps", e))?;
    }
    let has_network = network.is_some() || needs.network == Network::None;
    match shared.means.mounts {
        true => Stage::make(shared, needs, has_network).map(Some),
        false => Ok(None),
    }
}

/// Becomes the command of `spec`, or reports why not; `begun` is what [`begin`] gave. `supervisor` is the socket of the
/// process that keeps owners, where there is one id.
pub(crate) fn run(
    shared: &Shared,
    spec: &ExecSpec,
    around: &Around,
    request: &Request,
    supervisor: Option<&OwnedFd>,
    begun: Result<Option<Stage>, Error>,
) -> ! {
    let Err(error) = begun.and_then(|stage| prepare(shared, spec, around, request, supervisor, stage));
    // When nobody listens any more, the spawner is about to end this process anyway.
    let _ = send_report(request.reports.as_fd(), &Report::of(error));
    sys::exit_now(1)
}

fn prepare(
    shared: &Shared,
    spec: &ExecSpec,
    around: &Around,
    request: &Request,
    supervisor: Option<&OwnedFd>,
    stage: Option<Stage>,
) -> Result<Infallible, Error> {
    let Mounted { root, null, created } = match stage {
        Some(stage) => {
            let mounted = mount_all(shared, spec, around, &stage)?;
            pivot(mounted.root.as_fd())?;
            mounted
        }
        None => {
            let opened = chroot::open(spec)?;
            chroot::enter(opened.root.as_fd())?;
            opened
        }
    };

    if shared.means.namespaces {
        match rustix::system::sethostname(spec.hostname.as_bytes()) {
            // The filter of a surrounding container: its name stays, and `/etc/hosts` knows the other.
            Err(rustix::io::Errno::PERM) => {}
            set => set.map_err(|e| setup("setting the host name", e))?,
        }
    }
    if spec.network == Network::None {
        sys::loopback_up().map_err(|e| setup("setting loopback up", e))?;
    }
    let identity = user::resolve_in(root.as_fd(), &spec.user)?;
    let cwd = working_directory(root.as_fd(), &spec.cwd)?;

    if let Some(bytes) = spec.address_space {
        limits::limit_address_space(bytes)?;
    }
    for limit in &spec.ulimits {
        if supervisor.is_some() && limit.name == "locks" {
            return Err(Error::Start(
                "--ulimit locks cannot be set in a user namespace with one id, which uses that limit itself (no kernel \
                 enforces it)"
                    .to_owned(),
            ));
        }
        limit.apply()?;
    }
    // Without a keyring of its own a step shares the builder's; kernels without keyrings have none to share.
    let _ = sys::new_session_keyring();
    let stdin = request.stdin.as_ref().map_or(null.as_fd(), AsFd::as_fd);
    if spec.terminal {
        rustix::process::ioctl_tiocsctty(stdin).map_err(|e| setup("taking the terminal", e))?;
    }
    for (fd, target) in [
        (stdin, 0),
        (request.stdout.as_fd(), 1),
        (request.stderr.as_fd(), 2),
    ] {
        sys::replace_standard(fd, target).map_err(|e| setup("placing the output", e))?;
    }
    sys::close_on_exec_from_3().map_err(|e| setup("closing descriptors", e))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));

    if spec.is_32_bit {
        sys::become_32_bit().map_err(|e| setup("taking the 32-bit personality", e))?;
    }
    if spec.privileges.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(|e| setup("giving up new privileges", e))?;
    }
    if !shared.means.mounts && !spec.insecure {
        chroot::confine(root.as_fd(), shared)?;
    }
    if let Some(filter) = shared.filters.of(spec) {
        let installed = sys::install_filter(filter.program(), filter.flags());
        match installed {
            // The container may forbid filters; its own is there all the same.
            Err(_) if !shared.means.namespaces => {}
            installed => installed.map_err(|e| setup("installing the system call filter", e))?,
        }
    }
    // As runc: root may enter a directory that the user may not; where root may not, the user may.
    let entered = rustix::process::fchdir(&cwd).is_ok();
    match supervisor {
        None => become_user(&identity, spec, shared.means)?,
        Some(supervisor) => believe_to_be(&identity, spec, shared.means, supervisor.as_fd())?,
    }
    enter_directory((!entered).then_some(&cwd), &spec.cwd)?;
    // The change of user has cleared it.
    die_with_spawner()?;

    let env = environment(spec, &identity)?;
    let (path, args) = program::locate(&spec.args, &spec.env)?;
    program::refuse_builder(&path)?;
    send_report(request.reports.as_fd(), &Report::Ready(created)).map_err(|e| setup("reporting", e))?;
    let error = sys::execve(&path, &args, &env);
    Err(program::explain(&path, error))
}

pub(crate) fn setup(doing: &str, error: impl Into<std::io::Error>) -> Error {
    Error::Setup(format!("{doing}: {}", error.into()))
}

/// The spawner is pid 1 of its own namespace, so its death ends everything below it; this signal
/// is the second lock on the same door.
fn die_with_spawner() -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| setup("tying the step to the builder", e))
}

/// What the mounts leave in hand.
pub(crate) struct Mounted {
    /// The root of the step.
    pub(crate) root: OwnedFd,
    /// Its `/dev/null`.
    pub(crate) null: OwnedFd,
    /// Mount points that the image did not have.
    pub(crate) created: Created,
}

/// Mounts everything. All targets are opened before anything covers them, so that no mount can
/// redirect another one.
fn mount_all(shared: &Shared, spec: &ExecSpec, around: &Around, stage: &Stage) -> Result<Mounted, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::openat(CWD, spec.rootfs.changed(), flags, Mode::empty())
        .map_err(|e| setup("opening the root file system", e))?;
    let root = match &spec.rootfs {
        Rootfs::Overlay { lowers, work, .. } => mounts::root(lowers, work, &shared.stub, upper.as_fd())?,
        Rootfs::Directory { .. } => mounts::directory_as_root(upper.as_fd())?,
    };

    if !spec.insecure {
        mounts::without_devices("the root file system", root.as_fd())?;
    }

    let mut created = Created::default();
    let mut target = |path: &str, kind: Kind| -> Result<OwnedFd, Error> {
        created
            .ensure(root.as_fd(), upper.as_fd(), path, kind)
            .map_err(|e| Error::Setup(format!("finding {path} in the image, to mount there: {e}")))
    };
    let proc = target("/proc", Kind::Directory)?;
    let sys = target("/sys", Kind::Directory)?;
    let dev = target("/dev", Kind::Directory)?;
    let resolv_conf = target("/etc/resolv.conf", Kind::File)?;
    let hosts_file = target("/etc/hosts", Kind::File)?;

    mounts::file("/etc/resolv.conf", &around.resolv_conf, resolv_conf.as_fd())?;
    mounts::file("/etc/hosts", &around.hosts, hosts_file.as_fd())?;
    stage.enter_root(proc.as_fd(), sys.as_fd(), dev.as_fd())?;
    let null = mounts::null(stage.dev.as_fd())?;
    if let Some(script) = &spec.script {
        mounts::write_script(&stage.dev, script)?;
    }
    if let Some(certificates) = &spec.certificates {
        trust::write(root.as_fd(), certificates)?;
    }
    attach::mounts(shared, spec, root.as_fd(), upper.as_fd(), &mut created)?;
    created.settle(upper.as_fd());
    Ok(Mounted { root, null, created })
}

/// Makes `root` the root and lets go of the old one, by descriptors as runc does.
fn pivot(root: BorrowedFd<'_>) -> Result<(), Error> {
    let fail = |e: rustix::io::Errno| setup("changing the root", e);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::open("/", flags, Mode::empty()).map_err(fail)?;
    rustix::process::fchdir(root).map_err(fail)?;
    rustix::process::pivot_root(".", ".").map_err(fail)?;
    rustix::process::fchdir(&old).map_err(fail)?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH).map_err(fail)?;
    rustix::process::chdir("/").map_err(fail)
}

/// The working directory, made when the image has none (rule R3).
fn working_directory(root: BorrowedFd<'_>, cwd: &str) -> Result<OwnedFd, Error> {
    inroot::ensure(root, cwd, Kind::Directory, &mut Vec::new())
        .map_err(|e| Error::Start(format!("finding the working directory {cwd:?}: {e}")))
}

/// Goes to `directory` unless that is done, and checks that the place is below the root (CVE-2024-21626).
fn enter_directory(directory: Option<&OwnedFd>, name: &str) -> Result<(), Error> {
    let fail = |e: rustix::io::Errno| Error::Start(format!("entering the working directory {name:?}: {e}"));
    if let Some(directory) = directory {
        rustix::process::fchdir(directory).map_err(fail)?;
    }
    let inside = rustix::process::getcwd(Vec::new()).map_err(fail)?;
    if inside.as_bytes().first() != Some(&b'/') {
        return Err(Error::Start(format!(
            "the working directory {name:?} is outside the root file system"
        )));
    }
    Ok(())
}

/// Takes what a step may never have out of reach; gives what it keeps.
fn bound(spec: &ExecSpec, means: Means) -> Result<CapabilitySet, Error> {
    let fail = |e: rustix::io::Errno| setup("giving up capabilities", e);
    let all = rustix::thread::capabilities(None).map_err(fail)?.permitted;
    // Root of a surrounding container may hold fewer than Docker's default.
    let keep = if spec.insecure {
        all
    } else {
        let allowed = spec.privileges.capabilities.within(all).map_err(|names| {
            Error::Start(format!(
                "giving the capabilities {names}: the builder does not have them itself"
            ))
        })?;
        match means.mounts {
            true => allowed,
            false => {
                let demanded = spec.privileges.capabilities.demanded();
                allowed.difference(caps::LEADING_OUT.difference(demanded))
            }
        }
    };
    match caps::bound(keep) {
        // Without CAP_SETPCAP; what a program of the step could get is decided by `no_new_privs` then.
        Err(rustix::io::Errno::PERM) if !means.namespaces && !spec.insecure => {}
        bound => bound.map_err(fail)?,
    }
    caps::hold(all).map_err(fail)?;
    Ok(keep)
}

/// There is one id: the step stays what it is and is told otherwise.
fn believe_to_be(
    identity: &Identity,
    spec: &ExecSpec,
    means: Means,
    supervisor: BorrowedFd<'_>,
) -> Result<(), Error> {
    let keep = bound(spec, means)?;
    emulation::hand_over(supervisor, identity, keep.bits())
        .map_err(|e| setup("handing the step to the process that keeps owners", e))?;
    caps::hold(keep).map_err(|e| setup("giving up capabilities", e))
}

/// Groups, ids, capabilities. Leaving uid 0 empties the permitted set by itself.
fn become_user(identity: &Identity, spec: &ExecSpec, means: Means) -> Result<(), Error> {
    let fail =
        |e: rustix::io::Errno| Error::Start(format!("becoming user {}:{}: {e}", identity.uid, identity.gid));
    let keep = bound(spec, means)?;

    let gid = rustix::process::Gid::from_raw(identity.gid);
    let uid = rustix::process::Uid::from_raw(identity.uid);
    let groups: Vec<_> = identity
        .groups
        .iter()
        .map(|g| rustix::process::Gid::from_raw(*g))
        .collect();
    let unmapped = |e: rustix::io::Errno| match e {
        rustix::io::Errno::INVAL => Error::Start(format!(
            "becoming user {}:{}: this id is outside the ids that /etc/subuid and /etc/subgid give the builder",
            identity.uid, identity.gid
        )),
        e => fail(e),
    };
    rustix::thread::set_thread_groups(&groups).map_err(unmapped)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(unmapped)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(unmapped)?;
    let held = if identity.uid == 0 {
        keep
    } else {
        CapabilitySet::empty()
    };
    caps::hold(held).map_err(fail)
}

/// `env` with the secrets, and with `HOME` when it has none.
fn environment(spec: &ExecSpec, identity: &Identity) -> Result<Vec<CString>, Error> {
    let named = |entry: &[u8], name: &[u8]| {
        entry
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(b"="))
    };
    let mut env: Vec<Vec<u8>> = spec.env.iter().map(|entry| entry.clone().into_bytes()).collect();
    for variable in &spec.secret_env {
        let name = variable.name.as_bytes();
        let value = secret(spec, variable.secret)?;
        env.retain(|entry| !named(entry, name));
        env.push([name, b"=", value.bytes()].concat());
    }
    env.retain(|entry| entry != b"HOME=");
    if !env.iter().any(|entry| named(entry, b"HOME")) {
        env.push(format!("HOME={}", identity.home).into_bytes());
    }
    if spec.certificates.is_some() {
        let trusted = trust::variables(|name| env.iter().any(|entry| named(entry, name.as_bytes())));
        env.extend(trusted.into_iter().map(String::into_bytes));
    }
    env.into_iter()
        .map(|v| CString::new(v).map_err(|_| Error::Start("the environment contains a NUL byte".to_owned())))
        .collect()
}

/// The secret of this number.
pub(crate) fn secret(spec: &ExecSpec, number: usize) -> Result<&Secret, Error> {
    let missing = || Error::Setup(format!("secret number {number} did not come with the step"));
    spec.secrets.get(number).ok_or_else(missing)
}
