//! The little JSON that a Dockerfile has: arrays of strings (spec L40 to L47).
//!
//! The grammar is strict and the walk is not recursive: depth costs heap, never stack.

/// What a text is, taken as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonArray {
    /// Not a JSON array: the text is in shell form.
    No,
    /// An array of strings.
    Strings(Vec<String>),
    /// An array that has something else in it.
    Mixed,
}

/// Reads the whole of `text` as an array.
pub(crate) fn parse_array(text: &str) -> JsonArray {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return JsonArray::No;
    }
    let mut scanner = Scanner {
        text: text.as_bytes(),
        position: 0,
    };
    let mut strings = Vec::new();
    let mut mixed = false;
    let valid = scanner.container(&mut |depth, item| {
        if depth == 1 {
            match item {
                Item::String(string) => strings.push(string),
                Item::Other => mixed = true,
                Item::Key(_) => {}
            }
        }
    });
    match (valid, mixed) {
        (None, _) => JsonArray::No,
        (Some(()), true) => JsonArray::Mixed,
        (Some(()), false) => JsonArray::Strings(strings),
    }
}

/// The string that the member `name` of the object `text` has (spec L16).
pub(crate) fn string_member(text: &str, name: &str) -> Option<String> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut scanner = Scanner {
        text: text.as_bytes(),
        position: 0,
    };
    let mut here = false;
    let mut found = None;
    scanner.container(&mut |depth, item| match item {
        _ if depth != 1 => {}
        Item::Key(key) => here = key == name,
        Item::String(string) if here => found = Some(string),
        _ => {}
    })?;
    found
}

/// What [`Scanner::container`] meets.
enum Item {
    Key(String),
    String(String),
    Other,
}

struct Scanner<'a> {
    text: &'a [u8],
    position: usize,
}

impl Scanner<'_> {
    /// One array or object that is the whole text; `visit` gets the depth of each item. `None`: not valid.
    fn container(&mut self, visit: &mut dyn FnMut(usize, Item)) -> Option<()> {
        let mut closers = Vec::new();
        loop {
            // A value begins here.
            self.blanks();
            match self.peek()? {
                open @ (b'[' | b'{') => {
                    visit(closers.len(), Item::Other);
                    self.position += 1;
                    let closer = if open == b'[' { b']' } else { b'}' };
                    self.blanks();
                    if self.peek()? == closer {
                        self.position += 1;
                    } else {
                        closers.push(closer);
                        if open == b'{' {
                            self.key(closers.len(), visit)?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    let string = self.string()?;
                    visit(closers.len(), Item::String(string));
                }
                _ => {
                    self.scalar()?;
                    visit(closers.len(), Item::Other);
                }
            }
            // A value has ended here.
            loop {
                self.blanks();
                let Some(&closer) = closers.last() else {
                    return (self.position == self.text.len()).then_some(());
                };
                match self.peek()? {
                    b',' => {
                        self.position += 1;
                        if closer == b'}' {
                            self.blanks();
                            self.key(closers.len(), visit)?;
                        }
                        break;
                    }
                    byte if byte == closer => {
                        self.position += 1;
                        closers.pop();
                    }
                    _ => return None,
                }
            }
        }
    }

    /// `"name" :`.
    fn key(&mut self, depth: usize, visit: &mut dyn FnMut(usize, Item)) -> Option<()> {
        let key = self.string()?;
        visit(depth, Item::Key(key));
        self.blanks();
        self.expect(b':')
    }

    fn string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut out = Vec::new();
        loop {
            let byte = self.peek()?;
            self.position += 1;
            match byte {
                b'"' => return String::from_utf8(out).ok(),
                b'\\' => {
                    let escape = self.peek()?;
                    self.position += 1;
                    out.push(match escape {
                        b'"' | b'\\' | b'/' => escape,
                        b'b' => 0x08,
                        b'f' => 0x0c,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'u' => {
                            let scalar = self.unicode()?;
                            out.extend_from_slice(scalar.encode_utf8(&mut [0; 4]).as_bytes());
                            continue;
                        }
                        _ => return None,
                    });
                }
                0..0x20 => return None,
                _ => out.push(byte),
            }
        }
    }

    /// What follows `\u`; half of a surrogate pair becomes U+FFFD, as Go has it.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.position..].starts_with(b"\\u") {
            let back = self.position;
            self.position += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            }
            self.position = back;
        }
        Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.position..self.position + 4)?;
        self.position += 4;
        digits.iter().try_fold(0, |value, digit| {
            Some(value * 16 + char::from(*digit).to_digit(16)?)
        })
    }

    /// `true`, `false`, `null` or a number.
    fn scalar(&mut self) -> Option<()> {
        for word in ["true", "false", "null"] {
            if self.text[self.position..].starts_with(word.as_bytes()) {
                self.position += word.len();
                return Some(());
            }
        }
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        if self.peek()? == b'0' {
            self.position += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.position += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.position;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.position += 1;
        }
        (self.position > start).then_some(())
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.position += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.position += 1)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays() {
        let strings =
            |words: &[&str]| JsonArray::Strings(words.iter().map(|word| (*word).to_owned()).collect());
        for (text, expected) in [
            // L40
            (r#"["a", "b"]"#, strings(&["a", "b"])),
            (r#"  [ "a"	,"b" ]  "#, strings(&["a", "b"])),
            (r#"["a"] b"#, JsonArray::No),
            ("['a']", JsonArray::No),
            (r#"["c:\windows"]"#, JsonArray::No),
            (r#"["a""#, JsonArray::No),
            (r#"["a",]"#, JsonArray::No),
            (r#"[,"a"]"#, JsonArray::No),
            (r#"["a" "b"]"#, JsonArray::No),
            ("echo", JsonArray::No),
            ("[", JsonArray::No),
            ("[ -f x ] && y", JsonArray::No),
            ("[01]", JsonArray::No),
            ("[\"a\nb\"]", JsonArray::No),
            // L41
            ("[1, 2]", JsonArray::Mixed),
            (r#"["a", null, true]"#, JsonArray::Mixed),
            (r#"["a", -1.5e+3, {"k": ["v", {}]}]"#, JsonArray::Mixed),
            (r#"[["a"]]"#, JsonArray::Mixed),
            ("[[]]", JsonArray::Mixed),
            (r#"[{"k"}]"#, JsonArray::No),
            // L42
            ("[]", strings(&[])),
            ("[ ]", strings(&[])),
            // L47
            (
                r#"["\u0041\u00e9\ud83d\ude00\/\\\"\n\u0000"]"#,
                strings(&["Aé😀/\\\"\n\0"]),
            ),
            (r#"["\ud83dx\udc00"]"#, strings(&["\u{fffd}x\u{fffd}"])),
            (r#"["\ud83d\u0041"]"#, strings(&["\u{fffd}A"])),
            (r#"["\x"]"#, JsonArray::No),
        ] {
            assert_eq!(parse_array(text), expected, "{text}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(parse_array(&deep), JsonArray::Mixed);
        assert_eq!(parse_array(&"[".repeat(1 << 20)), JsonArray::No);
    }

    #[test]
    fn members() {
        assert_eq!(
            string_member(r#"{"a": {"syntax": "no"}, "syntax": "x/y:1"}"#, "syntax").as_deref(),
            Some("x/y:1")
        );
        assert_eq!(string_member(r#"{"syntax": 1}"#, "syntax"), None);
        assert_eq!(string_member("FROM scratch", "syntax"), None);
    }
}
