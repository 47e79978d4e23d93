//! What the builder, the spawner and a step say to each other.
//!
//! A request is one packet on the control socket: either the step as JSON in a memory file, its secrets in another, its
//! two output descriptors, a socket of its own and perhaps an input, or the wish for a network and a socket for the answer. On a step's socket the step and the spawner
//! report as JSON packets, and the builder orders signals as single bytes; its end of file means that nobody
//! waits any more.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::inroot::Created;
use crate::{Error, Exit, NetworkPlan, NetworkTaken};

/// The most bytes of one report; longer texts are cut.
const MAX_PACKET: usize = 64 * 1024;
const MAX_TEXT: usize = 16 * 1024;
/// The most descriptors of one packet.
const MAX_DESCRIPTORS: usize = 7;

/// Orders on a step's socket.
pub(crate) mod order {
    /// Ask the command to end.
    pub(crate) const TERMINATE: u8 = b'T';
    /// End it.
    pub(crate) const KILL: u8 = b'K';
}

/// What is reported about a step.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// The command is about to be executed; these mount points were made for it.
    Ready(Created),
    /// The sandbox could not be made.
    Setup(String),
    /// The command could not be started.
    Start(String),
    /// Everything of the step is gone. Always the last report.
    Gone(Exit),
}

impl Report {
    /// An error as the report that brings it to the builder.
    pub(crate) fn of(error: Error) -> Report {
        match error {
            Error::Start(mut text) => {
                truncate(&mut text);
                Report::Start(text)
            }
            Error::Setup(mut text) => {
                truncate(&mut text);
                Report::Setup(text)
            }
            other => {
                let mut text = other.to_string();
                truncate(&mut text);
                Report::Setup(text)
            }
        }
    }
}

fn truncate(text: &mut String) {
    let mut end = MAX_TEXT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// A pair of packet sockets.
pub(crate) fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// What is asked of the spawner.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Run a step.
    Step(Request),
    /// Make the network of the steps and answer with a [`NetworkTaken`].
    Network(NetworkPlan, OwnedFd),
}

/// The first byte of a packet on the control socket.
const STEP: u8 = b'R';
const NETWORK: u8 = b'N';

/// The descriptors of a step.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) spec: OwnedFd,
    pub(crate) secrets: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) reports: OwnedFd,
    /// What the step reads; `/dev/null` without it.
    pub(crate) stdin: Option<OwnedFd>,
}

impl Request {
    /// All of it, the input last.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![
            self.spec.as_fd(),
            self.secrets.as_fd(),
            self.stdout.as_fd(),
            self.stderr.as_fd(),
            self.reports.as_fd(),
        ];
        fds.extend(self.stdin.as_ref().map(AsFd::as_fd));
        fds
    }

    /// The same back, taken from the start of `fds`.
    pub(crate) fn of_descriptors(
        fds: &mut impl Iterator<Item = OwnedFd>,
        has_input: bool,
    ) -> io::Result<Request> {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a step without its descriptors");
        let mut next = || fds.next().ok_or_else(missing);
        Ok(Request {
            spec: next()?,
            secrets: next()?,
            stdout: next()?,
            stderr: next()?,
            reports: next()?,
            stdin: has_input.then(next).transpose()?,
        })
    }
}

/// Sends a request; the spawner gets copies of the descriptors.
pub(crate) fn send_request(control: BorrowedFd<'_>, request: &Request) -> io::Result<()> {
    let packet = [STEP, request.stdin.is_some().into()];
    send_with_descriptors(control, &packet, &request.descriptors())
}

/// Asks for a network; the answer comes on the other end of `answer`.
pub(crate) fn send_network(
    control: BorrowedFd<'_>,
    plan: NetworkPlan,
    answer: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut packet = vec![NETWORK];
    serde_json::to_writer(&mut packet, &plan)?;
    send_with_descriptors(control, &packet, &[answer])
}

/// Sends one packet with copies of descriptors, not more than [`MAX_DESCRIPTORS`].
pub(crate) fn send_with_descriptors(
    control: BorrowedFd<'_>,
    packet: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(fds));
    rustix::io::retry_on_intr(|| {
        sendmsg(
            control,
            &[IoSlice::new(packet)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives a request; `None` when the builder is gone.
pub(crate) fn receive_wish(control: BorrowedFd<'_>) -> io::Result<Option<Wish>> {
    let (packet, fds) = receive_with_descriptors(control)?;
    let mut fds = fds.into_iter();
    let broken = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    match packet.split_first() {
        None => Ok(None),
        Some((&STEP, has_input)) => {
            Request::of_descriptors(&mut fds, has_input == [1]).map(|request| Some(Wish::Step(request)))
        }
        Some((&NETWORK, plan)) => match fds.next() {
            Some(answer) => Ok(Some(Wish::Network(serde_json::from_slice(plan)?, answer))),
            None => broken("a network without a descriptor for the answer"),
        },
        _ => broken("an unknown request"),
    }
}

/// Receives a packet of [`send_with_descriptors`]; an empty one when the other end is closed.
pub(crate) fn receive_with_descriptors(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut packet = vec![0u8; MAX_TEXT];
    let received = rustix::io::retry_on_intr(|| {
        let buffers = &mut [IoSliceMut::new(&mut packet)];
        recvmsg(socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fds = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    if received
        .flags
        .intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC)
    {
        let why = "a packet that is too long or has too many descriptors";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    packet.truncate(received.bytes);
    Ok((packet, fds))
}

/// Tells what became of the network.
pub(crate) fn send_network_taken(answer: BorrowedFd<'_>, taken: &NetworkTaken) -> io::Result<()> {
    let packet = serde_json::to_vec(taken)?;
    rustix::io::retry_on_intr(|| rustix::net::send(answer, &packet, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Reads what became of the network; fails when the spawner is gone.
pub(crate) fn receive_network_taken(answer: BorrowedFd<'_>) -> io::Result<NetworkTaken> {
    let packet = receive_packet(answer)?;
    if packet.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&packet)?)
}

/// One packet; empty at the end. The memory is not written before the kernel does so: packets are mostly short.
fn receive_packet(socket: BorrowedFd<'_>) -> rustix::io::Result<Vec<u8>> {
    let mut packet = Vec::with_capacity(MAX_PACKET);
    rustix::io::retry_on_intr(|| rustix::net::recv(socket, spare_capacity(&mut packet), RecvFlags::empty()))?;
    Ok(packet)
}

/// Sends a report.
pub(crate) fn send_report(socket: BorrowedFd<'_>, report: &Report) -> io::Result<()> {
    let packet = serde_json::to_vec(report)?;
    rustix::io::retry_on_intr(|| rustix::net::send(socket, &packet, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives a report; `None` at the end.
pub(crate) fn receive_report(socket: BorrowedFd<'_>) -> io::Result<Option<Report>> {
    let packet = match receive_packet(socket) {
        // The other end closed with an order unread: the same as an end.
        Err(rustix::io::Errno::CONNRESET) => Vec::new(),
        result => result?,
    };
    if packet.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&packet)?))
}
