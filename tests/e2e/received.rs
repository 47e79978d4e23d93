//! Contexts and Dockerfiles that are no files of this machine (spec 7.1, 7.3).

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::env::{Env, Run, as_every_user, has};
use crate::server::{Answer, Server, file};

const DOCKERFILE: &str = "FROM base\nCOPY . /c/\nRUN cat /c/sub/f >/seen\n";

/// Archives of a context, by the name of their compression.
fn archives(env: &Env) -> Vec<(&'static str, Vec<u8>)> {
    env.base();
    env.context(
        "ctx",
        &[
            ("Dockerfile", DOCKERFILE),
            ("sub/f", "text\n"),
            (".dockerignore", "sub\n"),
            ("other/D", "FROM scratch\nCOPY sub /s/\n"),
        ],
    );
    let mut made = Vec::new();
    for (name, program) in [
        ("plain", "cat"),
        ("gzip", "gzip"),
        ("bzip2", "bzip2"),
        ("xz", "xz"),
        ("zstd", "zstd"),
    ] {
        if !has(program) {
            continue;
        }
        let script = format!("tar -C ctx --owner=5 --group=6 -c . | {program}");
        let output = env.command("sh").args(["-c", &script]).output().unwrap();
        made.push((name, output.stdout));
    }
    made
}

fn build(env: &Env, more: &[&str], context: &str) -> Run {
    let output = format!("type=local,dest={}", env.path("out").display());
    let args = ["build", "--progress=plain", "-o", &output];
    env.rbuild(args.into_iter().chain(more.iter().copied()).chain([context]))
}

fn out(env: &Env, path: &str) -> String {
    fs::read_to_string(env.path("out").join(path)).unwrap()
}

#[test]
fn a_context_comes_from_a_web_server() {
    as_every_user(|env| {
        for (name, archive) in archives(env) {
            let server = Server::start(move |request| file(request, "\"1\"", &archive));
            let url = server.url("/context");
            build(env, &[], &url).ok();
            // An ignore file does not hold for an archive; one that is named does.
            assert_eq!(out(env, "seen"), "text\n", "{name}");
            let asked = server.take();
            assert_eq!(asked.len(), 1, "{name}");
            let again = build(env, &[], &url).ok();
            assert_eq!(again.count("CACHED"), 2, "{name}: {}", again.stderr);
            let asked = server.take();
            assert!(
                asked.len() == 1 && asked[0].header("if-none-match") == Some("\"1\""),
                "{name}: {asked:?}"
            );
            build(env, &["-f", "other/D"], &url).ok();
            assert_eq!(out(env, "s/f"), "text\n", "{name}");
            fs::remove_dir_all(env.path("out")).unwrap();
        }
    });
}

#[test]
fn files_of_a_received_context_are_the_builders() {
    as_every_user(|env| {
        let Some((_, archive)) = archives(env).into_iter().next() else {
            return;
        };
        let server = Server::start(move |request| match request.path.as_str() {
            "/Dockerfile" => Answer::of("FROM scratch\nCOPY . /c/\n"),
            _ => file(request, "\"1\"", &archive),
        });
        env.write("my.ignore", "*\n!sub/f\n");
        let layout = env.path("layout");
        let output = format!(
            "type=oci,tar=false,compression=uncompressed,dest={}",
            layout.display()
        );
        let ignore = env.path("my.ignore");
        let args = [
            "build",
            "-o",
            &output,
            "-f",
            &server.url("/Dockerfile"),
            "--ignorefile",
            ignore.to_str().unwrap(),
        ];
        env.rbuild(args.into_iter().chain([server.url("/c.tar").as_str()]))
            .ok();
        let found = crate::built::last_layer(&layout);
        assert_eq!(found, ["c d755 0:0", "c/sub d755 0:0", "c/sub/f f644 0:0 text"]);
    });
}

#[test]
fn a_dockerfile_comes_from_a_web_server() {
    as_every_user(|env| {
        env.base();
        let directory = env.context("ctx", &[("f", "local\n")]);
        let server = Server::start(|request| match request.path.as_str() {
            "/self" => Answer::of("FROM base\nCOPY . /c/\nRUN test \"$(ls /c)\" = context\n"),
            "/broken" => Answer::of("FROM base\nNOPE\n"),
            "/large" => Answer::new(200).header("Content-Length", "99999999"),
            "/Dockerfile" => Answer::of("FROM base\nCOPY f /f\n"),
            _ => Answer::new(404),
        });
        build(env, &["-f", &server.url("/Dockerfile")], &directory).ok();
        assert_eq!(out(env, "f"), "local\n");
        // The whole context is a Dockerfile, and that is all that it has.
        build(env, &[], &server.url("/self")).ok();
        assert!(env.path("out/c/context").exists());
        let mut command = env.rbuild_command(["build", "-f", "-", &server.url("/self")]);
        let piped = env.write("piped", "FROM scratch\nCOPY context /x\n");
        command.stdin(Stdio::from(fs::File::open(piped).unwrap()));
        Run::from(command.output().unwrap()).ok();

        for (args, context, message) in [
            (
                vec!["-f", "D"],
                "/self",
                "both the context and flag correspond to Dockerfiles",
            ),
            (vec![], "/broken", "Dockerfile:2"),
            (vec![], "/none", "invalid response status 404"),
            (vec!["-f", "/none"], "", "invalid response status 404"),
            (vec!["-f", "/large"], "", "more than the 16777216 bytes allowed"),
            (
                vec!["--max-context-size", "1k"],
                "/large",
                "more than the 1024 bytes allowed",
            ),
        ] {
            let urls: Vec<String> = args
                .iter()
                .map(|arg| {
                    if arg.starts_with('/') {
                        server.url(arg)
                    } else {
                        (*arg).to_owned()
                    }
                })
                .collect();
            let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
            let place = if context.is_empty() {
                directory.clone()
            } else {
                server.url(context)
            };
            let said = build(env, &urls, &place).fails(1).stderr;
            assert!(said.contains(message), "{args:?} {context}: {said}");
        }
    });
}

#[test]
fn s7_3_a_named_context_comes_from_a_web_server() {
    as_every_user(|env| {
        env.base();
        let dockerfile = "FROM base\nCOPY --from=dep / /d/\nRUN --mount=from=dep,target=/m cmp /m/context /d/context\nFROM dep\nCOPY --from=0 /d /d\n";
        let directory = env.context("ctx", &[("Dockerfile", dockerfile)]);
        let server = Server::start(|request| file(request, "\"1\"", b"some bytes\n"));
        let context = format!("--build-context=dep=http://me:s3cr3t@{}/x.tar", server.address());
        let run = build(env, &[&context], &directory).ok();
        assert!(!run.stderr.contains("s3cr3t"), "{}", run.stderr);
        assert_eq!(out(env, "context"), "some bytes\n");
        assert_eq!(out(env, "d/context"), "some bytes\n");
        server.take();
        let again = build(env, &[&context], &directory).ok();
        assert_eq!(again.count("CACHED"), 5, "{}", again.stderr);
        assert_eq!(server.take().len(), 1);
    });
}

/// Archives that are refused, each with what is said of it.
const HOSTILE: &str = r#"
import io, sys, tarfile, os, gzip
def tar(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for name, kind, more in members:
            m = tarfile.TarInfo(name); m.type = kind
            data = more if isinstance(more, bytes) else b""
            if isinstance(more, str): m.linkname = more
            m.size = len(data); t.addfile(m, io.BytesIO(data))
    return out.getvalue()
R, L, H = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
D = ("Dockerfile", R, b"FROM scratch\nCOPY . /c/\n")
cases = {
    "dotdot": tar(D, ("../evil", R, b"x")),
    "dots": tar(D, ("a/../../evil", R, b"x")),
    "hardlink": tar(D, ("h", H, "../../etc/passwd")),
    "hardlink2": tar(D, ("h", H, "etc/passwd")),
    "whiteout": tar(D, (".wh.x", R, b"x")),
    "opaque": tar(D, ("d", tarfile.DIRTYPE, b""), ("d/.wh..wh..opq", R, b"")),
    "short": tar(D, ("f", R, b"x" * 5000))[:4000],
    "garbage": tar(D) [:1024] + os.urandom(4096),
    "gzip": gzip.compress(tar(D, ("f", R, os.urandom(5000))))[:3000],
    "nogzip": b"\x1f\x8b\x08" + bytes(600),
    "size": tar(D, ("f", R, b"x" * 200000)),
}
os.makedirs("bad")
for name, data in cases.items():
    open("bad/" + name, "wb").write(data)
os.makedirs("good")
open("good/absolute", "wb").write(tar(D, ("/abs", R, b"x"), ("l", L, "/etc"), ("up", L, "../../..")))
open("good/through", "wb").write(tar(D, ("real", tarfile.DIRTYPE, b""), ("l", L, "../../real"), ("l/f", R, b"x")))
open("good/dockerfile", "wb").write(tar(("D", R, b"FROM scratch\nCOPY . /c/\n"), ("Dockerfile", L, "../../D")))
open("good/outside", "wb").write(tar(("Dockerfile", L, "/etc/passwd")))
"#;

#[test]
fn a1_hostile_archives_are_refused_and_leave_nothing() {
    if !has("python3") {
        return;
    }
    as_every_user(|env| {
        let made = Command::new("python3")
            .args(["-c", HOSTILE])
            .current_dir(env.path("."))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        env.write("evil", "untouched");
        let served: Arc<Mutex<Vec<u8>>> = Arc::default();
        let body = served.clone();
        let server = Server::start(move |_| Answer::of(body.lock().unwrap().clone()));
        let layout = env.path("layout");
        let output = format!(
            "type=oci,tar=false,compression=uncompressed,dest={}",
            layout.display()
        );
        let both = |archive: &std::path::Path| {
            let mut piped = env.rbuild_command(["build", "--max-context-size=100k", "-o", &output, "-"]);
            piped.stdin(Stdio::from(fs::File::open(archive).unwrap()));
            *served.lock().unwrap() = fs::read(archive).unwrap();
            let fetched = env.rbuild([
                "build",
                "--max-context-size=100k",
                "-o",
                &output,
                &server.url("/c"),
            ]);
            [Run::from(piped.output().unwrap()), fetched]
        };
        for (name, message) in [
            ("dotdot", "evil"),
            ("dots", "evil"),
            ("hardlink", "passwd"),
            ("hardlink2", "passwd"),
            ("whiteout", ".wh.x"),
            ("opaque", ".wh..wh..opq"),
            ("short", "context"),
            ("garbage", "context"),
            ("gzip", "context"),
            ("nogzip", "context"),
            ("size", "--max-context-size"),
        ] {
            for run in both(&env.path("bad").join(name)) {
                let said = run.fails(1).stderr;
                assert!(
                    said.contains(message) || name == "size" && said.contains("102400 bytes allowed"),
                    "{name}: {said}"
                );
                assert!(!layout.exists(), "{name}");
            }
        }
        assert_eq!(fs::read_to_string(env.path("evil")).unwrap(), "untouched");
        for (name, expected) in [
            (
                "absolute",
                vec![
                    "c/abs f644 0:0 x @0",
                    "c/l l777 0:0 /etc",
                    "c/up l777 0:0 ../../..",
                ],
            ),
            (
                "through",
                vec![
                    "c/real d644 0:0",
                    "c/real/f f644 0:0 x @0",
                    "c/l l777 0:0 ../../real",
                ],
            ),
            ("dockerfile", vec!["c/D f644 0:0 FROM scratch\nCOPY . /c/ @0"]),
        ] {
            for run in both(&env.path("good").join(name)) {
                run.ok();
            }
            let found = crate::built::last_layer(&layout);
            for line in &expected {
                assert!(
                    found.iter().any(|found| found == line),
                    "{name}: {line}: {found:?}"
                );
            }
            fs::remove_dir_all(&layout).unwrap();
        }
        // `/etc/passwd` is that of the context, which has none.
        for run in both(&env.path("good/outside")) {
            let said = run.fails(1).stderr;
            assert!(
                said.contains("there is no file \"Dockerfile\" in the context"),
                "{said}"
            );
        }
        assert_eq!(fs::read_dir(env.store().join("tmp")).unwrap().count(), 0);
    });
}
