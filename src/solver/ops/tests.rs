//! Copies from a real directory or a tree in memory onto a tree in memory, and the entries that come out.

mod archives;
mod golden;
mod memory;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rbuild_cache::ContentDigest;
use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::tree::{Tree, TreeError};
use rbuild_parser::ignore::Matcher;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use super::{EntrySink, Sources, copy, mkdir};
use crate::graph::{CopyOp, CopySource, InlineFile, MkdirOp, Unpack};
use crate::source::local::LocalContext;
use memory::Memory;

const NOW: Timestamp = Timestamp {
    seconds: 42,
    nanoseconds: 7,
};

fn path(text: &str) -> LayerPath {
    LayerPath::clean(text.as_bytes())
}

/// The operation of an instruction as the specification writes it: words split at blanks, no quotes.
fn op(instruction: &str) -> CopyOp {
    let mut words = instruction.split(' ').peekable();
    let unpack = if words.next() == Some("ADD") {
        Unpack::Archives
    } else {
        Unpack::Never
    };
    let mut op = CopyOp {
        sources: Vec::new(),
        dest: String::new(),
        cwd: "/".to_owned(),
        chown: None,
        chmod: None,
        excludes: Vec::new(),
        parents: false,
        link: false,
        unpack,
        itself: false,
        reset_owner: true,
    };
    while let Some(flag) = words.next_if(|word| word.starts_with("--")) {
        let (name, value) = flag[2..].split_once('=').unwrap_or((&flag[2..], ""));
        match name {
            "chown" => op.chown = Some(value.to_owned()),
            "chmod" => op.chmod = Some(value.to_owned()),
            "exclude" => op.excludes.push(value.to_owned()),
            "parents" => op.parents = true,
            "link" => op.link = true,
            "cwd" => op.cwd = value.to_owned(),
            "from" => op.reset_owner = false,
            _ => panic!("{flag}"),
        }
    }
    let mut operands: Vec<String> = words.map(str::to_owned).collect();
    op.dest = operands.pop().unwrap();
    op.sources = operands
        .into_iter()
        .map(|operand| match operand.strip_prefix("<<") {
            Some(name) => CopySource::Inline(InlineFile {
                name: name.to_owned(),
                data: "inline\n".to_owned(),
            }),
            None => CopySource::Path(operand),
        })
        .collect();
    op
}

fn copied(op: &CopyOp, source: &dyn Tree, base: &Memory) -> anyhow::Result<Memory> {
    let selection = copy::selection(op, Sources::of(source))?;
    let plan = copy::plan(op, &selection, Sources::of(source), base)?;
    let mut layer = Memory::default();
    plan.write(Sources::of(source), None, &mut layer, NOW)?;
    Ok(layer)
}

fn run(instruction: &str, source: &dyn Tree, base: &Memory) -> anyhow::Result<Memory> {
    copied(&op(instruction), source, base)
}

fn write(root: &Path, name: &str, mode: u32, data: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, data).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_mtime(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 5,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mkfifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
}

/// Context K of section 16.
fn context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let k = dir.path();
    for (name, mode, data) in [
        ("a", 0o644, "a\n"),
        ("b.txt", 0o4755, "b\n"),
        ("busybox", 0o755, "bb"),
        ("c d/z", 0o600, "z"),
        ("d/1", 0o644, "1"),
        ("d/sub/2", 0o644, "2"),
    ] {
        write(k, name, mode, data.as_bytes());
    }
    fs::create_dir(k.join("e")).unwrap();
    for (name, mode) in [("d", 0o750), ("d/sub", 0o755), ("e", 0o755), ("c d", 0o755)] {
        fs::set_permissions(k.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("a", k.join("lnk")).unwrap();
    symlink("d", k.join("dlnk")).unwrap();
    fs::hard_link(k.join("a"), k.join("hard")).unwrap();
    mkfifo(&k.join("fifo"));
    fs::set_permissions(k.join("fifo"), fs::Permissions::from_mode(0o640)).unwrap();
    set_mtime(&k.join("a"), 1_000_000_000);
    dir
}

/// Base, instruction, entries of the layer (or the error that begins with `!`).
fn check(vectors: &[(&[&str], &str, &[&str])], source: &dyn Tree) {
    for (base, instruction, wanted) in vectors {
        match (
            run(instruction, source, &Memory::of(base)),
            wanted.first().and_then(|w| w.strip_prefix('!')),
        ) {
            (Ok(layer), None) => assert_eq!(layer.lines(false), *wanted, "{instruction}"),
            (Err(error), Some(text)) => {
                assert!(format!("{error:#}").contains(text), "{instruction}: {error:#}");
            }
            (Ok(layer), Some(_)) => panic!("{instruction} gave {:#?}", layer.lines(false)),
            (Err(error), None) => panic!("{instruction}: {error:#}"),
        }
    }
}

#[test]
fn a_whole_context_keeps_its_shape() {
    let dir = context();
    let k = LocalContext::open(dir.path(), None, None).unwrap();
    let layer = run("COPY . /x/", &k, &Memory::default()).unwrap();
    let lines = layer.lines(true);
    for wanted in [
        "/x d 755 0:0 @42",
        "/x/a f 644 0:0 a\n @1000000000",
        "/x/hard h 644 0:0 /x/a @1000000000",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted}: {lines:#?}");
    }
    let lines = layer.lines(false);
    for wanted in [
        "/x/d d 750 0:0",
        "/x/lnk l 777 0:0 a",
        "/x/dlnk l 777 0:0 d",
        "/x/fifo p 640 0:0",
        "/x/c d d 755 0:0",
        "/x/e d 755 0:0",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted}: {lines:#?}");
    }
    let layer = run("COPY --chmod=u=rwX,go=rX . n/", &k, &Memory::default()).unwrap();
    let lines = layer.lines(false);
    for wanted in [
        "/n/b.txt f 755 0:0 b",
        "/n/d d 755 0:0",
        "/n/d/1 f 644 0:0 1",
        "/n/lnk l 777 0:0 a",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted}: {lines:#?}");
    }
    let layer = run(
        "COPY --exclude=*.txt --exclude=d/sub --exclude=bus* . /n/",
        &k,
        &Memory::default(),
    )
    .unwrap();
    for gone in ["/n/b.txt", "/n/busybox", "/n/d/sub", "/n/d/sub/2"] {
        assert!(!layer.0.contains_key(&path(gone)), "{gone}");
    }
    assert!(layer.0.contains_key(&path("/n/d/1")));
}

#[test]
fn owners_of_stages_are_kept() {
    let stage = Memory::of(&[
        "/a f 4755 7:8 a",
        "/o d 700 1:2",
        "/o/p d 711 3:4",
        "/o/p/f f 600 5:6 f",
    ]);
    for (instruction, wanted) in [
        ("COPY --from=s a /n/", &["/n d 755 0:0", "/n/a f 4755 7:8 a"][..]),
        (
            "COPY --from=s /o /n",
            &["/n d 755 0:0", "/n/p d 711 3:4", "/n/p/f f 600 5:6 f"],
        ),
        (
            "COPY --from=s --chown=9 /o /n",
            &["/n d 755 9:9", "/n/p d 711 9:9", "/n/p/f f 600 9:9 f"],
        ),
    ] {
        assert_eq!(
            run(instruction, &stage, &Memory::default()).unwrap().lines(false),
            wanted,
            "{instruction}"
        );
    }
}

#[test]
fn ignored_files_do_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        ".hidden",
        "a.txt",
        "b.log",
        "d/a.txt",
        "d/sub/a.txt",
        "d/sub/c.log",
        "x/node_modules/q.js",
    ] {
        write(dir.path(), name, 0o644, b"x");
    }
    fs::create_dir(dir.path().join("empty")).unwrap();
    // Patterns, what there is.
    let cases: &[(&[&str], &str)] = &[
        (
            &["*.log", "x"],
            "/.hidden /a.txt /d /d/a.txt /d/sub /d/sub/a.txt /d/sub/c.log /empty",
        ),
        (&["*", "!d/sub/a.txt"], "/d /d/sub /d/sub/a.txt"),
        (&["*", "!nothing"], ""),
        (
            &["d", "!d/sub", ".*", "empty", "x"],
            "/a.txt /b.log /d /d/sub /d/sub/a.txt /d/sub/c.log",
        ),
        (
            &["d/**/a.txt", "**/q.js", "empty/**"],
            "/.hidden /a.txt /b.log /d /d/sub /d/sub/c.log /empty /x /x/node_modules",
        ),
        (
            &["**/*.txt", "!**/sub/*.txt", "**/*.js", "x", "empty"],
            "/.hidden /b.log /d /d/sub /d/sub/a.txt /d/sub/c.log",
        ),
    ];
    for (patterns, wanted) in cases {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let open = || LocalContext::open(dir.path(), Some(Matcher::new(&patterns).unwrap()), None).unwrap();
        let seen = |tree: &LocalContext| {
            let layer = run("COPY . /", tree, &Memory::default()).unwrap();
            layer
                .0
                .keys()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(seen(&open()), *wanted, "{patterns:?}");
        // Names that are asked for one by one are the same as those of a walk.
        for name in [
            ".hidden",
            "a.txt",
            "b.log",
            "d",
            "d/a.txt",
            "d/sub",
            "d/sub/c.log",
            "empty",
            "x",
        ] {
            let exists = wanted.split(' ').any(|path| path == format!("/{name}"));
            assert_eq!(
                open().lookup(&path(name)).unwrap().is_some(),
                exists,
                "{patterns:?} {name}"
            );
        }
    }
}

#[test]
fn sockets_are_left_out_and_links_do_not_leave() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "m/f", 0o644, b"f");
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", 0o600, b"secret");
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink("/m/f", dir.path().join("absolute")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("m/sock")).unwrap();
    let tree = LocalContext::open(dir.path(), None, None).unwrap();
    let layer = run("COPY m /m/", &tree, &Memory::default()).unwrap();
    assert_eq!(layer.lines(false), ["/m d 755 0:0", "/m/f f 644 0:0 f"]);
    assert_eq!(tree.take_warnings(), ["/m/sock is a socket and was left out"]);
    assert!(tree.take_warnings().is_empty());
    assert_eq!(
        run("COPY absolute /e", &tree, &Memory::default())
            .unwrap()
            .lines(false),
        ["/e f 644 0:0 f"]
    );
    let error = run("COPY out/secret /s", &tree, &Memory::default()).unwrap_err();
    assert!(error.to_string().contains("not found"), "{error:#}");
}

#[test]
fn keys_see_what_a_layer_gets_and_nothing_else() {
    let dir = context();
    let select = |instruction: &str| {
        let k = LocalContext::open(dir.path(), None, None).unwrap();
        copy::selection(&op(instruction), Sources::of(&k)).unwrap()
    };
    let key = || select("COPY . /").key();
    let first = key();
    assert_eq!(first, key());
    set_mtime(&dir.path().join("a"), 77);
    assert_eq!(first, key(), "times are not in the key");
    fs::set_permissions(dir.path().join("e"), fs::Permissions::from_mode(0o700)).unwrap();
    let second = key();
    assert_ne!(first, second, "modes of directories are");
    fs::write(dir.path().join("a"), "A\n").unwrap();
    let third = key();
    assert_ne!(second, third);
    fs::remove_file(dir.path().join("hard")).unwrap();
    fs::write(dir.path().join("hard"), "A\n").unwrap();
    assert_ne!(third, key(), "links are");
    // What is not copied does not count, nor the name of a directory whose contents are copied.
    let third = select("COPY d /").key();
    fs::write(dir.path().join("b.txt"), "other").unwrap();
    assert_eq!(third, select("COPY d /").key());
    assert_eq!(third, select("COPY dlnk /").key());
    assert_ne!(select("COPY a /").key(), select("COPY lnk /").key());
    assert_eq!(select("COPY d/1 /").facts().count(), 1);
}

#[test]
fn facts_are_what_was_looked_at() {
    let dir = context();
    let k = LocalContext::open(dir.path(), None, None).unwrap();
    let facts = |instruction: &str, base: &[&str]| {
        let op = op(instruction);
        let selection = copy::selection(&op, Sources::of(&k)).unwrap();
        copy::plan(&op, &selection, Sources::of(&k), &Memory::of(base))
            .unwrap()
            .facts_key()
    };
    let plain = facts("COPY a /x/", &["/x d 755 0:0"]);
    assert_eq!(plain, facts("COPY a /x/", &["/x d 755 0:0", "/y f 644 0:0 y"]));
    assert_ne!(plain, facts("COPY a /x/", &["/x d 755 1:1"]));
    assert_ne!(plain, facts("COPY a /x/", &[]));
    let passwd = |id: u32| format!("/etc/passwd f 644 0:0 bob:x:{id}:1::/:\n");
    let chown = |id| facts("COPY --chown=bob a /x", &["/etc d 755 0:0", &passwd(id)]);
    assert_ne!(chown(1), chown(2));
    assert_eq!(
        facts("COPY --link a /x/", &[]),
        facts("COPY --link a /x/", &["/x l 777 0:0 /y"])
    );
}

#[test]
fn a_change_after_the_key_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (data, after) in [("same size", "SAME SIZE"), ("longer", "long"), ("gone", "")] {
        write(dir.path(), "f", 0o644, data.as_bytes());
        let tree = LocalContext::open(dir.path(), None, None).unwrap();
        let op = op("COPY f /x");
        let selection = copy::selection(&op, Sources::of(&tree)).unwrap();
        let base = Memory::default();
        let plan = copy::plan(&op, &selection, Sources::of(&tree), &base).unwrap();
        if after.is_empty() {
            fs::remove_file(dir.path().join("f")).unwrap();
        } else {
            fs::write(dir.path().join("f"), after).unwrap();
        }
        let error = plan
            .write(Sources::of(&tree), None, &mut Memory::default(), NOW)
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("/f"), "{text}");
        let what = if after.is_empty() {
            "removed while the context was being read"
        } else {
            "changed while it was being copied"
        };
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn files_larger_than_a_block_are_streamed() {
    let dir = tempfile::tempdir().unwrap();
    let data = |size: usize| (0..size).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>();
    let sizes = [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_333_333, 5, 1 << 21];
    for (index, size) in sizes.iter().enumerate() {
        write(dir.path(), &format!("f{index}"), 0o644, &data(*size));
    }
    let tree = LocalContext::open(dir.path(), None, None).unwrap();
    let layer = run("COPY . /", &tree, &Memory::default()).unwrap();
    for (index, size) in sizes.iter().enumerate() {
        assert!(layer.0[&path(&format!("f{index}"))].1 == data(*size), "f{index}");
    }
}

#[test]
fn directories_are_made_for_workdir() {
    let passwd = "/etc/passwd f 644 0:0 bob:x:12:34::/:\n";
    for (base, dir, user, wanted) in [
        (
            &[][..],
            "/wd/x",
            "4242",
            &["/wd d 755 4242:4242", "/wd/x d 755 4242:4242"][..],
        ),
        (&["/wd d 700 1:1"], "/wd", "bob", &[]),
        (
            &["/wd d 700 1:1"],
            "/wd/x",
            "",
            &["/wd d 700 1:1", "/wd/x d 755 0:0"],
        ),
        (
            &["/l l 777 0:0 ../../real"],
            "/l/x",
            "",
            &["/real d 755 0:0", "/real/x d 755 0:0"],
        ),
        (&["/etc d 755 0:0", passwd], "/w", "bob", &["/w d 755 12:34"]),
        (&[], "/", "nobody", &[]),
        (&["/f f 644 0:0 f"], "/f", "", &["!not a directory"]),
        (&["/f f 644 0:0 f"], "/f/g", "", &["!non-directory"]),
    ] {
        let op = MkdirOp {
            path: dir.to_owned(),
            user: user.to_owned(),
        };
        let mut layer = Memory::default();
        let result = mkdir::plan(&op, &Memory::of(base))
            .and_then(|plan| plan.write(Sources::default(), None, &mut layer, NOW));
        match (result, wanted.first().and_then(|wanted| wanted.strip_prefix('!'))) {
            (Ok(()), None) => assert_eq!(layer.lines(false), wanted, "{dir}"),
            (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{dir}: {error}"),
            (result, _) => panic!("{dir}: {result:?}"),
        }
    }
}

#[test]
fn a_second_layer_lies_on_the_first() {
    let dir = context();
    let k = LocalContext::open(dir.path(), None, None).unwrap();
    let mut base = Memory::default();
    for instruction in ["COPY d /x", "COPY a /x", "COPY --chown=3 d/sub /x/sub"] {
        let layer = run(instruction, &k, &base).unwrap();
        base.apply(&layer);
    }
    let wanted = [
        "/x d 755 0:0",
        "/x/1 f 644 0:0 1",
        "/x/a f 644 0:0 a",
        "/x/sub d 755 0:0",
        "/x/sub/2 f 644 3:3 2",
    ];
    assert_eq!(base.lines(false), wanted);
}
