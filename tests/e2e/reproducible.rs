use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::env::{Env, as_every_user};

const DOCKERFILE: &str = "FROM base
COPY --chown=1:2 a b /c/
RUN mkdir /r && echo x > /r/new && ln /r/new /r/link && touch -d @1100000000 /r/old && cp /bin/busybox /r/
WORKDIR /w/x
COPY --from=base /bin/busybox /w/
";

#[test]
fn v60_later_times_are_cut_and_two_cold_builds_are_equal() {
    as_every_user(|env| {
        env.base();
        let saved = env.path("base.tar");
        let saved = saved.to_str().unwrap();
        env.rbuild(["save", "-o", saved, "base"]).ok();
        let other = env.path("other");
        env.rbuild_in(&other, ["load", "-i", saved]).ok();

        context(env);
        let first = build(env, &env.store(), "first");
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(first, build(env, &other, "second"));
        // A rebuild finds all of it; nothing has to run, not even to clamp what is a tree.
        assert_eq!(first, build(env, &env.store(), "again"));

        let times = layer_times(&env.path("first"));
        let time = |name: &str| {
            let found = times.iter().rev().find(|(path, _)| path == name);
            found.unwrap_or_else(|| panic!("{name} in {times:?}")).1.as_str()
        };
        assert_eq!(time("c/a"), "2001-09-09 01:46:40");
        assert_eq!(time("r/old"), "2004-11-09 11:33:20");
        for late in ["c/", "c/b", "r/", "r/new", "r/busybox", "w/", "w/x/"] {
            assert_eq!(time(late), "2009-02-13 23:31:30", "{late}");
        }
    });
}

/// `a` is old, `b` is not.
fn context(env: &Env) {
    env.context("ctx", &[("Dockerfile", DOCKERFILE), ("b", "b\n")]);
    let a = env.write("ctx/a", "a\n");
    let file = fs::File::options().write(true).open(a).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        .unwrap();
}

/// The digest of the manifest.
fn build(env: &Env, store: &Path, name: &str) -> String {
    let dest = env.path(name);
    let output = format!(
        "type=oci,tar=false,compression=uncompressed,rewrite-timestamp=true,dest={}",
        dest.display()
    );
    let context = env.path("ctx");
    env.rbuild_in(
        store,
        [
            "build",
            "--progress=plain",
            "--build-arg=SOURCE_DATE_EPOCH=1234567890",
            "-o",
            &output,
            context.to_str().unwrap(),
        ],
    )
    .ok();
    let index = json(&dest.join("index.json"));
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Path and time of all members of the layers above the base.
fn layer_times(layout: &Path) -> Vec<(String, String)> {
    let blob = |digest: &serde_json::Value| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        layout.join("blobs/sha256").join(hex)
    };
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]["digest"]));
    let mut times = Vec::new();
    for layer in &manifest["layers"].as_array().unwrap()[1..] {
        let listing = std::process::Command::new("tar")
            .env("TZ", "UTC")
            .args(["--numeric-owner", "--full-time", "-tvf"])
            .arg(blob(&layer["digest"]))
            .output()
            .unwrap();
        for line in String::from_utf8(listing.stdout).unwrap().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            times.push((words[5].to_owned(), format!("{} {}", words[3], words[4])));
        }
    }
    times
}
