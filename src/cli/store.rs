//! `rbuild store check`: is the store what it was?

use std::process::ExitCode;

use rbuild_cache::{CheckOptions, CheckReport, DamageKind};

use super::context::{note, print};
use super::{Context, human, trees};

/// `rbuild store check`. Exit status: 0 whole, 1 damage, 2 damage that was repaired, 3 the store cannot be opened or read.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Clones of Git repositories are not looked at: git checks what it reads of them, and a damaged one is made anew.\n\n\
                  Exit status: 0 nothing is damaged, 1 something is, 2 all damage was repaired, 3 the store cannot be \
                  opened or read."
)]
pub struct CheckArgs {
    /// Also read all bytes and compare their digests
    #[arg(long)]
    read_data: bool,
    /// Remove what is damaged, so that it is made again
    #[arg(long)]
    repair: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn check(args: &CheckArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let report = match look(args, context) {
        Ok(report) => report,
        Err(error) => {
            note(&format!("error: {error:#}"));
            return Ok(ExitCode::from(3));
        }
    };
    if args.json {
        print(serde_json::to_string_pretty(&report)? + "\n")?;
    } else {
        print(text(&report, args.read_data))?;
    }
    Ok(match (report.is_damaged(), report.is_damaged_still()) {
        (false, _) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(2),
        (true, true) => ExitCode::from(1),
    })
}

fn look(args: &CheckArgs, context: &Context) -> anyhow::Result<CheckReport> {
    let store = context.store()?;
    let _inside = trees::enter(&store)?;
    Ok(store.check(CheckOptions {
        read_data: args.read_data,
        repair: args.repair,
    })?)
}

fn text(report: &CheckReport, read: bool) -> String {
    let mut out = String::new();
    for damage in &report.damages {
        let what = match damage.kind {
            DamageKind::Stray => "left",
            DamageKind::Image => "image",
            _ => "damaged",
        };
        let repaired = match (damage.repaired, damage.kind) {
            (false, _) => "",
            (true, DamageKind::Image) => "; its names were removed",
            (true, _) => "; repaired",
        };
        out.push_str(&format!("{what}: {}: {}{repaired}\n", damage.path, damage.reason));
    }
    let count = |kind: fn(&DamageKind) -> bool| report.damages.iter().filter(|it| kind(&it.kind)).count();
    let damaged = count(|kind| *kind != DamageKind::Stray);
    out.push_str(&format!(
        "{} images, {} layers, {} blobs and {} records looked at",
        report.images, report.layers, report.blobs, report.records
    ));
    if read {
        out.push_str(&format!(", {} read", human::size(report.bytes_read)));
    }
    out.push_str(&match damaged {
        0 => ": nothing is damaged\n".to_owned(),
        1 => ": one thing is damaged\n".to_owned(),
        number => format!(": {number} things are damaged\n"),
    });
    if report.is_damaged_still() {
        out.push_str("to remove what is damaged, so that it is made again: rbuild store check --repair");
        out.push_str(if read { " --read-data\n" } else { "\n" });
    }
    out
}
