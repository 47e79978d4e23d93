//! apk's database of installed packages: records of one-letter fields.

use super::debian::distro;
use super::{Package, System};

/// The packages that are installed.
pub(super) fn packages(text: &[u8], namespace: &str, system: Option<&System>) -> Vec<Package> {
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    let (mut package, mut architecture, mut origin) =
        (Package::new("apk", "", ""), String::new(), String::new());
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            let mut done = std::mem::replace(&mut package, Package::new("apk", "", ""));
            let (architecture, origin) = (std::mem::take(&mut architecture), std::mem::take(&mut origin));
            if !done.name.is_empty() {
                namespace.clone_into(&mut done.namespace);
                let origin = if origin == done.name {
                    String::new()
                } else {
                    origin
                };
                done.qualifiers = vec![
                    ("arch", architecture),
                    ("distro", distro(system)),
                    ("upstream", origin),
                ];
                found.push(done);
            }
            continue;
        }
        let Some((field, value)) = line.split_once(':') else {
            continue;
        };
        match field {
            "P" => package.name = value.to_owned(),
            "V" => package.version = value.to_owned(),
            "L" => package.licence = Some(value.trim().to_owned()).filter(|text| !text.is_empty()),
            "A" => architecture = value.to_owned(),
            "o" => origin = value.to_owned(),
            _ => {}
        }
    }
    found
}
