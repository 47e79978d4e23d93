//! Sizes, ages and tables in docker's words.

/// A size as `docker images` shows it: powers of 1000, three significant digits, `4.42MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be shown as 1000: it belongs to the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text}{}", UNITS[unit])
}

/// A size given by a user: `10GB`, `512m`, `1024`; powers of 1024 as docker's `RAMInBytes`.
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim_start();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if matches!(unit, "" | "b") => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * 1024f64.powi(power);
    // Beyond this a float has no single bytes any more; no disk is so large.
    (bytes.is_finite() && bytes < 9e18).then_some(bytes as u64)
}

/// [`parse_size`] for the value of a flag.
pub fn size_argument(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "write it like 500m or 10GB".to_owned())
}

/// How long `seconds` are, as docker says it: `3 weeks`.
pub fn duration(seconds: u64) -> String {
    let hours = (seconds + 1800) / 3600;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / 60),
        _ if hours <= 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago `created` was, `N/A` for the epoch and for times unknown.
pub fn age(created: Option<i64>, now: i64) -> String {
    match created {
        None | Some(0) => "N/A".to_owned(),
        Some(created) => format!(
            "{} ago",
            duration(u64::try_from(now.saturating_sub(created)).unwrap_or(0))
        ),
    }
}

/// A length of time given by a user as Go writes it: `24h`, `1h30m`, `10s`; in seconds.
pub fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let seconds = match &tail[..unit] {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(seconds)?)?;
        rest = &tail[unit..];
    }
    Some(total)
}

/// `text` with at most `width` characters: what is cut off is shown by `…`.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Rows in columns as docker's: three blanks between, columns at least ten wide, nothing after the last.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count() + 3)
            .max()
            .unwrap_or(0)
            .max(10)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{cell:<width$}", width = widths[column]));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_420_000, "4.42MB"),
            (77_800_000, "77.8MB"),
            (999_600, "1MB"),
            (123_456_789, "123MB"),
            (1_200_000_000, "1.2GB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        for (text, bytes) in [
            ("0", Some(0)),
            ("10GB", Some(10 << 30)),
            ("1.5m", Some(3 << 19)),
            ("x", None),
            ("1ib", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (90, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86400 * 3, "3 days"),
            (86400 * 21, "3 weeks"),
            (86400 * 100, "3 months"),
            (86400 * 800, "2 years"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
        assert_eq!(age(Some(0), 10), "N/A");
        assert_eq!(age(Some(100), 10), "Less than a second ago");
        assert_eq!(parse_duration("1h30m"), Some(5400));
        assert_eq!(parse_duration("5"), None);
    }

    #[test]
    fn long_texts_are_cut() {
        for (text, width, wanted) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("äöüx", 3, "äö…"),
            ("", 0, ""),
        ] {
            assert_eq!(ellipsis(text, width), wanted, "{text}");
        }
    }

    #[test]
    fn columns() {
        let rows = [
            vec!["A".to_owned(), "B".to_owned()],
            vec!["longer-than-ten".to_owned(), "x".to_owned()],
        ];
        assert_eq!(table(&rows), "A                 B\nlonger-than-ten   x\n");
    }
}
