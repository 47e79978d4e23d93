//! What does `docker-credential-NAME` say? A program that is believed only when it ends well, soon and with an answer.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::credentials::{CredentialError, Login};

const OUTPUT_LIMIT: u64 = 1 << 20;
/// A helper may ask its user something.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// `docker-credential-NAME get`; `None` when the helper says that it has none.
pub(super) fn ask_helper(
    name: &str,
    server: &str,
    programs: Option<&OsString>,
    timeout: Duration,
) -> Result<Option<Login>, CredentialError> {
    let (status, text) = call_helper(name, "get", server, server, programs, timeout)?;
    let fail = |reason: String| helper_error(name, server, reason);
    if !status.success() {
        let said = String::from_utf8_lossy(&text).to_lowercase();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(fail(format!("it ended with {status}")));
    }
    let parsed: HelperAnswer =
        serde_json::from_slice(&text).map_err(|_| fail("its answer cannot be understood".to_owned()))?;
    Ok(match parsed {
        HelperAnswer { secret, .. } if secret.is_empty() => None,
        HelperAnswer { username, secret } if username == "<token>" => Some(Login::Identity(secret)),
        HelperAnswer { username, secret } => Some(Login::Password {
            user: username,
            password: secret,
        }),
    })
}

/// `docker-credential-NAME store` or `erase`, with what it reads.
pub(super) fn run_helper(
    name: &str,
    verb: &str,
    input: &str,
    programs: Option<&OsString>,
) -> Result<(), CredentialError> {
    let (status, _) = call_helper(name, verb, input, verb, programs, TIMEOUT)?;
    if status.success() {
        return Ok(());
    }
    Err(helper_error(name, verb, format!("it ended with {status}")))
}

fn helper_error(name: &str, about: &str, reason: String) -> CredentialError {
    CredentialError::Helper {
        helper: format!("docker-credential-{name}"),
        host: about.to_owned(),
        reason,
    }
}

/// How a helper ended and what it said. `about` is for errors.
fn call_helper(
    name: &str,
    verb: &str,
    input: &str,
    about: &str,
    programs: Option<&OsString>,
    timeout: Duration,
) -> Result<(std::process::ExitStatus, Vec<u8>), CredentialError> {
    let fail = |reason: String| helper_error(name, about, reason);
    if name.is_empty()
        || !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    {
        return Err(fail("its name is not allowed".to_owned()));
    }
    // The answer goes to memory, not through a pipe: no thread is needed to read it in time.
    let memory = rustix::fs::memfd_create("credentials", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|e| fail(e.to_string()))?;
    let mut answer = File::from(memory);
    let output = answer.try_clone().map_err(|e| fail(e.to_string()))?;
    let mut command = Command::new(format!("docker-credential-{name}"));
    // A group of its own, so that all of it can be ended.
    command
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::null())
        .process_group(0);
    if let Some(path) = programs {
        command.env("PATH", path);
    }
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => fail("it is not installed".to_owned()),
        _ => fail(e.to_string()),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input shows it by its answer.
        let _ = stdin.write_all(input.as_bytes());
    }
    let status = await_helper(&mut child, &answer, timeout).map_err(fail)?;
    let mut text = Vec::new();
    answer
        .rewind()
        .and_then(|()| answer.read_to_end(&mut text))
        .map_err(|e| fail(e.to_string()))?;
    Ok((status, text))
}

fn await_helper(
    child: &mut Child,
    answer: &File,
    timeout: Duration,
) -> Result<std::process::ExitStatus, String> {
    let begun = Instant::now();
    let reason = loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(e) => break e.to_string(),
        }
        if begun.elapsed() > timeout {
            break format!("it gave no answer within {} s", timeout.as_secs());
        }
        if answer.metadata().is_ok_and(|meta| meta.len() > OUTPUT_LIMIT) {
            break "its answer is too long".to_owned();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
    Err(reason)
}
