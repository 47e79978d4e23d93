//! How BuildKit prints values in history entries and step names: Go's `%q` and `time.Duration`, and variables shown
//! by their values.

use rbuild_parser::instruction::Source;
use rbuild_parser::{Heredoc, Instruction, Spanned};

use super::env::Env;

/// Go's `%q` of a list: `["a" "b"]`.
pub(super) fn quoted_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Go's `%v` of a list: `[a b]`.
pub(super) fn plain_list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// Go's `strconv.Quote`.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            ' ' => out.push(c),
            _ if u32::from(c) < 0x80 && c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ if c.is_control() || c.is_whitespace() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Go's `time.Duration.String`: `1m30s`, `500ms`, `0s`.
pub(super) fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let text = match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(total, 1_000_000)),
        _ => {
            const SECOND: u64 = 1_000_000_000;
            let (hours, minutes) = (total / (3600 * SECOND), total / (60 * SECOND) % 60);
            let seconds = decimal(total % (60 * SECOND), SECOND);
            match (hours, minutes) {
                (0, 0) => format!("{seconds}s"),
                (0, _) => format!("{minutes}m{seconds}s"),
                _ => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// `value / unit`, exactly, without zeros at the end. `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// `text` with `$NAME` and `${NAME}` of variables that are set shown by their values; everything else, quotes too, as
/// it is written. What stands in single quotes is not touched.
pub(super) fn shown_with(env: &Env, text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut single = false;
    let mut double = false;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match c {
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            '\\' if !single => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
            '$' if !single => {
                let (name, length) = match rest[1..].strip_prefix('{') {
                    Some(inner) => (inner.split('}').next().unwrap_or_default(), 3),
                    None => (name_at(&rest[1..]), 1),
                };
                let closed = length == 1 || rest[2..].contains('}');
                if let Some(value) = env.get(name).filter(|_| closed && !name.is_empty()) {
                    out.push_str(value);
                    rest = &rest[name.len() + length..];
                    continue;
                }
            }
            _ => {}
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

fn name_at(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The instruction as it was written, in one line, with its heredocs below.
pub(super) fn with_heredocs<'a>(instruction: &'a Spanned<Instruction>) -> String {
    let of_sources = |sources: &'a [Source]| -> Vec<&'a Heredoc> {
        let heredoc = |source: &'a Source| match source {
            Source::Heredoc(heredoc) => Some(heredoc),
            Source::Path(_) => None,
        };
        sources.iter().filter_map(heredoc).collect()
    };
    let heredocs = match &instruction.value {
        Instruction::Run(run) => run.heredocs.iter().collect(),
        Instruction::Copy(copy) => of_sources(&copy.sources),
        Instruction::Add(add) => of_sources(&add.sources),
        _ => Vec::new(),
    };
    heredocs.iter().fold(instruction.text.clone(), |text, heredoc| {
        format!("{text}\n{}{}", heredoc.body, heredoc.name)
    })
}

/// Whether `text` has `$name` or `${name`.
pub(super) fn mentions(text: &str, name: &str) -> bool {
    text.split('$')
        .skip(1)
        .any(|rest| name_at(rest.trim_start_matches('{')) == name)
}

/// First line of a script, for a step's name.
pub(super) fn summary(script: &str) -> String {
    let mut lines = script.trim().lines();
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { "..." } else { "" };
    format!("{first}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_in_go() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (90_000_000_000, "1m30s"),
            (500_000_000, "500ms"),
            (7_200_000_000_000, "2h0m0s"),
            (1_500_000_000, "1.5s"),
            (1_500, "1.5µs"),
            (-1, "-1ns"),
            (3_600_000_000_001, "1h0m0.000000001s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
        let items = ["a b", "q\"\\", "\n\t\u{1}\u{7f}", "ü\u{a0}"].map(str::to_owned);
        assert_eq!(quoted_list(&items), r#"["a b" "q\"\\" "\n\t\x01\x7f" "ü\u00a0"]"#);
        assert_eq!(quoted_list(&[]), "[]");
    }

    #[test]
    fn variables_are_found_in_a_text() {
        for (text, found) in [
            ("COPY $A /", true),
            ("COPY x${A:-1} /", true),
            ("COPY $AB ${B}A /", false),
            ("COPY A /", false),
        ] {
            assert_eq!(mentions(text, "A"), found, "{text}");
        }
    }

    #[test]
    fn names_show_values() {
        let env = Env::from_entries(&["A=1".to_owned(), "B_2=x y".to_owned()]);
        for (text, shown) in [
            ("echo $A ${B_2} $C ${C}", "echo 1 x y $C ${C}"),
            ("'$A' \"$A\" \\$A", "'$A' \"1\" \\$A"),
            ("\"it's $A\"", "\"it's 1\""),
            ("$ ${A ${A:-x} $Aä é$A\\", "$ ${A ${A:-x} $Aä é1\\"),
        ] {
            assert_eq!(shown_with(&env, text), shown);
        }
    }
}
