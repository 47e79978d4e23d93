//! Percent-encoding.

use super::GitUrlError;

/// `text` without percent-encoding; `plus` is whether `+` is a space. Control characters are refused in every form.
pub(super) fn percent(text: &str, plus: bool) -> Result<String, GitUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || {
                    let digit = char::from(rest.next()?).to_digit(16)?;
                    u8::try_from(digit).ok()
                };
                match (digit(), digit()) {
                    (Some(high), Some(low)) => high << 4 | low,
                    _ => return Err(GitUrlError::Encoding),
                }
            }
            b'+' if plus => b' ',
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).map_err(|_| GitUrlError::Encoding)?;
    if text.chars().any(char::is_control) {
        return Err(GitUrlError::Encoding);
    }
    Ok(text)
}
