//! Here-documents (spec 1.6): finding their openers in a line. Their bodies are read by the parser of the file.

use crate::expand::shell_words;

/// What `<<-"EOF"` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opener {
    /// Delimiter after quote removal.
    pub name: String,
    /// Digits before `<<`.
    pub fd: String,
    /// Nothing of the delimiter was quoted.
    pub expand: bool,
    /// `<<-`.
    pub strip_tabs: bool,
    /// As written.
    pub text: String,
}

impl Opener {
    /// Takes a shell word apart that may be an opener (L51, L52).
    pub(crate) fn parse(word: &str) -> Option<Self> {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (fd, rest) = word.split_at(digits);
        let rest = rest.strip_prefix("<<")?;
        let (strip_tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let delimiter = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
        if delimiter.is_empty() || delimiter.contains('<') {
            return None;
        }
        let [name] = <[String; 1]>::try_from(shell_words(delimiter, false, false)?).ok()?;
        let [raw] = <[String; 1]>::try_from(shell_words(delimiter, true, false)?).ok()?;
        let quotes = |text: &str| text.bytes().filter(|byte| matches!(byte, b'\'' | b'"')).count();
        let expand = quotes(&name) == quotes(&raw);
        Some(Self {
            name,
            fd: fd.to_owned(),
            expand,
            strip_tabs,
            text: word.to_owned(),
        })
    }
}

/// The openers of a line, in order. Text that is no proper shell has none. The escape character is a backslash whatever
/// the directive says (L57).
pub(crate) fn openers(line: &str) -> Vec<Opener> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let words = shell_words(line, true, true).unwrap_or_default();
    words.iter().filter_map(|word| Opener::parse(word)).collect()
}

/// A body without the tabs at the start of its lines (L55).
pub(crate) fn strip_tabs(body: &str) -> String {
    body.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l51_l52_openers() {
        for (line, expected) in [
            ("RUN <<EOF", &["EOF/true/false"][..]),
            ("RUN <<-EOF cat", &["EOF/true/true"]),
            (
                "RUN <<'EOF' <<\"B\" <<G\"H\"",
                &["EOF/false/false", "B/false/false", "GH/false/false"],
            ),
            ("RUN << EOF", &["EOF/true/false"]),
            ("RUN cat 3<<A && cat <<B", &["A/true/false", "B/true/false"]),
            ("RUN <<$EOF", &["$EOF/true/false"]),
            ("RUN <<E\\OF", &["EOF/true/false"]),
            ("RUN <<'one two'", &["one two/false/false"]),
            ("RUN cat <<<foo", &[]),
            ("RUN echo $((1<<3))", &[]),
            ("RUN echo $((1 << 3)) > /y", &["3))/true/false"]),
            ("RUN echo \"a <<b\" '<<c'", &[]),
            ("RUN <<\"\"", &[]),
            ("RUN echo it's <<EOF", &[]),
            ("RUN a<<EOF", &[]),
            ("RUN <<EOF>x", &["EOF>x/true/false"]),
        ] {
            let found: Vec<String> = openers(line)
                .iter()
                .map(|it| format!("{}/{}/{}", it.name, it.expand, it.strip_tabs))
                .collect();
            assert_eq!(found, expected, "{line}");
        }
        assert_eq!(
            Opener::parse("12<<X").map(|opener| opener.fd).as_deref(),
            Some("12")
        );
    }

    #[test]
    fn l55_tabs() {
        assert_eq!(strip_tabs("\t\ta\tb\r\n\t\n \tc"), "a\tb\r\n\n \tc");
    }
}
