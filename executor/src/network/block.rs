//! Addresses that a network of its own must not reach, refused by rules written through rtnetlink.
//!
//! A rule comes before every routing table, so no route that a helper copies from the machine, and
//! none that arrives later, leads around it. Steps lack `CAP_NET_ADMIN` and cannot take it away.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Link-local addresses of IPv4, where clouds keep the credentials of the machine, and their places in IPv6.
const REFUSED: &[(&str, u8)] = &[
    ("169.254.0.0", 16),
    ("fe80::a9fe:a9fe", 128),
    // Amazon's, that of its pods, Google's. Their name servers are beside them.
    ("fd00:ec2::254", 128),
    ("fd00:ec2::23", 128),
    ("fd20:ce::254", 128),
];

const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const NLMSG_ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE`.
const NEW: u16 = 0x1 | 0x4 | 0x400;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
/// `RTN_UNREACHABLE` and `FR_ACT_UNREACHABLE`.
const UNREACHABLE: u8 = 7;
/// `FRA_DST` and `RTA_DST`.
const DST: u16 = 1;
const FRA_PRIORITY: u16 = 6;

/// Makes the addresses unreachable in the network namespace of the caller.
pub(super) fn metadata() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is zero.
        None,
    )?;
    for (address, length) in REFUSED {
        let address: IpAddr = address.parse().map_err(io::Error::other)?;
        // Kernels without rules (CONFIG_IP_MULTIPLE_TABLES) have routes.
        match ask(&socket, &rule(address, *length)).or_else(|_| ask(&socket, &route(address, *length))) {
            // A machine without IPv6 reaches nothing by it.
            Err(_) if address.is_ipv6() => {}
            result => result?,
        }
    }
    Ok(())
}

fn ask(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, message, SendFlags::empty())?;
    let mut answer = [0u8; 4096];
    let (length, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()))?;
    let answer = &answer[..length];
    // struct nlmsghdr, then the error, which is zero for success.
    let (kind, error) = match answer.get(..20) {
        Some(&[_, _, _, _, k0, k1, .., e0, e1, e2, e3]) => {
            (u16::from_ne_bytes([k0, k1]), i32::from_ne_bytes([e0, e1, e2, e3]))
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    match (kind, error) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn rule(address: IpAddr, length: u8) -> Vec<u8> {
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags.
    let header = [family(address), length, 0, 0, 0, 0, 0, UNREACHABLE, 0, 0, 0, 0];
    message(
        RTM_NEWRULE,
        &header,
        &[
            (DST, octets(address)),
            (FRA_PRIORITY, 1u32.to_ne_bytes().to_vec()),
        ],
    )
}

fn route(address: IpAddr, length: u8) -> Vec<u8> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    let header = [
        family(address),
        length,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        0,
        UNREACHABLE,
        0,
        0,
        0,
        0,
    ];
    message(RTM_NEWROUTE, &header, &[(DST, octets(address))])
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    // Both are small numbers.
    family.as_raw() as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A netlink message with attributes, all of which are multiples of four bytes.
fn message(kind: u16, header: &[u8], attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = header.to_vec();
    for (kind, value) in attributes {
        let length = 4 + value.len() as u16;
        body.extend_from_slice(&length.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(value);
    }
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&NEW.to_ne_bytes());
    // Sequence number and port.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_kernels_shape() {
        let rule = rule("169.254.0.0".parse().unwrap(), 16);
        assert_eq!(rule.len(), 16 + 12 + 8 + 8);
        assert_eq!(rule[..4], 44u32.to_ne_bytes());
        assert_eq!(rule[16..18], [2, 16]);
        assert_eq!(rule[23], UNREACHABLE);
        assert_eq!(rule[32..36], [169, 254, 0, 0]);
        let route = route("fe80::a9fe:a9fe".parse().unwrap(), 128);
        assert_eq!(route.len(), 16 + 12 + 20);
        assert_eq!(route[16], 10);
    }
}
