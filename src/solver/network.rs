//! What a RUN is told about its network, and what is told about it.

use rbuild_executor::{Cancel, Executor};

use super::Inputs;
use crate::error::BuildError;
use crate::graph::{ExecOp, NetworkMode};
use crate::progress::Event;

/// Waits until the network of `op` is there. The first step that does says which it is.
pub(super) fn join(
    inputs: &Inputs<'_>,
    executor: &Executor,
    cancel: &Cancel,
    op: &ExecOp,
) -> Result<(), BuildError> {
    if op.network != NetworkMode::Default {
        return Ok(());
    }
    let joined = executor.join_network(cancel).map_err(BuildError::new)?;
    let Some(taken) = joined else {
        return Ok(());
    };
    inputs.sink.emit(Event::Note(taken.line));
    let proxies = op
        .proxy_env
        .iter()
        .filter_map(|variable| variable.split_once('='));
    let lost = proxies
        .filter(|(name, _)| !name.eq_ignore_ascii_case("no_proxy"))
        .find(|(_, proxy)| is_on_loopback(proxy));
    if let (true, Some((name, _))) = (taken.own, lost) {
        let message = format!(
            "{name} names a proxy on this machine's loopback, which the network of the steps does not reach: use --network \
             host, or --add-host proxy:host-gateway with a proxy at http://proxy:PORT"
        );
        inputs.sink.emit(Event::Warning {
            message,
            location: None,
        });
    }
    Ok(())
}

/// What the network may have to do with the failure of a step whose output ended with `last`.
pub(super) fn explain(inputs: &Inputs<'_>, executor: &Executor, op: &ExecOp, last: &[u8]) -> Option<String> {
    let last = String::from_utf8_lossy(last).to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| last.contains(phrase));
    let unresolved = says(&UNRESOLVED);
    let unreached = says(&UNREACHED);
    match op.network {
        _ if !unresolved && !unreached => None,
        NetworkMode::None => Some("this step has no network (--network=none)".to_owned()),
        NetworkMode::Default
            if unreached && says(&["127.0.0.1", "localhost", "169.254."]) && executor.has_own_network() =>
        {
            Some(
                "the network of the steps reaches neither this machine's loopback nor cloud metadata: use --network host, \
                 or --add-host NAME:host-gateway for the loopback"
                    .to_owned(),
            )
        }
        _ if unresolved => {
            let servers: Vec<String> = inputs.dns.servers.iter().map(ToString::to_string).collect();
            Some(match servers.as_slice() {
                [] => "names are looked up at the servers of this machine's /etc/resolv.conf: do they know the name? --dns \
                       names others, --network host uses this machine's network"
                    .to_owned(),
                servers => format!("names are looked up at --dns {}", servers.join(", ")),
            })
        }
        _ => None,
    }
}

/// Words of programs that did not find the address of a name.
const UNRESOLVED: [&str; 8] = [
    "could not resolve",
    "couldn't resolve",
    "temporary failure resolving",
    "temporary failure in name resolution",
    "name or service not known",
    "bad address",
    "eai_again",
    "enotfound",
];

/// Words of programs that did not reach an address.
const UNREACHED: [&str; 5] = [
    "network is unreachable",
    "network unreachable",
    "connection refused",
    "no route to host",
    "enetunreach",
];

/// Is this proxy on the loopback of the machine?
fn is_on_loopback(proxy: &str) -> bool {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback() {
        for on in [
            "http://127.0.0.1:3128",
            "http://u:p@localhost/",
            "[::1]:80",
            "localhost:1",
            "127.9.9.9",
        ] {
            assert!(is_on_loopback(on), "{on}");
        }
        for off in [
            "http://proxy:3128",
            "http://10.0.0.1",
            "[fd00::1]:80",
            "http://localhost.example",
            "",
        ] {
            assert!(!is_on_loopback(off), "{off}");
        }
    }
}
