//! Values as the Go programs read them whose flags and instructions take them: `encoding/csv`, `strconv.ParseBool`.

/// A record of csv is malformed; in Go's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// There is nothing.
    #[error("EOF")]
    Empty,
    /// A quote in a field that does not begin with one.
    #[error("bare \" in non-quoted-field")]
    BareQuote,
    /// A quoted field without an end, or with text after it.
    #[error("extraneous or missing \" in quoted-field")]
    Quote,
}

/// The fields of one record of csv: a field that begins with a quote ends with one and writes a quote as two.
pub fn csv_fields(record: &str) -> Result<Vec<String>, CsvError> {
    if record.is_empty() {
        return Err(CsvError::Empty);
    }
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let (field, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if field.contains('"') {
                    return Err(CsvError::BareQuote);
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(fields),
            None => return Err(CsvError::Quote),
        }
    }
}

/// The field of which `rest` has what comes after the first quote, and what comes after the last one.
fn quoted_field(mut rest: &str) -> Result<(String, &str), CsvError> {
    let mut field = String::new();
    loop {
        let (text, after) = rest.split_once('"').ok_or(CsvError::Quote)?;
        field.push_str(text);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, after)),
        }
    }
}

/// Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_go_reads_them() {
        for (record, fields) in [
            ("a", &["a"][..]),
            ("a,b=c,", &["a", "b=c", ""]),
            (",", &["", ""]),
            (r#""a,b",c"#, &["a,b", "c"]),
            (r#""say ""yes""","""""#, &[r#"say "yes""#, r#"""#]),
            (r#""""#, &[""]),
        ] {
            assert_eq!(csv_fields(record).unwrap(), fields, "{record}");
        }
        for (record, error) in [
            ("", CsvError::Empty),
            (r#"a"b"#, CsvError::BareQuote),
            (r#"a,b"c",d"#, CsvError::BareQuote),
            (r#"""#, CsvError::Quote),
            (r#""a"#, CsvError::Quote),
            (r#""a"b,c"#, CsvError::Quote),
        ] {
            assert_eq!(csv_fields(record), Err(error), "{record}");
        }
    }
}
