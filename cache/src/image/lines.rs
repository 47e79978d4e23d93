//! One entry of a list of thousands, by looking through the file in pieces: it is neither understood nor kept as a whole.

use std::io::{self, Read};

use serde_json::Value;

use super::seal;

/// Bytes that are looked at at once: a part of what a processor has at hand.
const PIECE: usize = 128 << 10;

/// The entries of the lines that contain `needle`; `None` when the file is not as this program writes it.
pub(super) fn find_lines(file: &mut impl Read, needle: &[u8]) -> io::Result<Option<Vec<Value>>> {
    let finder = memchr::memmem::Finder::new(needle);
    let (mut entries, mut bytes) = (Vec::new(), Vec::with_capacity(PIECE));
    let mut is_first = true;
    loop {
        let kept = bytes.len();
        file.by_ref().take(PIECE as u64).read_to_end(&mut bytes)?;
        let is_last = bytes.len() == kept;
        if is_last {
            // The last line has no entry.
            return Ok((!is_first && seal::ends_well(&bytes)).then_some(entries));
        }
        // What follows the last end of a line is looked at with the next piece.
        let Some(lines) = memchr::memrchr(b'\n', &bytes).map(|end| end + 1) else {
            continue;
        };
        if is_first && !seal::begins_well(&bytes[..lines]) {
            return Ok(None);
        }
        is_first = false;
        let mut from = 0;
        while let Some(found) = finder.find(&bytes[from..lines]) {
            let place = from + found;
            let start = memchr::memrchr(b'\n', &bytes[..place]).map_or(0, |end| end + 1);
            let end = memchr::memchr(b'\n', &bytes[place..]).map_or(lines, |end| place + end);
            let line = &bytes[start..end];
            let Ok(entry) = serde_json::from_slice(line.strip_suffix(b",").unwrap_or(line)) else {
                return Ok(None);
            };
            entries.push(entry);
            from = end;
        }
        bytes.drain(..lines);
    }
}
