//! A full disk where an export goes.

use std::path::Path;

use anyhow::anyhow;

/// `result` of writing to `dest`. An error about a full disk says how much is free there, and what helps.
pub(super) fn explained<T>(result: anyhow::Result<T>, dest: &Path) -> anyhow::Result<T> {
    result.map_err(
        |error| match rbuild_cache::error::full_disk(error.chain(), dest) {
            Some(free) => anyhow!("{error:#}; {free}"),
            None => error,
        },
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

    #[test]
    fn what_is_free_is_said_once() {
        let full = io::Error::from(rustix::io::Errno::NOSPC);
        let said = explained::<()>(Err(full).context("writing"), Path::new("/tmp/none")).unwrap_err();
        let text = format!("{said:#}");
        assert!(text.starts_with("writing: No space left"), "{text}");
        assert!(
            text.contains("files are free on the disk of /tmp/none; another"),
            "{text}"
        );
        let other = io::Error::from(rustix::io::Errno::ACCESS);
        let said = explained::<()>(Err(other.into()), Path::new("/tmp")).unwrap_err();
        assert!(!format!("{said:#}").contains("free"), "{said:#}");
    }
}
