//! ADD of archives (spec D1 to D3).

use super::*;

/// A tar of members `(type, name, link or data, mode, owner)`.
fn tar(members: &[(u8, &str, &str, u32, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, name, rest, mode, owner) in members {
        let data = if *kind == b'0' { rest.as_bytes() } else { &[] };
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, &format!("{owner:07o}"));
        put(116, &format!("{:07o}", owner + 1));
        put(124, &format!("{:011o}", data.len()));
        put(136, &format!("{:011o}", 1_100_000_000));
        put(156, std::str::from_utf8(&[*kind]).unwrap());
        put(257, "ustar\x0000");
        if *kind == b'1' || *kind == b'2' {
            put(157, rest);
        }
        put(148, "        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[test]
fn archives_are_extracted() {
    let dir = tempfile::tempdir().unwrap();
    let plain = tar(&[
        (b'5', "./", "", 0o700, 111),
        (b'5', "tt/", "", 0o700, 33),
        (b'2', "tt/l", "f", 0o777, 33),
        (b'0', "tt/f", "file", 0o4755, 33),
        (b'1', "tt/a", "tt/f", 0o4755, 33),
        (b'0', "implied/x", "x", 0o600, 1),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bzip2.write_all(&plain).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
    xz.write_all(&plain).unwrap();
    let wanted = [
        "/n d 755 0:0 @42",
        "/n/implied d 755 0:0 @42",
        "/n/implied/x f 600 1:2 x @1100000000",
        "/n/tt d 700 33:34 @1100000000",
        "/n/tt/a f 4755 33:34 file @1100000000",
        "/n/tt/f h 4755 33:34 /n/tt/a @1100000000",
        "/n/tt/l l 777 33:34 f @1100000000",
    ];
    let truncated = plain[..300].to_vec();
    for (name, bytes) in [
        ("p.tar", plain.clone()),
        ("p.tar.gz", gzip.finish().unwrap()),
        ("p.tar.bz2", bzip2.finish().unwrap()),
        ("p.tar.xz", xz.finish().unwrap()),
        ("p.tar.zst", zstd::encode_all(&plain[..], 3).unwrap()),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
        let tree = LocalContext::open(dir.path(), None, None).unwrap();
        let layer = run(&format!("ADD --chmod=600 {name} /n"), &tree, &Memory::default()).unwrap();
        assert_eq!(layer.lines(true), wanted, "{name}");
    }
    let mut not_tar = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    not_tar.write_all(b"hello").unwrap();
    for (name, bytes) in [
        ("nt.gz", not_tar.finish().unwrap()),
        ("empty.tar", vec![0; 10240]),
        ("trunc.tar", truncated),
        ("broken.tar.gz", b"\x1f\x8b\x08 nonsense".to_vec()),
        ("nothing", Vec::new()),
    ] {
        fs::write(dir.path().join(name), &bytes).unwrap();
        let tree = LocalContext::open(dir.path(), None, None).unwrap();
        let layer = run(&format!("ADD {name} /n/"), &tree, &Memory::default()).unwrap();
        assert_eq!(layer.0[&path(&format!("n/{name}"))].1, bytes, "{name}");
    }
    let tree = LocalContext::open(dir.path(), None, None).unwrap();
    let owned = run("ADD --chown=1:2 p.tar.gz /n", &tree, &Memory::default()).unwrap();
    assert!(
        owned
            .0
            .values()
            .all(|(entry, _)| (entry.uid, entry.gid) == (1, 2))
    );
    let copied = run("COPY p.tar /n", &tree, &Memory::default()).unwrap();
    assert_eq!(copied.0[&path("n")].1, plain);
}

#[test]
fn archives_stay_where_they_are_put() {
    let dir = tempfile::tempdir().unwrap();
    // Base, members, entries or error.
    type Case<'a> = (
        &'a [&'a str],
        &'a [(u8, &'a str, &'a str, u32, u32)],
        &'a [&'a str],
    );
    let cases: &[Case<'_>] = &[
        (
            &[],
            &[(b'0', "ok", "x", 0o644, 0), (b'0', ".wh.kept", "x", 0o644, 0)],
            &["!.wh."],
        ),
        (&[], &[(b'0', "../x", "x", 0o644, 0)], &["!.."]),
        (
            &["/etc d 755 0:0"],
            &[(b'2', "l", "/etc", 0o777, 0), (b'0', "l/f", "x", 0o644, 0)],
            &[
                "/n d 755 0:0",
                "/n/etc d 755 0:0",
                "/n/etc/f f 644 0:1 x",
                "/n/l l 777 0:1 /etc",
            ],
        ),
        (
            &[
                "/n d 711 3:3",
                "/n/lib l 777 0:0 usr/lib",
                "/n/usr d 755 0:0",
                "/n/usr/lib d 755 0:0",
            ],
            &[(b'0', "lib/f", "x", 0o644, 0)],
            &[
                "/n d 711 3:3",
                "/n/usr d 755 0:0",
                "/n/usr/lib d 755 0:0",
                "/n/usr/lib/f f 644 0:1 x",
            ],
        ),
        (&[], &[(b'1', "h", "etc/shadow", 0o644, 0)], &["!hard link"]),
        (
            &["/n d 755 0:0", "/n/d d 755 0:0", "/n/d/old f 644 0:0 old"],
            &[(b'0', "d", "file", 0o644, 0)],
            &["/n d 755 0:0", "/n/d f 644 0:1 file"],
        ),
        (
            &["/n d 755 0:0", "/n/d d 755 0:0", "/n/d/old f 644 0:0 old"],
            &[
                (b'0', "d", "file", 0o644, 0),
                (b'5', "d", "", 0o700, 0),
                (b'0', "d/new", "new", 0o644, 0),
            ],
            &["/n d 755 0:0", "/n/d D 700 0:1", "/n/d/new f 644 0:1 new"],
        ),
        (
            &[],
            &[
                (b'5', "d", "", 0o700, 0),
                (b'0', "d/f", "1", 0o644, 0),
                (b'0', "d", "2", 0o644, 0),
            ],
            &["/n d 755 0:0", "/n/d f 644 0:1 2"],
        ),
        (
            &[],
            &[(b'0', "f", "first", 0o600, 0), (b'0', "f", "second", 0o644, 0)],
            &["/n d 755 0:0", "/n/f f 644 0:1 second"],
        ),
    ];
    for (base, members, wanted) in cases {
        fs::write(dir.path().join("p.tar"), tar(members)).unwrap();
        let tree = LocalContext::open(dir.path(), None, None).unwrap();
        check(&[(base, "ADD p.tar /n/", wanted)], &tree);
    }
}
