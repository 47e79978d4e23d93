//! The matcher of ignore files against a second one, which is naive on purpose: it writes each pattern as the regular
//! expression that BuildKit makes of it and tries everything.
//!
//! `RBUILD_GENERATED_PATHS=1000000` in the environment asks for that many pairs of patterns and path.

#![allow(clippy::expect_used, reason = "what was generated can be used")]

use rbuild_parser::ignore::{Matcher, parse_ignore_file};

/// A small generator with a fixed seed: the same pairs on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap_or(1)).unwrap_or(0)
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn text(&mut self, pieces: &[&str], most: usize) -> String {
        (0..=self.below(most)).map(|_| self.pick(pieces)).collect()
    }
}

const IN_PATTERNS: &[&str] = &[
    "a", "a", "b", "b", "ab", ".", "é", "/", "/", "/", "*", "*", "**", "**/", "/**", "?", "[ab]", "[^a]",
    "[a-c]", "[*]", "\\*", "\\?", "+", "(", "$", "|", "{", "^", " ", "-", "]",
];
const IN_PATHS: &[&str] = &[
    "a", "a", "b", "b", "ab", ".", "é", "*", "?", "+", "(", "$", "^", "c", "]", " ", "-",
];

fn path(random: &mut Random) -> String {
    loop {
        let parts: Vec<String> = (0..=random.below(4)).map(|_| random.text(IN_PATHS, 3)).collect();
        if parts.iter().all(|part| part != "." && part != "..") {
            return parts.join("/");
        }
    }
}

fn patterns(random: &mut Random) -> String {
    let line = |random: &mut Random| {
        let negated = if random.below(4) == 0 { "!" } else { "" };
        format!("{negated}{}", random.text(IN_PATTERNS, 6))
    };
    let lines: Vec<String> = (0..=random.below(4)).map(|_| line(random)).collect();
    lines.join("\n")
}

/// What a pattern is in BuildKit (moby/patternmatcher, `compile` and `match`).
enum Naive {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Regex(Vec<Item>),
}

/// A piece of a regular expression.
enum Item {
    One(Class),
    Many(Class),
    /// `(.*/)?`
    Directories,
    Start,
}

enum Class {
    Any,
    Of {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Class {
    fn has(&self, c: char) -> bool {
        match self {
            Class::Any => c != '\n',
            Class::Of { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

const NO_SLASH: &str = "[^/]";

/// `None` for what Go's regular expressions do not take.
fn compile(pattern: &str) -> Option<Naive> {
    #[derive(PartialEq)]
    enum Is {
        Exact,
        Prefix,
        Suffix,
        Regex,
    }
    let chars: Vec<char> = pattern.chars().collect();
    let (mut at, mut round) = (0, 0);
    let mut is = Is::Exact;
    let mut regex = String::new();
    while let Some(&c) = chars.get(at) {
        at += 1;
        match c {
            '*' if chars.get(at) == Some(&'*') => {
                at += 1;
                if chars.get(at) == Some(&'/') {
                    at += 1;
                }
                if at == chars.len() {
                    if is == Is::Exact {
                        is = Is::Prefix;
                    } else {
                        regex.push_str(".*");
                        is = Is::Regex;
                    }
                } else {
                    regex.push_str("(.*/)?");
                    is = Is::Regex;
                }
                if round == 0 {
                    is = Is::Suffix;
                }
            }
            '*' => {
                regex.push_str(NO_SLASH);
                regex.push('*');
                is = Is::Regex;
            }
            '?' => {
                regex.push_str(NO_SLASH);
                is = Is::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => regex.extend(['\\', c]),
            '\\' => match chars.get(at) {
                Some(&next) => {
                    at += 1;
                    regex.extend(['\\', next]);
                    is = Is::Regex;
                }
                None => regex.push('\\'),
            },
            '[' | ']' => {
                regex.push(c);
                is = Is::Regex;
            }
            _ => regex.push(c),
        }
        round += 1;
    }
    Some(match is {
        Is::Exact => Naive::Exact(pattern.to_owned()),
        Is::Prefix => Naive::Prefix(pattern.strip_suffix("**")?.to_owned()),
        Is::Suffix => Naive::Suffix(pattern.strip_prefix("**")?.to_owned()),
        Is::Regex => Naive::Regex(items(&regex)?),
    })
}

fn items(regex: &str) -> Option<Vec<Item>> {
    let chars: Vec<char> = regex.chars().collect();
    let mut items = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        if c == '(' {
            items.push(Item::Directories);
            at += "(.*/)?".len();
            continue;
        }
        let class = match c {
            '.' => Class::Any,
            '\\' => {
                at += 1;
                only(*chars.get(at)?)
            }
            '[' => {
                let (class, end) = class(&chars, at + 1)?;
                at = end;
                class
            }
            '^' => {
                at += 1;
                items.push(Item::Start);
                continue;
            }
            c => only(c),
        };
        at += 1;
        if chars.get(at) == Some(&'*') {
            at += 1;
            items.push(Item::Many(class));
        } else {
            items.push(Item::One(class));
        }
    }
    Some(items)
}

fn only(c: char) -> Class {
    Class::Of {
        negated: false,
        ranges: vec![(c, c)],
    }
}

/// From behind `[` to its `]`, where it ends.
fn class(chars: &[char], mut at: usize) -> Option<(Class, usize)> {
    let negated = chars.get(at) == Some(&'^');
    at += usize::from(negated);
    let mut ranges = Vec::new();
    let first = at;
    loop {
        let one = |at: &mut usize| {
            let mut c = *chars.get(*at)?;
            if c == '\\' {
                *at += 1;
                c = *chars.get(*at)?;
            }
            *at += 1;
            Some(c)
        };
        if chars.get(at) == Some(&']') && at != first {
            return Some((Class::Of { negated, ranges }, at));
        }
        let low = one(&mut at)?;
        let mut high = low;
        if chars.get(at) == Some(&'-') && chars.get(at + 1) != Some(&']') {
            at += 1;
            high = one(&mut at)?;
        }
        if high < low {
            return None;
        }
        ranges.push((low, high));
    }
}

fn regex_matches(items: &[Item], text: &[char], at: usize) -> bool {
    let Some((item, rest)) = items.split_first() else {
        return at == text.len();
    };
    match item {
        Item::Start => at == 0 && regex_matches(rest, text, at),
        Item::One(class) => text.get(at).is_some_and(|c| class.has(*c)) && regex_matches(rest, text, at + 1),
        Item::Many(class) => {
            let mut end = at;
            loop {
                if regex_matches(rest, text, end) {
                    return true;
                }
                if !text.get(end).is_some_and(|c| class.has(*c)) {
                    return false;
                }
                end += 1;
            }
        }
        Item::Directories => {
            let ends = (at..text.len())
                .filter(|end| text[*end] == '/')
                .map(|end| end + 1);
            std::iter::once(at)
                .chain(ends)
                .any(|end| regex_matches(rest, text, end))
        }
    }
}

impl Naive {
    fn matches(&self, path: &str) -> bool {
        match self {
            Naive::Exact(text) => path == text,
            Naive::Prefix(text) => path.starts_with(text.as_str()),
            Naive::Suffix(text) => path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path),
            Naive::Regex(items) => regex_matches(items, &path.chars().collect::<Vec<_>>(), 0),
        }
    }

    fn matches_or_a_parent(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(slash, _)| &path[..slash]);
        parents.chain([path]).any(|path| self.matches(path))
    }
}

#[test]
fn two_matchers_agree() {
    let wanted = std::env::var("RBUILD_GENERATED_PATHS");
    let wanted: usize = wanted.map_or(60_000, |text| text.parse().expect("a number"));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut compared, mut excluded) = (0, 0);
    while compared < wanted {
        let file = patterns(&mut random);
        let Ok(lines) = parse_ignore_file(&file) else {
            continue;
        };
        let cleaned: Vec<String> = lines.into_iter().map(|line| line.pattern).collect();
        // A blank that a slash has hidden is cut off in a second round; that is not what is compared here.
        if cleaned
            .iter()
            .any(|pattern| pattern.trim_start_matches('!').trim() != pattern.trim_start_matches('!'))
        {
            continue;
        }
        let naive: Option<Vec<(bool, Naive)>> = cleaned
            .iter()
            .map(|pattern| {
                let (negated, pattern) = pattern
                    .strip_prefix('!')
                    .map_or((false, pattern.as_str()), |it| (true, it));
                Some((negated, compile(pattern)?))
            })
            .collect();
        let (Ok(matcher), Some(naive)) = (Matcher::new(&cleaned), naive) else {
            continue;
        };
        for _ in 0..8 {
            let path = path(&mut random);
            let mut expected = false;
            for (negated, pattern) in &naive {
                if pattern.matches_or_a_parent(&path) {
                    expected = !negated;
                }
            }
            assert_eq!(
                matcher.excludes(path.as_bytes()),
                expected,
                "{cleaned:?} {path:?}"
            );
            assert_eq!(
                matcher
                    .deciding(path.as_bytes())
                    .is_some_and(|index| !cleaned[index].starts_with('!')),
                expected,
                "{cleaned:?} {path:?}"
            );
            compared += 1;
            excluded += usize::from(expected);
        }
    }
    // A generator that excludes nothing would compare nothing.
    assert!(excluded > compared / 10, "{excluded} of {compared}");
    println!("{compared} pairs, {excluded} excluded");
}
