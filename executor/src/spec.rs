//! One step as data: what to run, on which root, with which limits.

mod mount;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits::Rlimit;
use crate::privilege::Privileges;
use crate::trust::Certificates;

pub use mount::{Mount, MountSource, Scratch, Secret, SecretVariable};
pub(crate) use mount::{pack, unpack};

/// Everything that the executor has to know about one command.
///
/// The hostname that BuildKit uses is [`ExecSpec::DEFAULT_HOSTNAME`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The root file system.
    pub rootfs: Rootfs,
    /// Program and arguments; a program without a slash is searched in `PATH` of `env`, inside the root.
    pub args: Vec<String>,
    /// `NAME=value`, complete: nothing of the builder's environment is added, only `HOME` when it is absent.
    pub env: Vec<String>,
    /// Absolute working directory; made (root, 0755) when it does not exist.
    pub cwd: String,
    /// `USER` of the image: empty, `name`, `uid`, `name:group`, `uid:gid`.
    pub user: String,
    /// Host name inside.
    pub hostname: String,
    /// Which network the step sees.
    pub network: Network,
    /// `--security=insecure`: all capabilities, no system call filter, no masked paths.
    pub insecure: bool,
    /// Lines for `/etc/hosts`: name, address or [`ExecSpec::HOST_GATEWAY`].
    pub extra_hosts: Vec<(String, String)>,
    /// What of `/etc/resolv.conf` is not the machine's.
    pub dns: Dns,
    /// Certificates that are trusted inside and leave nothing in the layer.
    pub certificates: Option<Certificates>,
    /// A file that exists only for this step (a heredoc with a shebang).
    pub script: Option<Script>,
    /// `--ulimit`; limits not named are inherited.
    pub ulimits: Vec<Rlimit>,
    /// Capabilities and system calls; nothing of it holds for an `insecure` step but `no_new_privileges`.
    pub privileges: Privileges,
    /// The programs are those of the machine's 32-bit predecessor: `uname` tells its name.
    pub is_32_bit: bool,
    /// Its input is a terminal, and the step's alone: what controls it.
    #[serde(default)]
    pub terminal: bool,
    /// Files that let the step into its cgroups.
    #[serde(default)]
    pub(crate) cgroups: Vec<PathBuf>,
    /// Bytes of address space of each process, where there is no cgroup for memory.
    #[serde(default)]
    pub(crate) address_space: Option<u64>,
    /// Bytes of `/dev/shm`.
    pub shm_size: u64,
    /// Another step will most likely be run after this one: its process is made ready while this one runs.
    #[serde(default)]
    pub followed: bool,
    /// What is mounted beside the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Variables with secret values; they replace those of their names in `env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_env: Vec<SecretVariable>,
    /// The values; not part of the description.
    #[serde(skip)]
    pub secrets: Vec<Secret>,
}

impl ExecSpec {
    /// The host name of a step unless told otherwise, as BuildKit's.
    pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

    /// Bytes of `/dev/shm` unless told otherwise, as Docker's.
    const DEFAULT_SHM_SIZE: u64 = 64 << 20;
    /// In place of an address in `extra_hosts`: that at which the step reaches the machine.
    pub const HOST_GATEWAY: &str = "host-gateway";

    /// A step that runs `args` as root in `/` of `rootfs`, with nothing special.
    pub fn new(rootfs: Rootfs, args: Vec<String>) -> ExecSpec {
        ExecSpec {
            rootfs,
            args,
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            hostname: ExecSpec::DEFAULT_HOSTNAME.to_owned(),
            network: Network::Host,
            insecure: false,
            extra_hosts: Vec::new(),
            dns: Dns::default(),
            certificates: None,
            script: None,
            ulimits: Vec::new(),
            privileges: Privileges::default(),
            is_32_bit: false,
            terminal: false,
            cgroups: Vec::new(),
            address_space: None,
            shm_size: ExecSpec::DEFAULT_SHM_SIZE,
            followed: false,
            mounts: Vec::new(),
            secret_env: Vec::new(),
            secrets: Vec::new(),
        }
    }
}

/// Where the root file system of a step comes from. Which one this machine can have, [`crate::Executor::snapshots`] tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rootfs {
    /// An overlay: read-only layers and the directory that receives the changes.
    Overlay {
        /// Layer trees, topmost first; may be empty (`FROM scratch`).
        lowers: Vec<PathBuf>,
        /// Receives the changes; exists.
        upper: PathBuf,
        /// Overlay's working directory; exists, empty, on the file system of `upper`.
        work: PathBuf,
    },
    /// A tree that the step changes in place.
    Directory {
        /// Its root; exists, nobody else uses it.
        path: PathBuf,
        /// An empty directory beside it, on the same file system, for what is put aside during the step.
        aside: PathBuf,
    },
}

impl Rootfs {
    /// The directory in which changes appear.
    pub fn changed(&self) -> &Path {
        match self {
            Rootfs::Overlay { upper, .. } => upper,
            Rootfs::Directory { path, .. } => path,
        }
    }
}

/// The network of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The network of the builder.
    #[default]
    Host,
    /// Loopback only.
    None,
    /// One for all such steps of the build, from which the machine's loopback and cloud metadata cannot be reached; the
    /// builder's where that cannot be had. [`Executor::join_network`](crate::Executor::join_network) tells which.
    Default,
}

/// Settings of the resolver; what is empty is as on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Search domains; a single `.` for none.
    pub search: Vec<String>,
    /// Options as in `resolv.conf`.
    pub options: Vec<String>,
}

impl Dns {
    /// Is everything as on the machine?
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search.is_empty() && self.options.is_empty()
    }
}

/// A file made for one step and gone after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Absolute path inside, below `/dev/` (BuildKit: `/dev/pipes/EOF`).
    pub path: String,
    /// Its bytes; the file is executable and read-only to all.
    pub data: Vec<u8>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
    /// The kernel killed it because memory ran out.
    OutOfMemory,
}

impl Exit {
    /// Did it succeed?
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }

    /// The code a shell would report: 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
            Exit::OutOfMemory => 137,
        }
    }
}
