//! The ways of confining a step, as the user names them.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// How steps are kept apart from the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// The strongest that works here.
    #[default]
    Auto,
    /// A user namespace with the subordinate ids of the calling user.
    Userns,
    /// A user namespace with one id; files of other owners are shown and kept by emulation.
    UsernsSingle,
    /// Namespaces made by root, without a user namespace.
    Root,
    /// Root without any namespace: a changed root, and what Landlock keeps away. Weak.
    Chroot,
}

/// How the owners of files lie on the disk while steps run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Every id of an image is an id of the namespace.
    Real,
    /// There is one id; owners are notes beside the files.
    Emulated,
}

impl Isolation {
    /// The ways, in the order in which `auto` prefers them.
    pub(crate) fn in_order() -> [Isolation; 4] {
        [
            Isolation::Root,
            Isolation::Userns,
            Isolation::UsernsSingle,
            Isolation::Chroot,
        ]
    }
}

impl FromStr for Isolation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Isolation, Error> {
        match text {
            "auto" => Ok(Isolation::Auto),
            "userns" => Ok(Isolation::Userns),
            "userns-single" => Ok(Isolation::UsernsSingle),
            "root" => Ok(Isolation::Root),
            "chroot" => Ok(Isolation::Chroot),
            _ => Err(Error::Isolation(format!(
                "unknown isolation {text:?}: use auto, userns, userns-single, root or chroot"
            ))),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::Auto => "auto",
            Isolation::Userns => "userns",
            Isolation::UsernsSingle => "userns-single",
            Isolation::Root => "root",
            Isolation::Chroot => "chroot",
        })
    }
}
