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
    /// Namespaces made by root, without a user namespace.
    Root,
}

impl FromStr for Isolation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Isolation, Error> {
        match text {
            "auto" => Ok(Isolation::Auto),
            "userns" => Ok(Isolation::Userns),
            "root" => Ok(Isolation::Root),
            "userns-single" | "chroot" => Err(Error::Isolation(format!(
                "isolation {text:?} is not supported yet: use auto, userns or root"
            ))),
            _ => Err(Error::Isolation(format!(
                "unknown isolation {text:?}: use auto, userns or root"
            ))),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::Auto => "auto",
            Isolation::Userns => "userns",
            Isolation::Root => "root",
        })
    }
}
