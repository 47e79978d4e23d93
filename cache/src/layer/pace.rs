//! How eagerly a layer is compressed: beside other work, or because somebody waits for it.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

/// The weakest priority that there is: who has it gets what others leave.
const WEAKEST: i32 = 19;

const BESIDE: u8 = 0;
const HURRIED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Says of work that goes on beside other work how long it does. Shared by who works and who knows.
#[derive(Debug, Default)]
pub struct Pace(AtomicU8);

impl Pace {
    /// Nothing else has to be done any more: from now on somebody waits. What cannot be made faster on its way is given up.
    pub fn hurry(&self) {
        // What was given up stays so.
        let _ = self
            .0
            .compare_exchange(BESIDE, HURRIED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Nobody wants the result.
    pub fn give_up(&self) {
        self.0.store(GIVEN_UP, Ordering::Relaxed);
    }

    /// Whether the other work goes on.
    pub fn is_beside(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BESIDE
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) == GIVEN_UP
    }
}

/// Lets this thread, and those that it starts, have only the time of processors that nobody else wants. There is no way
/// back: raising a priority is not for everybody.
pub(super) fn step_back() {
    // Where that is not allowed, all are equal.
    let _ = rustix::process::nice(WEAKEST);
}

pub(super) fn given_up() -> io::Error {
    io::Error::other("it is not wanted any more")
}
