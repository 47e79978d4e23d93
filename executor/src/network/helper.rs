//! The programs that connect a network namespace without privilege: what they are told, and how they
//! say that they are ready.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::Access;

use super::resolv::{self, Forward};
use super::{NetworkPlan, Surroundings};

/// Addresses for documentation: nothing is there, so nothing is lost when they mean something in a step.
const DNS_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
const DNS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
const MACHINE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// slirp4netns' own.
const SLIRP_DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const SLIRP_MACHINE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// One of the programs, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Helper {
    /// Goes into the background and ends its first process when the network is there.
    Pasta,
    /// Writes a byte to a descriptor when the network is there.
    Slirp4netns,
}

/// Where the machine itself is, for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    /// Nowhere.
    Unreachable,
    /// Here.
    At(IpAddr),
    /// Where the step's default route leads.
    AtGateway,
}

/// How a helper is called, and what it makes of addresses.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) program: CString,
    pub(super) args: Vec<CString>,
    pub(super) forward: Forward,
    pub(super) machine: Machine,
}

impl Helper {
    pub(super) const ALL: [Helper; 2] = [Helper::Pasta, Helper::Slirp4netns];

    pub(super) fn name(self) -> &'static str {
        match self {
            Helper::Pasta => "pasta",
            Helper::Slirp4netns => "slirp4netns",
        }
    }

    /// The program, searched in the builder's `PATH`.
    pub(super) fn program(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(self.name()))
            .find(|program| program.is_file() && rustix::fs::access(program, Access::EXEC_OK).is_ok())
    }

    /// How to call it for the namespace at `namespace`; `None` when it is not installed.
    pub(super) fn call(
        self,
        namespace: &Path,
        surroundings: &Surroundings,
        plan: NetworkPlan,
    ) -> Option<Call> {
        let program = self.program()?;
        let reach_machine = plan.reach_machine;
        let (args, forward, machine) = match self {
            Helper::Pasta => {
                let maps_address = reach_machine && knows_option(&program, "--map-host-loopback");
                let as_root = !surroundings.in_user_namespace;
                pasta(&surroundings.resolv_conf, reach_machine, maps_address, as_root)
            }
            Helper::Slirp4netns => slirp4netns(reach_machine),
        };
        let mut args: Vec<CString> = [self.name().to_owned()]
            .into_iter()
            .chain(args)
            .map(CString::new)
            .collect::<Result<_, _>>()
            .ok()?;
        args.push(CString::new(namespace.as_os_str().as_bytes()).ok()?);
        if self == Helper::Slirp4netns {
            args.push(c"tap0".to_owned());
        }
        Some(Call {
            program: CString::new(program.as_os_str().as_bytes()).ok()?,
            args,
            forward,
            machine,
        })
    }
}

fn pasta(
    resolv_conf: &str,
    reach_machine: bool,
    maps_address: bool,
    as_root: bool,
) -> (Vec<String>, Forward, Machine) {
    let mut forward = Forward {
        v4: DNS_V4.into(),
        v6: DNS_V6.into(),
        taken: None,
    };
    // No port of the machine is forwarded inside and none from inside to the machine's loopback, which is
    // what pasta does unless told otherwise.
    let mut args: Vec<String> = "--config-net --quiet --no-netns-quit -t none -u none -T none -U none"
        .split(' ')
        .map(str::to_owned)
        .collect();
    if as_root {
        // As "nobody", its choice, it could not enter a namespace that root owns. It gives up its capabilities.
        args.extend(["--runas".to_owned(), "0:0".to_owned()]);
    }
    let machine = match (reach_machine, maps_address) {
        (false, _) => {
            args.push("--no-map-gw".to_owned());
            Machine::Unreachable
        }
        (true, true) => {
            args.extend(["--map-host-loopback".to_owned(), MACHINE.to_string()]);
            Machine::At(MACHINE.into())
        }
        (true, false) => Machine::AtGateway,
    };
    let local = |v6: bool| {
        resolv::servers(resolv_conf).any(|server| resolv::is_local(server) && server.contains(':') == v6)
    };
    if local(false) || machine == Machine::AtGateway {
        args.extend(["--dns-forward".to_owned(), forward.v4.to_string()]);
    }
    if local(true) {
        args.extend(["--dns-forward".to_owned(), forward.v6.to_string()]);
    } else {
        forward.v6 = forward.v4;
    }
    args.push("--netns".to_owned());
    (args, forward, machine)
}

fn slirp4netns(reach_machine: bool) -> (Vec<String>, Forward, Machine) {
    let mut args =
        "--configure --mtu=65520 --netns-type=path --enable-sandbox --enable-seccomp -r 0".to_owned();
    if !reach_machine {
        args.push_str(" --disable-host-loopback");
    }
    let forward = Forward {
        v4: SLIRP_DNS.into(),
        v6: SLIRP_DNS.into(),
        taken: None,
    };
    let machine = if reach_machine {
        Machine::At(SLIRP_MACHINE.into())
    } else {
        Machine::Unreachable
    };
    (args.split(' ').map(str::to_owned).collect(), forward, machine)
}

/// Does the program name this option in its own help?
fn knows_option(program: &Path, option: &str) -> bool {
    let output = Command::new(program)
        .arg("--help")
        .stdin(Stdio::null())
        .env_clear()
        .output();
    output.is_ok_and(|output| {
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).contains(option)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(resolv_conf: &str, reach_machine: bool, maps_address: bool, as_root: bool) -> String {
        pasta(resolv_conf, reach_machine, maps_address, as_root)
            .0
            .join(" ")
    }

    const BASE: &str = "--config-net --quiet --no-netns-quit -t none -u none -T none -U none";

    #[test]
    fn pasta_reaches_the_machine_only_when_asked() {
        let far = "nameserver 10.0.0.1\n";
        assert_eq!(
            line(far, false, false, false),
            format!("{BASE} --no-map-gw --netns")
        );
        assert_eq!(
            line(far, false, true, true),
            format!("{BASE} --runas 0:0 --no-map-gw --netns")
        );
        assert_eq!(
            line(far, true, true, false),
            format!("{BASE} --map-host-loopback 198.51.100.1 --netns")
        );
        // The gateway's address is the machine then, also for queries to a name server there.
        assert_eq!(
            line(far, true, false, false),
            format!("{BASE} --dns-forward 198.51.100.53 --netns")
        );
    }

    #[test]
    fn servers_on_the_machine_are_forwarded_to() {
        assert_eq!(
            line("nameserver 127.0.0.53\n", false, false, false),
            format!("{BASE} --no-map-gw --dns-forward 198.51.100.53 --netns")
        );
        assert_eq!(
            line("nameserver ::1\n", false, false, false),
            format!("{BASE} --no-map-gw --dns-forward 2001:db8::53 --netns")
        );
    }

    #[test]
    fn slirp4netns_is_told_the_same() {
        assert!(
            slirp4netns(false)
                .0
                .contains(&"--disable-host-loopback".to_owned())
        );
        assert!(
            !slirp4netns(true)
                .0
                .contains(&"--disable-host-loopback".to_owned())
        );
    }
}
