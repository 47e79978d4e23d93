//! dpkg's database: `status`, and of images without a package manager a file for each package in `status.d`.

use super::{Package, System};

/// The packages that are installed.
pub(super) fn packages(text: &[u8], namespace: &str, system: Option<&System>) -> Vec<Package> {
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    let mut stanza = Stanza::default();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            found.extend(std::mem::take(&mut stanza).package(namespace, system));
            continue;
        }
        if line.starts_with([' ', '\t']) {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match name {
            "Package" => stanza.name = value.to_owned(),
            "Version" => stanza.version = value.to_owned(),
            "Architecture" => stanza.architecture = value.to_owned(),
            "Source" => stanza.source = value.to_owned(),
            "Status" => stanza.status = value.to_owned(),
            _ => {}
        }
    }
    found
}

/// Where dpkg lists the files of a package.
pub(super) fn lists(package: &Package) -> Vec<String> {
    let architecture = package.qualifiers.iter().find(|(name, _)| *name == "arch");
    let mut lists = vec![format!("var/lib/dpkg/info/{}.list", package.name)];
    if let Some((_, architecture)) = architecture {
        lists.push(format!("var/lib/dpkg/info/{}:{architecture}.list", package.name));
    }
    lists
}

#[derive(Default)]
struct Stanza {
    name: String,
    version: String,
    architecture: String,
    source: String,
    status: String,
}

impl Stanza {
    fn package(self, namespace: &str, system: Option<&System>) -> Option<Package> {
        let installed = self.status.is_empty() || self.status.split_whitespace().last() == Some("installed");
        if self.name.is_empty() || !installed {
            return None;
        }
        let mut package = Package::new("deb", self.name, self.version);
        package.namespace = namespace.to_owned();
        package.qualifiers = vec![("arch", self.architecture), ("distro", distro(system))];
        // `Source: name (version)`, where they differ from the package's own.
        let mut source = self.source.split_whitespace();
        if let Some(name) = source.next() {
            let version = source.next().map(|text| text.trim_matches(['(', ')']));
            let version = version.map(|version| format!("@{version}")).unwrap_or_default();
            package.qualifiers.push(("upstream", format!("{name}{version}")));
        }
        Some(package)
    }
}

/// How package URLs name the distribution.
pub(super) fn distro(system: Option<&System>) -> String {
    match system {
        Some(system) if system.version.is_empty() => system.id.clone(),
        Some(system) => format!("{}-{}", system.id, system.version),
        None => String::new(),
    }
}
