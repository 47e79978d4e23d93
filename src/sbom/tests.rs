use std::collections::BTreeMap;
use std::io::Cursor;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;
use rbuild_cache::layer::Timestamp;
use rbuild_cache::{LayerId, Store};

use super::sqlite::{Database, Field};
use super::*;

const RPM: &[u8] = include_bytes!("../../testdata/rpm/rpmdb.sqlite");

/// Path, permissions and bytes.
type Written<'a> = (&'a str, u32, &'a [u8]);

fn layer(store: &Store, files: &[Written<'_>], removed: &[&str]) -> LayerId {
    let mut builder = store.layer_builder().unwrap();
    let entry = |path: LayerPath, kind, mode| Entry {
        path,
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    };
    // In the order of paths, as a layer is written.
    let mut entries = BTreeMap::new();
    let paths = files.iter().map(|(path, ..)| path).chain(removed);
    for path in paths.map(|path| LayerPath::clean(path.as_bytes())) {
        let mut parent = path.parent();
        while let Some(directory) = parent.filter(|directory| !directory.is_root()) {
            parent = directory.parent();
            let made = entry(directory.clone(), Kind::Directory { opaque: false }, 0o755);
            entries.insert(directory, (made, None));
        }
    }
    for (path, mode, bytes) in files {
        let path = LayerPath::clean(path.as_bytes());
        let size = bytes.len() as u64;
        let file = entry(path.clone(), Kind::File { size }, *mode);
        entries.insert(path, (file, Some(Cursor::new(*bytes))));
    }
    for path in removed {
        let path = LayerPath::clean(path.as_bytes());
        entries.insert(path.clone(), (Entry::whiteout(path), None));
    }
    for (entry, mut bytes) in entries.into_values() {
        let bytes = bytes.as_mut().map(|bytes| bytes as &mut dyn Read);
        builder.append(&entry, bytes).unwrap();
    }
    builder.commit().unwrap()
}

/// What is found in layers, each of what it writes and what it removes.
fn found(layers: &[(&[Written<'_>], &[&str])]) -> Inventory {
    let here = tempfile::tempdir().unwrap();
    let store = Store::open(here.path()).unwrap();
    let layers = layers
        .iter()
        .map(|(files, removed)| store.layer(&layer(&store, files, removed)).unwrap());
    scan(&View::new(layers.collect())).unwrap()
}

fn urls(inventory: &Inventory) -> Vec<String> {
    inventory.packages.iter().map(Package::url).collect()
}

/// An ELF file of 64 bits with these sections.
fn program(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut names = vec![0];
    let mut data = vec![0; 64];
    let mut table = vec![0; 64];
    let header = |name: usize, offset: usize, size: usize| {
        let mut entry = vec![0; 64];
        entry[..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
        entry[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        entry[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        entry
    };
    for (name, bytes) in sections {
        table.extend(header(names.len(), data.len(), bytes.len()));
        names.extend(name.bytes().chain([0]));
        data.extend_from_slice(bytes);
    }
    table.extend(header(0, data.len(), names.len()));
    data.extend(names);
    let place = data.len() as u64;
    data.extend(table);
    data[..6].copy_from_slice(b"\x7fELF\x02\x01");
    data[40..48].copy_from_slice(&place.to_le_bytes());
    data[58..60].copy_from_slice(&64_u16.to_le_bytes());
    let count = u16::try_from(sections.len() + 2).unwrap();
    data[60..62].copy_from_slice(&count.to_le_bytes());
    data[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    data
}

/// Build info as a Go of today writes it.
fn go_info(version: &str, modules: &str) -> Vec<u8> {
    let mut info = b"\xff Go buildinf:\x08\x02".to_vec();
    info.resize(32, 0);
    let modules = format!("0123456789abcdef{modules}0123456789abcdef");
    for text in [version, &modules] {
        let mut length = text.len();
        while length >= 0x80 {
            info.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        info.push(u8::try_from(length).unwrap());
        info.extend(text.bytes());
    }
    info
}

fn zlib(text: &str) -> Vec<u8> {
    let mut out = ZlibEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut out, text.as_bytes()).unwrap();
    out.finish().unwrap()
}

#[test]
fn packages_of_distributions() {
    let status = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-9)\n\
        Version: 2.36-9+deb12u1\nDescription: x\n Package: no\n\nPackage: gone\nStatus: deinstall ok config-files\n\
        Version: 1\n\nPackage: all\nStatus: install ok installed\nArchitecture: all\nVersion: 1:2";
    let inventory = found(&[(
        &[
            (
                "etc/os-release",
                0o644,
                b"ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='Debian 12'\n",
            ),
            ("var/lib/dpkg/status", 0o644, status),
            (
                "var/lib/dpkg/status.d/base",
                0o644,
                b"Package: base-files\nVersion: 12\n",
            ),
            ("var/lib/dpkg/status.d/base.md5sums", 0o644, b"Package: no\n"),
        ],
        &[],
    )]);
    assert_eq!(
        urls(&inventory),
        [
            "pkg:deb/debian/all@1:2?arch=all&distro=debian-12",
            "pkg:deb/debian/base-files@12?distro=debian-12",
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=glibc%402.36-9",
        ]
    );
    assert_eq!(inventory.system.unwrap().name, "Debian 12");

    let installed =
        b"C:Q1\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nF:lib\n\nP:ssl_client\nV:1.36\nA:x86_64\n\
        o:busybox\nL:GPL-2.0-only\n";
    let inventory = found(&[(
        &[
            ("usr/lib/os-release", 0o644, b"ID=alpine\nVERSION_ID=3.18.4\n"),
            ("lib/apk/db/installed", 0o644, installed),
        ],
        &[],
    )]);
    assert_eq!(
        urls(&inventory),
        [
            "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.18.4",
            "pkg:apk/alpine/ssl_client@1.36?arch=x86_64&distro=alpine-3.18.4&upstream=busybox",
        ]
    );
    assert_eq!(inventory.packages[1].licence.as_deref(), Some("GPL-2.0-only"));
}

#[test]
fn packages_of_rpm() {
    let inventory = found(&[(&[("var/lib/rpm/rpmdb.sqlite", 0o644, RPM)], &[])]);
    assert_eq!(
        urls(&inventory),
        [
            "pkg:rpm/redhat/pkg1@1.1-2?arch=noarch&upstream=pkg1-1.1-2.src.rpm",
            "pkg:rpm/redhat/pkg3@1.3-2?arch=noarch&epoch=4&upstream=pkg3-1.3-2.src.rpm",
            "pkg:rpm/redhat/pkg5@1.5-2?arch=noarch&upstream=pkg5-1.5-2.src.rpm",
        ]
    );
    assert!(inventory.notes.is_empty(), "{:?}", inventory.notes);
    assert_eq!(inventory.packages[0].licence.as_deref(), Some("GPLv2+ and MIT"));
    // A table of several pages, whose rows begin with the number of the row.
    let database = Database::open(&RPM).unwrap();
    let mut texts = Vec::new();
    let root = database.table("Numbers").unwrap();
    database
        .rows(root, &mut |fields| match fields.as_slice() {
            [Field::Nothing, Field::Bytes(text)] => texts.push(String::from_utf8_lossy(text).into_owned()),
            other => panic!("{other:?}"),
        })
        .unwrap();
    let wanted: Vec<String> = (1..=300).map(|number| format!("number {number}")).collect();
    assert_eq!(texts, wanted);

    let inventory = found(&[(&[("var/lib/rpm/Packages", 0o644, b"x")], &[])]);
    assert!(inventory.notes[0].contains("this form of the rpm database is not read"));
}

#[test]
fn packages_of_languages() {
    let inventory = found(&[(
        &[
            (
                "a/node_modules/left/package.json",
                0o644,
                br#"{"name":"left","version":"1.0.0","license":{"type":"MIT"}}"#,
            ),
            (
                "a/node_modules/@s/c/package.json",
                0o644,
                br#"{"name":"@s/c","version":"2.0.0-rc.1"}"#,
            ),
            (
                "a/node_modules/left/lib/package.json",
                0o644,
                br#"{"name":"no","version":"1"}"#,
            ),
            ("a/package.json", 0o644, br#"{"name":"no","version":"1"}"#),
            ("a/node_modules/bad/package.json", 0o644, b"{"),
            (
                "p/Foo_Bar.baz-1.dist-info/METADATA",
                0o644,
                b"Name: Foo_Bar.baz\nVersion: 1\nLicense-Expression: MIT\n\nName: no\n",
            ),
            (
                "p/old.egg-info",
                0o644,
                b"Name: old\nVersion: 0.1\nLicense: UNKNOWN\n",
            ),
            ("p/dir.egg-info/PKG-INFO", 0o644, b"Name: dir\nVersion: 3\n"),
        ],
        &[],
    )]);
    assert_eq!(
        urls(&inventory),
        [
            "pkg:npm/left@1.0.0",
            "pkg:npm/%40s/c@2.0.0-rc.1",
            "pkg:pypi/dir@3",
            "pkg:pypi/foo-bar-baz@1",
            "pkg:pypi/old@0.1",
        ]
    );
    assert_eq!(inventory.packages[0].licence.as_deref(), Some("MIT"));
    assert_eq!(inventory.notes.len(), 1, "{:?}", inventory.notes);
}

#[test]
fn packages_of_programs() {
    let modules = "path\tx.org/app\nmod\tx.org/app\t(devel)\t\ndep\ta.b/c\tv1.2.3\th1:x=\ndep\told/m\tv0.1.0\n\
        =>\tnew/m\tv0.2.0\th1:y=\nbuild\t-trimpath=true\n";
    let go = program(&[
        (".text", b"code"),
        (".go.buildinfo", &go_info("go1.22.1 X:y", modules)),
    ]);
    let crates = zlib(
        r#"{"packages":[{"name":"app","version":"0.1.0","source":"local","root":true},
            {"name":"serde","version":"1.0.2","source":"crates.io","dependencies":[]},
            {"name":"cc","version":"1.0.0","source":"crates.io","kind":"build"},
            {"name":"mine","version":"3.0.0","source":"git"}]}"#,
    );
    let rust = program(&[(".dep-v0", &crates)]);
    let old = program(&[(".go.buildinfo", b"\xff Go buildinf:\x08\x00")]);
    let inventory = found(&[(
        &[
            ("bin/go", 0o755, &go),
            ("lib/x.so.1", 0o644, &rust),
            ("bin/old", 0o755, &old),
            ("data", 0o644, &go),
        ],
        &[],
    )]);
    assert_eq!(
        urls(&inventory),
        [
            "pkg:cargo/app@0.1.0",
            "pkg:cargo/mine@3.0.0?vcs_url=git",
            "pkg:cargo/serde@1.0.2",
            "pkg:golang/a.b/c@v1.2.3",
            "pkg:golang/new/m@v0.2.0",
            "pkg:golang/stdlib@1.22.1",
            "pkg:golang/x.org/app",
        ]
    );
    assert_eq!(inventory.notes.len(), 1, "{:?}", inventory.notes);
    assert!(inventory.notes[0].contains("/bin/old: its build info is of a Go before 1.18"));
}

#[test]
fn what_a_layer_removed_or_changed() {
    let module = |version: &str| format!(r#"{{"name":"m","version":"{version}"}}"#);
    let (old, new) = (module("1.0.0"), module("2.0.0"));
    let status = b"Package: a\nVersion: 1\nArchitecture: all\n\nPackage: b\nVersion: 1\nArchitecture: all\n";
    let inventory = found(&[
        (
            &[
                ("node_modules/m/package.json", 0o644, old.as_bytes()),
                (
                    "node_modules/gone/package.json",
                    0o644,
                    br#"{"name":"gone","version":"1.0.0"}"#,
                ),
                ("x.egg-info", 0o644, b"Name: x\nVersion: 1\n"),
                ("var/lib/dpkg/info/a.list", 0o644, b"/a\n"),
            ],
            &[],
        ),
        (
            &[
                ("node_modules/m/package.json", 0o644, new.as_bytes()),
                ("var/lib/dpkg/status", 0o644, status),
            ],
            &["node_modules/gone", "x.egg-info"],
        ),
    ]);
    let shown: Vec<(String, Option<usize>)> = inventory
        .packages
        .iter()
        .map(|package| (package.name.clone(), package.layer))
        .collect();
    let wanted = [("a", 0), ("b", 1), ("m", 1)].map(|(name, layer)| (name.to_owned(), Some(layer)));
    assert_eq!(shown, wanted);
    assert_eq!(inventory.packages[2].version, "2.0.0");
}

#[test]
fn databases_that_lead_in_circles_end() {
    // Each page in turn names the first page of its table where another page was named.
    for place in 0..RPM.len() / 4 {
        let mut bytes = RPM.to_vec();
        bytes[place * 4..place * 4 + 4].copy_from_slice(&[0, 0, 0, 2]);
        let _ = rpm::packages(&bytes.as_slice(), "", None);
    }
}

fn cases() -> u32 {
    std::env::var("RBUILD_GENERATED_FILES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Whatever is written over parts of files that are understood, and whatever is cut off: no panic, and an end.
    #[test]
    fn strangers_bytes_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..6)), 0..12),
        length in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let go = program(&[(".go.buildinfo", &go_info("go1.22", "dep\ta\tv1\n"))]);
        let rust = program(&[(".dep-v0", &zlib(r#"{"packages":[]}"#))]);
        let spoiled = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            for (place, change) in &changes {
                let place = place.index(bytes.len());
                let end = bytes.len().min(place + change.len());
                bytes[place..end].copy_from_slice(&change[..end - place]);
            }
            bytes.truncate(length.index(bytes.len()) + 1);
            bytes
        };
        for bytes in [spoiled(&go), spoiled(&rust), spoiled(RPM), noise] {
            let parts = bytes.as_slice();
            let _ = programs::packages(&parts);
            let _ = rpm::packages(&parts, "x", None);
            let _ = debian::packages(&bytes, "x", None);
            let _ = alpine::packages(&bytes, "x", None);
            let _ = languages::npm(&bytes);
            let _ = languages::python(&bytes);
            let _ = os_release(&String::from_utf8_lossy(&bytes));
        }
    }
}
