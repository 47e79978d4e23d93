//! `rbuild commit`, by users who may give files away and by those who may not.

use std::os::unix::fs::PermissionsExt as _;

use crate::env::as_every_user;

#[test]
fn owners_and_devices_outlast_a_directory_of_one_user() {
    as_every_user(|env| {
        env.base();
        let dockerfile =
            "FROM base\nRUN mkdir /data && echo x > /data/old && echo x > /data/gone && chown -R 5:6 /data\n";
        env.build("app", dockerfile, &[]).ok();
        let tree = env.path("tree");
        env.rbuild(["build", "-q", "-o", tree.to_str().unwrap(), "app"])
            .ok();
        let as_user = |script: &str| {
            let script = format!("cd tree && {script}");
            assert!(
                env.command("sh")
                    .args(["-c", &script])
                    .status()
                    .unwrap()
                    .success()
            );
        };
        let owner = if env.is_root() {
            "chown 5:6 data data/old && "
        } else {
            ""
        };
        as_user(&format!(
            "rm data/gone && echo y > data/old && {owner}echo z > new"
        ));
        let commit = ["commit", "--base", "app", tree.to_str().unwrap(), "changed"];
        env.rbuild(commit).ok();
        assert_eq!(
            env.rbuild(["diff", "app", "changed"]).ok().stdout,
            "C /data\nD /data/gone\nC /data/old\nA /new\n"
        );
        let script = "stat -c %u:%g /data /data/old /new; cat /data/old /new";
        let seen = env.rbuild(["run", "changed", "sh", "-c", script]).ok().stdout;
        assert_eq!(seen, "5:6\n5:6\n0:0\ny\nz\n");
        // A file that its owner has closed is read all the same.
        if !env.is_root() {
            let closed = tree.join("new");
            std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
            env.rbuild(commit).ok();
            assert_eq!(
                env.rbuild(["diff", "changed", "app"]).ok().stdout.lines().last(),
                Some("D /new")
            );
        }
    });
}
