//! `rbuild doctor`.

use crate::env::as_every_user;

#[test]
fn the_doctor_says_what_a_build_takes() {
    as_every_user(|env| {
        let text = env.rbuild(["doctor"]).ok().stdout;
        for part in [
            "Isolation, the preferred first:\n",
            "  taken ",
            " userns-single ",
            " chroot ",
            "What was found:\n",
            " kernel ",
            " id ranges ",
            " store ",
            " cgroup memory ",
            " emulators ",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = env.rbuild(["doctor", "--format", "json"]).ok().stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let taken = json["taken"].as_str().unwrap();
        assert_eq!(taken, if env.is_root() { "root" } else { "userns" }, "{json:#}");
        for tier in json["tiers"].as_array().unwrap() {
            // Whoever does not work says why.
            assert!(!tier["text"].as_str().unwrap().is_empty(), "{json:#}");
        }
        for finding in json["findings"].as_array().unwrap() {
            let is_good = finding["state"] == "ok";
            assert!(is_good || finding["knob"].is_string(), "{finding:#}");
        }
        // What it tries leaves nothing, and what it says is so.
        let left: Vec<_> = std::fs::read_dir(env.store().join("tmp")).unwrap().collect();
        assert_eq!(left.len(), 0, "{left:?}");
        env.base();
        let run = env
            .build("doctor", "FROM base\nRUN true\n", &["--isolation", taken])
            .ok();
        assert!(run.stderr.contains("isolation: "), "{}", run.stderr);
    });
}
