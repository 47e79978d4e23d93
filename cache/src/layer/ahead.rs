//! Reading beside writing: a blob is read and verified on one thread while another one writes it.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};

const PIECE: usize = 256 << 10;
/// Pieces that may wait: what bounds the memory.
const DEPTH: usize = 4;

/// Lets `take` read what a thread of its own reads from `source`. An error of `source` comes out where it lies.
pub fn read_ahead<T>(
    mut source: impl Read + Send,
    take: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let (pieces, ready) = sync_channel(DEPTH);
        std::thread::Builder::new()
            .name("read ahead".to_owned())
            .spawn_scoped(scope, move || {
                loop {
                    let mut piece = Vec::with_capacity(PIECE);
                    let read = source.by_ref().take(PIECE as u64).read_to_end(&mut piece);
                    let end = piece.is_empty() || read.is_err();
                    // Bytes before an error are no use to whoever will see it.
                    if pieces.send(read.map(|_| piece)).is_err() || end {
                        return;
                    }
                }
            })?;
        take(&mut Ahead {
            ready,
            piece: io::Cursor::default(),
        })
    })
}

struct Ahead {
    ready: Receiver<io::Result<Vec<u8>>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Ahead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.piece.read(out)?;
        if count > 0 || out.is_empty() {
            return Ok(count);
        }
        match self.ready.recv() {
            Ok(piece) => self.piece = io::Cursor::new(piece?),
            // The end was read before.
            Err(_) => return Ok(0),
        }
        self.piece.read(out)
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
