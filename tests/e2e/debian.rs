use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::env::{Env, as_every_user, cached, has};

/// What is built: a program of two C files, with a Makefile.
const FILES: [(&str, &str); 4] = [
    ("src/Makefile", "prog: main.o text.o\n\t$(CC) -o $@ $^\n"),
    (
        "src/main.c",
        "#include <stdio.h>\nconst char *text(void);\nint main(void) { puts(text()); return 0; }\n",
    ),
    (
        "src/text.c",
        "const char *text(void) { return \"built by a step\"; }\n",
    ),
    ("notes.txt", "copied by nothing\n"),
];

fn dockerfile(registry: &str) -> String {
    format!(
        "FROM {registry}/debian:base AS tools\n\
         RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make\n\
         FROM tools AS build\nWORKDIR /src\nCOPY src/ .\nRUN make && ./prog\n\
         FROM {registry}/debian:base\nCOPY --from=build /src/prog /usr/local/bin/prog\nUSER nobody\n\
         HEALTHCHECK --interval=5s CMD [\"/usr/local/bin/prog\"]\nENTRYPOINT [\"/usr/local/bin/prog\"]\n"
    )
}

#[test]
fn three_stages_on_debian_run_in_podman() {
    if !["mmdebstrap", "docker-registry", "skopeo", "umoci", "podman"]
        .iter()
        .all(|program| has(program))
    {
        return;
    }
    let Some(base) = base() else { return };
    as_every_user(|env| {
        let registry = crate::registry::TestRegistry::start();
        let address = registry.address();
        publish(env, &base, address);
        for (file, text) in FILES {
            env.write(&format!("debian/{file}"), text);
        }
        let text = dockerfile(address);
        let archive = env.path("image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let first = env
            .build("debian", &text, &["-o", &output, "-o", "type=image"])
            .ok();
        assert!(first.stderr.contains("built by a step"), "{}", first.stderr);

        // The second build is all cached, and one C file runs only what reads it.
        let second = env.build("debian", &text, &[]).ok();
        assert_eq!(second.count("built by a step"), 0, "{}", second.stderr);
        env.write(
            "debian/src/text.c",
            "const char *text(void) { return \"built again\"; }\n",
        );
        let third = env.build("debian", &text, &[]).ok();
        assert!(third.stderr.contains("built again"), "{}", third.stderr);
        assert_eq!(third.count("Setting up gcc"), 0, "{}", third.stderr);

        read_by_others(env, &archive);
    });
}

/// skopeo, umoci and podman take the archive, and the program runs.
fn read_by_others(env: &Env, archive: &std::path::Path) {
    let source = format!("oci-archive:{}", archive.display());
    succeeds(Command::new("skopeo").args(["inspect", &source]));
    let layout = env.path("layout");
    succeeds(Command::new("skopeo").args(["copy", &source, &format!("oci:{}:latest", layout.display())]));
    let bundle = env.path("bundle");
    succeeds(
        Command::new("umoci")
            .arg("unpack")
            .arg("--image")
            .arg(format!("{}:latest", layout.display()))
            .arg(&bundle),
    );
    assert!(bundle.join("rootfs/usr/local/bin/prog").exists());
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: podman's storage is used as root here");
        return;
    }
    let storage = env.path("podman");
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        let run = env.path("podman-run");
        command
            .arg("--root")
            .arg(&storage)
            .arg("--runroot")
            .arg(run)
            .args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"])
            .args(["--runtime", "/usr/sbin/runc"]);
        let output = command.args(args).output().unwrap();
        assert!(
            output.status.success(),
            "podman {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let (storage, run) = (storage.display(), env.path("podman-run"));
    let stored = format!(
        "containers-storage:[overlay@{storage}+{}]localhost/debian:latest",
        run.display()
    );
    succeeds(Command::new("skopeo").args(["copy", "-q", &source, &stored]));
    let limits = [
        "--network",
        "host",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ];
    let printed = podman(
        &[
            &["run", "--rm"][..],
            &limits[..],
            &["localhost/debian:latest"][..],
        ]
        .concat(),
    );
    assert_eq!(printed, "built by a step\n");
    podman(&["rmi", "-af"]);
}

/// A Debian root file system of one layer, made once. `None` where the package mirror is out of reach.
pub fn base() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mmdebstrap makes the Debian base as root here");
        return None;
    }
    let Some(mirror) = mirror() else {
        eprintln!("skipped: apt of this machine has no mirror over http");
        return None;
    };
    let path = cached("debian-slim.tar", |file| {
        let excluded = ["doc", "info", "locale", "lintian", "man"]
            .map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*"));
        let made = Command::new("mmdebstrap")
            .args([
                "--variant=minbase",
                "--include=attr,libcap2-bin",
                "--format=tar",
                "--quiet",
            ])
            .args(excluded)
            .arg("bookworm")
            .arg(file)
            .arg(&mirror)
            .status()
            .unwrap();
        assert!(made.success(), "mmdebstrap failed");
    });
    Some(path)
}

/// The mirror that this machine's apt uses.
fn mirror() -> Option<String> {
    let lists = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let texts = lists.iter().filter_map(|list| fs::read_to_string(list).ok());
    let mut words = texts.flat_map(|text| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    words.find(|word| word.starts_with("http://"))
}

/// Pushes the base to the registry under `debian:base`.
fn publish(env: &Env, base: &std::path::Path, address: &str) {
    let name = format!("{address}/debian:base");
    let store = env.path("other-store");
    env.rbuild_in(&store, ["import", base.to_str().unwrap(), &name])
        .ok();
    env.rbuild_in(&store, ["push", "-q", &name]).ok();
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
