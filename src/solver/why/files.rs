//! Which files of two selections differ, and in what.

use rbuild_cache::{Key, ListChange, Store};

use super::cause::{Aspect, Cause, FileChange};
use crate::error::BuildError;
use crate::solver::ops::facts::FileFacts;
use crate::solver::ops::select::Selection;

/// Files that are named in a cause.
pub const MOST: usize = 1000;

/// Keeps what a copy reads, for a later comparison.
pub(super) fn keep(store: &Store, selection: &Selection) -> Result<(), BuildError> {
    let items = || {
        let items = selection.facts();
        items.map(|(path, facts)| (path, serde_json::to_vec(&facts).unwrap_or_default()))
    };
    store.put_list(&selection.key(), items).map_err(BuildError::new)
}

/// What changed between two selections that were kept. Of one that was not, no file is named.
pub(super) fn compare(store: &Store, before: &Key, after: &Key) -> Result<Cause, BuildError> {
    let changed = store.compare_lists(before, after).map_err(BuildError::new)?;
    let mut changes: Vec<FileChange> = changed.iter().flatten().flat_map(aspects).collect();
    let more = changes.len().saturating_sub(MOST);
    changes.truncate(MOST);
    Ok(Cause::Files { changes, more })
}

/// All that is different about one path.
fn aspects(change: &ListChange) -> Vec<FileChange> {
    let path = String::from_utf8_lossy(&change.path).into_owned();
    let read = |facts: &Option<Vec<u8>>| -> Option<FileFacts> {
        facts
            .as_deref()
            .and_then(|json| serde_json::from_slice(json).ok())
    };
    let plain = |change| FileChange {
        path: path.clone(),
        change,
        from: None,
        to: None,
    };
    let (before, after) = match (read(&change.before), read(&change.after)) {
        (None, _) => return vec![plain(Aspect::Added)],
        (_, None) => return vec![plain(Aspect::Removed)],
        (Some(before), Some(after)) => (before, after),
    };
    let told = |change, from: String, to: String| FileChange {
        from: Some(from),
        to: Some(to),
        ..plain(change)
    };
    if before.kind != after.kind {
        return vec![told(Aspect::Type, before.kind, after.kind)];
    }
    let FileFacts {
        kind: _,
        mode,
        owner,
        content,
        target,
        attributes,
        is_linked,
    } = &after;
    let mut changes = Vec::new();
    if before.content != *content {
        changes.push(plain(Aspect::Content));
    }
    if before.target != *target {
        let word = |target: &Option<String>| target.clone().unwrap_or_default();
        changes.push(told(Aspect::Link, word(&before.target), word(target)));
    }
    if before.mode != *mode {
        let octal = |mode: u32| format!("{mode:04o}");
        changes.push(told(Aspect::Mode, octal(before.mode), octal(*mode)));
    }
    if before.owner != *owner {
        let ids = |(uid, gid): (u32, u32)| format!("{uid}:{gid}");
        changes.push(told(Aspect::Owner, ids(before.owner), ids(*owner)));
    }
    if before.attributes != *attributes {
        changes.push(plain(Aspect::Xattr));
    }
    if before.is_linked != *is_linked {
        changes.push(plain(Aspect::Hardlink));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(change: impl FnOnce(&mut FileFacts)) -> Option<Vec<u8>> {
        let mut facts = FileFacts {
            kind: "file".to_owned(),
            mode: 0o644,
            content: Some("0123".to_owned()),
            ..FileFacts::default()
        };
        change(&mut facts);
        Some(serde_json::to_vec(&facts).unwrap())
    }

    #[test]
    fn each_aspect_is_named() {
        let named = |before, after| {
            let change = ListChange {
                path: b"a".to_vec(),
                before,
                after,
            };
            let aspects = aspects(&change);
            aspects.iter().map(|it| it.change).collect::<Vec<_>>()
        };
        let plain = || facts(|_| {});
        assert_eq!(named(None, plain()), [Aspect::Added]);
        assert_eq!(named(plain(), None), [Aspect::Removed]);
        assert_eq!(named(plain(), plain()), []);
        for (after, aspect) in [
            (facts(|it| it.kind = "directory".to_owned()), Aspect::Type),
            (facts(|it| it.content = None), Aspect::Content),
            (facts(|it| it.target = Some("x".to_owned())), Aspect::Link),
            (facts(|it| it.mode = 0o600), Aspect::Mode),
            (facts(|it| it.owner = (1, 0)), Aspect::Owner),
            (
                facts(|it| it.attributes.push(("a".to_owned(), "b".to_owned()))),
                Aspect::Xattr,
            ),
            (facts(|it| it.is_linked = true), Aspect::Hardlink),
        ] {
            assert_eq!(named(plain(), after), [aspect]);
        }
        let both = facts(|it| (it.mode, it.content) = (0o600, None));
        assert_eq!(named(plain(), both), [Aspect::Content, Aspect::Mode]);
    }
}
