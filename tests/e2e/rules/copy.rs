//! COPY and ADD: what is selected, where it goes, with which metadata (spec 3.8).

use std::fs;
use std::time::SystemTime;

use rbuild_cache::layer::TarReader;

use crate::built::{blob, build, each, is_refused, makes_layers, manifest};

/// Rule, Dockerfile, members of the topmost layer.
const LAYERS: &[(&str, &str, &[&str])] = &[
    (
        "P2",
        "FROM scratch\nCOPY ../../a /x",
        &["x f644 0:0 a @1000000000"],
    ),
    (
        "P2 slash",
        "FROM scratch\nCOPY a/ /x",
        &["x f644 0:0 a @1000000000"],
    ),
    (
        "P2 absolute",
        "FROM scratch\nCOPY /d/../a /x",
        &["x f644 0:0 a @1000000000"],
    ),
    (
        "P3",
        "FROM scratch\nWORKDIR /w\nCOPY a ../v/./b",
        &["v d755 0:0", "v/b f644 0:0 a @1000000000"],
    ),
    (
        "P3 here",
        "FROM scratch\nWORKDIR /w\nCOPY a .",
        &["w d755 0:0", "w/a f644 0:0 a @1000000000"],
    ),
    (
        "P3 dot",
        "FROM scratch\nCOPY a /x/.",
        &["x d755 0:0", "x/a f644 0:0 a @1000000000"],
    ),
    (
        "P3 owner and mode of parents",
        "FROM scratch\nCOPY --chown=1:2 --chmod=700 a /n/x",
        &["n d700 1:2", "n/x f700 1:2 a @1000000000"],
    ),
    (
        "P4 existing directory",
        "FROM scratch\nCOPY e /e\nCOPY a /e",
        &["e d755 0:0", "e/a f644 0:0 a @1000000000"],
    ),
    (
        "P4 existing file",
        "FROM scratch\nCOPY b.txt /x\nCOPY a /x",
        &["x f644 0:0 a @1000000000"],
    ),
    (
        "P5 existing directories",
        "FROM scratch\nCOPY --chmod=700 d /x\nCOPY d /x",
        &[
            "x d700 0:0",
            "x/1 f644 0:0 1",
            "x/sub d755 0:0",
            "x/sub/2 f644 0:0 2",
        ],
    ),
    (
        "P8",
        "FROM scratch\nCOPY [^b]/s?b [b]*[^x]xt /x/",
        &["x d755 0:0", "x/2 f644 0:0 2", "x/b.txt f4755 0:0 b"],
    ),
    (
        "P8 two stars are one",
        "FROM scratch\nCOPY **/2 a /x/",
        &["x d755 0:0", "x/a f644 0:0 a @1000000000"],
    ),
    ("P9", "FROM scratch\nCOPY nope* /x/y/", &[]),
    ("P10", "FROM scratch\nCOPY lnk /x", &["x f644 0:0 a @1000000000"]),
    (
        "P10 inside a directory",
        "FROM scratch\nCOPY --exclude=[^l]* . /x",
        &["x d755 0:0", "x/lnk l777 0:0 a"],
    ),
    (
        "P11 dangling link",
        "FROM base\nRUN ln -s /nowhere /l\nCOPY a /l",
        &["nowhere f644 0:0 a @1000000000"],
    ),
    (
        "P11 no way out",
        "FROM base\nRUN ln -s ../../../../out /l\nCOPY a /l",
        &["out f644 0:0 a @1000000000"],
    ),
    (
        "P11 directory",
        "FROM base\nRUN mkdir /real && ln -s real /l\nCOPY d/sub /l",
        &["real d755 0:0", "real/2 f644 0:0 2"],
    ),
    // The context's owner does not count (as root, `a` belongs to 7:8), nor does USER.
    (
        "P12 context",
        "FROM scratch\nUSER 9\nCOPY a /x",
        &["x f644 0:0 a @1000000000"],
    ),
    (
        "P12 stage",
        "FROM scratch AS s\nCOPY --chown=5:6 a /a\nFROM scratch\nCOPY --from=s /a /x",
        &["x f644 5:6 a @1000000000"],
    ),
    (
        "P13 group",
        "FROM scratch\nCOPY --chown=:6 a /x",
        &["x f644 0:6 a @1000000000"],
    ),
    (
        "P13 user",
        "FROM scratch\nCOPY --chown=5 a /x",
        &["x f644 5:5 a @1000000000"],
    ),
    (
        "P13 name in the destination",
        "FROM base\nRUN echo me:x:41:42::/: >> /etc/passwd\nCOPY --chown=me a /x",
        &["x f644 41:42 a @1000000000"],
    ),
    (
        "P14",
        "FROM scratch\nCOPY --chmod=0640 d /x/",
        &[
            "x d640 0:0",
            "x/1 f640 0:0 1",
            "x/sub d640 0:0",
            "x/sub/2 f640 0:0 2",
        ],
    ),
    (
        "P14 symbolic",
        "FROM scratch\nCOPY --chmod=u=rwX,go=rX,g+w d b.txt /n/",
        &[
            "n d755 0:0",
            "n/1 f664 0:0 1",
            "n/b.txt f775 0:0 b",
            "n/sub d775 0:0",
            "n/sub/2 f664 0:0 2",
        ],
    ),
    (
        "P15",
        "FROM scratch\nCOPY --exclude=[^afhb]* --exclude=busybox --exclude=b.txt . /x",
        &[
            "x d755 0:0",
            "x/a f644 0:0 a @1000000000",
            "x/fifo p640 0:0",
            "x/hard h644 0:0 /x/a",
        ],
    ),
    (
        "P15 two operands",
        "FROM scratch\nCOPY a hard /x/",
        &[
            "x d755 0:0",
            "x/a f644 0:0 a @1000000000",
            "x/hard f644 0:0 a @1000000000",
        ],
    ),
    (
        "P17",
        "FROM scratch\nCOPY --exclude=b.txt [ab]* /x/",
        &[
            "x d755 0:0",
            "x/a f644 0:0 a @1000000000",
            "x/busybox f755 0:0 bb",
        ],
    ),
    (
        "P17 deep, with an exception",
        "FROM scratch\nCOPY --exclude=**/* --exclude=!sub --exclude=!sub/2 d /x/",
        &["x d755 0:0", "x/sub d755 0:0", "x/sub/2 f644 0:0 2"],
    ),
    // No process could run in this image.
    ("P19", "FROM scratch\nCOPY d/1 /x", &["x f644 0:0 1"]),
    (
        "P30",
        "FROM scratch\nCOPY --parents ./d/./sub/* /p/",
        &["p d755 0:0", "p/sub d755 0:0", "p/sub/2 f644 0:0 2"],
    ),
    (
        "P30 no pivot",
        "FROM scratch\nCOPY --parents d/sub/2 /p/",
        &[
            "p d755 0:0",
            "p/d d750 0:0",
            "p/d/sub d755 0:0",
            "p/d/sub/2 f644 0:0 2",
        ],
    ),
    (
        "P31",
        "FROM scratch\nCOPY --parents **/2 /p/",
        &[
            "p d755 0:0",
            "p/d d750 0:0",
            "p/d/sub d755 0:0",
            "p/d/sub/2 f644 0:0 2",
        ],
    ),
    ("P32", "FROM scratch\nCOPY --parents nope* /p/", &["p d755 0:0"]),
];

/// Rule, Dockerfile, what the error says.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "P1",
        "FROM scratch\nCOPY a",
        "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
    ),
    (
        "P6 directory over file",
        "FROM scratch\nCOPY a /x/sub\nCOPY d /x",
        "cannot copy to non-directory",
    ),
    (
        "P6 file over directory",
        "FROM scratch\nCOPY d /x/1/\nCOPY d /x",
        "cannot replace to directory",
    ),
    (
        "P7",
        "FROM scratch\nCOPY a b.txt /x",
        "must be a directory and end with a /",
    ),
    ("P9 literal", "FROM scratch\nCOPY nope /x", "\"/nope\": not found"),
    ("P10 dangling", "FROM scratch\nCOPY b.txt/x /x", "not found"),
    (
        "P13 unknown name",
        "FROM scratch\nCOPY --chown=me a /x",
        "invalid user index: -1",
    ),
    (
        "P14 no octal",
        "FROM scratch\nCOPY --chmod=08 a /x",
        "invalid chmod parameter: '08'. it should be octal string and between 0 and 07777",
    ),
    (
        "P32 literal",
        "FROM scratch\nCOPY --parents nope /x/",
        "\"/nope\": not found",
    ),
    ("D8", "FROM scratch\nADD --from=a a /x", "unknown flag: --from"),
    (
        "D8 parents",
        "FROM scratch\nADD --parents a /x",
        "unknown flag: --parents",
    ),
];

#[test]
fn p2_to_p32_what_a_layer_gets() {
    makes_layers(LAYERS);
}

#[test]
fn p1_to_p32_what_is_refused() {
    is_refused(REFUSED);
}

#[test]
fn p16_directories_made_on_the_way_have_the_time_of_the_build() {
    let now = || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        i64::try_from(since.unwrap().as_secs()).unwrap()
    };
    each(|env| {
        let time = |more: &[&str]| {
            let layout = env.path("layout");
            build(env, "FROM scratch\nCOPY a /made/x", &layout, more).ok();
            let manifest = manifest(&layout);
            let layer = blob(&layout, &manifest["layers"][0]["digest"]);
            let mut tar = TarReader::layer(fs::File::open(layer).unwrap());
            let time = tar.next_entry().unwrap().unwrap().entry.mtime.seconds;
            fs::remove_dir_all(layout).unwrap();
            time
        };
        let before = now();
        let made = time(&[]);
        assert!((before..=now()).contains(&made), "{before} {made}");
        assert_eq!(
            time(&["--build-arg", "SOURCE_DATE_EPOCH=1234567890"]),
            1_234_567_890
        );
    });
}
