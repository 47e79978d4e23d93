//! Archives made to deceive: each is refused, or read as Go's archive/tar reads it. Tests bear the IDs (A1-1, ...) of the
//! attacks that they hold off.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::Read;

use rbuild_cache::layer::{Entry, IndexAssembler, Kind, TarError, TarReader};
use tar::{archive, checksum, header, padded, pax};

#[path = "../../tests/common/tar.rs"]
mod tar;

fn read_all(bytes: &[u8], layer: bool) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = if layer {
        TarReader::layer(bytes)
    } else {
        TarReader::archive(bytes)
    };
    let mut members = Vec::new();
    while let Some(member) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data)?;
        members.push((member.entry, data));
    }
    Ok(members)
}

fn names(bytes: &[u8]) -> Vec<String> {
    read_all(bytes, false)
        .unwrap()
        .iter()
        .map(|(entry, _)| entry.path.to_string())
        .collect()
}

#[test]
fn a1_1_a1_2_size_of_pax_counts_for_data_and_next_header_alike() {
    // TARmageddon: the file data is itself a header for /etc/evil.
    let inner = [header("etc/evil", b'0', 0, "").to_vec(), vec![0; 1024]].concat();
    for ustar_size in [0, 10, 1536] {
        let bytes = archive(&[
            &pax(&[("size", "1536")]),
            &header("outer", b'0', ustar_size, ""),
            &inner,
            &header("next", b'0', 0, ""),
        ]);
        assert_eq!(names(&bytes), ["/outer", "/next"], "{ustar_size}");
        assert_eq!(read_all(&bytes, false).unwrap()[0].1, inner);
    }
    // And the other way round: ustar says more than PAX.
    let bytes = archive(&[
        &pax(&[("size", "10")]),
        &header("a", b'0', 2048, ""),
        &padded(b"0123456789"),
        &header("b", b'0', 0, ""),
    ]);
    assert_eq!(names(&bytes), ["/a", "/b"]);
}

#[test]
fn a1_3_what_could_be_read_in_two_ways_is_refused() {
    let file = header("f", b'0', 0, "");
    let long = |name: &str| {
        [
            header("././@LongLink", b'L', name.len() as u64, "").to_vec(),
            padded(name.as_bytes()),
        ]
        .concat()
    };
    let global = |records: &[(&str, &str)]| {
        let mut all = pax(records);
        let mut block: [u8; 512] = all[..512].try_into().unwrap();
        block[156] = b'g';
        checksum(&mut block);
        all[..512].copy_from_slice(&block);
        all
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "two PAX headers",
            archive(&[&pax(&[("path", "a")]), &pax(&[("path", "b")]), &file]),
        ),
        ("two long names", archive(&[&long("a"), &long("b"), &file])),
        (
            "path and long name",
            archive(&[&pax(&[("path", "a")]), &long("b"), &file]),
        ),
        ("NUL inside a long name", archive(&[&long("a\0b"), &file])),
        ("NUL in a PAX path", archive(&[&pax(&[("path", "a\0b")]), &file])),
        ("negative size", archive(&[&pax(&[("size", "-1")]), &file])),
        (
            "huge size",
            archive(&[&pax(&[("size", "99999999999999999999")]), &file]),
        ),
        (
            "uid of chown's own",
            archive(&[&pax(&[("uid", "4294967295")]), &file]),
        ),
        (
            "PAX sparse",
            archive(&[&pax(&[("GNU.sparse.major", "1")]), &file]),
        ),
        ("global size", archive(&[&global(&[("size", "512")]), &file])),
        ("PAX header before the end", archive(&[&pax(&[("path", "a")])])),
        ("GNU sparse", archive(&[&header("f", b'S', 0, "")])),
        ("multi-volume", archive(&[&header("f", b'M', 0, "")])),
        ("dumpdir", archive(&[&header("f", b'D', 0, "")])),
        ("unknown type", archive(&[&header("f", b'Q', 0, "")])),
        (
            "too long path",
            archive(&[&pax(&[("path", &"a/".repeat(3000))]), &file]),
        ),
        ("parent component", archive(&[&header("a/../../x", b'0', 0, "")])),
        ("parent component first", archive(&[&header("../x", b'0', 0, "")])),
        ("link out", archive(&[&header("x", b'1', 0, "../../etc/passwd")])),
        ("link to the root", archive(&[&header("x", b'1', 0, "/")])),
        ("empty symbolic link", archive(&[&header("x", b'2', 0, "")])),
        (
            "a single zero block",
            [&[0u8; 512][..], &file, &[0; 1024]].concat(),
        ),
        (
            "data cut off",
            [&header("f", b'0', 5000, "")[..], &[0; 100]].concat(),
        ),
        ("header cut off", file[..300].to_vec()),
        ("wrong checksum", {
            let mut bad = archive(&[&file]);
            bad[0] ^= 1;
            bad
        }),
        (
            "whiteout in an archive",
            archive(&[&header("d/.wh.x", b'0', 0, "")]),
        ),
        (
            "whiteout directory in an archive",
            archive(&[&header(".wh.x/y", b'0', 0, "")]),
        ),
        ("device 0:0 in an archive", archive(&[&header("x", b'3', 0, "")])),
    ];
    for (what, bytes) in cases {
        assert!(read_all(&bytes, false).is_err(), "{what}");
    }
    let fine = archive(&[&global(&[("comment", "0123")]), &file]);
    assert_eq!(names(&fine), ["/f"]);
}

#[test]
fn a1_11_long_headers_take_no_memory() {
    let huge = [header("x", b'x', 4 << 30, "").to_vec(), vec![b'a'; 4096]].concat();
    assert!(matches!(read_all(&huge, false), Err(TarError::Pax(_))));
}

#[test]
fn a1_7_the_root_is_a_directory_and_nothing_else() {
    for name in [".", "./", "/", "", "//."] {
        for typeflag in *b"012346" {
            let link = if typeflag == b'2' { "/tmp" } else { "" };
            assert!(
                read_all(&archive(&[&header(name, typeflag, 0, link)]), true).is_err(),
                "{name:?} {typeflag}"
            );
        }
        let members = read_all(&archive(&[&header(name, b'5', 0, "")]), true).unwrap();
        assert!(members[0].0.path.is_root());
    }
}

#[test]
fn a1_10_whiteouts_that_are_none() {
    for name in [
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh..wh..plnk",
        "a/.wh..wh.aufs",
        ".wh.a/b",
        ".wh..wh..opq",
    ] {
        assert!(
            read_all(&archive(&[&header(name, b'0', 0, "")]), true).is_err(),
            "{name}"
        );
    }
    assert!(read_all(&archive(&[&header("a/.wh.b", b'2', 0, "x")]), true).is_err());
    let members = read_all(&archive(&[&header("a/.wh.b", b'0', 0, "")]), true).unwrap();
    assert_eq!(
        (members[0].0.path.to_string(), &members[0].0.kind),
        ("/a/b".to_owned(), &Kind::Whiteout)
    );
}

#[test]
fn a1_13_attributes_of_overlayfs_do_not_come_in() {
    let records = [
        ("SCHILY.xattr.user.overlay.redirect", "/../../etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", "1"),
        ("SCHILY.xattr.user.kept", "v"),
    ];
    let members = read_all(&archive(&[&pax(&records), &header("f", b'0', 0, "")]), true).unwrap();
    assert_eq!(members[0].0.xattrs, [(b"user.kept".to_vec(), b"v".to_vec())]);
}

/// Every byte of a good archive changed: an error or members, never a panic, and the whole of the pipeline holds.
#[test]
fn a1_3_mutations_do_no_harm() {
    let long = "n".repeat(150);
    let good = archive(&[
        &pax(&[("path", &long), ("mtime", "1.5"), ("SCHILY.xattr.user.a", "b")]),
        &header("f", b'0', 600, ""),
        &padded(&[7; 600]),
        &header("././@LongLink", b'K', 150, ""),
        &padded(long.as_bytes()),
        &header("l", b'2', 0, "t"),
        &header("h", b'1', 0, &long[..99]),
        &header("d/", b'5', 0, ""),
    ]);
    assert!(read_all(&good, true).is_ok());
    let mut state = 1u64;
    for round in 0..40_000usize {
        let mut bytes = good.clone();
        for _ in 0..=round % 3 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 24) as u8;
            // With a right checksum more of the reader is reached.
            let block = at / 512 * 512;
            let mut header: [u8; 512] = bytes[block..block + 512].try_into().unwrap();
            checksum(&mut header);
            bytes[block..block + 512].copy_from_slice(&header);
        }
        let cut = if round % 5 == 0 {
            (state >> 40) as usize % bytes.len()
        } else {
            bytes.len()
        };
        for layer in [true, false] {
            let mut reader = if layer {
                TarReader::layer(&bytes[..cut])
            } else {
                TarReader::archive(&bytes[..cut])
            };
            let mut assembler = IndexAssembler::new();
            while let Ok(Some(member)) = reader.next_entry() {
                if assembler.push(member).is_err() {
                    break;
                }
            }
            let index = assembler.finish();
            let again = rbuild_cache::layer::LayerIndex::from_bytes(&index.to_bytes()).unwrap();
            assert_eq!(again, index);
        }
    }
}
