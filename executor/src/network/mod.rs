//! The network of steps that ask for no special one: a namespace for all steps of a build, connected
//! by a program that needs no privilege (pasta, else slirp4netns), else the builder's.
//!
//! The spawner makes the namespace and starts the program, so that it is below pid 1 of the spawner's
//! namespace and ends with it, and goes on with its work meanwhile. The builder asks for the network early
//! and waits for it before the first step that needs it.
//!
//! From inside neither the machine's loopback (unless `host-gateway` was asked for) nor the addresses at
//! which clouds keep the machine's credentials can be reached.

mod block;
mod helper;
pub(crate) mod resolv;

use std::ffi::CString;
use std::io::{self, Read, Seek};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use self::helper::{Call, Helper, Machine};
use self::resolv::Forward;
use crate::sys::{self, Stack, namespace};
use crate::{Error, mounts};

/// A helper that needs longer is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Below it distributions' AppArmor profiles let pasta open namespaces.
const RUN_USER: &str = "/run/user";
/// The most of a helper's words that is repeated.
const MAX_WORDS: u64 = 4096;

/// What the builder wants of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// `--add-host NAME:host-gateway`: an address inside has to lead to the machine's own services.
    pub reach_machine: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTaken {
    /// A network of its own, or the builder's?
    pub own: bool,
    /// In one line, for people.
    pub line: String,
}

/// The network of the steps, in the spawner.
#[derive(Debug)]
pub(crate) enum Network {
    /// Nobody has asked.
    Absent,
    Starting(Box<Starting>),
    /// The helper runs.
    Own(Own),
    /// The builder's.
    Host(NetworkTaken),
}

/// A helper at work.
#[derive(Debug)]
pub(crate) struct Starting {
    attempt: Attempt,
    helper: Helper,
    /// A pidfd.
    child: OwnedFd,
    /// The end of a pipe on which it says that it is ready, where its end does not say that.
    ready: Option<OwnedFd>,
    said: std::fs::File,
    forward: Forward,
    machine: Machine,
    until: Instant,
}

/// A network of its own.
#[derive(Debug)]
pub(crate) struct Own {
    namespace: OwnedFd,
    /// How servers on the machine are reached.
    pub(crate) forward: Forward,
    /// Where the machine can be reached.
    pub(crate) machine: Option<IpAddr>,
    taken: NetworkTaken,
}

/// What starting a helper needs.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// A directory in memory.
    pub(crate) files: PathBuf,
    /// The machine's `resolv.conf`.
    pub(crate) resolv_conf: String,
    pub(crate) in_user_namespace: bool,
}

impl Network {
    /// Makes the namespace and starts the first helper.
    pub(crate) fn start(surroundings: Surroundings, plan: NetworkPlan, stack: &mut Stack) -> Network {
        let mut left = Helper::ALL.to_vec();
        left.retain(|helper| helper.program().is_some());
        if left.is_empty() {
            return Network::host("neither pasta (package passt) nor slirp4netns is installed");
        }
        match new_namespace(&surroundings.files, stack) {
            Ok(namespace) => Attempt {
                namespace,
                surroundings,
                plan,
                left,
                failures: Vec::new(),
            }
            .next(stack),
            Err(e) => Network::host(&format!("a network namespace is refused: {e}")),
        }
    }

    /// No network of its own.
    pub(crate) fn host(reason: &str) -> Network {
        Network::Host(NetworkTaken {
            own: false,
            line: format!("network: the machine's, for {reason}"),
        })
    }

    /// What became of it, once that is known.
    pub(crate) fn taken(&self) -> Option<&NetworkTaken> {
        match self {
            Network::Absent | Network::Starting(_) => None,
            Network::Own(own) => Some(&own.taken),
            Network::Host(taken) => Some(taken),
        }
    }

    /// The network of its own, if it came to that.
    pub(crate) fn own(&self) -> Option<&Own> {
        match self {
            Network::Own(own) => Some(own),
            _ => None,
        }
    }

    /// What tells that there is something to do, and until when that is waited for.
    pub(crate) fn awaited(&self) -> Option<(BorrowedFd<'_>, Instant)> {
        match self {
            Network::Starting(starting) => {
                let fd = starting.ready.as_ref().unwrap_or(&starting.child);
                Some((fd.as_fd(), starting.until))
            }
            _ => None,
        }
    }

    /// Looks at the helper, which has something to say or has had its time, and goes on to the next one if it failed.
    pub(crate) fn advance(self, stack: &mut Stack) -> Network {
        let Network::Starting(starting) = self else {
            return self;
        };
        match starting.outcome() {
            None if Instant::now() < starting.until => Network::Starting(starting),
            Some(Ok(())) => Network::Own(starting.connected(stack)),
            failed => starting.failed(failed.and_then(Result::err), stack),
        }
    }
}

/// A namespace, and helpers to connect it.
#[derive(Debug)]
struct Attempt {
    namespace: OwnedFd,
    surroundings: Surroundings,
    plan: NetworkPlan,
    left: Vec<Helper>,
    failures: Vec<String>,
}

impl Attempt {
    /// Starts the next helper; without one the network is the builder's.
    fn next(mut self, stack: &mut Stack) -> Network {
        while !self.left.is_empty() {
            let helper = self.left.remove(0);
            match self.launch(helper, stack) {
                Ok(launched) => {
                    return Network::Starting(Box::new(Starting {
                        attempt: self,
                        helper,
                        child: launched.child,
                        ready: launched.ready,
                        said: launched.said,
                        forward: launched.call.forward,
                        machine: launched.call.machine,
                        until: Instant::now() + PATIENCE,
                    }));
                }
                Err(e) => self.failures.push(format!("{} failed: {e}", helper.name())),
            }
        }
        Network::host(&self.failures.join(", "))
    }

    fn launch(&self, helper: Helper, stack: &mut Stack) -> Result<Launched, Error> {
        let fail = |doing: &'static str| move |e: io::Error| Error::Setup(format!("{doing}: {e}"));
        let path = namespace_path(&self.surroundings.files);
        let call = helper
            .call(&path, &self.surroundings, self.plan)
            .ok_or_else(|| fail("calling it")(io::ErrorKind::NotFound.into()))?;
        let said = rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC)
            .map_err(|e| fail("making a file for its words")(e.into()))?;
        let ready = match helper {
            Helper::Pasta => None,
            Helper::Slirp4netns => {
                let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
                Some(pipe.map_err(|e| fail("making a pipe")(e.into()))?)
            }
        };
        let environment: Vec<CString> = std::env::var_os("PATH")
            .and_then(|path| CString::new([b"PATH=", path.as_encoded_bytes()].concat()).ok())
            .into_iter()
            .collect();
        let mut failure = None;
        let mut body = || -> i32 {
            let place = || -> Result<(), Error> {
                place_namespace(&path, self.namespace.as_fd())?;
                if let Some((_, write)) = &ready {
                    sys::replace_standard(write.as_fd(), 0).map_err(fail("placing the pipe"))?;
                }
                for target in 1..=2 {
                    sys::replace_standard(said.as_fd(), target).map_err(fail("placing its output"))?;
                }
                Ok(())
            };
            failure = Some(match place() {
                Ok(()) => {
                    sys::reset_signals();
                    fail("executing it")(sys::execve(&call.program, &call.args, &environment))
                }
                Err(e) => e,
            });
            1
        };
        let child =
            sys::spawn_into(namespace::MOUNT, stack, &mut body).map_err(fail("making its process"))?;
        match failure {
            Some(error) => {
                reap(&child);
                Err(error)
            }
            None => Ok(Launched {
                child,
                // The other end is the helper's alone.
                ready: ready.map(|(read, _)| read),
                said: said.into(),
                call,
            }),
        }
    }
}

/// A helper that runs.
#[derive(Debug)]
struct Launched {
    child: OwnedFd,
    ready: Option<OwnedFd>,
    said: std::fs::File,
    call: Call,
}

impl Starting {
    /// `None` while the helper is at work, `Some(Err)` when it has ended without success.
    fn outcome(&self) -> Option<Result<(), ()>> {
        match &self.ready {
            Some(ready) => {
                let mut byte = [0u8; 1];
                if !readable(ready) {
                    return None;
                }
                let read = rustix::io::retry_on_intr(|| rustix::io::read(ready, &mut byte[..]));
                Some(if read == Ok(1) { Ok(()) } else { Err(()) })
            }
            None => {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                match waitid(WaitId::PidFd(self.child.as_fd()), options) {
                    Ok(None) | Err(rustix::io::Errno::INTR) => None,
                    Ok(Some(status)) if status.exit_status() == Some(0) => Some(Ok(())),
                    Ok(Some(_)) | Err(_) => Some(Err(())),
                }
            }
        }
    }

    fn connected(self: Box<Self>, stack: &mut Stack) -> Own {
        let namespace = self.attempt.namespace;
        let mut forward = self.forward;
        let machine = match self.machine {
            Machine::Unreachable => None,
            Machine::At(address) => Some(address),
            Machine::AtGateway => {
                forward.taken = gateway(namespace.as_fd(), stack);
                forward.taken
            }
        };
        let reach = match machine {
            None => "the machine's loopback and cloud metadata are out of reach".to_owned(),
            Some(address) => format!("the machine is {address}, cloud metadata is out of reach"),
        };
        Own {
            namespace,
            forward,
            machine,
            taken: NetworkTaken {
                own: true,
                line: format!(
                    "network: one of the build's own through {}; {reach}",
                    self.helper.name()
                ),
            },
        }
    }

    fn failed(self: Box<Self>, ended: Option<()>, stack: &mut Stack) -> Network {
        // It may be on its way out, or stuck.
        let _ = rustix::process::pidfd_send_signal(&self.child, Signal::KILL);
        reap(&self.child);
        let why = match ended {
            Some(()) => words(self.said),
            None => format!("it was not ready after {} s", PATIENCE.as_secs()),
        };
        let mut attempt = self.attempt;
        attempt
            .failures
            .push(format!("{} failed: {why}", self.helper.name()));
        attempt.next(stack)
    }
}

impl Own {
    /// The namespace, to be entered.
    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// Makes the calling process a part of the network namespace.
pub(crate) fn join(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(
        namespace,
        Some(LinkNameSpaceType::Network),
    )?)
}

/// A new network namespace with loopback up and the refused addresses refused.
fn new_namespace(files: &Path, stack: &mut Stack) -> io::Result<OwnedFd> {
    let place = files.join("network");
    std::fs::File::create(&place)?;
    let mut result = Ok(());
    let mut body = || -> i32 {
        result = sys::loopback_up()
            .and_then(|()| block::metadata())
            .and_then(|()| Ok(rustix::mount::mount_bind("/proc/self/ns/net", &place)?));
        0
    };
    let child = sys::spawn_into(namespace::NET, stack, &mut body)?;
    reap(&child);
    result?;
    let opened = rustix::fs::open(&place, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    // The descriptor keeps it.
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH)?;
    Ok(opened?)
}

/// Where a helper finds the namespace: in the directory that distributions' AppArmor profiles let it read.
fn namespace_path(files: &Path) -> PathBuf {
    if Path::new(RUN_USER).is_dir() {
        Path::new(RUN_USER).join("0/netns/rbuild")
    } else {
        files.join("network")
    }
}

/// Puts the namespace there, in a mount namespace that only the helper sees.
fn place_namespace(path: &Path, namespace: BorrowedFd<'_>) -> Result<(), Error> {
    let fail = |e: io::Error| Error::Setup(format!("showing it the network namespace: {e}"));
    if path.starts_with(RUN_USER) {
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let memory = mounts::detached(RUN_USER, "tmpfs", &[("mode", "755")], flags)?;
        let target = rustix::fs::open(RUN_USER, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| fail(e.into()))?;
        mounts::attach(RUN_USER, &memory, target.as_fd())?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(fail)?;
        }
    }
    std::fs::File::create(path).map_err(fail)?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    rustix::mount::mount_bind(source, path).map_err(|e| fail(e.into()))
}

/// The gateway of the namespace's default route.
fn gateway(namespace: BorrowedFd<'_>, stack: &mut Stack) -> Option<IpAddr> {
    let mut table = Ok(String::new());
    let mut body = || -> i32 {
        table = join(namespace).and_then(|()| std::fs::read_to_string("/proc/self/net/route"));
        0
    };
    let child = sys::spawn_into(0, stack, &mut body).ok()?;
    reap(&child);
    default_gateway(&table.ok()?)
}

/// The gateway of the default route in a table as `/proc/net/route` shows it.
fn default_gateway(table: &str) -> Option<IpAddr> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "00000000", gateway, _, _, _, _, "00000000", ..] = fields[..] else {
            return None;
        };
        let gateway = u32::from_str_radix(gateway, 16)
            .ok()
            .filter(|gateway| *gateway != 0)?;
        // The kernel prints the bytes in memory as one number.
        Some(IpAddr::from(gateway.to_ne_bytes()))
    })
}

fn readable(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut fds, Some(&at_once)), Ok(1..))
}

fn reap(child: &OwnedFd) {
    let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED));
}

/// The last line of what a helper said.
fn words(mut said: std::fs::File) -> String {
    let mut bytes = Vec::new();
    let read = said
        .rewind()
        .and_then(|()| said.take(MAX_WORDS).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    // pasta's complaint about a machine without a system log is not the cause.
    let last = text
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !line.ends_with("bytes to syslog"));
    let hint = match last {
        Some(line) if line.contains("/dev/net/tun") || line.contains("TUNSETIFF") => {
            " (users need access to /dev/net/tun; as root: mkdir -p /dev/net, mknod /dev/net/tun c 10 200, chmod 666 /dev/net/tun)"
        }
        _ => "",
    };
    match (read, last) {
        (Ok(_), Some(last)) => format!("{last}{hint}"),
        _ => "it said nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_gateway_is_read_from_the_kernels_table() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_gateway(table), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(default_gateway(""), None);
    }
}
