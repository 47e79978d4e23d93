//! Ignore files: the first line is a path, the others are patterns. What may include something below a directory says so
//! of every parent of an included path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::glob;
use rbuild_parser::ignore::{Matcher, parse_ignore_file};

fuzz_target!(|text: &str| {
    let (path, file) = text.split_once('\n').unwrap_or((text, ""));
    let _ = glob::matches(file.as_bytes(), path.as_bytes());
    let Ok(lines) = parse_ignore_file(file) else {
        return;
    };
    let patterns: Vec<String> = lines.into_iter().map(|line| line.pattern).collect();
    let Ok(matcher) = Matcher::new(&patterns) else {
        return;
    };
    let clean = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if clean && !matcher.excludes(path.as_bytes()) {
        for (slash, _) in path.match_indices('/') {
            let parent = &path.as_bytes()[..slash];
            assert!(
                !matcher.excludes(parent) || matcher.may_include_below(parent),
                "{path:?} {patterns:?}"
            );
        }
    }
});
