//! How does a process run, confined?
//!
//! A build that has to run something calls [`Executor::enter`] once, while it has a single
//! thread: the whole process moves into namespaces in which it may mount, and a small
//! *spawner* process is split off. Every [`Executor::run`] is then a fresh child of the
//! spawner that sets up its own root, devices and limits and executes the command; nothing
//! of it outlives the build, however the build ends.
//!
//! Invariants: paths of a step's root file system are walked by descriptor and never leave
//! it; a step inherits no descriptor, no environment and no signal mask of the builder;
//! what the sandbox itself needs in the root (mount points) never ends up in the layer.

mod attach;
mod cancel;
mod caps;
mod cgroup;
mod chroot;
mod cover;
mod emulation;
mod enter;
mod error;
mod executor;
mod idmap;
pub mod init;
mod inroot;
mod isolation;
mod landlock;
mod limits;
mod machines;
mod mounts;
mod network;
mod privilege;
pub mod probe;
mod program;
mod protocol;
mod resources;
mod seccomp;
pub mod shown;
pub mod signals;
mod spawner;
mod spec;
mod stage;
mod stand_in;
mod started;
mod step;
mod sys;
mod trust;
mod user;
mod warden;

pub use cancel::Cancel;
pub use error::Error;
pub use executor::{Ended, Executor, Snapshots};
pub use isolation::{Isolation, Ownership};
pub use limits::{LimitError, Rlimit};
pub use machines::{Emulation, Registration, architectures, emulation, native_architecture, registrations};
pub use network::{NetworkPlan, NetworkTaken};
pub use privilege::{Capabilities, CapabilityError, Privileges, SystemCalls};
pub use resources::Resources;
pub use seccomp::{ProfileError, check_profile};
pub use spec::{
    Dns, ExecSpec, Exit, Mount, MountSource, Network, Rootfs, Scratch, Script, Secret, SecretVariable,
};
pub use started::Started;
pub use trust::Certificates;
