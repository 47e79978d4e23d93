//! gzip by blocks of a fixed size, each compressed in one call on a fresh compressor and a gzip member of its own.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use libdeflater::CompressionLvl;

use crate::layer::pace::{self, Pace};

/// Input of a member of gzip. Part of the format: another size gives other bytes.
pub(super) const GZIP_BLOCK: usize = 1 << 20;

/// One block on its way.
struct Job {
    input: Vec<u8>,
    output: Vec<u8>,
    result: SyncSender<io::Result<Job>>,
}

/// Compresses into `out` by blocks, on threads of its own.
pub(super) struct GzipBlocks<W> {
    out: W,
    /// What was written since the last full block.
    input: Vec<u8>,
    empty: bool,
    workers: Workers,
    /// Results in the order of the blocks.
    pending: VecDeque<Receiver<io::Result<Job>>>,
    /// Jobs that may be on their way at once: what bounds the memory.
    depth: usize,
    spare: Vec<(Vec<u8>, Vec<u8>)>,
    /// As long as this goes on beside other work.
    pace: Option<Arc<Pace>>,
}

/// The compressing threads, which end with their owner: the process may be about to enter a namespace.
struct Workers {
    level: CompressionLvl,
    queue: Arc<Mutex<Receiver<Job>>>,
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn new(level: CompressionLvl, waiting: usize) -> Self {
        let (jobs, queue) = sync_channel::<Job>(waiting);
        Self {
            level,
            queue: Arc::new(Mutex::new(queue)),
            jobs: Some(jobs),
            threads: Vec::new(),
        }
    }

    /// Starts `count` more; `behind` all other work, they take only what time is left.
    fn start(&mut self, count: usize, behind: bool) -> io::Result<()> {
        for _ in 0..count {
            let (queue, level) = (Arc::clone(&self.queue), self.level);
            let work = move || {
                if behind {
                    pace::step_back();
                }
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    let result = job.result.clone();
                    // Nobody waits for it any more when the writer was dropped.
                    let _ = result.send(job.run(level));
                }
            };
            let thread = std::thread::Builder::new().name("gzip".to_owned()).spawn(work)?;
            self.threads.push(thread);
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Its results were collected or are not wanted any more.
            let _ = thread.join();
        }
    }
}

impl<W: Write> GzipBlocks<W> {
    pub fn new(out: W, level: u32, threads: usize, pace: Option<Arc<Pace>>) -> io::Result<Self> {
        let level = i32::try_from(level).unwrap_or(i32::MAX);
        let level = CompressionLvl::new(level).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut workers = Workers::new(level, threads);
        workers.start(threads, pace.is_some())?;
        Ok(Self {
            out,
            input: Vec::new(),
            empty: true,
            depth: threads + 2,
            workers,
            pending: VecDeque::new(),
            spare: Vec::new(),
            pace,
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(GZIP_BLOCK - self.input.len());
        self.input.extend_from_slice(&bytes[..length]);
        if self.input.len() == GZIP_BLOCK {
            self.submit()?;
        }
        Ok(length)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.keep_pace()?;
        if self.pending.len() == self.depth {
            self.collect()?;
        }
        let (mut next, output) = self.spare.pop().unwrap_or_default();
        next.clear();
        let input = std::mem::replace(&mut self.input, next);
        let (result, receiver) = sync_channel(1);
        self.empty = false;
        self.pending.push_back(receiver);
        self.workers
            .jobs
            .as_ref()
            .and_then(|jobs| {
                jobs.send(Job {
                    input,
                    output,
                    result,
                })
                .ok()
            })
            .ok_or_else(gone)
    }

    /// Nobody gets his priority back, so those who stepped back get others beside them when it becomes urgent.
    fn keep_pace(&mut self) -> io::Result<()> {
        let Some(pace) = self.pace.take_if(|pace| !pace.is_beside()) else {
            return Ok(());
        };
        if pace.is_given_up() {
            return Err(pace::given_up());
        }
        self.workers.start(self.depth - 2, false)
    }

    /// Writes the oldest block.
    fn collect(&mut self) -> io::Result<()> {
        if let Some(receiver) = self.pending.pop_front() {
            let job = receiver.recv().map_err(|_| gone())??;
            self.out.write_all(&job.output)?;
            self.spare.push((job.input, job.output));
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<W> {
        // Nothing at all is one empty member: no bytes are no gzip file.
        if self.empty || !self.input.is_empty() {
            self.submit()?;
        }
        while !self.pending.is_empty() {
            self.collect()?;
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

impl Job {
    fn run(mut self, level: CompressionLvl) -> io::Result<Self> {
        // A fresh one for each block, so that no block can depend on which thread had which before.
        let mut compressor = libdeflater::Compressor::new(level);
        self.output
            .resize(compressor.gzip_compress_bound(self.input.len()), 0);
        let length = compressor
            .gzip_compress(&self.input, &mut self.output)
            .map_err(io::Error::other)?;
        self.output.truncate(length);
        Ok(self)
    }
}

fn gone() -> io::Error {
    io::Error::other("a compressing thread is gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_help_when_it_becomes_urgent() {
        let input: Vec<u8> = (0..1_300_000u32).flat_map(u32::to_le_bytes).collect();
        let compressed = |pace: Option<Arc<Pace>>, urgent_after: usize| {
            let mut blocks = GzipBlocks::new(Vec::new(), 1, 2, pace.clone()).unwrap();
            let mut rest = input.as_slice();
            let mut most = 0;
            while !rest.is_empty() {
                if let Some(pace) = &pace
                    && input.len() - rest.len() >= urgent_after
                {
                    pace.hurry();
                }
                let written = blocks.write(rest).unwrap();
                rest = &rest[written..];
                most = most.max(blocks.workers.threads.len());
            }
            (blocks.finish().unwrap(), most)
        };
        let (expected, workers) = compressed(None, 0);
        assert_eq!(workers, 2);
        for (urgent_after, workers) in [(0, 4), (3 * GZIP_BLOCK, 4), (usize::MAX, 2)] {
            let (bytes, most) = compressed(Some(Arc::default()), urgent_after);
            assert!(bytes == expected);
            assert_eq!(most, workers, "{urgent_after}");
        }
    }
}
