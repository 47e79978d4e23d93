//! The door: entering the sandbox, and running steps in it.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::{Cancel, Error, ExecSpec, Exit, Isolation};

/// The process inside its namespaces, with the spawner beside it. Share it among threads.
#[derive(Debug)]
pub struct Executor {
    line: String,
}

impl Executor {
    /// Moves the calling process into the namespaces of `isolation`. It must have one thread.
    ///
    /// `scratch` is an existing, empty directory of this build on the file system of the layers; the
    /// executor keeps its stub layer there, and the caller removes it after the build. From here on
    /// file owners are those of the namespace: the process is uid 0 in it.
    pub fn enter(isolation: Isolation, scratch: &Path) -> Result<Executor, Error> {
        let _ = (isolation, scratch);
        Err(Error::Unavailable {
            reason: "this build of rbuild cannot run steps".to_owned(),
        })
    }

    /// Which isolation was taken and why, in one line.
    pub fn describe(&self) -> String {
        self.line.clone()
    }

    /// Runs one step to its end. Both descriptors become the step's output and are closed here at once.
    pub fn run(
        &self,
        spec: &ExecSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
        cancel: &Cancel,
    ) -> Result<Exit, Error> {
        let _ = (spec, stdout, stderr, cancel);
        Err(Error::Cancelled)
    }
}
