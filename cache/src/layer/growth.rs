//! How large an archive or a layer may become: a few kilobytes must not fill the disk or the memory.
//!
//! What is honest is told from what is not by the size that it has compressed. Whoever says how large it may be
//! (`--max-unpacked-size`) is believed instead.

use std::io;

/// What an archive may always become.
const FREE_OF_ARCHIVE: u64 = 1 << 30;
/// What a layer may always become: images have files of zeros more often (swap, databases).
const FREE_OF_LAYER: u64 = 4 << 30;
/// Beyond that, this many times what it has compressed.
const RATIO: u64 = 250;
/// Members that there may always be.
const FREE_MEMBERS: u64 = 250_000;
/// Beyond that, one for so many compressed bytes.
const BYTES_OF_MEMBER: u64 = 64;
/// More need memory that nobody has expected.
const MOST_MEMBERS: u64 = 2_000_000;
/// A member has at least a header.
const BLOCK: u64 = 512;

/// How large something may become when it is decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growth(Option<u64>);

impl Growth {
    /// At most `bytes`, whatever it has compressed.
    pub fn at_most(bytes: u64) -> Self {
        Self(Some(bytes))
    }

    /// Fails when `compressed` bytes of an archive must not have become `bytes`.
    pub fn check_archive(self, bytes: u64, compressed: u64) -> io::Result<()> {
        self.check(bytes, compressed, FREE_OF_ARCHIVE)
    }

    /// The same for a layer.
    pub fn check_layer(self, bytes: u64, compressed: u64) -> io::Result<()> {
        self.check(bytes, compressed, FREE_OF_LAYER)
    }

    /// How many members there may be in `compressed` bytes.
    pub fn members(self, compressed: u64) -> u64 {
        match self.0 {
            Some(most) => most / BLOCK,
            None => (FREE_MEMBERS + compressed / BYTES_OF_MEMBER).min(MOST_MEMBERS),
        }
    }

    fn check(self, bytes: u64, compressed: u64, free: u64) -> io::Result<()> {
        let message = match self.0 {
            Some(most) if bytes > most => {
                format!("it becomes more than the {most} bytes that --max-unpacked-size allows")
            }
            None if bytes > free.saturating_add(compressed.saturating_mul(RATIO)) => format!(
                "its {compressed} bytes become more than {bytes} when they are decompressed: if that is meant, \
                 --max-unpacked-size=SIZE allows it"
            ),
            _ => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_honest_and_what_the_user_says() {
        let usual = Growth::default();
        assert!(usual.check_archive(1 << 30, 42).is_ok());
        assert!(usual.check_archive((1 << 30) + 42 * 250 + 1, 42).is_err());
        assert!(usual.check_layer(4 << 30, 42).is_ok());
        assert!(usual.check_layer(5 << 30, 42).is_err());
        assert!(usual.check_layer(5 << 30, 8 << 20).is_ok());
        assert!(usual.check_archive(u64::MAX, u64::MAX).is_ok());
        assert!(usual.members(1000) < 300_000 && usual.members(1 << 30) == MOST_MEMBERS);

        let said = Growth::at_most(10 << 30);
        assert!(said.check_archive(10 << 30, 42).is_ok());
        let error = said.check_layer((10 << 30) + 1, u64::MAX).unwrap_err();
        assert!(error.to_string().contains("--max-unpacked-size"), "{error}");
        assert_eq!(said.members(1), 20 << 20);
    }
}
