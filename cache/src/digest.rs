//! Names of content: distinct types so that a compressed blob, an uncompressed layer and a
//! cache key are never mistaken for each other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// What a digest string got wrong (OCI image-spec, descriptor, "Digests").
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("invalid digest {text:?}: {reason}")]
pub struct DigestError {
    /// The text as it was given, cut to 100 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// `sha256:<64 lower-case hex>`: the name of a blob in an OCI layout. Other algorithms are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest with these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// sha256 of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(sha2::Sha256::digest(data).into())
    }

    /// The 64 lower-case hex digits, without `sha256:`.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let fail = |reason| DigestError {
            text: text.chars().take(100).collect(),
            reason,
        };
        let (algorithm, encoded) = text.split_once(':').ok_or_else(|| fail("it has no algorithm"))?;
        if algorithm != "sha256" {
            return Err(fail("the algorithm is not sha256"));
        }
        parse_hex(encoded)
            .map(Self)
            .ok_or_else(|| fail("it is not 64 lower-case hex digits"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Digest of a layer's uncompressed tar: what `rootfs.diff_ids` of an image config lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// blake3 of a file's bytes or of a canonical list of entries; never leaves the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest(pub [u8; 32]);

impl ContentDigest {
    /// blake3 of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(*blake3::hash(data).as_bytes())
    }

    /// 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

/// A cache key (design D4): blake3 over a typed, length-framed, versioned description of a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

macro_rules! hex_text {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }
        impl FromStr for $type {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, DigestError> {
                let fail = || DigestError {
                    text: text.chars().take(100).collect(),
                    reason: "it is not 64 lower-case hex digits",
                };
                parse_hex(text).map(Self).ok_or_else(fail)
            }
        }
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
hex_text!(ContentDigest);
hex_text!(Key);

/// Name of a layer inside one store: opaque, stable, safe as a file name. A pulled layer is named
/// after its diff id, a built one at random: its diff id is only computed when somebody asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct LayerId(String);

impl LayerId {
    /// The name of the layer whose uncompressed tar has this digest.
    pub fn of_diff_id(diff_id: &DiffId) -> Self {
        Self(format!("d-{}", diff_id.0.hex()))
    }

    /// A new name from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("r-{}", hex(&bytes)))
    }

    /// The name as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LayerId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = match text.split_once('-') {
            Some(("d", digits)) if digits.len() == 64 => digits,
            Some(("r", digits)) if digits.len() == 32 => digits,
            _ => "",
        };
        if digits.is_empty() || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError {
                text: text.chars().take(100).collect(),
                reason: "it is no layer name",
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LayerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Builds a [`Key`] from named fields. Every name and value is framed by its length, so that no
/// two different sequences of fields feed the same bytes.
#[derive(Debug, Clone)]
pub struct KeyBuilder {
    hasher: blake3::Hasher,
    /// What the hasher has not got yet: it is several times as fast by large pieces, and a copy may have a million fields.
    pending: Vec<u8>,
}

impl KeyBuilder {
    /// `domain` says what is hashed and in which version, for example `"exec/1"`.
    pub fn new(domain: &str) -> Self {
        let mut builder = Self {
            hasher: blake3::Hasher::new(),
            pending: Vec::new(),
        };
        builder.frame(domain.as_bytes());
        builder
    }

    /// Adds a field.
    pub fn field(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.frame(name.as_bytes());
        self.frame(value);
        self
    }

    /// Adds a field with as many values as `values` has.
    pub fn list<T: AsRef<[u8]>>(&mut self, name: &str, values: impl IntoIterator<Item = T>) -> &mut Self {
        let values: Vec<T> = values.into_iter().collect();
        self.frame(name.as_bytes());
        self.put(&(values.len() as u64).to_le_bytes());
        for value in &values {
            self.frame(value.as_ref());
        }
        self
    }

    /// The key of all fields so far.
    pub fn finish(&self) -> Key {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.pending);
        Key(*hasher.finalize().as_bytes())
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.put(&(bytes.len() as u64).to_le_bytes());
        self.put(bytes);
    }

    fn put(&mut self, bytes: &[u8]) {
        const PIECE: usize = 64 << 10;
        if self.pending.len() + bytes.len() > PIECE {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
        if bytes.len() > PIECE {
            self.hasher.update(bytes);
        } else {
            self.pending.extend_from_slice(bytes);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| {
            [
                DIGITS[usize::from(b >> 4)] as char,
                DIGITS[usize::from(b & 15)] as char,
            ]
        })
        .collect()
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        }
    }
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_strict() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        for bad in [
            "",
            "sha256:",
            "sha256:../../x",
            "md5:00",
            &good.to_uppercase(),
            &good[..70],
            &format!("{good}0"),
            "sha512:00",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn layer_names_are_file_names() {
        for bad in ["", "d-", "../x", "r-../../etc/passwd00000000000000000", "d-ABC"] {
            assert!(bad.parse::<LayerId>().is_err(), "{bad}");
        }
        assert!(LayerId::from_random([7; 16]).as_str().parse::<LayerId>().is_ok());
    }

    #[test]
    fn keys_do_not_depend_on_how_fields_are_gathered() {
        let (mut key, mut plain) = (KeyBuilder::new("test/1"), Vec::new());
        let mut frame = |bytes: &[u8]| {
            plain.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            plain.extend_from_slice(bytes);
        };
        frame(b"test/1");
        for length in [0, 1, 70_000, 65_536, 65_528, 3, 200_000]
            .into_iter()
            .chain(0..2000)
        {
            let value = vec![7; length];
            frame(b"name");
            frame(&value);
            key.field("name", &value);
        }
        assert_eq!(key.finish().0, *blake3::hash(&plain).as_bytes());
        assert_eq!(key.finish(), key.clone().finish());
    }

    #[test]
    fn framing_tells_fields_apart() {
        let key = |fields: &[(&str, &str)]| {
            let mut builder = KeyBuilder::new("test/1");
            for (name, value) in fields {
                builder.field(name, value.as_bytes());
            }
            builder.finish()
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", ""), ("b", "")]), key(&[("a", "b")]));
    }
}
