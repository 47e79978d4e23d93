//! The flags that say how RUN steps are confined.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rbuild_executor::check_profile;

use crate::cli::human::{parse_duration, parse_size};
use crate::graph::{Capabilities, Confinement, SystemCalls};

/// The most bytes of a seccomp profile.
const MAX_PROFILE: u64 = 1 << 20;

/// Flags of a build.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "RUN steps")]
pub struct ConfinementArgs {
    /// Capability that RUN steps get in addition, for example SYS_PTRACE, or ALL
    #[arg(long = "cap-add", value_name = "NAME", value_delimiter = ',')]
    cap_add: Vec<String>,
    /// Capability that RUN steps do not get, or ALL
    #[arg(long = "cap-drop", value_name = "NAME", value_delimiter = ',')]
    cap_drop: Vec<String>,
    /// seccomp=FILE (a profile as docker's), seccomp=unconfined or no-new-privileges
    #[arg(long = "security-opt", value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Size of /dev/shm in RUN steps, for example 256m [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    shm_size: Option<u64>,
    /// Device for RUN steps; not supported
    #[arg(long = "device", value_name = "DEVICE", hide = true, value_parser = no_device)]
    devices: Vec<String>,
    /// How long a RUN step may take to end when the build is interrupted
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub stop_grace: Duration,
}

impl ConfinementArgs {
    /// What the flags mean for the steps.
    pub fn confinement(&self) -> anyhow::Result<Confinement> {
        let mut confinement = Confinement {
            shm_size: self.shm_size,
            ..Confinement::default()
        };
        if !self.cap_add.is_empty() || !self.cap_drop.is_empty() {
            let capabilities = rbuild_executor::Capabilities::tweaked(&self.cap_add, &self.cap_drop)
                .context("reading --cap-add and --cap-drop")?;
            confinement.capabilities = Some(Capabilities {
                held: capabilities.held,
                demanded: capabilities.demanded,
            });
        }
        for option in &self.security_opt {
            apply(&mut confinement, option).with_context(|| format!("invalid --security-opt {option:?}"))?;
        }
        if let SystemCalls::Profile(text) = &confinement.system_calls {
            let capabilities = confinement
                .capabilities
                .map(|Capabilities { held, demanded }| rbuild_executor::Capabilities { held, demanded });
            check_profile(text, capabilities.unwrap_or_default())
                .context("reading the seccomp profile of --security-opt")?;
        }
        Ok(confinement)
    }
}

/// The text of a profile.
fn profile(file: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX_PROFILE + 1).read_to_string(&mut text))
        .with_context(|| format!("reading {file}"))?;
    if read as u64 > MAX_PROFILE {
        bail!("reading {file}: it is longer than {MAX_PROFILE} bytes");
    }
    Ok(text)
}

/// One `--security-opt`, with `=` or docker's old `:`.
fn apply(confinement: &mut Confinement, option: &str) -> anyhow::Result<()> {
    let (name, value) = option
        .split_once(['=', ':'])
        .map_or((option, None), |(name, value)| (name, Some(value)));
    match (name, value) {
        ("no-new-privileges", None | Some("true")) => confinement.no_new_privileges = true,
        ("no-new-privileges", Some("false")) => confinement.no_new_privileges = false,
        ("no-new-privileges", Some(_)) => bail!("the value is true or false"),
        ("seccomp", Some("unconfined")) => confinement.system_calls = SystemCalls::Unconfined,
        ("seccomp", Some("builtin")) => confinement.system_calls = SystemCalls::Usual,
        ("seccomp", Some(file)) => confinement.system_calls = SystemCalls::Profile(profile(file)?),
        ("seccomp", None) => bail!("give seccomp=FILE or seccomp=unconfined"),
        // Steps run under the profile and the label of rbuild itself: that is what these ask for.
        ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
        ("apparmor", _) => {
            bail!("AppArmor profiles are not supported: steps run under the profile of rbuild itself")
        }
        ("label", _) => bail!("SELinux labels are not supported: steps run under the label of rbuild itself"),
        ("systempaths" | "mask" | "unmask" | "proc-opts", _) => {
            bail!("the hidden paths cannot be chosen: use RUN --security=insecure for a step that sees all")
        }
        _ => bail!("unknown option: use seccomp=FILE, seccomp=unconfined or no-new-privileges"),
    }
    Ok(())
}

fn size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Some(0) => Err("the size must be greater than 0".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("expected a size such as 64m or 1g".to_owned()),
    }
}

/// Seconds, or a duration as Go writes it; also milliseconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let milliseconds = text.strip_suffix("ms").and_then(|number| number.parse().ok());
    let parsed = milliseconds.map(Duration::from_millis).or_else(|| {
        let seconds = text.parse().ok().or_else(|| parse_duration(text))?;
        Some(Duration::from_secs(seconds))
    });
    // Far less than what an absolute time can hold.
    parsed
        .filter(|grace| *grace <= Duration::from_secs(30 * 24 * 3600))
        .ok_or_else(|| "expected a duration such as 10s or 500ms, of 30 days at most".to_owned())
}

fn no_device(_: &str) -> Result<String, String> {
    Err("devices (CDI) are not supported by rbuild: leave the flag out".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options_are_read() {
        let read = |option: &str| {
            let mut confinement = Confinement::default();
            apply(&mut confinement, option)
                .map(|()| confinement)
                .map_err(|error| format!("{error:#}"))
        };
        assert!(read("no-new-privileges").unwrap().no_new_privileges);
        assert!(read("no-new-privileges:true").unwrap().no_new_privileges);
        assert!(!read("no-new-privileges=false").unwrap().no_new_privileges);
        let unconfined = read("seccomp=unconfined").unwrap();
        assert_eq!(unconfined.system_calls, SystemCalls::Unconfined);
        for usual in [
            "apparmor=unconfined",
            "label=disable",
            "label:disable",
            "seccomp=builtin",
        ] {
            assert!(read(usual).unwrap().is_usual(), "{usual}");
        }
        for (bad, expected) in [
            ("apparmor=docker-default", "AppArmor profiles are not supported"),
            ("label=level:s0", "SELinux labels are not supported"),
            ("no-new-privileges=maybe", "true or false"),
            ("systempaths=unconfined", "--security=insecure"),
            ("credentialspec=x", "unknown option"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, expected) in [
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("3", Some(3000)),
            ("1m30s", Some(90_000)),
            ("0", Some(0)),
            ("", None),
            ("-1s", None),
            ("99999h", None),
        ] {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }
}
