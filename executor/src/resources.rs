//! How much of the machine the steps of a build may use.

use crate::Error;

/// Limits for each step of a build; the default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap space together; `u64::MAX` is unlimited.
    pub memory_and_swap: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu_quota: Option<u64>,
    /// Microseconds of a period.
    pub cpu_period: Option<u64>,
    /// Weight against others; 1024 is the usual one.
    pub cpu_shares: Option<u64>,
    /// Processors, `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, `0-2,4`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// The parts of the kernel that enforce them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
}

impl Controller {
    pub(crate) const ALL: [Controller; 4] = [
        Controller::Memory,
        Controller::Cpu,
        Controller::Cpuset,
        Controller::Pids,
    ];

    /// The kernel's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Cpuset => "cpuset",
            Controller::Pids => "pids",
        }
    }
}

/// The kernel's usual period.
const PERIOD: u64 = 100_000;

/// A file of a cgroup and what is written there.
pub(crate) struct Setting {
    pub(crate) file: &'static str,
    pub(crate) value: String,
}

impl Resources {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Resources::default()
    }

    /// What is limited of a controller, by the names of the flags.
    pub(crate) fn flags(&self, controller: Controller) -> Vec<&'static str> {
        let flags = match controller {
            Controller::Memory => vec![
                ("--memory", self.memory.is_some()),
                ("--memory-swap", self.memory_and_swap.is_some()),
            ],
            Controller::Cpu => vec![
                ("--cpus", self.cpu_quota.is_some() || self.cpu_period.is_some()),
                ("--cpu-shares", self.cpu_shares.is_some()),
            ],
            Controller::Cpuset => vec![
                ("--cpuset-cpus", self.cpuset_cpus.is_some()),
                ("--cpuset-mems", self.cpuset_mems.is_some()),
            ],
            Controller::Pids => vec![("--pids-limit", self.pids.is_some())],
        };
        let given = flags.into_iter().filter(|(_, given)| *given);
        given.map(|(flag, _)| flag).collect()
    }

    /// The files of a cgroup of the first version.
    pub(crate) fn settings_v1(&self, controller: Controller) -> Vec<Setting> {
        let text = |number: u64| match number {
            u64::MAX => "-1".to_owned(),
            number => number.to_string(),
        };
        let settings = match controller {
            Controller::Memory => vec![
                ("memory.limit_in_bytes", self.memory.map(text)),
                ("memory.memsw.limit_in_bytes", self.memory_and_swap.map(text)),
            ],
            Controller::Cpu => vec![
                ("cpu.cfs_period_us", self.cpu_period.map(text)),
                ("cpu.cfs_quota_us", self.cpu_quota.map(text)),
                ("cpu.shares", self.cpu_shares.map(text)),
            ],
            Controller::Cpuset => self.sets(),
            Controller::Pids => vec![("pids.max", self.pids.map(text))],
        };
        given(settings)
    }

    /// The files of a cgroup of the second version.
    pub(crate) fn settings_v2(&self, controller: Controller) -> Vec<Setting> {
        let text = |number: u64| match number {
            u64::MAX => "max".to_owned(),
            number => number.to_string(),
        };
        let settings = match controller {
            Controller::Memory => {
                let swap = self.memory_and_swap.map(|both| match both {
                    u64::MAX => u64::MAX,
                    both => both.saturating_sub(self.memory.unwrap_or(0)),
                });
                vec![
                    ("memory.max", self.memory.map(text)),
                    ("memory.swap.max", swap.map(text)),
                    // All of the step, not its largest process: what is left would be of no use.
                    ("memory.oom.group", self.memory.map(|_| "1".to_owned())),
                ]
            }
            Controller::Cpu => {
                let limited = self.cpu_quota.is_some() || self.cpu_period.is_some();
                let quota = self.cpu_quota.unwrap_or(u64::MAX);
                let max = format!("{} {}", text(quota), self.cpu_period.unwrap_or(PERIOD));
                // The kernel's own translation: 2..262144 to 1..10000.
                let weight = |shares: u64| 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
                vec![
                    ("cpu.max", limited.then_some(max)),
                    ("cpu.weight", self.cpu_shares.map(weight).map(text)),
                ]
            }
            Controller::Cpuset => self.sets(),
            Controller::Pids => vec![("pids.max", self.pids.map(text))],
        };
        given(settings)
    }

    fn sets(&self) -> Vec<(&'static str, Option<String>)> {
        vec![
            ("cpuset.cpus", self.cpuset_cpus.clone()),
            ("cpuset.mems", self.cpuset_mems.clone()),
        ]
    }

    /// Refuses what contradicts itself.
    pub fn check(&self) -> Result<(), Error> {
        if let (Some(both), memory) = (self.memory_and_swap, self.memory) {
            let Some(memory) = memory else {
                return Err(Error::Limits(
                    "--memory-swap is of use only with --memory".to_owned(),
                ));
            };
            if both < memory {
                return Err(Error::Limits(
                    "--memory-swap counts memory and swap space together: it cannot be less than --memory"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }
}

fn given(settings: Vec<(&'static str, Option<String>)>) -> Vec<Setting> {
    let given = settings
        .into_iter()
        .filter_map(|(file, value)| value.map(|value| Setting { file, value }));
    given.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(settings: Vec<Setting>) -> String {
        let texts: Vec<String> = settings
            .iter()
            .map(|setting| format!("{}={}", setting.file, setting.value))
            .collect();
        texts.join(" ")
    }

    #[test]
    fn limits_become_settings() {
        let resources = Resources {
            memory: Some(64 << 20),
            memory_and_swap: Some(96 << 20),
            cpu_quota: Some(150_000),
            cpu_shares: Some(1024),
            pids: Some(10),
            ..Resources::default()
        };
        assert_eq!(
            written(resources.settings_v2(Controller::Memory)),
            "memory.max=67108864 memory.swap.max=33554432 memory.oom.group=1"
        );
        assert_eq!(
            written(resources.settings_v2(Controller::Cpu)),
            "cpu.max=150000 100000 cpu.weight=39"
        );
        assert_eq!(
            written(resources.settings_v1(Controller::Memory)),
            "memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=100663296"
        );
        assert_eq!(
            written(resources.settings_v1(Controller::Cpu)),
            "cpu.cfs_quota_us=150000 cpu.shares=1024"
        );
        assert_eq!(written(resources.settings_v1(Controller::Pids)), "pids.max=10");
        assert_eq!(written(resources.settings_v2(Controller::Cpuset)), "");
        let unlimited = Resources {
            memory: Some(1),
            memory_and_swap: Some(u64::MAX),
            ..Resources::default()
        };
        assert!(unlimited.check().is_ok());
        assert!(written(unlimited.settings_v2(Controller::Memory)).contains("memory.swap.max=max"));
        assert!(written(unlimited.settings_v1(Controller::Memory)).contains("memsw.limit_in_bytes=-1"));
        let less = Resources {
            memory: Some(10),
            memory_and_swap: Some(9),
            ..Resources::default()
        };
        assert!(less.check().is_err());
    }
}
