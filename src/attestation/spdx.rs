//! What is in a result: a document of SPDX 2.3 of what [`crate::sbom`] found.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_cache::Digest;
use serde_json::{Value, json};

use crate::sbom::{Inventory, Package};

const ROOT: &str = "SPDXRef-Image";
const NOTHING_SAID: &str = "NOASSERTION";

/// Licences of SPDX' list that packages name often. What is not here is kept as the text that it is.
const LICENCES: [&str; 66] = [
    "0BSD",
    "AFL-2.1",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-1.0-Perl",
    "Artistic-2.0",
    "BlueOak-1.0.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-4-Clause",
    "BSL-1.0",
    "bzip2-1.0.6",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "curl",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.2",
    "FSFAP",
    "FSFUL",
    "FSFULLR",
    "GFDL-1.3-or-later",
    "GPL-1.0-only",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "ICU",
    "IJG",
    "ISC",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "Libpng",
    "libtiff",
    "MirOS",
    "MIT",
    "MIT-0",
    "MPL-1.1",
    "MPL-2.0",
    "NCSA",
    "OFL-1.1",
    "OLDAP-2.8",
    "OpenSSL",
    "PSF-2.0",
    "Python-2.0",
    "Ruby",
    "SGI-B-2.0",
    "TCL",
    "Unicode-3.0",
    "Unlicense",
    "Vim",
    "W3C",
    "WTFPL",
    "Zlib",
];
/// Exceptions of SPDX' list.
const EXCEPTIONS: [&str; 6] = [
    "Autoconf-exception-3.0",
    "Bison-exception-2.2",
    "Classpath-exception-2.0",
    "GCC-exception-3.1",
    "LLVM-exception",
    "Linux-syscall-note",
];

/// The image that a document is about.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its id.
    pub id: &'a Digest,
    /// Digests of its layers, lowest first.
    pub layers: &'a [Digest],
    /// When it was made, RFC 3339.
    pub created: &'a str,
}

/// The document.
pub fn document(image: &Image<'_>, inventory: &Inventory) -> Value {
    let mut licences = Licences::default();
    let mut used = BTreeSet::new();
    let mut packages = vec![json!({
        "SPDXID": ROOT,
        "name": image.name,
        "versionInfo": image.id,
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": NOTHING_SAID,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING_SAID,
        "licenseDeclared": NOTHING_SAID,
        "copyrightText": NOTHING_SAID,
    })];
    let relation = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", ROOT)];
    if let Some(system) = &inventory.system {
        let id = "SPDXRef-OperatingSystem";
        packages.push(json!({
            "SPDXID": id,
            "name": system.name,
            "versionInfo": system.version,
            "primaryPackagePurpose": "OPERATING-SYSTEM",
            "downloadLocation": NOTHING_SAID,
            "filesAnalyzed": false,
            "licenseConcluded": NOTHING_SAID,
            "licenseDeclared": NOTHING_SAID,
            "copyrightText": NOTHING_SAID,
        }));
        relations.push(relation(ROOT, "CONTAINS", id));
    }
    for package in &inventory.packages {
        let id = id_of(package, &mut used);
        packages.push(entry(&id, package, image, &mut licences));
        relations.push(relation(ROOT, "CONTAINS", &id));
    }
    let mut document = json!({
        "SPDXID": "SPDXRef-DOCUMENT",
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "name": image.name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/rbuild-{}", image.id.hex()),
        "creationInfo": {
            "created": image.created,
            "creators": [format!("Tool: rbuild-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relations,
    });
    if !inventory.notes.is_empty() {
        document["comment"] = format!("What could not be read:\n{}", inventory.notes.join("\n")).into();
    }
    let extracted = licences.extracted();
    if !extracted.is_empty() {
        document["hasExtractedLicensingInfos"] = extracted.into();
    }
    document
}

fn entry(id: &str, package: &Package, image: &Image<'_>, licences: &mut Licences) -> Value {
    let name = match package.kind {
        "npm" if !package.namespace.is_empty() => format!("{}/{}", package.namespace, package.name),
        _ => package.name.clone(),
    };
    let source = match package.layer.and_then(|number| image.layers.get(number)) {
        Some(layer) => format!("found in {} of layer {layer}", package.source),
        None => format!("found in {}", package.source),
    };
    let declared = package.licence.as_deref();
    let mut entry = json!({
        "SPDXID": id,
        "name": name,
        "downloadLocation": NOTHING_SAID,
        "filesAnalyzed": false,
        "sourceInfo": source,
        "licenseConcluded": NOTHING_SAID,
        "licenseDeclared": declared.map_or_else(|| NOTHING_SAID.to_owned(), |text| licences.expression(text)),
        "copyrightText": NOTHING_SAID,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package.url(),
        }],
    });
    if !package.version.is_empty() {
        entry["versionInfo"] = package.version.as_str().into();
    }
    entry
}

/// An id that no other package has: letters, digits, points and dashes.
fn id_of(package: &Package, used: &mut BTreeSet<String>) -> String {
    let text = format!("{}-{}-{}", package.kind, package.name, package.version);
    let plain = plain(&text);
    let mut id = format!("SPDXRef-{plain}");
    let mut number = 1;
    while !used.insert(id.clone()) {
        number += 1;
        id = format!("SPDXRef-{plain}.{number}");
    }
    id
}

fn plain(text: &str) -> String {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '-'
        }
    };
    text.chars().map(allowed).take(200).collect()
}

/// Licences that SPDX' list does not have, by the ids that they got.
#[derive(Default)]
struct Licences(BTreeMap<String, String>);

impl Licences {
    /// The text as an expression of SPDX: licences of its list stay, others become references to their text.
    fn expression(&mut self, text: &str) -> String {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let tokens: Vec<&str> = spaced.split_whitespace().collect();
        if !is_expression(&tokens) {
            return self.reference(text);
        }
        let mut out = Vec::new();
        let mut after_with = false;
        for token in tokens {
            let known = |list: &'static [&'static str]| {
                let mut ids = list.iter();
                ids.find(|id| id.eq_ignore_ascii_case(token)).copied()
            };
            out.push(match token {
                "(" | ")" | "AND" | "OR" | "WITH" => token.to_owned(),
                // An exception that is unknown makes the whole a text of its own.
                _ if after_with => match known(&EXCEPTIONS) {
                    Some(id) => id.to_owned(),
                    None => return self.reference(text),
                },
                _ => match known(&LICENCES) {
                    Some(id) => id.to_owned(),
                    None => self.reference(token),
                },
            });
            after_with = token == "WITH";
        }
        out.join(" ").replace("( ", "(").replace(" )", ")")
    }

    fn reference(&mut self, text: &str) -> String {
        let base = match plain(text) {
            long if long.len() > 60 => {
                format!("{}-{}", &long[..40], &Digest::of(text.as_bytes()).hex()[..12])
            }
            short => short,
        };
        let mut id = format!("LicenseRef-{base}");
        // Two texts may look alike without what ids do not take.
        if self.0.get(&id).is_some_and(|known| known != text) {
            id = format!("{id}-{}", &Digest::of(text.as_bytes()).hex()[..12]);
        }
        self.0.insert(id.clone(), text.to_owned());
        id
    }

    fn extracted(self) -> Vec<Value> {
        let entry =
            |(id, text): (String, String)| json!({"licenseId": id, "name": text, "extractedText": text});
        self.0.into_iter().map(entry).collect()
    }
}

/// Whether these are ids with operators between them and parentheses that fit.
fn is_expression(tokens: &[&str]) -> bool {
    let (mut open, mut wants_id) = (0_usize, true);
    for token in tokens {
        match *token {
            "(" if wants_id => open += 1,
            ")" if !wants_id && open > 0 => open -= 1,
            "AND" | "OR" | "WITH" if !wants_id => wants_id = true,
            "(" | ")" | "AND" | "OR" | "WITH" => return false,
            id => {
                let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
                if !wants_id || !id.chars().all(allowed) {
                    return false;
                }
                wants_id = false;
            }
        }
    }
    open == 0 && !wants_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_expressions() {
        for (text, wanted, texts) in [
            ("MIT", "MIT", 0),
            ("(MIT OR apache-2.0)", "(MIT OR Apache-2.0)", 0),
            (
                "GPL-2.0-only WITH Linux-syscall-note",
                "GPL-2.0-only WITH Linux-syscall-note",
                0,
            ),
            ("GPLv2+", "LicenseRef-GPLv2-", 1),
            ("GPLv2+ AND MIT", "LicenseRef-GPLv2- AND MIT", 1),
            ("BSD License", "LicenseRef-BSD-License", 1),
            ("MIT WITH a", "LicenseRef-MIT-WITH-a", 1),
            ("MIT OR", "LicenseRef-MIT-OR", 1),
            ("(MIT", "LicenseRef--MIT", 1),
            (")", "LicenseRef--", 1),
            ("", "LicenseRef-", 1),
            ("MIT/Ünicode", "LicenseRef-MIT--nicode", 1),
        ] {
            let mut licences = Licences::default();
            assert_eq!(licences.expression(text), wanted, "{text:?}");
            assert_eq!(licences.extracted().len(), texts, "{text:?}");
        }
        let mut licences = Licences::default();
        let (first, second) = (licences.expression("A B"), licences.expression("A-B/"));
        assert_ne!(first, second);
        let long = licences.expression(&"very long ".repeat(100));
        assert!(long.len() < 80, "{long}");
    }
}
