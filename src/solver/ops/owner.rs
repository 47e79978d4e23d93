//! Users and groups as `--chown` and USER name them (spec P13, R5), looked up in the files of an image and nowhere else.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context as _, bail};
use rbuild_cache::layer::{Kind, LayerPath};
use rbuild_cache::tree::{self, Tree};

/// Bytes of `/etc/passwd` or `/etc/group` that are read; BuildKit has the same limit.
const USER_FILE_LIMIT: u64 = 10 << 20;

/// A user and a group inside an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// `user`, `user:group` or `:group`, each a number or a name of `image`, which is `None` where no image may be
    /// looked at (`--link`). Numbers are not looked up; a number without a group is its own group, a name without one
    /// has its primary group.
    pub fn parse(text: &str, image: Option<&dyn Tree>) -> anyhow::Result<Self> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let (uid, primary) = match user.parse::<u32>() {
            _ if user.is_empty() => (0, 0),
            Ok(uid) => (uid, uid),
            Err(_) => {
                let (uid, gid) = find(image, "user", "etc/passwd", user)?;
                (uid, gid.unwrap_or(uid))
            }
        };
        let gid = match group.parse() {
            _ if group.is_empty() => primary,
            Ok(gid) => gid,
            Err(_) => find(image, "group", "etc/group", group)?.0,
        };
        Ok(Self { uid, gid })
    }
}

/// The third field of the line called `name`, and the fourth if it is a number.
fn find(image: Option<&dyn Tree>, what: &str, file: &str, name: &str) -> anyhow::Result<(u32, Option<u32>)> {
    // BuildKit's words, for those who look for them.
    let absent = || format!("invalid {what} index: -1: there is no /{file} to look up {what} {name:?} in");
    let Some(image) = image else { bail!(absent()) };
    let doing = || format!("looking up {what} {name:?} in /{file}");
    let found = tree::resolve(image, &LayerPath::clean(file.as_bytes())).with_context(doing)?;
    match found.entry.map(|entry| entry.kind) {
        Some(Kind::File { size }) if size > USER_FILE_LIMIT => {
            return Err(anyhow::anyhow!("the file is larger than {USER_FILE_LIMIT} bytes"))
                .with_context(doing);
        }
        Some(Kind::File { .. }) => {}
        Some(_) => return Err(anyhow::anyhow!("it is no regular file")).with_context(doing),
        None => bail!(absent()),
    }
    let reader = image.open(&found.path).with_context(doing)?.take(USER_FILE_LIMIT);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.with_context(doing)?;
        let mut fields = line.split(|b| *b == b':').map(<[u8]>::trim_ascii);
        let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse::<u32>().ok();
        if fields.next() == Some(name.as_bytes())
            && let Some(id) = number(fields.nth(1))
        {
            return Ok((id, number(fields.next())));
        }
    }
    bail!("unable to find {what} {name}: no matching entries in /{file}")
}
