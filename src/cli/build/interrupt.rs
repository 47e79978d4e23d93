//! What a signal does to a build.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rbuild_executor::{Cancel, signals};

/// How long after the first signal rbuild waits for its steps and itself to end: the grace of a step
/// (`Cancel`) and a second to clean up.
const STOP_WITHIN: Duration = Duration::from_secs(11);

/// How long after a second signal.
const STOP_NOW: Duration = Duration::from_millis(500);

/// The number of the signal that ended the build, 0 for none.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

/// The signal that asked the build to stop.
pub fn signal() -> Option<i32> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        0 => None,
        signal => Some(signal),
    }
}

/// The first signal asks the steps to stop; the second one, or time, ends rbuild at once: whatever is
/// half done is in temporary files that the next build removes.
pub fn watch(signals: signals::Signals, cancel: Cancel) {
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        INTERRUPTED.store(signal, Ordering::Relaxed);
        cancel.cancel();
        std::thread::spawn(move || {
            std::thread::sleep(STOP_WITHIN);
            std::process::exit(128 + signal);
        });
        if let Ok(signal) = signals.wait() {
            cancel.cancel();
            std::thread::sleep(STOP_NOW);
            std::process::exit(128 + signal);
        }
    });
}
