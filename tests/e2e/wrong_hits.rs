//! Wrong cache hits that were reported of other builders, by the names of the reports: something is built, something
//! is changed, and what is built then is what it has to be.
//!
//! Reports that are named beside these and are no fixtures, because no key is wrong in them:
//! - podman-container-tools/buildah#4462, GoogleContainerTools/kaniko#631: nothing is left of them that could be read.
//! - GoogleContainerTools/kaniko#1162, #1138: layers had files of other layers. The metamorphic test compares digests.
//! - osscontainertools/kaniko, the root in an archive that is unpacked (`UNTAR_SKIP_ROOT`) and hard links with absolute
//!   targets: what layers look like, cached or not (`extract`, `packing`).
//! - moby/buildkit, a shared dependency that starves: a build hangs. Steps that several builds want are in `crowd`.

mod fixtures;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::env::{Env, as_every_user};

/// A report, or several of the same.
pub struct Fixture {
    /// Where it was reported.
    pub reports: &'static [&'static str],
    /// What is in the context before the first build.
    pub files: &'static [Change],
    /// What is done to it before the second.
    pub changes: &'static [Change],
    pub dockerfile: &'static str,
    /// Of the second build, if it is another one.
    pub then: Option<&'static str>,
    /// Flags of the two builds.
    pub flags: [&'static [&'static str]; 2],
    /// Paths of the result and what is there, after the first and after the second build.
    pub sees: &'static [[(&'static str, &'static str); 2]],
}

/// Something done to a context.
pub enum Change {
    Write(&'static str, &'static str),
    Mode(&'static str, u32),
    Link(&'static str, &'static str),
    Hard(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Remove(&'static str),
}

fn apply(env: &Env, changes: &[Change]) {
    let path = |name: &str| env.path(&format!("ctx/{name}"));
    for change in changes {
        match change {
            Change::Write(name, text) => {
                let file = env.write(&format!("ctx/{name}"), text);
                // The time of a file tells nothing.
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
                fs::File::options()
                    .write(true)
                    .open(file)
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            }
            Change::Mode(name, mode) => {
                fs::set_permissions(path(name), fs::Permissions::from_mode(*mode)).unwrap();
            }
            Change::Link(name, to) => {
                let _ = fs::remove_file(path(name));
                symlink(to, path(name)).unwrap();
            }
            Change::Hard(name, to) => fs::hard_link(path(to), path(name)).unwrap(),
            Change::Rename(name, to) => fs::rename(path(name), path(to)).unwrap(),
            Change::Remove(name) => fs::remove_file(path(name)).unwrap(),
        }
    }
}

/// What is at `path`: the text of a file, `mode` and `->` of what is none, `-` for nothing. `path:mode` is its mode.
fn seen(root: &Path, path: &str) -> String {
    let (path, wants_mode) = match path.strip_suffix(":mode") {
        Some(path) => (path, true),
        None => (path, false),
    };
    let path = root.join(path);
    match fs::symlink_metadata(&path) {
        Err(_) => "-".to_owned(),
        Ok(metadata) if wants_mode => format!("{:o}", metadata.permissions().mode() & 0o7777),
        Ok(metadata) if metadata.is_symlink() => format!("-> {}", fs::read_link(path).unwrap().display()),
        Ok(metadata) if metadata.is_dir() => "directory".to_owned(),
        Ok(_) => fs::read_to_string(path).unwrap().trim_end().to_owned(),
    }
}

#[test]
fn no_reported_wrong_hit_is_one_here() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller).in_memory();
    env.base();
    let mut reports = 0;
    for fixture in fixtures::FIXTURES {
        reports += fixture.reports.len();
        env.write("ctx/.dockerignore", "");
        let texts = [fixture.dockerfile, fixture.then.unwrap_or(fixture.dockerfile)];
        for (round, changes) in [fixture.files, fixture.changes].into_iter().enumerate() {
            apply(&env, changes);
            let file = env.write("Dockerfile", texts[round]);
            let (root, context) = (env.path("result"), env.path("ctx"));
            let output = format!("type=local,dest={}", root.display());
            let args = ["build", "-o", &output, "-f", file.to_str().unwrap()];
            let context = [context.to_str().unwrap()];
            let flags = fixture.flags[round].iter().copied();
            env.rbuild(args.into_iter().chain(flags).chain(context)).ok();
            for expected in fixture.sees {
                let (path, text) = expected[round];
                assert_eq!(
                    seen(&root, path),
                    text,
                    "{path} of {:?}, build {}",
                    fixture.reports,
                    round + 1
                );
            }
            fs::remove_dir_all(root).unwrap();
        }
        fs::remove_dir_all(env.path("ctx")).unwrap();
    }
    println!("{} fixtures of {reports} reports", fixtures::FIXTURES.len());
    assert!(reports >= 45, "{reports}");
}

/// podman-container-tools/podman#10340, RedHatInsights/cicd-tools#33.
#[test]
fn labels_are_those_of_the_build() {
    as_every_user(|env| {
        env.write("labels/a", "a");
        let dockerfile = "FROM scratch\nCOPY a /a\n";
        for (flags, expected) in [
            (&[][..], None),
            (&["--label=l=1"][..], Some("1")),
            (&["--label=l=2"], Some("2")),
            (&[], None),
        ] {
            env.build("labels", dockerfile, flags).ok();
            let label = env.inspect("labels")["Config"]["Labels"]["l"].clone();
            assert_eq!(label.as_str(), expected);
        }
    });
}

/// podman-container-tools/podman#21310: what a build without the cache made is what later builds find.
#[test]
fn a_build_without_the_cache_is_found_by_the_next() {
    as_every_user(|env| {
        env.base();
        let shown = env.context("shown", &[("text", "1")]);
        let volume = format!("{shown}:/shown:ro");
        let dockerfile = "FROM base\nRUN cat /shown/text > /seen\n";
        let seen = |more: &[&str]| {
            let dest = env.path("next-files");
            let output = format!("type=local,dest={}", dest.display());
            let flags: Vec<&str> = ["-v", &volume, "-o", &output]
                .iter()
                .chain(more)
                .copied()
                .collect();
            env.build("next", dockerfile, &flags).ok();
            let text = fs::read_to_string(dest.join("seen")).unwrap();
            fs::remove_dir_all(dest).unwrap();
            text
        };
        assert_eq!(seen(&[]), "1");
        env.write("shown/text", "2");
        assert_eq!(seen(&[]), "1", "what is in a volume is in no key");
        assert_eq!(seen(&["--no-cache"]), "2");
        assert_eq!(seen(&[]), "2");
    });
}

/// GoogleContainerTools/kaniko#2567, #3350, #2010: what was built for one platform is not the result for another.
#[test]
fn another_platform_is_another_build() {
    as_every_user(|env| {
        env.context("platform", &[]);
        let dockerfile = "FROM scratch AS one\nARG TARGETARCH\nCOPY <<E /arch\n$TARGETARCH\nE\n\
             FROM one\nCOPY --from=one /arch /copied\n";
        for arch in ["amd64", "arm64", "amd64"] {
            let (dest, platform) = (env.path("files"), format!("--platform=linux/{arch}"));
            let output = format!("type=local,dest={}", dest.display());
            env.build("platform", dockerfile, &[&platform, "-o", &output])
                .ok();
            for file in ["arch", "copied"] {
                assert_eq!(fs::read_to_string(dest.join(file)).unwrap().trim_end(), arch);
            }
            fs::remove_dir_all(dest).unwrap();
        }
    });
}

/// GoogleContainerTools/kaniko#1833, #637: a base with the name of another one, also behind a stage and an ARG.
#[test]
fn a_base_that_moved_is_another_base() {
    as_every_user(|env| {
        for text in ["1", "2"] {
            env.write("moved/text", text);
            env.build("moved", "FROM scratch\nCOPY text /text\n", &[]).ok();
            let dockerfile = "ARG B=moved\nFROM $B AS builder\nFROM builder\nCOPY --from=builder /text /copied\n\
                 COPY --from=moved /text /named\n";
            let dest = env.path("files");
            let output = format!("type=local,dest={}", dest.display());
            env.build("after", dockerfile, &["-o", &output]).ok();
            for file in ["text", "copied", "named"] {
                assert_eq!(fs::read_to_string(dest.join(file)).unwrap(), text, "{file}");
            }
            fs::remove_dir_all(dest).unwrap();
        }
    });
}

/// What runs again leaves other files than before, and what builds upon these or takes from them follows, though nothing
/// that was written has changed.
#[test]
fn what_was_made_anew_reaches_what_builds_on_it() {
    as_every_user(|env| {
        env.base();
        env.context("anew", &[]);
        let dockerfile = "FROM base AS a\nRUN cat /proc/sys/kernel/random/uuid > /f\nFROM a AS b\nRUN cp /f /g\n\
             FROM base\nCOPY --from=a /f /f\nCOPY --from=b /g /g\nRUN --mount=from=a,target=/m cp /m/f /h\n";
        // The three files, which all come from the one step.
        let built = |flags: &[&str]| {
            let dest = env.path("anew-files");
            let output = format!("type=local,dest={}", dest.display());
            let flags: Vec<&str> = ["-o", &output].iter().chain(flags).copied().collect();
            env.build("anew", dockerfile, &flags).ok();
            let text = |file: &str| fs::read_to_string(dest.join(file)).unwrap();
            let [f, g, h] = ["f", "g", "h"].map(text);
            assert_eq!([&g, &h], [&f, &f], "{flags:?}");
            fs::remove_dir_all(dest).unwrap();
            f
        };
        let first = built(&[]);
        assert_eq!(built(&[]), first);
        let second = built(&["--no-cache-filter=a"]);
        assert_ne!(second, first);
        assert_eq!(built(&[]), second);
        let third = built(&["--cache-ttl=0"]);
        assert_ne!(third, second);
        assert_eq!(built(&["--cache-ttl=1h"]), third);

        // One stage alone was built again, and its result is the one that counts.
        let copied = "FROM base AS a\nRUN cat /proc/sys/kernel/random/uuid > /f\nFROM a\nRUN cp /f /g\n";
        let pair = || {
            env.build("anew", copied, &[]).ok();
            let text = |file: &str| {
                let tar = env.rbuild(["cp", &format!("anew:/{file}"), "-"]).ok().stdout;
                let uuid = tar
                    .split('\0')
                    .find(|part| part.len() == 37 && part.ends_with('\n'));
                uuid.map(str::to_owned)
            };
            (text("f"), text("g"))
        };
        let (f, g) = pair();
        assert!(f.is_some() && f == g, "{f:?} {g:?}");
        env.build("anew", copied, &["--no-cache", "--target=a"]).ok();
        let (again, g) = pair();
        assert!(again != f && again == g, "{again:?} {g:?}");
    });
}

/// CVE-2024-24557: an image that somebody else has made and that says of itself what the image to be built will say. Base,
/// instructions and history are the same, only the files are others.
#[test]
fn a4_9_an_image_that_imitates_a_step_is_no_hit() {
    let env = Env::ordinary().unwrap_or_else(Env::of_caller).in_memory();
    env.base();
    let theirs = env.path("theirs");
    let history = |image: &str| {
        let format = "{{.CreatedBy}} {{.Comment}}";
        let args = ["history", "--no-trunc", "--format", format, image];
        env.rbuild(args).ok().stdout
    };
    env.rbuild(["save", "-o", "base.tar", "base"]).ok();
    env.rbuild_in(&theirs, ["load", "-i", "base.tar"]).ok();
    for (base, step) in [("base", "RUN cat /shown/text > /seen\n"), ("scratch", "")] {
        let dockerfile = format!("FROM {base}\nCOPY text /text\n{step}HEALTHCHECK CMD [\"/evil\"]\n");
        let build = |text: &str, dockerfile: &str| {
            env.write("imitated/Dockerfile", dockerfile);
            env.write("imitated/text", text);
            let shown = env.context("shown", &[("text", text)]);
            let volume = format!("{shown}:/shown:ro");
            let run = [
                "build",
                "--progress=plain",
                "-t",
                "app:1",
                "-v",
                &volume,
                "imitated",
            ];
            run.map(str::to_owned)
        };
        // What was copied to one base is known for the other.
        let good = format!("good-{base}");
        env.rbuild_in(&theirs, build("evil", &dockerfile)).ok();
        env.rbuild_in(&theirs, ["save", "-o", "evil.tar", "app:1"]).ok();
        env.rbuild(["load", "-i", "evil.tar"]).ok();
        let evil = env.inspect("app:1");
        let imitated = history("app:1");
        let run = env.rbuild(build(&good, &dockerfile)).ok();
        assert_eq!(run.count("CACHED"), 0, "{}", run.stderr);
        assert_eq!(history("app:1"), imitated, "it is the same to the last word");
        assert_ne!(env.inspect("app:1")["RootFS"], evil["RootFS"]);
        let files: &[&str] = if step.is_empty() {
            &["text"]
        } else {
            &["text", "seen"]
        };
        for file in files {
            let tar = env.rbuild(["cp", &format!("app:1:/{file}"), "-"]).ok().stdout;
            assert!(tar.contains(&good) && !tar.contains("evil"), "{file}");
        }
        // What no file shows is part of the image as well.
        for more in ["HEALTHCHECK CMD [\"/good\"]\n", "ONBUILD RUN true\n"] {
            let other = dockerfile.replace("HEALTHCHECK CMD [\"/evil\"]\n", more);
            env.rbuild(build(&good, &other)).ok();
            let config = env.inspect("app:1")["Config"].to_string();
            let word = if more.starts_with('H') {
                "/good"
            } else {
                "RUN true"
            };
            assert!(config.contains(word) && !config.contains("/evil"), "{config}");
        }
    }
}
