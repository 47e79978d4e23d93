//! Which parts of a large blob come before their turn? Where each connection is slow, some more of them fetch what comes next,
//! and the reader still gets all in order.
//!
//! Others are opened only when the reader has been waiting for the network, so a fast line and a slow disk see one connection.
//! What waits for its turn is in memory: [`ROOM`] parts for all downloads of a client. Whatever goes wrong here, the one
//! connection goes on alone.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::ACCEPT_RANGES;
use reqwest::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::AbortHandle;

use super::download::{Download, blob_response};
use super::error::RegistryError;
use super::origin::origin_text;
use super::retry::{Backoff, Failure, Patience, Retry};
use super::words::refused;

/// Parts that wait for their turn, of all downloads.
pub(super) const ROOM: usize = 6;
/// Connections of one download, beside that which the reader is fed from.
const BESIDE: usize = 3;
/// So long a download is looked at before others join it.
const SAMPLE: Duration = Duration::from_millis(500);
/// What is over sooner than this is not worth it.
const WORTH: Duration = Duration::from_secs(2);
/// For the first of the others to bring something.
const PATIENCE: Duration = Duration::from_secs(5);
/// So often others may fail; each time it takes longer until the next ones join.
const TRIES: u32 = 3;

/// The parts of one download that others fetch.
pub(super) struct Ahead {
    download: Arc<Download>,
    pieces: VecDeque<Piece>,
    /// Up to here somebody fetches it.
    claimed: u64,
    /// Where the first of those began.
    joined: u64,
    sample: Sample,
    tries: u32,
}

/// How it went of late.
struct Sample {
    begun: Instant,
    /// What there was then.
    offset: u64,
    /// For the network.
    waited: Duration,
    /// So long it is looked at.
    length: Duration,
}

/// A part that somebody fetches.
struct Piece {
    begin: u64,
    end: u64,
    chunks: mpsc::UnboundedReceiver<Result<Bytes, RegistryError>>,
    first: Option<Bytes>,
    task: AbortHandle,
    _room: OwnedSemaphorePermit,
}

impl Sample {
    fn new(offset: u64, length: Duration) -> Self {
        Self {
            begun: Instant::now(),
            offset,
            waited: Duration::ZERO,
            length,
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ahead {
    pub(super) fn new(download: Arc<Download>, first: &Response) -> Self {
        // A server that does not say may still know them.
        let none = first
            .headers()
            .get(ACCEPT_RANGES)
            .is_some_and(|value| value == "none");
        Self {
            download,
            pieces: VecDeque::new(),
            claimed: 0,
            joined: 0,
            sample: Sample::new(0, SAMPLE),
            tries: if none { 0 } else { TRIES },
        }
    }

    /// Where the bytes begin that others fetch.
    pub(super) fn begin(&self) -> Option<u64> {
        self.pieces.front().map(|piece| piece.begin)
    }

    /// The network was waited for, and now bytes up to `offset` are here: shall others join?
    pub(super) fn observe(&mut self, waited: Duration, offset: u64) {
        self.sample.waited += waited;
        let (sample, elapsed) = (&self.sample, self.sample.begun.elapsed());
        if self.tries == 0 || !self.pieces.is_empty() || elapsed < sample.length {
            return;
        }
        let came = offset.saturating_sub(sample.offset).max(1);
        let (part, rest) = (self.part(), self.download.size.saturating_sub(offset));
        let due = elapsed.as_secs_f64() * rest as f64 / came as f64;
        if sample.waited >= elapsed / 4 * 3 && rest >= 2 * part && due > WORTH.as_secs_f64() {
            self.claimed = offset + part;
            self.joined = self.claimed;
            self.fill(BESIDE);
        } else {
            self.sample = Sample::new(offset, sample.length);
        }
    }

    /// Whether the others really bring what they have begun with. If not, there are none any more.
    pub(super) async fn has_come(&mut self) -> bool {
        let Some(piece) = self.pieces.front_mut() else {
            return false;
        };
        let piece_begin = piece.begin;
        match tokio::time::timeout(PATIENCE, piece.chunks.recv()).await {
            Ok(Some(Ok(chunk))) => {
                piece.first = Some(chunk);
                true
            }
            _ => {
                self.give_up(piece_begin);
                false
            }
        }
    }

    /// Feeds the reader from the parts as long as there are any; whether it still reads.
    pub(super) async fn forward(
        &mut self,
        offset: &mut u64,
        chunks: &mpsc::Sender<io::Result<Bytes>>,
    ) -> bool {
        while let Some(mut piece) = self.pieces.pop_front() {
            self.fill(BESIDE);
            while *offset < piece.end {
                let chunk = match piece.first.take() {
                    Some(chunk) => chunk,
                    None => match piece.chunks.recv().await {
                        Some(Ok(chunk)) => chunk,
                        _ => {
                            self.give_up(*offset);
                            return true;
                        }
                    },
                };
                *offset += chunk.len() as u64;
                if chunks.send(Ok(chunk)).await.is_err() {
                    return false;
                }
            }
        }
        true
    }

    /// The one connection goes on from `offset`, for some time at least.
    fn give_up(&mut self, offset: u64) {
        self.pieces.clear();
        self.tries = self.tries.saturating_sub(1);
        self.sample = Sample::new(offset, self.sample.length * 8);
    }

    fn part(&self) -> u64 {
        self.download.exchange.session.options.download_part.max(1)
    }

    fn fill(&mut self, limit: usize) {
        while self.pieces.len() < limit && self.claimed < self.download.size {
            let rooms = Arc::clone(&self.download.exchange.session.rooms);
            let Ok(room) = rooms.try_acquire_owned() else {
                return;
            };
            let (begin, end) = (self.claimed, self.download.size.min(self.claimed + self.part()));
            self.claimed = end;
            // Whether there are ranges, and for so many, shows at once.
            let patience = if self.pieces.is_empty() && begin == self.joined {
                Patience::None
            } else {
                Patience::Usual
            };
            let (sender, receiver) = mpsc::unbounded_channel();
            let download = Arc::clone(&self.download);
            let task = tokio::spawn(async move {
                if let Err(error) = download.piece((begin, end), patience, &sender).await {
                    let _ = sender.send(Err(error));
                }
            });
            self.pieces.push_back(Piece {
                begin,
                end,
                chunks: receiver,
                first: None,
                task: task.abort_handle(),
                _room: room,
            });
        }
    }
}

impl Download {
    /// The bytes from `begin` to `end`.
    async fn piece(
        &self,
        (begin, end): (u64, u64),
        mut patience: Patience,
        chunks: &mpsc::UnboundedSender<Result<Bytes, RegistryError>>,
    ) -> Result<(), RegistryError> {
        let mut at = begin;
        let mut backoff = Backoff::new();
        loop {
            let before = at;
            let exchange = self.exchange.with_patience(patience);
            patience = Patience::Usual;
            let response = blob_response(
                &exchange,
                &self.host,
                &self.reference,
                &self.digest,
                (at, Some(end)),
                &self.doing,
            )
            .await?;
            let failure = match self.copy_piece(response, &mut at, end, chunks).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if at > before {
                backoff.progressed();
            }
            tokio::time::sleep(backoff.pause(failure.midway())?).await;
        }
    }

    async fn copy_piece(
        &self,
        mut response: Response,
        at: &mut u64,
        end: u64,
        chunks: &mpsc::UnboundedSender<Result<Bytes, RegistryError>>,
    ) -> Result<(), Failure> {
        let address = origin_text(response.url());
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(refused(&self.doing, format!("{address} knows no ranges")).into());
        }
        self.check_range(&response, *at)?;
        while *at < end {
            let next = self.exchange.in_time(&self.doing, &address, response.chunk());
            let Some(mut chunk) = next.await? else {
                let reason = format!("{address} sent less than the range that it announced");
                return Err(Failure::new(refused(&self.doing, reason), Retry::After(None)));
            };
            chunk.truncate(usize::try_from(end - *at).unwrap_or(usize::MAX));
            *at += chunk.len() as u64;
            if chunks.send(Ok(chunk)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}
