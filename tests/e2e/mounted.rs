//! `rbuild mount`: an image to be read, by root at a path, by everybody for the time of a command.

use crate::env::{Env, as_every_user};

#[test]
fn a_command_sees_the_files_of_an_image() {
    as_every_user(|env| {
        env.base();
        let dockerfile =
            "FROM base\nRUN echo x > /file && chown 5:6 /file && chmod 640 /file && rm /etc/passwd\n";
        env.build("app", dockerfile, &[]).ok();
        let script = "stat -c %u:%g:%a $RBUILD_MOUNT/file; ls $RBUILD_MOUNT/etc/passwd; touch $RBUILD_MOUNT/new; exit 7";
        let seen = env.rbuild(["mount", "app", "--", "sh", "-c", script]).fails(7);
        assert_eq!(seen.stdout, "5:6:640\n", "{}", seen.stderr);
        assert!(
            seen.stderr.contains("No such file") && seen.stderr.contains("Read-only file system"),
            "{}",
            seen.stderr
        );
        env.rbuild(["mount", "app", "--", "sh", "-c", "kill -9 $$"])
            .fails(128 + 9);
        let missing = env.rbuild(["mount", "app", "--", "no-such-program"]).fails(1);
        assert!(
            missing.stderr.contains("starting no-such-program"),
            "{}",
            missing.stderr
        );
        let left: Vec<_> = std::fs::read_dir(env.store().join("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        if !env.is_root() {
            let refused = env.rbuild(["mount", "app"]).fails(1);
            assert!(
                refused.stderr.contains("rbuild mount app -- COMMAND"),
                "{}",
                refused.stderr
            );
        }
    });
}

/// Unmounts all, however the test ends.
struct Mounts<'a>(&'a Env);

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        self.0.rbuild(["umount", "--all"]);
    }
}

#[test]
fn what_root_mounts_stays_until_it_is_unmounted() {
    let Some(env) = Env::root() else {
        eprintln!("skipped: only root's mounts outlive the command");
        return;
    };
    env.base();
    env.build("app", "FROM base\nRUN echo x > /file\n", &[]).ok();
    let target = env.path("target");
    std::fs::create_dir(&target).unwrap();
    let target = target.to_str().unwrap();
    let _mounts = Mounts(&env);
    let below = env.rbuild(["mount", "app"]).ok().stdout;
    let below = below.trim();
    assert_eq!(
        env.rbuild(["mount", "app", target]).ok().stdout,
        format!("{target}\n")
    );
    // Neither a prune nor the loss of its names takes the files away.
    env.rbuild(["rmi", "app", "base"]).ok();
    env.rbuild(["prune", "-af"]).ok();
    for at in [below, target] {
        assert_eq!(std::fs::read_to_string(format!("{at}/file")).unwrap(), "x\n");
        assert!(std::fs::write(format!("{at}/new"), "").is_err());
    }
    assert_eq!(env.rbuild(["mount"]).ok().stdout.lines().count(), 3);
    let busy = std::fs::File::open(format!("{target}/file")).unwrap();
    let refused = env.rbuild(["umount", target]).fails(1);
    assert!(
        refused.stderr.contains("a process still uses it"),
        "{}",
        refused.stderr
    );
    drop(busy);
    assert_eq!(env.rbuild(["umount", target]).ok().stdout, format!("{target}\n"));
    // Somebody else may unmount as well; then only the note of it goes.
    assert!(
        std::process::Command::new("umount")
            .arg(below)
            .status()
            .unwrap()
            .success()
    );
    assert!(env.rbuild(["mount"]).ok().stdout.contains("not mounted any more"));
    env.rbuild(["umount", "--all"]).ok();
    assert_eq!(env.rbuild(["mount"]).ok().stdout.lines().count(), 1);
    let none = env.rbuild(["umount", target]).fails(1);
    assert!(none.stderr.contains("is not mounted"), "{}", none.stderr);
    env.rbuild(["prune", "-af"]).ok();
    assert!(
        std::fs::read_dir(env.store().join("layers"))
            .unwrap()
            .next()
            .is_none()
    );
}
