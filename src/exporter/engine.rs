//! Other programs of this machine that keep and run images: a docker daemon, podman, containerd. `--load` puts an image there,
//! as a docker archive that is never written to a file.
//!
//! A program is started before the build and fed after it: once the build has entered its user namespace, what it starts
//! would look for its own storage in there.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

use super::archive::is_broken_pipe;
use crate::registry::Registry;

/// The most of what a program said that is shown.
const SAID_LIMIT: u64 = 8 << 10;

/// Where `--load` goes.
#[derive(Debug)]
pub enum Engine {
    /// A daemon with docker's API at this socket.
    Daemon(PathBuf),
    /// A program that reads an archive.
    Program(RefCell<Program>),
}

/// A program that waits for an archive on its standard input.
#[derive(Debug)]
pub struct Program {
    line: String,
    child: Child,
    said: File,
}

impl Engine {
    /// Starts `program`, which reads an archive from its standard input.
    pub fn start(program: &str, args: &[&str]) -> anyhow::Result<Self> {
        let line = format!("{program} {}", args.join(" "));
        let starting = || format!("starting `{line}`");
        let said = tempfile::tempfile().with_context(starting)?;
        let out = |file: &File| file.try_clone().map(Stdio::from);
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(out(&said).with_context(starting)?)
            .stderr(out(&said).with_context(starting)?)
            .spawn()
            .with_context(starting)?;
        Ok(Self::Program(RefCell::new(Program { line, child, said })))
    }

    /// Loads what `write` writes; what the other side said of it.
    pub fn load(
        &self,
        registry: &Registry,
        write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
    ) -> anyhow::Result<String> {
        match self {
            Self::Daemon(socket) => {
                let mut loading = registry.load_into_daemon(socket)?;
                write(&mut loading)?;
                Ok(loading.finish()?)
            }
            Self::Program(program) => program.borrow_mut().load(write),
        }
    }

    /// Its name, for messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Daemon(socket) => format!("the daemon at {}", socket.display()),
            Self::Program(program) => format!("`{}`", program.borrow().line),
        }
    }
}

impl Program {
    fn load(&mut self, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<String> {
        let Some(input) = self.child.stdin.take() else {
            bail!("`{}` has had its archive", self.line);
        };
        let mut input = BufWriter::with_capacity(128 << 10, input);
        let written = write(&mut input).and_then(|()| Ok(input.flush()?));
        drop(input);
        // One that ended early has said why, which is worth more than that its pipe is closed.
        if let Err(error) = written
            && !is_broken_pipe(&error)
        {
            return Err(error);
        }
        let status = self
            .child
            .wait()
            .with_context(|| format!("waiting for `{}`", self.line))?;
        let said = self.said()?;
        if !status.success() {
            bail!("`{}` failed ({status}): {}", self.line, said.trim());
        }
        Ok(said)
    }

    /// The end of what it has said.
    fn said(&mut self) -> anyhow::Result<String> {
        let reading = || format!("reading what `{}` said", self.line);
        let length = self.said.seek(SeekFrom::End(0)).with_context(reading)?;
        let from = SeekFrom::Start(length.saturating_sub(SAID_LIMIT));
        let mut text = Vec::new();
        self.said.seek(from).with_context(reading)?;
        (&self.said)
            .take(SAID_LIMIT)
            .read_to_end(&mut text)
            .with_context(reading)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has nothing to load any more. Both fail for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
