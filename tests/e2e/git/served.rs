//! Repositories, and servers for them: `git http-backend` behind a small web server, and sshd.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

use crate::env::Env;

/// A folder of repositories that everybody may read.
pub struct Repositories(TempDir);

impl Repositories {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("rbuild-git-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs git in a repository and returns what it says.
    pub fn git(&self, name: &str, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.path(name)).args(args).env_clear();
        git.env("PATH", std::env::var_os("PATH").unwrap())
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "x")
                .env(format!("GIT_{who}_EMAIL"), "x@x")
                .env(format!("GIT_{who}_DATE"), "1000000000 +0000");
        }
        let output = git.output().unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A repository with these files; its first commit.
    pub fn make(&self, name: &str, files: &[(&str, &str)]) -> String {
        fs::create_dir_all(self.path(name)).unwrap();
        self.git(name, &["init", "-q", "-b", "main"]);
        self.git(name, &["config", "uploadpack.allowFilter", "true"]);
        self.commit(name, files)
    }

    /// One more commit.
    pub fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        for (file, text) in files {
            let path = self.path(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.git(name, &["add", "-A"]);
        self.git(name, &["commit", "-q", "-m", "x"]);
        self.git(name, &["rev-parse", "HEAD"])
    }
}

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub authorization: Option<String>,
    /// Bytes that it was sent.
    pub sent: usize,
}

/// What is done with a request instead of serving the repository: a status and headers, and a body behind a blank line.
type Instead = dyn Fn(&Asked) -> Option<(u16, String)> + Send + Sync;

/// Smart HTTP for a folder of repositories.
pub struct WebServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    pub fn start(
        root: &Path,
        instead: impl Fn(&Asked) -> Option<(u16, String)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, stop) = (
            Arc::<Mutex<Vec<Asked>>>::default(),
            Arc::new(AtomicBool::new(false)),
        );
        let (log, stopped, root) = (Arc::clone(&asked), Arc::clone(&stop), root.to_owned());
        let instead: Arc<Instead> = Arc::new(instead);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (log, root, instead) = (Arc::clone(&log), root.clone(), Arc::clone(&instead));
                std::thread::spawn(move || {
                    let _ = stream.and_then(|stream| serve(&stream, &root, &log, &*instead));
                });
            }
        });
        Self {
            address,
            asked,
            stop,
            thread: Some(thread),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// All that was asked for since the last call.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request of a connection, which is then closed.
fn serve(stream: &TcpStream, root: &Path, log: &Mutex<Vec<Asked>>, instead: &Instead) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![
        0;
        headers
            .get("content-length")
            .map_or(0, |length| length.parse().unwrap())
    ];
    reader.read_exact(&mut body)?;
    let mut asked = Asked {
        path: target.to_owned(),
        authorization: headers.get("authorization").cloned(),
        sent: 0,
    };
    let answer = match instead(&asked) {
        Some((status, answer)) if answer.contains("\r\n\r\n") => {
            format!("Status: {status} x\r\n{answer}").into_bytes()
        }
        Some((status, headers)) => format!("Status: {status} x\r\n{headers}\r\n").into_bytes(),
        None => backend(root, method, target, &headers, &body),
    };
    let split = answer.windows(4).position(|at| at == b"\r\n\r\n").unwrap_or(0);
    let (head, content) = (
        String::from_utf8_lossy(&answer[..split]),
        &answer[(split + 4).min(answer.len())..],
    );
    asked.sent = content.len();
    log.lock().unwrap().push(asked);
    let mut status = "200 OK";
    let mut out = String::new();
    for line in head.lines() {
        match line.strip_prefix("Status: ") {
            Some(other) => status = other,
            None => out.push_str(&format!("{line}\r\n")),
        }
    }
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{out}\r\n",
        content.len()
    )?;
    stream.write_all(content)
}

/// What `git http-backend` answers, with CGI's headers.
fn backend(
    root: &Path,
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    body: &[u8],
) -> Vec<u8> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut stdin, body) = (child.stdin.take().unwrap(), body.to_vec());
    let writer = std::thread::spawn(move || drop(stdin.write_all(&body)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

/// sshd on a free loopback port, run by an ordinary user, whom one key lets in.
pub struct SshServer {
    daemon: Child,
    agent: Child,
    pub port: u16,
    /// Who may log in.
    pub user: String,
    /// Its socket.
    pub agent_socket: PathBuf,
    /// The line of `known_hosts`.
    pub host_key: String,
    log: PathBuf,
}

impl SshServer {
    /// `None`, with a note, where there is none.
    pub fn start(env: &Env) -> Option<Self> {
        let sshd = Path::new("/usr/sbin/sshd");
        if !sshd.exists() {
            eprintln!("skipped: sshd is not installed (package openssh-server)");
            return None;
        }
        if env.is_root() {
            eprintln!("skipped as root: sshd is run by an ordinary user");
            return None;
        }
        let run = |program: &str, args: &[&str]| {
            let output = env.command(program).args(args).output().unwrap();
            assert!(
                output.status.success(),
                "{program}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let (host, key) = (env.path("host_key"), env.path("login_key"));
        for file in [&host, &key] {
            run(
                "ssh-keygen",
                &["-q", "-t", "ed25519", "-N", "", "-f", file.to_str().unwrap()],
            );
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = env.write(
            "sshd_config",
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\n\
                 UsePAM no\nPidFile none\nLogLevel VERBOSE\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
                 SetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=* PATH={}:/usr/bin:/bin\n",
                host.display(),
                key.display(),
                env.path("served").display()
            ),
        );
        let daemon = env
            .command(sshd)
            .args([
                "-D",
                "-E",
                env.path("sshd.log").to_str().unwrap(),
                "-f",
                config.to_str().unwrap(),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent_socket = env.path("agent");
        let agent = env
            .command("ssh-agent")
            .args(["-D", "-a", agent_socket.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() || !agent_socket.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let added = env
            .command("ssh-add")
            .arg("-q")
            .arg(&key)
            .env("SSH_AUTH_SOCK", &agent_socket)
            .status();
        assert!(added.unwrap().success());
        let public = fs::read_to_string(host.with_extension("pub")).unwrap();
        Some(Self {
            daemon,
            agent,
            port,
            user: run("id", &["-un"]),
            agent_socket,
            host_key: format!("[127.0.0.1]:{port} {public}"),
            log: env.path("sshd.log"),
        })
    }
}

impl SshServer {
    /// How many commands were run there.
    pub fn commands(&self) -> usize {
        fs::read_to_string(&self.log)
            .unwrap()
            .matches("Starting session: command")
            .count()
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.agent] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
