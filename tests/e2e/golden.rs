//! The golden vectors of the specification (section 16), each built by the real binary. V45 and V46 need an HTTP server,
//! V55 and V56 mounts; V60 is in `reproducible`.

mod vectors;

use std::fs;
use std::path::Path;

use rbuild_cache::layer::{Kind, TarReader};
use serde_json::Value;

use crate::env::{Env, Run, as_every_user};
use vectors::{CONFIGS, LAYERS, REFUSED};

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

#[test]
fn layers_are_as_buildkit_makes_them() {
    each(|env| {
        for (id, body, expected) in LAYERS {
            let layout = env.path("layout");
            build(env, body, &layout, &[]).ok();
            let found = last_layer(&layout);
            assert_eq!(found, *expected, "{id}: {body}");
            fs::remove_dir_all(layout).unwrap();
        }
    });
}

#[test]
fn what_buildkit_refuses_is_refused() {
    each(|env| {
        for (id, body, expected) in REFUSED {
            let refused = build(env, body, &env.path("layout"), &[]).fails(1);
            assert!(
                refused.stderr.contains(expected),
                "{id}: {body}\n{}",
                refused.stderr
            );
        }
    });
}

#[test]
fn configs_are_as_buildkit_makes_them() {
    each(|env| {
        for (id, body, pointer, expected) in CONFIGS {
            let layout = env.path("layout");
            build(env, body, &layout, &[]).ok();
            let manifest = manifest(&layout);
            let config = blob(&layout, &manifest["config"]["digest"]);
            let config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(config.pointer(pointer).unwrap_or(&Value::Null), &expected, "{id}");
            fs::remove_dir_all(layout).unwrap();
        }
    });
}

#[test]
fn v57_a_script_with_an_interpreter_is_run_by_it() {
    each(|env| {
        let body = "FROM base\nRUN <<E\n#!/bin/cat\nthe script $itself\nE";
        let run = build(env, body, &env.path("layout"), &[]).ok();
        assert!(run.stderr.contains("the script $itself"), "{}", run.stderr);
    });
}

#[test]
fn v58_v59_ignore_files() {
    each(|env| {
        let body = "FROM scratch\nCOPY d /";
        let layout = env.path("layout");
        env.write("ctx/.dockerignore", "*\n!d/sub/2\n");
        build(env, body, &layout, &[]).ok();
        assert_eq!(last_layer(&layout), ["sub d755 0:0", "sub/2 f644 0:0 2"], "V58");
        fs::remove_dir_all(&layout).unwrap();
        env.write("Dockerfile.dockerignore", "");
        build(env, body, &layout, &[]).ok();
        assert_eq!(
            last_layer(&layout),
            ["1 f644 0:0 1", "sub d755 0:0", "sub/2 f644 0:0 2"],
            "V59"
        );
    });
}

#[test]
fn p18_a_changed_base_leaves_a_linked_copy_cached() {
    each(|env| {
        let build = |base: &str| {
            let body =
                format!("FROM base\nRUN echo {base} > /base && mkdir -p /srv/{base}\nCOPY --link d /srv/x/");
            let layout = env.path("layout");
            let run = build(env, &body, &layout, &[]).ok();
            let layers = manifest(&layout)["layers"].as_array().unwrap().clone();
            fs::remove_dir_all(&layout).unwrap();
            (run, layers.last().unwrap()["digest"].clone())
        };
        let (_, first) = build("one");
        let (run, second) = build("two");
        assert_eq!(first, second);
        assert_eq!(run.count("CACHED"), 1, "{}", run.stderr);
        // And a base that has a link where the copy goes changes nothing.
        let odd = "RUN rm -rf /srv && ln -s /tmp /srv && echo three\nCOPY --link d /srv/x/";
        let layout = env.path("layout");
        self::build(env, &format!("FROM base\n{odd}"), &layout, &[]).ok();
        let layers = manifest(&layout)["layers"].as_array().unwrap().clone();
        assert_eq!(layers.last().unwrap()["digest"], first);
    });
}

/// Every user, with base and context.
fn each(test: impl Fn(&Env)) {
    as_every_user(|env| {
        env.base();
        let made = env.command("sh").args(["-ec", CONTEXT]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        test(env);
    });
}

fn build(env: &Env, dockerfile: &str, layout: &Path, more: &[&str]) -> Run {
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

fn manifest(layout: &Path) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let path = blob(layout, &index["manifests"][0]["digest"]);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, digest: &Value) -> std::path::PathBuf {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    layout.join("blobs/sha256").join(hex)
}

/// `path`, type and mode, owner, content or target or time, of every member of the topmost layer.
fn last_layer(layout: &Path) -> Vec<String> {
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
