//! A process that is no step yet.
//!
//! It has the namespaces of a step and what is mounted in every step, and waits to be told which one it is. So it can be made while
//! another step runs, ahead of time. It has nothing of that step: neither descriptors nor anything else but the spawner's memory,
//! which every step is on until exec.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::Error;
use crate::protocol::{self, Request};
use crate::spec::ExecSpec;
use crate::stage::{Needs, Stage};
use crate::step::{self, Around, Shared};
use crate::sys::{self, Paused};

/// A process that waits for its step.
#[derive(Debug)]
pub(super) struct Blank {
    process: Paused<Begun>,
    socket: OwnedFd,
    needs: Needs,
    /// Has all been made?
    complete: bool,
}

/// What it has, in its own descriptors.
#[derive(Debug)]
struct Begun {
    stage: Result<Option<Stage>, Error>,
    socket: OwnedFd,
}

impl Blank {
    /// A process for a step that needs `needs`, in new `namespaces` and in that of the `network`.
    pub(super) fn make(
        shared: &Shared,
        needs: Needs,
        namespaces: u64,
        network: Option<BorrowedFd<'_>>,
    ) -> io::Result<Blank> {
        let (socket, theirs) = protocol::sockets()?;
        let mut complete = false;
        let process = sys::begin_into(namespaces, &mut || {
            // The memory is shared, descriptors are not: closing `theirs` is up to the spawner.
            let Ok(socket) = sys::duplicate_above_standard(theirs.as_fd()) else {
                sys::exit_now(1)
            };
            let kept: Vec<_> = network.into_iter().chain([socket.as_fd()]).collect();
            if sys::close_all_but(&kept).is_err() {
                sys::exit_now(1)
            }
            let stage = step::begin(shared, &needs, network);
            complete = stage.is_ok();
            Begun { stage, socket }
        })?;
        Ok(Blank {
            process,
            socket,
            needs,
            complete,
        })
    }

    /// Whether it can be a step that needs `needs`.
    pub(super) fn serves(&self, needs: &Needs) -> bool {
        self.complete && self.needs == *needs
    }

    /// Makes it the step of `spec`, or tells why not; a pidfd of it. `supervisor` is the socket of the process that keeps owners, where there
    /// is one id.
    pub(super) fn become_step(
        self,
        shared: &Shared,
        spec: &ExecSpec,
        around: &Around,
        request: &Request,
        supervisor: Option<&OwnedFd>,
    ) -> io::Result<OwnedFd> {
        // It was born before these descriptors.
        let mut fds = request.descriptors();
        fds.extend(supervisor.map(AsFd::as_fd));
        protocol::send_with_descriptors(self.socket.as_fd(), b"!", &fds)?;
        let has_input = request.stdin.is_some();
        let step = self.process.resume(&mut |begun: Begun| {
            let Ok((request, supervisor)) = receive(&begun.socket, has_input) else {
                sys::exit_now(1)
            };
            step::run(shared, spec, around, &request, supervisor.as_ref(), begun.stage)
        });
        step.ok_or_else(|| io::Error::other("its process was ended"))
    }
}

fn receive(socket: &OwnedFd, has_input: bool) -> io::Result<(Request, Option<OwnedFd>)> {
    let (_, fds) = protocol::receive_with_descriptors(socket.as_fd())?;
    let mut fds = fds.into_iter();
    let request = Request::of_descriptors(&mut fds, has_input)?;
    Ok((request, fds.next()))
}
