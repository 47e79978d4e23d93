//! The numbers of all system calls: those of the default profile, and here the others, which only a profile of the user
//! or an added capability allows.

use super::profile::{ALLOWED, CLONE, CLONE3, NO, PERSONALITY, SOCKET};

/// Rows as in [`ALLOWED`].
#[rustfmt::skip]
const OTHERS: &[(&str, u32, u32, u32, u32)] = &[
    ("_sysctl", 156, 149, NO, 149),
    ("acct", 163, 51, 89, 51),
    ("add_key", 248, 286, 217, 309),
    ("afs_syscall", 183, 137, NO, NO),
    ("bdflush", NO, 134, NO, 134),
    ("bpf", 321, 357, 280, 386),
    ("break", NO, 17, NO, NO),
    ("clock_settime", 227, 264, 112, 262),
    ("clock_settime64", NO, 404, NO, 404),
    ("create_module", 174, 127, NO, NO),
    ("delete_module", 176, 129, 106, 129),
    ("fanotify_init", 300, 338, 262, 367),
    ("file_getattr", 468, 468, 468, 468),
    ("file_setattr", 469, 469, 469, 469),
    ("finit_module", 313, 350, 273, 379),
    ("fsconfig", 431, 431, 431, 431),
    ("fsmount", 432, 432, 432, 432),
    ("fsopen", 430, 430, 430, 430),
    ("fspick", 433, 433, 433, 433),
    ("ftime", NO, 35, NO, NO),
    ("get_kernel_syms", 177, 130, NO, NO),
    ("get_mempolicy", 239, 275, 236, 320),
    ("get_tls", NO, NO, NO, 983046),
    ("getpmsg", 181, 188, NO, NO),
    ("gtty", NO, 32, NO, NO),
    ("idle", NO, 112, NO, NO),
    ("init_module", 175, 128, 105, 128),
    ("io_uring_enter", 426, 426, 426, 426),
    ("io_uring_register", 427, 427, 427, 427),
    ("io_uring_setup", 425, 425, 425, 425),
    ("ioperm", 173, 101, NO, NO),
    ("iopl", 172, 110, NO, NO),
    ("kcmp", 312, 349, 272, 378),
    ("kexec_file_load", 320, NO, 294, 401),
    ("kexec_load", 246, 283, 104, 347),
    ("keyctl", 250, 288, 219, 311),
    ("lock", NO, 53, NO, NO),
    ("lookup_dcookie", 212, 253, 18, 249),
    ("lsm_get_self_attr", 459, 459, 459, 459),
    ("lsm_list_modules", 461, 461, 461, 461),
    ("lsm_set_self_attr", 460, 460, 460, 460),
    ("mbind", 237, 274, 235, 319),
    ("migrate_pages", 256, 294, 238, 400),
    ("mount", 165, 21, 40, 21),
    ("mount_setattr", 442, 442, 442, 442),
    ("move_mount", 429, 429, 429, 429),
    ("move_pages", 279, 317, 239, 344),
    ("mpx", NO, 56, NO, NO),
    ("nfsservctl", 180, 169, 42, 169),
    ("nice", NO, 34, NO, 34),
    ("oldfstat", NO, 28, NO, NO),
    ("oldlstat", NO, 84, NO, NO),
    ("oldolduname", NO, 59, NO, NO),
    ("oldstat", NO, 18, NO, NO),
    ("olduname", NO, 109, NO, NO),
    ("open_by_handle_at", 304, 342, 265, 371),
    ("open_tree", 428, 428, 428, 428),
    ("open_tree_attr", 467, 467, 467, 467),
    ("pciconfig_iobase", NO, NO, NO, 271),
    ("pciconfig_read", NO, NO, NO, 272),
    ("pciconfig_write", NO, NO, NO, 273),
    ("perf_event_open", 298, 336, 241, 364),
    ("pidfd_getfd", 438, 438, 438, 438),
    ("pivot_root", 155, 217, 41, 218),
    ("process_madvise", 440, 440, 440, 440),
    ("prof", NO, 44, NO, NO),
    ("profil", NO, 98, NO, NO),
    ("putpmsg", 182, 189, NO, NO),
    ("query_module", 178, 167, NO, NO),
    ("quotactl", 179, 131, 60, 131),
    ("quotactl_fd", 443, 443, 443, 443),
    ("readdir", NO, 89, NO, NO),
    ("reboot", 169, 88, 142, 88),
    ("request_key", 249, 287, 218, 310),
    ("security", 185, NO, NO, NO),
    ("set_mempolicy", 238, 276, 237, 321),
    ("set_mempolicy_home_node", 450, 450, 450, 450),
    ("setdomainname", 171, 121, 162, 121),
    ("sethostname", 170, 74, 161, 74),
    ("setns", 308, 346, 268, 375),
    ("settimeofday", 164, 79, 170, 79),
    ("sgetmask", NO, 68, NO, NO),
    ("sigaction", NO, 67, NO, 67),
    ("signal", NO, 48, NO, NO),
    ("sigpending", NO, 73, NO, 73),
    ("sigsuspend", NO, 72, NO, 72),
    ("ssetmask", NO, 69, NO, NO),
    ("stime", NO, 25, NO, NO),
    ("stty", NO, 31, NO, NO),
    ("swapoff", 168, 115, 225, 115),
    ("swapon", 167, 87, 224, 87),
    ("sysfs", 139, 135, NO, 135),
    ("syslog", 103, 103, 116, 103),
    ("tuxcall", 184, NO, NO, NO),
    ("ulimit", NO, 58, NO, NO),
    ("umount", NO, 22, NO, NO),
    ("umount2", 166, 52, 39, 52),
    ("unshare", 272, 310, 97, 337),
    ("uselib", 134, 86, NO, 86),
    ("userfaultfd", 323, 374, 282, 388),
    ("usr26", NO, NO, NO, 983043),
    ("usr32", NO, NO, NO, 983044),
    ("ustat", 136, 62, NO, 62),
    ("vhangup", 153, 111, 58, 111),
    ("vm86", NO, 166, NO, NO),
    ("vm86old", NO, 113, NO, NO),
    ("vserver", 236, 273, NO, 313),
];

/// Calls that have a number of their own under x32, without the bit that marks it. The others have that of x86_64.
#[rustfmt::skip]
const X32: &[(&str, u32)] = &[
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// The number of `name` in a column of the tables: x86_64, i386, aarch64, arm.
pub(super) fn number(name: &str, column: usize) -> Option<u32> {
    let special = match name {
        "clone" => Some(CLONE),
        "clone3" => Some(CLONE3),
        "personality" => Some(PERSONALITY),
        "socket" => Some(SOCKET),
        _ => None,
    };
    let numbers = special.or_else(|| {
        let mut rows = ALLOWED.iter().chain(OTHERS);
        let row = rows.find(|row| row.0 == name)?;
        Some([row.1, row.2, row.3, row.4])
    });
    numbers
        .map(|numbers| numbers[column])
        .filter(|number| *number != NO)
}

/// The number of `name` under x32, without the bit that marks it.
pub(super) fn x32_number(name: &str) -> Option<u32> {
    let own = X32.iter().find(|(known, _)| *known == name);
    own.map(|(_, number)| *number)
        .or_else(|| number(name, 0).filter(|number| *number < 512))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_once() {
        let mut names: Vec<&str> = ALLOWED.iter().chain(OTHERS).map(|row| row.0).collect();
        names.extend(["clone", "clone3", "personality", "socket"]);
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for (name, numbers) in [
            ("mount", [Some(165), Some(21), Some(40), Some(21)]),
            ("clone", [Some(56), Some(120), Some(220), Some(120)]),
            ("umount", [None, Some(22), None, None]),
            ("nothing", [None; 4]),
        ] {
            assert_eq!([0, 1, 2, 3].map(|column| number(name, column)), numbers, "{name}");
        }
        assert_eq!((x32_number("ioctl"), x32_number("read")), (Some(514), Some(0)));
    }
}
