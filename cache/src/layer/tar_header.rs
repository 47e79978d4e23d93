//! The 512-byte tar header: fields of the ustar, GNU, star and V7 layouts, PAX records.
//! Only bytes are looked at here; what a member means is said in [`super::tar_read`].

use super::tar_read::TarError;

/// Size of a header and unit of all data.
pub(super) const BLOCK: usize = 512;

/// Sparse and multi-volume members, and whatever else would need more than a header to be understood, have other
/// flags and are refused.
pub(super) mod flag {
    pub const FILE: u8 = b'0';
    pub const FILE_OLD: u8 = 0;
    pub const HARDLINK: u8 = b'1';
    pub const SYMLINK: u8 = b'2';
    pub const CHAR: u8 = b'3';
    pub const BLOCK: u8 = b'4';
    pub const DIRECTORY: u8 = b'5';
    pub const FIFO: u8 = b'6';
    pub const CONTIGUOUS: u8 = b'7';
    pub const PAX: u8 = b'x';
    pub const PAX_GLOBAL: u8 = b'g';
    pub const GNU_LONG_NAME: u8 = b'L';
    pub const GNU_LONG_LINK: u8 = b'K';
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header<'a> {
    block: &'a [u8; BLOCK],
    layout: Layout,
}

impl<'a> Header<'a> {
    /// Reads `block`, which is not all zero.
    pub fn parse(block: &'a [u8; BLOCK]) -> Result<Self, TarError> {
        let stated = octal(&block[148..156]).ok_or(TarError::Checksum)?;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (position, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&position) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            // Some old programs added the bytes as signed numbers.
            signed += i64::from(byte.cast_signed());
        }
        let stated = i64::try_from(stated).map_err(|_| TarError::Checksum)?;
        if stated != unsigned && stated != signed {
            return Err(TarError::Checksum);
        }
        let layout = match (&block[257..263], &block[263..265]) {
            (b"ustar\0", b"00") if &block[508..512] == b"tar\0" => Layout::Star,
            (b"ustar\0", _) => Layout::Ustar,
            (b"ustar ", b" \0") => Layout::Gnu,
            _ => Layout::V7,
        };
        Ok(Self { block, layout })
    }

    pub fn typeflag(&self) -> u8 {
        self.block[156]
    }

    /// Name with prefix.
    pub fn name(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = match self.layout {
            Layout::Ustar => text(&self.block[345..500]),
            Layout::Star => text(&self.block[345..476]),
            Layout::Gnu | Layout::V7 => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub fn link_name(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub fn mode(&self) -> Result<u32, TarError> {
        // Bits above the permissions repeat the type in some programs' output.
        let mode = self.number(100..108, "mode")?;
        u32::try_from(mode & 0o7777).map_err(|_| TarError::Number { field: "mode" })
    }

    pub fn uid(&self) -> Result<i64, TarError> {
        self.number(108..116, "uid")
    }

    pub fn gid(&self) -> Result<i64, TarError> {
        self.number(116..124, "gid")
    }

    pub fn size(&self) -> Result<i64, TarError> {
        self.number(124..136, "size")
    }

    pub fn mtime(&self) -> Result<i64, TarError> {
        self.number(136..148, "mtime")
    }

    /// Major and minor number of a device.
    pub fn device(&self) -> Result<(u32, u32), TarError> {
        if self.layout == Layout::V7 {
            return Ok((0, 0));
        }
        let part =
            |range, field| u32::try_from(self.number(range, field)?).map_err(|_| TarError::Number { field });
        Ok((part(329..337, "devmajor")?, part(337..345, "devminor")?))
    }

    fn number(&self, range: std::ops::Range<usize>, field: &'static str) -> Result<i64, TarError> {
        let bytes = &self.block[range];
        let value = if bytes[0] & 0x80 != 0 {
            base_256(bytes)
        } else {
            octal(bytes).and_then(|v| v.try_into().ok())
        };
        value.ok_or(TarError::Number { field })
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Octal digits between spaces and NULs; nothing at all is zero.
fn octal(field: &[u8]) -> Option<u64> {
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let Some(start) = field.iter().position(|b| !blank(b)) else {
        return Some(0);
    };
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(blank).unwrap_or(digits.len())];
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// GNU's and star's form for numbers that octal has no room for: two's complement, first bit set.
fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (position, byte) in field.iter().enumerate() {
        let byte = match (position, negative) {
            (0, false) => byte & 0x7f,
            (0, true) => byte | 0x80,
            _ => *byte,
        };
        // At most 12 bytes are shifted in, so that this cannot overflow.
        value = value << 8 | i128::from(byte);
    }
    value.try_into().ok()
}

/// Key and value.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// The records of a PAX header: `<length> <key>=<value>\n`, `length` counting all of it.
pub(super) fn pax_records(mut data: &[u8]) -> Result<Vec<Record>, TarError> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let space = data
            .iter()
            .take(20)
            .position(|b| *b == b' ')
            .ok_or(TarError::Pax("a record has no length"))?;
        let length = decimal(&data[..space]).ok_or(TarError::Pax("the length of a record is no number"))?;
        let length = usize::try_from(length).map_err(|_| TarError::Pax("a record is too long"))?;
        if length <= space + 1 || length > data.len() {
            return Err(TarError::Pax("the length of a record is wrong"));
        }
        let (record, rest) = data.split_at(length);
        data = rest;
        let record = record[space + 1..]
            .strip_suffix(b"\n")
            .ok_or(TarError::Pax("a record does not end with a newline"))?;
        let equals = record
            .iter()
            .position(|b| *b == b'=')
            .ok_or(TarError::Pax("a record has no ="))?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(TarError::Pax("the key of a record is empty or holds a NUL"));
        }
        records.push((key.to_vec(), value.to_vec()));
    }
    Ok(records)
}

/// A non-negative decimal number without a sign.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A PAX time: seconds with an optional sign and fraction, as `(floor, nanoseconds above it)`.
pub(super) fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let nanoseconds = (0..9).fold(0u32, |value, place| {
        value * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'))
    });
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some(((-seconds).checked_sub(1)?, 1_000_000_000 - nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"12a\0", None),
            (b"-1\0", None),
        ] {
            assert_eq!(octal(field), value, "{field:?}");
        }
        assert_eq!(base_256(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(base_256(&[0xff; 8]), Some(-1));
        assert_eq!(
            base_256(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
            Some(-2)
        );
        assert_eq!(base_256(&[0xbf; 12]), None);
    }

    #[test]
    fn times() {
        for (text, value) in [
            ("1.5", Some((1, 500_000_000))),
            ("-1.5", Some((-2, 500_000_000))),
            ("7", Some((7, 0))),
            ("7.", Some((7, 0))),
            ("1.0000000019", Some((1, 1))),
            ("-0", Some((0, 0))),
            ("", None),
            ("1.x", None),
            ("+1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(pax_time(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn records_are_framed_strictly() {
        assert_eq!(pax_records(b"6 a=b\n").unwrap(), [(b"a".to_vec(), b"b".to_vec())]);
        assert_eq!(
            pax_records(b"7 a=b\n\n").unwrap(),
            [(b"a".to_vec(), b"b\n".to_vec())]
        );
        for bad in [
            "6 a=b",
            "5 a=b\n",
            "7 a=b\n",
            "06a=b\n",
            "4 =\n",
            "5 ab\n",
            "x a=b\n",
            "999999999999999999999 a=b\n",
            "0 a=b\n",
            "5 =b\n",
        ] {
            assert!(pax_records(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
