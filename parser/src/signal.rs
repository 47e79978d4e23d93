//! Operand of STOPSIGNAL after expansion (spec E6).

/// No such signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: {0}")]
pub struct SignalError(String);

/// Whether `text` is a signal: a number other than 0, or a name with or without `SIG` in any case.
pub fn check_signal(text: &str) -> Result<(), SignalError> {
    Err(SignalError(text.into()))
}
