//! Operands with wildcards.

use rbuild_cache::layer::LayerPath;
use rbuild_parser::glob;

/// The components before the first wildcard and those from there on; `None` without a wildcard. A backslash quotes.
pub(super) fn split_pattern(path: &LayerPath) -> anyhow::Result<Option<(LayerPath, Vec<Vec<u8>>)>> {
    let wild = |component: &&[u8]| {
        let mut bytes = component.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => drop(bytes.next()),
                b'*' | b'?' | b'[' => return true,
                _ => {}
            }
        }
        false
    };
    let components: Vec<&[u8]> = path.components().collect();
    let Some(first) = components.iter().position(wild) else {
        return Ok(None);
    };
    for component in &components {
        glob::matches(component, b"")?;
    }
    // Go's matcher takes a range that is upside down as empty; BuildKit refuses it before it gets there.
    if has_reversed_range(&String::from_utf8_lossy(path.as_bytes())) {
        return Err(glob::BadPattern.into());
    }
    let literal = components[..first]
        .iter()
        .fold(LayerPath::root(), |path, name| path.join(name));
    Ok(Some((
        literal,
        components[first..]
            .iter()
            .map(|component| component.to_vec())
            .collect(),
    )))
}

/// Whether a class of a well-formed pattern has a range like `[c-a]`.
fn has_reversed_range(pattern: &str) -> bool {
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        if char == '\\' {
            chars.next();
        }
        if char != '[' {
            continue;
        }
        chars.next_if_eq(&'^');
        // The first member may be a `]`.
        loop {
            let Some(low) = class_member(&mut chars) else {
                return false;
            };
            if chars.next_if_eq(&'-').is_some() {
                let high = class_member(&mut chars);
                if high.is_some_and(|high| high < low) {
                    return true;
                }
            }
            if chars.next_if_eq(&']').is_some() {
                break;
            }
        }
    }
    false
}

/// The next character of a class; a backslash quotes.
fn class_member(chars: &mut impl Iterator<Item = char>) -> Option<char> {
    chars
        .next()
        .and_then(|char| if char == '\\' { chars.next() } else { Some(char) })
}
