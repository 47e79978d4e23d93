//! The flags that say what of the cache a build may use, and whether it tells why it did not.

use std::time::Duration;

use crate::cli::human::parse_duration;

/// Flags of a build.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Do not use the cache; results are still kept in it
    #[arg(long)]
    pub no_cache: bool,
    /// Do not use the cache for these stages
    #[arg(
        long,
        value_name = "STAGE",
        value_delimiter = ',',
        conflicts_with = "no_cache"
    )]
    pub no_cache_filter: Vec<String>,
    /// Do not use results of steps that ran longer ago than this, for example 24h; 0 uses none
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    pub cache_ttl: Option<Duration>,
    /// Tell at the end, of each step that ran, why it did (also later: rbuild why)
    #[arg(long)]
    pub explain: bool,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let seconds = if text == "0" {
        Some(0)
    } else {
        parse_duration(text)
    };
    let seconds = seconds.ok_or_else(|| "write it like 24h, 90m or 1h30m".to_owned())?;
    Ok(Duration::from_secs(seconds))
}
