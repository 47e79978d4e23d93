//! The ids of a user namespace: 0 is the user, 1 and up are the user's subordinate ids.
//!
//! The maps are written by `newuidmap` and `newgidmap`, which check them against `/etc/subuid`
//! and `/etc/subgid`; what is read here is only a proposal. Root of a container may write them itself, and maps every
//! id to itself.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::thread::{CapabilitySet, capabilities};

use crate::Error;

/// What is written: triples of inside, outside, count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap(Vec<(u32, u32, u32)>);

/// Both maps and who writes them.
#[derive(Debug)]
pub(crate) struct IdMaps {
    uid: (Writer, IdMap),
    gid: (Writer, IdMap),
    /// How many ids there are inside.
    pub(crate) count: u32,
}

#[derive(Debug)]
enum Writer {
    /// A program that may do it.
    Program(PathBuf),
    /// This process, into the file of that name.
    Own(&'static str),
}

impl IdMap {
    /// Every id of the namespace with the map `text` as itself.
    fn same(text: &str) -> Option<IdMap> {
        let ranges = text.lines().map(|line| {
            let mut fields = line.split_whitespace().map(|field| field.parse::<u32>().ok());
            let (first, _, count) = (fields.next()??, fields.next()??, fields.next()??);
            Some((first, first, count))
        });
        ranges.collect::<Option<Vec<_>>>().map(IdMap)
    }

    /// `own` as 0, then all ranges one after another.
    fn new(own: u32, ranges: &[(u32, u32)]) -> IdMap {
        let mut map = vec![(0, own, 1)];
        let mut next = 1u32;
        for &(start, count) in ranges {
            let count = count.min(u32::MAX - next).min(u32::MAX - start);
            if count > 0 {
                map.push((next, start, count));
                next += count;
            }
        }
        IdMap(map)
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|(_, _, count)| count).sum()
    }

    fn arguments(&self) -> impl Iterator<Item = String> {
        self.0
            .iter()
            .flat_map(|(inside, outside, count)| [inside.to_string(), outside.to_string(), count.to_string()])
    }
}

impl IdMaps {
    /// What the calling user can have; the error names what is missing.
    pub(crate) fn of_caller() -> Result<IdMaps, String> {
        if let Some(maps) = IdMaps::of_container() {
            return Ok(maps);
        }
        let uid = rustix::process::getuid().as_raw();
        let gid = rustix::process::getgid().as_raw();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = name_of(uid, &passwd)
            .or_else(|| std::env::var("USER").ok())
            .unwrap_or_default();
        let read = |file: &str, program: &str, own: u32| {
            let path = in_path(program).ok_or_else(|| {
                format!(
                    "{program} is not installed (package uidmap on Debian and Ubuntu, shadow-utils on Fedora)"
                )
            })?;
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let ranges = ranges(&text, &name, uid);
            if ranges.is_empty() {
                let who = if name.is_empty() {
                    uid.to_string()
                } else {
                    name.clone()
                };
                return Err(format!(
                    "{file} gives no subordinate ids to {who} (as root: usermod --add-subuids 100000-165535 \
                     --add-subgids 100000-165535 {who})"
                ));
            }
            Ok((Writer::Program(path), IdMap::new(own, &ranges)))
        };
        let uid_map = read("/etc/subuid", "newuidmap", uid)?;
        let gid_map = read("/etc/subgid", "newgidmap", gid)?;
        let count = uid_map.1.count().min(gid_map.1.count());
        Ok(IdMaps {
            uid: uid_map,
            gid: gid_map,
            count,
        })
    }

    /// What root of a container may have: it lacks what makes root of the machine, and may give away all of its ids.
    fn of_container() -> Option<IdMaps> {
        let held = capabilities(None).ok()?.effective;
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETFCAP;
        if !rustix::process::geteuid().is_root()
            || held.contains(CapabilitySet::SYS_ADMIN)
            || !held.contains(needed)
        {
            return None;
        }
        let map = |name: &str| IdMap::same(&std::fs::read_to_string(format!("/proc/self/{name}")).ok()?);
        let (uid, gid) = (map("uid_map")?, map("gid_map")?);
        let count = uid.count().min(gid.count());
        Some(IdMaps {
            uid: (Writer::Own("uid_map"), uid),
            gid: (Writer::Own("gid_map"), gid),
            count,
        })
    }

    /// Writes both maps of the process `pid`. Called from outside its user namespace.
    pub(crate) fn write(&self, pid: i32) -> Result<(), Error> {
        for (writer, map) in [&self.uid, &self.gid] {
            let program = match writer {
                Writer::Program(program) => program,
                Writer::Own(file) => {
                    let lines = map
                        .0
                        .iter()
                        .map(|(inside, outside, count)| format!("{inside} {outside} {count}\n"));
                    std::fs::write(format!("/proc/{pid}/{file}"), lines.collect::<String>()).map_err(
                        |e| Error::Unavailable {
                            reason: format!("writing the {file} of a user namespace: {e}"),
                        },
                    )?;
                    continue;
                }
            };
            let fail = |why: String| Error::Unavailable {
                reason: format!("{}: {why}", program.display()),
            };
            let output = Command::new(program)
                .arg(pid.to_string())
                .args(map.arguments())
                .stdin(Stdio::null())
                .output()
                .map_err(|e| fail(e.to_string()))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(fail(format!(
                    "{}; it has to be setuid root or to have the capability cap_setuid (cap_setgid)",
                    said.trim()
                )));
            }
        }
        Ok(())
    }
}

/// The maps of a namespace that has only the caller's own id, as 0. Every process may write them for itself.
#[derive(Debug)]
pub(crate) struct SingleId {
    uid: u32,
    gid: u32,
}

impl SingleId {
    /// Of the process as it is outside of the namespace.
    pub(crate) fn of_caller() -> SingleId {
        SingleId {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// Writes both maps of the process' own, new namespace.
    pub(crate) fn write(&self) -> std::io::Result<()> {
        // Without this the kernel accepts no map of groups: giving up a group must not open a file to anybody.
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {} 1", self.uid))?;
        std::fs::write("/proc/self/gid_map", format!("0 {} 1", self.gid))
    }
}

fn name_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges of `/etc/subuid` for a user, by name or by number.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let wanted = owner == number || (!name.is_empty() && owner == name);
            let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (wanted && range.1 > 0).then_some(range)
        })
        .collect()
}

pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/local/bin".into());
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_name_and_by_number() {
        let text = "alice:100000:65536\nbob:200000:10\n1000:300000:5\nalice:x:y\nalice:1:0\n\n";
        assert_eq!(ranges(text, "alice", 1000), [(100000, 65536), (300000, 5)]);
        assert_eq!(ranges(text, "", 1000), [(300000, 5)]);
        assert_eq!(ranges(text, "carol", 7), []);
    }

    #[test]
    fn maps_are_gapless_inside() {
        let map = IdMap::new(1000, &[(100000, 65536), (300000, 5)]);
        assert_eq!(map.0, [(0, 1000, 1), (1, 100000, 65536), (65537, 300000, 5)]);
        assert_eq!(map.count(), 65542);
        assert_eq!(map.arguments().take(3).collect::<Vec<_>>(), ["0", "1000", "1"]);
        assert_eq!(IdMap::new(0, &[(1, u32::MAX)]).count(), u32::MAX);
    }

    #[test]
    fn every_id_as_itself() {
        let map = IdMap::same("         0     100000      65536\n     65536 1 5\n").unwrap();
        assert_eq!(map.0, [(0, 0, 65536), (65536, 65536, 5)]);
        assert_eq!(IdMap::same("0 0 x\n"), None);
    }

    #[test]
    fn names_come_from_passwd() {
        assert_eq!(
            name_of(1000, "root:x:0:0::/:\nalice:x:1000:1::/:").as_deref(),
            Some("alice")
        );
        assert_eq!(name_of(7, "root:x:0:0::/:"), None);
    }
}
