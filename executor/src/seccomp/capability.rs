//! The system calls that Docker's default profile ties to capabilities outside of its default set.

use rustix::thread::CapabilitySet;

const CALLS: [(CapabilitySet, &[&str]); 13] = [
    (CapabilitySet::DAC_READ_SEARCH, &["open_by_handle_at"]),
    (
        CapabilitySet::SYS_ADMIN,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (CapabilitySet::SYS_BOOT, &["reboot"]),
    (
        CapabilitySet::SYS_MODULE,
        &["delete_module", "finit_module", "init_module"],
    ),
    (CapabilitySet::SYS_PACCT, &["acct"]),
    (
        CapabilitySet::SYS_PTRACE,
        &["kcmp", "pidfd_getfd", "process_madvise"],
    ),
    (CapabilitySet::SYS_RAWIO, &["iopl", "ioperm"]),
    (
        CapabilitySet::SYS_TIME,
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    (CapabilitySet::SYS_TTY_CONFIG, &["vhangup"]),
    (
        CapabilitySet::SYS_NICE,
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    (CapabilitySet::SYSLOG, &["syslog"]),
    (CapabilitySet::BPF, &["bpf"]),
    (CapabilitySet::PERFMON, &["perf_event_open"]),
];

/// What `capabilities` allow in addition.
pub(super) fn allowed(capabilities: CapabilitySet) -> impl Iterator<Item = &'static str> {
    let held = CALLS
        .iter()
        .filter(move |(capability, _)| capabilities.contains(*capability));
    held.flat_map(|(_, calls)| calls.iter().copied())
}
