//! A tree in memory.

use super::*;

/// A tree in memory: what a layer writes, seen as the base of the next one.
#[derive(Debug, Default, Clone)]
pub(super) struct Memory(pub(super) BTreeMap<LayerPath, (Entry, Vec<u8>)>);

impl Memory {
    /// Lines `path kind mode owner [target or content]`, kind one of `d f l`.
    pub(super) fn of(lines: &[&str]) -> Self {
        let mut tree = Self::default();
        for line in lines {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            let rest = words.get(4).copied().unwrap_or_default();
            let kind = match words[1] {
                "d" => Kind::Directory { opaque: false },
                "l" => Kind::Symlink { target: rest.into() },
                _ => Kind::File {
                    size: rest.len() as u64,
                },
            };
            let (uid, gid) = words[3].split_once(':').unwrap();
            let entry = Entry {
                path: path(words[0]),
                kind,
                mode: u32::from_str_radix(words[2], 8).unwrap(),
                uid: uid.parse().unwrap(),
                gid: gid.parse().unwrap(),
                mtime: Timestamp {
                    seconds: 5,
                    nanoseconds: 0,
                },
                xattrs: Vec::new(),
            };
            tree.0.insert(entry.path.clone(), (entry, rest.into()));
        }
        tree
    }

    /// As [`Memory::of`] takes it, with times where they are wanted.
    pub(super) fn lines(&self, times: bool) -> Vec<String> {
        let line = |(entry, data): &(Entry, Vec<u8>)| {
            let (kind, rest) = match &entry.kind {
                Kind::Directory { opaque } => (if *opaque { "D" } else { "d" }, String::new()),
                Kind::File { .. } => ("f", String::from_utf8_lossy(data).into_owned()),
                Kind::Symlink { target } => ("l", String::from_utf8_lossy(target).into_owned()),
                Kind::Hardlink { target } => ("h", target.to_string()),
                Kind::Fifo => ("p", String::new()),
                other => ("?", format!("{other:?}")),
            };
            let mode = if kind == "l" { 0o777 } else { entry.mode };
            let mut line = format!(
                "{} {kind} {mode:o} {}:{} {rest}",
                entry.path, entry.uid, entry.gid
            );
            line.truncate(line.trim_end_matches(' ').len());
            if times {
                line = format!("{line} @{}", entry.mtime.seconds);
            }
            line.trim_end().to_owned()
        };
        self.0.values().map(line).collect()
    }

    /// Puts a layer on top.
    pub(super) fn apply(&mut self, layer: &Memory) {
        for (path, (entry, data)) in &layer.0 {
            if !entry.is_dir() {
                self.0.retain(|other, _| other == path || !other.lies_in(path));
            }
            self.0.insert(path.clone(), (entry.clone(), data.clone()));
        }
    }
}

impl EntrySink for Memory {
    fn append(
        &mut self,
        entry: &Entry,
        data: Option<&mut dyn Read>,
    ) -> anyhow::Result<Option<ContentDigest>> {
        assert!(
            self.0.keys().all(|path| *path < entry.path),
            "{} is out of order",
            entry.path
        );
        let parent = entry.path.parent().unwrap();
        assert!(
            parent.is_root() || self.0[&parent].0.is_dir(),
            "{parent} is missing"
        );
        let mut bytes = Vec::new();
        let mut digest = None;
        if let Some(data) = data {
            data.read_to_end(&mut bytes)?;
            digest = Some(ContentDigest::of(&bytes));
        }
        if let Kind::File { size } = entry.kind {
            assert_eq!(size, bytes.len() as u64, "{}", entry.path);
        }
        self.0.insert(entry.path.clone(), (entry.clone(), bytes));
        Ok(digest)
    }
}

impl Tree for Memory {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            return Ok(Some(Entry::root()));
        }
        Ok(self.0.get(path).map(|(entry, _)| entry.clone()))
    }

    fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        let below = self
            .0
            .values()
            .filter(|(entry, _)| entry.path.parent().as_ref() == Some(path));
        Ok(below.map(|(entry, _)| entry.clone()).collect())
    }

    fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        Ok(Box::new(io::Cursor::new(self.0[path].1.clone())))
    }

    fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
        Ok(ContentDigest::of(&self.0[&entry.path].1))
    }

    fn link_group(&self, _entry: &Entry) -> Result<Option<u64>, TreeError> {
        Ok(None)
    }
}
