//! The capabilities of a step.

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// Docker's fourteen: what root in a container may do.
pub(crate) const DOCKER_DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What leads out of a root that is only changed.
pub(crate) const LEADING_OUT: CapabilitySet = CapabilitySet::SYS_CHROOT.union(CapabilitySet::MKNOD);

/// Takes everything but `keep` out of the bounding set: no program can get it back.
pub(crate) fn bound(keep: CapabilitySet) -> rustix::io::Result<()> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // Past the last capability that this kernel has.
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    clear_ambient_capability_set()
}

/// Permitted and effective become `set`, inheritable nothing (CVE-2022-27651).
pub(crate) fn hold(set: CapabilitySet) -> rustix::io::Result<()> {
    set_capabilities(
        None,
        CapabilitySets {
            effective: set,
            permitted: set,
            inheritable: CapabilitySet::empty(),
        },
    )
}
