use super::*;

fn url(text: &str) -> GitUrl {
    GitUrl::of_context(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .unwrap_or_else(|| panic!("{text} is no git URL"))
}

fn error(text: &str) -> String {
    match GitUrl::of_context(text) {
        Err(error) => error.to_string(),
        Ok(url) => panic!("{text} is taken as {url:?}"),
    }
}

#[test]
fn forms_of_repositories() {
    for (text, remote, reference, subdir) in [
        ("https://host/p/repo.git", "https://host/p/repo.git", None, None),
        (
            "HTTP://Host:8080/repo.git#main",
            "http://host:8080/repo.git",
            Some("main"),
            None,
        ),
        (
            "https://[::1]:80/a.git#:sub",
            "https://[::1]:80/a.git",
            None,
            Some("sub"),
        ),
        (
            "git://host/any/suffix#v1:a/b",
            "git://host/any/suffix",
            Some("v1"),
            Some("a/b"),
        ),
        (
            "ssh://git@host:2222/path/r#x",
            "ssh://git@host:2222/path/r",
            Some("x"),
            None,
        ),
        ("ssh://host/~me/r.git", "ssh://host/~me/r.git", None, None),
        (
            "git@host:org/r.git#refs/pull/1/head:d",
            "git@host:org/r.git",
            Some("refs/pull/1/head"),
            Some("d"),
        ),
        ("some.one@host.example:r", "some.one@host.example:r", None, None),
        (
            "github.com/org/repo#main",
            "https://github.com/org/repo",
            Some("main"),
            None,
        ),
        (
            "https://host/r.git#main:/./a//b/",
            "https://host/r.git",
            Some("main"),
            Some("a/b"),
        ),
        (
            "https://host/r.git#main:/",
            "https://host/r.git",
            Some("main"),
            None,
        ),
        (
            "https://host/r.git#feature%2Fx",
            "https://host/r.git",
            Some("feature/x"),
            None,
        ),
    ] {
        let url = url(text);
        let found = (
            url.remote.to_string(),
            url.reference.as_deref(),
            url.subdir.as_deref(),
        );
        assert_eq!(found, (remote.to_owned(), reference, subdir), "{text}");
    }
}

#[test]
fn what_is_no_repository() {
    for text in [
        "./x",
        "../x.git",
        "dir/x.git",
        "https://host/archive.tar.gz",
        "https://host/r.git/file",
        "https://host/x?y=.git",
        "github.com",
        "ext::sh -c id",
        "file:///srv/r.git",
        "ftp://host/r.git",
        "docker-image://x",
        "a b@host:x",
        "-",
        "http://host",
        "@host:x",
        "user@:x",
        "user@host:",
    ] {
        assert_eq!(GitUrl::of_context(text), Ok(None), "{text}");
    }
    assert_eq!(GitUrl::of_add("github.com/org/repo"), Ok(None));
    assert!(
        GitUrl::of_add("https://github.com/org/repo.git")
            .unwrap()
            .is_some()
    );
}

#[test]
fn queries() {
    let full = "0123456789abcdef0123456789abcdef01234567";
    let read = url(&format!(
        "https://h/r.git?branch=main&subdir=a/b&commit={full}&submodules=false&keep-git-dir&mtime=commit"
    ));
    assert_eq!(read.reference.as_deref(), Some("refs/heads/main"));
    assert_eq!(read.subdir.as_deref(), Some("a/b"));
    assert_eq!(read.checksum.as_deref(), Some(full));
    assert_eq!((read.submodules, read.keep_git_dir), (Some(false), Some(true)));
    assert_eq!(read.mtime, Some(Mtime::Commit));
    for (text, reference) in [
        ("https://h/r.git?tag=v1", "refs/tags/v1"),
        ("https://h/r.git?tag=refs/tags/v1", "refs/tags/v1"),
        ("https://h/r.git?ref=v1", "v1"),
        ("https://h/r.git?ref=v1#v1", "v1"),
        ("git@h:r.git?branch=a#:sub", "refs/heads/a"),
        ("https://h/r.git?checksum=ABCDEF1", "abcdef1"),
        ("ssh://h/r?ref=a%2Fb", "a/b"),
    ] {
        assert_eq!(url(text).reference.as_deref(), Some(reference), "{text}");
    }
    assert_eq!(url("https://h/r.git?submodules=").submodules, Some(true));
    assert!(
        url(&format!(
            "https://h/r.git?ref=x&checksum={full}&fetch-by-commit=1"
        ))
        .fetch_by_commit
    );
    for (query, message) in [
        ("tag=a&branch=b", "branch conflicts with tag"),
        ("tag=a&ref=b", r#"ref conflicts: "b" vs "refs/tags/a""#),
        ("branch=a#b", r#"ref conflicts: "b" vs "refs/heads/a""#),
        ("subdir=a#:b", r#"subdir conflicts: "b" vs "a""#),
        (
            "checksum=abcd&commit=abce",
            r#"checksum conflicts: "abcd" vs "abce""#,
        ),
        ("ref=", r#"query "ref" has no value"#),
        ("ref=a&ref=a", r#"query "ref" has multiple values"#),
        ("depth=1", r#"unexpected query "depth""#),
        ("submodules=maybe", r#"invalid submodules value: "maybe""#),
        ("mtime=now", r#"invalid mtime value: "now""#),
        (
            "checksum=xyz1",
            r#"invalid git checksum "xyz1": it must be a commit id, or at least 4 digits of one"#,
        ),
        (
            "fetch-by-commit",
            "fetch-by-commit needs a full commit id: give checksum=",
        ),
    ] {
        assert_eq!(error(&format!("https://h/r.git?{query}")), message);
    }
}

/// A3-1, A3-5, A3-7: nothing reaches a command line that could be an option, a command or another header.
#[test]
fn hostile_urls_are_refused() {
    for text in [
        "https://h/r.git#--upload-pack=touch x",
        "https://h/r.git#--upload-pack=x",
        "https://h/r.git?ref=-oProxyCommand=x",
        "https://h/r.git?branch=a b",
        "https://h/r.git?ref=a:b",
        "https://h/r.git?ref=a..b",
        "https://h/r.git?ref=%2Bx%0a",
        "https://h/r.git#x%0d%0aHost:evil",
        "https://h/r.git#main:..",
        "https://h/r.git#main:a/../../b",
        "https://h/r.git#main:%2e%2e/%2e%2e",
        "https://h/r.git#main:%2E%2e%2fx",
        "https://h/r.git?subdir=..",
        "https://h/r.git#%zz",
        "https://h/%2e%2e/r.git",
        "https://h/../r.git",
        "https://h/a%0ab.git",
        "https://h/a%00b.git",
        "https://h/a\nb.git",
        "https://-oProxyCommand=x/r.git",
        "ssh://-oProxyCommand=touch/r",
        "ssh://-F@h/r",
        "ssh://-F%2Fx@h/r",
        "ssh://u:secret@h/r",
        "ssh://h/-x",
        "ssh://h/%2dx",
        "-oProxyCommand@h:r",
        "git@-h:r",
        "git@h:-r",
        "git@h:../r",
        "git://u@h/r",
        "git://h",
        "ssh://h/",
        "https://u:p%0d%0aX-Evil:1@h/r.git",
        "https://h:0/r.git",
        "https://h:99999/r.git",
        "https:///r.git",
        "https://h h/r.git",
    ] {
        let message = error(text);
        assert!(
            !message.contains("secret") && !message.contains('\n'),
            "{text}: {message}"
        );
    }
}

#[test]
fn credentials_are_never_shown() {
    let read = url("https://user:s%65cret@h/r.git#main");
    let credentials = read.credentials.clone().unwrap();
    assert_eq!(credentials.reveal(), "user:secret");
    for shown in [
        format!("{read:?}"),
        read.to_string(),
        format!("{credentials:?}"),
        read.remote.to_string(),
    ] {
        assert!(
            !shown.contains("ecret") && !shown.contains("user@") && !shown.contains("user:s"),
            "{shown}"
        );
    }
    assert_eq!(read.to_string(), "https://h/r.git#main");
    assert_eq!(
        url("https://token@h/r.git").credentials.unwrap().reveal(),
        "token:"
    );
}

#[test]
fn flags_of_add_agree_with_the_url() {
    let url = |text| GitUrl::of_add(text).unwrap().unwrap();
    let with = url("https://h/r.git")
        .with_flags(Some("ABCD12"), Some(true))
        .unwrap();
    assert_eq!(
        (with.checksum.as_deref(), with.keep_git_dir),
        (Some("abcd12"), Some(true))
    );
    assert!(
        url("https://h/r.git?checksum=abcd")
            .with_flags(Some("abcd"), None)
            .is_ok()
    );
    let conflict = url("https://h/r.git?checksum=abcd").with_flags(Some("abce"), None);
    assert!(conflict.unwrap_err().to_string().contains("checksum conflicts"));
    let conflict = url("https://h/r.git?keep-git-dir=0").with_flags(None, Some(true));
    assert!(
        conflict
            .unwrap_err()
            .to_string()
            .contains("keep-git-dir conflicts")
    );
}

#[test]
fn full_commits_are_known() {
    let full = "0123456789abcdef0123456789abcdef01234567";
    for (rest, asks) in [
        (String::new(), true),
        ("#main".to_owned(), true),
        (format!("#{full}:sub"), false),
        (format!("?checksum={full}"), false),
        (format!("?checksum={full}#main"), true),
        (format!("?checksum={full}&fetch-by-commit#main"), false),
        ("#0123456".to_owned(), true),
    ] {
        assert_eq!(
            url(&format!("https://h/r.git{rest}")).asks_server(),
            asks,
            "{rest}"
        );
    }
}

#[test]
fn remotes_of_submodules() {
    let remote = |text| Remote::parse(text).map(|(remote, _)| remote.to_string());
    assert_eq!(remote("https://h/any"), Ok("https://h/any".to_owned()));
    assert_eq!(remote("git@h:x/y"), Ok("git@h:x/y".to_owned()));
    for bad in [
        "file:///etc",
        "/etc",
        "ext::sh -c id",
        "-u",
        "../x",
        "https://h/x?y#z\r",
        "ssh://-x/y",
        "x",
        "",
        "fd::17",
        "ssh://h/x\ny",
    ] {
        assert!(remote(bad).is_err(), "{bad}");
    }
    let base = Remote::parse("https://h:1/org/main.git/").unwrap().0;
    for (relative, expected) in [
        ("../other.git", "https://h:1/org/other.git"),
        ("./below", "https://h:1/org/main.git/below"),
        ("../../x/y/", "https://h:1/x/y"),
    ] {
        assert_eq!(base.relative(relative).unwrap().to_string(), expected);
    }
    assert!(base.relative("../../../x").is_err());
    assert!(
        base.relative("../-x").is_ok(),
        "only the first part of a path could be an option"
    );
    assert!(base.relative("../a/../../b").is_err());
    assert!(base.relative("../x\r").is_err());
    let scp = Remote::parse("git@h:org/main").unwrap().0;
    assert_eq!(scp.relative("../other").unwrap().to_string(), "git@h:org/other");
}
