//! `rbuild parse`: what a Dockerfile was understood to say.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use rbuild_parser::diagnostic::excerpt;

use super::Context;
use super::context::{note, print};

/// No Dockerfile is longer.
const LIMIT: u64 = 16 << 20;

/// `rbuild parse FILE`.
#[derive(Debug, clap::Args)]
pub struct ParseArgs {
    /// Print JSON; without it, the Dockerfile in a normal form
    #[arg(long)]
    json: bool,
    /// The Dockerfile; `-` for standard input
    #[arg(value_name = "FILE", default_value = "Dockerfile")]
    file: PathBuf,
}

/// Runs the command.
pub fn run(args: ParseArgs, _context: &Context) -> anyhow::Result<ExitCode> {
    let name = args.file.display().to_string();
    let doing = || format!("reading {name}");
    let mut text = Vec::new();
    if name == "-" {
        std::io::stdin()
            .lock()
            .take(LIMIT + 1)
            .read_to_end(&mut text)
            .with_context(doing)?;
    } else {
        let file = std::fs::File::open(&args.file).with_context(doing)?;
        file.take(LIMIT + 1).read_to_end(&mut text).with_context(doing)?;
    }
    ensure!(
        text.len() as u64 <= LIMIT,
        "reading {name}: it is larger than {LIMIT} bytes"
    );
    let dockerfile = match rbuild_parser::parse(&text) {
        Ok(dockerfile) => dockerfile,
        Err(diagnostics) => {
            let source = String::from_utf8_lossy(&text);
            for diagnostic in &diagnostics {
                let (start, end) = (diagnostic.span.start_line, diagnostic.span.end_line);
                note(&excerpt(&name, &source, start, end));
                note(&format!("error: {name}:{start}: {}", diagnostic.message));
                if let Some(help) = &diagnostic.help {
                    note(&format!("hint: {help}"));
                }
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in &dockerfile.warnings {
        note(&format!(
            "warning: {name}:{}: {}",
            warning.span.start_line, warning.message
        ));
    }
    print(if args.json {
        format!("{}\n", serde_json::to_string_pretty(&dockerfile)?)
    } else {
        dockerfile.to_string()
    })?;
    Ok(ExitCode::SUCCESS)
}
