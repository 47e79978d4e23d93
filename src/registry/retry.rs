//! When is a request sent again, and after how long? Full jitter, `Retry-After`, and an end.
//!
//! Attempts count from the last progress: a transfer that gets on goes on, however bad the line. One that does not ends
//! after [`BUDGET`] or [`ATTEMPTS`], whatever comes first. What will not get better is not tried again.

use std::time::{Duration, Instant};

use super::error::RegistryError;

/// As long as this a registry may keep failing.
const BUDGET: Duration = Duration::from_secs(300);
/// As long as this, when others can be asked.
const HASTY_BUDGET: Duration = Duration::from_secs(2);
/// As often as this: with the pauses below, it is half a minute or a minute.
const ATTEMPTS: u32 = 16;
/// A host that refuses or has no address is hardly there a second later.
const CONNECT_ATTEMPTS: u32 = 2;
/// The longest first pause; each later one may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A failed attempt.
pub(super) struct Failure {
    pub(super) error: Box<RegistryError>,
    pub(super) retry: Retry,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It will not get better.
    No,
    /// Nobody is there.
    Connect,
    /// The network or the registry failed; the registry may have said how long to wait.
    After(Option<Duration>),
}

impl Failure {
    pub(super) fn new(error: RegistryError, retry: Retry) -> Self {
        Self {
            error: Box::new(error),
            retry,
        }
    }

    /// In the middle of a transfer: who was there just now is likely to come back.
    pub(super) fn midway(self) -> Self {
        let retry = match self.retry {
            Retry::Connect => Retry::After(None),
            retry => retry,
        };
        Self { retry, ..self }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::new(error, Retry::No)
    }
}

/// How one operation waits between its attempts.
pub(super) struct Backoff {
    failures: u32,
    limit: u32,
    deadline: Instant,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self::with_attempts(ATTEMPTS)
    }

    /// For servers that owe nobody an answer.
    pub(super) fn with_attempts(limit: u32) -> Self {
        Self {
            failures: 0,
            limit,
            deadline: Instant::now() + BUDGET,
        }
    }

    /// For one of several that may have something.
    pub(super) fn hasty() -> Self {
        Self {
            failures: 0,
            limit: 2,
            deadline: Instant::now() + HASTY_BUDGET,
        }
    }

    /// Something was achieved.
    pub(super) fn progressed(&mut self) {
        *self = Self::with_attempts(self.limit);
    }

    /// How long to wait before the next attempt; gives the error back when there is none.
    pub(super) fn pause(&mut self, failure: Failure) -> Result<Duration, RegistryError> {
        self.failures += 1;
        let (limit, wanted) = match failure.retry {
            Retry::No => return Err(*failure.error),
            Retry::Connect => (CONNECT_ATTEMPTS, None),
            Retry::After(wanted) => (self.limit, wanted),
        };
        let step = FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(self.failures - 1))
            .min(LONGEST_PAUSE);
        // Clients that failed together do not come back together.
        let mut random = [0_u8; 2];
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
        let jitter = step * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX);
        let pause = wanted.unwrap_or_default() + jitter;
        if self.failures >= limit || Instant::now() + pause > self.deadline {
            return Err(*failure.error);
        }
        Ok(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(retry: Retry) -> Failure {
        Failure::new(RegistryError::Start(String::new()), retry)
    }

    #[test]
    fn retries_end() {
        assert!(Backoff::new().pause(failure(Retry::No)).is_err());
        let mut backoff = Backoff::new();
        assert!(backoff.pause(failure(Retry::Connect)).is_ok());
        assert!(backoff.pause(failure(Retry::Connect)).is_err());
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.pause(failure(Retry::After(None))).ok()).collect();
        assert_eq!(pauses.len(), ATTEMPTS as usize - 1);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE), "{pauses:?}");
        assert!(
            pauses.iter().sum::<Duration>() > Duration::from_secs(5),
            "{pauses:?}"
        );
        backoff.progressed();
        assert!(backoff.pause(failure(Retry::After(None))).is_ok());
    }

    #[test]
    fn a_registry_says_how_long_within_reason() {
        let after = |seconds| failure(Retry::After(Some(Duration::from_secs(seconds))));
        assert!(Backoff::new().pause(after(7)).unwrap() >= Duration::from_secs(7));
        assert!(Backoff::new().pause(after(3600)).is_err());
    }

    #[test]
    fn midway_nobody_is_gone_for_good() {
        assert_eq!(failure(Retry::Connect).midway().retry, Retry::After(None));
        assert_eq!(failure(Retry::No).midway().retry, Retry::No);
    }
}
