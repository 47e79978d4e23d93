//! What a step has mounted whatever its image is: `/proc`, `/sys`, `/dev`.
//!
//! They are put together aside, in the step's own namespaces, and moved into its root when that is there: before Linux 6.15
//! a mount takes others only where it is mounted itself. So they can be made before it is known which step they are for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::spec::{ExecSpec, Network};
use crate::step::Shared;
use crate::{Error, mounts};

/// What of a step its stage depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) network: Network,
    insecure: bool,
    shm_size: u64,
    /// Files that let the step into cgroups of its own.
    pub(crate) cgroups: Vec<PathBuf>,
}

impl Needs {
    pub(crate) fn of(spec: &ExecSpec) -> Needs {
        Needs {
            network: spec.network,
            insecure: spec.insecure,
            shm_size: spec.shm_size,
            cgroups: spec.cgroups.clone(),
        }
    }
}

/// Where stages are put together; each step has its own mounts there.
#[derive(Debug)]
pub(crate) struct Places {
    proc: PathBuf,
    sys: PathBuf,
    dev: PathBuf,
}

impl Places {
    /// Makes them below `directory`.
    pub(crate) fn make(directory: &Path) -> std::io::Result<Places> {
        let make = |name: &str| {
            let path = directory.join(name);
            std::fs::create_dir(&path).map(|()| path)
        };
        Ok(Places {
            proc: make("proc")?,
            sys: make("sys")?,
            dev: make("dev")?,
        })
    }
}

/// The mounts, in their places.
#[derive(Debug)]
pub(crate) struct Stage {
    proc: OwnedFd,
    sys: OwnedFd,
    /// Its root.
    pub(crate) dev: OwnedFd,
}

impl Stage {
    /// Mounts for a step that needs `needs`. `has_network`: the network namespace is the steps', not the builder's.
    pub(crate) fn make(shared: &Shared, needs: &Needs, has_network: bool) -> Result<Stage, Error> {
        let place = |path: &Path| mounts::directory(path);
        let proc = mounts::proc(
            place(&shared.places.proc)?.as_fd(),
            &shared.empty,
            !needs.insecure,
        )?;
        let sysfs = if shared.in_user_namespace && !has_network {
            mounts::Sysfs::Bind
        } else {
            mounts::Sysfs::Fresh
        };
        let sys = mounts::sys(
            place(&shared.places.sys)?.as_fd(),
            sysfs,
            shared.has_cgroup2,
            &shared.empty,
            needs.insecure,
        )?;
        let dev = mounts::dev(
            place(&shared.places.dev)?.as_fd(),
            shared.in_user_namespace,
            needs.shm_size,
        )?;
        Ok(Stage { proc, sys, dev })
    }

    /// Moves the mounts onto their targets.
    pub(crate) fn enter_root(
        &self,
        proc: BorrowedFd<'_>,
        sys: BorrowedFd<'_>,
        dev: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        mounts::attach("/proc", &self.proc, proc)?;
        mounts::attach("/sys", &self.sys, sys)?;
        mounts::attach("/dev", &self.dev, dev)
    }
}
