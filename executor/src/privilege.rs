//! What a step may do beyond or short of the usual: capabilities, system calls, set-user-id programs.

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::caps::DOCKER_DEFAULT;

/// The privileges of a step. The default is Docker's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// `--cap-add`, `--cap-drop`.
    pub capabilities: Capabilities,
    /// `--security-opt seccomp=`.
    pub system_calls: SystemCalls,
    /// `--security-opt no-new-privileges`: programs with the setuid bit or file capabilities gain nothing.
    pub no_new_privileges: bool,
}

/// Which system calls a step may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemCalls {
    /// Those of Docker's default profile, as far as the step's capabilities go with them.
    #[default]
    Usual,
    /// All.
    Unconfined,
    /// Those of a profile, JSON in Docker's format.
    Profile(String),
}

/// Capabilities by their numbers: bit n is capability n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What root in the step holds, as far as the builder has it to give.
    pub held: u64,
    /// What was asked for by name; a step is refused when the builder cannot give it.
    pub demanded: u64,
}

/// A capability that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {name:?}{near}")]
pub struct CapabilityError {
    name: String,
    near: String,
}

const ALL: &str = "ALL";

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            held: DOCKER_DEFAULT.bits(),
            demanded: 0,
        }
    }
}

impl Capabilities {
    /// Docker's fourteen, with `add` and without `drop`: names with or without `CAP_` in any case, or `ALL`. As with
    /// docker, `ALL` of one list is qualified by the names of the other, and a name in both is held.
    pub fn tweaked(add: &[String], drop: &[String]) -> Result<Self, CapabilityError> {
        let (add_all, added) = named(add)?;
        let (drop_all, dropped) = named(drop)?;
        let held = if add_all {
            CapabilitySet::all().difference(dropped)
        } else if drop_all {
            added
        } else {
            DOCKER_DEFAULT.difference(dropped).union(added)
        };
        Ok(Self {
            held: held.bits(),
            demanded: if add_all { 0 } else { added.bits() },
        })
    }

    /// How they differ from the usual ones: `+NET_ADMIN -CHOWN`; empty when they do not.
    pub fn tweaks(self) -> String {
        let held = self.set();
        let more = held.difference(DOCKER_DEFAULT);
        let less = DOCKER_DEFAULT.difference(held);
        let more = more.iter_names().map(|(name, _)| format!("+{name}"));
        let less = less.iter_names().map(|(name, _)| format!("-{name}"));
        more.chain(less).collect::<Vec<_>>().join(" ")
    }

    /// What is held of `available`, or the names of what is demanded and not there.
    pub(crate) fn within(self, available: CapabilitySet) -> Result<CapabilitySet, String> {
        let missing = CapabilitySet::from_bits_truncate(self.demanded).difference(available);
        if missing.is_empty() {
            return Ok(self.set().intersection(available));
        }
        let names: Vec<&str> = missing.iter_names().map(|(name, _)| name).collect();
        Err(names.join(", "))
    }

    /// Those that were asked for by name.
    pub(crate) fn demanded(self) -> CapabilitySet {
        CapabilitySet::from_bits_truncate(self.demanded)
    }

    pub(crate) fn set(self) -> CapabilitySet {
        CapabilitySet::from_bits_truncate(self.held)
    }
}

/// The capabilities of a list, and whether it has `ALL`.
fn named(names: &[String]) -> Result<(bool, CapabilitySet), CapabilityError> {
    let mut all = false;
    let mut set = CapabilitySet::empty();
    for name in names {
        match capability(name) {
            Some(capability) => set |= capability,
            None if name.eq_ignore_ascii_case(ALL) => all = true,
            None => {
                let known = CapabilitySet::all();
                let wanted = plain(name);
                let near = known
                    .iter_names()
                    .map(|(known, _)| known)
                    .find(|known| known.replace('_', "") == wanted.replace(['_', '-', ' '], ""));
                return Err(CapabilityError {
                    name: name.clone(),
                    near: near
                        .map(|near| format!(" (did you mean {near}?)"))
                        .unwrap_or_default(),
                });
            }
        }
    }
    Ok((all, set))
}

/// A capability by its name.
pub(crate) fn capability(name: &str) -> Option<CapabilitySet> {
    CapabilitySet::from_name(&plain(name))
}

fn plain(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").map(str::to_owned).unwrap_or(upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_tweaked_as_by_docker() {
        let bit = |name: &str| capability(name).unwrap().bits();
        let default = Capabilities::default().held;
        let all = CapabilitySet::all().bits();
        for (add, drop, expected) in [
            (&[][..], &[][..], default),
            (&["SYS_ADMIN"], &[], default | bit("SYS_ADMIN")),
            (
                &["cap_net_admin"],
                &["CAP_CHOWN"],
                default & !bit("CHOWN") | bit("NET_ADMIN"),
            ),
            (&["CHOWN"], &["chown"], default),
            (&["NET_ADMIN"], &["ALL"], bit("NET_ADMIN")),
            (&["all"], &["SYS_ADMIN"], all & !bit("SYS_ADMIN")),
            (&["all"], &["all"], all),
            (&[], &["ALL"], 0),
        ] {
            let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            let found = Capabilities::tweaked(&owned(add), &owned(drop)).unwrap();
            assert_eq!(found.held, expected, "+{add:?} -{drop:?}");
        }
        let tweaked = Capabilities::tweaked(&["NET_ADMIN".to_owned()], &["chown".to_owned()]).unwrap();
        assert_eq!(tweaked.tweaks(), "+NET_ADMIN -CHOWN");
        assert_eq!(Capabilities::default().tweaks(), "");
        let error = Capabilities::tweaked(&["SYSADMIN".to_owned()], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown capability \"SYSADMIN\" (did you mean SYS_ADMIN?)"
        );
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        let wanted = Capabilities::tweaked(&["SYS_ADMIN".to_owned()], &[]).unwrap();
        assert_eq!(wanted.within(DOCKER_DEFAULT), Err("SYS_ADMIN".to_owned()));
        assert_eq!(
            Capabilities::default().within(CapabilitySet::CHOWN),
            Ok(CapabilitySet::CHOWN)
        );
    }
}
