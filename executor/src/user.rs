//! `USER` to numbers: who the step runs as (rule R4).
//!
//! `/etc/passwd` and `/etc/group` are files of the image: opened inside the root, regular files only,
//! of bounded size, lines that do not parse ignored as everywhere else. Ids end at 2^31 - 1, as in
//! runc; a larger number is an error and never wraps to root.

use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, OFlags};

use crate::{Error, inroot};

/// BuildKit's `maxUserFileBytes`.
const MAX_FILE: u64 = 10 * 1024 * 1024;
const MAX_ID: u32 = i32::MAX as u32;

/// Who a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one among them.
    pub(crate) groups: Vec<u32>,
    /// The home directory of passwd, `/` when there is none.
    pub(crate) home: String,
}

/// Reads what `user` needs from the image's files and resolves it.
pub(crate) fn resolve_in(root: BorrowedFd<'_>, user: &str) -> Result<Identity, Error> {
    let passwd = read_file(root, "/etc/passwd")?;
    let group = read_file(root, "/etc/group")?;
    resolve(user, &passwd, &group)
}

fn read_file(root: BorrowedFd<'_>, path: &str) -> Result<String, Error> {
    let fail = |why: String| Error::Start(format!("reading {path} of the image: {why}"));
    // O_NONBLOCK: a FIFO must not hold the step up.
    let fd = match inroot::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(fail(e.to_string())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| fail(e.to_string()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fail("not a regular file".to_owned()));
    }
    let mut bytes = Vec::with_capacity((stat.st_size as u64).min(MAX_FILE) as usize);
    std::fs::File::from(fd)
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| fail(e.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fail("larger than 10 MiB".to_owned()));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        Some(Account {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or(""),
        })
    })
}

/// Name, gid, members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

/// A decimal number and nothing else, at most [`MAX_ID`].
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|id| *id <= MAX_ID)
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, Error> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let out_of_range = |what: &str| {
        Error::Start(format!(
            "unable to find user {what}: uids and gids must be in range 0-{MAX_ID}"
        ))
    };

    let number = if name.is_empty() { Some(0) } else { id(name) };
    let account = accounts(passwd).find(|a| {
        if name.is_empty() {
            a.uid == 0
        } else {
            a.name == name
        }
    });
    let account = account.or_else(|| accounts(passwd).find(|a| number == Some(a.uid)));
    let (uid, mut gid) = match (&account, number) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) if is_number(name) => return Err(out_of_range(name)),
        (None, None) => {
            return Err(Error::Start(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
    };
    let home = account
        .as_ref()
        .map(|a| a.home)
        .filter(|h| !h.is_empty())
        .unwrap_or("/")
        .to_owned();

    let mut supplementary = Vec::new();
    if let Some(wanted) = group_name {
        let found = groups(group)
            .find(|(name, ..)| *name == wanted)
            .map(|(_, gid, _)| gid);
        gid = match found.or_else(|| id(wanted)) {
            Some(gid) => gid,
            None if is_number(wanted) => return Err(out_of_range(wanted)),
            None => {
                return Err(Error::Start(format!(
                    "unable to find group {wanted}: no matching entries in group file"
                )));
            }
        };
    } else if let Some(account) = &account {
        let member = |members: &str| members.split(',').any(|m| m.trim() == account.name);
        supplementary = groups(group)
            .filter(|(_, _, members)| member(members))
            .map(|(_, gid, _)| gid)
            .collect();
    }
    // BuildKit's steps have their primary group among the supplementary ones, and so does what `id` prints.
    supplementary.push(gid);
    supplementary.sort_unstable();
    supplementary.dedup();
    Ok(Identity {
        uid,
        gid,
        groups: supplementary,
        home,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nalice:x:1000:1001::/home/alice:/bin/sh\n\
                          1234:x:77:78::/odd:/bin/sh\nbig:x:4294967296:0::/:\nnohome:x:5:5\n";
    const GROUP: &str =
        "root:x:0:root\nwheel:x:10:alice,bob\nalice:x:1001:\nvideo:x:44:bob, alice\nbad:x:zz:alice\n";

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn users_that_resolve() {
        for (user, expected) in [
            ("", identity(0, 0, &[0], "/root")),
            ("root", identity(0, 0, &[0], "/root")),
            ("0", identity(0, 0, &[0], "/root")),
            ("alice", identity(1000, 1001, &[10, 44, 1001], "/home/alice")),
            ("1000", identity(1000, 1001, &[10, 44, 1001], "/home/alice")),
            ("alice:", identity(1000, 1001, &[10, 44, 1001], "/home/alice")),
            ("alice:wheel", identity(1000, 10, &[10], "/home/alice")),
            ("1000:7", identity(1000, 7, &[7], "/home/alice")),
            ("4242", identity(4242, 0, &[0], "/")),
            ("4242:44", identity(4242, 44, &[44], "/")),
            ("1234", identity(77, 78, &[78], "/odd")),
            ("nohome", identity(5, 5, &[5], "/")),
            ("2147483647", identity(2147483647, 0, &[0], "/")),
        ] {
            assert_eq!(resolve(user, PASSWD, GROUP).unwrap(), expected, "{user:?}");
        }
        assert_eq!(
            resolve("", "", "").unwrap(),
            identity(0, 0, &[0], "/"),
            "an image without passwd"
        );
    }

    #[test]
    fn users_that_do_not() {
        for (user, expected) in [
            (
                "bob",
                "unable to find user bob: no matching entries in passwd file",
            ),
            (
                "alice:nobody",
                "unable to find group nobody: no matching entries in group file",
            ),
            (
                "big",
                "unable to find user big: no matching entries in passwd file",
            ),
            (
                "0x0",
                "unable to find user 0x0: no matching entries in passwd file",
            ),
            (
                "1e3",
                "unable to find user 1e3: no matching entries in passwd file",
            ),
            (" 0", "unable to find user  0: no matching entries in passwd file"),
            (
                "-1",
                "unable to find user -1: uids and gids must be in range 0-2147483647",
            ),
            (
                "2147483648",
                "unable to find user 2147483648: uids and gids must be in range 0-2147483647",
            ),
            (
                "4294967295",
                "unable to find user 4294967295: uids and gids must be in range 0-2147483647",
            ),
            (
                "4294967296",
                "unable to find user 4294967296: uids and gids must be in range 0-2147483647",
            ),
            (
                "0:4294967296",
                "unable to find user 4294967296: uids and gids must be in range 0-2147483647",
            ),
        ] {
            assert_eq!(
                resolve(user, PASSWD, GROUP).unwrap_err().to_string(),
                expected,
                "{user:?}"
            );
        }
    }
}
