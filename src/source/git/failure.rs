//! How git fails, in words that say what to do about it.

use std::io;
use std::time::Duration;

use crate::error::BuildError;

/// Why a run of git came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be started.
    #[error("{}", match .0.kind() {
        io::ErrorKind::NotFound => "git is not installed".to_owned(),
        _ => format!("git cannot be started: {}", .0),
    })]
    Start(io::Error),
    /// What it wrote could not be read.
    #[error("reading what git says: {0}")]
    Read(io::Error),
    /// It said nothing for too long.
    #[error("the server sent nothing for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// A redirect leads where we do not go.
    #[error("{0}")]
    Redirect(String),
    /// It said why.
    #[error("{}", told(.messages))]
    Git {
        /// Standard error.
        messages: String,
    },
}

impl Failure {
    /// Whether git's messages hold `text`.
    pub fn says(&self, text: &str) -> bool {
        matches!(self, Self::Git { messages } if messages.contains(text))
    }

    /// What git wrote to standard error.
    pub fn messages(&self) -> &str {
        match self {
            Self::Git { messages } => messages,
            _ => "",
        }
    }

    /// As the failure of a build, with a remedy where there is one. `host` is the server's.
    pub fn with_remedy(self, host: &str) -> BuildError {
        let hint = self.remedy(host);
        BuildError::new(self).hint(hint)
    }

    fn remedy(&self, host: &str) -> Option<String> {
        let any = |texts: &[&str]| texts.iter().any(|text| self.says(text));
        if matches!(self, Self::Start(error) if error.kind() == io::ErrorKind::NotFound) {
            return Some(
                "install the package git, or give the files as a directory or an archive".to_owned(),
            );
        }
        if any(&["ssh: not found", "cannot run ssh"]) {
            return Some("install the package openssh-client".to_owned());
        }
        if any(&["Host key verification failed", "host key is known"]) {
            return Some(format!(
                "the host key of {host} is not the one in ~/.ssh/known_hosts: compare what `ssh-keyscan {host}` prints \
                 with what its owner publishes, and add it there"
            ));
        }
        if any(&["Permission denied (", "Permission denied, "]) {
            return Some("add a key that the server knows to the ssh agent (ssh-add), or give it with --ssh default=KEY".to_owned());
        }
        if any(&[
            "could not read Username",
            "Authentication failed",
            "error: 401",
            "error: 403",
        ]) {
            return Some(format!(
                "give a token: GIT_AUTH_TOKEN=... rbuild --secret id=GIT_AUTH_TOKEN.{host},env=GIT_AUTH_TOKEN"
            ));
        }
        if any(&["certificate"]) {
            return Some("name the certificate authority's file in SSL_CERT_FILE".to_owned());
        }
        None
    }
}

/// The lines that say why, in one: git's own errors, else the last line there is.
fn told(messages: &str) -> String {
    let lines: Vec<&str> = messages
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let wanted = |line: &&&str| {
        [
            "fatal: ", "error: ", "ERROR: ", "remote: ", "ssh: ", "Host key", "No ",
        ]
        .iter()
        .any(|start| line.starts_with(start))
            || line.contains("ermission denied")
            || line.contains("host key")
    };
    let progress = |line: &&&str| line.starts_with("remote: ") && line.contains("%");
    let mut told: Vec<&str> = lines
        .iter()
        .filter(|line| wanted(line) && !progress(line))
        .copied()
        .collect();
    if told.is_empty() {
        told.extend(lines.last());
    }
    told.dedup();
    let text = told
        .iter()
        .rev()
        .take(4)
        .rev()
        .copied()
        .collect::<Vec<_>>()
        .join("; ");
    if text.is_empty() {
        return "git failed and did not say why".to_owned();
    }
    // What a server sends may be meant for the terminal.
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(messages: &str) -> Failure {
        Failure::Git {
            messages: messages.to_owned(),
        }
    }

    #[test]
    fn messages_become_one_line() {
        for (messages, told) in [
            ("Cloning\nfatal: no\n", "fatal: no"),
            (
                "remote: Counting: 10% (1/10)\rremote: Denied\x1b[31m\nfatal: x",
                "remote: Denied?[31m; fatal: x",
            ),
            ("odd\n", "odd"),
            ("", "git failed and did not say why"),
        ] {
            assert_eq!(git(messages).to_string(), told);
        }
    }

    #[test]
    fn remedies_name_the_knob() {
        for (failure, remedy) in [
            (git("Host key verification failed."), "known_hosts"),
            (
                git("fatal: could not read Username for 'https://h'"),
                "GIT_AUTH_TOKEN.h",
            ),
            (
                git("fatal: unable to access 'x': The requested URL returned error: 403"),
                "--secret",
            ),
            (git("git@h: Permission denied (publickey)."), "agent"),
            (
                git("error: cannot run ssh: No such file or directory"),
                "openssh-client",
            ),
            (Failure::Start(io::ErrorKind::NotFound.into()), "package git"),
        ] {
            let hint = failure.with_remedy("h").hint.unwrap_or_default();
            assert!(hint.contains(remedy), "{hint}");
        }
        assert!(git("fatal: odd").with_remedy("h").hint.is_none());
    }
}
