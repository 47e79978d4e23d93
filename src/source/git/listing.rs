//! What `git ls-tree -z` says.

use std::io;

use super::failure::Failure;

/// What an entry of a commit's tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A directory.
    Directory,
    /// A commit of another repository.
    Submodule,
}

/// An entry of a commit's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is.
    pub kind: Kind,
    /// Its mode, as git writes it.
    pub mode: String,
    /// Its object.
    pub id: String,
    /// Where it is, from the top.
    pub path: Vec<u8>,
}

/// `MODE TYPE ID\tPATH\0` ...
pub fn parse(output: &[u8]) -> Result<Vec<Listed>, Failure> {
    let odd = || Failure::Read(io::Error::other("the list of files is not understood"));
    output
        .split(|byte| *byte == 0)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let tab = line.iter().position(|byte| *byte == b'\t').ok_or_else(odd)?;
            let (facts, path) = (&line[..tab], &line[tab + 1..]);
            let facts = std::str::from_utf8(facts).map_err(|_| odd())?;
            let mut words = facts.split(' ');
            let (mode, _, id) = (words.next(), words.next(), words.next().ok_or_else(odd)?);
            let kind = match mode {
                Some("100644" | "100755" | "100664") => Kind::File,
                Some("120000") => Kind::Link,
                Some("040000") => Kind::Directory,
                Some("160000") => Kind::Submodule,
                _ => return Err(odd()),
            };
            Ok(Listed {
                kind,
                mode: mode.unwrap_or_default().to_owned(),
                id: id.to_owned(),
                path: path.to_owned(),
            })
        })
        .collect()
}

/// The same as `git update-index --index-info -z` wants it.
pub fn index_info(listed: &[Listed]) -> Vec<u8> {
    let mut lines = Vec::new();
    for entry in listed {
        lines.extend_from_slice(format!("{} {}\t", entry.mode, entry.id).as_bytes());
        lines.extend_from_slice(&entry.path);
        lines.push(0);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_apart() {
        let lines = &b"100644 aa\tx\x00160000 cc\td/s\0"[..];
        let entries = parse(b"100644 blob aa\tx\x00160000 commit cc\td/s\0").unwrap();
        assert_eq!(index_info(&entries), lines);
        let listed =
            parse(b"100644 blob aa\ta b\tc\n\x00120000 blob bb\tl\x00160000 commit cc\td/s\0").unwrap();
        let kinds: Vec<Kind> = listed.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::File, Kind::Link, Kind::Submodule]);
        assert_eq!(
            (listed[0].id.as_str(), listed[0].path.as_slice()),
            ("aa", &b"a b\tc\n"[..])
        );
        assert!(parse(b"").unwrap().is_empty());
        assert!(parse(b"100600 blob aa\tx\0").is_err());
        assert!(parse(b"nonsense\0").is_err());
    }
}
