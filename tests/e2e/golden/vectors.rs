//! The vectors: id, Dockerfile, result.

/// With the members of the topmost layer: type and mode, owner, content and time if it is an old one.
pub const LAYERS: &[(&str, &str, &[&str])] = &[
    ("V1", "FROM scratch\nCOPY a /x", &["x f644 0:0 a @1000000000"]),
    (
        "V2",
        "FROM scratch\nCOPY a /x/",
        &["x d755 0:0", "x/a f644 0:0 a @1000000000"],
    ),
    (
        "V3",
        "FROM scratch\nCOPY a x/y/z",
        &["x d755 0:0", "x/y d755 0:0", "x/y/z f644 0:0 a @1000000000"],
    ),
    (
        "V4",
        "FROM scratch\nCOPY d /x",
        &[
            "x d755 0:0",
            "x/1 f644 0:0 1",
            "x/sub d755 0:0",
            "x/sub/2 f644 0:0 2",
        ],
    ),
    (
        "V5",
        "FROM scratch\nCOPY d/ /",
        &["1 f644 0:0 1", "sub d755 0:0", "sub/2 f644 0:0 2"],
    ),
    (
        "V7",
        "FROM scratch\nCOPY [ab]* /x/",
        &[
            "x d755 0:0",
            "x/a f644 0:0 a @1000000000",
            "x/b.txt f4755 0:0 b",
            "x/busybox f755 0:0 bb",
        ],
    ),
    ("V8", "FROM scratch\nCOPY nope* /x/", &[]),
    ("V10", "FROM scratch\nCOPY lnk /x", &["x f644 0:0 a @1000000000"]),
    (
        "V11",
        "FROM scratch\nCOPY lnk* /x/",
        &["x d755 0:0", "x/lnk f644 0:0 a @1000000000"],
    ),
    (
        "V12",
        "FROM scratch\nCOPY dlnk /x",
        &[
            "x d755 0:0",
            "x/1 f644 0:0 1",
            "x/sub d755 0:0",
            "x/sub/2 f644 0:0 2",
        ],
    ),
    (
        "V13",
        "FROM scratch\nCOPY ../../a /x",
        &["x f644 0:0 a @1000000000"],
    ),
    ("V13", "FROM scratch\nCOPY /a /x", &["x f644 0:0 a @1000000000"]),
    (
        "V14",
        "FROM scratch\nCOPY --exclude=*.* . /x/",
        &[
            "x d755 0:0",
            "x/a f644 0:0 a @1000000000",
            "x/busybox f755 0:0 bb",
            "x/d d750 0:0",
            "x/d/1 f644 0:0 1",
            "x/d/sub d755 0:0",
            "x/d/sub/2 f644 0:0 2",
            "x/dlnk l777 0:0 d",
            "x/e d755 0:0",
            "x/fifo p640 0:0",
            "x/hard h644 0:0 /x/a",
            "x/lnk l777 0:0 a",
        ],
    ),
    (
        "V15",
        "FROM scratch\nCOPY d /x\nCOPY a /x",
        &["x d755 0:0", "x/a f644 0:0 a @1000000000"],
    ),
    (
        "V17",
        "FROM base\nRUN mkdir /real && ln -s /real /l\nCOPY a /l/",
        &["real d755 0:0", "real/a f644 0:0 a @1000000000"],
    ),
    (
        "V18",
        "FROM base\nRUN mkdir /real && ln -s /real/f /lf\nCOPY a /lf",
        &["real d755 0:0", "real/f f644 0:0 a @1000000000"],
    ),
    (
        "V19",
        "FROM base\nRUN mkdir /real && ln -s ../../../real /l\nCOPY a /l/",
        &["real d755 0:0", "real/a f644 0:0 a @1000000000"],
    ),
    (
        "V20",
        "FROM base\nRUN mkdir /real && ln -s /real /l\nCOPY --link a /l/",
        &["l d755 0:0", "l/a f644 0:0 a @1000000000"],
    ),
    (
        "V22",
        "FROM scratch\nCOPY --chown=5:6 a n/e/w/",
        &[
            "n d755 5:6",
            "n/e d755 5:6",
            "n/e/w d755 5:6",
            "n/e/w/a f644 5:6 a @1000000000",
        ],
    ),
    (
        "V23",
        "FROM scratch\nCOPY --chown=5 a n/",
        &["n d755 5:5", "n/a f644 5:5 a @1000000000"],
    ),
    (
        "V23",
        "FROM scratch\nCOPY --chown=:6 a n/",
        &["n d755 0:6", "n/a f644 0:6 a @1000000000"],
    ),
    (
        "V55",
        "FROM base\nRUN --mount=type=cache,target=/m,id=a,uid=1 touch /m/f\n\
         RUN --mount=type=cache,target=/m,id=a,uid=2 echo it has $(ls -A /m | wc -l) > /n",
        &["n f644 0:0 it has 0"],
    ),
    (
        "V25",
        "FROM base\nRUN echo bob:x:12:34::/:/bin/sh >> /etc/passwd\nCOPY --chown=bob a n/",
        &["n d755 12:34", "n/a f644 12:34 a @1000000000"],
    ),
    (
        "V26",
        "FROM scratch\nCOPY --chmod=600 d n/",
        &[
            "n d600 0:0",
            "n/1 f600 0:0 1",
            "n/sub d600 0:0",
            "n/sub/2 f600 0:0 2",
        ],
    ),
    (
        "V27",
        "FROM scratch\nCOPY --chmod=u=rwX,go=rX --exclude=[e-z]* --exclude=*.*z . n/",
        &[
            "n d755 0:0",
            "n/a f644 0:0 a @1000000000",
            "n/b.txt f755 0:0 b",
            "n/busybox f755 0:0 bb",
            "n/d d755 0:0",
            "n/d/1 f644 0:0 1",
            "n/d/sub d755 0:0",
            "n/d/sub/2 f644 0:0 2",
            "n/dlnk l777 0:0 d",
        ],
    ),
    (
        "V28",
        "FROM scratch\nCOPY --chmod=u+s,g-r d /n/m/",
        &[
            "n d755 0:0",
            "n/m d755 0:0",
            "n/m/1 f4604 0:0 1",
            "n/m/sub d4715 0:0",
            "n/m/sub/2 f4604 0:0 2",
        ],
    ),
    (
        "V30",
        "FROM scratch\nCOPY [\"a\",\"/c d/\"]",
        &["c d d755 0:0", "c d/a f644 0:0 a @1000000000"],
    ),
    (
        "V32",
        "FROM scratch\nCOPY --exclude=*.* --exclude=d/sub --exclude=bus* --exclude=[e-z]* . /n/",
        &[
            "n d755 0:0",
            "n/a f644 0:0 a @1000000000",
            "n/d d750 0:0",
            "n/d/1 f644 0:0 1",
            "n/dlnk l777 0:0 d",
        ],
    ),
    (
        "V33",
        "FROM scratch\nCOPY --exclude=sub d /n/",
        &["n d755 0:0", "n/1 f644 0:0 1"],
    ),
    (
        "V34",
        "FROM scratch\nCOPY --parents d/sub/2 a /n/",
        &[
            "n d755 0:0",
            "n/a f644 0:0 a @1000000000",
            "n/d d750 0:0",
            "n/d/sub d755 0:0",
            "n/d/sub/2 f644 0:0 2",
        ],
    ),
    (
        "V35",
        "FROM scratch\nCOPY --parents ./d/./sub/2 /n/",
        &["n d755 0:0", "n/sub d755 0:0", "n/sub/2 f644 0:0 2"],
    ),
    (
        "V36",
        "FROM scratch\nCOPY --parents **/2 /n/",
        &[
            "n d755 0:0",
            "n/d d750 0:0",
            "n/d/sub d755 0:0",
            "n/d/sub/2 f644 0:0 2",
        ],
    ),
    (
        "V37",
        "FROM scratch AS s\nCOPY --chown=7:8 --chmod=4755 a /a\nFROM scratch\nCOPY --from=s /a /n/",
        &["n d755 0:0", "n/a f4755 7:8 a @1000000000"],
    ),
    (
        "V38",
        "FROM scratch\nCOPY --chown=7:8 a /a\nFROM scratch\nCOPY --from=0 / /",
        &["a f644 7:8 a @1000000000"],
    ),
    (
        "V39",
        "FROM scratch\nWORKDIR /w\nCOPY d/. d2/.",
        &[
            "w d755 0:0",
            "w/d2 d755 0:0",
            "w/d2/1 f644 0:0 1",
            "w/d2/sub d755 0:0",
            "w/d2/sub/2 f644 0:0 2",
        ],
    ),
    (
        "V40",
        "FROM scratch\nCOPY [\"a\",\"\"]",
        &["a f644 0:0 a @1000000000"],
    ),
    (
        "V40",
        "FROM scratch\nCOPY a $nothing",
        &["a f644 0:0 a @1000000000"],
    ),
    (
        "V41",
        "FROM scratch\nADD p.tar /n/",
        &[
            "n d755 0:0",
            "n/tt d700 33:44",
            "n/tt/f f644 33:44 f @1100000000",
            "n/tt/l l777 33:44 f",
        ],
    ),
    (
        "V42",
        "FROM scratch\nADD --chown=1:2 p.tar.gz /n",
        &[
            "n d755 1:2",
            "n/tt d700 1:2",
            "n/tt/f f644 1:2 f @1100000000",
            "n/tt/l l777 1:2 f",
        ],
    ),
    (
        "V43",
        "FROM scratch\nADD --chmod=600 p.tar.gz /n",
        &[
            "n d755 0:0",
            "n/tt d700 33:44",
            "n/tt/f f644 33:44 f @1100000000",
            "n/tt/l l777 33:44 f",
        ],
    ),
    (
        "V44",
        "FROM scratch\nADD p.zip p.tar.lzma /n/",
        &[
            "n d755 0:0",
            "n/p.tar.lzma f644 0:0 ]\u{0}\u{0}\u{fffd} lzma",
            "n/p.zip f644 0:0 PK\u{3}\u{4} zip",
        ],
    ),
    (
        "V47",
        "FROM scratch\nUSER 4242\nWORKDIR /wd/x\nCOPY a .",
        &[
            "wd d755 4242:4242",
            "wd/x d755 4242:4242",
            "wd/x/a f644 0:0 a @1000000000",
        ],
    ),
    (
        "V48",
        "FROM scratch\nENV V=val\nCOPY <<EOF /h\na\\nb \\$V $V \"q $V\"\nEOF",
        &["h f644 0:0 anb $V val \"q val\""],
    ),
    (
        "V49",
        "FROM scratch\nCOPY <<-T /h\n\tone\n\t\ttwo\n\tT",
        &["h f644 0:0 one\ntwo"],
    ),
];

/// With what the error says.
pub const REFUSED: &[(&str, &str, &str)] = &[
    // BuildKit writes both to one path (row B2 of section 15).
    (
        "V6",
        "FROM scratch\nCOPY a b.txt /x",
        "must be a directory and end with a /",
    ),
    ("V9", "FROM scratch\nCOPY nope /x/", "\"/nope\": not found"),
    (
        "V16",
        "FROM scratch\nCOPY a /x\nCOPY d /x",
        "cannot copy to non-directory",
    ),
    (
        "V21",
        "FROM base\nRUN mkdir /real /x && ln -s /real /x/sub\nCOPY d /x",
        "cannot copy to non-directory: /x/sub",
    ),
    (
        "V24",
        "FROM scratch\nCOPY --chown=bob a n/",
        "invalid user index: -1",
    ),
    (
        "V29",
        "FROM scratch\nCOPY --chmod=08 a /x",
        "invalid chmod parameter: '08'. it should be octal string and between 0 and 07777",
    ),
    (
        "V29",
        "FROM scratch\nCOPY --chmod=10000 a /x",
        "invalid chmod parameter: '10000'. it should be octal string and between 0 and 07777",
    ),
    ("V31", "FROM scratch\nCOPY a b.txt \"c d\"", "double-quote"),
];

/// With a part of the config, by JSON pointer.
pub const CONFIGS: &[(&str, &str, &str, &str)] = &[
    (
        "V50",
        "FROM scratch\nARG A=1 B=$A-2\nLABEL b=$B",
        "/config/Labels",
        r#"{"b": "1-2"}"#,
    ),
    (
        "V51",
        "FROM scratch\nENV A=b\nENV A=c B=$A",
        "/config/Env/2",
        r#""B=b""#,
    ),
    (
        "V52",
        "FROM scratch\nENV A=a\nARG A=z\nLABEL l=$A",
        "/config/Labels",
        r#"{"l": "z"}"#,
    ),
    (
        "V52",
        "FROM scratch\nENV A=a\nARG A=z\nLABEL l=$A",
        "/config/Env/1",
        r#""A=a""#,
    ),
    (
        "V53",
        "FROM scratch AS b\nCMD [\"x\"]\nFROM b\nENTRYPOINT [\"y\"]",
        "/config/Cmd",
        "null",
    ),
    (
        "V54",
        "FROM scratch\nEXPOSE 127.0.0.1:8080:80 9-10 81/UDP",
        "/config/ExposedPorts",
        r#"{"10/tcp": {}, "80/tcp": {}, "81/udp": {}, "9/tcp": {}}"#,
    ),
];
