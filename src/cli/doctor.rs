//! `rbuild doctor`: what this machine offers to builds, which isolation would be taken, and what changes that.

use std::process::ExitCode;

use anyhow::Context as _;
use rbuild_executor::probe::{self, Finding, State, Tier};
use serde_json::json;

use super::Context;
use super::context::print;

/// `rbuild doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs the command: 0 when some isolation works, else 1.
pub fn run(args: DoctorArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let path = context.store_path()?;
    let store = context.store()?;
    let scratch = store.temp_dir()?;
    // A tier that an ordinary user enters has to reach what lies in it.
    let tiers = probe::tiers(scratch.path());
    let mut findings = probe::findings(scratch.path());
    findings.push(programs());
    let taken = tiers.iter().find(|tier| tier.result.is_ok());
    let text = match args.format {
        Format::Text => as_text(&path.display().to_string(), &tiers, taken, &findings),
        Format::Json => {
            let value = as_json(&path.display().to_string(), &tiers, taken, &findings);
            serde_json::to_string_pretty(&value).context("writing JSON")? + "\n"
        }
    };
    let works = taken.is_some();
    drop(scratch);
    print(text)?;
    Ok(if works {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Programs that builds use when they are there.
fn programs() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &&str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    let helpers = std::env::split_paths(&path)
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("docker-credential-"));
    let mut found: Vec<String> = ["git", "ssh", "ssh-agent"]
        .iter()
        .filter(|name| has(name))
        .map(ToString::to_string)
        .collect();
    let has_git = found.iter().any(|name| name == "git");
    found.extend(helpers);
    found.dedup();
    let listed = if found.is_empty() {
        "none".to_owned()
    } else {
        found.join(", ")
    };
    Finding {
        topic: "programs",
        state: if has_git { State::Good } else { State::Lacking },
        text: format!("of git, ssh and credential helpers there are: {listed}"),
        knob: (!has_git)
            .then(|| "contexts and ADD from repositories need git: apt-get install git".to_owned()),
    }
}

fn as_text(store: &str, tiers: &[Tier], taken: Option<&Tier>, findings: &[Finding]) -> String {
    let mut text = format!("rbuild {}, store {store}\n\n", env!("CARGO_PKG_VERSION"));
    text.push_str("Isolation, the preferred first:\n");
    for tier in tiers {
        let is_taken = taken.is_some_and(|taken| taken.isolation == tier.isolation);
        let (mark, said) = match &tier.result {
            Ok(line) => (if is_taken { "taken" } else { "works" }, line),
            Err(reason) => ("no", reason),
        };
        let name = tier.isolation.to_string();
        text.push_str(&format!("  {mark:<6} {name:<14} {said}\n"));
    }
    if taken.is_none() {
        text.push_str("  RUN cannot be run here; one of the lines above says what has to change.\n");
    }
    text.push_str("\nWhat was found:\n");
    for finding in findings {
        let mark = word(finding.state);
        text.push_str(&format!("  {mark:<6} {:<15} {}\n", finding.topic, finding.text));
        if let Some(knob) = &finding.knob {
            text.push_str(&format!("  {:<6} {:<15} -> {knob}\n", "", ""));
        }
    }
    text
}

fn word(state: State) -> &'static str {
    match state {
        State::Good => "ok",
        State::Lacking => "weak",
        State::Bad => "bad",
    }
}

fn as_json(store: &str, tiers: &[Tier], taken: Option<&Tier>, findings: &[Finding]) -> serde_json::Value {
    let tier = |tier: &Tier| {
        json!({
            "isolation": tier.isolation.to_string(),
            "works": tier.result.is_ok(),
            "text": match &tier.result { Ok(text) | Err(text) => text },
        })
    };
    let finding = |finding: &Finding| {
        json!({
            "topic": finding.topic,
            "state": word(finding.state),
            "text": finding.text,
            "knob": finding.knob,
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "store": store,
        "taken": taken.map(|tier| tier.isolation.to_string()),
        "tiers": tiers.iter().map(tier).collect::<Vec<_>>(),
        "findings": findings.iter().map(finding).collect::<Vec<_>>(),
    })
}
