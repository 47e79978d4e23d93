//! The flags about the network of RUN: what was typed ([`NetworkArgs`]) and what it means ([`NetworkOptions`]).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rbuild_executor::{Certificates, Dns, ExecSpec};

use super::proxies;
use crate::graph::NetworkMode;

/// The network of RUN steps
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Network of steps whose RUN says nothing else: default (one of their own where pasta or slirp4netns is installed),
    /// none or host
    #[arg(long, value_name = "MODE", default_value = "default", value_parser = mode)]
    network: NetworkMode,
    /// Line of /etc/hosts; the address may be host-gateway, for this machine
    #[arg(long = "add-host", value_name = "HOST:IP", value_delimiter = ',')]
    add_hosts: Vec<String>,
    /// Name server, in place of this machine's
    #[arg(long = "dns", value_name = "IP", value_delimiter = ',')]
    dns: Vec<IpAddr>,
    /// Search domain, in place of this machine's; `.` for none
    #[arg(long = "dns-search", value_name = "DOMAIN", value_delimiter = ',', value_parser = word)]
    dns_search: Vec<String>,
    /// Option of the resolver, in place of this machine's
    #[arg(long = "dns-option", alias = "dns-opt", value_name = "OPTION", value_delimiter = ',', value_parser = word)]
    dns_options: Vec<String>,
    /// Proxies: `true` for those of this process's environment, `false` for none [default: those that
    /// docker's config.json has]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    http_proxy: Option<bool>,
    /// Certificates (PEM) that steps trust beside those of their image; nothing of them stays in the image
    #[arg(long, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
}

/// What the flags mean.
#[derive(Debug)]
pub struct NetworkOptions {
    /// `--network`.
    pub mode: NetworkMode,
    /// `--add-host`: name and address, or [`ExecSpec::HOST_GATEWAY`].
    pub add_hosts: Vec<(String, String)>,
    /// `--dns`, `--dns-search`, `--dns-option`.
    pub dns: Dns,
    /// Build arguments for proxies that the caller did not give as such.
    pub proxies: Vec<(String, Option<String>)>,
    /// `--ca-bundle`.
    pub certificates: Option<Certificates>,
}

impl NetworkOptions {
    /// Checks what was typed. `build_args` are those of the command line, which win.
    pub fn new(args: NetworkArgs, build_args: &[(String, Option<String>)]) -> anyhow::Result<Self> {
        let add_hosts = args.add_hosts.iter().map(|text| host(text));
        Ok(Self {
            mode: args.network,
            add_hosts: add_hosts.collect::<anyhow::Result<_>>()?,
            dns: Dns {
                servers: args.dns,
                search: args.dns_search,
                options: args.dns_options,
            },
            proxies: match args.http_proxy {
                None => proxies::of_docker(build_args)?,
                Some(true) => proxies::of_environment(build_args, |name| std::env::var(name).ok()),
                Some(false) => Vec::new(),
            },
            certificates: args.ca_bundle.as_deref().map(certificates).transpose()?,
        })
    }

    /// Whether steps have to reach this machine.
    pub fn reach_machine(&self) -> bool {
        self.add_hosts
            .iter()
            .any(|(_, address)| address == ExecSpec::HOST_GATEWAY)
    }
}

/// The certificates of a file, and those of this machine for images that have none.
fn certificates(file: &Path) -> anyhow::Result<Certificates> {
    let given =
        std::fs::read_to_string(file).with_context(|| format!("reading --ca-bundle {}", file.display()))?;
    if !given.contains("-----BEGIN CERTIFICATE-----") {
        bail!(
            "--ca-bundle {}: it has no certificate in PEM form (-----BEGIN CERTIFICATE-----): convert it with openssl x509 -inform der",
            file.display()
        );
    }
    if given.contains("PRIVATE KEY-----") {
        bail!(
            "--ca-bundle {}: it has a private key, which every step could read: give the certificates only",
            file.display()
        );
    }
    let bundles = Certificates::BUNDLES.iter();
    let otherwise = bundles
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .next();
    Ok(Certificates {
        given,
        otherwise: otherwise.unwrap_or_default(),
    })
}

/// `host:ip` or `host=ip`, the address in brackets or not.
fn host(text: &str) -> anyhow::Result<(String, String)> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let Some((name, address)) = parts.filter(|(name, _)| !name.is_empty()) else {
        bail!("bad format for add-host: {text:?}: use HOST:IP");
    };
    if name.contains(char::is_whitespace) {
        bail!("bad format for add-host: {text:?}: a host name has no white space");
    }
    if address == ExecSpec::HOST_GATEWAY {
        return Ok((name.to_owned(), address.to_owned()));
    }
    let address = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if address.parse::<IpAddr>().is_err() {
        bail!("invalid IP address in add-host: {address:?}: use an address or host-gateway");
    }
    Ok((name.to_owned(), address.to_owned()))
}

fn mode(text: &str) -> Result<NetworkMode, String> {
    match text {
        "default" => Ok(NetworkMode::Default),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        other => Err(format!(
            "network mode {other:?} is not supported by rbuild: use default, none or host"
        )),
    }
}

/// Something for one line of a file.
fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("it has to be one word".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let ok = |text: &str| host(text).unwrap();
        let pair = |name: &str, address: &str| (name.to_owned(), address.to_owned());
        assert_eq!(ok("db:10.0.0.1"), pair("db", "10.0.0.1"));
        assert_eq!(ok("db=10.0.0.1"), pair("db", "10.0.0.1"));
        assert_eq!(ok("db:[fd00::1]"), pair("db", "fd00::1"));
        assert_eq!(ok("db=::1"), pair("db", "::1"));
        assert_eq!(ok("db:::1"), pair("db", "::1"));
        assert_eq!(ok("host.docker.internal:host-gateway").1, "host-gateway");
        for bad in [
            "db",
            ":10.0.0.1",
            "db:nowhere",
            "a b:10.0.0.1",
            "db:10.0.0.1\nevil",
        ] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }
}
