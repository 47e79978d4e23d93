//! What have other tools been told about registries? Docker's `daemon.json`, and `registries.conf` of podman and buildah
//! (containers-registries.conf(5), version 2). What else they say is not our business.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::anyhow;
use serde::Deserialize;

use super::{Config, directory, host, parse, read_if_there};
use crate::registry::{Alias, Decisions, Mirror, Rule};

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct Daemon {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct RegistriesConf {
    registry: Vec<Registry>,
    aliases: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<MirrorEntry>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct MirrorEntry {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

/// What the user has told docker's own command, or null: `config.json`. Only for what is no secret.
pub(in crate::cli) fn docker_client() -> anyhow::Result<serde_json::Value> {
    let Some(path) = docker_directory().map(|directory| directory.join("config.json")) else {
        return Ok(serde_json::Value::Null);
    };
    match read_if_there(&path)? {
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| anyhow!("{}:{}: {error}", path.display(), error.line())),
        None => Ok(serde_json::Value::Null),
    }
}

/// Where docker's own command keeps what it is told.
pub(in crate::cli) fn docker_directory() -> Option<PathBuf> {
    directory("DOCKER_CONFIG", ".docker")
}

/// What all of them say.
pub(super) fn all() -> Result<Decisions, String> {
    let mut config = Config::default();
    let read = docker(&mut config).and_then(|()| containers(&mut config));
    read.map_err(|error| format!("{error:#}"))?;
    Ok(Decisions {
        rules: config.rules,
        insecure: config.insecure,
        files: config.files,
    })
}

/// Docker's mirrors of Docker Hub, and its registries without TLS: those of the user's own daemon, else the machine's.
pub(super) fn docker(config: &mut Config) -> anyhow::Result<()> {
    let own = directory("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("docker/daemon.json"));
    for path in own.into_iter().chain([PathBuf::from("/etc/docker/daemon.json")]) {
        let Some(text) = read_if_there(&path)? else {
            continue;
        };
        let daemon: Daemon = serde_json::from_str(&text)
            .map_err(|error| anyhow!("{}:{}: {error}", path.display(), error.line()))?;
        config.files.push(path);
        take_daemon(config, daemon);
        break;
    }
    Ok(())
}

fn take_daemon(config: &mut Config, daemon: Daemon) {
    config.insecure.extend(daemon.insecure_registries);
    let mirrors: Vec<Mirror> = daemon
        .registry_mirrors
        .iter()
        .map(|location| config.mirror(location))
        .collect();
    let prefix = "docker.io".to_owned();
    if !mirrors.is_empty() && config.rules.rules.iter().all(|rule| rule.prefix != prefix) {
        config.rules.rules.push(Rule {
            prefix,
            mirrors,
            ..Rule::default()
        });
    }
}

/// `registries.conf` and what lies beside it: the user's own, else the machine's.
pub(super) fn containers(config: &mut Config) -> anyhow::Result<()> {
    let named = std::env::var_os("CONTAINERS_REGISTRIES_CONF").map(PathBuf::from);
    let own = directory("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("containers/registries.conf"));
    let main = named
        .into_iter()
        .chain(own)
        .chain([PathBuf::from("/etc/containers/registries.conf")]);
    let Some(main) = main.into_iter().find(|path| path.exists()) else {
        return Ok(());
    };
    let mut files = vec![main.clone()];
    if let Ok(entries) = std::fs::read_dir(main.with_extension("conf.d")) {
        let mut beside: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        beside.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        beside.sort();
        files.extend(beside);
    }
    let mut found: BTreeMap<String, Registry> = BTreeMap::new();
    for path in files {
        let Some(text) = read_if_there(&path)? else {
            continue;
        };
        let conf: RegistriesConf = parse(&text, &path)?;
        let aliases = conf.aliases.into_iter().filter(|(_, meant)| !meant.is_empty());
        for (name, meant) in aliases {
            let own = config.rules.aliases.get(&name);
            // What the user told us himself stays.
            if own.is_none_or(|own| own.file.is_some()) {
                let file = Some(path.clone());
                config.rules.aliases.insert(name, Alias { meant, file });
            }
        }
        config.files.push(path);
        // Later files win.
        for registry in conf.registry {
            let prefix = if registry.prefix.is_empty() {
                &registry.location
            } else {
                &registry.prefix
            };
            found.insert(prefix.clone(), registry);
        }
    }
    for (prefix, registry) in found {
        take_registry(config, prefix, registry);
    }
    Ok(())
}

fn take_registry(config: &mut Config, prefix: String, registry: Registry) {
    if registry.insecure {
        let location = if registry.location.is_empty() {
            &prefix
        } else {
            &registry.location
        };
        config.insecure.push(host(location).to_owned());
    }
    let digest_only = registry.mirror_by_digest_only;
    let mirrors = registry.mirror.into_iter().map(|mirror| {
        if mirror.insecure {
            config.insecure.push(host(&mirror.location).to_owned());
        }
        Mirror {
            tags: !digest_only && mirror.pull_from_mirror != "digest-only",
            digests: mirror.pull_from_mirror != "tag-only",
            location: mirror.location,
        }
    });
    let rule = Rule {
        mirrors: mirrors.collect(),
        location: Some(registry.location).filter(|location| !location.is_empty() && *location != prefix),
        blocked: registry.blocked,
        prefix,
    };
    // What the user told us himself stays.
    if config.rules.rules.iter().all(|known| known.prefix != rule.prefix) {
        config.rules.rules.push(rule);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::registry::Reference;

    fn places(config: &Config, name: &str) -> Vec<String> {
        let places = config.rules.places(&Reference::parse(name).unwrap()).unwrap();
        places.iter().map(|place| place.reference.to_string()).collect()
    }

    #[test]
    fn dockers_words_are_understood() {
        let text = r#"{"registry-mirrors": ["http://m.lan:5000/"], "insecure-registries": ["10.0.0.0/8"], "debug": true}"#;
        let mut config = Config::default();
        take_daemon(&mut config, serde_json::from_str(text).unwrap());
        assert_eq!(config.insecure, ["10.0.0.0/8", "m.lan:5000"]);
        assert_eq!(places(&config, "a/b:1"), ["m.lan:5000/a/b:1", "docker.io/a/b:1"]);
        assert_eq!(places(&config, "quay.io/b:1"), ["quay.io/b:1"]);
    }

    #[test]
    fn podmans_words_are_understood() {
        let text = r#"
unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "m.lan:5000/hub"
insecure = true
[[registry.mirror]]
location = "d.lan"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "old.example/team"
location = "new.example/team"
[[registry]]
location = "bad.example"
blocked = true
"#;
        let conf: RegistriesConf = parse(text, Path::new("registries.conf")).unwrap();
        let mut config = Config::default();
        for registry in conf.registry {
            let prefix = if registry.prefix.is_empty() {
                &registry.location
            } else {
                &registry.prefix
            };
            take_registry(&mut config, prefix.clone(), registry);
        }
        assert_eq!(config.insecure, ["m.lan:5000"]);
        assert_eq!(
            places(&config, "a/b:1"),
            ["m.lan:5000/hub/a/b:1", "docker.io/a/b:1"]
        );
        let pinned = format!("a/b@sha256:{}", "0".repeat(64));
        assert_eq!(places(&config, &pinned)[1], format!("d.lan/{pinned}"));
        assert_eq!(places(&config, "old.example/team/x:2"), ["new.example/team/x:2"]);
        assert!(
            config
                .rules
                .places(&Reference::parse("bad.example/x").unwrap())
                .is_err()
        );
    }
}
