//! A1-11: what a few kilobytes become. Each way in stops by a limit, with one error that names it, in bounded memory and
//! time, and gives the disk back.
//!
//! The limits that hold when nobody says anything lie at gigabytes: one archive goes that far on every run, all do with
//! `RBUILD_BOMBS=1`. The others meet `--max-unpacked-size`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rbuild_cache::Digest;
use serde_json::json;

use crate::env::{Run, has};
use crate::escape::guard::{Guard, in_tiers};
use crate::server::{Answer, Server};
use crate::tar::{archive, header, padded, pax};

/// What one build took.
struct Measured {
    run: Run,
    kibibytes: u64,
    time: Duration,
}

impl Measured {
    /// It ended with this error, and within A1-11's limits.
    #[track_caller]
    fn refused(&self, what: &str, messages: &[&str]) {
        let Self { run, kibibytes, time } = self;
        assert_eq!(run.code, Some(1), "{what}: {}", run.stderr);
        for message in messages {
            assert!(run.stderr.contains(message), "{what}: {}", run.stderr);
        }
        let is_error = |line: &&str| line.starts_with("ERROR: ") || line.starts_with("error: ");
        let errors = run.stderr.lines().filter(is_error).count();
        assert_eq!(errors, 1, "{what}: {}", run.stderr);
        assert!(*kibibytes <= 256 << 10, "{what}: {kibibytes} KiB of memory");
        assert!(*time < Duration::from_secs(60), "{what}: {time:?}");
        if all() {
            eprintln!("{what}: {kibibytes} KiB, {time:.1?}");
        }
    }
}

/// Whether all archives go to the limits that hold when nobody says anything.
fn all() -> bool {
    std::env::var_os("RBUILD_BOMBS").is_some()
}

/// Runs a command and looks at the memory it has taken as long as it is there.
fn measured(mut command: Command, stdin: Option<&Path>) -> Measured {
    if let Some(path) = stdin {
        command.stdin(fs::File::open(path).unwrap());
    }
    let began = Instant::now();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let watch = std::thread::spawn(move || {
        let mut most = 0;
        while let Ok(text) = fs::read_to_string(&status) {
            let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            // A zombie has none.
            let Some(peak) = peak else { break };
            let peak = peak.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            most = most.max(peak);
            std::thread::sleep(Duration::from_millis(5));
        }
        most
    });
    let run = child.wait_with_output().unwrap().into();
    Measured {
        run,
        kibibytes: watch.join().unwrap(),
        time: began.elapsed(),
    }
}

/// Bytes of all files below a directory, as the disk has them.
fn occupied(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    let mut stack = vec![directory.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let metadata = entry.metadata().unwrap();
            sum += metadata.blocks() * 512;
            if metadata.is_dir() {
                stack.push(entry.path());
            }
        }
    }
    sum
}

/// 10 GiB.
const LARGE: u64 = 10 << 30;
/// Zeros that are compressed once and then repeated.
const PIECE: usize = 16 << 20;

/// An archive of one file with 10 GiB of zeros, in as few bytes as the format allows.
fn large(format: &str) -> Option<Vec<u8>> {
    let first = header("zeros", b'0', LARGE / 2, "");
    let second = header("more", b'0', LARGE / 2, "");
    let packed = |bytes: &[u8]| -> Vec<u8> {
        match format {
            "gzip" => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                out.write_all(bytes).unwrap();
                out.finish().unwrap()
            }
            "bzip2" => {
                let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
                out.write_all(bytes).unwrap();
                out.finish().unwrap()
            }
            "xz" => {
                let mut child = Command::new("xz")
                    .args(["-1", "--stdout"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let (mut stdin, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
                let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
                let output = child.wait_with_output().unwrap();
                writer.join().unwrap();
                output.stdout
            }
            _ => zstd::encode_all(bytes, 1).unwrap(),
        }
    };
    if format == "xz" && !has("xz") {
        return None;
    }
    let zeros = match format {
        // Blocks of one repeated byte: the most that the format can do.
        "zstd" => {
            let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
            let blocks = PIECE >> 17;
            for block in 0..blocks {
                let last = u32::from(block + 1 == blocks);
                let header = last | 1 << 1 | (1 << 17) << 3;
                frame.extend_from_slice(&header.to_le_bytes()[..3]);
                frame.push(0);
            }
            frame
        }
        _ => packed(&vec![0; PIECE]),
    };
    let half = usize::try_from(LARGE / 2).unwrap() / PIECE;
    Some(
        [
            packed(&first),
            zeros.repeat(half),
            packed(&second),
            zeros.repeat(half),
        ]
        .concat(),
    )
}

/// Ten million empty files.
fn many() -> Vec<u8> {
    let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    let one = header("f", b'0', 0, "");
    let sum: u32 = one.iter().map(|byte| u32::from(*byte)).sum();
    let sum = sum - one[148..156].iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    let number = if all() { 10_000_000 } else { 280_000 };
    for number in 0..number {
        let mut block = one;
        let name = format!("{number:08}");
        block[1..9].copy_from_slice(name.as_bytes());
        let sum = sum + name.bytes().map(u32::from).sum::<u32>();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.write_all(&block).unwrap();
    }
    out.write_all(&[0; 1024]).unwrap();
    out.finish().unwrap()
}

/// A zstd frame that wants a window of 2 GiB.
fn wide() -> Vec<u8> {
    let tar = archive(&[&header("f", b'0', 0, "")]);
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3];
    let header = 1 | u32::try_from(tar.len()).unwrap() << 3;
    frame.extend_from_slice(&header.to_le_bytes()[..3]);
    frame.extend_from_slice(&tar);
    frame
}

/// Archives that are refused for what their headers say: what, bytes, message.
fn odd() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut sparse = header("sparse", b'S', 512, "");
    sparse[483..495].copy_from_slice(b"100000000000");
    crate::tar::checksum(&mut sparse);
    let file = || [&header("f", b'0', 5, "")[..], &padded(b"hello")].concat();
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    let mut noise = file();
    let mut state = 1u32;
    noise.extend((0..4096).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }));
    let whole = gzip(&archive(&[&file()]));
    vec![
        (
            "a PAX record of 4 GiB",
            [header("x", b'x', 4 << 30, "").to_vec(), vec![b'1'; 1 << 20]].concat(),
            "PAX header",
        ),
        (
            "a path of 100 KB",
            archive(&[&pax(&[("path", &"p/".repeat(50_000))]), &file()]),
            "longer than 4096 bytes",
        ),
        (
            "8 GiB that are not there",
            archive(&[&sparse, &[0; 512]]),
            "unsupported tar member",
        ),
        (
            "8 GiB that are not there, by PAX",
            archive(&[&pax(&[("GNU.sparse.realsize", "8589934592")]), &file()]),
            "sparse files",
        ),
        ("truncated", header("f", b'0', 5000, "").to_vec(), "truncated"),
        ("truncated gzip", whole[..whole.len() - 30].to_vec(), ""),
        ("garbage behind a member", noise, "wrong checksum"),
        ("a window of 2 GiB", wide(), "zstd --long=27"),
    ]
}

/// An image of one layer, as a layout.
fn layout(guard: &Guard, layer: &[u8], media_type: &str) -> PathBuf {
    let put = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        guard
            .env
            .write(&format!("bomb/blobs/sha256/{}", digest.hex()), bytes);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    // Nobody comes so far as to look at it.
    let unpacked = Digest::of(&[layer, b"unpacked"].concat());
    let layer = put(layer, media_type);
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [unpacked]}});
    let config = put(
        config.to_string().as_bytes(),
        "application/vnd.oci.image.config.v1+json",
    );
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]});
    let manifest = put(manifest.to_string().as_bytes(), manifest_type);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    guard.env.write("bomb/index.json", index.to_string());
    guard
        .env
        .write("bomb/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    guard.env.path("bomb")
}

/// The ways in of an archive.
const WAYS: [&str; 5] = ["ADD", "ADD of a URL", "standard input", "address", "layer"];

/// Sends an archive in by one way; `flags` stand before the verb.
fn enters(guard: &Guard, way: &str, bytes: &[u8], flags: &[&str]) -> Measured {
    let before = occupied(&guard.env.store());
    let scratch = guard.env.path("tmp");
    let _ = fs::create_dir(&scratch);
    guard.env.own(&scratch);
    let file = guard.env.write("ctx/a.tar", bytes);
    let served = bytes.to_vec();
    let server = Server::start(move |_| Answer::of(served.clone()));
    let url = server.url("/a.tar");
    let dockerfile = match way {
        "ADD" => "FROM scratch\nADD a.tar /x/\n".to_owned(),
        "ADD of a URL" => format!("FROM scratch\nADD --unpack=true {url} /x/\n"),
        _ => "FROM bomb\nCOPY --from=bomb / /x/\n".to_owned(),
    };
    guard.env.write("ctx/Dockerfile", dockerfile);
    let context = guard.env.path("ctx");
    let context = match way {
        "standard input" => "-",
        "address" => &url,
        _ => context.to_str().unwrap(),
    };
    let mut args: Vec<&str> = flags.to_vec();
    args.extend(["build", "--progress=plain", "--no-cache", "-t", "x", context]);
    let named;
    if way == "layer" {
        let kind = if bytes.starts_with(&[0x28, 0xb5]) {
            "+zstd"
        } else if bytes.starts_with(&[0x1f, 0x8b]) {
            "+gzip"
        } else {
            ""
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{kind}");
        let layout = layout(guard, bytes, &media_type);
        named = format!("--build-context=bomb=oci-layout://{}", layout.display());
        args.push(&named);
    }
    let mut command = guard.env.rbuild_command(args);
    command.env("TMPDIR", &scratch).current_dir(guard.host());
    let measured = measured(command, (way == "standard input").then_some(file.as_path()));
    drop(server);
    let left = occupied(&guard.env.store()).saturating_sub(before);
    // The blob of a layer or of an address may stay: it is what the server has.
    let most = bytes.len() as u64 + (1 << 20);
    assert!(left <= most, "{way}: {left} bytes are left in the store");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "{way}");
    let _ = fs::remove_dir_all(guard.env.path("bomb"));
    guard.check();
    measured
}

#[test]
fn a1_11_large_archives_stop_at_the_limit_of_bytes() {
    in_tiers(&["userns"], |guard| {
        for format in ["gzip", "bzip2", "xz", "zstd"] {
            let Some(bytes) = large(format) else { continue };
            for way in WAYS {
                // Layers are never compressed so.
                if way == "layer" && matches!(format, "bzip2" | "xz") {
                    continue;
                }
                let what = format!("{format} of {} bytes, {way}", bytes.len());
                if all() || (format == "zstd" && way == "ADD") {
                    let usual = enters(guard, way, &bytes, &[]);
                    usual.refused(
                        &what,
                        &["bytes become more than", "--max-unpacked-size=SIZE allows it"],
                    );
                }
                let said = enters(guard, way, &bytes, &["--max-unpacked-size=32m"]);
                said.refused(
                    &what,
                    &["more than the 33554432 bytes that --max-unpacked-size allows"],
                );
            }
        }
    });
}

#[test]
fn a1_11_more_members_than_honest_archives_have_are_refused() {
    in_tiers(&["userns"], |guard| {
        let bytes = many();
        for way in WAYS {
            // The others read archives as ADD does.
            if !all() && !matches!(way, "ADD" | "layer") {
                continue;
            }
            let what = format!("members in {} bytes, {way}", bytes.len());
            enters(guard, way, &bytes, &[])
                .refused(&what, &["members, too many for its size", "--max-unpacked-size"]);
        }
    });
}

#[test]
fn a1_11_headers_that_promise_too_much_are_refused_at_once() {
    in_tiers(&["userns"], |guard| {
        for (what, bytes, message) in odd() {
            for way in WAYS {
                let measured = enters(guard, way, &bytes, &[]);
                // To ADD, what cannot be decompressed is a file like others (spec D1).
                if way.starts_with("ADD") && message == "zstd --long=27" {
                    assert!(
                        measured.kibibytes <= 256 << 10,
                        "{what}: {} KiB",
                        measured.kibibytes
                    );
                    measured.run.ok();
                    continue;
                }
                measured.refused(&format!("{what}, {way}"), &[message]);
            }
        }
    });
}

#[test]
fn a1_11_indexes_nest_only_so_deep() {
    in_tiers(&["userns"], |guard| {
        let index_type = "application/vnd.oci.image.index.v1+json";
        let mut documents = Vec::new();
        let mut inner = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(b""), "size": 2});
        for _ in 0..50 {
            inner["platform"] = json!({"os": "linux", "architecture": "amd64"});
            let index =
                json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [inner]}).to_string();
            let digest = Digest::of(index.as_bytes());
            inner = json!({"mediaType": index_type, "digest": digest, "size": index.len()});
            guard
                .env
                .write(&format!("nested/blobs/sha256/{}", digest.hex()), &index);
            documents.push((digest.to_string(), index));
        }
        let (_, outermost) = documents.last().unwrap().clone();
        guard.env.write("nested/index.json", &outermost);
        guard
            .env
            .write("nested/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
        let server = Server::start(move |request| {
            let name = request.path.rsplit('/').next().unwrap_or_default();
            let found = documents.iter().find(|(digest, _)| digest == name);
            match (name, found) {
                ("deep", _) => Answer::of(outermost.clone()).header("Content-Type", index_type),
                (_, Some((_, index))) => Answer::of(index.clone()).header("Content-Type", index_type),
                _ => Answer::of("{}"),
            }
        });
        let layout = format!(
            "--build-context=image=oci-layout://{}",
            guard.env.path("nested").display()
        );
        let image = format!("--build-context=image=docker-image://{}/x:deep", server.address());
        for context in [layout, image] {
            let refused = guard.build("nested-build", "FROM image\n", &[&context]).fails(1);
            assert!(refused.stderr.contains("nest"), "{}", refused.stderr);
        }
        assert!(server.take().len() < 10);
    });
}
