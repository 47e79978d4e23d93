//! Package URLs: `pkg:TYPE/NAMESPACE/NAME@VERSION?QUALIFIERS`.

use super::Package;

/// The URL of a package.
pub(super) fn of(package: &Package) -> String {
    let mut url = format!("pkg:{}/", package.kind);
    if !package.namespace.is_empty() {
        url.push_str(&path(&package.namespace));
        url.push('/');
    }
    // A name of Go's is a path.
    url.push_str(&if package.kind == "golang" {
        path(&package.name)
    } else {
        part(&package.name)
    });
    if !package.version.is_empty() {
        url.push('@');
        url.push_str(&part(&package.version));
    }
    let mut qualifiers: Vec<_> = package
        .qualifiers
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    qualifiers.sort();
    for (number, (name, value)) in qualifiers.into_iter().enumerate() {
        url.push(if number == 0 { '?' } else { '&' });
        url.push_str(&format!("{name}={}", part(value)));
    }
    url
}

/// One part, with all that separates parts encoded.
pub fn part(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Parts with slashes between them.
pub fn path(text: &str) -> String {
    text.split('/').map(part).collect::<Vec<_>>().join("/")
}
