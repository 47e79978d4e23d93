//! Proxies that steps get without a `--build-arg` of the command line (spec A9).
//!
//! They become build arguments, whose proxies are neither in a key nor in the image unless the Dockerfile declares them.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

/// A file larger than this is no configuration.
const FILE_LIMIT: u64 = 4 << 20;

const NAMES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    proxies: std::collections::BTreeMap<String, Proxies>,
}

/// In the order of [`NAMES`].
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Proxies {
    #[serde(default)]
    http_proxy: String,
    #[serde(default)]
    https_proxy: String,
    #[serde(default)]
    ftp_proxy: String,
    #[serde(default)]
    no_proxy: String,
    #[serde(default)]
    all_proxy: String,
}

/// Those that docker's config.json has for the daemon that `DOCKER_HOST` names, else by default.
pub(super) fn of_docker(given: &[(String, Option<String>)]) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let dir = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = dir("DOCKER_CONFIG").or_else(|| Some(dir("HOME")?.join(".docker")));
    let Some(path) = directory.map(|directory| directory.join("config.json")) else {
        return Ok(Vec::new());
    };
    let Ok(file) = std::fs::File::open(&path) else {
        // Who cannot be read has no say; the registry tells of it when a password is needed.
        return Ok(Vec::new());
    };
    let mut text = String::new();
    file.take(FILE_LIMIT)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {}", path.display()))?;
    of_config(&text, std::env::var("DOCKER_HOST").ok().as_deref(), given, &path)
}

fn of_config(
    text: &str,
    daemon: Option<&str>,
    given: &[(String, Option<String>)],
    path: &Path,
) -> anyhow::Result<Vec<(String, Option<String>)>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    // The parser's own message could quote a password.
    let mut config: Config = serde_json::from_str(text).map_err(|error| {
        anyhow::anyhow!(
            "reading the proxies in {}: line {} column {} is not as expected",
            path.display(),
            error.line(),
            error.column()
        )
    })?;
    let own = daemon.and_then(|daemon| config.proxies.remove(daemon));
    let Some(proxies) = own.or_else(|| config.proxies.remove("default")) else {
        return Ok(Vec::new());
    };
    let values = [
        proxies.http_proxy,
        proxies.https_proxy,
        proxies.ftp_proxy,
        proxies.no_proxy,
        proxies.all_proxy,
    ];
    let pairs = NAMES.into_iter().zip(values);
    Ok(unless_given(pairs.filter(|(_, value)| !value.is_empty()), given))
}

/// Those that this process has itself.
pub(super) fn of_environment(
    given: &[(String, Option<String>)],
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<(String, Option<String>)> {
    let pairs = NAMES.into_iter().filter_map(|name| {
        let value = variable(name).or_else(|| variable(&name.to_ascii_lowercase()))?;
        Some((name, value))
    });
    unless_given(pairs, given)
}

/// As docker's command line: both spellings, each unless the caller gave it.
fn unless_given(
    pairs: impl Iterator<Item = (&'static str, String)>,
    given: &[(String, Option<String>)],
) -> Vec<(String, Option<String>)> {
    pairs
        .filter(|(name, _)| !given.iter().any(|(key, _)| key.eq_ignore_ascii_case(name)))
        .flat_map(|(name, value)| {
            [
                (name.to_owned(), Some(value.clone())),
                (name.to_ascii_lowercase(), Some(value)),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, daemon: Option<&str>, given: &[(String, Option<String>)]) -> Vec<String> {
        let proxies = of_config(text, daemon, given, Path::new("config.json")).unwrap();
        proxies
            .into_iter()
            .map(|(key, value)| format!("{key}={}", value.unwrap()))
            .collect()
    }

    const CONFIG: &str = r#"{"auths":{},"proxies":{
        "default":{"httpProxy":"http://p:3128","noProxy":"*.example"},
        "tcp://far:2376":{"allProxy":"socks5://far"}}}"#;

    #[test]
    fn dockers_file() {
        assert_eq!(
            read(CONFIG, None, &[]),
            [
                "HTTP_PROXY=http://p:3128",
                "http_proxy=http://p:3128",
                "NO_PROXY=*.example",
                "no_proxy=*.example"
            ]
        );
        assert_eq!(
            read(CONFIG, Some("tcp://far:2376"), &[]),
            ["ALL_PROXY=socks5://far", "all_proxy=socks5://far"]
        );
        assert_eq!(read(CONFIG, Some("unix:///x"), &[]).len(), 4);
        assert_eq!(read("", None, &[]), [""; 0]);
        assert_eq!(read("{}", None, &[]), [""; 0]);
    }

    #[test]
    fn build_arguments_win() {
        let given = [("http_proxy".to_owned(), Some("mine".to_owned()))];
        assert_eq!(
            read(CONFIG, None, &given),
            ["NO_PROXY=*.example", "no_proxy=*.example"]
        );
        let own = |name: &str| (name == "https_proxy").then(|| "e".to_owned());
        assert_eq!(of_environment(&given, own).len(), 2);
    }

    #[test]
    fn an_error_quotes_nothing() {
        let broken = r#"{"proxies":{"default":{"httpProxy":["secret"]}}}"#;
        let error = of_config(broken, None, &[], Path::new("config.json")).unwrap_err();
        assert!(!format!("{error:#}").contains("secret"), "{error:#}");
    }
}
