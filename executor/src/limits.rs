//! Resource limits by docker's names (`--ulimit`).

use std::borrow::Cow;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroups, StepGroup};
use crate::{Error, ExecSpec, Resources, sys};

const NAMES: [(&str, u32); 15] = [
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// A resource limit by its `ulimit` name: `nofile`, `nproc`, `core`, ...
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Docker's name.
    pub name: String,
    /// Soft limit; `None` is unlimited.
    pub soft: Option<u64>,
    /// Hard limit; `None` is unlimited.
    pub hard: Option<u64>,
}

/// A limit that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid ulimit {text:?}: {reason}")]
pub struct LimitError {
    text: String,
    reason: String,
}

impl FromStr for Rlimit {
    type Err = LimitError;

    /// `NAME=SOFT[:HARD]`; -1 and `unlimited` are no limit.
    fn from_str(text: &str) -> Result<Self, LimitError> {
        let fail = |reason: &str| LimitError {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (name, values) = text
            .split_once('=')
            .ok_or_else(|| fail("it must be NAME=SOFT[:HARD]"))?;
        if !NAMES.iter().any(|(known, _)| *known == name) {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(fail(&format!("the name must be one of {}", names.join(", "))));
        }
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            number => number
                .parse()
                .map(Some)
                .map_err(|_| fail("a limit is a number, or -1 for none")),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (value(soft)?, value(hard)?);
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            return Err(fail("the soft limit is higher than the hard one"));
        }
        Ok(Self {
            name: name.to_owned(),
            soft,
            hard,
        })
    }
}

impl Rlimit {
    /// The hard limit of this process, when it is lower and this process may not raise it: steps then get no more than that.
    pub fn out_of_reach(&self) -> Option<u64> {
        let (_, hard) = sys::limit(self.resource().ok()?).ok()?;
        let privileged = rustix::process::geteuid().is_root();
        (!privileged && self.hard.unwrap_or(u64::MAX) > hard).then_some(hard)
    }

    /// Sets it for this process. Where the hard limit may not be raised, it stays as it is.
    pub(crate) fn apply(&self) -> Result<(), Error> {
        let resource = self.resource()?;
        let (soft, hard) = (self.soft.unwrap_or(u64::MAX), self.hard.unwrap_or(u64::MAX));
        let set = match sys::set_limit(resource, soft, hard) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                sys::limit(resource).and_then(|(_, hard)| sys::set_limit(resource, soft.min(hard), hard))
            }
            set => set,
        };
        set.map_err(|error| Error::Setup(format!("setting the limit {}: {error}", self.name)))
    }

    fn resource(&self) -> Result<u32, Error> {
        let found = NAMES.iter().find(|(name, _)| *name == self.name);
        found
            .map(|(_, resource)| *resource)
            .ok_or_else(|| Error::Setup(format!("setting limits: unknown limit {:?}", self.name)))
    }
}

/// How the steps of a build are limited.
#[derive(Debug)]
pub(crate) struct Limits {
    cgroups: Option<Cgroups>,
    memory: Option<u64>,
    address_space: Option<u64>,
}

impl Limits {
    /// Prepares what is needed for `resources`; what cannot be enforced, and why, is said in the second value. The
    /// process has one thread.
    pub(crate) fn make(resources: &Resources) -> Result<(Limits, Vec<String>), Error> {
        let (cgroups, refused) = Cgroups::make(resources)?;
        let mut address_space = None;
        let warnings = refused.into_iter().map(|refused| {
            let flags = refused.flags.join(", ");
            let reason = refused.reason;
            match resources.memory {
                Some(bytes) if refused.flags.contains(&"--memory") => {
                    address_space = Some(bytes);
                    format!(
                        "{flags}: no cgroup can be made ({reason}); instead each process of a step gets {bytes} bytes \
                         of address space, and all of them together as much as they take"
                    )
                }
                _ => format!("{flags}: not enforced ({}: {reason})", refused.controller.name()),
            }
        });
        let warnings = warnings.collect();
        let limits = Limits {
            cgroups,
            memory: resources.memory,
            address_space,
        };
        Ok((limits, warnings))
    }

    /// Bytes of memory of a step.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.memory
    }

    /// The step as it is limited, and its cgroup while it runs.
    pub(crate) fn begin<'a>(
        &self,
        spec: &'a ExecSpec,
    ) -> Result<(Option<StepGroup>, Cow<'a, ExecSpec>), Error> {
        let group = self.cgroups.as_ref().map(Cgroups::begin).transpose()?;
        if group.is_none() && self.address_space.is_none() {
            return Ok((None, Cow::Borrowed(spec)));
        }
        let mut limited = spec.clone();
        limited.address_space = self.address_space;
        limited.cgroups = group.as_ref().map(StepGroup::entrances).unwrap_or_default();
        Ok((group, Cow::Owned(limited)))
    }
}

/// Limits the address space of this process and those that come from it.
pub(crate) fn limit_address_space(bytes: u64) -> Result<(), Error> {
    sys::set_limit(libc::RLIMIT_AS, bytes, bytes)
        .map_err(|error| Error::Setup(format!("limiting the address space: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_parsed() {
        for (text, expected) in [
            ("nofile=512:1024", Some((Some(512), Some(1024)))),
            ("nofile=512", Some((Some(512), Some(512)))),
            ("core=0:-1", Some((Some(0), None))),
            ("stack=unlimited", Some((None, None))),
            ("nofile=1024:512", None),
            ("nofile=-1:512", None),
            ("nofile", None),
            ("nofile=x", None),
            ("nofiles=1", None),
        ] {
            let found = text.parse::<Rlimit>().ok();
            assert_eq!(found.map(|limit| (limit.soft, limit.hard)), expected, "{text}");
        }
    }
}
