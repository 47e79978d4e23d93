//! The reports.

use super::Change::{Hard, Link, Mode, Remove, Rename, Write};
use super::Fixture;

/// What fixtures mostly have.
const USUAL: Fixture = Fixture {
    reports: &[],
    files: &[Write("a", "1"), Write("b", "b"), Write("d/x", "x1")],
    changes: &[],
    dockerfile: "",
    then: None,
    flags: [&[], &[]],
    sees: &[],
};

const ONE: &[&str] = &["--build-arg=A=one"];
const TWO: &[&str] = &["--build-arg=A=two"];

pub const FIXTURES: &[Fixture] = &[
    Fixture {
        reports: &[
            "podman-container-tools/buildah#1179",
            "GoogleContainerTools/kaniko#1262",
            "GoogleContainerTools/kaniko#1348",
            "GoogleContainerTools/kaniko#845",
        ],
        changes: &[Write("a", "2")],
        dockerfile: "FROM base AS one\nCOPY a /src/data\nRUN cat /src/data\nFROM base AS two\nCOPY b /src/data\n\
             RUN cat /src/data\nFROM scratch\nCOPY --from=one /src/data /one\nCOPY --from=two /src/data /two\n",
        sees: &[[("one", "1"), ("one", "2")], [("two", "b"), ("two", "b")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "GoogleContainerTools/kaniko#870",
            "GoogleContainerTools/kaniko#2615",
        ],
        changes: &[Write("a", "2")],
        dockerfile: "FROM base AS builder\nWORKDIR /build\nCOPY . ./\nRUN mkdir html; cat a > html/page\n\
             FROM scratch\nCOPY --from=builder /build/html /html\n",
        sees: &[[("html/page", "1"), ("html/page", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &["GoogleContainerTools/kaniko#589"],
        changes: &[Write("a", "2")],
        dockerfile: "FROM scratch AS build\nCOPY a /out/api-1\nFROM scratch\nCOPY --from=build /out/api-* /bin/\n",
        sees: &[[("bin/api-1", "1"), ("bin/api-1", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "podman-container-tools/buildah#1391",
            "podman-container-tools/buildah#1507",
            "GoogleContainerTools/kaniko#690",
        ],
        dockerfile: "FROM base\nARG A=none\nRUN echo $A > /f\n",
        flags: [ONE, TWO],
        sees: &[[("f", "one"), ("f", "two")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "podman-container-tools/podman#8591",
            "podman-container-tools/buildah#2837",
            "podman-container-tools/buildah#2848",
            "GoogleContainerTools/kaniko#728",
        ],
        dockerfile: "FROM base\nARG A\nENV V=$A\nRUN env | grep ^V= > /f\n",
        flags: [ONE, TWO],
        sees: &[[("f", "V=one"), ("f", "V=two")]],
        ..USUAL
    },
    Fixture {
        reports: &["GoogleContainerTools/kaniko#1688"],
        files: &[Write("t.sh", "echo $A > /f")],
        dockerfile: "FROM base\nADD t.sh /\nRUN cat /t.sh\nARG A\nRUN sh /t.sh\n",
        flags: [ONE, TWO],
        sees: &[[("f", "one"), ("f", "two")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "podman-container-tools/buildah#1780",
            "podman-container-tools/buildah#1511",
            "podman-container-tools/podman#2544",
            "moby/moby#17957",
            "apple/container#1143",
        ],
        changes: &[Write("d/x", "x2"), Remove("b")],
        dockerfile: "FROM scratch\nCOPY . /app\n",
        sees: &[
            [("app/d/x", "x1"), ("app/d/x", "x2")],
            [("app/b", "b"), ("app/b", "-")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["podman-container-tools/buildah#2729", "moby/moby#36378"],
        dockerfile: "FROM base\nADD --chown=1000:100 a /f\nCOPY b /g\nRUN stat -c %u:%g /f /g > /owners\n",
        then: Some(
            "FROM base\nADD --chown=1000:1000 a /f\nCOPY --chown=7 b /g\nRUN stat -c %u:%g /f /g > /owners\n",
        ),
        sees: &[[("owners", "1000:100\n0:0"), ("owners", "1000:1000\n7:7")]],
        ..USUAL
    },
    Fixture {
        reports: &["moby/buildkit#3291"],
        dockerfile: "FROM base AS one\nRUN echo 1 > /f; chown 1000:1000 /f\nFROM base\nCOPY --from=one /f /f\n\
             RUN stat -c %u:%g /f > /owner\n",
        then: Some(
            "FROM base AS two\nRUN echo 1 > /f\nFROM base\nCOPY --from=two /f /f\nRUN stat -c %u:%g /f > /owner\n",
        ),
        sees: &[[("owner", "1000:1000"), ("owner", "0:0")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "podman-container-tools/buildah#5225",
            "podman-container-tools/podman#25469",
            "osscontainertools/kaniko#824",
        ],
        dockerfile: "FROM base\nRUN <<E\necho 1 > /f\nE\n",
        then: Some("FROM base\nRUN <<E\necho 2 > /f\nE\n"),
        sees: &[[("f", "1"), ("f", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "podman-container-tools/buildah#5656",
            "podman-container-tools/podman#24089",
        ],
        dockerfile: "FROM base\nARG foo=bar\nRUN cat <<E > /f\n1\nE\n",
        then: Some("FROM base\nARG foo=bar\nRUN cat <<E > /f\n2\nE\n"),
        sees: &[[("f", "1"), ("f", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &["podman-container-tools/buildah#6043"],
        dockerfile: "FROM base\nARG S=/bin/sh\nRUN <<-E ${S}\n\techo 1 > /f\nE\n",
        then: Some("FROM base\nARG S=/bin/sh\nRUN <<-E ${S}\n\techo 2 > /f\nE\n"),
        sees: &[[("f", "1"), ("f", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &["osscontainertools/kaniko#822"],
        dockerfile: "FROM scratch\nARG A\nCOPY <<E /f\nv=${A}\nE\nADD <<E /g\nv=${A}\nE\n",
        flags: [ONE, TWO],
        sees: &[[("f", "v=one"), ("f", "v=two")], [("g", "v=one"), ("g", "v=two")]],
        ..USUAL
    },
    Fixture {
        reports: &["podman-container-tools/buildah#5400"],
        changes: &[Write("d/y", "y")],
        dockerfile: "FROM base\nRUN --mount=type=bind,source=d,target=/m ls /m > /f\n",
        sees: &[[("f", "x"), ("f", "x\ny")]],
        ..USUAL
    },
    Fixture {
        reports: &["podman-container-tools/buildah#6957"],
        changes: &[Write("d/x", "x2")],
        dockerfile: "FROM base\nRUN --mount=target=/m cat /m/d/x > /f\n",
        sees: &[[("f", "x1"), ("f", "x2")]],
        ..USUAL
    },
    Fixture {
        reports: &["werf/werf#6823"],
        changes: &[Write("a", "2")],
        dockerfile: "FROM base\nRUN --mount=type=bind,source=a,target=a cat a > /f\n",
        sees: &[[("f", "1"), ("f", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "podman-container-tools/buildah#4522",
            "podman-container-tools/buildah#6609",
            "podman-container-tools/buildah#6845",
        ],
        dockerfile: "FROM base AS builder\nRUN mkdir /build; echo 1 > /build/f\nFROM base\n\
             RUN --mount=type=bind,source=/build,from=builder,target=/build cp /build/f /f\n",
        then: Some(
            "FROM base AS builder\nRUN mkdir /build; echo 2 > /build/f\nFROM base\n\
             RUN --mount=type=bind,source=/build,from=builder,target=/build cp /build/f /f\n",
        ),
        sees: &[[("f", "1"), ("f", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "podman-container-tools/buildah#4375",
            "podman-container-tools/podman#16281",
        ],
        dockerfile: "FROM base AS common\nRUN echo common > /common\nFROM common AS one\nRUN echo foo > /foo\n\
             FROM common AS two\nRUN echo foo > /foo\nFROM base\nARG A\n\
             RUN --mount=type=bind,from=one,target=/1 --mount=type=bind,from=two,target=/2 \
             cat /1/common /1/foo /2/common /2/foo > /f; echo $A > /g\n",
        flags: [ONE, TWO],
        sees: &[
            [
                ("f", "common\nfoo\ncommon\nfoo"),
                ("f", "common\nfoo\ncommon\nfoo"),
            ],
            [("g", "one"), ("g", "two")],
        ],
        ..USUAL
    },
    Fixture {
        // Parts of a key that are joined with a character that is in them.
        reports: &["osscontainertools/kaniko#873", "osscontainertools/kaniko#875"],
        dockerfile: "FROM base\nARG A\nARG B\nRUN echo \"A=[$A] B=[$B]\" > /f\n",
        flags: [
            &["--build-arg=A=x-B=z", "--build-arg=B=y"],
            &["--build-arg=A=x", "--build-arg=B=z-B=y"],
        ],
        sees: &[[("f", "A=[x-B=z] B=[y]"), ("f", "A=[x] B=[z-B=y]")]],
        ..USUAL
    },
    Fixture {
        // A name that goes on as the content of the file before it would.
        reports: &["osscontainertools/kaniko#911", "osscontainertools/kaniko#912"],
        files: &[Write("d/a", "bc"), Write("d/d", "")],
        changes: &[Remove("d/a"), Remove("d/d"), Write("d/ab", "c"), Write("d/d", "")],
        dockerfile: "FROM scratch\nCOPY d /\n",
        sees: &[[("a", "bc"), ("a", "-")], [("ab", "-"), ("ab", "c")]],
        ..USUAL
    },
    Fixture {
        reports: &["osscontainertools/kaniko#791"],
        dockerfile: "FROM scratch\nARG A\nCOPY a /$A/f\nADD b /$A/g\n",
        flags: [ONE, TWO],
        sees: &[
            [("one/f", "1"), ("one/f", "-")],
            [("two/f", "-"), ("two/f", "1")],
            [("two/g", "-"), ("two/g", "b")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["osscontainertools/kaniko#813"],
        dockerfile: "FROM scratch\nARG A\nWORKDIR /$A/foo\n",
        flags: [ONE, TWO],
        sees: &[
            [("one/foo", "directory"), ("one/foo", "-")],
            [("two/foo", "-"), ("two/foo", "directory")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["moby/moby#38964", "moby/buildkit#894", "moby/buildkit#853"],
        files: &[Write("Gemfile", "g"), Write("Gemfile.lock", "1")],
        changes: &[Write("Gemfile.lock", "2")],
        dockerfile: "FROM scratch\nCOPY Gemfile Gemfile.lock /copied/\nADD Gemfile Gemfile.lock /added/\n",
        sees: &[
            [("copied/Gemfile.lock", "1"), ("copied/Gemfile.lock", "2")],
            [("added/Gemfile.lock", "1"), ("added/Gemfile.lock", "2")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["moby/buildkit#2008"],
        files: &[Write("content.txt", "Hello")],
        changes: &[Rename("content.txt", "content2.txt")],
        dockerfile: "FROM scratch\nCOPY ./* /test/\n",
        sees: &[
            [("test/content.txt", "Hello"), ("test/content.txt", "-")],
            [("test/content2.txt", "-"), ("test/content2.txt", "Hello")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["moby/buildkit#2300"],
        changes: &[Write("a", "2")],
        dockerfile: "FROM base AS one\nRUN mkdir -p /mnt/data/d1; ln -s /mnt/data /data\nCOPY a /data/d1/foo\n\
             FROM scratch\nCOPY --from=one /mnt/data/d1* /f/\n",
        sees: &[[("f/foo", "1"), ("f/foo", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &["moby/moby#17290", "moby/moby#17906", "moby/moby#17710"],
        files: &[
            Write("a", "1"),
            Write("d/x", "x1"),
            Write("e/y", "y"),
            Link("e/broken", "nowhere"),
            Link("l", "a"),
            Link("dl", "d"),
        ],
        changes: &[Write("a", "2"), Write("d/x", "x2")],
        dockerfile: "FROM scratch\nCOPY l /f\nCOPY dl /g/\nCOPY . /all\n",
        sees: &[
            [("f", "1"), ("f", "2")],
            [("g/x", "x1"), ("g/x", "x2")],
            [("all/d/x", "x1"), ("all/d/x", "x2")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["moby/moby#42718", "docker/for-linux#148"],
        files: &[Write("a", "1"), Hard("z", "a")],
        changes: &[Write("a", "2")],
        dockerfile: "FROM scratch\nADD z /f\nCOPY . /all\n",
        sees: &[[("f", "1"), ("f", "2")], [("all/z", "1"), ("all/z", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &["moby/buildkit#7176"],
        files: &[Write("common/sub/f", "1"), Mode("common/sub", 0o755)],
        changes: &[Mode("common/sub", 0o700)],
        dockerfile: "FROM scratch\nCOPY common /c\n",
        sees: &[[("c/sub:mode", "755"), ("c/sub:mode", "700")]],
        ..USUAL
    },
    Fixture {
        reports: &["earthly/earthly#2317", "podman-container-tools/buildah#6106"],
        files: &[Write("file", "0d158931")],
        changes: &[Write("file", "9ad49dcd")],
        dockerfile: "FROM base\nCOPY file .\nRUN cat /file > /f\n",
        sees: &[[("f", "0d158931"), ("f", "9ad49dcd")]],
        ..USUAL
    },
    Fixture {
        reports: &["docker/compose#2443"],
        files: &[
            Write(".dockerignore", "Dockerfile\n"),
            Write("Dockerfile", "#"),
            Write("d/x", "x1"),
        ],
        changes: &[Write("d/x", "x2")],
        dockerfile: "FROM scratch\nCOPY d /d\n",
        sees: &[[("d/x", "x1"), ("d/x", "x2")]],
        ..USUAL
    },
    Fixture {
        // Rules of an ignore file count as much as the files (FF_KANIKO_SCOPED_DOCKERIGNORE).
        reports: &["osscontainertools/kaniko: stale rules of .dockerignore"],
        changes: &[Write(".dockerignore", "d/*\n")],
        dockerfile: "FROM scratch\nCOPY . /c\n",
        sees: &[[("c/d/x", "x1"), ("c/d/x", "-")]],
        ..USUAL
    },
    Fixture {
        // The group of USER (FF_KANIKO_RUN_HONOR_GROUP).
        reports: &["osscontainertools/kaniko: the group of USER"],
        dockerfile: "FROM base\nUSER 1:2\nRUN id -g > /tmp/f\n",
        then: Some("FROM base\nUSER 1:3\nRUN id -g > /tmp/f\n"),
        sees: &[[("tmp/f", "2"), ("tmp/f", "3")]],
        ..USUAL
    },
    Fixture {
        reports: &[
            "GoogleContainerTools/kaniko#704",
            "GoogleContainerTools/kaniko#938",
            "osscontainertools/kaniko#774",
        ],
        dockerfile: "FROM base\nCOPY d /d\nRUN rm /d/x\nRUN ls /d > /f\nCOPY a /a\n",
        then: Some("FROM base\nCOPY d /d\nRUN rm /d/x\nRUN ls /d > /f\nCOPY b /b\n"),
        sees: &[
            [("d/x", "-"), ("d/x", "-")],
            [("f", ""), ("f", "")],
            [("b", "-"), ("b", "b")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &[
            "GoogleContainerTools/kaniko#2308",
            "GoogleContainerTools/kaniko#742",
        ],
        dockerfile: "FROM base\nRUN mkdir /foo /baz; echo 1 > /foo/bar; echo 2 > /baz/bar\nRUN rm -r /foo; ln -s baz /foo\n\
             RUN cat /foo/bar > /f\n",
        then: Some(
            "FROM base\nRUN mkdir /foo /baz; echo 1 > /foo/bar; echo 2 > /baz/bar\nRUN rm -r /foo; ln -s baz /foo\n\
             RUN cat /foo/bar /baz/bar > /f\n",
        ),
        sees: &[
            [("f", "2"), ("f", "2\n2")],
            [("foo", "-> baz"), ("foo", "-> baz")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["GoogleContainerTools/kaniko#3428"],
        dockerfile: "FROM base\nRUN mkdir /test; ln -s /test /link\nRUN rm -r /test /link; mkdir /link\nWORKDIR /app\n",
        then: Some(
            "FROM base\nRUN mkdir /test; ln -s /test /link\nRUN rm -r /test /link; mkdir /link\nWORKDIR /link/app\n",
        ),
        sees: &[
            [("link", "directory"), ("link/app", "directory")],
            [("test", "-"), ("test", "-")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["GoogleContainerTools/kaniko#1522"],
        dockerfile: "FROM base\nRUN mkdir -p /opt/web /var/www; ln -s /opt/web /var/www/html\nRUN echo 1 > foo\n\
             WORKDIR /var/www/html/sites\n",
        then: Some(
            "FROM base\nRUN mkdir -p /opt/web /var/www; ln -s /opt/web /var/www/html\nRUN echo 1 > foo\n\
             WORKDIR /var/www/html/sites\nRUN pwd -P > /f\n",
        ),
        sees: &[
            [("var/www/html", "-> /opt/web"), ("var/www/html", "-> /opt/web")],
            [("opt/web/sites", "directory"), ("f", "/opt/web/sites")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["podman-container-tools/podman#2352"],
        dockerfile: "FROM base\nRUN echo 1 > /f\n",
        sees: &[[("f", "1"), ("f", "1")]],
        ..USUAL
    },
    Fixture {
        reports: &["docker/buildx#1099"],
        changes: &[Write("a", "2")],
        dockerfile: "FROM base AS below\nCOPY a /a\nFROM below\nCOPY --link b /b\nRUN cat /a /b > /f\n",
        sees: &[[("a", "1"), ("a", "2")], [("f", "1b"), ("f", "2b")]],
        ..USUAL
    },
    Fixture {
        reports: &["podman-container-tools/buildah#1134"],
        dockerfile: "FROM scratch AS source\nCOPY a /a\nFROM scratch\nLABEL serial=1\nCOPY --from=source /a /a\n",
        then: Some(
            "FROM scratch AS source\nCOPY a /a\nFROM scratch\nLABEL serial=2\nCOPY --from=source /a /a\n",
        ),
        sees: &[[("a", "1"), ("a", "1")]],
        ..USUAL
    },
    Fixture {
        // With the stage alone it is in the cache, and the build of the rest finds all of its files.
        reports: &[
            "podman-container-tools/buildah#1782",
            "podman-container-tools/buildah#1276",
        ],
        dockerfile: "FROM base AS build\nRUN echo 1 > test.txt\nFROM base\nCOPY --from=build test.txt ./text.txt\n",
        flags: [&["--target=build"], &[]],
        sees: &[
            [("test.txt", "1"), ("test.txt", "-")],
            [("text.txt", "-"), ("text.txt", "1")],
        ],
        ..USUAL
    },
    Fixture {
        reports: &["podman-container-tools/podman#3110"],
        dockerfile: "FROM base AS builder\nRUN mkdir -p /d/d; echo 1 > /d/d/1; echo 2 > /d/d/2\nFROM base\nRUN mkdir /e\n\
             COPY --from=builder /d/d/1 /e/\n",
        then: Some(
            "FROM base AS builder\nRUN mkdir -p /d/d; echo 1 > /d/d/1; echo 2 > /d/d/2\nFROM base\nRUN mkdir /e\n\
             COPY --from=builder /d/d/2 /e/\n",
        ),
        sees: &[[("e/1", "1"), ("e/1", "-")], [("e/2", "-"), ("e/2", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &["podman-container-tools/podman#3920"],
        changes: &[Write("d/x", "x2")],
        dockerfile: "FROM scratch\nCOPY --chown=7:7 d config/\n",
        sees: &[[("config/x", "x1"), ("config/x", "x2")]],
        ..USUAL
    },
    Fixture {
        // Name, size, mode and time are the same, only the directory is another.
        reports: &["moby/buildkit#4950", "moby/buildkit#4817", "docker/buildx#3093"],
        files: &[Write("d/install.sh", "7.3"), Write("e/install.sh", "7.4")],
        changes: &[Rename("d", "old"), Rename("e", "d")],
        dockerfile: "FROM scratch\nCOPY d/install.sh .\n",
        sees: &[[("install.sh", "7.3"), ("install.sh", "7.4")]],
        ..USUAL
    },
    Fixture {
        reports: &["GoogleContainerTools/kaniko#1637"],
        dockerfile: "FROM base\nRUN echo 1 > /test\nRUN cat /test\nRUN rm -f /test\nRUN echo 1 > /test\nRUN cat /test\n",
        sees: &[[("test", "1"), ("test", "1")]],
        ..USUAL
    },
    Fixture {
        // What was removed is not there, also as a whiteout, for the next command.
        reports: &["GoogleContainerTools/kaniko#1636"],
        dockerfile: "FROM base\nRUN mkdir /s; echo 1 > /s/a; echo 1 > /s/b\nRUN rm /s/a\n",
        then: Some(
            "FROM base\nRUN mkdir /s; echo 1 > /s/a; echo 1 > /s/b\nRUN rm /s/a\nRUN chmod -R 700 /s; ls -A /s > /f\n",
        ),
        sees: &[[("s/a", "-"), ("s/a", "-")], [("f", "-"), ("f", "b")]],
        ..USUAL
    },
    Fixture {
        reports: &["GoogleContainerTools/kaniko#2137"],
        dockerfile: "ARG A\nFROM base AS parent-one\nRUN echo 1 > /id\nFROM base AS parent-two\nRUN echo 2 > /id\n\
             FROM parent-$A AS parent\nFROM parent\nRUN cat /id > /f\n",
        flags: [ONE, TWO],
        sees: &[[("f", "1"), ("f", "2")]],
        ..USUAL
    },
    Fixture {
        reports: &["moby/moby#34260"],
        dockerfile: "FROM base AS one\nRUN mkdir /t; touch a; ln -s a /t/b; ln -s a /t/c\nFROM base\nCOPY --from=one /t /t\n\
             RUN ls /t > /f\n",
        then: Some(
            "FROM base AS one\nRUN mkdir /t; touch a; ln -s a /t/b\nFROM base\nCOPY --from=one /t /t\nRUN ls /t > /f\n",
        ),
        sees: &[[("t/c", "-> a"), ("t/c", "-")], [("f", "b\nc"), ("f", "b")]],
        ..USUAL
    },
    Fixture {
        // A volume is no directory of the image, built or from the cache.
        reports: &["osscontainertools/kaniko#853"],
        dockerfile: "FROM base\nRUN echo 1 > /f\nVOLUME /v\n",
        then: Some(
            "FROM base\nRUN echo 1 > /f\nVOLUME /v\nLABEL a=b\nRUN ls -d /v > /g 2>/dev/null || true\n",
        ),
        sees: &[[("v", "-"), ("v", "-")], [("g", "-"), ("g", "")]],
        ..USUAL
    },
];
