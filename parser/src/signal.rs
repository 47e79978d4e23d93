//! Operand of STOPSIGNAL after expansion (spec E6).

/// No such signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: {0}")]
pub struct SignalError(String);

/// Names without `SIG`; the real-time ones are [`is_real_time`].
const NAMES: [&str; 37] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX", "UNUSED",
];

/// Whether `text` is a signal: a number other than 0, or a name with or without `SIG` in any case.
pub fn check_signal(text: &str) -> Result<(), SignalError> {
    let known = match text.parse::<i64>() {
        Ok(number) => number != 0,
        Err(_) => {
            let upper = text.to_ascii_uppercase();
            let name = upper.strip_prefix("SIG").unwrap_or(&upper);
            NAMES.contains(&name) || is_real_time(name)
        }
    };
    if known {
        Ok(())
    } else {
        Err(SignalError(text.to_owned()))
    }
}

/// `RTMIN+1` to `RTMIN+15` and `RTMAX-1` to `RTMAX-14`.
fn is_real_time(name: &str) -> bool {
    let offset = |text: &str, most: u8| {
        !text.starts_with(['0', '+'])
            && text
                .parse::<u8>()
                .is_ok_and(|offset| (1..=most).contains(&offset))
    };
    name.strip_prefix("RTMIN+").is_some_and(|text| offset(text, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|text| offset(text, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e6_signals() {
        for good in [
            "9",
            "SIGTERM",
            "term",
            "sigKill",
            "SIGRTMIN+3",
            "RTMAX-14",
            "rtmin",
            "65",
        ] {
            assert_eq!(check_signal(good), Ok(()), "{good}");
        }
        for bad in [
            "0",
            "",
            "FOO",
            "SIG",
            "SIGSIGTERM",
            "SIGRTMIN+16",
            "RTMIN+0",
            "RTMIN+01",
            "9x",
            "TERM ",
        ] {
            assert_eq!(
                check_signal(bad).map_err(|error| error.to_string()),
                Err(format!("invalid signal: {bad}"))
            );
        }
    }
}
