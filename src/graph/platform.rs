//! `os/arch[/variant]` as containerd normalises it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A platform, normalised: `x86_64` is `amd64`, `aarch64` is `arm64`, arm64's `v8` and amd64's `v1` are dropped, arm
/// without a variant is `v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, for example `linux`.
    pub os: String,
    /// Architecture by its Go name, for example `amd64`.
    pub architecture: String,
    /// Variant, for example `v7`; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A platform text that cannot be understood.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is an invalid OS/architecture specifier")]
pub struct PlatformError {
    /// The text as given.
    pub text: String,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        Self::normalised("linux", std::env::consts::ARCH, "")
    }

    /// Whether an image of platform `offered` runs where this one is wanted.
    pub fn accepts(&self, offered: &Platform) -> bool {
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant == offered.variant || offered.variant.is_empty() || self.variant.is_empty())
    }

    /// Normalised from its parts.
    pub fn normalised(os: &str, architecture: &str, variant: &str) -> Self {
        let os = if os.eq_ignore_ascii_case("macos") {
            "darwin".to_owned()
        } else {
            os.to_ascii_lowercase()
        };
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" | "amd64" => ("amd64", if variant == "v1" { String::new() } else { variant }),
            "aarch64" | "arm64" => (
                "arm64",
                if matches!(variant.as_str(), "8" | "v8") {
                    String::new()
                } else {
                    variant
                },
            ),
            "armhf" => ("arm", "v7".to_owned()),
            "armel" => ("arm", "v6".to_owned()),
            "arm" => match variant.as_str() {
                "" | "7" => ("arm", "v7".to_owned()),
                "5" | "6" | "8" => ("arm", format!("v{variant}")),
                _ => ("arm", variant),
            },
            "i386" | "x86" => ("386", String::new()),
            "powerpc64" => ("ppc64le", variant),
            other => {
                return Self {
                    os,
                    architecture: other.to_owned(),
                    variant,
                };
            }
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant,
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `os/arch[/variant]`, `os` alone, an architecture alone, or `local`.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let fail = || PlatformError {
            text: text.to_owned(),
        };
        let valid = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| valid(part)) {
            return Err(fail());
        }
        let host = Self::host();
        match parts.as_slice() {
            ["local"] => Ok(host),
            [os] if matches!(*os, "linux" | "windows" | "darwin" | "freebsd" | "wasi") => {
                Ok(Self::normalised(os, &host.architecture, &host.variant))
            }
            [architecture] => {
                const KNOWN: [&str; 18] = [
                    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "ppc64",
                    "ppc64le", "riscv64", "s390x", "wasm", "x86_64", "aarch64", "i386", "armhf", "armel",
                ];
                if KNOWN.contains(architecture) {
                    Ok(Self::normalised(&host.os, architecture, ""))
                } else {
                    Err(fail())
                }
            }
            [os, architecture] => Ok(Self::normalised(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::normalised(os, architecture, variant)),
            _ => Err(fail()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (given, shown) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/arm", "linux/arm/v7"),
            ("Linux/ARM/6", "linux/arm/v6"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(given.parse::<Platform>().unwrap().to_string(), shown, "{given}");
        }
        for bad in ["", "/", "linux/", "a/b/c/d", "nosuch", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
