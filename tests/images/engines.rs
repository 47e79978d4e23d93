//! `build --load`: into a daemon with docker's API, and into podman.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};
use std::sync::mpsc;

use super::{Place, has};

/// What a daemon does with an archive.
#[derive(Clone, Copy)]
enum Daemon {
    Takes,
    /// Says in the middle of its answer that it has failed.
    Fails,
    /// Refuses before it has read anything.
    Refuses,
}

/// A daemon at `socket`; what it was sent comes out of the channel.
fn daemon(place: &Place, kind: Daemon) -> (String, mpsc::Receiver<Vec<u8>>) {
    let path = place.path("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (sender, archives) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            std::thread::spawn(move || answer(stream.unwrap(), kind, &sender));
        }
    });
    (format!("unix://{}", path.display()), archives)
}

fn answer(mut stream: UnixStream, kind: Daemon, archives: &mpsc::Sender<Vec<u8>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let request = line();
    while !line().is_empty() {}
    let mut say = |status: &str, body: &str| {
        let length = body.len();
        let text =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).unwrap();
    };
    if request.starts_with("GET /_ping ") {
        return say("200 OK", "OK");
    }
    assert!(request.starts_with("POST /images/load?quiet=1 "), "{request}");
    if matches!(kind, Daemon::Refuses) {
        say("500 Internal Server Error", "{\"message\":\"it is read-only\"}");
        // As Go's server, which both daemons use: whoever still sends gets the answer before the connection ends.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
        return;
    }
    let mut archive = Vec::new();
    loop {
        let mut length = String::new();
        reader.read_line(&mut length).unwrap();
        let length = usize::from_str_radix(length.trim_end(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk).unwrap();
        archive.extend_from_slice(&chunk[..length]);
        if length == 0 {
            break;
        }
    }
    archives.send(archive).unwrap();
    match kind {
        Daemon::Fails => say(
            "200 OK",
            "{\"stream\":\"begun\"}\n{\"errorDetail\":{\"message\":\"the disk is full\"},\"error\":\"the disk is full\"}\n",
        ),
        _ => say("200 OK", "{\"stream\":\"Loaded image: app:1\\n\"}\r\n"),
    }
}

/// Builds an image with `--load`, in an environment of `variables` only.
fn build(place: &Place, variables: &[(&str, &str)], more: &[&str]) -> Output {
    let context = place.path("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY . /\nLABEL a=1\n").unwrap();
    std::fs::write(context.join("file"), vec![7; 1_000_000]).unwrap();
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    Command::new(env!("CARGO_BIN_EXE_rbuild"))
        .args([
            "--root",
            "store",
            "build",
            "-t",
            "app:1",
            "--progress=plain",
            "context",
        ])
        .args(more)
        .env_clear()
        .env("HOME", place.path(""))
        .envs(variables)
        .current_dir(place.path(""))
        .output()
        .unwrap()
}

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_daemon_takes_the_image() {
    let place = Place::new();
    let (address, archives) = daemon(&place, Daemon::Takes);
    for (flags, by) in [
        (&["--load"][..], "DOCKER_HOST"),
        (&["-o", "type=docker"], "CONTAINER_HOST"),
    ] {
        let built = build(&place, &[(by, &address)], flags);
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(
            built.status.success() && said.contains("Loaded image: app:1"),
            "{said}"
        );
        std::fs::write(place.path("sent.tar"), archives.recv().unwrap()).unwrap();
        let loaded = place.run_on("other", &["load", "-i", "sent.tar"], None);
        assert_eq!(String::from_utf8_lossy(&loaded.stdout), "Loaded image: app:1\n");
        // It is an image of both, with the same id.
        let ids = |store| place.run_on(store, &["images", "-q", "--no-trunc"], None).stdout;
        assert!(!ids("store").is_empty() && ids("store") == ids("other"));
    }
    // As docker's own command finds it: by a context.
    let key = rbuild_cache::Digest::of(b"mine");
    let directory = place.path(".docker/contexts/meta").join(key.hex());
    std::fs::create_dir_all(&directory).unwrap();
    let described = format!(r#"{{"Name":"mine","Endpoints":{{"docker":{{"Host":"{address}"}}}}}}"#);
    std::fs::write(directory.join("meta.json"), described).unwrap();
    std::fs::write(place.path(".docker/config.json"), r#"{"currentContext":"mine"}"#).unwrap();
    assert!(build(&place, &[], &["--load"]).status.success());
    assert!(archives.recv().unwrap().len() > 1_000_000);
    let unknown = failed(&build(&place, &[("DOCKER_CONTEXT", "other")], &["--load"]));
    assert!(
        unknown.contains("docker's context \"other\" is not known"),
        "{unknown}"
    );
}

#[test]
fn what_a_daemon_refuses_is_said() {
    for (kind, wanted) in [
        (Daemon::Fails, ": the disk is full"),
        (Daemon::Refuses, "answered 500: it is read-only"),
    ] {
        let place = Place::new();
        let (address, _archives) = daemon(&place, kind);
        let said = failed(&build(&place, &[("DOCKER_HOST", &address)], &["--load"]));
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn nobody_to_load_into_is_said_before_the_build() {
    let place = Place::new();
    let gone = format!("unix://{}", place.path("gone.sock").display());
    for (variables, flags, wanted) in [
        (
            &[("DOCKER_HOST", "tcp://10.0.0.1:2375")][..],
            &["--load"][..],
            "only sockets of this machine",
        ),
        (
            &[("DOCKER_HOST", &gone)],
            &["--load"],
            "DOCKER_HOST names a daemon that does not answer",
        ),
        (
            &[],
            &["--load", "--platform=linux/amd64,linux/arm64"],
            "exporting manifest lists",
        ),
        (
            &[],
            &[
                "-o",
                "type=docker,dest=a.tar",
                "--platform=linux/amd64,linux/arm64",
            ],
            "exporting manifest lists",
        ),
    ] {
        let said = failed(&build(&place, variables, flags));
        assert!(said.contains(wanted), "{said}");
        assert!(!said.contains("COPY"), "nothing has run: {said}");
    }
    if std::path::Path::new("/var/run/docker.sock").exists()
        || std::path::Path::new("/run/podman/podman.sock").exists()
    {
        eprintln!("skipped: this machine has a daemon");
        return;
    }
    // The images of such a machine are those of the store.
    let none = build(&place, &[("PATH", "/nonexistent")], &["--load"]);
    let said = String::from_utf8_lossy(&none.stderr);
    assert!(
        none.status.success() && said.contains("no docker daemon, podman or containerd"),
        "{said}"
    );
    assert!(
        said.contains("/var/run/docker.sock") && said.contains("the program podman"),
        "{said}"
    );
    assert!(!place.run_on("store", &["images", "-q"], None).stdout.is_empty());
}

#[test]
fn podman_takes_the_image() {
    if !has("podman") {
        return;
    }
    let place = Place::new();
    // A storage of its own for this test, by the name that is looked for.
    let (bin, root) = (place.path("bin"), place.path("podman"));
    std::fs::create_dir(&bin).unwrap();
    let root = root.to_str().unwrap();
    let podman = bin.join("podman");
    let script = format!(
        "#!/bin/sh\nPATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\nexec podman --root {root} --runroot {root}/run --storage-driver vfs \"$@\"\n"
    );
    std::fs::write(&podman, script).unwrap();
    std::fs::set_permissions(&podman, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let built = build(&place, &[("PATH", bin.to_str().unwrap())], &["--load"]);
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success() && said.contains("Loaded image"), "{said}");
    let listed = place.tool(podman.to_str().unwrap(), &["images", "--no-trunc", "-q"]);
    let ours = place.rbuild(&["images", "--no-trunc", "-q"]);
    assert_eq!(listed.trim(), ours.trim());
    // What it says when it fails is what the user reads.
    std::fs::write(&podman, "#!/bin/sh\necho no space for you >&2\nexit 3\n").unwrap();
    let said = failed(&build(&place, &[("PATH", bin.to_str().unwrap())], &["--load"]));
    assert!(
        said.contains("no space for you") && said.contains("`podman load -q` failed"),
        "{said}"
    );
}
