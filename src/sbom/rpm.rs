//! rpm's database in its form of today: a SQLite table of package headers.

use super::debian::distro;
use super::elf::Parts;
use super::sqlite::{Database, Field};
use super::{Package, System};

/// Tags of a header.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const LICENSE: u32 = 1014;
const ARCH: u32 = 1022;
const SOURCE: u32 = 1044;
/// Keys are kept as if they were packages.
const KEY: &str = "gpg-pubkey";

/// The packages that are installed, and how many could not be understood.
pub(super) fn packages(
    file: &dyn Parts,
    namespace: &str,
    system: Option<&System>,
) -> Result<(Vec<Package>, usize), String> {
    let database = Database::open(file)?;
    let root = database.table("Packages")?;
    let (mut found, mut skipped) = (Vec::new(), 0);
    database.rows(root, &mut |cells| {
        let header = cells.iter().find_map(|cell| match cell {
            Field::Bytes(bytes) => Header::read(bytes),
            _ => None,
        });
        match header.and_then(|header| header.package(namespace, system)) {
            Some(package) if package.name == KEY => {}
            Some(package) => found.push(package),
            None => skipped += 1,
        }
    })?;
    Ok((found, skipped))
}

/// A header: where the values of its tags lie.
struct Header<'a> {
    entries: &'a [u8],
    values: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let count = usize::try_from(number(bytes, 0)?).ok()?;
        let (entries, values) = bytes.get(8..)?.split_at_checked(count.checked_mul(16)?)?;
        Some(Self { entries, values })
    }

    /// Type and value of a tag.
    fn value(&self, tag: u32) -> Option<(u32, &'a [u8])> {
        let mut entries = self.entries.chunks_exact(16);
        let entry = entries.find(|entry| number(entry, 0) == Some(tag))?;
        let place = usize::try_from(number(entry, 8)?).ok()?;
        Some((number(entry, 4)?, self.values.get(place..)?))
    }

    fn text(&self, tag: u32) -> Option<String> {
        // A text, or the first of several.
        let (_, value) = self.value(tag).filter(|(kind, _)| matches!(kind, 6 | 8 | 9))?;
        let text = value.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned()).filter(|text| !text.is_empty())
    }

    fn package(&self, namespace: &str, system: Option<&System>) -> Option<Package> {
        let version = match self.text(RELEASE) {
            Some(release) => format!("{}-{release}", self.text(VERSION)?),
            None => self.text(VERSION)?,
        };
        let mut package = Package::new("rpm", self.text(NAME)?, version);
        namespace.clone_into(&mut package.namespace);
        package.licence = self.text(LICENSE);
        let epoch = self.value(EPOCH).filter(|(kind, _)| *kind == 4);
        let epoch = epoch
            .and_then(|(_, value)| number(value, 0))
            .map(|epoch| epoch.to_string());
        package.qualifiers = vec![
            ("arch", self.text(ARCH).unwrap_or_default()),
            ("distro", distro(system)),
            ("epoch", epoch.unwrap_or_default()),
            ("upstream", self.text(SOURCE).unwrap_or_default()),
        ];
        Some(package)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}
