//! The tests A1-4 to A1-14: hostile archives on each of their ways in (ADD, a context on standard input, the layers of a
//! base image), with a canary beside them, which is also the working directory. What is not refused stays inside.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use rbuild_cache::Digest;
use serde_json::json;

use crate::built::last_layer;
use crate::env::{Run, busybox};
use crate::escape::guard::{Guard, in_every_tier};
use crate::tar::{archive, checksum, header, padded, pax};

fn file(name: &str, data: &str) -> Vec<u8> {
    [
        &header(name, b'0', data.len() as u64, "")[..],
        &padded(data.as_bytes()),
    ]
    .concat()
}

fn link(name: &str, target: &str) -> Vec<u8> {
    header(name, b'2', 0, target).to_vec()
}

fn hard(name: &str, target: &str) -> Vec<u8> {
    header(name, b'1', 0, target).to_vec()
}

fn node(name: &str, kind: u8, mode: &str) -> Vec<u8> {
    let mut block = header(name, kind, 0, "");
    block[100..107].copy_from_slice(mode.as_bytes());
    checksum(&mut block);
    block.to_vec()
}

fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    let members: Vec<&[u8]> = members.iter().map(Vec::as_slice).collect();
    archive(&members)
}

/// What an archive may be taken as.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// An error wherever it comes in.
    Refused,
    /// What it says happens below the root, or it is an error: never outside.
    Confined,
}

/// ID, archive. `HOST` is the canary.
fn hostile(host: &str) -> Vec<(&'static str, Fate, Vec<u8>)> {
    use Fate::{Confined, Refused};
    let chain: Vec<Vec<u8>> = (0..40)
        .map(|n| link(&format!("l{n}"), &format!("l{}", n + 1)))
        .chain([link("l40", host), file("l0/evil", "x")])
        .collect();
    let attributes = pax(&[
        ("SCHILY.xattr.user.overlay.redirect", "/../../etc"),
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.trusted.overlay.metacopy", "y"),
    ]);
    vec![
        (
            "A1-4 mode of a directory through a link",
            Confined,
            tar(&[link("d", host), node("d/", b'5', "0000777")]),
        ),
        (
            "A1-4 metadata of a hard link to the outside",
            Confined,
            tar(&[hard("h", &format!("{host}/.ssh/id")), node("h", b'0', "0004777")]),
        ),
        ("A1-5 parent", Refused, tar(&[file("../evil", "x")])),
        ("A1-5 parent inside", Refused, tar(&[file("a/../../evil", "x")])),
        ("A1-5 absolute", Confined, tar(&[file("/evil", "x")])),
        (
            "A1-5 through a link",
            Confined,
            tar(&[link("d", host), file("d/evil", "x")]),
        ),
        (
            "A1-5 through a relative link",
            Confined,
            tar(&[
                link("d", "../../../../../../../../../../tmp"),
                file("d/rbuild-evil", "x"),
            ]),
        ),
        ("A1-5 a chain of links", Confined, tar(&chain)),
        (
            "A1-6 hard link of the working directory",
            Confined,
            tar(&[hard("key", ".ssh/id"), file("after", "x")]),
        ),
        (
            "A1-7 root as link",
            Refused,
            tar(&[link(".", host), file("evil", "x")]),
        ),
        (
            "A1-7 root as link, slash",
            Refused,
            tar(&[link("/", host), file("evil", "x")]),
        ),
        ("A1-7 root as file", Refused, tar(&[file("./", "x")])),
        (
            "A1-10 whiteout through a link",
            Confined,
            tar(&[link("etc", host), file("etc/.wh.null", "")]),
        ),
        (
            "A1-10 whiteout of the parent",
            Refused,
            tar(&[file(".wh...", "")]),
        ),
        ("A1-10 whiteout of itself", Refused, tar(&[file(".wh..", "")])),
        (
            "A1-13 attributes of overlayfs, a pipe, an empty device",
            Confined,
            tar(&[
                [attributes, file("plain", "x")].concat(),
                node("pipe", b'6', "0000644"),
                node("zero", b'3', "0000644"),
            ]),
        ),
    ]
}

fn added(guard: &Guard, tar: &[u8]) -> Run {
    guard.env.write("added/evil.tar", tar);
    guard.build(
        "added",
        "FROM base\nADD evil.tar /x/\nRUN find /x | head\n",
        &["--no-cache"],
    )
}

fn received(guard: &Guard, tar: &[u8]) -> Run {
    let dockerfile = file("Dockerfile", "FROM base\nCOPY . /x/\n");
    let isolation = format!("--isolation={}", guard.tier);
    let mut child = guard
        .env
        .rbuild_command(["build", &isolation, "-t", "received", "--no-cache", "-"])
        .current_dir(guard.host())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may end before it has read all.
    let _ = stdin.write_all(&dockerfile).and_then(|()| stdin.write_all(tar));
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

/// An image of these layers, with busybox below them, as a layout that is a named context.
fn layered(guard: &Guard, layers: &[Vec<u8>]) -> Run {
    let layout = guard.env.path("layout-of-evil");
    let _ = fs::remove_dir_all(&layout);
    let mut all = vec![fs::read(busybox()).unwrap()];
    all.extend_from_slice(layers);
    let put = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        guard
            .env
            .write(&format!("layout-of-evil/blobs/sha256/{}", digest.hex()), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let ids: Vec<Digest> = all.iter().map(|layer| Digest::of(layer)).collect();
    let config =
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}});
    let config = put(
        config.to_string().as_bytes(),
        "application/vnd.oci.image.config.v1+json",
    );
    let layers: Vec<_> = all
        .iter()
        .map(|layer| put(layer, "application/vnd.oci.image.layer.v1.tar"))
        .collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    let manifest = put(manifest.to_string().as_bytes(), media_type);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    guard.env.write("layout-of-evil/index.json", index.to_string());
    guard
        .env
        .write("layout-of-evil/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    let context = format!("--build-context=evil=oci-layout://{}", layout.display());
    let dockerfile = "FROM evil AS run\nRUN [\"/bin/busybox\", \"true\"]\nFROM scratch\nCOPY --from=evil / /copied\nCOPY --from=run /bin /b\n";
    guard.build("layered", dockerfile, &["--no-cache", &context])
}

#[test]
fn a1_4_to_a1_13_nothing_of_an_archive_gets_out() {
    in_every_tier(|guard| {
        for (id, fate, tar) in hostile(&guard.host()) {
            let layer = std::slice::from_ref(&tar);
            let ways = [
                ("ADD", added(guard, &tar)),
                ("standard input", received(guard, &tar)),
                ("layer", layered(guard, layer)),
            ];
            for (way, run) in ways {
                let code = run.code.unwrap();
                assert!(
                    code == 1 || code == 0 && fate == Fate::Confined,
                    "{id}, {way}: {}",
                    run.stderr
                );
                assert!(!run.stderr.contains("panicked"), "{id}, {way}: {}", run.stderr);
                assert!(!run.stderr.contains("the canary's secret"), "{id}, {way}");
            }
            guard.check();
        }
    });
}

#[test]
fn a1_5_a_directory_becomes_a_link_in_the_next_layer() {
    in_every_tier(|guard| {
        let host = guard.host();
        let first = tar(&[node("d/", b'5', "0000755"), file("d/kept", "x")]);
        let second = tar(&[link("d", &host)]);
        let third = tar(&[node("d/", b'5', "0000777"), file("d/null", "evil")]);
        let run = layered(guard, &[first, second, third]);
        assert!(matches!(run.code, Some(0 | 1)), "{}", run.stderr);
        guard.check();
    });
}

#[test]
fn a1_9_links_of_an_archive_lead_below_its_destination() {
    in_every_tier(|guard| {
        let tars = [
            // The link is absolute, what lies behind it implied.
            (
                tar(&[link("l", "/real"), file("l/f", "1")]),
                vec!["real/f f644 0:0 1"],
            ),
            (
                tar(&[file("real/f", "1"), link("l", "/real"), hard("h", "l/f")]),
                vec!["h f644 0:0 1", "real/f h644 0:0 /h"],
            ),
            (tar(&[file("a/b/c/f", "1")]), vec!["a/b/c/f f644 0:0 1"]),
            (
                tar(&[link("l", "../../../real"), file("l/f", "1")]),
                vec!["real/f f644 0:0 1"],
            ),
        ];
        for (index, (tar, expected)) in tars.iter().enumerate() {
            guard.env.write("nine/a.tar", tar);
            let layout = guard.env.path(&format!("nine-{index}"));
            let output = format!(
                "type=oci,tar=false,compression=uncompressed,dest={}",
                layout.display()
            );
            guard
                .build("nine", "FROM scratch\nADD a.tar /\n", &["-o", &output])
                .ok();
            let members = last_layer(&layout);
            for line in expected {
                assert!(
                    members.iter().any(|member| member.starts_with(line)),
                    "{index}: {members:?}"
                );
            }
        }
    });
}

#[test]
fn a1_12_what_a_step_leaves_is_removed_without_looking_behind_links() {
    in_every_tier(|guard| {
        let dockerfile = "FROM base\n\
            RUN mkdir /a && ln -s HOST /a/host && ln -s HOST/deep /a/deep && mkdir -p /b/c && rm -rf /b && ln -s HOST /b && \
            (while :; do rm -rf /x; mkdir -p /x/y; rm -rf /x; ln -s HOST /x; done) & sleep 0.3\n";
        guard.build("twelve", dockerfile, &[]).ok();
        guard.env.rbuild(["rmi", "-f", "twelve"]).ok();
        guard.env.rbuild(["prune", "--all", "--force"]).ok();
        guard.check();
    });
}

#[test]
fn a1_14_names_are_bytes() {
    in_every_tier(|guard| {
        let long = "n".repeat(255);
        let mut members = vec![
            file("new\nline", "1"),
            file(" blank ", "2"),
            file("\u{1b}[31m", "3"),
            pax(&[("path", &format!("deep/{long}"))]),
            file("x", "4"),
            pax(&[("uid", "2147483648"), ("mtime", "-1.5")]),
            file("old", "5"),
            file("twice", "first"),
            file("twice", "second"),
        ];
        let mut raw = header("raw", b'0', 0, "");
        raw[..4].copy_from_slice(b"\xff\xfe/x");
        checksum(&mut raw);
        members.push(raw.to_vec());
        guard.env.write("fourteen/a.tar", tar(&members));
        let dest = guard.env.path("fourteen.tar");
        let output = format!("type=tar,dest={}", dest.display());
        let dockerfile = "FROM scratch\nADD a.tar /\n";
        let run = guard.build("fourteen", dockerfile, &["-o", &output]).ok();
        assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
        let bytes = fs::read(&dest).unwrap();
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        for name in [
            &b"new\nline"[..],
            b" blank ",
            b"\xff\xfe/x",
            long.as_bytes(),
            b"2147483648",
            b"second",
        ] {
            assert!(has(name), "{:?}", String::from_utf8_lossy(name));
        }
        assert!(!has(b"first"), "the later member counts");
    });
}
