//! rbuild as the first process of a container.
//!
//! Whatever loses its parent there becomes a child of process 1, which has to wait for it. The builder waits for its own
//! children only, so process 1 stays behind as a small one that waits for all and hands signals on.

use std::io;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use crate::sys;

/// What is handed on to the builder.
const HANDED_ON: [Signal; 6] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// Goes on in a child when this is process 1; the process itself never returns. Call before any thread starts.
pub fn stand_behind() -> io::Result<()> {
    if rustix::process::getpid() != Pid::INIT {
        return Ok(());
    }
    let numbers: Vec<i32> = HANDED_ON
        .into_iter()
        .chain([Signal::CHILD])
        .map(Signal::as_raw)
        .collect();
    let signals = sys::signals_as_descriptor(&numbers)?;
    let Some(builder) = sys::fork()? else {
        drop(signals);
        return sys::unblock(&numbers);
    };
    loop {
        if let Ok((number, from_terminal)) = sys::read_signal_and_origin(&signals) {
            // What the terminal sends, it sends to the builder as well.
            let handed = HANDED_ON.into_iter().find(|signal| signal.as_raw() == number);
            if let (Some(signal), false) = (handed, from_terminal) {
                let _ = kill_process(builder, signal);
            }
        }
        while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
            if ended != builder {
                continue;
            }
            let killed = status.terminating_signal().map(|signal| 128 + signal);
            sys::exit_now(status.exit_status().or(killed).unwrap_or(1))
        }
    }
}
