//! Operands of EXPOSE after expansion (spec E3).

use std::net::IpAddr;

/// One operand of EXPOSE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// `80/tcp`, one for each port of a range, in order.
    pub ports: Vec<String>,
    /// The protocol as written when it is not lower-case.
    pub protocol_casing: Option<String>,
    /// Whether an address or a host port was given; it has no effect.
    pub has_host_part: bool,
}

/// An operand of EXPOSE is wrong, in BuildKit's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PortError(String);

/// Takes `[ip:][hostport:]port[-port][/proto]` apart.
pub fn parse_expose_port(operand: &str) -> Result<PortSpec, PortError> {
    let invalid = |reason: String| Err(PortError(format!("invalid port: {operand:?}: {reason}")));
    let (host, port) = match operand.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, operand),
    };
    let (ports, protocol) = port.split_once('/').unwrap_or((port, ""));
    if ports.is_empty() {
        return invalid("no port specified".into());
    }
    let lower = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return invalid(format!("invalid proto: {protocol}")),
    };
    let Some((first, last)) = range(ports) else {
        return Err(PortError(format!("invalid containerPort: {ports}")));
    };
    if let Some(host) = host {
        let (address, host_ports) = host.rsplit_once(':').unwrap_or(("", host));
        let bare = address
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(address);
        if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
            return Err(PortError(format!("invalid IP address: {address}")));
        }
        if !host_ports.is_empty() {
            let Some((host_first, host_last)) = range(host_ports) else {
                return Err(PortError(format!("invalid hostPort: {host_ports}")));
            };
            // A range of host ports for one port of the container is "any of them".
            if host_last - host_first != last - first && first != last {
                let message = format!(
                    "invalid ranges specified for container and host Ports: {ports} and {host_ports}"
                );
                return Err(PortError(message));
            }
        }
    }
    Ok(PortSpec {
        ports: (first..=last).map(|port| format!("{port}/{lower}")).collect(),
        protocol_casing: (!protocol.is_empty() && protocol != lower).then(|| protocol.to_owned()),
        has_host_part: host.is_some(),
    })
}

/// All operands of one EXPOSE, in their order; [`crate::Instruction::Expose`] has them sorted as BuildKit does.
pub fn parse_expose_ports(operands: &[String]) -> Result<Vec<PortSpec>, PortError> {
    operands
        .iter()
        .map(|operand| parse_expose_port(operand))
        .collect()
}

/// `80` or `80-90`.
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())
            .flatten()
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_ports() {
        for (operand, expected) in [
            ("80", Ok("80/tcp")),
            ("0080", Ok("80/tcp")),
            ("81/UDP", Ok("81/udp")),
            ("0/sctp", Ok("0/sctp")),
            ("9-11", Ok("9/tcp 10/tcp 11/tcp")),
            ("127.0.0.1:8080:80", Ok("80/tcp")),
            ("[::1]:8080:80", Ok("80/tcp")),
            ("8000-8010:80/udp", Ok("80/udp")),
            ("8000-8001:80-81", Ok("80/tcp 81/tcp")),
            ("99999", Err("invalid containerPort: 99999")),
            ("x", Err("invalid containerPort: x")),
            ("+1", Err("invalid containerPort: +1")),
            ("9-8", Err("invalid containerPort: 9-8")),
            ("1-2-3", Err("invalid containerPort: 1-2-3")),
            ("80/foo", Err("invalid port: \"80/foo\": invalid proto: foo")),
            ("/tcp", Err("invalid port: \"/tcp\": no port specified")),
            ("", Err("invalid port: \"\": no port specified")),
            ("x:80", Err("invalid hostPort: x")),
            ("no:1:80", Err("invalid IP address: no")),
            (
                "1-3:80-81",
                Err("invalid ranges specified for container and host Ports: 80-81 and 1-3"),
            ),
        ] {
            let found = parse_expose_port(operand)
                .map(|spec| spec.ports.join(" "))
                .map_err(|error| error.to_string());
            assert_eq!(
                found,
                expected.map(str::to_owned).map_err(str::to_owned),
                "{operand}"
            );
        }
        let all = ["1/TCP".to_owned(), "2:3".to_owned()];
        let specs = parse_expose_ports(&all).expect("both are ports");
        assert_eq!(specs[0].protocol_casing.as_deref(), Some("TCP"));
        assert!(specs[1].has_host_part && !specs[0].has_host_part);
        assert_eq!(
            parse_expose_port("0-65535")
                .expect("the widest range")
                .ports
                .len(),
            65536
        );
    }
}
