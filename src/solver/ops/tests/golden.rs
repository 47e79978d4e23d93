//! The golden vectors of the specification (section 16) that copy local things.

use super::{check, context};
use crate::source::local::LocalContext;

#[test]
fn golden_vectors() {
    let dir = context();
    let k = LocalContext::open(dir.path(), None, None).unwrap();
    let contents: &[&str] = &[
        "/x d 755 0:0",
        "/x/1 f 644 0:0 1",
        "/x/sub d 755 0:0",
        "/x/sub/2 f 644 0:0 2",
    ];
    let passwd = "/etc/passwd f 644 0:0 root:x:0:0::/:/bin/sh\nbob:x:12:34::/:/bin/sh\n";
    let real: &[&str] = &["/l l 777 0:0 /real", "/real d 700 3:4"];
    check(
        &[
            (&[], "COPY a /x", &["/x f 644 0:0 a"]),
            (&[], "COPY a /x/", &["/x d 755 0:0", "/x/a f 644 0:0 a"]),
            (
                &[],
                "COPY a x/y/z",
                &["/x d 755 0:0", "/x/y d 755 0:0", "/x/y/z f 644 0:0 a"],
            ),
            (&[], "COPY d /x", contents),
            (
                &[],
                "COPY d/ /",
                &["/1 f 644 0:0 1", "/sub d 755 0:0", "/sub/2 f 644 0:0 2"],
            ),
            (&[], "COPY a b.txt /x", &["!must be a directory and end with a /"]),
            (
                &[],
                "COPY [ab]* /x/",
                &[
                    "/x d 755 0:0",
                    "/x/a f 644 0:0 a",
                    "/x/b.txt f 4755 0:0 b",
                    "/x/busybox f 755 0:0 bb",
                ],
            ),
            (&[], "COPY nope* /x/", &[]),
            (&[], "COPY nope /x/", &["!\"/nope\": not found"]),
            (&[], "COPY lnk /x", &["/x f 644 0:0 a"]),
            (&[], "COPY lnk* /x/", &["/x d 755 0:0", "/x/lnk f 644 0:0 a"]),
            (&[], "COPY dlnk /x", contents),
            (&[], "COPY dlnk/1 /x", &["/x f 644 0:0 1"]),
            (&[], "COPY ../../a /x", &["/x f 644 0:0 a"]),
            (&[], "COPY /a /x", &["/x f 644 0:0 a"]),
            (&[], "COPY a/ /x", &["/x f 644 0:0 a"]),
            (
                &["/x d 700 5:6"],
                "COPY a /x",
                &["/x d 700 5:6", "/x/a f 644 0:0 a"],
            ),
            (
                &["/x f 644 0:0 old"],
                "COPY d /x",
                &["!cannot copy to non-directory: /x"],
            ),
            (&["/x f 644 0:0 old"], "COPY a /x", &["/x f 644 0:0 a"]),
            (
                &["/x f 644 0:0 old"],
                "COPY a /x/",
                &["!cannot copy to non-directory: /x"],
            ),
            (real, "COPY a /l/", &["/real d 700 3:4", "/real/a f 644 0:0 a"]),
            (real, "COPY a /l", &["/real d 700 3:4", "/real/a f 644 0:0 a"]),
            (
                &["/lf l 777 0:0 /real/f", "/real d 755 0:0"],
                "COPY a /lf",
                &["/real d 755 0:0", "/real/f f 644 0:0 a"],
            ),
            (
                &["/l l 777 0:0 ../../../real", "/real d 755 0:0"],
                "COPY a /l/",
                &["/real d 755 0:0", "/real/a f 644 0:0 a"],
            ),
            (
                &["/l l 777 0:0 /l2", "/l2 l 777 0:0 l"],
                "COPY a /l/",
                &["!too many levels"],
            ),
            (real, "COPY --link a /l/", &["/l d 755 0:0", "/l/a f 644 0:0 a"]),
            (
                &["/x d 755 0:0", "/x/sub l 777 0:0 /real", "/real d 755 0:0"],
                "COPY d /x",
                &["!cannot copy to non-directory: /x/sub"],
            ),
            (
                &["/x d 755 0:0", "/x/1 d 755 0:0"],
                "COPY d /x",
                &["!cannot replace to directory /x/1 with file"],
            ),
            (&["/x d 755 0:0", "/x/1 l 777 0:0 /real"], "COPY d /x", contents),
            (
                &["/x d 711 1:1", "/x/sub d 700 9:9"],
                "COPY d /x",
                &[
                    "/x d 711 1:1",
                    "/x/1 f 644 0:0 1",
                    "/x/sub d 755 0:0",
                    "/x/sub/2 f 644 0:0 2",
                ],
            ),
            (
                &[],
                "COPY --chown=5:6 a n/e/w/",
                &[
                    "/n d 755 5:6",
                    "/n/e d 755 5:6",
                    "/n/e/w d 755 5:6",
                    "/n/e/w/a f 644 5:6 a",
                ],
            ),
            (&[], "COPY --chown=5 a n/", &["/n d 755 5:5", "/n/a f 644 5:5 a"]),
            (&[], "COPY --chown=:6 a n/", &["/n d 755 0:6", "/n/a f 644 0:6 a"]),
            (&[], "COPY --chown=bob a n/", &["!invalid user index: -1"]),
            (
                &["/etc d 755 0:0", passwd],
                "COPY --chown=bob a /x",
                &["/x f 644 12:34 a"],
            ),
            (
                &["/etc d 755 0:0", passwd],
                "COPY --chown=bob:7 a /x",
                &["/x f 644 12:7 a"],
            ),
            (
                &["/etc d 755 0:0", passwd],
                "COPY --chown=eve a /x",
                &["!unable to find user eve"],
            ),
            (
                &["/etc d 755 0:0", passwd],
                "COPY --chown=bob:bobs a /x",
                &["!invalid group index: -1"],
            ),
            (
                &["/etc d 755 0:0", passwd],
                "COPY --link --chown=bob a /x",
                &["!invalid user index: -1"],
            ),
            (
                &[],
                "COPY --chmod=600 d n/",
                &[
                    "/n d 600 0:0",
                    "/n/1 f 600 0:0 1",
                    "/n/sub d 600 0:0",
                    "/n/sub/2 f 600 0:0 2",
                ],
            ),
            (
                &[],
                "COPY --chmod=u+s,g-r d /n/m/",
                &[
                    "/n d 755 0:0",
                    "/n/m d 755 0:0",
                    "/n/m/1 f 4604 0:0 1",
                    "/n/m/sub d 4715 0:0",
                    "/n/m/sub/2 f 4604 0:0 2",
                ],
            ),
            (
                &[],
                "COPY --chmod=08 a /x",
                &["!invalid chmod parameter: '08'. it should be octal"],
            ),
            (
                &[],
                "COPY --exclude=sub d /n/",
                &["/n d 755 0:0", "/n/1 f 644 0:0 1"],
            ),
            (
                &[],
                "COPY --exclude=sub --exclude=!sub/2 d /n/",
                &[
                    "/n d 755 0:0",
                    "/n/1 f 644 0:0 1",
                    "/n/sub d 755 0:0",
                    "/n/sub/2 f 644 0:0 2",
                ],
            ),
            (
                &[],
                "COPY --exclude=b.txt [ab]* /n/",
                &["/n d 755 0:0", "/n/a f 644 0:0 a", "/n/busybox f 755 0:0 bb"],
            ),
            (
                &[],
                "COPY --parents d/sub/2 a /n/",
                &[
                    "/n d 755 0:0",
                    "/n/a f 644 0:0 a",
                    "/n/d d 750 0:0",
                    "/n/d/sub d 755 0:0",
                    "/n/d/sub/2 f 644 0:0 2",
                ],
            ),
            (
                &[],
                "COPY --parents ./d/./sub/2 /n/",
                &["/n d 755 0:0", "/n/sub d 755 0:0", "/n/sub/2 f 644 0:0 2"],
            ),
            (
                &[],
                "COPY --parents **/2 /n/",
                &[
                    "/n d 755 0:0",
                    "/n/d d 750 0:0",
                    "/n/d/sub d 755 0:0",
                    "/n/d/sub/2 f 644 0:0 2",
                ],
            ),
            (
                &[],
                "COPY --parents d/* e /n/",
                &[
                    "/n d 755 0:0",
                    "/n/d d 750 0:0",
                    "/n/d/1 f 644 0:0 1",
                    "/n/d/sub d 755 0:0",
                    "/n/d/sub/2 f 644 0:0 2",
                    "/n/e d 755 0:0",
                ],
            ),
            (&[], "COPY --parents nope /n/", &["!\"/nope\": not found"]),
            (&[], "COPY --parents nope* /n/", &["/n d 755 0:0"]),
            (
                &["/w d 755 0:0"],
                "COPY --cwd=/w d/. d2/.",
                &[
                    "/w d 755 0:0",
                    "/w/d2 d 755 0:0",
                    "/w/d2/1 f 644 0:0 1",
                    "/w/d2/sub d 755 0:0",
                    "/w/d2/sub/2 f 644 0:0 2",
                ],
            ),
            (&[], "COPY a ", &["/a f 644 0:0 a"]),
            (
                &[],
                "COPY <<f a /x/",
                &["/x d 755 0:0", "/x/a f 644 0:0 a", "/x/f f 644 0:0 inline"],
            ),
            (
                &[],
                "COPY --chmod=4711 --chown=1:2 <<f /x",
                &["/x f 4711 1:2 inline"],
            ),
            (&[], "COPY <<a a /x/", &["/x d 755 0:0", "/x/a f 644 0:0 inline"]),
            (&[], "COPY <<a/b /x/", &["!invalid name"]),
            (&[], "COPY fifo /x", &["/x p 640 0:0"]),
            (&[], "COPY [c-a]x* /x/", &["!syntax error in pattern"]),
            (&[], "COPY [c /x/", &["!syntax error in pattern"]),
            (&["/x d 755 0:0"], "COPY e /x", &[]),
            (
                &["/x d 755 0:0"],
                "COPY a b.txt /x",
                &["/x d 755 0:0", "/x/a f 644 0:0 a", "/x/b.txt f 4755 0:0 b"],
            ),
            (
                &[],
                "COPY a hard /n/",
                &["/n d 755 0:0", "/n/a f 644 0:0 a", "/n/hard f 644 0:0 a"],
            ),
        ],
        &k,
    );
    assert!(k.take_warnings().is_empty());
}
