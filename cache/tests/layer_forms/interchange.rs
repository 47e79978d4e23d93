//! Layers and other programs: GNU tar and Python's tarfile.

use std::fs;
use std::process::Command;

use rbuild_cache::layer::{Entry, Kind, LayerPath, Ownership, TarReader, Timestamp, walk_tree};

use super::{Fixture, build, dir, entry, file, fixture, path};

/// Everything that makes headers difficult.
fn awkward() -> Vec<(Entry, &'static [u8])> {
    let long = format!("d/{}", "l".repeat(150));
    let deep = format!("d/{}/{}", "p".repeat(120), "q".repeat(90));
    let mut fractional = file("d/fraction", 3);
    fractional.mtime = Timestamp {
        seconds: -5,
        nanoseconds: 250_000_000,
    };
    fractional.xattrs = vec![(b"user.binary".to_vec(), b"a\0=\n\xff".to_vec())];
    let mut owned = file("d/owned", 0);
    (owned.uid, owned.gid, owned.mode) = (3_000_000, 4_000_000_000, 0o6755);
    let mut list = vec![
        (dir("d"), &b""[..]),
        (file("d/new\nline", 1), b"n"),
        (file(&long, 2), b"ll"),
        (dir(&format!("d/{}", "p".repeat(120))), b""),
        (file(&deep, 4), b"deep"),
        (fractional, b"abc"),
        (owned, b""),
        (file("d/\u{fc}ber", 2), b"uu"),
        (
            entry(
                "d/link",
                Kind::Symlink {
                    target: "t/".repeat(80).into_bytes(),
                },
                0o777,
            ),
            b"",
        ),
        (
            entry("d/zz-hard", Kind::Hardlink { target: path(&long) }, 0o644),
            b"",
        ),
        (entry("fifo", Kind::Fifo, 0o600), b""),
    ];
    let mut raw = file("x", 1);
    raw.path = LayerPath::root().join(b"raw-\xff\xfe");
    list.push((raw, b"r"));
    list.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    list
}

#[test]
fn other_programs_read_what_is_written() {
    let Fixture { store, _directory } = &fixture();
    let id = build(store, &awkward());
    let tar = store.blob_path(&store.layer(&id).unwrap().tar().unwrap());
    let script = "import tarfile,sys\nfor m in tarfile.open(sys.argv[1]): print(ascii(m.name), m.type.decode(), oct(m.mode), m.uid, m.gid, m.size, float(m.mtime), ascii(m.linkname[:9]))";
    if let Ok(output) = Command::new("python3").args(["-c", script]).arg(&tar).output() {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), awkward().len());
        assert!(text.contains("'d/fraction' 0 0o644 0 0 3 -4.75"), "{text}");
        assert!(text.contains("'d/owned' 0 0o6755 3000000 4000000000 0"), "{text}");
        assert!(text.contains("'d/\\xfcber'"), "{text}");
    }
    if rustix::process::geteuid().is_root() {
        let out = _directory.path().join("gnu");
        fs::create_dir(&out).unwrap();
        let status = Command::new("tar")
            .args([
                "-x",
                "--xattrs",
                "--xattrs-include=*",
                "--numeric-owner",
                "-p",
                "-f",
            ])
            .arg(&tar)
            .arg("-C")
            .arg(&out)
            .status()
            .unwrap();
        assert!(status.success());
        let extracted = walk_tree(&out, Ownership::Real).unwrap();
        let expected: Vec<Entry> = awkward().into_iter().map(|(entry, _)| entry).collect();
        let unpacked = walk_tree(&store.layer(&id).unwrap().tree().unwrap(), Ownership::Real).unwrap();
        for (ours, written) in unpacked.entries().iter().zip(&expected) {
            if matches!(written.kind, Kind::Hardlink { .. }) {
                assert_eq!(ours.entry.kind, written.kind);
            } else {
                assert_eq!(ours.entry, *written);
            }
        }
        assert_eq!(extracted, unpacked);
    }
}

#[test]
fn what_other_programs_write_is_read() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners and trees need root");
        return;
    }
    let Fixture { store, _directory } = &fixture();
    let id = build(store, &awkward());
    let tree = store.layer(&id).unwrap().tree().unwrap();
    let expected = walk_tree(&tree, Ownership::Real).unwrap();
    for format in ["gnu", "pax", "posix", "oldgnu"] {
        let out = _directory.path().join(format!("{format}.tar"));
        let mut command = Command::new("tar");
        command
            .arg("-c")
            .arg(format!("--format={format}"))
            .args(["--numeric-owner", "--sort=name", "-f"])
            .arg(&out);
        if format != "gnu" && format != "oldgnu" {
            command.args(["--xattrs", "--xattrs-include=*"]);
        }
        assert!(command.arg("-C").arg(&tree).arg(".").status().unwrap().success());
        let mut reader = TarReader::archive(fs::File::open(&out).unwrap());
        let mut assembler = rbuild_cache::layer::IndexAssembler::new();
        while let Some(member) = reader.next_entry().unwrap() {
            assembler.push(member).unwrap();
        }
        let index = assembler.finish();
        assert_eq!(index.entries().len(), expected.entries().len(), "{format}");
        for (read, is) in index.entries().iter().zip(expected.entries()) {
            let mut is = is.entry.clone();
            if format == "gnu" || format == "oldgnu" {
                is.xattrs.clear();
                is.mtime.nanoseconds = 0;
            }
            let mut read = read.entry.clone();
            if format == "gnu" || format == "oldgnu" {
                // GNU cuts a negative time with a fraction the other way.
                read.mtime = is.mtime;
            }
            assert_eq!(read, is, "{format}");
        }
    }
}
