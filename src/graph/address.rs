//! Addresses of web servers and repositories: what of them may be shown, and how a file of one is called.

use std::borrow::Cow;

/// What stands for a user name or a password.
const MASK: &str = "xxxxx";

/// The name of a file whose address has none (BuildKit's).
const UNNAMED: &str = "__unnamed__";

/// An address of a web server, with what is secret of it apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Without user name, password and fragment.
    pub url: String,
    /// `user:password` as it was written, percent-encoded.
    pub user_info: Option<String>,
}

/// Why a text is no address of a web server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address of a web server: {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// Takes `http://` and `https://` addresses apart.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let fail = |reason| {
            Err(AddressError {
                text: masked(text).into_owned(),
                reason,
            })
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return fail("it has no scheme");
        };
        if !["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return fail("its scheme is neither http nor https");
        }
        if text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        {
            return fail("blanks, backslashes and control characters are to be percent-encoded");
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user_info, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        if host.is_empty() || host.starts_with(':') {
            return fail("it names no host");
        }
        Ok(Self {
            url: format!("{}://{host}{path}", scheme.to_ascii_lowercase()),
            user_info: user_info.filter(|user| !user.is_empty()),
        })
    }

    /// The last part of the path, decoded: never empty, `.`, `..`, and without slashes.
    pub fn file_name(&self) -> String {
        let after_scheme = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let path = after_scheme.split_once('/').map_or("", |(_, path)| path);
        let path = path.split('?').next().unwrap_or_default();
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let name = decoded(last).unwrap_or_else(|| last.to_owned());
        // Decoding may have brought more slashes.
        let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        match name {
            "" | "." | ".." => UNNAMED.to_owned(),
            name if name.contains('\0') || name.len() > 255 || name.starts_with(".wh.") => UNNAMED.to_owned(),
            name => name.to_owned(),
        }
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address")
            .field("url", &self.url)
            .field("has_user", &self.user_info.is_some())
            .finish()
    }
}

/// `%41` as `A`; `None` when the result is no UTF-8.
pub fn decoded(text: &str) -> Option<String> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%'
            && let (Some(high), Some(low)) = (digit(bytes.get(at + 1)), digit(bytes.get(at + 2)))
        {
            plain.push(u8::try_from(high * 16 + low).unwrap_or_default());
            at += 3;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(plain).ok()
}

/// The text with user names and passwords of all addresses in it masked.
pub fn masked(text: &str) -> Cow<'_, str> {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        result.push_str(before);
        let end = after
            .find(|c: char| "/?#\"'`<>\\".contains(c) || c.is_whitespace() || c.is_control())
            .unwrap_or(after.len());
        let (authority, beyond) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((user, host)) if !user.is_empty() && user != "git" => {
                result.push_str(MASK);
                if user.contains(':') {
                    result.push(':');
                    result.push_str(MASK);
                }
                result.push('@');
                result.push_str(host);
            }
            _ => result.push_str(authority),
        }
        rest = beyond;
    }
    if result.is_empty() {
        return Cow::Borrowed(text);
    }
    result.push_str(rest);
    Cow::Owned(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_apart() {
        for (text, url, user) in [
            ("https://h/a?b=c#d", "https://h/a?b=c", None),
            ("HTTP://h", "http://h", None),
            ("https://u:p%40@h:8/a@b", "https://h:8/a@b", Some("u:p%40")),
            ("https://a@b@h/", "https://h/", Some("a@b")),
            ("https://@h/", "https://h/", None),
            ("http://[::1]:80/x", "http://[::1]:80/x", None),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.url.as_str(), address.user_info.as_deref()), (url, user));
        }
        for bad in [
            "h/x",
            "ftp://h/x",
            "http:///x",
            "http://:80/",
            "http://h/a b",
            "http://h\\@e/",
            "http://u@/",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a3_9_names_stay_inside() {
        for (path, name) in [
            ("", UNNAMED),
            ("/", UNNAMED),
            ("/?x=/etc/passwd", UNNAMED),
            ("/a/b.txt", "b.txt"),
            ("/a/b.txt?c/d", "b.txt"),
            ("/dir/", "dir"),
            ("/..", UNNAMED),
            ("/a/.", UNNAMED),
            ("/%2e%2e", UNNAMED),
            ("/%2e%2e%2f", UNNAMED),
            ("/..%2f..%2fetc%2fpasswd", "passwd"),
            ("/%2fetc%2fpasswd", "passwd"),
            ("/a%00b", UNNAMED),
            ("/.wh.x", UNNAMED),
            ("/a%20b%ff", "a%20b%ff"),
            ("/%E4%BD%A0", "你"),
            ("/-rf", "-rf"),
        ] {
            let address = Address::parse(&format!("http://h{path}")).unwrap();
            assert_eq!(address.file_name(), name, "{path}");
        }
    }

    #[test]
    fn credentials_are_masked_in_texts() {
        for (text, shown) in [
            ("ADD https://u:p@h/x /y", "ADD https://xxxxx:xxxxx@h/x /y"),
            ("https://token@h/x http://h/@y", "https://xxxxx@h/x http://h/@y"),
            ("ssh://git@h/x", "ssh://git@h/x"),
            ("a://b c@d", "a://b c@d"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
