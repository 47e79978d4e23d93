//! The functions that templates may use.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Result, fail};

pub(super) const FUNCTIONS: [&str; 23] = [
    "json", "join", "split", "lower", "upper", "title", "truncate", "pad", "println", "print", "len",
    "index", "slice", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "printf",
];

pub(super) fn call(name: &str, arguments: Vec<Value>) -> Result<Value> {
    let wrong = || fail(format!("wrong arguments for {name}"));
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
    Ok(match (name, arguments.as_slice()) {
        ("json", [value]) => value.to_string().into(),
        ("join", [Value::Array(list), separator]) => list
            .iter()
            .map(print)
            .collect::<Vec<_>>()
            .join(&text(separator)?)
            .into(),
        ("split", [value, separator]) => text(value)?
            .split(text(separator)?.as_str())
            .map(Value::from)
            .collect::<Vec<_>>()
            .into(),
        ("lower", [value]) => text(value)?.to_lowercase().into(),
        ("upper", [value]) => text(value)?.to_uppercase().into(),
        ("title", [value]) => title(&text(value)?).into(),
        ("truncate", [value, length]) => {
            let length = length
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(wrong)?;
            text(value)?.chars().take(length).collect::<String>().into()
        }
        ("pad", [value, left, right]) => {
            let blanks = |n: &Value| {
                n.as_u64()
                    .filter(|n| *n < 10_000)
                    .and_then(|n| usize::try_from(n).ok())
            };
            let (left, right) = (blanks(left).ok_or_else(wrong)?, blanks(right).ok_or_else(wrong)?);
            format!("{}{}{}", " ".repeat(left), text(value)?, " ".repeat(right)).into()
        }
        ("println", values) => format!("{}\n", values.iter().map(print).collect::<Vec<_>>().join(" ")).into(),
        ("print", values) => values.iter().map(print).collect::<String>().into(),
        ("len", [Value::String(text)]) => text.len().into(),
        ("len", [Value::Array(list)]) => list.len().into(),
        ("len", [Value::Object(map)]) => map.len().into(),
        ("len", [Value::Null]) => 0.into(),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("eq", [first, rest @ ..]) if !rest.is_empty() => rest.contains(first).into(),
        ("ne", [a, b]) => (a != b).into(),
        ("not", [value]) => (!truth(value)).into(),
        ("and", [.., last]) => arguments.iter().find(|v| !truth(v)).unwrap_or(last).clone(),
        ("or", [.., last]) => arguments.iter().find(|v| truth(v)).unwrap_or(last).clone(),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = compare(a, b).ok_or_else(wrong)?;
            match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        ("slice", [value, bounds @ ..]) if bounds.len() <= 2 => slice(value, bounds).ok_or_else(wrong)?,
        ("printf", [Value::String(format), values @ ..]) => formatted(format, values)?.into(),
        _ => return Err(wrong()),
    })
}

fn index(value: &Value, keys: &[Value]) -> Result<Value> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            // As in Go: a key that a map does not have gives the zero value.
            (Value::Object(map), Value::String(key)) => map.get(key).cloned().unwrap_or_else(|| "".into()),
            (Value::Array(list), Value::Number(at)) => {
                let item = at.as_u64().and_then(|at| list.get(usize::try_from(at).ok()?));
                item.cloned()
                    .ok_or_else(|| fail(format!("error calling index: index out of range: {at}")))?
            }
            (Value::Null, _) => return Err(fail("error calling index: index of nil pointer")),
            _ => return Err(fail("error calling index: can't index this value")),
        };
    }
    Ok(value)
}

fn title(text: &str) -> String {
    let mut start = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = !c.is_alphanumeric() && c != '_' && c != '\'';
    }
    out
}

pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        _ => None,
    }
}

/// Part of a text, by bytes, or of a list.
fn slice(value: &Value, bounds: &[Value]) -> Option<Value> {
    let bound = |at: usize| match bounds.get(at) {
        None => Some(None),
        Some(bound) => usize::try_from(bound.as_u64()?).ok().map(Some),
    };
    let (from, to) = (bound(0)?.unwrap_or(0), bound(1)?);
    match value {
        Value::String(text) => Some(text.get(from..to.unwrap_or(text.len()))?.into()),
        Value::Array(list) => Some(list.get(from..to.unwrap_or(list.len()))?.to_vec().into()),
        _ => None,
    }
}

/// Go's `fmt.Sprintf` with the verbs `%s %v %q %d %x %t %%`, a width and the flags `-` and `0`.
fn formatted(format: &str, values: &[Value]) -> Result<String> {
    let mut values = values.iter();
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let flags = after.len() - after.trim_start_matches(['-', '0']).len();
        let digits = after[flags..].bytes().take_while(u8::is_ascii_digit).count();
        let (flags, width) = (&after[..flags], &after[flags..flags + digits]);
        let verb = after[flags.len() + digits..].chars().next();
        let verb = verb.ok_or_else(|| fail(format!("printf: {format:?} ends in the middle of a verb")))?;
        rest = &after[flags.len() + digits + verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next();
        let value = value.ok_or_else(|| fail(format!("printf: {format:?} wants more values")))?;
        let wrong = || fail(format!("printf: %{verb} of {}", print(value)));
        let text = match (verb, value) {
            ('v' | 's', value) => print(value),
            ('q', Value::String(text)) => format!("{text:?}"),
            ('d', Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
            ('x', Value::Number(number)) => format!("{:x}", number.as_u64().ok_or_else(wrong)?),
            ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('t', Value::Bool(truth)) => truth.to_string(),
            ('q' | 'd' | 'x' | 't', _) => return Err(wrong()),
            _ => return Err(fail(format!("printf: the verb %{verb} is not supported"))),
        };
        let width: usize = match width {
            "" => 0,
            digits => digits
                .parse()
                .ok()
                .filter(|width| *width < 10_000)
                .ok_or_else(wrong)?,
        };
        let blanks = width.saturating_sub(text.chars().count());
        if flags.contains('-') {
            out.push_str(&text);
            out.push_str(&" ".repeat(blanks));
        } else {
            let filler = if flags.contains('0') { "0" } else { " " };
            out.push_str(&filler.repeat(blanks));
            out.push_str(&text);
        }
    }
    if values.next().is_some() {
        return Err(fail(format!("printf: {format:?} wants fewer values")));
    }
    Ok(out + rest)
}

/// As Go's `fmt.Print` shows the value.
pub(super) fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{}", print(v))).collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}
