use super::*;

fn matcher(patterns: &[&str]) -> Matcher {
    Matcher::new(&parsed(&patterns.join("\n"))).expect("patterns")
}

fn parsed(text: &str) -> Vec<String> {
    let lines = parse_ignore_file(text).expect("an ignore file");
    lines.into_iter().map(|line| line.pattern).collect()
}

#[test]
fn file_syntax() {
    for (text, expected) in [
        ("\u{feff}a\r\n\n  b  \n# c\n # x\n", &["a", "b", "# x"][..]),
        ("./a\na//b/\na/../b\n/c\n/\n", &["a", "a/b", "b", "c", "/"]),
        ("! a.md\n!/b\n!./c/", &["!a.md", "!b", "!c"]),
        ("..\n../a\n.", &["..", "../a", "."]),
    ] {
        assert_eq!(parsed(text), expected, "{text:?}");
    }
    let error = |text: &str| parse_ignore_file(text).expect_err(text).to_string();
    assert_eq!(error("a\n!"), "line 2: illegal exclusion pattern: \"!\"");
    assert_eq!(error("# c\n\n[a"), "line 3: syntax error in pattern: \"[a\"");
    let lines = parse_ignore_file("# c\na\n\n!b").expect("an ignore file");
    assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn the_table_of_the_specification() {
    for (pattern, matching, other) in [
        ("foo", "foo foo/bar", "a/foo foobar"),
        ("foo/", "foo foo/x", "fo"),
        ("*.md", "a.md a.md/x", "sub/a.md"),
        ("*/temp*", "a/temp a/temp/b a/tempx", "temp a/b/temp"),
        ("**/*.go", "a.go x/y/a.go x.go/y", "a.gox"),
        ("**/foo", "foo a/foo a/b/foo/c foo/x", "a/xfoo"),
        ("foo/**", "foo/a foo/a/b", "foo fooa"),
        ("foo/**/bar", "foo/bar foo/a/b/bar foo/bar/x", "foo/abar foobar"),
        ("**", "a .x a/b", ""),
        ("*", "a .x a/b", ""),
        ("a**b", "ab ax/b", "axb ax/yb"),
        ("**foo", "foo xfoo a/xfoo xfoo/y", "foox"),
        ("fo?", "foo fox foo/x", "fo fo/ fooo"),
        ("fo?", "foé", "foéé"),
        ("[a-c]x", "ax cx", "dx x"),
        ("[^a]x", "bx éx", "ax"),
        ("a\\*b", "a*b", "axb ab"),
        ("a[*]b", "a]b a[]b", "a*b"),
        ("a.b", "a.b", "axb"),
        ("+()|{}$", "+()|{}$", "+"),
        // Quirks of the regular expressions: `^` is the start of the path when there is a wildcard, else itself.
        ("^a*", "a ab", "^a ^ab"),
        ("^a", "^a", "a"),
        (".", "", "a"),
        ("..", "", "a"),
        ("../a", "", "a"),
        ("**/a/**/b", "a/b x/a/y/b a/a/b a/x/a/b", "a b a/xb"),
        ("**/a**b", "ab a/ab x/ay/b", "a/xb"),
        ("**/**/x", "x a/x a/b/x", "ax"),
        ("*a*/b*", "a/b xax/bx", "x/b a/xb"),
        ("**/*.tmp/**", "a.tmp/x y/a.tmp/z/w", "a.tmp y/a.tmp"),
        ("é*", "éa é", "e"),
    ] {
        let compiled = matcher(&[pattern]);
        for path in matching.split_whitespace() {
            assert!(compiled.excludes(path.as_bytes()), "{pattern} matches {path}");
        }
        for path in other.split_whitespace() {
            assert!(
                !compiled.excludes(path.as_bytes()),
                "{pattern} does not match {path}"
            );
        }
    }
}

#[test]
fn the_last_match_decides() {
    for (patterns, excluded, kept) in [
        (&["*", "!a/b"][..], "a a/c x", "a/b a/b/x"),
        (&["a", "!a/b"], "a a/d", "a/b a/b/c b"),
        (&["a/b", "!a"], "", "a a/b a/c"),
        (
            &["*.md", "!README*.md", "README-secret.md"],
            "a.md README-secret.md",
            "README.md",
        ),
        (&["!a", "a"], "a", "b"),
    ] {
        let compiled = matcher(patterns);
        for path in excluded.split_whitespace() {
            assert!(compiled.excludes(path.as_bytes()), "{patterns:?} exclude {path}");
        }
        for path in kept.split_whitespace() {
            assert!(!compiled.excludes(path.as_bytes()), "{patterns:?} keep {path}");
        }
    }
}

#[test]
fn who_decided() {
    let matcher = matcher(&["*.md", "!README*.md", "README-secret.md", "a", "!a/b"]);
    for (path, expected) in [
        ("x", None),
        ("x.md", Some(0)),
        ("README.md", Some(1)),
        ("README-secret.md", Some(2)),
        ("a/c", Some(3)),
        ("a/b/c", Some(4)),
    ] {
        assert_eq!(matcher.deciding(path.as_bytes()), expected, "{path}");
    }
}

#[test]
fn directories_that_have_to_be_walked() {
    for (patterns, walked, skipped) in [
        (&["*", "!a/b/c"][..], "a a/b", "x a/c a/b/c"),
        (&["*", "!**/x"], "a a/b", ""),
        (&["*", "!a/*/c"], "a a/b a/z", "b a/b/c a/b/d"),
        (&["*", "!a/**"], "a a/b", "b ab"),
        (&["*"], "", "a"),
    ] {
        let compiled = matcher(patterns);
        for dir in walked.split_whitespace() {
            assert!(
                compiled.may_include_below(dir.as_bytes()),
                "{patterns:?} walk {dir}"
            );
        }
        for dir in skipped.split_whitespace() {
            assert!(
                !compiled.may_include_below(dir.as_bytes()),
                "{patterns:?} skip {dir}"
            );
        }
    }
    assert!(matcher(&["a", "!b"]).has_negations() && !matcher(&["a"]).has_negations());
    assert!(matcher(&[]).is_empty());
}

#[test]
fn long_patterns() {
    let long = format!("*/{}*", "x".repeat(200));
    let compiled = matcher(&[&long]);
    assert!(compiled.excludes(format!("é/{}yy/z", "x".repeat(200)).as_bytes()));
    assert!(!compiled.excludes(format!("é/{}", "x".repeat(199)).as_bytes()));
    let longer = vec![format!("*{}", "x".repeat(5000))];
    assert!(matches!(Matcher::new(&longer), Err(IgnoreError::Syntax(_))));
}

/// The same language, by trying everything: components of `path` from the start, characters one by one.
fn reference(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*'] | ['*', '*', '/'] => true,
        ['*', '*', rest @ ..] => {
            let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
            reference(rest, path)
                || (0..path.len()).any(|index| path[index] == '/' && reference(rest, &path[index + 1..]))
        }
        ['*', rest @ ..] => {
            let most = path
                .iter()
                .position(|scalar| *scalar == '/')
                .unwrap_or(path.len());
            (0..=most).any(|taken| reference(rest, &path[taken..]))
        }
        ['?', rest @ ..] => path.first().is_some_and(|scalar| *scalar != '/') && reference(rest, &path[1..]),
        [scalar, rest @ ..] => path.first() == Some(scalar) && reference(rest, &path[1..]),
    }
}

proptest::proptest! {
    #[test]
    fn automata_agree_with_trying_everything(pattern in "[ab*?/]{1,9}", path in "[ab]{1,3}(/[ab]{1,3}){0,3}") {
        let pattern = clean(&pattern);
        proptest::prop_assume!(!pattern.starts_with('/'));
        let suffix = pattern.strip_prefix("**").filter(|rest| !rest.is_empty() && !rest.contains(['*', '?']));
        let scalars: Vec<char> = path.chars().collect();
        let wanted: Vec<char> = pattern.chars().collect();
        let parents = (1..=scalars.len()).filter(|end| scalars.get(*end).is_none_or(|scalar| *scalar == '/'));
        let expected = parents.into_iter().any(|end| match suffix {
            // A leading `**` with nothing special after it is plain text at the end, whatever the slashes say.
            Some(text) => path[..end].ends_with(text) || text.strip_prefix('/') == Some(&path[..end]),
            None => reference(&wanted, &scalars[..end]),
        });
        let found = Matcher::new(std::slice::from_ref(&pattern)).expect("a pattern").excludes(path.as_bytes());
        proptest::prop_assert_eq!(found, expected, "{} {}", pattern, path);
    }
}
