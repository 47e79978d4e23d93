//! Real repositories, served by `git daemon`.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rbuild_cache::View;
use rbuild_cache::layer::{Entry, Kind, LayerPath};
use rbuild_cache::tree::Tree as _;

use super::*;
use crate::registry::RegistryOptions;

/// A directory of repositories, their server, and a store.
struct Fixture {
    directory: tempfile::TempDir,
    daemon: Child,
    port: u16,
    source: GitSource,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let libexec = Command::new("git").arg("--exec-path").output().unwrap().stdout;
        let libexec = PathBuf::from(String::from_utf8(libexec).unwrap().trim());
        let daemon = Command::new(libexec.join("git-daemon"))
            .args(["--listen=127.0.0.1", "--reuseaddr", "--export-all"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", directory.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let store = Store::open(&directory.path().join("store")).unwrap();
        let source = GitSource::new(
            store,
            GitAuth::default(),
            Registry::new(RegistryOptions::default()),
            FetchOptions::default(),
        );
        Self {
            directory,
            daemon,
            port,
            source,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs git in a repository and returns what it says.
    fn git(&self, name: &str, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "protocol.file.allow=always", "-C"])
            .arg(self.path(name))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "x")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "x@x")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_DATE"), "1700000000 +0000")))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A repository with these files; its last commit.
    fn repository(&self, name: &str, files: &[(&str, &str)]) -> String {
        std::fs::create_dir_all(self.path(name)).unwrap();
        self.git(name, &["init", "-q", "-b", "main"]);
        self.git(name, &["config", "uploadpack.allowFilter", "true"]);
        self.commit(name, files)
    }

    fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        for (file, text) in files {
            let path = self.path(name).join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.git(name, &["add", "-A"]);
        self.git(name, &["commit", "-q", "-m", "x"]);
        self.git(name, &["rev-parse", "HEAD"])
    }

    fn url(&self, rest: &str) -> GitUrl {
        let text = format!("git://127.0.0.1:{}/{rest}", self.port);
        GitUrl::of_context(&text).unwrap().unwrap()
    }

    fn layer(&self, rest: &str) -> Result<Files, BuildError> {
        self.layer_with(rest, |_| {})
    }

    fn layer_with(&self, rest: &str, change: impl FnOnce(&mut GitOp)) -> Result<Files, BuildError> {
        let mut op = self.source.resolve(&self.url(rest))?;
        change(&mut op);
        let layer = self.source.fetch(&op)?;
        Ok(Files(View::new(vec![self.source.store.layer(&layer).unwrap()])))
    }

    fn fails(&self, rest: &str) -> String {
        match self.layer(rest) {
            Ok(files) => panic!("{rest} has {:?}", files.names()),
            Err(error) => error.to_string(),
        }
    }

    /// Stops the server: what works afterwards was here.
    fn stop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

struct Files(View);

impl Files {
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut directories = vec![LayerPath::root()];
        while let Some(directory) = directories.pop() {
            for entry in self.0.read_dir(&directory).unwrap() {
                names.push(String::from_utf8(entry.path.as_bytes().to_vec()).unwrap());
                if entry.is_dir() {
                    directories.push(entry.path);
                }
            }
        }
        names.sort();
        names
    }

    fn entry(&self, path: &str) -> Entry {
        self.0
            .lookup(&LayerPath::clean(path.as_bytes()))
            .unwrap()
            .unwrap()
    }

    fn text(&self, path: &str) -> String {
        let mut text = String::new();
        let mut file = self.0.open(&LayerPath::clean(path.as_bytes())).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    /// Writes all to a directory.
    fn write(&self, directory: &Path) {
        for name in self.names() {
            let entry = self.entry(&name);
            let path = directory.join(&name);
            match entry.kind {
                Kind::Directory { .. } => std::fs::create_dir(path).unwrap(),
                Kind::File { .. } => {
                    let mut bytes = Vec::new();
                    self.0.open(&entry.path).unwrap().read_to_end(&mut bytes).unwrap();
                    std::fs::write(path, bytes).unwrap();
                }
                Kind::Symlink { target } => symlink(String::from_utf8(target).unwrap(), path).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn files_of_refs_and_directories() {
    let mut fixture = Fixture::new();
    let first = fixture.repository("r", &[("a", "one"), ("sub/b", "b"), ("sub/deep/c", "c")]);
    fixture.git("r", &["tag", "-a", "-m", "t", "v1"]);
    fixture.git("r", &["update-ref", "refs/pull/7/head", &first]);
    std::fs::write(fixture.path("r/run"), "#!").unwrap();
    let mut mode = std::fs::metadata(fixture.path("r/run")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o777);
    std::fs::set_permissions(fixture.path("r/run"), mode).unwrap();
    symlink("sub/b", fixture.path("r/link")).unwrap();
    let second = fixture.commit("r", &[("a", "two")]);

    let main = fixture.layer("r").unwrap();
    assert_eq!(
        main.names(),
        ["a", "link", "run", "sub", "sub/b", "sub/deep", "sub/deep/c"]
    );
    assert_eq!(main.text("a"), "two");
    for (path, mode) in [("a", 0o644), ("run", 0o755), ("sub", 0o755), ("link", 0o777)] {
        let entry = main.entry(path);
        assert_eq!((entry.mode, entry.uid, entry.gid), (mode, 0, 0), "{path}");
        assert_eq!(entry.mtime.seconds, 1_700_000_000, "{path}");
    }
    for old in [
        "r#v1",
        "r?tag=v1",
        "r#refs/pull/7/head",
        &format!("r#{first}"),
        &format!("r?ref=v1&checksum={}", &first[..9]),
    ] {
        assert_eq!(fixture.layer(old).unwrap().text("a"), "one", "{old}");
    }
    let sub = fixture.layer("r#main:sub").unwrap();
    assert_eq!(sub.names(), ["b", "deep", "deep/c"]);
    assert_eq!(
        fixture.layer("r?branch=main&subdir=sub/deep").unwrap().names(),
        ["c"]
    );
    assert_ne!(
        fixture
            .layer("r?mtime=checkout")
            .unwrap()
            .entry("a")
            .mtime
            .seconds,
        1_700_000_000
    );

    let wrong = fixture.fails("r?ref=main&checksum=0000");
    assert_eq!(wrong, format!("expected checksum to match 0000, got {second}"));
    assert!(fixture.fails("r#nope").contains("does not contain ref nope"));
    assert!(
        fixture
            .fails(&format!("r#{}", "1".repeat(40)))
            .contains("does not contain commit")
    );
    assert!(fixture.fails("r#main:nope").contains("does not exist"));
    assert!(fixture.fails("r#main:a").contains("is a file"));
    assert!(
        fixture
            .fails("absent")
            .contains("failed to fetch remote git://127.0.0.1")
    );

    // A commit that is here needs no server.
    fixture.stop();
    assert_eq!(
        fixture.layer(&format!("r#{first}:sub")).unwrap().names(),
        ["b", "deep", "deep/c"]
    );
    assert!(fixture.fails("r#main").contains("unable to connect"));
}

#[test]
fn a_directory_takes_only_its_files_from_the_server() {
    let fixture = Fixture::new();
    let large = |seed: u32| {
        let mut state = seed;
        let number = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!("{state:08x}")
        };
        (0..50_000).map(number).collect::<String>()
    };
    let files = [
        ("large", large(1)),
        ("sub/small", "s".to_owned()),
        (".gitattributes", "* text eol=crlf\n".to_owned()),
    ];
    fixture.repository("r", &files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let sub = fixture.layer("r#main:sub").unwrap();
    assert_eq!(sub.names(), ["small"]);
    let size = || -> u64 {
        let clone = std::fs::read_dir(fixture.path("store/git"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let packs = std::fs::read_dir(clone.join("objects/pack")).unwrap();
        packs.map(|pack| pack.unwrap().metadata().unwrap().len()).sum()
    };
    assert!(size() < 20_000, "{}", size());
    // What was left out comes when it is wanted.
    let all = fixture.layer("r#main").unwrap();
    assert_eq!(all.text("large"), files[0].1);
    assert!(size() > 100_000, "{}", size());
    // Line ends are those of a checkout, attributes that concern archives have no say.
    fixture.commit(
        "r",
        &[
            ("sub/lines", "a\nb\n"),
            ("sub/.gitattributes", "lines export-ignore\nid export-subst\n"),
            ("sub/id", "$Format:%H$\n"),
        ],
    );
    let sub = fixture.layer("r#main:sub").unwrap();
    assert_eq!(sub.text("lines"), "a\r\nb\r\n");
    assert_eq!(sub.text("id"), "$Format:%H$\r\n");
}

#[test]
fn submodules_are_filled_unless_they_are_not_wanted() {
    let fixture = Fixture::new();
    fixture.repository("deep", &[("d", "deep")]);
    fixture.repository("lib", &[("l", "lib")]);
    fixture.git("lib", &["submodule", "--quiet", "add", "../deep", "below"]);
    fixture.git(
        "lib",
        &[
            "config",
            "-f",
            ".gitmodules",
            "submodule.below.url",
            &format!("git://127.0.0.1:{}/deep", fixture.port),
        ],
    );
    fixture.commit("lib", &[]);
    fixture.repository("r", &[("a", "a")]);
    fixture.git("r", &["submodule", "--quiet", "add", "../lib", "sub/lib"]);
    fixture.commit("r", &[]);
    let all = fixture.layer("r").unwrap();
    assert_eq!(all.text("sub/lib/l"), "lib");
    assert_eq!(all.text("sub/lib/below/d"), "deep");
    assert_eq!(fixture.layer("r#:sub").unwrap().text("lib/below/d"), "deep");
    let without = fixture.layer("r?submodules=0").unwrap();
    assert_eq!(without.names(), [".gitmodules", "a", "sub", "sub/lib"]);
    assert!(fixture.fails("r#:sub/lib").contains("is a submodule"));

    fixture.git(
        "r",
        &[
            "config",
            "-f",
            ".gitmodules",
            "submodule.sub/lib.url",
            "file:///etc",
        ],
    );
    fixture.commit("r", &[]);
    assert!(
        fixture.fails("r").contains("\"file\" is not allowed"),
        "{}",
        fixture.fails("r")
    );
}

#[test]
fn the_git_directory_is_a_repository() {
    let fixture = Fixture::new();
    fixture.repository("r", &[("a", "one")]);
    let commit = fixture.commit("r", &[("a", "two"), ("b/c", "c")]);
    fixture.git("r", &["tag", "-a", "-m", "t", "v1.0"]);
    let keep = |op: &mut GitOp| op.keep_git_dir = true;
    let files = fixture.layer_with("r#v1.0", keep).unwrap();
    let out = fixture.path("out");
    std::fs::create_dir(&out).unwrap();
    files.write(&out);
    assert_eq!(fixture.git("out", &["rev-parse", "HEAD"]), commit);
    assert_eq!(fixture.git("out", &["status", "--porcelain"]), "");
    assert_eq!(fixture.git("out", &["describe"]), "v1.0");
    assert_eq!(
        fixture.git("out", &["remote", "get-url", "origin"]),
        format!("git://127.0.0.1:{}/r", fixture.port)
    );
    assert_eq!(fixture.git("out", &["log", "--format=%s"]), "x");
    fixture.git("out", &["fsck", "--strict"]);
    // The same bytes of another clone.
    let names = files.names();
    std::fs::remove_dir_all(fixture.path("store/git")).unwrap();
    let again = fixture.layer_with("r#v1.0", keep).unwrap();
    assert_eq!(again.names(), names);
    assert_eq!(
        again.0.lookup(&LayerPath::clean(b".git/index")).unwrap(),
        files.0.lookup(&LayerPath::clean(b".git/index")).unwrap()
    );
    let branch = fixture.layer_with("r", keep).unwrap();
    assert!(
        branch
            .text(".git/packed-refs")
            .contains(&format!("{commit} refs/heads/main"))
    );
    assert!(
        !fixture
            .layer("r")
            .unwrap()
            .names()
            .iter()
            .any(|name| name.starts_with(".git"))
    );
}
