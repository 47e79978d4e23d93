//! Docker's seccomp profiles: the JSON text as data, with what runc and Docker refuse refused here.

use rustix::thread::CapabilitySet;
use serde::Deserialize;

use crate::privilege::capability;

/// A profile that cannot be used. Places are those of the JSON text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProfileError(pub(super) String);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    default_action: Name,
    #[serde(flatten)]
    default_errno: DefaultErrno,
    pub(super) architectures: Option<Vec<Architecture>>,
    pub(super) arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<Flag>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
struct DefaultErrno {
    #[serde(rename = "defaultErrnoRet")]
    number: Option<u16>,
    #[serde(rename = "defaultErrno")]
    name: Option<Errno>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchMap {
    pub(super) architecture: Architecture,
    pub(super) sub_architectures: Option<Vec<Architecture>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: Name,
    errno_ret: Option<u16>,
    errno: Option<Errno>,
    pub(super) args: Option<Vec<Argument>>,
    includes: Option<Scope>,
    excludes: Option<Scope>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u8,
    pub(super) value: u64,
    #[serde(default)]
    pub(super) value_two: u64,
    pub(super) op: Operator,
}

/// For whom a rule is, or is not.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scope {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Name {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    OfAllThreads,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    AllowSpeculation,
}

/// Podman's names beside the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Errno {
    #[serde(rename = "EPERM")]
    Permission = 1,
    #[serde(rename = "EACCES")]
    Access = 13,
    #[serde(rename = "EINVAL")]
    Invalid = 22,
    #[serde(rename = "ENOSYS")]
    NoSystemCall = 38,
    #[serde(rename = "EAFNOSUPPORT")]
    NoFamily = 97,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Architecture {
    #[serde(rename = "SCMP_ARCH_NATIVE")]
    Native,
    #[serde(rename = "SCMP_ARCH_X86")]
    I386,
    #[serde(rename = "SCMP_ARCH_X86_64")]
    X86_64,
    #[serde(rename = "SCMP_ARCH_X32")]
    X32,
    #[serde(rename = "SCMP_ARCH_ARM")]
    Arm,
    #[serde(rename = "SCMP_ARCH_AARCH64")]
    Aarch64,
    /// Machines that this one does not run.
    #[serde(
        rename = "SCMP_ARCH_MIPS",
        alias = "SCMP_ARCH_MIPS64",
        alias = "SCMP_ARCH_MIPS64N32",
        alias = "SCMP_ARCH_MIPSEL",
        alias = "SCMP_ARCH_MIPSEL64",
        alias = "SCMP_ARCH_MIPSEL64N32",
        alias = "SCMP_ARCH_PPC",
        alias = "SCMP_ARCH_PPC64",
        alias = "SCMP_ARCH_PPC64LE",
        alias = "SCMP_ARCH_S390",
        alias = "SCMP_ARCH_S390X",
        alias = "SCMP_ARCH_PARISC",
        alias = "SCMP_ARCH_PARISC64",
        alias = "SCMP_ARCH_RISCV64",
        alias = "SCMP_ARCH_LOONGARCH64",
        alias = "SCMP_ARCH_M68K",
        alias = "SCMP_ARCH_SH",
        alias = "SCMP_ARCH_SHEB"
    )]
    Other,
}

const EPERM: u16 = 1;
/// The kernel cuts higher numbers to this one.
const MAX_ERRNO: u16 = 4095;

/// What a profile is evaluated for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances<'a> {
    pub(super) capabilities: CapabilitySet,
    /// By Go's name.
    pub(super) architecture: &'a str,
    /// Major and minor version.
    pub(super) kernel: (u32, u32),
}

impl Document {
    pub(super) fn parse(text: &str) -> Result<Document, ProfileError> {
        let document: Document =
            serde_json::from_str(text).map_err(|error| ProfileError(error.to_string()))?;
        let fail = |text: &str| Err(ProfileError(text.to_owned()));
        let filled = |list: usize| list > 0;
        if filled(document.architectures.as_ref().map_or(0, Vec::len))
            && filled(document.arch_map.as_ref().map_or(0, Vec::len))
        {
            return fail("use either \"architectures\" or \"archMap\", not both");
        }
        if document.listener_path.is_some() {
            return fail("\"listenerPath\" is not supported: rbuild hands no calls to another process");
        }
        document.default()?;
        for (index, rule) in document.rules().iter().enumerate() {
            rule.check()
                .map_err(|reason| ProfileError(format!("syscalls[{index}]: {reason}")))?;
        }
        Ok(document)
    }

    pub(super) fn rules(&self) -> &[Rule] {
        self.syscalls.as_deref().unwrap_or_default()
    }

    /// The kernel's value for calls without a rule.
    pub(super) fn default(&self) -> Result<u32, ProfileError> {
        let errno = &self.default_errno;
        answer(self.default_action, errno.number, errno.name)
            .map_err(|reason| ProfileError(format!("defaultAction: {reason}")))
    }

    /// Whether calls without a rule are let through in some way.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.default_action, Name::Allow | Name::Log | Name::Trace)
    }

    /// Flags of seccomp(2).
    pub(super) fn flags(&self) -> u32 {
        let flags = self.flags.as_deref().unwrap_or_default().iter();
        flags.fold(0, |flags, flag| {
            flags
                | match flag {
                    // A step is filtered while it has one thread.
                    Flag::OfAllThreads => 0,
                    Flag::Log => 2,
                    Flag::AllowSpeculation => 4,
                }
        })
    }
}

impl Rule {
    /// The calls it is about.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.names.as_deref().unwrap_or_default();
        self.name.iter().chain(names).map(String::as_str)
    }

    /// The kernel's value.
    pub(super) fn answer(&self) -> Result<u32, String> {
        answer(self.action, self.errno_ret, self.errno)
    }

    fn check(&self) -> Result<(), String> {
        let named = self.name.as_ref().is_some_and(|name| !name.is_empty());
        if named && self.names.as_ref().is_some_and(|names| !names.is_empty()) {
            return Err("use either \"name\" or \"names\", not both".to_owned());
        }
        self.answer()?;
        for argument in self.args.iter().flatten() {
            if argument.index > 5 {
                return Err(format!("a call has the arguments 0 to 5, not {}", argument.index));
            }
        }
        for scope in self.includes.iter().chain(&self.excludes) {
            for name in scope.caps.iter().flatten() {
                if capability(name).is_none() {
                    return Err(format!("unknown capability {name:?}"));
                }
            }
            if let Some(text) = &scope.min_kernel
                && version(text).is_none()
            {
                return Err(format!("{text:?} is no kernel version: expected MAJOR.MINOR"));
            }
        }
        Ok(())
    }

    /// Whether it counts, as Docker decides.
    pub(super) fn applies(&self, to: Circumstances<'_>) -> bool {
        let holds = |name: &String| capability(name).is_some_and(|one| to.capabilities.contains(one));
        let is_here = |name: &String| name == to.architecture;
        let reached = |text: &String| version(text).is_some_and(|least| to.kernel >= least);
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        if let Some(scope) = &self.includes {
            let arches = list(&scope.arches);
            if !list(&scope.caps).iter().all(holds)
                || !(arches.is_empty() || arches.iter().any(is_here))
                || !scope.min_kernel.iter().all(reached)
            {
                return false;
            }
        }
        if let Some(scope) = &self.excludes
            && (list(&scope.caps).iter().any(holds)
                || list(&scope.arches).iter().any(is_here)
                || scope.min_kernel.iter().any(reached))
        {
            return false;
        }
        true
    }
}

fn answer(action: Name, number: Option<u16>, name: Option<Errno>) -> Result<u32, String> {
    let errno = number.or(name.map(|errno| errno as u16)).unwrap_or(EPERM);
    if errno > MAX_ERRNO {
        return Err(format!("{errno} is no error number: the highest is {MAX_ERRNO}"));
    }
    Ok(match action {
        Name::KillThread => 0,
        Name::KillProcess => 0x8000_0000,
        Name::Trap => 0x0003_0000,
        Name::Errno => 0x0005_0000 | u32::from(errno),
        Name::Trace => 0x7ff0_0000 | u32::from(errno),
        Name::Log => 0x7ffc_0000,
        Name::Allow => 0x7fff_0000,
        Name::Notify => {
            return Err(
                "SCMP_ACT_NOTIFY is not supported: rbuild hands no calls to another process".to_owned(),
            );
        }
    })
}

/// `4.8`, also with more behind it.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.splitn(3, '.');
    let minor = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    Some((parts.next()?.parse().ok()?, minor(parts.next()?)?))
}
