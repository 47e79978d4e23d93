//! Bytes on their way from one thread to others: bounded, in large pieces that are used again.

use std::io::{self, Read, Write};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sha2::Digest as _;

use crate::digest::Digest;

/// Size of a piece.
pub(super) const PIECE: usize = 256 << 10;
/// Pieces between two threads: enough that neither waits for the other's every step.
pub(super) const DEPTH: usize = 8;

/// Memory of pieces that nobody reads any more. Fresh pages cost more than what is done with them.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// A piece of [`PIECE`] bytes with any content.
    pub fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| vec![0; PIECE])
    }

    /// `length` bytes of `buffer`, to be shared.
    pub fn share(&self, buffer: Vec<u8>, length: usize) -> Piece {
        Piece(Arc::new(Shared {
            length: length.min(buffer.len()),
            buffer,
            pool: self.clone(),
        }))
    }
}

/// Bytes that several threads may read; their memory goes back to the pool.
#[derive(Debug, Clone)]
pub(super) struct Piece(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    buffer: Vec<u8>,
    length: usize,
    pool: Pool,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.buffer[..self.0.length]
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.len() < PIECE {
            return;
        }
        self.pool
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(buffer);
    }
}

/// A bounded channel of pieces.
pub(super) fn pieces() -> (SyncSender<Piece>, PieceReader) {
    let (sender, receiver) = sync_channel(DEPTH);
    (
        sender,
        PieceReader {
            receiver,
            current: None,
            position: 0,
        },
    )
}

/// Reads what another thread sends; the end is where that thread drops its sender.
#[derive(Debug)]
pub(super) struct PieceReader {
    receiver: Receiver<Piece>,
    current: Option<Piece>,
    position: usize,
}

impl PieceReader {
    /// The next whole piece.
    pub fn next_piece(&mut self) -> Option<Piece> {
        self.receiver.recv().ok()
    }
}

impl Read for PieceReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(piece) = &self.current
                && self.position < piece.len()
            {
                let length = out.len().min(piece.len() - self.position);
                out[..length].copy_from_slice(&piece[self.position..self.position + length]);
                self.position += length;
                return Ok(length);
            }
            self.position = 0;
            self.current = self.next_piece();
            if self.current.is_none() {
                return Ok(0);
            }
        }
    }
}

/// Hands what is written to a writer that has a thread of its own, if it is more than one piece.
#[derive(Debug)]
pub(super) struct ThreadWriter<W> {
    state: State<W>,
    pool: Pool,
}

#[derive(Debug)]
enum State<W> {
    /// Nothing, or one piece that may be the only one.
    Small(W, Option<Piece>),
    Running(SyncSender<Piece>, JoinHandle<io::Result<W>>),
    Ended,
}

impl<W: Write + Send + 'static> ThreadWriter<W> {
    /// Starts no thread yet.
    pub fn new(out: W) -> Self {
        Self {
            state: State::Small(out, None),
            pool: Pool::default(),
        }
    }

    /// Waits until everything was written.
    pub fn finish(mut self) -> io::Result<W> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Small(mut out, piece) => {
                if let Some(piece) = piece {
                    out.write_all(&piece)?;
                }
                out.flush()?;
                Ok(out)
            }
            State::Running(sender, thread) => join(sender, thread),
            State::Ended => Err(gone()),
        }
    }

    fn start(mut out: W, first: &Piece) -> io::Result<State<W>> {
        let (sender, mut pieces) = pieces();
        let thread = std::thread::Builder::new()
            .name("layer writer".to_owned())
            .spawn(move || {
                while let Some(piece) = pieces.next_piece() {
                    out.write_all(&piece)?;
                }
                out.flush()?;
                Ok(out)
            })?;
        // A thread that has ended is found out by the next piece.
        let _ = sender.send(first.clone());
        Ok(State::Running(sender, thread))
    }
}

fn join<W>(sender: SyncSender<Piece>, thread: JoinHandle<io::Result<W>>) -> io::Result<W> {
    drop(sender);
    thread.join().unwrap_or_else(|_| Err(gone()))
}

fn gone() -> io::Error {
    io::Error::other("the writing thread is gone")
}

impl<W: Write + Send + 'static> Write for ThreadWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE);
        let buffer = match self.state {
            // May be all there is.
            State::Small(_, None) => bytes[..length].to_vec(),
            _ => {
                let mut buffer = self.pool.take();
                buffer[..length].copy_from_slice(&bytes[..length]);
                buffer
            }
        };
        let piece = self.pool.share(buffer, length);
        self.state = match std::mem::replace(&mut self.state, State::Ended) {
            State::Small(out, None) => {
                self.state = State::Small(out, Some(piece));
                return Ok(length);
            }
            State::Small(out, Some(first)) => Self::start(out, &first)?,
            running => running,
        };
        if let State::Running(sender, _) = &self.state
            && sender.send(piece).is_ok()
        {
            return Ok(length);
        }
        // The thread ended before its time: it knows why.
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Running(sender, thread) => Err(join(sender, thread).err().unwrap_or_else(gone)),
            _ => Err(gone()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W> Drop for ThreadWriter<W> {
    fn drop(&mut self) {
        // No thread may outlive its owner: the process may be about to enter a namespace.
        if let State::Running(sender, thread) = std::mem::replace(&mut self.state, State::Ended) {
            let _ = join(sender, thread);
        }
    }
}

/// sha256 of what passes through to another writer.
pub(super) struct HashWriter<W> {
    out: W,
    hasher: sha2::Sha256,
    written: u64,
}

impl<W> HashWriter<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            hasher: sha2::Sha256::new(),
            written: 0,
        }
    }

    /// The writer below, the digest and the length of what was written.
    pub fn finish(self) -> (W, Digest, u64) {
        (
            self.out,
            Digest::from_bytes(self.hasher.finalize().into()),
            self.written,
        )
    }
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.written += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Hands what is written to two writers.
pub(super) struct Both<A, B>(pub A, pub B);

impl<A: Write, B: Write> Write for Both<A, B> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.1.flush()
    }
}
