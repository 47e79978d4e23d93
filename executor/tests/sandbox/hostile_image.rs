//! Images that are made to confuse the sandbox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::SystemTime;

use super::Case;
use super::bench::{Bench, set_lowers};

pub const CASES: &[Case] = &[
    ("mount_points_as_links", mount_points_as_links),
    ("links_that_lead_outside", links_that_lead_outside),
    ("dangling_resolv_conf", dangling_resolv_conf),
    ("touched_mount_points_stay", touched_mount_points_stay),
    ("user_files_that_are_none", user_files_that_are_none),
    ("empty_image", empty_image),
];

/// A directory outside of every root that no step may touch.
fn canary(bench: &Bench) -> (String, SystemTime) {
    let path = bench.directory.join("canary");
    fs::create_dir_all(&path).unwrap();
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    (path.to_str().unwrap().to_owned(), time)
}

fn unchanged(path: &str, time: SystemTime) {
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), time);
}

fn mount_points_as_links() {
    let bench = Bench::new();
    let (path, time) = canary(&bench);
    let targets = [path.as_str(), "../../../..", "/etc", "/missing/deep", "proc2"];
    for point in ["dev", "proc", "sys"] {
        for target in targets {
            let link = bench.image.join(point);
            symlink(target, &link).unwrap();
            let outcome = bench.shell("echo x > /tmp/x");
            if outcome.exit.is_ok() {
                assert_eq!(outcome.changes(), ["tmp", "tmp/x"], "{point} -> {target}");
            }
            fs::remove_file(link).unwrap();
        }
    }
    unchanged(&path, time);
}

fn links_that_lead_outside() {
    let bench = Bench::new();
    let (path, time) = canary(&bench);
    symlink(format!("../../../../../..{path}"), bench.image.join("w")).unwrap();
    symlink(format!("{path}/resolv.conf"), bench.image.join("etc/resolv.conf")).unwrap();
    let mut spec = bench.spec(&["sh", "-c", "pwd; echo x > y"]);
    spec.cwd = "/w/new".to_owned();
    let outcome = bench.run(&spec);
    assert_eq!(outcome.ok(), format!("{path}/new"));
    assert!(
        outcome
            .upper
            .join(path.trim_start_matches('/'))
            .join("new/y")
            .exists()
    );
    unchanged(&path, time);
}

fn dangling_resolv_conf() {
    let bench = Bench::new();
    fs::create_dir(bench.image.join("run")).unwrap();
    let before = fs::metadata(bench.image.join("run")).unwrap().modified().unwrap();
    symlink(
        "../run/systemd/resolve/stub.conf",
        bench.image.join("etc/resolv.conf"),
    )
    .unwrap();
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let outcome = bench.shell("cat /etc/resolv.conf");
    assert_eq!(outcome.ok(), resolv.trim_end());
    assert_eq!(outcome.changes(), [""; 0], "made for the mount, gone after it");

    // A neighbour that the step made keeps its directory, and nothing else stays.
    let outcome = bench.shell("echo x > /run/systemd/mine");
    outcome.ok();
    assert_eq!(outcome.changes(), ["run", "run/systemd", "run/systemd/mine"]);
    assert!(
        fs::metadata(outcome.upper.join("run"))
            .unwrap()
            .modified()
            .unwrap()
            >= before
    );
}

fn touched_mount_points_stay() {
    let bench = Bench::new();
    symlink("/x/hosts", bench.image.join("etc/hosts")).unwrap();
    let outcome = bench.shell("chmod 700 /x");
    outcome.ok();
    assert_eq!(
        outcome.changes(),
        ["x"],
        "the step's own chmod is part of the layer"
    );
}

fn user_files_that_are_none() {
    let bench = Bench::new();
    let passwd = bench.image.join("etc/passwd");
    let with = |make: &dyn Fn(&Path)| {
        fs::remove_file(&passwd).unwrap();
        make(&passwd);
        let mut spec = bench.spec(&["id", "-u"]);
        spec.user = "alice".to_owned();
        bench.run(&spec).error()
    };
    let secret = bench.directory.join("passwd");
    fs::write(&secret, "alice:x:0:0::/:\n").unwrap();
    assert!(
        with(&|p| symlink(&secret, p).unwrap()).contains("no matching entries"),
        "stays in the image"
    );
    assert!(with(&|p| symlink("/dev/zero", p).unwrap()).contains("not a regular file"));
    assert!(
        with(&|p| {
            assert!(
                std::process::Command::new("mkfifo")
                    .arg(p)
                    .status()
                    .unwrap()
                    .success()
            );
        })
        .contains("not a regular file")
    );
    assert!(
        with(&|p| fs::File::create(p).unwrap().set_len(11 << 20).unwrap()).contains("larger than 10 MiB")
    );
}

fn empty_image() {
    let bench = Bench::new();
    let mut spec = bench.spec(&["/nothing"]);
    set_lowers(&mut spec, Vec::new());
    let outcome = bench.run(&spec);
    assert_eq!(
        outcome.error(),
        "exec: \"/nothing\": stat /nothing: no such file or directory"
    );
    assert_eq!(outcome.changes(), [""; 0]);
}
