//! What `index.json` looks like when this program wrote it: an entry a line, so that one of thousands is found without
//! understanding the others, and at its end a checksum of all that stands before.
//!
//! Each entry has a checksum of its own, which builds look at. This one is for `store check`: it finds any bit that changed, also
//! where that leads nowhere. Another tool that writes the file keeps our annotation and not our lines, and a file that
//! has neither our first line nor our last is not judged by it. A file with only one of them was ours.

use serde_json::{Map, Value, json};

use super::entry::CHECKSUM;
use crate::digest::KeyBuilder;

const LIST: &str = "manifests";
const NOTES: &str = "annotations";
const START: &str = "{\"schemaVersion\":2,";
const START_ENDS: &str = "\"manifests\":[";
const LAST_LINE: &str = "],\"annotations\":{";
const END: &str = "\"}}";

/// The file. Fields of other tools stay.
pub(super) fn encode(fields: &Map<String, Value>, entries: &[Value]) -> serde_json::Result<String> {
    let mut text = String::from("{");
    for (name, value) in fields {
        if name != LIST && name != NOTES {
            text += &format!(
                "{}:{},",
                serde_json::to_string(name)?,
                serde_json::to_string(value)?
            );
        }
    }
    text += START_ENDS;
    for (number, entry) in entries.iter().enumerate() {
        text.push_str(if number > 0 { ",\n" } else { "\n" });
        text.push_str(&serde_json::to_string(entry)?);
    }
    text.push('\n');
    let mut notes = fields.get(NOTES).and_then(Value::as_object).cloned();
    let notes = notes.get_or_insert_default();
    notes.shift_remove(CHECKSUM);
    text += LAST_LINE;
    for (name, value) in notes.iter() {
        text += &format!(
            "{}:{},",
            serde_json::to_string(name)?,
            serde_json::to_string(value)?
        );
    }
    text += &before_checksum();
    text += &checksum(text.as_bytes());
    text += END;
    Ok(text)
}

/// Whether `bytes` have an entry a line.
fn has_lines(bytes: &[u8]) -> bool {
    begins_well(bytes) && ends_well(bytes)
}

/// Whether the first line is as [`encode`] writes it.
pub(super) fn begins_well(bytes: &[u8]) -> bool {
    let first = memchr::memchr(b'\n', bytes).map_or(&bytes[..0], |end| &bytes[..end]);
    first.starts_with(START.as_bytes()) && first.ends_with(START_ENDS.as_bytes())
}

/// Whether the file that ends with `bytes` has its end.
pub(super) fn ends_well(bytes: &[u8]) -> bool {
    bytes.ends_with(b"}")
}

/// Whether `bytes` are what was written here, or not written here.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let last = memchr::memrchr(b'\n', bytes).map_or(bytes, |end| &bytes[end + 1..]);
    let sealed = last.starts_with(LAST_LINE.as_bytes());
    let sealed = sealed.then(|| split(bytes)).flatten();
    match (has_lines(bytes), sealed) {
        (true, Some((text, sum))) => sum == checksum(text).as_bytes(),
        // Older versions ended there.
        (true, None) => last == b"]}",
        (false, Some(_)) => false,
        (false, None) => true,
    }
}

/// A file that is whole and as [`encode`] writes it, in parts.
pub(super) struct Sheet<'a> {
    /// The first line with its end.
    first: &'a str,
    /// An entry a line, all but the last with a comma.
    pub lines: &'a [u8],
    /// The last line up to the checksum.
    last: &'a str,
}

impl<'a> Sheet<'a> {
    /// `None` when `bytes` are damaged or were written by something else.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (text, sum) = split(bytes)?;
        let end = memchr::memchr(b'\n', text)? + 1;
        let start = memchr::memrchr(b'\n', text)? + 1;
        let (first, last) = (&text[..end], &text[start..]);
        let is_ours = begins_well(bytes) && last.starts_with(LAST_LINE.as_bytes());
        if !is_ours || sum != checksum(text).as_bytes() {
            return None;
        }
        Some(Self {
            first: std::str::from_utf8(first).ok()?,
            lines: &text[end..start],
            last: std::str::from_utf8(last).ok()?,
        })
    }

    /// The file with `lines` in the place of its own, each with a comma.
    pub fn with_lines(&self, lines: &str) -> String {
        let mut text = self.first.to_owned();
        if let Some(lines) = lines.strip_suffix(",\n") {
            text += lines;
            text.push('\n');
        }
        text += self.last;
        let sum = checksum(text.as_bytes());
        text + &sum + END
    }
}

/// What the checksum at the end is of, and the checksum.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = bytes.strip_suffix(END.as_bytes())?;
    let (text, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_LENGTH)?)?;
    text.ends_with(before_checksum().as_bytes())
        .then_some((text, sum))
}

/// Of hexadecimal digits.
const CHECKSUM_LENGTH: usize = 64;

fn before_checksum() -> String {
    format!("\"{CHECKSUM}\":\"")
}

fn checksum(text: &[u8]) -> String {
    KeyBuilder::new("index/1").field("text", text).finish().hex()
}

/// The fields of a new file.
pub(super) fn new_fields() -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("schemaVersion".to_owned(), json!(2));
    fields.insert(
        "mediaType".to_owned(),
        json!("application/vnd.oci.image.index.v1+json"),
    );
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(notes: Option<Value>, entries: usize) -> String {
        let mut fields = new_fields();
        fields.extend(notes.map(|notes| (NOTES.to_owned(), notes)));
        let entries: Vec<Value> = (0..entries).map(|n| json!({"size": n, "x": "y\n"})).collect();
        encode(&fields, &entries).unwrap()
    }

    #[test]
    fn every_changed_bit_is_seen() {
        let mut seen = 0;
        for good in [file(None, 0), file(None, 2), file(Some(json!({"a": "b"})), 3)] {
            assert!(is_whole(good.as_bytes()), "{good}");
            let good = good.into_bytes();
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let is_json = serde_json::from_slice::<Value>(&bad).is_ok();
                assert!(!is_json || !is_whole(&bad), "{}", String::from_utf8_lossy(&bad));
                seen += usize::from(is_json);
            }
        }
        assert!(seen > 1000);
    }

    #[test]
    fn what_others_wrote_is_not_judged() {
        let ours = file(Some(json!({"a": "b"})), 2);
        let value: Value = serde_json::from_str(&ours).unwrap();
        // As Go writes it, on one line, and as an editor's formatter does.
        let others = [value.to_string(), serde_json::to_string_pretty(&value).unwrap()];
        for other in others {
            assert!(other.contains(CHECKSUM) && is_whole(other.as_bytes()), "{other}");
        }
        let older = "{\"schemaVersion\":2,\"manifests\":[\n{}\n]}";
        assert!(is_whole(older.as_bytes()) && has_lines(older.as_bytes()));
        // Written once more it is ours.
        let fields = value.as_object().unwrap();
        let again = encode(fields, fields[LIST].as_array().unwrap()).unwrap();
        assert_eq!(again, ours);
    }
}
