//! Asks before something is removed.

use std::io::{IsTerminal as _, Write as _};

use anyhow::bail;

/// The flag of all commands that ask.
#[derive(Debug, clap::Args)]
pub struct Confirmation {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Confirmation {
    /// Whether the user wants `what` to be removed. Nobody to ask is an error.
    pub fn given(&self, what: &str) -> anyhow::Result<bool> {
        Ok(self.force || asked(what)?)
    }
}

fn asked(what: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("this will remove {what}: give --force to do so without being asked");
    }
    let mut stderr = std::io::stderr().lock();
    write!(
        stderr,
        "WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] "
    )?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
