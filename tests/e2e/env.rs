//! Where a test builds: a user, a store of its own, a folder of its own; nothing is left of them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// An ordinary user that root acts for.
#[derive(Debug, Clone)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

/// A user with a folder and a store.
pub struct Env {
    user: Option<User>,
    folder: TempDir,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The run, which has to have succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(
            self.code,
            Some(0),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// The run, which has to have failed with `code`.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// How often `text` stands in the progress output.
    pub fn count(&self, text: &str) -> usize {
        self.stderr.matches(text).count()
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Run {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

/// Runs `test` as every user that is at hand.
pub fn as_every_user(test: impl Fn(&Env)) {
    test(&Env::new(None));
    match ordinary_user() {
        Some(user) => test(&Env::new(Some(user))),
        None => eprintln!("skipped as an ordinary user: RBUILD_TEST_USER is not set or not a user"),
    }
}

impl Env {
    /// The environment of whoever runs the tests.
    pub fn of_caller() -> Self {
        Self::new(None)
    }

    /// The same in a file system that is memory, where there is one that will do: for many small stores.
    pub fn in_memory(self) -> Self {
        let memory = Path::new("/dev/shm");
        let roomy = rustix::fs::statvfs(memory).is_ok_and(|space| space.f_bavail * space.f_frsize > 1 << 30);
        let Some(probe) = roomy
            .then(|| tempfile::NamedTempFile::new_in(memory).ok())
            .flatten()
        else {
            return self;
        };
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::setxattr(probe.path(), "user.rbuild", b"", flags) {
            Ok(()) => Self::below(memory, self.user.clone()),
            Err(_) => self,
        }
    }

    fn new(user: Option<User>) -> Self {
        Self::below(&std::env::temp_dir(), user)
    }

    fn below(parent: &Path, user: Option<User>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("rbuild-e2e-")
            .tempdir_in(parent)
            .unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(user) = &user {
            chown(folder.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        Self { user, folder }
    }

    /// Where root builds; `None` when the suite is not run by root.
    pub fn root() -> Option<Self> {
        rustix::process::geteuid().is_root().then(|| Self::new(None))
    }

    /// Where an ordinary user with subordinate ids builds.
    pub fn ordinary() -> Option<Self> {
        match ordinary_user() {
            Some(user) => Some(Self::new(Some(user))),
            None if rustix::process::geteuid().is_root() => None,
            None => Some(Self::new(None)),
        }
    }

    /// Where a user builds of whom the machine knows nothing: no name, no subordinate ids.
    pub fn without_range() -> Option<Self> {
        let stranger = User {
            name: String::new(),
            uid: 54321,
            gid: 54321,
        };
        rustix::process::geteuid()
            .is_root()
            .then(|| Self::new(Some(stranger)))
    }

    /// Whether builds here are root's.
    pub fn is_root(&self) -> bool {
        self.user.is_none() && rustix::process::geteuid().is_root()
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a file, with the directories above it, as the user.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let mut missing: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .take_while(|parent| !parent.exists())
            .collect();
        while let Some(directory) = missing.pop() {
            fs::create_dir(directory).unwrap();
            self.own(directory);
        }
        fs::write(&path, text).unwrap();
        self.own(&path);
        path
    }

    /// A context with these files; its path.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> String {
        for (file, text) in files {
            self.write(&format!("{name}/{file}"), text);
        }
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Gives a file to the user.
    pub fn own(&self, path: &Path) {
        if let Some(user) = &self.user {
            chown(path, Some(user.uid), Some(user.gid)).unwrap();
        }
    }

    /// A command run as the user, with nothing of this process' environment but the search path.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={}", user.uid));
                command.arg(format!("--regid={}", user.gid));
                command.arg(if user.name.is_empty() {
                    "--clear-groups"
                } else {
                    "--init-groups"
                });
                command.arg(program);
                command
            }
            None => Command::new(program),
        };
        self.surroundings(&mut command);
        command
    }

    /// The environment of all commands.
    fn surroundings<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.folder.path())
            // Without it other people's tools look into directories that root may have closed (/run/containers).
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
    }

    /// rbuild on the store of this environment.
    pub fn rbuild_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(rbuild_binary());
        command.arg("--root").arg(self.store()).args(args);
        command
    }

    /// Runs rbuild on another store to its end.
    pub fn rbuild_in<S: AsRef<OsStr>>(&self, store: &Path, args: impl IntoIterator<Item = S>) -> Run {
        self.command(rbuild_binary())
            .arg("--root")
            .arg(store)
            .args(args)
            .output()
            .unwrap()
            .into()
    }

    /// Runs rbuild on the store of this environment to its end.
    pub fn rbuild<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.rbuild_command(args).output().unwrap().into()
    }

    /// The system calls `calls` of `rbuild ARGS`, which has to succeed. `None`, with a note, where they cannot be seen.
    pub fn trace(&self, calls: &str, args: &[&str]) -> Option<String> {
        if !has("strace") {
            return None;
        }
        let trace = self.path("trace");
        let mut strace = match &self.user {
            Some(user) if user.name.is_empty() => self.command("strace"),
            _ => Command::new("strace"),
        };
        strace
            .args(["-f", &format!("--trace={calls}")])
            .arg("-o")
            .arg(&trace);
        match &self.user {
            // Only so do programs with the setuid bit (newuidmap) keep their power when they are traced.
            Some(user) if !user.name.is_empty() => {
                strace.arg("-u").arg(&user.name);
            }
            Some(_) => {}
            None if self.is_root() => {}
            None => {
                eprintln!("skipped: without root, newuidmap cannot be traced");
                return None;
            }
        }
        strace
            .arg(rbuild_binary())
            .arg("--root")
            .arg(self.store())
            .args(args);
        let run: Run = self.surroundings(&mut strace).output().unwrap().into();
        run.ok();
        Some(fs::read_to_string(trace).unwrap())
    }

    /// Builds `dockerfile` in the context `name`, with plain progress, tagged `name`.
    pub fn build(&self, name: &str, dockerfile: &str, more: &[&str]) -> Run {
        self.write(&format!("{name}/Dockerfile"), dockerfile);
        let context = self.path(name);
        let args = ["build", "--progress=plain", "-t", name];
        let context = context.to_str().unwrap();
        self.rbuild(args.into_iter().chain(more.iter().copied()).chain([context]))
    }

    /// Imports the busybox base under the name `base`.
    pub fn base(&self) {
        let tar = busybox();
        self.rbuild(["import", tar.to_str().unwrap(), "base"]).ok();
    }

    /// Builds the context `name` again, into a folder of files.
    pub fn unpack(&self, name: &str) -> PathBuf {
        let dest = self.path(&format!("unpacked-{name}"));
        let context = self.path(name);
        let output = format!("type=local,dest={}", dest.display());
        self.rbuild(["build", "-q", "-o", &output, context.to_str().unwrap()])
            .ok();
        dest
    }

    /// The config of a stored image.
    pub fn inspect(&self, image: &str) -> serde_json::Value {
        let run = self.rbuild(["inspect", image]).ok();
        let mut images: Vec<serde_json::Value> = serde_json::from_str(&run.stdout).unwrap();
        images.remove(0)
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // Root may remove everything. An ordinary user's layers may belong to subordinate ids.
        if !rustix::process::geteuid().is_root() && self.store().exists() {
            let _ = self.rbuild(["prune", "--all", "--force"]);
        }
    }
}

/// The root file system of the busybox base, packed.
pub fn busybox() -> PathBuf {
    cached("busybox.tar", |file| {
        let output = Command::new("scripts/busybox-base")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::write(file, output.stdout).unwrap();
    })
}

/// A file that is made once and kept between runs, outside of the source tree.
pub fn cached(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _lock = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let directory = std::env::temp_dir().join(format!(
        "rbuild-test-cache-{}",
        rustix::process::geteuid().as_raw()
    ));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    if !path.exists() {
        let partial = directory.join(format!("{name}.{}", std::process::id()));
        make(&partial);
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(&partial, &path).unwrap();
    }
    path
}

/// Whether a program is there; says so when it is not, because a test is then skipped.
pub fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .unwrap()
        .status
        .success();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// The binary under test, where every user can reach it.
pub fn rbuild_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_rbuild"));
        let Some(user) = ordinary_user() else {
            return built.to_owned();
        };
        let reachable = Command::new("setpriv")
            .args([
                &format!("--reuid={}", user.uid),
                &format!("--regid={}", user.gid),
                "--clear-groups",
                "test",
                "-x",
            ])
            .arg(built)
            .status();
        if reachable.is_ok_and(|status| status.success()) {
            return built.to_owned();
        }
        // One copy for this run of the suite, replaced by the next one.
        let copy = std::env::temp_dir().join("rbuild-under-test");
        let partial = copy.with_extension(std::process::id().to_string());
        fs::copy(built, &partial).unwrap();
        fs::rename(&partial, &copy).unwrap();
        copy
    })
}

fn ordinary_user() -> Option<User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    USER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let name = std::env::var("RBUILD_TEST_USER")
            .ok()
            .filter(|name| !name.is_empty())?;
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        let fields: Vec<&str> = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields[0] == name)?;
        Some(User {
            uid: fields[2].parse().ok()?,
            gid: fields[3].parse().ok()?,
            name,
        })
    })
    .clone()
}
