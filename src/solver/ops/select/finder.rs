//! Looks up one operand: patterns, links, excludes, and all that lies below a directory.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context as _;
use rbuild_cache::layer::{Kind, LayerPath};
use rbuild_cache::tree::{self, Listed, Tree};
use rbuild_parser::glob;
use rbuild_parser::ignore::Matcher;

use super::super::{SourceNumber, add};
use super::pattern::split_pattern;
use super::{Found, Item, Match, Relative};

/// What is known while one operand is looked up.
pub(super) struct Finder<'a> {
    pub number: SourceNumber,
    pub source: &'a dyn Tree,
    pub excludes: Option<&'a Matcher>,
    /// Whether archives are unpacked.
    pub unpack: bool,
    /// Whether a directory that is named is taken itself.
    pub itself: bool,
    pub written: &'a str,
}

impl Finder<'_> {
    /// Adds what an operand without `--parents` means.
    pub fn plain(&self, matches: &mut Vec<Match>) -> anyhow::Result<()> {
        let path = LayerPath::clean(self.written.as_bytes());
        let Some((literal, pattern)) = split_pattern(&path)? else {
            let path = self.unescaped(path)?;
            return self.matched(&path, matches);
        };
        let from = tree::resolve(self.source, &literal)?;
        let mut paths = Vec::new();
        if from.entry.is_some_and(|entry| entry.is_dir()) {
            let (literal, pattern) = (literal, pattern.as_slice());
            self.expand(&from.path, &literal, pattern, false, &mut |_, lexical| {
                paths.push(lexical)
            })?;
        }
        paths.iter().try_for_each(|path| self.matched(path, matches))
    }

    /// A literal path as it stands, or without its backslashes if only that exists.
    fn unescaped(&self, path: LayerPath) -> anyhow::Result<LayerPath> {
        if !path.as_bytes().contains(&b'\\') || tree::resolve(self.source, &path)?.entry.is_some() {
            return Ok(path);
        }
        let mut plain = Vec::new();
        let mut bytes = path.as_bytes().iter();
        while let Some(byte) = bytes.next() {
            plain.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
        }
        Ok(LayerPath::clean(&plain))
    }

    /// Takes what `path` leads to; a symbolic link at its end is followed and gives its own name (spec P10).
    pub fn matched(&self, path: &LayerPath, matches: &mut Vec<Match>) -> anyhow::Result<()> {
        let real = tree::resolve(self.source, path)?;
        let Some(entry) = real.entry else {
            return Err(not_found(path));
        };
        let name = path.name().to_vec();
        let found = if entry.is_dir() {
            let relative = LayerPath::root();
            let mut items = Vec::new();
            if self.itself {
                items.push(Item {
                    relative: Relative::Path(relative.clone()),
                    entry: Arc::new(entry),
                    digest: None,
                    link: None,
                });
            }
            self.collect(&real.path, &relative, &mut items)?;
            Found::Contents(items)
        } else {
            let excluded = |by: &Matcher| by.excludes(&name) || by.excludes(path.as_bytes());
            if self.excludes.is_some_and(excluded) {
                return Ok(());
            }
            let relative = LayerPath::root().join(&name);
            let item = Item {
                relative: Relative::Path(relative),
                entry: Arc::new(entry),
                digest: None,
                link: None,
            };
            let unpack = self.unpack && matches!(item.entry.kind, Kind::File { .. });
            if unpack && add::is_archive(self.source.open(&real.path)?).with_context(|| path.to_string())? {
                Found::Archive(item)
            } else {
                Found::File(item)
            }
        };
        matches.push(Match {
            source: self.number,
            name,
            found,
        });
        Ok(())
    }

    /// The operand of `--parents`: a pattern below a pivot, whose matches keep their path below it (spec P30).
    pub fn with_parents(&self) -> anyhow::Result<Match> {
        let (pivot, rest) = self.written.split_once("/./").unwrap_or(("", self.written));
        let pivot = LayerPath::clean(pivot.as_bytes());
        let rest = LayerPath::clean(rest.as_bytes());
        let from = tree::resolve(self.source, &pivot)?;
        if !from.entry.is_some_and(|entry| entry.is_dir()) {
            return Err(not_found(&pivot));
        }
        let mut found = Vec::new();
        match split_pattern(&rest)? {
            Some((literal, pattern)) => {
                let start = tree::resolve(self.source, &from.path.append(&literal))?;
                if start.entry.is_some_and(|entry| entry.is_dir()) {
                    let take = &mut |real, lexical| found.push((real, lexical));
                    self.expand(&start.path, &literal, &pattern, true, take)?;
                }
            }
            None => {
                let real = tree::resolve_parent(self.source, &from.path.append(&rest))?;
                if real.entry.is_none() {
                    return Err(not_found(&from.path.append(&rest)));
                }
                found.push((real.path, rest));
            }
        }
        // A directory comes before what lies in it, which is then taken with it and not again.
        found.sort_by(|(_, a), (_, b)| a.cmp(b));
        let mut items: Vec<Item> = Vec::new();
        let mut seen = HashSet::new();
        for (real, lexical) in found {
            if seen.contains(&lexical) {
                continue;
            }
            let entry = self.source.lookup(&real)?.ok_or_else(|| not_found(&real))?;
            let excluded = |by: &Matcher| by.excludes(lexical.as_bytes()) || by.excludes(lexical.name());
            let excluded = self.excludes.is_some_and(excluded);
            let mut below = Vec::new();
            if entry.is_dir() {
                self.collect(&real, &lexical, &mut below)?;
            }
            if excluded && below.is_empty() {
                continue;
            }
            self.parents_of(&from.path, &lexical, &mut seen, &mut items)?;
            if !lexical.is_root() {
                below.insert(
                    0,
                    Item {
                        relative: Relative::Path(lexical),
                        entry: Arc::new(entry),
                        digest: None,
                        link: None,
                    },
                );
            }
            seen.extend(below.iter().map(|item| LayerPath::clean(item.relative())));
            items.append(&mut below);
        }
        Ok(Match {
            source: self.number,
            name: Vec::new(),
            found: Found::Parents(items),
        })
    }

    /// Adds the directories above `lexical` that are not there yet, with the metadata of the source (spec P31).
    fn parents_of(
        &self,
        pivot: &LayerPath,
        lexical: &LayerPath,
        seen: &mut HashSet<LayerPath>,
        items: &mut Vec<Item>,
    ) -> anyhow::Result<()> {
        let mut relative = LayerPath::root();
        let count = lexical.components().count();
        for component in lexical.components().take(count.saturating_sub(1)) {
            relative = relative.join(component);
            if seen.insert(relative.clone()) {
                let real = tree::resolve(self.source, &pivot.append(&relative))?;
                let entry = real.entry.ok_or_else(|| not_found(&real.path))?;
                items.push(Item {
                    relative: Relative::Path(relative.clone()),
                    entry: Arc::new(entry),
                    digest: None,
                    link: None,
                });
            }
        }
        Ok(())
    }

    /// Gives `take` what matches `pattern` below the directory `real`, in the order of a walk. `lexical` is how that
    /// directory is called for the user. Directories above the last component are real ones: links are not followed.
    fn expand(
        &self,
        real: &LayerPath,
        lexical: &LayerPath,
        pattern: &[Vec<u8>],
        double_star: bool,
        take: &mut dyn FnMut(LayerPath, LayerPath),
    ) -> anyhow::Result<()> {
        let Some((first, rest)) = pattern.split_first() else {
            take(real.clone(), lexical.clone());
            return Ok(());
        };
        let any_depth = double_star && first == b"**";
        if any_depth && rest.is_empty() {
            for entry in self.source.read_dir(real)? {
                let name = lexical.join(entry.path.name());
                take(entry.path, name);
            }
            return Ok(());
        }
        if any_depth {
            self.expand(real, lexical, rest, double_star, take)?;
        } else if !glob::is_pattern(first) {
            let path = real.join(first);
            if let Some(entry) = self.source.lookup(&path)?
                && (rest.is_empty() || entry.is_dir())
            {
                self.expand(&path, &lexical.join(first), rest, double_star, take)?;
            }
            return Ok(());
        }
        for entry in self.source.read_dir(real)? {
            if !entry.is_dir() && (any_depth || !rest.is_empty()) {
                continue;
            }
            let name = entry.path.name().to_vec();
            if any_depth {
                self.expand(&entry.path, &lexical.join(&name), pattern, double_star, take)?;
            } else if glob::matches(first, &name)? {
                self.expand(&entry.path, &lexical.join(&name), rest, double_star, take)?;
            }
        }
        Ok(())
    }

    /// Adds all that lies below the directory `real` and is not excluded. `relative` is the directory at the
    /// destination. Not recursive: the depth of a tree is its maker's choice.
    fn collect(&self, real: &LayerPath, relative: &LayerPath, items: &mut Vec<Item>) -> anyhow::Result<()> {
        let below = |path: &LayerPath| path.strip_prefix(real).map(|path| relative.append(&path));
        let enter = |path: &LayerPath| match (self.excludes, below(path)) {
            (Some(by), Some(path)) => !by.excludes(path.as_bytes()) || by.may_include_below(path.as_bytes()),
            _ => true,
        };
        let start = common_end(real, relative);
        self.source.prefetch(real, &enter)?;
        let mut open = vec![Level {
            entries: self.source.list(real)?.into_iter(),
            held: None,
        }];
        while let Some(level) = open.last_mut() {
            let Some(Listed { entry, known }) = level.entries.next() else {
                // A directory that is excluded exists to hold what is included again, or not at all.
                if level.held.is_some_and(|index| index + 1 == items.len()) {
                    items.pop();
                }
                open.pop();
                continue;
            };
            let excludes = |by: &Matcher| below(&entry.path).is_some_and(|path| by.excludes(path.as_bytes()));
            let excluded = self.excludes.is_some_and(excludes);
            let directory = entry.is_dir();
            if excluded && !(directory && enter(&entry.path)) {
                continue;
            }
            let entries = if directory {
                self.source.list(&entry.path)?
            } else {
                Vec::new()
            };
            let held = excluded.then_some(items.len());
            let relative = match start {
                Some(start) => Relative::From(start),
                None => Relative::Path(below(&entry.path).unwrap_or_default()),
            };
            items.push(Item {
                relative,
                entry,
                digest: known.map(|known| known.digest),
                link: known.and_then(|known| known.link),
            });
            if directory {
                open.push(Level {
                    entries: entries.into_iter(),
                    held,
                });
            }
        }
        Ok(())
    }
}

/// Where in the path of a file below `real` its path begins that starts with `relative`, which is where `real` goes.
fn common_end(real: &LayerPath, relative: &LayerPath) -> Option<u32> {
    let length = real.as_bytes().len();
    let start = if relative.is_root() {
        length + usize::from(!real.is_root())
    } else {
        let above = real.as_bytes().strip_suffix(relative.as_bytes())?;
        (above.is_empty() || above.ends_with(b"/")).then_some(above.len())?
    };
    u32::try_from(start).ok()
}

/// A directory on the way down.
struct Level {
    entries: std::vec::IntoIter<Listed>,
    /// Its index among the items if it is excluded.
    held: Option<usize>,
}

fn not_found(path: &LayerPath) -> anyhow::Error {
    anyhow::anyhow!("{:?}: not found", path.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_ends() {
        for (real, relative, start) in [
            ("", "", Some(0)),
            ("a/b", "", Some(4)),
            ("a/b", "b", Some(2)),
            ("a/b", "a/b", Some(0)),
            ("a/xb", "b", None),
            ("a/b", "c", None),
            ("", "c", None),
        ] {
            let path = |text: &str| LayerPath::clean(text.as_bytes());
            assert_eq!(
                common_end(&path(real), &path(relative)),
                start,
                "{real} {relative}"
            );
        }
    }
}
