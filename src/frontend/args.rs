//! Build arguments: what the caller gave, what is global, what is predefined (spec 3.2).

use std::collections::BTreeSet;

use rbuild_parser::expand::Expander;
use rbuild_parser::suggest::nearest;

use super::env::Env;
use super::warnings::Warnings;
use super::{BuildRequest, Warning};
use crate::error::BuildError;
use crate::graph::Platform;

const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
const SANDBOX_HOSTNAME: &str = "BUILDKIT_SANDBOX_HOSTNAME";
const CACHE_MOUNT_NS: &str = "BUILDKIT_CACHE_MOUNT_NS";
const DEFAULT_HOSTNAME: &str = "buildkitsandbox";
/// Each is set in both spellings, whatever the spelling of the build argument (spec A8). In BuildKit's order.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
/// Arguments that steer a scanner and never become variables (spec A11).
const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// All that a Dockerfile can see of arguments before its first stage begins.
#[derive(Debug, Clone)]
pub(super) struct Arguments {
    given: Env,
    global: Env,
    /// What FROM may name without a warning: the global ARGs, also those without a value, and the predefined ones.
    declared: BTreeSet<String>,
    /// What would be set before the first FROM if the caller had given nothing; `None` when that fails.
    defaults: Option<Env>,
    /// `SOURCE_DATE_EPOCH`.
    pub(super) epoch: Option<i64>,
}

impl Arguments {
    /// Evaluates the global ARGs, one after another (spec A5).
    pub(super) fn evaluate(
        request: &BuildRequest,
        target_platform: &Platform,
        warnings: &mut Warnings,
    ) -> Result<Self, BuildError> {
        let mut given = Env::default();
        for (key, value) in &request.build_args {
            if let Some(value) = value {
                given.set(key, value);
            }
        }
        if let (None, Some(epoch)) = (given.get(SOURCE_DATE_EPOCH), request.source_date_epoch) {
            given.set(SOURCE_DATE_EPOCH, &epoch.to_string());
        }
        let (global, declared) = globals(request, target_platform, &given, warnings)?;
        let defaults = globals(request, target_platform, &Env::default(), warnings).ok();
        let epoch = epoch(given.get(SOURCE_DATE_EPOCH).or(global.get(SOURCE_DATE_EPOCH)))?;
        Ok(Self {
            given,
            global,
            declared,
            defaults: defaults.map(|(defaults, _)| defaults),
            epoch,
        })
    }

    /// The value of `--build-arg key=`.
    pub(super) fn given(&self, key: &str) -> Option<&str> {
        self.given.get(key)
    }

    /// What is set before the first FROM.
    pub(super) fn global(&self) -> &Env {
        &self.global
    }

    /// What would be set before the first FROM if the caller had given nothing.
    pub(super) fn defaults(&self) -> Option<&Env> {
        self.defaults.as_ref()
    }

    /// Whether FROM may name this variable.
    pub(super) fn is_declared(&self, key: &str) -> bool {
        self.declared.contains(key)
    }

    /// The names that FROM may use.
    pub(super) fn declared(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(String::as_str)
    }

    /// Proxy variables for RUN, `K=V` (spec A8).
    pub(super) fn proxy_env(&self) -> Vec<String> {
        let mut entries = Vec::new();
        for name in PROXIES {
            let given = self
                .given
                .0
                .iter()
                .rev()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
                entries.push(format!("{name}={value}"));
                entries.push(format!("{}={value}", name.to_ascii_lowercase()));
            }
        }
        entries
    }

    /// Host name of RUN.
    pub(super) fn hostname(&self, request: &BuildRequest) -> String {
        let given = request.hostname.as_deref().or(self.given(SANDBOX_HOSTNAME));
        given
            .filter(|name| !name.is_empty())
            .unwrap_or(DEFAULT_HOSTNAME)
            .to_owned()
    }

    /// What stands before the ids of caches: a build argument (spec A11).
    pub(super) fn cache_namespace(&self) -> &str {
        self.given(CACHE_MOUNT_NS).unwrap_or_default()
    }

    /// Warns of build arguments that no ARG of the Dockerfile names (spec A6).
    pub(super) fn warn_unused(
        &self,
        request: &BuildRequest,
        named: &BTreeSet<String>,
        warnings: &mut Warnings,
    ) {
        for (key, _) in &request.build_args {
            let known = self.declared.contains(key)
                || named.contains(key)
                || key == SOURCE_DATE_EPOCH
                || key.starts_with("BUILDKIT_")
                || PROXIES.iter().any(|name| key.eq_ignore_ascii_case(name));
            if !known {
                let options = named.iter().map(String::as_str).chain(self.declared());
                let help = match nearest(key, options) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("declare it with ARG {key} in the stage that needs it"),
                };
                warnings.push(Warning {
                    rule: "",
                    message: format!(
                        "build argument {key} was not used: the Dockerfile has no ARG of that name"
                    ),
                    help: Some(help),
                    location: None,
                });
            }
        }
    }
}

/// The predefined arguments and the ARGs before the first FROM with their values, and the names of all of them.
fn globals(
    request: &BuildRequest,
    target_platform: &Platform,
    given: &Env,
    warnings: &Warnings,
) -> Result<(Env, BTreeSet<String>), BuildError> {
    let mut global = predefined(request, target_platform);
    for (key, value) in &given.0 {
        if global.get(key).is_some() {
            global.set(key, value);
        }
    }
    let mut declared: BTreeSet<String> = global.keys().map(str::to_owned).collect();
    let expander = Expander::new(request.dockerfile.directives.escape);
    for line in &request.dockerfile.global_args {
        let location = warnings.location(line.span);
        for item in &line.value.args {
            let expand = |text: &str| {
                expander
                    .word(text, &|name| global.get(name).map(str::to_owned))
                    .map_err(|error| BuildError::new(error).at(Some(location.clone())))
            };
            let key = expand(&item.key)?.text;
            let value = match (given.get(&key), &item.default) {
                (Some(value), _) => Some(value.to_owned()),
                (None, Some(default)) => Some(expand(default)?.text),
                (None, None) => None,
            };
            if let Some(value) = value {
                global.set(&key, &value);
            }
            declared.insert(key);
        }
    }
    Ok((global, declared))
}

/// Whether an ARG of this name becomes a variable.
pub(super) fn is_variable(key: &str) -> bool {
    !NOT_IN_ENV.contains(&key)
}

/// The automatic platform arguments (spec A10): set and empty where they do not apply.
fn predefined(request: &BuildRequest, target: &Platform) -> Env {
    let mut env = Env::default();
    for (prefix, platform) in [("BUILD", &Platform::host()), ("TARGET", target)] {
        env.set(&format!("{prefix}PLATFORM"), &platform.to_string());
        env.set(&format!("{prefix}OS"), &platform.os);
        env.set(&format!("{prefix}OSVERSION"), "");
        env.set(&format!("{prefix}ARCH"), &platform.architecture);
        env.set(&format!("{prefix}VARIANT"), &platform.variant);
    }
    let last = || request.dockerfile.stages.last()?.from.value.name.clone();
    let stage = request
        .target
        .clone()
        .or_else(last)
        .filter(|name| !name.is_empty());
    env.set("TARGETSTAGE", stage.as_deref().unwrap_or("default"));
    env
}

fn epoch(text: Option<&str>) -> Result<Option<i64>, BuildError> {
    match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            BuildError::message(format!(
                "invalid SOURCE_DATE_EPOCH {text:?}: it is no number of seconds"
            ))
            .hint(Some(
                "give the seconds since 1970-01-01, for example $(git log -1 --pretty=%ct)".to_owned(),
            ))
        }),
    }
}
