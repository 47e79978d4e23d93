//! Finds and hides the values of declared secrets: in the files of new layers, in configs, in what steps print.
//!
//! A value is looked for as it is, percent-encoded, and in base64, whatever lies before it and however its lines are
//! broken. Values shorter than [`SHORTEST`] are everyday words: they are hidden in output, but not looked for in files.
//! What is compressed or encrypted is not seen through.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// The shortest value that is looked for.
pub const SHORTEST: usize = 10;
/// The shortest value that is hidden.
const SHORTEST_HIDDEN: usize = 4;
/// The shortest line of a value of several lines that is hidden by itself.
const SHORTEST_LINE: usize = 8;
/// Longer base64 is looked for in pieces of this length: somebody may have broken its lines (`base64` does, at 76).
const PIECE: usize = 24;
/// Pieces that are looked for. Together they are longer than a line, so that one at least is whole.
const PIECES: usize = 4;
/// Bytes that are looked through at once.
const CHUNK: usize = 256 * 1024;
/// What is shown instead of a value.
const HIDDEN: &[u8] = b"***";

/// `--secret-scan`: what becomes of a build that has a secret in its result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SecretScan {
    /// It fails.
    #[default]
    Error,
    /// It is told.
    Warn,
    /// Nobody looks.
    Off,
}

impl FromStr for SecretScan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "off" => Ok(Self::Off),
            _ => Err("use error, warn or off".to_owned()),
        }
    }
}

/// A secret that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// Which.
    pub id: String,
    /// In which form: `as it is`, `in base64`, `percent-encoded`.
    pub form: &'static str,
    /// It is looked for in files as well, being long enough not to be anywhere by chance.
    pub sought: bool,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            PLAIN => write!(f, "the secret {:?}", self.id),
            form => write!(f, "the secret {:?} ({form})", self.id),
        }
    }
}

const PLAIN: &str = "as it is";
const BASE64: &str = "in base64";
const PERCENT: &str = "percent-encoded";

/// What to look for, and what to do when it is found.
pub struct Leaks {
    /// What to do.
    pub scan: SecretScan,
    sought: Option<Search>,
    hidden: Option<Search>,
}

impl fmt::Debug for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaks")
            .field("scan", &self.scan)
            .finish_non_exhaustive()
    }
}

impl Leaks {
    /// Looks for these values, by id.
    pub fn new<'a>(scan: SecretScan, values: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let (mut sought, mut hidden) = (Vec::new(), Vec::new());
        for (id, value) in values {
            let value = value.trim_ascii();
            let leak = |form| Leak {
                id: id.to_owned(),
                form,
                sought: value.len() >= SHORTEST && scan != SecretScan::Off,
            };
            if value.len() >= SHORTEST {
                let mut forms = vec![(value.to_vec(), leak(PLAIN))];
                let encoded = percent_encoded(value);
                if encoded != value {
                    forms.push((encoded, leak(PERCENT)));
                }
                forms.extend(in_base64(value).into_iter().map(|form| (form, leak(BASE64))));
                hidden.extend(forms.iter().cloned());
                if scan != SecretScan::Off {
                    sought.append(&mut forms);
                }
            } else if value.len() >= SHORTEST_HIDDEN {
                hidden.push((value.to_vec(), leak(PLAIN)));
            }
            let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            let lines = lines.filter(|line| line.len() >= SHORTEST_LINE && line.len() < value.len());
            let part = Leak {
                sought: false,
                ..leak(PLAIN)
            };
            hidden.extend(lines.map(|line| (line.to_vec(), part.clone())));
        }
        Self {
            scan,
            sought: Search::new(sought),
            hidden: Search::new(hidden),
        }
    }

    /// Whether anything is looked for.
    pub fn are_sought(&self) -> bool {
        self.sought.is_some()
    }

    /// What is in `bytes`.
    pub fn find(&self, bytes: &[u8]) -> Option<&Leak> {
        let (_, _, leak) = self.sought.as_ref()?.find(bytes)?;
        Some(leak)
    }

    /// What is in a file, which is read to its end unless something is found. Memory does not grow with it.
    pub fn find_in(&self, mut file: impl Read) -> io::Result<Option<&Leak>> {
        let Some(sought) = &self.sought else {
            return Ok(None);
        };
        let mut buffer = vec![0; CHUNK + sought.longest];
        let mut filled = 0;
        loop {
            let count = match file.read(&mut buffer[filled..]) {
                Ok(0) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            filled += count;
            if let Some((_, _, leak)) = sought.find(&buffer[..filled]) {
                return Ok(Some(leak));
            }
            let kept = filled.min(sought.longest - 1);
            buffer.copy_within(filled - kept..filled, 0);
            filled = kept;
        }
    }

    /// Looks through bytes that come in pieces.
    pub fn watch(&self) -> Watch<'_> {
        Watch {
            leaks: self,
            tail: Vec::new(),
            found: None,
        }
    }

    /// Hides values in what one step prints to one stream.
    pub fn mask(&self) -> Mask<'_> {
        Mask {
            hidden: self.hidden.as_ref(),
            held: Vec::new(),
            found: BTreeSet::new(),
        }
    }
}

/// Looks through bytes that come in pieces.
#[derive(Debug)]
pub struct Watch<'a> {
    leaks: &'a Leaks,
    tail: Vec<u8>,
    found: Option<&'a Leak>,
}

impl<'a> Watch<'a> {
    /// Looks at the next bytes.
    pub fn see(&mut self, bytes: &[u8]) {
        let Some(sought) = self.leaks.sought.as_ref().filter(|_| self.found.is_none()) else {
            return;
        };
        // What lies across the border, then the rest.
        let border = bytes.len().min(sought.longest - 1);
        self.tail.extend_from_slice(&bytes[..border]);
        self.found = self.leaks.find(&self.tail).or_else(|| self.leaks.find(bytes));
        self.tail.extend_from_slice(&bytes[border..]);
        let kept = self.tail.len().min(sought.longest - 1);
        self.tail.drain(..self.tail.len() - kept);
    }

    /// The first that was found.
    pub fn found(&self) -> Option<&'a Leak> {
        self.found
    }
}

/// Hides values in a stream of bytes.
#[derive(Debug)]
pub struct Mask<'a> {
    hidden: Option<&'a Search>,
    /// What may be the beginning of a value.
    held: Vec<u8>,
    found: BTreeSet<&'a Leak>,
}

impl<'a> Mask<'a> {
    /// What can be shown of all that came so far.
    pub fn push(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let Some(hidden) = self.hidden else { return bytes };
        self.held.extend(bytes);
        let mut shown = self.replace(hidden);
        let longest = self.held.len().min(hidden.longest - 1);
        let begins = |start: &usize| hidden.any_begins_with(&self.held[*start..]);
        let from = (self.held.len() - longest..self.held.len()).find(begins);
        let rest = self.held.split_off(from.unwrap_or(self.held.len()));
        shown.append(&mut std::mem::replace(&mut self.held, rest));
        shown
    }

    /// What was held back, at the end.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// What was hidden.
    pub fn found(&self) -> impl Iterator<Item = &'a Leak> + use<'a, '_> {
        self.found.iter().copied()
    }

    /// Takes all up to the last value from what is held.
    fn replace(&mut self, hidden: &'a Search) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut done = 0;
        while let Some((start, end, leak)) = hidden.find(&self.held[done..]) {
            shown.extend_from_slice(&self.held[done..done + start]);
            shown.extend_from_slice(HIDDEN);
            self.found.insert(leak);
            done += end;
        }
        self.held.drain(..done);
        shown
    }
}

/// Many patterns at once (Wu and Manber's algorithm): where the last two bytes of a window of the shortest pattern's length
/// are in no pattern, nothing can begin there, and the window moves on by as much.
#[derive(Debug)]
struct Search {
    patterns: Vec<(Vec<u8>, Leak)>,
    shift: Vec<u8>,
    /// Patterns by the two bytes that end their part in the window.
    ending: HashMap<u16, Vec<usize>>,
    window: usize,
    longest: usize,
}

impl Search {
    fn new(patterns: Vec<(Vec<u8>, Leak)>) -> Option<Self> {
        let window = patterns.iter().map(|(bytes, _)| bytes.len()).min()?;
        let window = window.min(usize::from(u8::MAX));
        let longest = patterns.iter().map(|(bytes, _)| bytes.len()).max()?;
        let most = u8::try_from(window - 1).unwrap_or(u8::MAX);
        let mut shift = vec![most; 1 << 16];
        let mut ending: HashMap<u16, Vec<usize>> = HashMap::new();
        for (number, (bytes, _)) in patterns.iter().enumerate() {
            for end in 2..=window {
                let distance = u8::try_from(window - end).unwrap_or(u8::MAX);
                let place = &mut shift[usize::from(pair(bytes, end))];
                *place = distance.min(*place);
            }
            ending.entry(pair(bytes, window)).or_default().push(number);
        }
        Some(Self {
            patterns,
            shift,
            ending,
            window,
            longest,
        })
    }

    /// The first pattern in `text`, the longest of those that begin there: start, end, whose.
    fn find(&self, text: &[u8]) -> Option<(usize, usize, &Leak)> {
        let mut end = self.window;
        while end <= text.len() {
            let key = pair(text, end);
            let shift = self.shift[usize::from(key)];
            if shift > 0 {
                end += usize::from(shift);
                continue;
            }
            let start = end - self.window;
            let candidates = self.ending.get(&key).into_iter().flatten();
            let found = candidates
                .map(|number| &self.patterns[*number])
                .filter(|(bytes, _)| text[start..].starts_with(bytes))
                .max_by_key(|(bytes, _)| bytes.len());
            if let Some((bytes, leak)) = found {
                return Some((start, start + bytes.len(), leak));
            }
            end += 1;
        }
        None
    }

    fn any_begins_with(&self, text: &[u8]) -> bool {
        self.patterns
            .iter()
            .any(|(bytes, _)| bytes.len() > text.len() && bytes.starts_with(text))
    }
}

/// The two bytes before `end`.
fn pair(bytes: &[u8], end: usize) -> u16 {
    u16::from_le_bytes([bytes[end - 2], bytes[end - 1]])
}

/// What base64 of anything with `value` in it must contain: for each of the three places where it can begin in a group.
fn in_base64(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = BTreeSet::new();
    for before in 0..3 {
        let padded = [&[0; 2][..before.min(2)], value].concat();
        // Characters that also hold bits of what lies before or after say nothing.
        let first = (before * 8).div_ceil(6);
        let last = padded.len() * 8 / 6;
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            let text = &text.as_bytes()[first..last];
            if text.len() <= PIECE + SHORTEST {
                forms.insert(text.to_vec());
                continue;
            }
            // From the middle: the beginnings of keys are all alike.
            let most = text.len().min(PIECE * PIECES);
            let start = (text.len() - most) / 2;
            forms.extend(text[start..start + most].chunks_exact(PIECE).map(<[u8]>::to_vec));
        }
    }
    forms.into_iter().collect()
}

fn percent_encoded(value: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for byte in value {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            encoded.push(*byte);
        } else {
            encoded.extend(format!("%{byte:02X}").into_bytes());
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaks(values: &[(&'static str, &'static [u8])]) -> Leaks {
        Leaks::new(SecretScan::Error, values.iter().copied())
    }

    #[test]
    fn all_forms_are_found_wherever_they_lie() {
        let value = b"hunter2/and+more?\xff";
        let leaks = leaks(&[("short", b"tiny"), ("tok", value)]);
        let form = |bytes: &[u8]| leaks.find(bytes).map(|leak| (leak.id.as_str(), leak.form));
        for before in 0..40 {
            let text = [&vec![b'x'; before], &value[..], b" and so on"].concat();
            assert_eq!(form(&text), Some(("tok", PLAIN)), "{before}");
            for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                assert_eq!(form(encoded.as_bytes()), Some(("tok", BASE64)), "{before}");
            }
        }
        assert_eq!(form(&percent_encoded(value)), Some(("tok", PERCENT)));
        assert_eq!(form(&value[1..]), None);
        assert_eq!(form(b"tiny"), None, "everyday words are not looked for");
        assert_eq!(form(b""), None);
    }

    #[test]
    fn long_values_are_found_in_broken_lines_of_base64() {
        let value: Vec<u8> = (0..2000u32).map(|n| (n * 7919 % 251) as u8).collect();
        let leaks = Leaks::new(SecretScan::Error, [("key", &value[..])].into_iter());
        for (before, width) in [(0, 76), (1, 76), (2, 64), (5, 76), (11, 60)] {
            let text = STANDARD_NO_PAD.encode([&vec![b'x'; before], &value[..]].concat());
            let lines: Vec<&[u8]> = text.as_bytes().chunks(width).collect();
            let broken = lines.join(&b'\n');
            assert_eq!(
                leaks.find(&broken).map(|leak| leak.form),
                Some(BASE64),
                "{before} {width}"
            );
        }
    }

    #[test]
    fn pieces_of_a_stream_are_one() {
        let leaks = leaks(&[("tok", b"a-secret-of-some-length")]);
        let text = [
            &vec![b'.'; 3000],
            &b"a-secret-of-some-length"[..],
            &vec![b'.'; 3000],
        ]
        .concat();
        for size in [1, 2, 7, 22, 23, 24, 1000, 10_000] {
            let mut watch = leaks.watch();
            text.chunks(size).for_each(|chunk| watch.see(chunk));
            assert_eq!(watch.found().map(|leak| leak.id.as_str()), Some("tok"), "{size}");
        }
        let mut watch = leaks.watch();
        text[..3010].chunks(7).for_each(|chunk| watch.see(chunk));
        assert_eq!(watch.found(), None);
        let big = [&vec![b'.'; CHUNK - 5], &b"a-secret-of-some-length"[..]].concat();
        assert!(leaks.find_in(&big[..]).unwrap().is_some());
        assert!(leaks.find_in(&big[..CHUNK]).unwrap().is_none());
    }

    #[test]
    fn output_is_masked_and_not_held_back() {
        let leaks = leaks(&[
            ("pin", b"0042"),
            ("key", b"-----BEGIN-----\nAAAABBBBCCCC\n-----END-----\n"),
        ]);
        let text = b"pin 0042, 004 42; line AAAABBBBCCCC.\n0042004";
        let expected = b"pin ***, 004 42; line ***.\n***004";
        for size in [1, 2, 3, 5, 11, 100] {
            let mut mask = leaks.mask();
            let mut shown: Vec<u8> = text
                .chunks(size)
                .flat_map(|chunk| mask.push(chunk.to_vec()))
                .collect();
            shown.extend(mask.finish());
            assert_eq!(
                String::from_utf8_lossy(&shown),
                String::from_utf8_lossy(expected),
                "{size}"
            );
            assert_eq!(mask.found().count(), 2);
        }
        let mut mask = leaks.mask();
        assert_eq!(mask.push(b"Continue? [y/N] ".to_vec()), b"Continue? [y/N] ");
        assert_eq!(mask.push(b"x00".to_vec()), b"x");
        let none = Leaks::new(SecretScan::Error, std::iter::empty());
        assert_eq!(none.mask().push(b"as it is".to_vec()), b"as it is");
        assert!(!none.are_sought());
    }
}
