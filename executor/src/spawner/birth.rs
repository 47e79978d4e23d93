//! How the builder gets its spawner.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

use super::{Plan, prepare, run};
use crate::sys::{self, namespace};
use crate::{Error, Ownership, mounts, protocol};

/// Starts the spawner beside the builder and waits until it is ready.
pub(crate) fn spawn(plan: &Plan) -> Result<(OwnedFd, OwnedFd), Error> {
    prepare(&plan.scratch).map_err(|e| Error::internal("making the stub layer", e))?;
    if let Some(spawner) = spawn_in(plan, plan.means.namespaces)? {
        return Ok(spawner);
    }
    // Only the steps get pid namespaces, and each ends with its first process, which ends with the spawner.
    spawn_in(plan, false)?
        .ok_or_else(|| Error::internal("starting the spawner", io::Error::other("it has no /proc")))
}

/// Starts the spawner, with a pid namespace or without; `None` when it needs a `/proc` of that namespace (to know the step's
/// threads by the numbers that it sees there) and cannot have one.
fn spawn_in(plan: &Plan, own_processes: bool) -> Result<Option<(OwnedFd, OwnedFd)>, Error> {
    let (ours, theirs) =
        protocol::sockets().map_err(|e| Error::internal("making the spawner's socket", e))?;
    let namespaces = match (own_processes, plan.means.namespaces) {
        (true, _) => namespace::PID | namespace::MOUNT,
        (false, true) => namespace::MOUNT,
        (false, false) => 0,
    };
    let child = sys::clone_into(namespaces).map_err(|e| Error::internal("starting the spawner", e))?;
    let Some(child) = child else {
        // Without a pid namespace it has work to do after the builder's death, of which its socket tells it.
        let tied = match plan.means.namespaces {
            true => rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
            false => Ok(()),
        };
        if tied.is_err() || sys::close_all_but(&[theirs.as_fd()]).is_err() {
            sys::exit_now(1)
        }
        let sees = own_processes && plan.means.mounts && plan.ownership == Ownership::Emulated;
        if sees && !mounts::has_own_processes() {
            // The builder tries again.
            let _ = rustix::net::send(&theirs, b"-", rustix::net::SendFlags::NOSIGNAL);
            sys::exit_now(0)
        }
        run(plan, theirs)
    };
    drop(theirs);
    let mut answer = vec![0u8; 16 * 1024];
    let (length, _) = rustix::io::retry_on_intr(|| {
        rustix::net::recv(&ours, &mut answer[..], rustix::net::RecvFlags::empty())
    })
    .map_err(|e| Error::internal("waiting for the spawner", e))?;
    match &answer[..length] {
        b"+" => Ok(Some((child, ours))),
        b"-" => {
            // It has nothing left to do.
            let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED));
            Ok(None)
        }
        b"" => Err(Error::internal(
            "starting the spawner",
            io::Error::other("it ended at once"),
        )),
        text => Err(Error::Setup(String::from_utf8_lossy(text).into_owned())),
    }
}
