//! Ssh agents of the caller (`--ssh`), for steps that ask for one.
//!
//! A step never gets the agent's own socket: it gets one of this process, which passes on what lists keys and what
//! signs, and refuses all that would change the agent. Keys given as files are held by an `ssh-agent` that is
//! started for the build and ends with it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead as _, Read, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use rbuild_cache::{Store, TempDir};
use rustix::fs::{Mode, OFlags};

/// The name of a socket in its directory.
const SOCKET: &str = "agent";
/// The longest message of the protocol (OpenSSH's own limit).
const MOST_BYTES: u32 = 256 * 1024;
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;

/// A value of `--ssh`: `ID`, `ID=SOCKET` or `ID=KEY[,KEY]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSource {
    id: String,
    paths: Vec<PathBuf>,
}

/// A value of `--ssh` that names no agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid ssh agent {0:?}: expected default, ID, ID=SOCKET or ID=KEY[,KEY]")]
pub struct AgentError(String);

impl FromStr for AgentSource {
    type Err = AgentError;

    fn from_str(text: &str) -> Result<Self, AgentError> {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        if id.is_empty() {
            return Err(AgentError(text.to_owned()));
        }
        let paths = paths.split(',').filter(|path| !path.is_empty());
        Ok(Self {
            id: id.to_owned(),
            paths: paths.map(PathBuf::from).collect(),
        })
    }
}

/// The agents of a build by id.
#[derive(Debug, Default)]
pub struct Agents(BTreeMap<String, Agent>);

#[derive(Debug)]
enum Agent {
    /// Somebody else's.
    Running(PathBuf),
    /// Ours, started when the first step asks.
    Keys {
        files: Vec<PathBuf>,
        started: Mutex<Option<OwnAgent>>,
    },
}

impl Agents {
    /// Finds out what each value means. Nothing is started.
    pub fn find(sources: &[AgentSource]) -> anyhow::Result<Self> {
        let mut agents = BTreeMap::new();
        for AgentSource { id, paths } in sources {
            let agent = match paths.as_slice() {
                [] => match std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()) {
                    Some(path) => Agent::Running(path.into()),
                    None => bail!(
                        "invalid empty ssh agent socket for {id:?}: make sure SSH_AUTH_SOCK is set, or give --ssh {id}=KEY"
                    ),
                },
                [path] if is_socket(path)? => Agent::Running(path.clone()),
                paths => {
                    for path in paths {
                        if is_socket(path)? {
                            bail!("--ssh {id}: an agent's socket cannot be combined with keys");
                        }
                    }
                    let absolute = paths.iter().map(std::path::absolute);
                    Agent::Keys {
                        files: absolute.collect::<io::Result<_>>()?,
                        started: Mutex::default(),
                    }
                }
            };
            if agents.insert(id.clone(), agent).is_some() {
                bail!("--ssh {id} is given twice");
            }
        }
        Ok(Self(agents))
    }

    /// Files with keys, by the id of the agent.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0.iter().flat_map(|(id, agent)| {
            let files: &[PathBuf] = match agent {
                Agent::Running(_) => &[],
                Agent::Keys { files, .. } => files,
            };
            files.iter().map(move |file| (id.as_str(), file.as_path()))
        })
    }

    /// A socket that leads to the agent of this id, as long as the result lives; `None` when there is
    /// no such agent.
    pub fn forward(&self, id: &str, store: &Store) -> anyhow::Result<Option<Forwarded>> {
        self.socket(id, store)?
            .map(|agent| Forwarded::start(agent, store))
            .transpose()
    }

    /// The socket of an agent for programs that this one runs, as they find it; `None` when there is no such agent.
    pub fn for_program(&self, id: &str, store: &Store) -> anyhow::Result<Option<PathBuf>> {
        let of_child = |path: PathBuf| match path.strip_prefix("/proc/self") {
            Ok(rest) => Path::new("/proc").join(std::process::id().to_string()).join(rest),
            Err(_) => path,
        };
        Ok(self.socket(id, store)?.map(of_child))
    }

    /// The socket of the agent itself, which is started if it is ours.
    fn socket(&self, id: &str, store: &Store) -> anyhow::Result<Option<PathBuf>> {
        let agent = match self.0.get(id) {
            None => return Ok(None),
            Some(Agent::Running(path)) => path.clone(),
            Some(Agent::Keys { files, started }) => {
                let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
                let own = match started.take() {
                    Some(own) => own,
                    None => OwnAgent::start(files, store)?,
                };
                started.insert(own).socket()
            }
        };
        // Told now, and not as a strange failure inside of the step.
        UnixStream::connect(&agent)
            .with_context(|| format!("connecting to the ssh agent {}", agent.display()))?;
        Ok(Some(agent))
    }
}

fn is_socket(path: &Path) -> anyhow::Result<bool> {
    let metadata = path
        .metadata()
        .with_context(|| format!("--ssh: opening {}", path.display()))?;
    if metadata.is_dir() {
        bail!("--ssh: {} is a directory", path.display());
    }
    Ok(metadata.file_type().is_socket())
}

/// A directory under a name that is short enough for a socket's address.
struct Place {
    directory: TempDir,
    opened: OwnedFd,
}

impl Place {
    fn new(store: &Store) -> anyhow::Result<Self> {
        let directory = store.temp_dir()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory.path(), flags, Mode::empty())?;
        Ok(Self { directory, opened })
    }

    fn address(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.opened.as_raw_fd()))
    }
}

/// An `ssh-agent` of this build.
struct OwnAgent {
    /// The agent lives as long as this command, which lives as long as its standard input is open.
    anchor: Child,
    agent: Option<rustix::process::Pid>,
    place: Place,
}

impl fmt::Debug for OwnAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnAgent")
    }
}

impl OwnAgent {
    fn start(keys: &[PathBuf], store: &Store) -> anyhow::Result<Self> {
        let missing = "keys for --ssh are held by ssh-agent, which is part of OpenSSH's client: install that, or give the \
                       socket of an agent";
        let place = Place::new(store)?;
        let directory = place.directory.path();
        let mut anchor = Command::new("ssh-agent")
            .args(["-a", SOCKET, "sh", "-c", "echo \"$SSH_AGENT_PID\"; exec cat"])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context(missing)?;
        let mut line = String::new();
        if let Some(output) = anchor.stdout.take() {
            io::BufReader::new(output).read_line(&mut line)?;
        }
        let agent = line.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        let own = Self { anchor, agent, place };
        if own.agent.is_none() {
            bail!("starting ssh-agent: it did not say that it runs");
        }
        for key in keys {
            let added = Command::new("ssh-add")
                .args(["-q", "--"])
                .arg(key)
                .current_dir(own.place.directory.path())
                .env("SSH_AUTH_SOCK", SOCKET)
                .env("SSH_ASKPASS_REQUIRE", "never")
                .stdin(Stdio::null())
                .output()
                .context(missing)?;
            if !added.status.success() {
                let said = String::from_utf8_lossy(&added.stderr);
                let said = said.trim();
                bail!(
                    "--ssh: the key {} cannot be used without being asked for a passphrase, or at all: {said}",
                    key.display()
                );
            }
        }
        Ok(own)
    }

    fn socket(&self) -> PathBuf {
        self.place.address()
    }
}

impl Drop for OwnAgent {
    fn drop(&mut self) {
        drop(self.anchor.stdin.take());
        if let Some(agent) = self.agent {
            // It would notice by itself, but only after seconds.
            let _ = rustix::process::kill_process(agent, rustix::process::Signal::TERM);
        }
        let _ = self.anchor.wait();
    }
}

/// A socket for one step.
pub struct Forwarded {
    place: Place,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forwarded").field(&self.path()).finish()
    }
}

impl Forwarded {
    fn start(agent: PathBuf, store: &Store) -> anyhow::Result<Self> {
        let place = Place::new(store)?;
        let listener = UnixListener::bind(place.address()).context("making a socket for an ssh agent")?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if seen.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(client) = client else { continue };
                let agent = agent.clone();
                // It ends when the step closes its side, at the latest with the step.
                std::thread::spawn(move || {
                    if let Ok(server) = UnixStream::connect(&agent) {
                        // Whichever side is gone, the other notices.
                        let _ = pass_on(&client, &server);
                    }
                });
            }
        });
        Ok(Self {
            place,
            ended,
            thread: Some(thread),
        })
    }

    /// Where the socket is.
    pub fn path(&self) -> PathBuf {
        self.place.directory.path().join(SOCKET)
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread up.
        if UnixStream::connect(self.place.address()).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// Passes requests to the agent and answers back, one after the other.
fn pass_on(mut client: impl Read + Write, mut server: impl Read + Write) -> io::Result<()> {
    loop {
        let request = message(&mut client)?;
        let answer = match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                send(&mut server, &request)?;
                message(&mut server)?
            }
            _ => vec![FAILURE],
        };
        send(&mut client, &answer)?;
    }
}

fn message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    from.read_exact(&mut message)?;
    Ok(message)
}

fn send(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    to.write_all(&[&length.to_be_bytes()[..], message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_name_an_agent_or_keys() {
        let source = |id: &str, paths: &[&str]| {
            Ok(AgentSource {
                id: id.to_owned(),
                paths: paths.iter().map(PathBuf::from).collect(),
            })
        };
        assert_eq!("default".parse(), source("default", &[]));
        assert_eq!("a=/s".parse(), source("a", &["/s"]));
        assert_eq!("a=k1,k2".parse(), source("a", &["k1", "k2"]));
        for bad in ["", "=x"] {
            assert_eq!(bad.parse::<AgentSource>(), Err(AgentError(bad.to_owned())));
        }
    }

    #[test]
    fn only_lists_and_signatures_pass() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let socket = directory.path().join("real");
        let real = UnixListener::bind(&socket).unwrap();
        // An agent that answers every request with the request, and says how many came.
        let agent = std::thread::spawn(move || {
            let mut seen = Vec::new();
            // The first connection only asks whether somebody is there.
            drop(real.accept().unwrap());
            let (mut client, _) = real.accept().unwrap();
            while let Ok(request) = message(&mut client) {
                seen.push(request[0]);
                send(&mut client, &request).unwrap();
            }
            seen
        });
        let source = format!("x={}", socket.display()).parse().unwrap();
        let agents = Agents::find(&[source]).unwrap();
        assert!(agents.forward("y", &store).unwrap().is_none());
        let forwarded = agents.forward("x", &store).unwrap().unwrap();
        let mut step = UnixStream::connect(forwarded.path()).unwrap();
        let add_identity = 17;
        let remove_all = 19;
        let extension = 27;
        for kind in [
            add_identity,
            REQUEST_IDENTITIES,
            remove_all,
            SIGN_REQUEST,
            extension,
        ] {
            send(&mut step, &[kind, 1, 2]).unwrap();
            let passes = matches!(kind, REQUEST_IDENTITIES | SIGN_REQUEST);
            let expected = if passes { vec![kind, 1, 2] } else { vec![FAILURE] };
            assert_eq!(message(&mut step).unwrap(), expected, "{kind}");
        }
        // One that never ends is cut off.
        step.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(message(&mut step).is_err());
        drop(step);
        drop(forwarded);
        assert_eq!(agent.join().unwrap(), [REQUEST_IDENTITIES, SIGN_REQUEST]);
    }
}
