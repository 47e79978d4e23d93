//! The flags for what comes from elsewhere: how much of it, and how long it is waited for.

use std::time::Duration;

use super::confinement::duration;
use crate::cli::human;

/// Flags of a build.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Sources")]
pub struct ReceptionArgs {
    /// Most bytes of a context that is no directory, packed and unpacked, for example 500m [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = human::size_argument)]
    pub max_context_size: Option<u64>,
    /// How long a web or Git server may send nothing before it is given up
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5m")]
    pub stall_timeout: Duration,
}

/// A time in which something can arrive.
fn time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() {
        return Err("nothing arrives in no time".to_owned());
    }
    Ok(time)
}
