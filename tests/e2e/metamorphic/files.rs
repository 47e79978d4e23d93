//! Random files and random changes of them.

use super::world::{Files, Member, Node};
use crate::random::Random;

pub const PATHS: &[&str] = &[
    "a", "b", "c.txt", "s.sh", "d", "d/x", "d/y.txt", "d/e", "d/e/z", "f", "f/g", "f/.hid", "l", "dl", "d/l",
    "t.tar", "u.tgz", ".hid", "n m", "h", "p",
];
const FILE_MODES: &[u32] = &[0o644, 0o600, 0o755, 0o4755, 0o664, 0o444];
const DIR_MODES: &[u32] = &[0o755, 0o700, 0o775, 0o1777, 0o2755];
pub const TEXTS: &[&str] = &["one", "two", "six", "", "a\nb\n", "$A", "seven"];

/// A change of one of the files, and what it is called; sometimes none.
pub fn change_file(random: &mut Random, files: &mut Files) -> String {
    let Some((path, node)) = random_entry(random, files) else {
        return String::new();
    };
    match node {
        Node::File { content, mode, xattr } => match random.below(6) {
            // Of the same length, so that only the change time tells.
            0 | 1 if !content.is_empty() => {
                let other = if content.starts_with('o') { "p" } else { "o" };
                content.replace_range(..content.chars().next().map_or(0, char::len_utf8), other);
                format!("{path}: other bytes")
            }
            2 => {
                *mode = random.pick(FILE_MODES);
                format!("{path}: mode {mode:o}")
            }
            3 => {
                *xattr = random.pick(&[None, Some("1"), Some("2")]);
                format!("{path}: attribute {xattr:?}")
            }
            4 => {
                content.push('+');
                format!("{path}: longer")
            }
            _ => rename(random, files, &path),
        },
        Node::Dir { mode } => {
            if random.once_in(2) {
                *mode = random.pick(DIR_MODES);
                return format!("{path}: mode {mode:o}");
            }
            remove(files, &path);
            format!("{path}: removed")
        }
        Node::Link(target) => {
            *target = random.of(LINK_TARGETS).to_owned();
            format!("{path} -> {target}")
        }
        Node::Tar { members, gzip } => {
            if random.once_in(5) {
                *gzip = !*gzip;
                return format!("{path}: compressed {gzip}");
            }
            *members = self::members(random);
            format!("{path}: other members")
        }
        Node::Fifo { mode } => {
            *mode = random.pick(FILE_MODES);
            format!("{path}: mode {mode:o}")
        }
        Node::Hard(_) => {
            remove(files, &path);
            format!("{path}: removed")
        }
    }
}

const LINK_TARGETS: &[&str] = &["a", "b", "d", "/x", "x", "../a", "nowhere", "d/x", "f"];

fn random_entry<'a>(random: &mut Random, files: &'a mut Files) -> Option<(String, &'a mut Node)> {
    if files.is_empty() {
        return None;
    }
    let at = random.below(files.len());
    files.iter_mut().nth(at).map(|(path, node)| (path.clone(), node))
}

fn rename(random: &mut Random, files: &mut Files, path: &str) -> String {
    let to = random.of(PATHS);
    let parent_there = to
        .rsplit_once('/')
        .is_none_or(|(parent, _)| matches!(files.get(parent), Some(Node::Dir { .. })));
    if files.contains_key(to) || !parent_there {
        return String::new();
    }
    let node = files.get(path).cloned();
    remove(files, path);
    files.extend(node.map(|node| (to.to_owned(), node)));
    format!("{path} is now {to}")
}

/// With what is below it, and other names of what is gone.
fn remove(files: &mut Files, path: &str) {
    let below = format!("{path}/");
    files.retain(|other, _| other != path && !other.starts_with(&below));
    let names: Vec<String> = files.keys().cloned().collect();
    files.retain(|_, node| !matches!(node, Node::Hard(to) if !names.contains(to)));
}

/// Something new at `path`, with the directories above it.
pub fn put(random: &mut Random, files: &mut Files, path: &str) {
    if let Some((parent, _)) = path.rsplit_once('/')
        && !matches!(files.get(parent), Some(Node::Dir { .. }))
    {
        remove(files, parent);
        let mode = random.pick(DIR_MODES);
        files.insert(parent.to_owned(), Node::Dir { mode });
        if parent.contains('/') {
            let top = &parent[..parent.find('/').unwrap_or(0)];
            if !matches!(files.get(top), Some(Node::Dir { .. })) {
                remove(files, top);
                files.insert(top.to_owned(), Node::Dir { mode: 0o755 });
                files.insert(parent.to_owned(), Node::Dir { mode });
            }
        }
    }
    remove(files, path);
    let usual = match path {
        "d" | "d/e" | "f" => 1,
        "l" | "dl" | "d/l" => 2,
        "t.tar" | "u.tgz" => 3,
        "h" => 4,
        "p" => 5,
        _ => 0,
    };
    let kind = if random.once_in(8) { random.below(4) } else { usual };
    let named: Vec<String> = files
        .iter()
        .filter(|(_, node)| matches!(node, Node::File { .. }))
        .map(|(path, _)| path.clone())
        .collect();
    let node = match kind {
        1 => Node::Dir {
            mode: random.pick(DIR_MODES),
        },
        2 => Node::Link(random.of(LINK_TARGETS).to_owned()),
        3 => Node::Tar {
            members: members(random),
            gzip: path.ends_with("gz"),
        },
        4 if !named.is_empty() => Node::Hard(random.pick(&named)),
        5 => Node::Fifo { mode: 0o644 },
        _ => Node::File {
            content: random.of(TEXTS).to_owned(),
            mode: random.pick(FILE_MODES),
            xattr: None,
        },
    };
    files.insert(path.to_owned(), node);
}

fn members(random: &mut Random) -> Vec<Member> {
    let mut members = Vec::new();
    for _ in 0..1 + random.below(4) {
        let name = random.pick(&["m", "n/", "n/o", "q/r", "l", "x"]);
        members.push(Member {
            name,
            mode: random.pick(FILE_MODES) | if name.ends_with('/') { 0o111 } else { 0 },
            owner: random.pick(&[0, 0, 33]),
            content: random.of(TEXTS).to_owned(),
            link: (random.once_in(6) && !name.ends_with('/')).then(|| random.pick(&["m", "n", "/x"])),
        });
    }
    members
}
