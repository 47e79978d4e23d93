//! What programs know of how they were built: Go's build info, and the list that `cargo auditable` puts into Rust's.

use std::io::Read as _;

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use super::Package;
use super::elf::{Parts, bytes_at, sections};

const GO_MAGIC: &[u8] = b"\xff Go buildinf:";
/// More than the modules of any program take.
const SECTION_LIMIT: u64 = 16 << 20;
/// What stands before and after the list of modules.
const GO_MARK: usize = 16;

/// The modules and crates that a program was built of; none when it does not know or is no program.
pub(super) fn packages(file: &dyn Parts) -> Result<Vec<Package>, String> {
    let failed = |error: std::io::Error| format!("it could not be read: {error}");
    let [go, cargo] = sections(file, [".go.buildinfo", ".dep-v0"]).map_err(failed)?;
    let mut found = Vec::new();
    if let Some(section) = go {
        let bytes = bytes_at(file, section.offset, section.size.min(SECTION_LIMIT)).map_err(failed)?;
        found.extend(of_go(&bytes)?);
    }
    if let Some(section) = cargo {
        let bytes = bytes_at(file, section.offset, section.size.min(SECTION_LIMIT)).map_err(failed)?;
        found.extend(of_cargo(&bytes)?);
    }
    Ok(found)
}

fn of_go(bytes: &[u8]) -> Result<Vec<Package>, String> {
    if !bytes.starts_with(GO_MAGIC) {
        return Err("its build info of Go is not understood".to_owned());
    }
    // Before Go 1.18 there were pointers into the program instead.
    if bytes.get(15).is_none_or(|flags| flags & 2 == 0) {
        return Err("its build info is of a Go before 1.18, its modules are missing here".to_owned());
    }
    let cut = || "its build info of Go is cut off".to_owned();
    let rest = bytes.get(32..).ok_or_else(cut)?;
    let (version, rest) = text(rest).ok_or_else(cut)?;
    let (modules, _) = text(rest).ok_or_else(cut)?;
    let mut found = Vec::new();
    let version = String::from_utf8_lossy(version);
    if let Some(version) = version
        .split_whitespace()
        .next()
        .and_then(|text| text.strip_prefix("go"))
    {
        found.push(Package::new("golang", "stdlib", version));
    }
    let modules = modules
        .get(GO_MARK..modules.len().saturating_sub(GO_MARK))
        .unwrap_or_default();
    let modules = String::from_utf8_lossy(modules);
    for line in modules.lines() {
        let mut fields = line.split('\t');
        let kind = fields.next().unwrap_or_default();
        let (Some(path), Some(version)) = (fields.next(), fields.next()) else {
            continue;
        };
        match kind {
            "mod" | "dep" => {
                // What was built of a working tree has no version.
                let version = if version == "(devel)" { "" } else { version };
                found.push(Package::new("golang", path, version));
            }
            // Instead of the one before.
            "=>" => {
                found.pop();
                found.push(Package::new("golang", path, version));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// A text with its length before it, and what follows.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut shift) = (0_u64, 0);
    for (number, byte) in bytes.iter().enumerate().take(9) {
        length |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return bytes[number + 1..].split_at_checked(usize::try_from(length).ok()?);
        }
    }
    None
}

#[derive(Deserialize)]
struct Auditable {
    packages: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    name: String,
    version: String,
    #[serde(default)]
    source: String,
    /// `build` for what only ran while building.
    #[serde(default)]
    kind: String,
}

fn of_cargo(bytes: &[u8]) -> Result<Vec<Package>, String> {
    let mut json = Vec::new();
    ZlibDecoder::new(bytes)
        .take(SECTION_LIMIT + 1)
        .read_to_end(&mut json)
        .map_err(|error| format!("its list of crates could not be read: {error}"))?;
    if json.len() as u64 > SECTION_LIMIT {
        return Err(format!("its list of crates has more than {SECTION_LIMIT} bytes"));
    }
    let list: Auditable = serde_json::from_slice(&json)
        .map_err(|error| format!("its list of crates is not understood: {error}"))?;
    let package = |it: Crate| {
        let mut package = Package::new("cargo", it.name, it.version);
        if !matches!(it.source.as_str(), "" | "crates.io" | "registry" | "local") {
            package.qualifiers.push(("vcs_url", it.source));
        }
        package
    };
    let runs = |it: &Crate| it.kind != "build";
    Ok(list.packages.into_iter().filter(runs).map(package).collect())
}
