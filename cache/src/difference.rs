//! How does one tree differ from another? What a layer has to say that makes the new one of the old.

use std::cmp::Ordering;

use crate::layer::{Entry, Kind, LayerPath};
use crate::tree::{Tree, TreeError};

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only the new tree has it.
    Added,
    /// Both have it and it is not the same, or it is a directory in which something is not the same.
    Changed,
    /// Only the old tree has it.
    Deleted,
}

/// A path that is not the same in both trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What became of it.
    pub kind: ChangeKind,
    /// The entry as the new tree has it; of what was deleted, as the old one had it.
    pub entry: Entry,
}

/// Which times count as a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Those of everything but directories, by the second: directories change with what is in them.
    Compared,
    /// None.
    Ignored,
}

/// All changes that lead from `old` to `new`, sorted by path; directories come before what lies in them and are never left
/// out. What is below a deleted directory goes without saying.
pub fn difference(old: &dyn Tree, new: &dyn Tree, times: Times) -> Result<Vec<Change>, TreeError> {
    let mut changes = Vec::new();
    Comparison { old, new, times }.directory(&LayerPath::root(), true, &mut changes)?;
    Ok(changes)
}

struct Comparison<'a> {
    old: &'a dyn Tree,
    new: &'a dyn Tree,
    times: Times,
}

impl Comparison<'_> {
    /// Compares what is in the directory `path` of both trees; without `both` only the new one has it.
    fn directory(&self, path: &LayerPath, both: bool, changes: &mut Vec<Change>) -> Result<(), TreeError> {
        let old = if both {
            self.old.read_dir(path)?
        } else {
            Vec::new()
        };
        let mut old = old.into_iter().peekable();
        let mut new = self.new.read_dir(path)?.into_iter().peekable();
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.path.name().cmp(new.path.name()),
            };
            let before = (order != Ordering::Greater).then(|| old.next()).flatten();
            let after = (order != Ordering::Less).then(|| new.next()).flatten();
            match (before, after) {
                (Some(entry), None) => changes.push(Change {
                    kind: ChangeKind::Deleted,
                    entry,
                }),
                (before, Some(after)) => self.entry(before.as_ref(), after, changes)?,
                (None, None) => return Ok(()),
            }
        }
    }

    fn entry(
        &self,
        before: Option<&Entry>,
        after: Entry,
        changes: &mut Vec<Change>,
    ) -> Result<(), TreeError> {
        let kind = match before {
            None => Some(ChangeKind::Added),
            Some(before) if self.same(before, &after)? => None,
            Some(_) => Some(ChangeKind::Changed),
        };
        let directory = after.is_dir().then(|| after.path.clone());
        let place = changes.len();
        changes.push(Change {
            kind: kind.unwrap_or(ChangeKind::Changed),
            entry: after,
        });
        if let Some(path) = directory {
            self.directory(&path, before.is_some_and(Entry::is_dir), changes)?;
        }
        // Nothing to say of it, nor of anything in it.
        if kind.is_none() && changes.len() == place + 1 {
            changes.truncate(place);
        }
        Ok(())
    }

    fn same(&self, before: &Entry, after: &Entry) -> Result<bool, TreeError> {
        let attributes = |entry: &Entry| (entry.mode, entry.uid, entry.gid);
        if before.kind != after.kind
            || attributes(before) != attributes(after)
            || before.xattrs != after.xattrs
        {
            return Ok(false);
        }
        if self.times == Times::Compared && !after.is_dir() && before.mtime.seconds != after.mtime.seconds {
            return Ok(false);
        }
        Ok(match after.kind {
            Kind::File { .. } => self.old.content_digest(before)? == self.new.content_digest(after)?,
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::digest::ContentDigest;
    use crate::layer::Timestamp;

    /// Path, mode, content (`None` for a directory), time.
    struct Fixture(Vec<(&'static str, u32, Option<&'static str>, i64)>);

    impl Fixture {
        fn entries(&self) -> impl Iterator<Item = Entry> {
            self.0.iter().map(|(path, mode, content, seconds)| Entry {
                path: LayerPath::clean(path.as_bytes()),
                kind: match content {
                    None => Kind::Directory { opaque: false },
                    Some(text) => Kind::File {
                        size: text.len() as u64,
                    },
                },
                mode: *mode,
                mtime: Timestamp {
                    seconds: *seconds,
                    nanoseconds: 0,
                },
                ..Entry::root()
            })
        }
    }

    impl Tree for Fixture {
        fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
            Ok(self.entries().find(|entry| entry.path == *path))
        }
        fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
            Ok(self
                .entries()
                .filter(|entry| entry.path.parent().as_ref() == Some(path))
                .collect())
        }
        fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
            let found = self
                .0
                .iter()
                .find(|(name, ..)| *name == path.to_string().trim_start_matches('/'));
            Ok(Box::new(
                found
                    .and_then(|(_, _, content, _)| *content)
                    .unwrap_or_default()
                    .as_bytes(),
            ))
        }
        fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
            let mut bytes = Vec::new();
            self.open(&entry.path)?.read_to_end(&mut bytes).unwrap();
            Ok(ContentDigest(*blake3::hash(&bytes).as_bytes()))
        }
        fn link_group(&self, _: &Entry) -> Result<Option<u64>, TreeError> {
            Ok(None)
        }
    }

    #[test]
    fn what_is_said() {
        let old = Fixture(vec![
            ("a", 0o755, None, 0),
            ("a/gone", 0o644, Some("x"), 0),
            ("a/same", 0o644, Some("x"), 0),
            ("a/text", 0o644, Some("x"), 0),
            ("b", 0o755, None, 0),
            ("b/same", 0o644, Some("x"), 0),
            ("c", 0o755, None, 0),
            ("c/below", 0o644, Some("x"), 0),
            ("mode", 0o644, Some("x"), 0),
            ("time", 0o644, Some("x"), 0),
            ("turns", 0o644, Some("x"), 0),
        ]);
        let new = Fixture(vec![
            ("a", 0o755, None, 5),
            ("a/same", 0o644, Some("x"), 0),
            ("a/text", 0o644, Some("y"), 0),
            ("b", 0o755, None, 5),
            ("b/same", 0o644, Some("x"), 0),
            ("mode", 0o600, Some("x"), 0),
            ("new", 0o755, None, 0),
            ("new/file", 0o644, Some("x"), 0),
            ("time", 0o644, Some("x"), 5),
            ("turns", 0o755, None, 0),
            ("turns/in", 0o644, Some("x"), 0),
        ]);
        let said = |times| -> Vec<String> {
            let line = |change: Change| {
                let letter = match change.kind {
                    ChangeKind::Added => 'A',
                    ChangeKind::Changed => 'C',
                    ChangeKind::Deleted => 'D',
                };
                format!("{letter} {}", change.entry.path)
            };
            difference(&old, &new, times)
                .unwrap()
                .into_iter()
                .map(line)
                .collect()
        };
        let ignored = [
            "C /a",
            "D /a/gone",
            "C /a/text",
            "D /c",
            "C /mode",
            "A /new",
            "A /new/file",
            "C /turns",
            "A /turns/in",
        ];
        assert_eq!(said(Times::Ignored), ignored);
        let compared = said(Times::Compared);
        assert_eq!(compared.len(), ignored.len() + 1);
        assert!(compared.contains(&"C /time".to_owned()));
        assert!(difference(&new, &new, Times::Compared).unwrap().is_empty());
    }
}
