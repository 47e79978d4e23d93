//! What did the user decide once and for all? `~/.config/rbuild/config.toml` (`--config`): registries, and defaults of flags.
//!
//! Where there is none, or it says so (`registries.import`), what docker's `daemon.json` and containers' `registries.conf` say of
//! mirrors, of registries without TLS and of short names counts. Where there is none these are read when it first matters: whoever
//! asks no registry does not depend on them.

mod foreign;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::Deserialize;

pub(super) use foreign::{docker_client, docker_directory};

use crate::exporter::{Codec, Encoding};
use crate::registry::{Alias, Mirror, RegistryOptions, Rule, Rules};

/// The configuration.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Hosts without TLS.
    pub insecure: Vec<String>,
    /// Mirrors, blocked registries, short names.
    pub rules: Rules,
    /// Directories of certificates, beside the usual ones.
    pub certificates: Vec<PathBuf>,
    /// How layers are compressed where their bytes leave the store.
    pub codec: Option<Codec>,
    /// How much.
    pub level: Option<i32>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// Whether other tools' files count, once it matters.
    asks_others: bool,
    build: BTreeMap<&'static str, Vec<String>>,
    prune: BTreeMap<&'static str, Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    registries: Registries,
    build: Build,
    store: StoreLimits,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Registries {
    insecure: Vec<String>,
    blocked: Vec<String>,
    mirrors: BTreeMap<String, Vec<String>>,
    aliases: BTreeMap<String, String>,
    certificates: Vec<PathBuf>,
    import: Vec<Import>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Import {
    Docker,
    Containers,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Build {
    platform: Vec<String>,
    isolation: Option<String>,
    network: Option<String>,
    compression: Option<Compression>,
    compression_level: Option<i32>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Compression {
    Uncompressed,
    Gzip,
    Zstd,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct StoreLimits {
    store_max: Option<String>,
    min_free: Option<String>,
    keep_storage: Option<String>,
    max_used_space: Option<String>,
    min_free_space: Option<String>,
}

impl Config {
    /// The file that was named, else the user's own where there is one, else what other tools have.
    pub fn load(named: Option<&Path>) -> anyhow::Result<Self> {
        let own = match named {
            Some(path) => Some((path.to_owned(), true)),
            None => {
                directory("XDG_CONFIG_HOME", ".config").map(|dir| (dir.join("rbuild/config.toml"), false))
            }
        };
        if let Some((path, must_be)) = own {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Self::read(&text, &path),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_be => {}
                Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
            }
        }
        Ok(Self {
            asks_others: true,
            ..Self::default()
        })
    }

    fn read(text: &str, path: &Path) -> anyhow::Result<Self> {
        let document: Document = parse(text, path)?;
        let mut config = Self {
            insecure: document.registries.insecure,
            certificates: document.registries.certificates,
            codec: document.build.compression.map(|compression| match compression {
                Compression::Uncompressed => Codec::Uncompressed,
                Compression::Gzip => Codec::Gzip,
                Compression::Zstd => Codec::Zstd,
            }),
            level: document.build.compression_level,
            files: vec![path.to_owned()],
            ..Self::default()
        };
        let alias = |(name, meant)| (name, Alias { meant, file: None });
        config.rules.aliases = document.registries.aliases.into_iter().map(alias).collect();
        for (prefix, locations) in document.registries.mirrors {
            let mirrors = locations.iter().map(|location| config.mirror(location)).collect();
            config.rules.rules.push(Rule {
                prefix,
                mirrors,
                ..Rule::default()
            });
        }
        for prefix in document.registries.blocked {
            let blocked = true;
            config.rules.rules.retain(|rule| rule.prefix != prefix);
            config.rules.rules.push(Rule {
                prefix,
                blocked,
                ..Rule::default()
            });
        }
        let one = |value: Option<String>| value.into_iter().collect();
        config.build = [
            ("platform", document.build.platform),
            ("isolation", one(document.build.isolation)),
            ("network", one(document.build.network)),
            ("store_max", one(document.store.store_max)),
            ("min_free", one(document.store.min_free)),
        ]
        .into();
        config.prune = [
            ("keep_storage", one(document.store.keep_storage)),
            ("max_used_space", one(document.store.max_used_space)),
            ("min_free_space", one(document.store.min_free_space)),
        ]
        .into();
        for import in document.registries.import {
            match import {
                Import::Docker => foreign::docker(&mut config)?,
                Import::Containers => foreign::containers(&mut config)?,
            }
        }
        Ok(config)
    }

    /// A mirror as people write it: with a scheme or without.
    fn mirror(&mut self, location: &str) -> Mirror {
        let bare = location.strip_prefix("https://").unwrap_or(location);
        let bare = match bare.strip_prefix("http://") {
            Some(plain) => {
                self.insecure.push(host(plain).to_owned());
                plain
            }
            None => bare,
        };
        Mirror {
            location: bare.trim_end_matches('/').to_owned(),
            tags: true,
            digests: true,
        }
    }

    /// For the registry client; `insecure` are those of the command line.
    pub fn registry_options(&self, insecure: &[String]) -> RegistryOptions {
        let mut options = RegistryOptions {
            insecure: [insecure, &self.insecure].concat(),
            rules: self.rules.clone(),
            later: self.asks_others.then_some(foreign::all),
            ..RegistryOptions::default()
        };
        options.certificates = [self.certificates.as_slice(), &options.certificates].concat();
        options
    }

    /// The flags that a call has not, and that the configuration has for its command, and how many words its verb has.
    pub fn defaults(&self, call: &ArgMatches) -> (usize, Vec<OsString>) {
        let (mut verb, mut inner, mut words) = ("", call, 0);
        while let Some((name, next)) = inner.subcommand() {
            (verb, inner, words) = (name, next, words + 1);
        }
        let flags = match verb {
            "build" | "lock" | "plan" => &self.build,
            "prune" => &self.prune,
            _ => return (words, Vec::new()),
        };
        let mut arguments = Vec::new();
        for (name, values) in flags {
            // Images are pruned by other flags.
            if values.is_empty() || inner.try_contains_id(name).is_err() {
                continue;
            }
            if let Some(ValueSource::CommandLine | ValueSource::EnvVariable) = inner.value_source(name) {
                continue;
            }
            arguments.push(format!("--{}={}", name.replace('_', "-"), values.join(",")).into());
        }
        (words, arguments)
    }

    /// How layers that were made here are compressed where no flag says it.
    pub fn encoding(&self) -> Encoding {
        let mut encoding = Encoding::default();
        self.complete(&mut encoding);
        encoding
    }

    /// The encoding where somebody has left open how layers are compressed.
    pub fn complete(&self, encoding: &mut Encoding) {
        if encoding.codec.is_none() {
            encoding.codec = self.codec;
            encoding.level = encoding.level.or(self.level.filter(|_| self.codec.is_some()));
        }
    }
}

/// The host of `HOST[:PORT][/PATH]`.
fn host(location: &str) -> &str {
    location.split('/').next().unwrap_or_default()
}

/// A directory that the environment names, or one in the home directory.
fn directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))
}

/// TOML, with the line of what is wrong.
pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> anyhow::Result<T> {
    toml::from_str(text).map_err(|error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        anyhow::anyhow!("{}:{line}: {}", path.display(), error.message().trim_end())
    })
}

/// What exists of a file of other tools, and may be read.
fn read_if_there(path: &Path) -> anyhow::Result<Option<String>> {
    use std::io::ErrorKind as Kind;
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(
                error.kind(),
                Kind::NotFound | Kind::NotADirectory | Kind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => bail!("reading {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::registry::Reference;

    const FULL: &str = r#"
[registries]
insecure = ["build.lan:5000", "10.0.0.0/8"]
blocked = ["evil.example"]
aliases = { fedora = "registry.fedoraproject.org/fedora" }
[registries.mirrors]
"docker.io" = ["http://mirror.lan:5000/hub", "https://mirror.example/"]
[build]
platform = ["linux/amd64", "linux/arm64"]
isolation = "userns"
network = "none"
compression = "zstd"
compression-level = 7
[store]
max-used-space = "20g"
"#;

    #[test]
    fn a_file_says_it_all() {
        let config = Config::read(FULL, Path::new("c.toml")).unwrap();
        assert_eq!(
            config.insecure,
            ["build.lan:5000", "10.0.0.0/8", "mirror.lan:5000"]
        );
        assert_eq!((config.codec, config.level), (Some(Codec::Zstd), Some(7)));
        let places = |name: &str| config.rules.places(&Reference::parse(name).unwrap());
        let names: Vec<String> = places("alpine")
            .unwrap()
            .iter()
            .map(|place| place.reference.to_string())
            .collect();
        let expected = [
            "mirror.lan:5000/hub/library/alpine:latest",
            "mirror.example/library/alpine:latest",
            "docker.io/library/alpine:latest",
        ];
        assert_eq!(names, expected);
        assert!(places("evil.example/x").is_err());
    }

    #[test]
    fn what_is_wrong_has_a_line() {
        for (text, what) in [
            (
                "[registries]\ninsecre = []\n",
                "c.toml:2: unknown field `insecre`",
            ),
            (
                "[build]\n\ncompression = \"lzma\"\n",
                "c.toml:3: unknown variant `lzma`",
            ),
            ("[store]\nmax-used-space = 3\n", "c.toml:2: invalid type"),
            ("a\n", "c.toml:1:"),
        ] {
            let error = Config::read(text, Path::new("c.toml")).unwrap_err().to_string();
            assert!(error.starts_with(what), "{error}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let config = Config::read(FULL, Path::new("c.toml")).unwrap();
        let defaults = |line: &str| {
            let matches = super::super::Cli::command().get_matches_from(line.split(' '));
            config.defaults(&matches).1
        };
        assert_eq!(
            defaults("rbuild build --network=host ."),
            ["--isolation=userns", "--platform=linux/amd64,linux/arm64"]
        );
        assert_eq!(defaults("rbuild prune"), ["--max-used-space=20g"]);
        assert!(defaults("rbuild images").is_empty());
    }
}
