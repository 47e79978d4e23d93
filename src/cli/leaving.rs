//! What a signal does to commands that leave temporary files: they go, and the exit status names the signal.

use anyhow::Context as _;
use rbuild_executor::signals;

use super::context::note;

/// From here on SIGINT, SIGTERM and SIGHUP end the program in order. Call it before any other thread starts.
pub fn end_in_order() -> anyhow::Result<()> {
    let signals = signals::install().context("catching signals")?;
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            note("error: interrupted");
            rbuild_cache::abandon_temporary();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
