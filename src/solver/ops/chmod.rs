//! `--chmod` (spec P14): octal, or the symbolic form of chmod(1) with a umask of zero.

use anyhow::bail;

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// All bits at once.
    Octal(u32),
    /// Steps that start from the bits that are there.
    Symbolic(Vec<Step>),
}

/// One action of a symbolic mode, for example the `u+s` and the `g-r` of `u+s,g-r`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bits that belong to the classes named: `u` has `0o4700`, `g` `0o2070`, `o` `0o1007`.
    affected: u32,
    action: Action,
    permissions: Permissions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permissions {
    /// Bits of all classes, and whether `X` was among them.
    Bits { bits: u32, search: bool },
    /// Those that the class with this shift has (`u` 6, `g` 3, `o` 0).
    Copied { shift: u32 },
}

const ALL_EXECUTE: u32 = 0o111;

impl Chmod {
    /// Reads the value of `--chmod`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let octal = !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        if octal
            && let Ok(mode) = u32::from_str_radix(text, 8)
            && mode <= 0o7777
        {
            return Ok(Self::Octal(mode));
        }
        let symbolic = text
            .as_bytes()
            .first()
            .is_some_and(|first| !first.is_ascii_digit());
        let steps: Option<Vec<Vec<Step>>> = text.split(',').map(clause).collect();
        match steps {
            Some(steps) if symbolic => Ok(Self::Symbolic(steps.concat())),
            // BuildKit's words: scripts look for them.
            _ => {
                bail!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
            }
        }
    }

    /// The bits of something that had `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(steps) => {
                // `X` looks at the bits from before the first step.
                let search = is_directory || mode & ALL_EXECUTE != 0;
                steps.iter().fold(mode, |mode, step| step.apply(mode, search))
            }
        }
    }
}

impl Step {
    fn apply(&self, mode: u32, search: bool) -> u32 {
        let bits = match self.permissions {
            Permissions::Bits { bits, search: asked } => bits | if asked && search { ALL_EXECUTE } else { 0 },
            Permissions::Copied { shift } => (mode >> shift & 7) * 0o111,
        };
        let bits = bits & self.affected;
        match self.action {
            Action::Add => mode | bits,
            Action::Remove => mode & !bits,
            Action::Set => mode & !self.affected | bits,
        }
    }
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`
fn clause(text: &str) -> Option<Vec<Step>> {
    let operator = text.find(['+', '-', '='])?;
    let (classes, mut rest) = text.split_at(operator);
    let mut affected = 0;
    for class in classes.bytes() {
        affected |= match class {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o1007,
            b'a' => 0o7777,
            _ => return None,
        };
    }
    if classes.is_empty() {
        affected = 0o7777;
    }
    let mut steps = Vec::new();
    while let Some(operator) = rest.bytes().next() {
        let action = match operator {
            b'+' => Action::Add,
            b'-' => Action::Remove,
            _ => Action::Set,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |end| end + 1);
        steps.push(Step {
            affected,
            action,
            permissions: permissions(&rest[1..end])?,
        });
        rest = &rest[end..];
    }
    Some(steps)
}

fn permissions(text: &str) -> Option<Permissions> {
    let shift = match text {
        "u" => 6,
        "g" => 3,
        "o" => 0,
        _ => {
            let (mut bits, mut search) = (0, false);
            for permission in text.bytes() {
                match permission {
                    b'r' => bits |= 0o444,
                    b'w' => bits |= 0o222,
                    b'x' => bits |= 0o111,
                    b'X' => search = true,
                    b's' => bits |= 0o6000,
                    b't' => bits |= 0o1000,
                    _ => return None,
                }
            }
            return Some(Permissions::Bits { bits, search });
        }
    };
    Some(Permissions::Copied { shift })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_applied() {
        // (--chmod, before, is it a directory, after)
        for (text, before, directory, after) in [
            ("600", 0o755, true, 0o600),
            ("4755", 0o600, false, 0o4755),
            ("0", 0o600, false, 0),
            ("+x", 0o644, false, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o4755, false, 0o755),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("u+s,g-r", 0o644, false, 0o4604),
            ("u+s,g-r", 0o755, true, 0o4715),
            ("g=u", 0o640, false, 0o660),
            ("o=g-w", 0o660, false, 0o664),
            ("a=", 0o7777, false, 0),
            ("=r", 0o777, false, 0o444),
            ("g+s", 0o755, true, 0o2755),
            ("o+t", 0o777, true, 0o1777),
            ("u+x-r", 0o600, false, 0o300),
        ] {
            assert_eq!(
                Chmod::parse(text).unwrap().apply(before, directory),
                after,
                "{text} on {before:o}"
            );
        }
    }

    #[test]
    fn bad_modes_are_refused() {
        for bad in [
            "", "08", "10000", "9", "u", "u+", "z+x", "u+q", ",", "u+x,", "+x,7", "0644 ", "-1", "7u+x",
        ] {
            let result = Chmod::parse(bad);
            // An action without permissions changes nothing and is allowed, as chmod(1) does.
            if matches!(bad, "u+") {
                assert_eq!(result.unwrap().apply(0o640, false), 0o640);
                continue;
            }
            let error = result.unwrap_err().to_string();
            assert!(
                error.contains("it should be octal string and between 0 and 07777"),
                "{bad}: {error}"
            );
        }
    }
}
