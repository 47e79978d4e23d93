use std::process::Command;

use crate::env::{Env, busybox};

/// Owners of all kinds, made by a step.
const DOCKERFILE: &str = "FROM base\n\
    RUN cd /tmp && echo x > f && chown 1000:1001 f && chmod 4755 f && ln -s f l && chown -h 5:6 l && mkdir d && \
        chown 7:8 d && chmod 2770 d && touch d/g && mkfifo p && chown 9:10 p && \
        touch -d @1000000000 -h f l d d/g p . && touch -d @1000000000 /tmp\n";
const MORE: &str = "RUN stat -c '= %n %u:%g %a' /tmp/* /tmp/d/* && chown 11:12 /tmp/d/g && rm /tmp/p\n";
const SEEN: [&str; 5] = [
    "= /tmp/d 7:8 2770",
    "= /tmp/d/g 0:8 644",
    "= /tmp/f 1000:1001 4755",
    "= /tmp/l 5:6 777",
    "= /tmp/p 9:10 644",
];

fn build(env: &Env, name: &str, dockerfile: &str, isolation: &str) -> crate::env::Run {
    let isolation = format!("--isolation={isolation}");
    env.build(name, dockerfile, &["--network=host", &isolation]).ok()
}

fn layers(env: &Env, image: &str) -> Vec<String> {
    let layers = env.inspect(image)["RootFS"]["Layers"].clone();
    serde_json::from_value(layers).unwrap()
}

/// One store, used now with many ids and now with one: what was built counts for both, and says the same.
#[test]
fn a_store_serves_both_kinds_of_namespaces() {
    let Some(env) = Env::ordinary() else {
        eprintln!("skipped: no ordinary user with subordinate ids");
        return;
    };
    for (first, second) in [("userns-single", "userns"), ("userns", "userns-single")] {
        let env = if first == "userns" {
            &Env::ordinary().unwrap()
        } else {
            &env
        };
        env.base();
        build(env, "one", DOCKERFILE, first);
        let run = build(env, "two", &format!("{DOCKERFILE}{MORE}"), second);
        for line in SEEN {
            assert!(
                run.stderr.contains(line),
                "{first}, {second}: {line}\n{}",
                run.stderr
            );
        }
        assert_eq!(
            layers(env, "one")[..2],
            layers(env, "two")[..2],
            "{first}, {second}"
        );
        // And once more, from what both have left.
        let again = build(env, "three", &format!("{DOCKERFILE}{MORE}"), first);
        assert_eq!(again.count("= /tmp/"), 0, "{}", again.stderr);
        env.rbuild(["prune", "--all", "--force"]).ok();
    }
}

/// A user of whom the machine knows nothing but a number needs no configuration at all.
#[test]
fn anybody_may_build() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act for a user that does not exist");
        return;
    }
    const UID: u32 = 1_345_678;
    let env = Env::of_caller();
    let folder = env.path("anybody");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("Dockerfile"), format!("{DOCKERFILE}{MORE}")).unwrap();
    std::os::unix::fs::chown(&folder, Some(UID), Some(UID)).unwrap();
    let tar = busybox();
    let rbuild = |args: &[&str]| {
        let output = Command::new("setpriv")
            .args([
                &format!("--reuid={UID}"),
                &format!("--regid={UID}"),
                "--clear-groups",
            ])
            .arg(crate::env::rbuild_binary())
            .arg("--root")
            .arg(folder.join("store"))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(&folder)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        text
    };
    rbuild(&["import", tar.to_str().unwrap(), "base"]);
    let said = rbuild(&["build", "--progress=plain", "--network=host", "."]);
    assert!(said.contains("isolation: user namespace with one id"), "{said}");
    for line in SEEN {
        assert!(said.contains(line), "{line}\n{said}");
    }
}
