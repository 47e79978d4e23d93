//! Each line of the configuration counts, and so do the files of other programs where there is no configuration.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use super::commands::{rbuild, text};
use super::common::TestRegistry;
use super::images::{image, push};
use super::{anonymous, reference};

/// A user with a context `c`.
struct Home(tempfile::TempDir);

impl Home {
    fn new(dockerfile: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        home.write("c/Dockerfile", dockerfile);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn config(&self, text: &str) {
        self.write(".config/rbuild/config.toml", text);
    }

    fn run(&self, args: &[&str]) -> Output {
        rbuild(self.0.path(), args, "")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }

    /// What a call says that fails.
    #[track_caller]
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output));
        text(&output)
    }

    fn build(&self, more: &[&str]) -> Vec<String> {
        let context = self.path("c").to_str().unwrap().to_owned();
        let args = ["build", "--progress=plain"].into_iter();
        let all = args.chain(more.iter().copied()).map(str::to_owned);
        all.chain([context]).collect()
    }
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn the_lines_about_registries() {
    let home = Home::new("FROM scratch\nCOPY Dockerfile /\n");
    home.config(
        "[registries]\ninsecure = [\"build.lan:5000\", \"10.0.0.0/8\"]\nblocked = [\"docker.io/bad\"]\n\
         aliases = { tool = \"quay.io/team/tool\" }\n[registries.mirrors]\n\"quay.io/team\" = [\"http://cache.lan/team\"]\n",
    );
    for (name, expected) in [
        (
            "build.lan:5000/x",
            "build.lan:5000 (https without verification, else http)",
        ),
        ("10.1.2.3/x", "10.1.2.3 (https without verification, else http)"),
        ("other.lan:5000/x", "other.lan:5000 (https)"),
        (
            "tool:2",
            "tool:2 is quay.io/team/tool:2\n1. mirror cache.lan (https without",
        ),
    ] {
        let said = home.ok(&["registry", "explain", name]);
        assert!(said.contains(expected), "{name}: {said}");
    }
    for args in [vec!["registry", "explain", "bad/x"], vec!["pull", "bad/x"]] {
        let said = home.fails(&args);
        assert!(said.contains("the configuration blocks docker.io/bad"), "{said}");
    }
}

#[test]
fn the_lines_about_builds() {
    let server = TestRegistry::start();
    let home = Home::new(
        "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"cat\", \"/proc/net/dev\"]\n",
    );
    fs::copy("/bin/busybox", home.path("c/busybox")).unwrap();
    let base = "[build]\nplatform = [\"linux/amd64\", \"linux/arm64\"]\n";
    home.config(base);
    fs::write(home.path("c/plain"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let plain = home.path("c/plain");
    let plain = plain.to_str().unwrap();
    let name = server.reference("app:1");
    home.ok(&strs(&home.build(&["-f", plain, "-t", &name])));
    home.ok(&["push", &name]);
    let document = anonymous().manifest(&reference(&name)).unwrap();
    assert!(String::from_utf8_lossy(&document.bytes).contains("arm64"));

    home.config("[build]\nisolation = \"nonsense\"\n");
    let said = text(&home.run(&strs(&home.build(&[]))));
    assert!(
        said.contains("invalid value 'nonsense' for '--isolation"),
        "{said}"
    );
    // As any build on this machine, but with no network.
    home.config("[build]\nnetwork = \"none\"\n");
    let said = home.ok(&strs(&home.build(&[])));
    let devices = said
        .lines()
        .filter(|line| line.contains(": ") && line.contains(" 0 "));
    let devices: Vec<&str> = devices.collect();
    assert!(
        devices.len() == 1 && devices[0].contains("lo:"),
        "{devices:?} {said}"
    );

    // What is pushed by itself, and by a build.
    home.config("[build]\ncompression = \"zstd\"\ncompression-level = 1\n");
    for tag in ["by-verb", "by-build"] {
        let name = server.reference(&format!("app:{tag}"));
        fs::write(plain, format!("FROM scratch\nCOPY plain /{tag}\n")).unwrap();
        if tag == "by-build" {
            home.ok(&strs(&home.build(&["-f", plain, "-t", &name, "--push"])));
        } else {
            home.ok(&strs(&home.build(&["-f", plain, "-t", &name])));
            home.ok(&["push", &name]);
        }
        let document = anonymous().manifest(&reference(&name)).unwrap();
        let manifest = String::from_utf8_lossy(&document.bytes).into_owned();
        assert!(manifest.contains("tar+zstd"), "{tag}: {manifest}");
    }
}

#[test]
fn the_lines_about_the_store() {
    let home = Home::new("FROM scratch\nCOPY big /\n");
    fs::write(home.path("c/big"), vec![7; 3 << 20]).unwrap();
    home.ok(&strs(&home.build(&[])));
    home.config("[store]\nkeep-storage = \"10g\"\n");
    assert!(home.ok(&["prune", "--all", "--force"]).contains("Total"));
    assert!(home.ok(&strs(&home.build(&[]))).contains("CACHED"), "it was kept");
    home.config("[store]\nmax-used-space = \"1m\"\n");
    home.ok(&["prune", "--all", "--force"]);
    assert!(
        !home.ok(&strs(&home.build(&[]))).contains("CACHED"),
        "it was removed"
    );
    for (line, expected) in [
        ("store-max = \"x\"", "invalid value 'x' for '--store-max"),
        ("min-free = \"x\"", "invalid value 'x' for '--min-free"),
        ("min-free-space = \"x\"", "invalid size \"x\""),
    ] {
        home.config(&format!("[store]\n{line}\n"));
        let verb = match line.starts_with("min-free-space") {
            true => vec!["prune".to_owned(), "--force".to_owned()],
            false => home.build(&[]),
        };
        let said = text(&home.run(&strs(&verb)));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_wrong_line_is_said_with_its_place() {
    let home = Home::new("FROM scratch\n");
    home.config("[registries]\n\nmirors = {}\n");
    assert!(
        home.fails(&["images"])
            .contains("config.toml:3: unknown field `mirors`")
    );
    let other = home.write("other.toml", "[build]\nnetwrk = \"none\"\n");
    let said = home.fails(&["--config", other.to_str().unwrap(), "images"]);
    assert!(said.contains("other.toml:2: unknown field `netwrk`"), "{said}");
    let fine = home.write("fine.toml", "");
    home.ok(&["--config", fine.to_str().unwrap(), "images"]);
    assert!(
        home.fails(&["--config", "/no/such", "images"])
            .contains("reading /no/such")
    );
}

#[test]
fn files_of_other_programs_count_where_there_is_none_and_when_it_matters() {
    let server = TestRegistry::start();
    let at = server.reference("team/base:1");
    push(&anonymous(), &reference(&at), &image("amd64", &[100])).unwrap();
    let home = Home::new("FROM short:1\nLABEL a=b\n");
    let conf = |text: &str| home.write(".config/containers/registries.conf", text);
    let daemon = home.write(
        ".config/docker/daemon.json",
        r#"{"registry-mirrors": ["http://hub.lan"], "insecure-registries": ["old.lan"]}"#,
    );
    let path = conf(&format!(
        "unqualified-search-registries = [\"quay.io\"]\n[aliases]\n\"short\" = \"{0}/team/base\"\n\"alpine\" = \"docker.io/library/alpine\"\n\
         [[registry]]\nlocation = \"bad.example\"\nblocked = true\n",
        server.address()
    ));
    let says = format!("{} says so", path.display());
    let explained = home.ok(&["registry", "explain", "short:1"]);
    assert!(
        explained.contains(&format!("short:1 is {at} ({says})"))
            && explained.contains(path.to_str().unwrap())
            && explained.contains(daemon.to_str().unwrap()),
        "{explained}"
    );
    for name in ["alpine", "nobody-knows"] {
        let explained = home.ok(&["registry", "explain", name]);
        let first = format!("{name} is docker.io/library/{name}:latest\n1. mirror hub.lan (https without");
        assert!(explained.starts_with(&first), "{explained}");
    }
    assert!(
        home.ok(&["registry", "explain", "old.lan/x"])
            .contains("(https without verification")
    );
    assert!(
        home.fails(&["pull", "bad.example/x"])
            .contains("blocks bad.example")
    );
    let built = home.ok(&strs(&home.build(&["--platform=linux/amd64"])));
    assert_eq!(
        built.matches(&format!("short:1 is {at}: {says}")).count(),
        1,
        "{built}"
    );
    home.write("c/Dockerfile", &format!("FROM {at}\nLABEL a=b\n"));
    let built = home.ok(&strs(&home.build(&[])));
    assert!(!built.contains("says so"), "{built}");

    // A file that is wrong is a matter of those who ask.
    conf("[[registry]\n");
    home.ok(&["images"]);
    home.ok(&strs(&home.build(&[])));
    let wrong = format!("{}:1:", path.display());
    for args in [
        vec!["pull", "short:1"],
        vec!["pull", &at],
        vec!["registry", "explain", &at],
    ] {
        let said = home.fails(&args);
        assert!(said.contains(&wrong), "{args:?}: {said}");
    }
    // Who has a configuration of his own does not ask them.
    home.config("");
    let explained = home.ok(&["registry", "explain", "short:1"]);
    assert!(
        explained.starts_with("short:1 is docker.io/library/short:1\n1. registry"),
        "{explained}"
    );
    conf("[aliases]\n\"short\" = \"x.example/base\"\n");
    home.config("[registries]\nimport = [\"containers\"]\n");
    let explained = home.ok(&["registry", "explain", "short"]);
    assert!(
        explained.starts_with("short is x.example/base:latest ("),
        "{explained}"
    );
}
