//! Patterns with wildcards as bit-parallel automata.
//!
//! What the pieces mean is what they mean in the regular expression that BuildKit makes of a pattern: `*` is
//! `[^/]*`, `?` is `[^/]`, `**` is `(.*/)?`, or `.*` at the end. A class is copied into the expression piece by piece,
//! so that a `*` in it ends it early (`[*]` is `[[^/]*]`); that is kept. So is a `^` outside of a class, which the
//! expression understands as the start of the path.

use crate::glob::decode;

/// Words of a state set: 4096 states, as long as any path.
const MOST_WORDS: usize = 64;

/// A set of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Set {
    /// All.
    Any,
    /// All but the slash.
    NotSlash,
    Is(char),
    /// Ranges, or all but those.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Set {
    fn has(&self, scalar: char) -> bool {
        match self {
            Self::Any => true,
            Self::NotSlash => scalar != '/',
            Self::Is(expected) => *expected == scalar,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&scalar)) != *negated
            }
        }
    }
}

/// A place between two characters of a match.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// One character of the set leads on.
    One(Set),
    /// Leads on by itself, and stays for characters of the set.
    Many(Set),
    /// `**`: leads on by itself, and into the next state.
    Enter,
    /// `^`: leads on by itself before anything was read.
    Start,
    /// Inside `**`: stays for everything; a slash also leads on.
    Inside,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Automaton {
    states: Vec<State>,
    /// Text that every match has in it: most paths have not, and cost nothing more.
    needle: Vec<u8>,
    words: usize,
    /// For each ASCII character, the states that it leads on from, then those that it stays in.
    table: Box<[u64]>,
    /// States that lead on by themselves, and those of them that lead two on.
    skips: Box<[u64]>,
    enters: Box<[u64]>,
    /// States that lead on by themselves at the start of a path.
    starts: Box<[u64]>,
}

impl Automaton {
    /// `pattern` is well-formed; `None` when it is too long.
    pub(super) fn compile(pattern: &str) -> Option<Self> {
        let states = states(pattern);
        // One more for the end.
        let words = states.len() / 64 + 1;
        if words > MOST_WORDS {
            return None;
        }
        let mut table = vec![0; 128 * 2 * words].into_boxed_slice();
        let mut skips = vec![0; words].into_boxed_slice();
        let mut enters = vec![0; words].into_boxed_slice();
        let mut starts = vec![0; words].into_boxed_slice();
        for (index, state) in states.iter().enumerate() {
            let (word, bit) = (index / 64, 1 << (index % 64));
            match state {
                State::Many(_) => skips[word] |= bit,
                State::Enter => {
                    skips[word] |= bit;
                    enters[word] |= bit;
                }
                State::Start => starts[word] |= bit,
                State::One(_) | State::Inside => {}
            }
            for ascii in 0..128u8 {
                let (leads, stays) = state.on(char::from(ascii));
                let row = usize::from(ascii) * 2 * words;
                table[row + word] |= if leads { bit } else { 0 };
                table[row + words + word] |= if stays { bit } else { 0 };
            }
        }
        let needle = needle(&states);
        Some(Self {
            states,
            needle,
            words,
            table,
            skips,
            enters,
            starts,
        })
    }

    /// Whether `path` or one of its parents matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        if !contains(path, &self.needle) {
            return false;
        }
        let mut run = Run::new(self);
        let mut rest = path;
        while let Some(first) = rest.first() {
            if *first == b'/' && run.at_end() {
                return true;
            }
            rest = run.step(rest);
            if run.is_dead() {
                return false;
            }
        }
        run.at_end()
    }

    /// Whether there can be a path below `dir` that matches.
    pub(super) fn may_match_below(&self, dir: &[u8]) -> bool {
        let mut run = Run::new(self);
        let mut rest = dir;
        while !rest.is_empty() && !run.is_dead() {
            rest = run.step(rest);
        }
        run.step(b"/");
        !run.is_dead()
    }
}

impl State {
    /// Whether a character leads on from here, and whether it stays here.
    fn on(&self, scalar: char) -> (bool, bool) {
        match self {
            Self::One(set) => (set.has(scalar), false),
            Self::Many(set) => (false, set.has(scalar)),
            Self::Enter | Self::Start => (false, false),
            Self::Inside => (scalar == '/', true),
        }
    }
}

/// The states that are reached while a path is read.
struct Run<'a> {
    automaton: &'a Automaton,
    active: [u64; MOST_WORDS],
}

impl<'a> Run<'a> {
    fn new(automaton: &'a Automaton) -> Self {
        let mut run = Self {
            automaton,
            active: [0; MOST_WORDS],
        };
        run.active[0] = 1;
        run.skip(true);
        run
    }

    /// Reads one character; gives what follows it.
    fn step<'b>(&mut self, path: &'b [u8]) -> &'b [u8] {
        let words = self.automaton.words;
        let (scalar, length) = match path.first() {
            Some(byte) if byte.is_ascii() => (char::from(*byte), 1),
            Some(_) => decode(path),
            None => return path,
        };
        let mut carry = 0;
        if scalar.is_ascii() {
            let row = &self.automaton.table[scalar as usize * 2 * words..][..2 * words];
            let (leads, stays) = row.split_at(words);
            for ((active, leads), stays) in self.active.iter_mut().zip(leads).zip(stays) {
                let led = *active & leads;
                *active = (led << 1) | carry | (*active & stays);
                carry = led >> 63;
            }
        } else {
            for (word, active) in self.active[..words].iter_mut().enumerate() {
                let (mut led, mut stayed) = (0, 0);
                let mut left = *active;
                while left != 0 {
                    let bit = left.trailing_zeros();
                    left &= left - 1;
                    let state = self.automaton.states.get(word * 64 + bit as usize);
                    let (leads, stays) = state.map_or((false, false), |state| state.on(scalar));
                    led |= u64::from(leads) << bit;
                    stayed |= u64::from(stays) << bit;
                }
                *active = (led << 1) | carry | stayed;
                carry = led >> 63;
            }
        }
        self.skip(false);
        &path[length..]
    }

    /// Follows the states that lead on by themselves until nothing is added.
    fn skip(&mut self, at_start: bool) {
        let words = self.automaton.words;
        loop {
            let mut changed = 0;
            let (mut carry, mut carry_two) = (0, 0);
            for word in 0..words {
                let active = self.active[word];
                let starts = if at_start { self.automaton.starts[word] } else { 0 };
                let skipping = active & (self.automaton.skips[word] | starts);
                let entering = active & self.automaton.enters[word];
                let added = (skipping << 1) | carry | (entering << 2) | carry_two;
                (carry, carry_two) = (skipping >> 63, entering >> 62);
                self.active[word] = active | added;
                changed |= added & !active;
            }
            if changed == 0 {
                return;
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.active[..self.automaton.words].iter().all(|word| *word == 0)
    }

    fn at_end(&self) -> bool {
        let end = self.automaton.states.len();
        self.active[end / 64] & (1 << (end % 64)) != 0
    }
}

/// The longest run of single characters.
fn needle(states: &[State]) -> Vec<u8> {
    let mut longest = String::new();
    let mut run = String::new();
    for state in states {
        match state {
            State::One(Set::Is(scalar)) => run.push(*scalar),
            _ => run.clear(),
        }
        if run.len() > longest.len() {
            longest.clone_from(&run);
        }
    }
    longest.into_bytes()
}

fn contains(path: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = path;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn states(pattern: &str) -> Vec<State> {
    let mut states = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(scalar) = rest.next() {
        match scalar {
            '*' if rest.next_if_eq(&'*').is_some() => {
                // `**/` is `**`.
                rest.next_if_eq(&'/');
                if rest.peek().is_none() {
                    states.push(State::Many(Set::Any));
                } else if states.last() != Some(&State::Inside) {
                    states.extend([State::Enter, State::Inside]);
                }
            }
            '*' => states.push(State::Many(Set::NotSlash)),
            '?' => states.push(State::One(Set::NotSlash)),
            '\\' => states.extend(rest.next().map(|escaped| State::One(Set::Is(escaped)))),
            '[' => states.push(class(&mut rest)),
            '^' => states.push(State::Start),
            _ => states.push(State::One(Set::Is(scalar))),
        }
    }
    states
}

/// A class whose `[` has been read, up to its end.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> State {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges: Vec<(char, char)> = Vec::new();
    let add = |ranges: &mut Vec<(char, char)>, text: &str| ranges.extend(text.chars().map(|it| (it, it)));
    while let Some(scalar) = rest.next() {
        match scalar {
            ']' => break,
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                add(&mut ranges, "(.*/)?");
            }
            '*' | '?' => {
                add(&mut ranges, "[^/");
                let set = Set::Class { negated, ranges };
                return if scalar == '*' {
                    State::Many(set)
                } else {
                    State::One(set)
                };
            }
            '-' if !ranges.is_empty() => {
                let high = match rest.next() {
                    Some('\\') => rest.next(),
                    high => high,
                };
                if let (Some(high), Some(range)) = (high, ranges.last_mut()) {
                    range.1 = high;
                }
            }
            '\\' => ranges.extend(rest.next().map(|escaped| (escaped, escaped))),
            _ => ranges.push((scalar, scalar)),
        }
    }
    State::One(Set::Class { negated, ranges })
}
