//! What this machine offers to builds, found out by trying it. Whatever changes the process that tries it is tried in a child.

mod tiers;

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, StatVfsMountFlags, XattrFlags};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::idmap::{IdMaps, in_path};
use crate::machines::{Emulation, architectures, emulation, registrations};
use crate::resources::Controller;
use crate::{cgroup, sys};

pub use tiers::{Tier, tiers};

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// Builds go without, less well.
    Lacking,
    /// Something does not work because of it.
    Bad,
}

/// Something that matters to builds.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is about, one or two words.
    pub topic: &'static str,
    /// How good it is.
    pub state: State,
    /// What was found.
    pub text: String,
    /// What changes it.
    pub knob: Option<String>,
}

impl Finding {
    fn good(topic: &'static str, text: impl Into<String>) -> Finding {
        Finding {
            topic,
            state: State::Good,
            text: text.into(),
            knob: None,
        }
    }

    fn other(topic: &'static str, state: State, text: impl Into<String>, knob: &str) -> Finding {
        Finding {
            topic,
            state,
            text: text.into(),
            knob: (!knob.is_empty()).then(|| knob.to_owned()),
        }
    }
}

/// Looks at everything but the tiers. `store` is an existing directory on the store's file system in which files may be made.
pub fn findings(store: &Path) -> Vec<Finding> {
    let mut found = vec![kernel()];
    found.extend(user_namespaces());
    found.push(ids());
    found.extend(system_calls());
    found.extend(store_file_system(store));
    found.extend(network());
    found.extend(Controller::ALL.into_iter().map(controller));
    found.push(emulators());
    found
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let text = format!(
        "{} {} {}",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy(),
        name.machine().to_string_lossy()
    );
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
        version if version >= (5, 11) => Finding::good("kernel", text),
        _ => Finding::other(
            "kernel",
            State::Lacking,
            text,
            "ordinary users have overlays from 5.11 on: use a newer kernel",
        ),
    }
}

fn user_namespaces() -> Vec<Finding> {
    let mut found = Vec::new();
    let topic = "user namespaces";
    for (path, bad, knob) in [
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "sysctl -w user.max_user_namespaces=15000",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with userns for rbuild",
        ),
    ] {
        if read(path).is_some_and(|value| value == bad) {
            let name = path.trim_start_matches("/proc/sys/").replace('/', ".");
            found.push(Finding::other(
                topic,
                State::Bad,
                format!("{name} is {bad}"),
                knob,
            ));
        }
    }
    if let Err(error) = try_user_namespace() {
        found.push(Finding::other(
            topic,
            State::Bad,
            format!("making one is refused: {error}"),
            "in a container: a system call filter that lets unshare through (--security-opt seccomp=unconfined)",
        ));
    }
    if found.is_empty() {
        found.push(Finding::good(topic, "can be made"));
    }
    found
}

fn try_user_namespace() -> std::io::Result<()> {
    let Some(child) = sys::clone_into(0)? else {
        let code = match sys::unshare(sys::namespace::USER) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EPERM),
        };
        sys::exit_now(code)
    };
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED))?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        Some(code) => Err(std::io::Error::from_raw_os_error(code)),
        None => Err(std::io::Error::other("the attempt was killed")),
    }
}

fn ids() -> Finding {
    let topic = "id ranges";
    let maps = match IdMaps::of_caller() {
        Ok(maps) => maps,
        Err(reason) => {
            let knob = "without them steps have one id and owners are emulated, which costs time";
            return Finding::other(topic, State::Lacking, reason, knob);
        }
    };
    for program in ["newuidmap", "newgidmap"] {
        let Some(path) = in_path(program) else { continue };
        let has_bit = std::fs::metadata(&path).is_ok_and(|data| data.mode() & 0o4000 != 0 && data.uid() == 0);
        let has_capabilities = rustix::fs::getxattr(&path, "security.capability", &mut [0u8; 64][..]).is_ok();
        if !has_bit && !has_capabilities {
            return Finding::other(
                topic,
                State::Lacking,
                format!("{} has neither the setuid bit nor capabilities", path.display()),
                "install the package uidmap again, or chmod u+s both programs",
            );
        }
    }
    let status = read("/proc/self/status").unwrap_or_default();
    if status
        .lines()
        .any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"]))
    {
        return Finding::other(
            topic,
            State::Lacking,
            "newuidmap has no effect: rbuild was started with no_new_privs",
            "Kubernetes: allowPrivilegeEscalation: true; docker: no --security-opt no-new-privileges",
        );
    }
    Finding::good(topic, format!("{} ids", maps.count))
}

fn system_calls() -> Vec<Finding> {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let has = |name: &str| actions.split_whitespace().any(|action| action == name);
    let mut found = Vec::new();
    found.push(if has("errno") {
        Finding::good("seccomp", "filters can be installed")
    } else {
        Finding::other(
            "seccomp",
            State::Bad,
            "the kernel has no filters",
            "a kernel with CONFIG_SECCOMP_FILTER",
        )
    });
    found.push(if has("user_notif") {
        Finding::good("seccomp notify", "calls can be answered by rbuild")
    } else {
        Finding::other(
            "seccomp notify",
            State::Lacking,
            "calls cannot be answered by rbuild: no isolation userns-single",
            "Linux 5.0 or later",
        )
    });
    found
}

fn store_file_system(store: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let topic = "store";
    let name = std::fs::canonicalize(store)
        .ok()
        .and_then(|path| file_system(&path))
        .unwrap_or_else(|| "unknown file system".to_owned());
    match rustix::fs::statvfs(store) {
        Ok(data) => {
            let free = data.f_bavail.saturating_mul(data.f_frsize);
            let text = format!("{name}, {} MiB and {} inodes free", free >> 20, data.f_favail);
            found.push(if free < 1 << 30 {
                let knob = "rbuild prune, or --root DIR on a larger disk";
                Finding::other(topic, State::Lacking, text, knob)
            } else {
                Finding::good(topic, text)
            });
            for (flag, word) in [
                (StatVfsMountFlags::RDONLY, "read-only"),
                (StatVfsMountFlags::NOEXEC, "noexec"),
            ] {
                if data.f_flag.contains(flag) {
                    let text = format!("it is mounted {word}");
                    found.push(Finding::other(topic, State::Bad, text, "--root DIR elsewhere"));
                }
            }
        }
        Err(error) => found.push(Finding::other(
            topic,
            State::Bad,
            error.to_string(),
            "--root DIR elsewhere",
        )),
    }
    let (one, two) = (store.join("probe-1"), store.join("probe-2"));
    let files = std::fs::write(&one, [7u8; 4096]).and_then(|()| std::fs::File::create(&two));
    match files {
        Err(error) => {
            let text = format!("writing a file: {error}");
            found.push(Finding::other(topic, State::Bad, text, "--root DIR elsewhere"));
        }
        Ok(file) => {
            let cloned = std::fs::File::open(&one).map(|source| rustix::fs::ioctl_ficlone(&file, &source));
            found.push(match cloned {
                Ok(Ok(())) => Finding::good("reflink", "files are copied without their bytes"),
                _ => Finding::other(
                    "reflink",
                    State::Lacking,
                    format!("{name} copies files byte by byte"),
                    "only where no overlay can be mounted it matters: a store on btrfs or XFS",
                ),
            });
            found.push(
                match rustix::fs::setxattr(&one, "user.rbuild", b"1", XattrFlags::empty()) {
                    Ok(()) => Finding::good("attributes", "files have extended attributes of users"),
                    Err(error) => Finding::other(
                        "attributes",
                        State::Bad,
                        format!("files have no extended attributes of users: {error}"),
                        "--root DIR on ext4, XFS, btrfs, or a tmpfs of Linux 6.6",
                    ),
                },
            );
        }
    }
    for path in [one, two] {
        let _ = std::fs::remove_file(path);
    }
    found
}

/// The type of the file system that a path is on, by the longest mount point above it.
fn file_system(path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let lines = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let at = before.split(' ').nth(4)?;
        path.starts_with(at)
            .then(|| (at.len(), after.split(' ').next().unwrap_or_default().to_owned()))
    });
    lines.max_by_key(|(length, _)| *length).map(|(_, name)| name)
}

fn network() -> Vec<Finding> {
    let helpers: Vec<&str> = ["pasta", "slirp4netns"]
        .into_iter()
        .filter(|program| in_path(program).is_some())
        .collect();
    let mut found = vec![if helpers.is_empty() {
        Finding::other(
            "network",
            State::Lacking,
            "neither pasta nor slirp4netns is installed: steps use the machine's network",
            "apt-get install passt",
        )
    } else {
        Finding::good("network", format!("{} can connect steps", helpers.join(" and ")))
    }];
    let tun = rustix::fs::access("/dev/net/tun", Access::READ_OK | Access::WRITE_OK);
    found.push(match tun {
        Ok(()) => Finding::good("tun device", "can be opened"),
        Err(error) => Finding::other(
            "tun device",
            State::Lacking,
            format!("/dev/net/tun: {error}: steps use the machine's network"),
            "in a container: --device /dev/net/tun",
        ),
    });
    found
}

fn controller(controller: Controller) -> Finding {
    let topic = match controller {
        Controller::Memory => "cgroup memory",
        Controller::Cpu => "cgroup cpu",
        Controller::Cpuset => "cgroup cpuset",
        Controller::Pids => "cgroup pids",
    };
    match cgroup::available(controller) {
        Ok(text) => Finding::good(topic, text),
        Err(reason) => Finding::other(
            topic,
            State::Lacking,
            reason,
            "only --memory, --cpus and the like need it: systemd-run --user --scope -p Delegate=yes rbuild ...",
        ),
    }
}

fn emulators() -> Finding {
    let topic = "emulators";
    let shown = registrations();
    let runs: Vec<String> = architectures()
        .filter_map(|name| match emulation(name) {
            Emulation::Compatible => Some(format!("{name} (the machine itself)")),
            Emulation::Emulator(Some(path)) => Some(format!("{name} ({})", path.display())),
            Emulation::Emulator(None) => Some(name.to_owned()),
            Emulation::EmulatorInRoot(path) => {
                Some(format!("{name} (where the image has {})", path.display()))
            }
            Emulation::Native | Emulation::Missing => None,
        })
        .collect();
    let knob = "apt-get install qemu-user-static binfmt-support";
    if runs.is_empty() {
        let text = "programs of other architectures cannot be run";
        return Finding::other(topic, State::Lacking, text, knob);
    }
    let text = format!(
        "runs {}; {} entries of binfmt_misc are visible",
        runs.join(", "),
        shown.len()
    );
    Finding::good(topic, text)
}
