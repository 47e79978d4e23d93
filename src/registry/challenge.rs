//! What does a registry want to see before it answers (RFC 9110 section 11.6.1)?

use std::collections::HashMap;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// What a registry wants to see before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password.
    Basic,
    /// A token of `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The challenge that can be answered, tokens before passwords.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let found: Vec<Self> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(Self::parse_all)
            .collect();
        found
            .iter()
            .find(|c| matches!(c, Self::Bearer { .. }))
            .or(found.first())
            .cloned()
    }

    /// The challenges of one header (RFC 9110 section 11.6.1) that this client knows.
    fn parse_all(text: &str) -> Vec<Self> {
        let mut found = Vec::new();
        let mut scheme = String::new();
        let mut parameters: HashMap<String, String> = HashMap::new();
        for (word, value) in tokens(text) {
            match value {
                Some(value) => {
                    parameters.insert(word, value);
                }
                None => {
                    found.extend(Self::from_parts(&scheme, std::mem::take(&mut parameters)));
                    scheme = word;
                }
            }
        }
        found.extend(Self::from_parts(&scheme, parameters));
        found
    }

    fn from_parts(scheme: &str, mut parameters: HashMap<String, String>) -> Option<Self> {
        match scheme {
            "basic" => Some(Self::Basic),
            "bearer" => Some(Self::Bearer {
                realm: parameters.remove("realm")?,
                service: parameters.remove("service"),
                scope: parameters.remove("scope").filter(|scope| !scope.is_empty()),
            }),
            _ => None,
        }
    }
}

/// The words of a challenge, in lower case, with their values; a scheme has none.
fn tokens(text: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let word = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start_matches([' ', '\t']);
        let value = rest.strip_prefix('=').map(|after| {
            let after = after.trim_start_matches([' ', '\t']);
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => unquote(quoted),
                None => {
                    let end = after.find([' ', '\t', ',']).unwrap_or(after.len());
                    (after[..end].to_owned(), &after[end..])
                }
            };
            rest = after;
            value
        });
        if !word.is_empty() {
            found.push((word, value));
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    found
}

/// A quoted string after its opening quote, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn challenges_are_understood() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (text, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                Some(bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                )),
            ),
            (r#"BASIC realm="x, y=z""#, Some(Challenge::Basic)),
            (
                r#"Basic realm="a", Bearer realm=https://b/t"#,
                Some(bearer("https://b/t", None, None)),
            ),
            (
                r#"Bearer service="a\"b" , realm="r""#,
                Some(bearer("r", Some("a\"b"), None)),
            ),
            ("Bearer", None),
            ("Negotiate", None),
            ("", None),
            (r#"Bearer realm="unclosed"#, Some(bearer("unclosed", None, None))),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
            assert_eq!(Challenge::from_headers(&headers), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_challenge_panics(text in "\\PC{0,60}") {
            Challenge::parse_all(&text);
        }
    }
}
