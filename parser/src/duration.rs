//! Durations in Go's syntax, for HEALTHCHECK (spec 3.6).

/// Units, longest text first where one starts with another; in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `1h30m`, `1.5h`, `300ms`, `-1s`, `0` in nanoseconds; errors in Go's words.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_end = after
            .find(|scalar: char| scalar == '.' || scalar.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let Some((_, scale)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
        };
        let number = |digits: &str| {
            if digits.is_empty() {
                Some(0)
            } else {
                digits.parse::<i64>().ok().map(i128::from)
            }
        };
        // Digits beyond nanoseconds of an hour do not count.
        let fraction = &fraction[..fraction.len().min(15)];
        let power = (0..fraction.len()).fold(1, |power, _| power * 10);
        let part = number(whole).ok_or_else(invalid)? * i128::from(scale)
            + number(fraction).ok_or_else(invalid)? * i128::from(scale) / power;
        total += part;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        for (text, expected) in [
            ("300ms", Ok(300_000_000)),
            ("1.5h", Ok(5_400_000_000_000)),
            ("2h45m", Ok(9_900_000_000_000)),
            ("-1s", Ok(-1_000_000_000)),
            ("0", Ok(0)),
            (".5s", Ok(500_000_000)),
            ("1.s", Ok(1_000_000_000)),
            ("1µs2ns", Ok(1_002)),
            ("1", Err("time: missing unit in duration \"1\"")),
            ("x", Err("time: invalid duration \"x\"")),
            ("", Err("time: invalid duration \"\"")),
            ("1d", Err("time: unknown unit \"d\" in duration \"1d\"")),
            ("9999999h", Err("time: invalid duration \"9999999h\"")),
            (
                "99999999999999999999s",
                Err("time: invalid duration \"99999999999999999999s\""),
            ),
        ] {
            assert_eq!(parse(text), expected.map_err(str::to_owned), "{text}");
        }
    }
}
