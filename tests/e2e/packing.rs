use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rbuild_cache::layer::{Kind, TarReader};

use crate::built::{blob, manifest};
use crate::env::{Env, Run, as_every_user, has};

/// Everything of every member of the topmost layer of `layout`, with the sizes and sums of the files.
fn members(layout: &Path) -> Vec<String> {
    let manifest = manifest(layout);
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    let file = fs::File::open(blob(layout, &layer["digest"])).unwrap();
    let mut tar = TarReader::layer(file);
    let mut lines = Vec::new();
    while let Some(member) = tar.next_entry().unwrap() {
        let entry = member.entry;
        let mut sum = blake3::Hasher::new();
        if matches!(entry.kind, Kind::File { .. }) {
            while let piece @ [_, ..] = tar.data().unwrap() {
                sum.update(piece);
                let length = piece.len();
                tar.consume_data(length);
            }
        }
        let name = entry.path.as_bytes().escape_ascii().to_string();
        let kind = match &entry.kind {
            Kind::Symlink { target } => format!("link to {}", target.escape_ascii()),
            kind => format!("{kind:?}"),
        };
        let attributes: Vec<String> = entry
            .xattrs
            .iter()
            .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        let sum = sum.finalize().to_hex();
        lines.push(format!(
            "{name} {kind} {:o} {}:{} {attributes:?} {:.16}",
            entry.mode, entry.uid, entry.gid, sum
        ));
    }
    lines
}

/// Builds into an uncompressed layout, from a directory or from what `input` gives; the members of the last layer.
fn layer_of(env: &Env, args: &[&str], input: Option<&[u8]>) -> (Vec<String>, Run) {
    let layout = env.path("layout");
    let _ = fs::remove_dir_all(&layout);
    let output = format!(
        "type=oci,tar=false,compression=uncompressed,dest={}",
        layout.display()
    );
    let mut command = env.rbuild_command(["build", "--progress=plain", "-o", &output]);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    if let Some(input) = input {
        child.stdin.take().unwrap().write_all(input).unwrap();
    }
    let run = Run::from(child.wait_with_output().unwrap()).ok();
    (members(&layout), run)
}

/// Odd things below `odd/t`, among them a path of 4,000 bytes.
const ODD: &str = r#"
import os, stat, sys
os.makedirs("odd/t/d"); os.chdir("odd/t")
open("one", "w").write("linked"); os.link("one", "d/two"); os.link("one", "zwei")
with open("sparse", "wb") as f: f.truncate(3 << 20); f.seek(1 << 20); f.write(b"data"); f.truncate(3 << 20)
open(b"not-utf8-\xff\xfe", "w").write("bytes"); open("new\nline", "w").write("n"); open("tab\t '\"\\", "w").write("q")
os.symlink(b"to \xff\n", b"li\xffnk"); open("empty", "w"); os.mkdir("hollow", 0o700)
open("attr", "w").write("x"); os.setxattr("attr", "user.note", b"\0\xff\n="); os.setxattr("d", "user.dir", b"of d")
os.mkfifo("fifo", 0o640)
depth = 0
while depth + 201 < 4000 - 10:
    name = "%03d" % (depth // 201) + "x" * 197
    os.mkdir(name); os.chdir(name); depth += 201
open("bottom", "w").write("deep")
"#;

#[test]
fn odd_files_survive_from_directories_archives_and_stages() {
    if !has("python3") {
        return;
    }
    as_every_user(|env| {
        // Whoever runs the tests has a Python; the user may not.
        let folder = env.path("");
        let mut python = Command::new("python3");
        let made = python.args(["-c", ODD]).current_dir(&folder).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut chown = Command::new("chown");
        chown.arg("-hR").arg(format!("--reference={}", folder.display()));
        assert!(chown.arg(env.path("odd")).status().unwrap().success());
        let copy = "FROM scratch AS s\nCOPY t /t\n";
        let staged = "FROM scratch AS s\nCOPY t /t\nFROM scratch\nCOPY --from=s /t /t\n";
        env.write("odd/Dockerfile", copy);
        env.write("odd/Staged", staged);
        let context = env.path("odd");
        let context = context.to_str().unwrap();
        let (direct, _) = layer_of(env, &[context], None);
        let has = |start: &str, part: &str| {
            let line = direct.iter().find(|line| line.starts_with(start));
            assert!(
                line.is_some_and(|line| line.contains(part)),
                "{start}: {direct:#?}"
            );
        };
        has("t/attr File { size: 1 } 644", r#"["user.note=\\x00\\xff\\n="]"#);
        has("t/d Directory", "user.dir=of d");
        has("t/one Hardlink { target: /t/d/two }", "644");
        has("t/zwei Hardlink { target: /t/d/two }", "644");
        has(r"t/not-utf8-\xff\xfe File", "size: 5");
        has(r"t/new\nline File", "size: 1");
        has(r"t/li\xffnk link to to \xff\n", "777");
        has("t/sparse File { size: 3145728 }", "644");
        has("t/hollow Directory", " 700 ");
        has("t/fifo Fifo 640", "");
        let longest = direct.iter().map(|line| line.find(" File").unwrap_or(0)).max();
        assert!(longest > Some(3800), "{longest:?}");

        let (of_stage, _) = layer_of(env, &["-f", &format!("{context}/Staged"), context], None);
        assert_eq!(of_stage, direct);
        let packed = env
            .command("tar")
            .args([
                "-C",
                context,
                "--format=pax",
                "--xattrs",
                "--owner=3",
                "--group=4",
                "-c",
                ".",
            ])
            .output()
            .unwrap();
        let (of_archive, _) = layer_of(env, &["-"], Some(&packed.stdout));
        let owned: Vec<String> = of_archive
            .iter()
            .map(|line| line.replace(" 3:4 ", " 0:0 "))
            .collect();
        assert_eq!(owned, direct);
        let (staged_archive, _) = layer_of(env, &["-f", "Staged", "-"], Some(&packed.stdout));
        assert_eq!(staged_archive, of_archive);
    });
}

#[test]
fn what_is_ignored_or_not_named_is_not_looked_at() {
    as_every_user(|env| {
        let ignore = "ignored\n**/*.log\nheld\n!held/in/kept\n";
        env.context(
            "wide",
            &[
                (".dockerignore", ignore),
                ("Dockerfile", "FROM scratch\nCOPY named /n\nCOPY one.txt /\n"),
                ("named/file", "f"),
                ("named/no.log", "l"),
                ("one.txt", "1"),
                ("two.txt", "2"),
                ("ignored/deep/file", "x"),
                ("held/in/kept", "k"),
                ("held/out/file", "o"),
                ("other/file", "z"),
            ],
        );
        let context = env.path("wide");
        let calls = "openat,openat2,open,statx,newfstatat,lstat,stat,llistxattr,getdents64";
        let Some(trace) = env.trace(calls, &["build", "-q", "-t", "wide", context.to_str().unwrap()]) else {
            return;
        };
        assert!(trace.contains("\"file\"") && trace.contains("one.txt"), "{trace}");
        for name in [
            "no.log",
            "two.txt",
            "\"ignored",
            "deep",
            "held/out",
            "\"out\"",
            "other",
        ] {
            assert!(!trace.contains(name), "{name} was looked at:\n{trace}");
        }
    });
}

/// The only file of the topmost layer.
fn content(layout: &Path) -> Vec<u8> {
    let manifest = manifest(layout);
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    let mut tar = TarReader::layer(fs::File::open(blob(layout, &layer["digest"])).unwrap());
    let mut data = Vec::new();
    while let Some(member) = tar.next_entry().unwrap() {
        if matches!(member.entry.kind, Kind::File { .. }) {
            while let piece @ [_, ..] = tar.data().unwrap() {
                data.extend_from_slice(piece);
                let length = piece.len();
                tar.consume_data(length);
            }
        }
    }
    data
}

/// A writer flips a file of 1 MB, and cuts it short, while builds copy it. `RBUILD_FLIPS` says how often; 10,000 for the figures.
#[test]
fn a3_11_a_file_that_changes_while_it_is_copied() {
    const SIZE: usize = 1 << 20;
    let flips: usize = std::env::var("RBUILD_FLIPS").map_or(200, |text| text.parse().unwrap());
    as_every_user(|env| {
        let file = env.write("live/file", vec![b'a'; SIZE]);
        env.write("live/Dockerfile", "FROM scratch\nCOPY file /\n");
        let context = env.path("live");
        let layout = env.path("layout");
        let output = format!(
            "type=oci,tar=false,compression=uncompressed,dest={}",
            layout.display()
        );
        let build = || {
            let _ = fs::remove_dir_all(&layout);
            env.rbuild(["build", "-q", "-o", &output, context.to_str().unwrap()])
        };
        let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let mut seen = BTreeSet::new();
        let (mut made, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let open = fs::File::options().write(true).open(&file).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    let byte = if number % 2 == 0 { b'b' } else { b'a' };
                    if number % 8 == 5 {
                        open.set_len(SIZE as u64 / 3).unwrap();
                    }
                    open.write_all_at(&vec![byte; SIZE], 0).unwrap();
                    // Builds of a file that never rests show little: most are refused.
                    std::thread::sleep(std::time::Duration::from_millis(if number % 16 < 4 {
                        30
                    } else {
                        1
                    }));
                }
            });
            while done.load(Ordering::Relaxed) < flips && !writer.is_finished() {
                let run = build();
                match run.code {
                    Some(0) => {
                        made += 1;
                        seen.insert(content(&layout));
                    }
                    // No signal either: nothing of a context is mapped.
                    Some(1) => {
                        refused += 1;
                        assert!(run.stderr.contains("/file"), "{}", run.stderr);
                        assert!(run.stderr.contains("changed while it was"), "{}", run.stderr);
                    }
                    other => panic!("{other:?}: {}", run.stderr),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        // Whatever got into a layer did so under its own key: the same bytes lead to it, and others do not.
        for bytes in seen.iter().chain([&vec![b'a'; SIZE], &vec![b'b'; SIZE]]) {
            fs::write(&file, bytes).unwrap();
            build().ok();
            assert!(content(&layout) == *bytes, "a key led to the bytes of another");
        }
        let (flips, kinds) = (done.into_inner(), seen.len());
        println!("{flips} flips: {made} builds of {kinds} contents, {refused} refused");
    });
}

#[test]
fn a_layer_is_made_of_an_earlier_one_only_as_far_as_that_is_sound() {
    as_every_user(|env| {
        let big = |byte: u8| vec![byte; 70_000];
        for name in ["a", "b", "c"] {
            env.write(&format!("parts/d/{name}"), big(name.as_bytes()[0]));
        }
        env.write("parts/Dockerfile", "FROM scratch\nCOPY d /d\n");
        // What a file just written has is not remembered, and so read again.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let context = env.path("parts");
        let context = context.to_str().unwrap();
        let (first, _) = layer_of(env, &[context], None);
        let tar = || {
            let blobs = fs::read_dir(env.store().join("blobs/sha256")).unwrap();
            let mut files: Vec<_> = blobs.map(|blob| blob.unwrap().path()).collect();
            files.retain(|path| fs::metadata(path).unwrap().len() > 200_000);
            files
        };
        let layer = tar();
        assert_eq!(layer.len(), 1);
        // The new layer takes what did not change out of the old one: the files are not even opened.
        env.write("parts/d/b", big(b'x'));
        if let Some(trace) = env.trace("openat,openat2,open", &["build", "-q", context]) {
            assert!(
                trace.contains("d/b\"") && !trace.contains("d/a\"") && !trace.contains("d/c\""),
                "{trace}"
            );
        }
        let expected = |env: &Env, change: u8| {
            env.write("parts/d/b", big(change));
            let (made, _) = layer_of(env, &[context], None);
            env.rbuild(["prune", "--all", "--force"]).ok();
            let (fresh, run) = layer_of(env, &[context], None);
            assert_eq!(run.count("CACHED"), 0);
            assert_eq!(made, fresh);
            assert_ne!(made, first);
        };
        expected(env, b'y');
        // Of a spoiled tar nothing is taken, and nothing of it is left.
        for (number, spoil) in [
            (&|file: &fs::File| file.write_all_at(b"?", 100_000).unwrap()) as &dyn Fn(&fs::File),
            &|file| file.set_len(100_000).unwrap(),
        ]
        .into_iter()
        .enumerate()
        {
            let [layer] = &tar()[..] else {
                panic!("{:?}", tar())
            };
            spoil(&fs::File::options().write(true).open(layer).unwrap());
            expected(env, b'0' + number as u8);
        }
    });
}
