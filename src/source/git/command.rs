//! Running `git` so that nothing but rbuild decides what it does: no configuration of the machine, no hook, no prompt, no
//! transport but https, http, ssh and git, no redirect, no environment but what a connection needs. What is secret goes
//! through the environment and never through an argument, which everybody on the machine can read.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::failure::Failure;

/// How often that is looked at.
const TICK: Duration = Duration::from_millis(50);
/// No answer that is read as a whole is larger.
const MAX_OUTPUT: u64 = 256 << 20;
/// What is kept of git's messages.
const MAX_MESSAGES: usize = 64 << 10;

/// Variables of the caller that connections need.
const PASSED: [&str; 13] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Configuration of every call: nothing that a repository says makes git run anything.
const CLOSED: [(&str, &str); 14] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.askPass", ""),
    ("credential.helper", ""),
    ("fetch.recurseSubmodules", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("http.followRedirects", "false"),
    ("protocol.version", "2"),
    ("tar.umask", "0022"),
    ("transfer.bundleURI", "false"),
    ("transfer.credentialsInUrl", "die"),
];

/// Process groups that are at work.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Ends every git at work: for a program that ends before its threads do.
pub fn kill_running() {
    for group in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// How `git` is run.
#[derive(Debug)]
pub struct Git {
    environment: Vec<(OsString, OsString)>,
    stall: Duration,
    /// The socket of an agent, if it is another one than the caller's.
    agent: OnceLock<PathBuf>,
}

impl Git {
    /// With the caller's own connections: proxies, certificates, ssh agent. `stall` is how long git may say nothing at all.
    pub fn new(stall: Duration) -> Self {
        let caller = |name: &&str| Some((OsString::from(*name), std::env::var_os(*name)?));
        let mut environment: Vec<(OsString, OsString)> = PASSED.iter().filter_map(caller).collect();
        for (theirs, name) in [
            ("SSL_CERT_FILE", "GIT_SSL_CAINFO"),
            ("SSL_CERT_DIR", "GIT_SSL_CAPATH"),
        ] {
            if let Some(value) = std::env::var_os(theirs) {
                environment.push((name.into(), value));
            }
        }
        let home = std::env::var_os("HOME").unwrap_or_default();
        for (name, value) in [
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS_REQUIRE", "never"),
            ("GIT_ALLOW_PROTOCOL", "https:http:ssh:git"),
            ("GIT_LITERAL_PATHSPECS", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_SSH_VARIANT", "ssh"),
            // Nobody's repository lies around the directory in which git is run.
            ("GIT_CEILING_DIRECTORIES", "/"),
        ] {
            environment.push((name.into(), value.into()));
        }
        environment.push(("GIT_SSH_COMMAND".into(), ssh_command(&home)));
        Self {
            environment,
            stall,
            agent: OnceLock::new(),
        }
    }

    /// Lets ssh ask the agent with this socket for keys; the first one that is named stays.
    pub fn use_agent(&self, socket: PathBuf) {
        let _ = self.agent.set(socket);
    }

    /// A call of `git ARGS`.
    pub fn call<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call<'_> {
        Call {
            git: self,
            program: "git",
            args: args.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
            repository: None,
            config: Vec::new(),
            environment: Vec::new(),
            input: Vec::new(),
        }
    }
}

impl Git {
    /// A call of `ssh DESTINATION`, on `port`, that runs `words` on the server.
    pub fn ssh(&self, destination: &str, port: Option<u16>, words: &[&str]) -> Call<'_> {
        let mut args: Vec<OsString> = vec![
            "-c".into(),
            r#"eval "exec $GIT_SSH_COMMAND"' "$@"'"#.into(),
            "ssh".into(),
        ];
        if let Some(port) = port {
            args.extend(["-p".into(), port.to_string().into()]);
        }
        // The server has a shell of its own.
        let words: Vec<OsString> = words.iter().map(|word| quoted(OsStr::new(word))).collect();
        args.extend(["--".into(), destination.into(), words.join(OsStr::new(" "))]);
        Call {
            program: "sh",
            ..self.call(args)
        }
    }
}

/// One run of git, or of ssh as git runs it.
pub struct Call<'a> {
    git: &'a Git,
    program: &'static str,
    args: Vec<OsString>,
    repository: Option<PathBuf>,
    config: Vec<(String, String)>,
    environment: Vec<(&'static str, OsString)>,
    input: Vec<u8>,
}

impl Call<'_> {
    /// In the repository `path`, a directory as `.git` is one.
    pub fn inside(mut self, path: &Path) -> Self {
        self.repository = Some(path.to_owned());
        self
    }

    /// With these settings, which may be secret.
    pub fn with<'c>(mut self, config: impl IntoIterator<Item = &'c (String, String)>) -> Self {
        self.config.extend(config.into_iter().cloned());
        self
    }

    /// With one more variable.
    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// With these bytes on standard input.
    pub fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = bytes;
        self
    }

    /// Runs it and returns what it wrote to standard output.
    pub fn output(self) -> Result<Vec<u8>, Failure> {
        self.stream(|out| {
            let mut bytes = Vec::new();
            out.take(MAX_OUTPUT + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_OUTPUT {
                return Err(io::Error::other(format!("it wrote more than {MAX_OUTPUT} bytes")));
            }
            Ok(bytes)
        })?
        .map_err(Failure::Read)
    }

    /// Runs it while `read` reads what it writes to standard output. The outer result is git's, which is told first: when
    /// git fails, what `read` saw is worth nothing.
    pub fn stream<T, E>(
        self,
        read: impl FnOnce(&mut dyn Read) -> Result<T, E>,
    ) -> Result<Result<T, E>, Failure> {
        let mut child = self.spawn()?;
        let watch = Watch::over(&child, self.git.stall);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (result, messages) = std::thread::scope(|scope| {
            let messages = scope.spawn(|| stderr.map(|stderr| watch.messages(stderr)).unwrap_or_default());
            scope.spawn(|| {
                if let Some(mut stdin) = stdin {
                    // A git that has seen enough has closed it.
                    let _ = stdin.write_all(&self.input);
                }
            });
            scope.spawn(|| watch.run());
            let mut out = Lively {
                out: stdout,
                watch: &watch,
            };
            let result = read(&mut out);
            drop(out);
            let messages = messages.join().unwrap_or_default();
            watch.ended.store(true, Ordering::Relaxed);
            (result, messages)
        });
        let status = child.wait();
        watch.forget();
        let status = status.map_err(Failure::Read)?;
        if watch.stalled.load(Ordering::Relaxed) {
            return Err(Failure::Stalled(self.git.stall));
        }
        if status.success() {
            return Ok(result);
        }
        // A git that was left in the middle of its answer ends of that.
        match result {
            Err(error) if messages.is_empty() => Ok(Err(error)),
            _ => Err(Failure::Git { messages }),
        }
    }

    fn spawn(&self) -> Result<Child, Failure> {
        let mut command = Command::new(self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(self.git.environment.iter().map(|(name, value)| (name, value)))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.repository.as_deref().unwrap_or(Path::new("/")))
            .stdin(if self.input.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(agent) = self.git.agent.get() {
            command.env("SSH_AUTH_SOCK", agent);
        }
        if let Some(repository) = &self.repository {
            command.env("GIT_DIR", repository);
        }
        let closed = CLOSED.iter().copied();
        let own = self
            .config
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let mut count = 0;
        for (name, value) in closed.chain(own) {
            command.env(format!("GIT_CONFIG_KEY_{count}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        command.spawn().map_err(Failure::Start)
    }
}

/// Sees to it that git gets on.
struct Watch {
    group: Option<Pid>,
    stall: Duration,
    began: Instant,
    /// Milliseconds after `began` at which git last said something.
    last: AtomicU64,
    ended: AtomicBool,
    stalled: AtomicBool,
}

impl Watch {
    fn over(child: &Child, stall: Duration) -> Self {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.extend(group);
        Self {
            group,
            stall,
            began: Instant::now(),
            last: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
        }
    }

    fn alive(&self) {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    fn run(&self) {
        while !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            if self.began.elapsed().saturating_sub(last) > self.stall {
                self.stalled.store(true, Ordering::Relaxed);
                if let Some(group) = self.group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                return;
            }
        }
    }

    /// The end of what git writes to standard error.
    fn messages(&self, mut stderr: impl Read) -> String {
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(length) = stderr.read(&mut buffer) {
            if length == 0 {
                break;
            }
            self.alive();
            kept.extend_from_slice(&buffer[..length]);
            if kept.len() > 2 * MAX_MESSAGES {
                kept.drain(..kept.len() - MAX_MESSAGES);
            }
        }
        String::from_utf8_lossy(&kept).into_owned()
    }

    fn forget(&self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|group| Some(*group) != self.group);
    }
}

/// Standard output; every byte of it is a sign of life, and so is that it is waited for somewhere else.
struct Lively<'a> {
    out: Option<std::process::ChildStdout>,
    watch: &'a Watch,
}

impl Read for Lively<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.watch.alive();
        let length = self.out.as_mut().map_or(Ok(0), |out| out.read(buffer))?;
        self.watch.alive();
        Ok(length)
    }
}

/// ssh that asks nothing, trusts no key that it does not know and reads no configuration.
fn ssh_command(home: &OsStr) -> OsString {
    let mut command = OsString::from(
        "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes -o UpdateHostKeys=no \
         -o PermitLocalCommand=no -o ClearAllForwardings=yes -o ConnectTimeout=30 \
         -o ServerAliveInterval=15 -o ServerAliveCountMax=8",
    );
    if !home.is_empty() {
        let mut known = home.to_owned();
        known.push("/.ssh/known_hosts");
        let mut option = OsString::from("UserKnownHostsFile=\"");
        option.push(known);
        option.push("\"");
        command.push(" -o ");
        command.push(quoted(&option));
    }
    command
}

/// One word for a shell.
fn quoted(word: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut bytes = b"'".to_vec();
    for byte in word.as_bytes() {
        match byte {
            b'\'' => bytes.extend_from_slice(b"'\\''"),
            byte => bytes.push(*byte),
        }
    }
    bytes.push(b'\'');
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted(OsStr::new("a b'c")), OsString::from(r"'a b'\''c'"));
    }

    #[test]
    fn what_is_said_and_how_it_ends() {
        let git = Git::new(Duration::from_secs(300));
        let version = git.call(["version"]).output().unwrap();
        assert!(version.starts_with(b"git version"));
        let failed = git.call(["no-such-verb"]).output().unwrap_err();
        assert!(failed.to_string().contains("no-such-verb"), "{failed}");
        let echoed = git
            .call(["hash-object", "--stdin"])
            .input(b"hello".to_vec())
            .output()
            .unwrap();
        assert_eq!(echoed, b"b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0\n");
    }

    /// No variable of the caller and no file of the machine configures it.
    #[test]
    fn the_configuration_is_closed() {
        let listed = Git::new(Duration::from_secs(300))
            .call(["config", "--list", "--show-scope"])
            .output();
        let listed = String::from_utf8(listed.unwrap()).unwrap();
        assert_eq!(listed.lines().count(), CLOSED.len(), "{listed}");
        assert!(
            listed.lines().all(|line| line.starts_with("command\t")),
            "{listed}"
        );
    }

    #[test]
    fn a_git_that_says_nothing_is_ended() {
        let git = Git::new(Duration::from_millis(300));
        let began = Instant::now();
        let alias = [("alias.wait".to_owned(), "!sleep 60".to_owned())];
        let ended = git.call(["wait"]).with(&alias).output().unwrap_err();
        assert!(matches!(ended, Failure::Stalled(_)), "{ended}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
