//! Reading beside writing: a blob is read and verified on one thread while another one compresses, sends or writes it.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};

use super::pipe::{DEPTH, PIECE, Piece, Pool};

/// Lets `take` read what a thread of its own reads from `source`. An error of `source` comes out where it lies.
pub fn read_ahead<T>(
    mut source: impl Read + Send,
    take: impl FnOnce(&mut Ahead) -> io::Result<T>,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let (pieces, ready) = sync_channel(DEPTH);
        let pool = Pool::default();
        std::thread::Builder::new()
            .name("read ahead".to_owned())
            .spawn_scoped(scope, move || {
                loop {
                    let mut buffer = pool.take();
                    let read = fill(&mut source, &mut buffer);
                    let end = !matches!(read, Ok(PIECE));
                    // Bytes before an error are no use to whoever will see it.
                    let piece = read.map(|length| pool.share(buffer, length));
                    if pieces.send(piece).is_err() || end {
                        return;
                    }
                }
            })?;
        take(&mut Ahead {
            ready,
            piece: None,
            position: 0,
        })
    })
}

/// Reads until `buffer` is full or `source` ends. Returns how much.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// What was read ahead and not yet taken.
#[derive(Debug)]
pub struct Ahead {
    ready: Receiver<io::Result<Piece>>,
    piece: Option<Piece>,
    /// Bytes of the piece that were taken.
    position: usize,
}

impl Ahead {
    /// Writes all that is left to `out`, piece by piece as they were read. Returns the number of bytes.
    pub fn write_to(&mut self, out: &mut dyn Write) -> io::Result<u64> {
        let mut written = 0;
        while self.has_more()? {
            let piece = self.piece.take();
            let rest = piece.as_deref().map_or(&[][..], |piece| &piece[self.position..]);
            out.write_all(rest)?;
            written += rest.len() as u64;
        }
        Ok(written)
    }

    /// Waits for the next piece if nothing is left of the last one. False at the end.
    fn has_more(&mut self) -> io::Result<bool> {
        while self
            .piece
            .as_ref()
            .is_none_or(|piece| self.position == piece.len())
        {
            match self.ready.recv() {
                Ok(piece) => self.piece = Some(piece?),
                // The end was read before.
                Err(_) => return Ok(false),
            }
            self.position = 0;
        }
        Ok(true)
    }
}

impl Read for Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.has_more()? {
            return Ok(0);
        }
        let rest = self
            .piece
            .as_deref()
            .map_or(&[][..], |piece| &piece[self.position..]);
        let length = out.len().min(rest.len());
        out[..length].copy_from_slice(&rest[..length]);
        self.position += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    #[test]
    fn all_bytes_and_the_error_behind_them_come_out() {
        for length in [0, 1, PIECE, 3 * PIECE + 7] {
            let input: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut output = Vec::new();
            read_ahead(input.as_slice(), |source| source.read_to_end(&mut output)).unwrap();
            assert!(output == input, "{length}");
            output.clear();
            let written = read_ahead(input.as_slice(), |source| source.write_to(&mut output)).unwrap();
            assert!(output == input && written == length as u64, "{length}");
            let broken = read_ahead(input.as_slice().chain(Broken), |source| {
                io::copy(source, &mut io::sink())
            });
            assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn nobody_waits_for_one_who_has_seen_enough() {
        let read = read_ahead(io::repeat(1), |source| {
            let mut some = [0; 10];
            source.read_exact(&mut some)?;
            Ok(some)
        });
        assert_eq!(read.unwrap(), [1; 10]);
    }
}
