//! Small images built in the context K of the specification, and what is in them.

use std::fs;
use std::path::Path;

use rbuild_cache::layer::{Kind, TarReader};
use serde_json::Value;

use crate::env::{Env, Run, as_every_user};

/// The context K. Owners are given only where the builder may give them: they must not matter.
const CONTEXT: &str = r#"
umask 022; mkdir ctx && cd ctx
echo a > a; echo b > b.txt; chmod 4755 b.txt; echo bb > busybox; chmod 755 busybox
mkdir -p d/sub e; printf 1 > d/1; printf 2 > d/sub/2; chmod 750 d
ln -s a lnk; ln -s d dlnk; ln a hard; mkfifo fifo; chmod 640 fifo
mkdir -m 700 tt; echo f > tt/f; ln -s f tt/l
tar --format=pax --owner=33 --group=44 --mtime=@1100000000 --sort=name -cf p.tar tt
gzip -k p.tar; rm -r tt
echo no tar | gzip > nt.gz; head -c 10240 /dev/zero > empty.tar
printf 'PK\003\004 zip' > p.zip; printf '\135\000\000\200 lzma' > p.tar.lzma
touch -d @1000000000 a
if [ "$(id -u)" = 0 ]; then chown 7:8 a; fi
"#;

/// Every user, with base and context.
pub fn each(test: impl Fn(&Env)) {
    as_every_user(|env| {
        env.base();
        let made = env.command("sh").args(["-ec", CONTEXT]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        test(env);
    });
}

/// Each Dockerfile of `table` makes a topmost layer with these members.
pub fn makes_layers(table: &[(&str, &str, &[&str])]) {
    each(|env| {
        for (id, body, expected) in table {
            let layout = env.path("layout");
            build(env, body, &layout, &[]).ok();
            assert_eq!(last_layer(&layout), *expected, "{id}: {body}");
            fs::remove_dir_all(layout).unwrap();
        }
    });
}

/// Each Dockerfile of `table` is refused with these words.
pub fn is_refused(table: &[(&str, &str, &str)]) {
    each(|env| {
        for (id, body, expected) in table {
            let refused = build(env, body, &env.path("layout"), &[]).fails(1);
            assert!(
                refused.stderr.contains(expected),
                "{id}: {body}\n{}",
                refused.stderr
            );
        }
    });
}

/// Builds `dockerfile` in the context K into the uncompressed layout `layout`.
pub fn build(env: &Env, dockerfile: &str, layout: &Path, more: &[&str]) -> Run {
    let file = env.write("Dockerfile", dockerfile);
    let output = format!(
        "type=oci,tar=false,compression=uncompressed,dest={}",
        layout.display()
    );
    let (file, context) = (file.to_str().unwrap(), env.path("ctx"));
    let args = ["build", "--progress=plain", "-o", &output, "-f", file];
    let context = context.to_str().unwrap();
    env.rbuild(args.into_iter().chain(more.iter().copied()).chain([context]))
}

/// The only manifest of a layout.
pub fn manifest(layout: &Path) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let path = blob(layout, &index["manifests"][0]["digest"]);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Where the blob of a digest is.
pub fn blob(layout: &Path, digest: &Value) -> std::path::PathBuf {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    layout.join("blobs/sha256").join(hex)
}

/// `path`, type and mode, owner, content or target or time, of every member of the topmost layer.
pub fn last_layer(layout: &Path) -> Vec<String> {
    let manifest = manifest(layout);
    let layer = manifest["layers"].as_array().unwrap().last().unwrap();
    let file = fs::File::open(blob(layout, &layer["digest"])).unwrap();
    let mut tar = TarReader::layer(file);
    let mut lines = Vec::new();
    while let Some(member) = tar.next_entry().unwrap() {
        let entry = member.entry;
        let mut line = |kind: &str, rest: &str| {
            let path = entry.path.to_string();
            let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
            let line = format!(
                "{} {kind}{mode:o} {uid}:{gid} {rest}",
                path.trim_start_matches('/')
            );
            lines.push(line.trim_end().to_owned());
        };
        match &entry.kind {
            Kind::File { .. } => {
                let mut data = Vec::new();
                while let piece @ [_, ..] = tar.data().unwrap() {
                    data.extend_from_slice(piece);
                    let length = piece.len();
                    tar.consume_data(length);
                }
                // Old files are ours to look at; the others were just made.
                let time = match entry.mtime.seconds {
                    old @ ..1_200_000_000 => format!(" @{old}"),
                    _ => String::new(),
                };
                line(
                    "f",
                    &(String::from_utf8_lossy(&data).trim_end().to_owned() + &time),
                );
            }
            Kind::Directory { .. } => line("d", ""),
            Kind::Symlink { target } => line("l", &String::from_utf8_lossy(target)),
            Kind::Hardlink { target } => line("h", &target.to_string()),
            Kind::Fifo => line("p", ""),
            other => panic!("{other:?}"),
        }
    }
    lines
}
