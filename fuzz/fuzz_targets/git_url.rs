//! Git URLs: what is taken can be put on a command line of git and of ssh, shows no credentials, and reads back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::git_url::{GitUrl, Remote};

fuzz_target!(|text: &str| {
    if let Ok((remote, _)) = Remote::parse(text) {
        check(&remote.to_string());
        let (again, credentials) = Remote::parse(&remote.to_string()).expect("a shown remote can be read");
        assert_eq!((again, credentials), (remote, None));
    }
    let Ok(Some(url)) = GitUrl::of_context(text) else {
        return;
    };
    check(&url.remote.to_string());
    if let Some(reference) = &url.reference {
        check(reference);
        assert!(
            !reference.contains([':', ' ', '^']) && !reference.contains(".."),
            "{reference:?}"
        );
    }
    if let Some(subdir) = &url.subdir {
        assert!(
            subdir.split('/').all(|part| !matches!(part, "" | "." | "..")),
            "{subdir:?}"
        );
    }
    if let Some(checksum) = &url.checksum {
        assert!(
            checksum.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{checksum:?}"
        );
    }
});

fn check(text: &str) {
    assert!(!text.starts_with('-') && !text.is_empty(), "{text:?}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
