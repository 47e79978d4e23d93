//! Changes of the list of images: in one of which every entry is understood, or, in a long one that this program wrote, from
//! the few entries that have to do with them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use serde_json::Value;

use super::entry::{decode, entry_of, set_name};
use super::seal::Sheet;
use super::{Descriptor, StoredImage};
use crate::digest::Digest;

/// An entry, and the line that it was read from; an empty one for what is new or was read in another way.
pub(super) struct Entry {
    value: Value,
    line: Range<usize>,
}

/// What came of changing a file.
pub(super) enum Changed {
    /// It stays as it is.
    Not,
    /// The new file.
    To(String),
}

/// Changes `entries`, which are all there are. What `change` says.
pub(super) fn change_all(entries: &mut Vec<Value>, mut change: impl FnMut(&mut Vec<Entry>) -> bool) -> bool {
    let read = entries.drain(..).map(|value| Entry { value, line: 0..0 });
    let mut list: Vec<Entry> = read.collect();
    let changed = change(&mut list);
    entries.extend(list.into_iter().map(|entry| entry.value));
    changed
}

/// Changes the file `bytes`, in which `change`, which says whether it did anything, sees only some entries: those that say one of
/// `texts`, and the others of the same images. Only with those can a name or digest among `texts` gain or lose the last name of an
/// image. `None` when the file is damaged or not as this program writes it.
pub(super) fn change_related(
    bytes: &[u8],
    texts: &[&str],
    mut change: impl FnMut(&mut Vec<Entry>) -> bool,
) -> Option<Changed> {
    let sheet = Sheet::read(bytes)?;
    let mut related = BTreeMap::new();
    for text in texts {
        mentions(sheet.lines, text, &mut related)?;
    }
    let found = understood(sheet.lines, &related)?;
    let digests: HashSet<Digest> = found
        .iter()
        .filter_map(Entry::image)
        .map(|image| image.descriptor.digest)
        .collect();
    for digest in digests {
        mentions(sheet.lines, &digest.to_string(), &mut related)?;
    }
    let mut entries = understood(sheet.lines, &related)?;
    if !change(&mut entries) {
        return Some(Changed::Not);
    }
    written(&sheet, &related, &entries).map(Changed::To)
}

/// Adds the lines in which `text` is a value, where each begins and ends.
fn mentions(lines: &[u8], text: &str, found: &mut BTreeMap<usize, usize>) -> Option<()> {
    let needle = serde_json::to_string(text).ok()?;
    let finder = memchr::memmem::Finder::new(needle.as_bytes());
    let mut from = 0;
    while let Some(place) = finder.find(&lines[from..]) {
        let place = from + place;
        let start = memchr::memrchr(b'\n', &lines[..place]).map_or(0, |end| end + 1);
        from = memchr::memchr(b'\n', &lines[place..]).map_or(lines.len(), |end| place + end + 1);
        found.insert(start, from);
    }
    Some(())
}

fn understood(lines: &[u8], found: &BTreeMap<usize, usize>) -> Option<Vec<Entry>> {
    let read = |(start, end): (&usize, &usize)| {
        let text = lines[*start..*end].trim_ascii_end();
        let value = serde_json::from_slice(text.strip_suffix(b",").unwrap_or(text)).ok()?;
        let line = *start..*end;
        Some(Entry { value, line })
    };
    found.iter().map(read).collect()
}

/// The file with `entries` in the place of the lines that were `read`.
fn written(sheet: &Sheet<'_>, read: &BTreeMap<usize, usize>, entries: &[Entry]) -> Option<String> {
    let mut lines: Vec<u8> = Vec::with_capacity(sheet.lines.len() + 1024);
    let add = |lines: &mut Vec<u8>, value: &Value| {
        serde_json::to_writer(&mut *lines, value).ok()?;
        lines.extend(b",\n");
        Some(())
    };
    let mut kept = entries.iter().filter(|entry| !entry.line.is_empty()).peekable();
    let mut from = 0;
    for (start, end) in read {
        copy_lines(&mut lines, &sheet.lines[from..*start]);
        from = *end;
        if let Some(entry) = kept.next_if(|entry| entry.line.start == *start) {
            add(&mut lines, &entry.value)?;
        }
    }
    copy_lines(&mut lines, &sheet.lines[from..]);
    for entry in entries.iter().filter(|entry| entry.line.is_empty()) {
        add(&mut lines, &entry.value)?;
    }
    Some(sheet.with_lines(&String::from_utf8(lines).ok()?))
}

/// Every line ends with a comma, the last one too.
fn copy_lines(to: &mut Vec<u8>, lines: &[u8]) {
    to.extend(lines);
    if to.ends_with(b"\n") && !to.ends_with(b",\n") {
        to.truncate(to.len() - 1);
        to.extend(b",\n");
    }
}

/// Lets all `names` lead to `descriptor`. Without a name the image is kept nameless, unless it has a name already. Whether that
/// changed anything.
pub(super) fn assign_all(entries: &mut Vec<Entry>, names: &[&str], descriptor: &Descriptor) -> bool {
    let known = |entry: &Entry| {
        entry
            .image()
            .is_some_and(|i| i.descriptor.digest == descriptor.digest)
    };
    if names.is_empty() && !entries.iter().any(known) {
        entries.push(Entry::new(None, descriptor));
        return true;
    }
    // Every name is assigned, whatever came of those before.
    names
        .iter()
        .fold(false, |changed, name| assign(entries, name, descriptor) | changed)
}

/// Lets `name` lead to `descriptor` in `entries`. Whether that changed anything.
fn assign(entries: &mut Vec<Entry>, name: &str, descriptor: &Descriptor) -> bool {
    let images: Vec<Option<StoredImage>> = entries.iter().map(Entry::image).collect();
    let has_name = |image: &StoredImage| image.name.as_deref() == Some(name);
    let mut holders = images.iter().flatten().filter(|image| has_name(image));
    let first = holders.next();
    if first.is_some_and(|image| image.descriptor == *descriptor) && holders.next().is_none() {
        return false;
    }
    let mut named: Vec<Digest> = vec![descriptor.digest];
    named.extend(
        images
            .iter()
            .flatten()
            .filter(|i| i.name.is_some() && !has_name(i))
            .map(|i| i.descriptor.digest),
    );
    let mut position = 0;
    entries.retain_mut(|entry| {
        let image = images.get(position).and_then(Option::as_ref);
        position += 1;
        let Some(image) = image.filter(|image| image.name.is_none() || has_name(image)) else {
            return true;
        };
        if named.contains(&image.descriptor.digest) {
            return false;
        }
        if image.name.is_some() {
            named.push(image.descriptor.digest);
            set_name(&mut entry.value, None, &image.descriptor);
        }
        true
    });
    entries.push(Entry::new(Some(name), descriptor));
    true
}

impl Entry {
    fn new(name: Option<&str>, descriptor: &Descriptor) -> Self {
        Self {
            value: entry_of(name, descriptor),
            line: 0..0,
        }
    }

    /// What it says; `None` when this program cannot follow it.
    pub(super) fn image(&self) -> Option<StoredImage> {
        decode(&self.value)
    }
}

#[cfg(test)]
mod tests;
