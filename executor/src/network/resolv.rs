//! The `resolv.conf` of a step: the machine's, as far as its servers can be reached from there.
//!
//! No server is ever added that the machine or the caller did not name.

use std::net::IpAddr;

use crate::spec::Dns;

/// How a network of its own reaches servers that only the machine itself can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Forwards queries to the machine's first IPv4 server.
    pub(crate) v4: IpAddr,
    /// The same for IPv6.
    pub(crate) v6: IpAddr,
    /// An address outside that means the machine itself: no server can be there.
    pub(crate) taken: Option<IpAddr>,
}

/// The servers of a `resolv.conf`, as they are written.
pub(crate) fn servers(machine: &str) -> impl Iterator<Item = &str> {
    machine.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    })
}

/// Is this server on the machine itself, or on a link that only the machine has?
pub(crate) fn is_local(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or_default();
    match address.parse() {
        Ok(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_unspecified() || v4.is_link_local(),
        Ok(IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
        Err(_) => false,
    }
}

/// The text for a step. `forward` is given for a network of its own.
pub(crate) fn text(machine: &str, dns: &Dns, forward: Option<&Forward>) -> String {
    if dns.is_empty() && forward.is_none() {
        return machine.to_owned();
    }
    let mut lines: Vec<String> = Vec::new();
    for line in machine.lines() {
        let replaced = match line.split_whitespace().next() {
            Some("nameserver") => !dns.servers.is_empty(),
            Some("search" | "domain") => !dns.search.is_empty(),
            Some("options") => !dns.options.is_empty(),
            _ => false,
        };
        if replaced {
            continue;
        }
        let line = match (forward, servers(line).next()) {
            (Some(forward), Some(server)) => reachable(server, forward),
            _ => line.to_owned(),
        };
        if !(line.starts_with("nameserver ") && lines.contains(&line)) {
            lines.push(line);
        }
    }
    // Docker's way to say "none".
    let search: Vec<&str> = dns
        .search
        .iter()
        .map(String::as_str)
        .filter(|s| *s != ".")
        .collect();
    if !search.is_empty() {
        lines.push(format!("search {}", search.join(" ")));
    }
    lines.extend(dns.servers.iter().map(|server| format!("nameserver {server}")));
    if !dns.options.is_empty() {
        lines.push(format!("options {}", dns.options.join(" ")));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

fn reachable(server: &str, forward: &Forward) -> String {
    let taken = forward.taken.is_some_and(|taken| server.parse() == Ok(taken));
    match server.contains(':') {
        true if is_local(server) || taken => format!("nameserver {}", forward.v6),
        false if is_local(server) || taken => format!("nameserver {}", forward.v4),
        _ => format!("nameserver {server}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORWARD: Forward = Forward {
        v4: IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 53)),
        v6: IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53)),
        taken: None,
    };

    #[test]
    fn the_machines_file_is_kept() {
        let kubernetes =
            "search ns.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(text(kubernetes, &Dns::default(), None), kubernetes);
        assert_eq!(text(kubernetes, &Dns::default(), Some(&FORWARD)), kubernetes);
        assert_eq!(text("", &Dns::default(), Some(&FORWARD)), "");
    }

    #[test]
    fn servers_on_the_machine_are_forwarded() {
        let resolved = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example\n";
        assert_eq!(text(resolved, &Dns::default(), None), resolved);
        assert_eq!(
            text(resolved, &Dns::default(), Some(&FORWARD)),
            "nameserver 198.51.100.53\noptions edns0 trust-ad\nsearch corp.example\n"
        );
        let both = "nameserver ::1\nnameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver fe80::1%eth0\nnameserver 9.9.9.9";
        assert_eq!(
            text(both, &Dns::default(), Some(&FORWARD)),
            "nameserver 2001:db8::53\nnameserver 198.51.100.53\nnameserver 9.9.9.9\n"
        );
        let router = Forward {
            taken: Some("192.168.1.1".parse().unwrap()),
            ..FORWARD
        };
        assert_eq!(
            text("nameserver 192.168.1.1\n", &Dns::default(), Some(&router)),
            "nameserver 198.51.100.53\n"
        );
    }

    #[test]
    fn flags_replace_what_they_name() {
        let machine = "# ours\nnameserver 10.0.0.1\nsearch a b\noptions ndots:5\n";
        let servers = Dns {
            servers: vec!["10.9.9.9".parse().unwrap(), "fd00::1".parse().unwrap()],
            ..Dns::default()
        };
        assert_eq!(
            text(machine, &servers, None),
            "# ours\nsearch a b\noptions ndots:5\nnameserver 10.9.9.9\nnameserver fd00::1\n"
        );
        let rest = Dns {
            search: vec!["x.example".to_owned(), "y".to_owned()],
            options: vec!["use-vc".to_owned(), "ndots:1".to_owned()],
            ..Dns::default()
        };
        assert_eq!(
            text(machine, &rest, Some(&FORWARD)),
            "# ours\nnameserver 10.0.0.1\nsearch x.example y\noptions use-vc ndots:1\n"
        );
        let none = Dns {
            search: vec![".".to_owned()],
            ..Dns::default()
        };
        assert_eq!(
            text(machine, &none, None),
            "# ours\nnameserver 10.0.0.1\noptions ndots:5\n"
        );
    }
}
