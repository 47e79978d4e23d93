//! What the command of `rbuild run` reads and writes: pipes, or a terminal of its own. It never holds this process' own
//! terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::solver::trial::Streams;

/// How often is it looked whether the window has another size.
const LOOK: Duration = Duration::from_millis(250);

/// Threads that hand on what is read and written.
#[derive(Debug)]
pub struct Relay {
    writers: Vec<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
    _raw: Option<Raw>,
}

/// Pipes: input only when `interactive`.
pub fn pipes(interactive: bool) -> io::Result<(Streams, Relay)> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (stdout, stdout_write) = pipe()?;
    let (stderr, stderr_write) = pipe()?;
    let writers = vec![
        std::thread::spawn(move || copy(File::from(stdout), &mut io::stdout())),
        std::thread::spawn(move || copy(File::from(stderr), &mut io::stderr())),
    ];
    let stdin = if interactive {
        let (read, write) = pipe()?;
        // It may wait for ever; the end of the program ends it.
        std::thread::spawn(move || copy(io::stdin(), &mut File::from(write)));
        Some(read)
    } else {
        None
    };
    let streams = Streams {
        stdin,
        stdout: stdout_write,
        stderr: stderr_write,
    };
    let relay = Relay {
        writers,
        ended: Arc::default(),
        _raw: None,
    };
    Ok((streams, relay))
}

/// A terminal of the command's own, which looks and behaves as this process' one.
pub fn terminal(interactive: bool) -> io::Result<(Streams, Relay)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    let ended = Arc::new(AtomicBool::new(false));
    let mut raw = None;
    if let Ok(size) = tcgetwinsize(io::stdout()) {
        tcsetwinsize(&ours, size)?;
        let (window, ended) = (ours.try_clone()?, Arc::clone(&ended));
        std::thread::spawn(move || follow_size(&window, size, &ended));
    }
    if interactive {
        if let Ok(before) = tcgetattr(io::stdin()) {
            raw = Some(Raw::enter(before)?);
        }
        let mut input = File::from(ours.try_clone()?);
        // It may wait for ever; the end of the program ends it.
        std::thread::spawn(move || {
            copy(io::stdin(), &mut input);
            // What a terminal has for the end of the input.
            let _ = input.write_all(&[4]);
        });
    }
    let writers = vec![std::thread::spawn(move || {
        copy(File::from(ours), &mut io::stdout());
    })];
    let streams = Streams {
        stdin: Some(theirs.try_clone()?),
        stdout: theirs.try_clone()?,
        stderr: theirs,
    };
    let relay = Relay {
        writers,
        ended,
        _raw: raw,
    };
    Ok((streams, relay))
}

impl Relay {
    /// Waits until all that the command wrote is out, and gives the terminal back.
    pub fn finish(self) {
        for writer in self.writers {
            let _ = writer.join();
        }
        self.ended.store(true, Ordering::Relaxed);
        restore();
    }
}

fn copy(mut from: impl Read, to: &mut impl Write) {
    let mut buffer = [0; 16 * 1024];
    // The end of a terminal whose last user is gone is an error; who does not read any more ends it, too.
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn follow_size(window: &OwnedFd, mut size: rustix::termios::Winsize, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        if let Ok(now) = tcgetwinsize(io::stdout())
            && (now.ws_row, now.ws_col) != (size.ws_row, size.ws_col)
            && tcsetwinsize(window.as_fd(), now).is_ok()
        {
            size = now;
        }
    }
}

/// What the terminal was like: also who ends the program elsewhere gives it back.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Gives the terminal back as it was.
pub fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // Nobody is left to be told.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}

/// While it lives, every key goes to the command.
#[derive(Debug)]
struct Raw;

impl Raw {
    fn enter(before: Termios) -> io::Result<Self> {
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        Ok(Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}
