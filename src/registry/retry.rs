//! When is a request sent again, and after how long? Full jitter, `Retry-After`, and an end.
//!
//! Attempts count from the last progress: a transfer that gets on goes on, however bad the line. One that does not ends
//! after [`BUDGET`] or [`ATTEMPTS`], whatever comes first. What will not get better is not tried again.

use std::time::{Duration, Instant};

use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

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

/// What `Retry-After` asks for, in seconds or until a date of the server's clock.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let wanted = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = text(DATE)
        .and_then(seconds)
        .unwrap_or_else(|| jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(
        (seconds(wanted)? - now).max(0).unsigned_abs(),
    ))
}

/// A date of HTTP in seconds since 1970.
pub(super) fn seconds(date: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    Some(parser.parse_timestamp(date).ok()?.as_second())
}

/// How long an operation may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as there is hope.
    Usual,
    /// Somebody else may be asked.
    Hasty,
    /// One attempt.
    None,
}

impl Patience {
    /// How such an operation waits between its attempts.
    pub(super) fn backoff(self) -> Backoff {
        match self {
            Self::Usual => Backoff::new(),
            Self::Hasty => Backoff {
                deadline: Instant::now() + HASTY_BUDGET,
                ..Backoff::with_attempts(2)
            },
            Self::None => Backoff::with_attempts(1),
        }
    }
}

/// How one operation waits between its attempts.
pub(super) struct Backoff {
    failures: u32,
    /// Of these the last ones, when nobody was there.
    unreachable: u32,
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
            unreachable: 0,
            limit,
            deadline: Instant::now() + BUDGET,
        }
    }

    /// Something was achieved.
    pub(super) fn progressed(&mut self) {
        *self = Self::with_attempts(self.limit);
    }

    /// How long to wait before the next attempt; gives the error back when there is none.
    pub(super) fn pause(&mut self, failure: Failure) -> Result<Duration, RegistryError> {
        self.failures += 1;
        let wanted = match failure.retry {
            Retry::No => return Err(*failure.error),
            Retry::Connect => {
                self.unreachable += 1;
                None
            }
            Retry::After(wanted) => {
                self.unreachable = 0;
                wanted
            }
        };
        let step = FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(self.failures - 1))
            .min(LONGEST_PAUSE);
        // Clients that failed together do not come back together.
        let mut random = [0_u8; 2];
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
        let jitter = step * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX);
        let pause = wanted.unwrap_or_default() + jitter;
        let is_over = self.failures >= self.limit || self.unreachable >= CONNECT_ATTEMPTS;
        if is_over || Instant::now() + pause > self.deadline {
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
        // Who answered in between is there.
        let mut backoff = Backoff::new();
        for retry in [Retry::Connect, Retry::After(None), Retry::Connect] {
            assert!(backoff.pause(failure(retry)).is_ok());
        }
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
    fn a_wish_is_in_seconds_or_a_date() {
        let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(100))
            .strftime("%a, %d %b %Y %H:%M:%S GMT");
        let soon = soon.to_string();
        for (wish, now, least, most) in [
            ("7", None, 7, 7),
            (" 0 ", None, 0, 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None, 0, 0),
            (
                "Sun, 06 Nov 1994 08:49:37 GMT",
                Some("Sun, 06 Nov 1994 08:49:07 GMT"),
                30,
                30,
            ),
            (soon.as_str(), None, 90, 100),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(wish).unwrap());
            if let Some(now) = now {
                headers.insert(DATE, HeaderValue::from_str(now).unwrap());
            }
            let wanted = retry_after(&headers).unwrap().as_secs();
            assert!((least..=most).contains(&wanted), "{wish}: {wanted}");
        }
        for wish in ["soon", "-1", "1.5", ""] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(wish).unwrap());
            assert_eq!(retry_after(&headers), None, "{wish}");
        }
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn midway_nobody_is_gone_for_good() {
        assert_eq!(failure(Retry::Connect).midway().retry, Retry::After(None));
        assert_eq!(failure(Retry::No).midway().retry, Retry::No);
    }
}
