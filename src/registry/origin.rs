//! Where may an answer lead to? Origins, redirects and `Location`s, and the addresses that only this machine reaches.

use std::net::IpAddr;

use reqwest::Url;

use super::transport::Host;

/// Scheme, host and port are the same.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether a registry may send this client to `to` at all.
pub(super) fn may_point_at(host: &Host, from: &Url, to: &Url) -> Result<(), String> {
    let target = origin_text(to);
    match to.scheme() {
        "https" => {}
        "http" if from.scheme() == "http" => {}
        "http" => {
            return Err(format!(
                "{} points from https to http at {target}, which is refused",
                host.address
            ));
        }
        other => {
            return Err(format!(
                "{} points at an address with the scheme {other:?}",
                host.address
            ));
        }
    }
    let elsewhere = to.host_str() != from.host_str();
    if elsewhere && to.host_str().is_some_and(is_link_local) {
        return Err(format!(
            "{} points at {target}, where clouds keep the credentials of their machines, which is refused",
            host.address
        ));
    }
    let inside = to.host_str().is_some_and(is_local);
    if inside && !is_local(host_of(&host.address)) && elsewhere {
        return Err(format!(
            "{} points at {target}, an address of this machine, which is refused",
            host.address
        ));
    }
    Ok(())
}

/// What a call or a `Location` means. A location that names the registry itself without TLS is meant with TLS:
/// registries behind a proxy often do not know better.
pub(super) fn resolve_target(host: &Host, base: &Url, target: &str) -> Result<Url, String> {
    let mut url = base
        .join(target)
        .map_err(|e| format!("{} gave the address {target:?}: {e}", host.address))?;
    if authority(&url) == authority(base)
        && url.scheme() != base.scheme()
        && matches!(url.scheme(), "http" | "https")
    {
        let _ = url.set_scheme(base.scheme());
    }
    clean(&mut url);
    may_point_at(host, base, &url)?;
    Ok(url)
}

pub(super) fn follow_location(host: &Host, base: &Url, current: &Url, location: &str) -> Result<Url, String> {
    if location.is_empty() {
        return Err(format!("{} redirected to nowhere", authority(current)));
    }
    let mut url = current
        .join(location)
        .map_err(|e| format!("{} redirected to {location:?}: {e}", host.address))?;
    clean(&mut url);
    may_point_at(host, base, &url)?;
    // Also when the way led over a third host.
    may_point_at(host, current, &url)?;
    Ok(url)
}

/// A user name in an address would become an `Authorization` that nobody asked for.
fn clean(url: &mut Url) {
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
}

/// `host[:port]` as it is written.
pub(super) fn authority(url: &Url) -> String {
    match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    }
}

/// `https://host[:port]`, for messages: never the path, which may hold a signature.
pub(super) fn origin_text(url: &Url) -> String {
    if url.scheme() == "https" {
        authority(url)
    } else {
        format!("{}://{}", url.scheme(), authority(url))
    }
}

/// The host of `host[:port]`.
pub(super) fn host_of(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => address,
    }
}

/// This machine: `localhost`, 127.0.0.0/8, `::1`.
pub(super) fn is_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback() || ip.is_unspecified())
}

/// Whether `host`, an address, is in `network`, `ADDRESS/BITS`.
pub(super) fn is_in_network(host: &str, network: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let Some((Ok(start), Ok(bits))) = network
        .split_once('/')
        .map(|(start, bits)| (start.parse::<IpAddr>(), bits.parse::<u32>()))
    else {
        return false;
    };
    match (bare.parse::<IpAddr>(), start) {
        (Ok(IpAddr::V4(ip)), IpAddr::V4(start)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            ip.to_bits() & mask == start.to_bits() & mask
        }
        (Ok(IpAddr::V6(ip)), IpAddr::V6(start)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            ip.to_bits() & mask == start.to_bits() & mask
        }
        _ => false,
    }
}

/// 169.254.0.0/16 and fe80::/10: there cloud machines keep their metadata.
pub(super) fn is_link_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_unicast_link_local() || ip.segments()[..2] == [0xfd00, 0x0ec2],
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::transport::tests::session;
    use super::*;

    #[test]
    fn networks_have_hosts() {
        for (host, network, inside) in [
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("1.2.3.4", "0.0.0.0/0", true),
            ("[fd00::1]", "fd00::/8", true),
            ("fd00::1", "10.0.0.0/8", false),
            ("r.example", "0.0.0.0/0", false),
            ("10.1.2.3", "10.0.0.0/33", false),
            ("10.1.2.3", "10.1.2.3", false),
        ] {
            assert_eq!(is_in_network(host, network), inside, "{host} {network}");
        }
    }

    #[test]
    fn a_registry_cannot_point_everywhere() {
        let session = session(&["plain.lan"]);
        let base = |text: &str| Url::parse(text).unwrap();
        for (host, from, location, to) in [
            (
                "r.example",
                "https://r.example/",
                "/v2/x?a=b",
                Some("https://r.example/v2/x?a=b"),
            ),
            (
                "r.example",
                "https://r.example/",
                "http://r.example/v2/u",
                Some("https://r.example/v2/u"),
            ),
            (
                "r.example",
                "https://r.example/",
                "https://u:p@cdn.example/x#f",
                Some("https://cdn.example/x"),
            ),
            ("r.example", "https://r.example/", "http://cdn.example/x", None),
            (
                "r.example",
                "https://r.example/",
                "https://169.254.169.254/x",
                None,
            ),
            (
                "r.example",
                "https://r.example/",
                "https://[fd00:ec2::254]/x",
                None,
            ),
            (
                "r.example",
                "https://r.example/",
                "https://localhost:5000/x",
                None,
            ),
            (
                "r.example",
                "https://r.example/",
                "https://[::ffff:127.0.0.1]/x",
                None,
            ),
            ("r.example", "https://r.example/", "file:///etc/passwd", None),
            ("plain.lan", "http://plain.lan/", "http://127.0.0.1/x", None),
            (
                "localhost:5000",
                "http://localhost:5000/",
                "http://127.0.0.1:9000/x",
                Some("http://127.0.0.1:9000/x"),
            ),
        ] {
            let resolved = resolve_target(&session.host(host), &base(from), location);
            assert_eq!(
                resolved.as_ref().ok().map(Url::as_str),
                to,
                "{location}: {resolved:?}"
            );
        }
    }
}
