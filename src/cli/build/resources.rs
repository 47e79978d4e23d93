//! The flags that say how much of the machine RUN steps may use. They change no result, so they are in no key.

use anyhow::{Context as _, bail};
use rbuild_executor::Resources;

use crate::cli::human::parse_size;

/// Flags of a build.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Resource limits")]
pub struct ResourceArgs {
    /// Memory of each step, for example 512m
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Memory and swap space together, -1 for as much swap space as there is
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processors of each step, for example 1.5
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_period", "cpu_quota"])]
    cpus: Option<String>,
    /// Weight against other processes where processors are short [default: 1024]
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<String>,
    /// Microseconds of a scheduling period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<String>,
    /// Microseconds of processor time in a period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<String>,
    /// Processors to run on, for example 0-3,6
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use, for example 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads of each step
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Limits as NAME=VALUE,...: the flags above without their dashes, for example memory=1g,cpus=2
    #[arg(long = "resource", value_name = "LIST")]
    resources: Vec<String>,
}

impl ResourceArgs {
    /// What the flags mean. A flag of its own goes before `--resource`.
    pub fn resources(&self) -> anyhow::Result<Resources> {
        let mut resources = Resources::default();
        for list in &self.resources {
            for part in split(list) {
                let Some((name, value)) = part.split_once('=') else {
                    bail!("invalid --resource {list:?}: expected NAME=VALUE,...");
                };
                apply(&mut resources, name.trim(), value.trim())
                    .with_context(|| format!("invalid --resource {list:?}"))?;
            }
        }
        let flags = [
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("cpus", &self.cpus),
            ("cpu-shares", &self.cpu_shares),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
            ("pids-limit", &self.pids_limit),
        ];
        for (name, value) in flags {
            if let Some(value) = value {
                apply(&mut resources, name, value).with_context(|| format!("invalid --{name} {value:?}"))?;
            }
        }
        resources.check()?;
        Ok(resources)
    }
}

/// The parts of a list; a comma that no name follows belongs to a set (`cpuset-cpus=0,2`).
fn split(list: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for piece in list.split(',') {
        match parts.last_mut() {
            Some(last) if !piece.contains('=') => {
                last.push(',');
                last.push_str(piece);
            }
            _ => parts.push(piece.to_owned()),
        }
    }
    parts
}

fn apply(resources: &mut Resources, name: &str, value: &str) -> anyhow::Result<()> {
    match name {
        "memory" => {
            let bytes = size(value)?;
            // The kernel itself needs some of it for each process; docker's least is the same.
            if bytes < 6 << 20 {
                bail!("the least is 6m");
            }
            resources.memory = Some(bytes);
        }
        "memory-swap" if value == "-1" => resources.memory_and_swap = Some(u64::MAX),
        "memory-swap" => resources.memory_and_swap = Some(size(value)?),
        "cpus" => {
            let number: f64 = value.parse().context("expected a number such as 1.5")?;
            if !(0.01..=100_000.0).contains(&number) {
                bail!("the number is from 0.01 to 100000");
            }
            resources.cpu_period = Some(PERIOD);
            resources.cpu_quota = Some((number * PERIOD as f64).round() as u64);
        }
        "cpu-shares" => resources.cpu_shares = Some(number(value, 2..=262_144)?),
        "cpu-period" => resources.cpu_period = Some(number(value, 1000..=1_000_000)?),
        "cpu-quota" => resources.cpu_quota = Some(number(value, 1000..=1_000_000_000)?),
        "cpuset-cpus" => resources.cpuset_cpus = Some(set(value)?),
        "cpuset-mems" => resources.cpuset_mems = Some(set(value)?),
        "pids-limit" if value == "-1" => resources.pids = None,
        "pids-limit" => resources.pids = Some(number(value, 1..=4_194_304)?),
        _ => bail!(
            "unknown name {name:?}: use memory, memory-swap, cpus, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, \
             cpuset-mems or pids-limit"
        ),
    }
    Ok(())
}

/// Docker's period, in microseconds.
const PERIOD: u64 = 100_000;

fn size(text: &str) -> anyhow::Result<u64> {
    parse_size(text).context("expected a size such as 512m or 2g")
}

fn number(text: &str, range: std::ops::RangeInclusive<u64>) -> anyhow::Result<u64> {
    let (least, most) = (range.start(), range.end());
    let number: Option<u64> = text.parse().ok();
    number
        .filter(|number| range.contains(number))
        .with_context(|| format!("expected a number from {least} to {most}"))
}

/// `0-3,6`.
fn set(text: &str) -> anyhow::Result<String> {
    let is_number =
        |text: &str| !text.is_empty() && text.len() < 8 && text.bytes().all(|b| b.is_ascii_digit());
    let valid = text.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => is_number(first) && is_number(last),
        None => is_number(part),
    });
    if !valid {
        bail!("expected numbers and ranges such as 0-3,6");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let read = |pairs: &[(&str, &str)]| {
            let mut resources = Resources::default();
            for (name, value) in pairs {
                apply(&mut resources, name, value)?;
            }
            anyhow::Ok(resources)
        };
        let resources = read(&[
            ("memory", "64m"),
            ("memory-swap", "-1"),
            ("cpus", "1.5"),
            ("cpuset-cpus", "0-1,3"),
            ("pids-limit", "20"),
        ])
        .unwrap();
        assert_eq!(resources.memory, Some(64 << 20));
        assert_eq!(resources.memory_and_swap, Some(u64::MAX));
        assert_eq!(
            (resources.cpu_quota, resources.cpu_period),
            (Some(150_000), Some(100_000))
        );
        assert_eq!(resources.cpuset_cpus.as_deref(), Some("0-1,3"));
        assert_eq!(resources.pids, Some(20));
        for (name, value) in [
            ("memory", "1k"),
            ("memory", "lots"),
            ("cpus", "0"),
            ("cpus", "NaN"),
            ("cpu-shares", "1"),
            ("cpuset-cpus", "0-"),
            ("cpuset-mems", ""),
            ("pids-limit", "0"),
            ("disk", "1g"),
        ] {
            assert!(read(&[(name, value)]).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn lists_are_split_at_names() {
        assert_eq!(
            split("memory=1g,cpuset-cpus=0,2-3,cpus=1"),
            ["memory=1g", "cpuset-cpus=0,2-3", "cpus=1"]
        );
    }
}
