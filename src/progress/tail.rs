//! Keeps the last lines of every running step, to show them beside its error.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use rbuild_cache::Key;

use super::text::Lines;
use super::{Event, Renderer, Sink, Stream, VertexOutcome};

/// How many lines are kept.
const KEPT: usize = 20;

/// Hands all events on to a renderer and remembers the end of each log.
pub struct Tail {
    next: Box<dyn Renderer>,
    logs: Mutex<HashMap<Key, Log>>,
}

#[derive(Default)]
struct Log {
    stdout: Lines,
    stderr: Lines,
    last: VecDeque<Vec<u8>>,
}

impl Log {
    fn keep(last: &mut VecDeque<Vec<u8>>, line: &[u8]) {
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(line.to_vec());
    }
}

impl Tail {
    /// In front of `next`.
    pub fn new(next: Box<dyn Renderer>) -> Self {
        Self {
            next,
            logs: Mutex::default(),
        }
    }

    /// The last lines that `vertex` wrote; empty unless it failed.
    pub fn last_lines(&self, vertex: &Key) -> Vec<Vec<u8>> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.get(vertex)
            .map(|log| log.last.iter().cloned().collect())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tail")
    }
}

impl Sink for Tail {
    fn emit(&self, event: Event) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        match &event {
            Event::Log {
                vertex, stream, data, ..
            } => {
                let Log { stdout, stderr, last } = logs.entry(*vertex).or_default();
                let lines = if *stream == Stream::Stdout { stdout } else { stderr };
                lines.push(data, |line| Log::keep(last, line));
            }
            Event::Finished {
                vertex,
                outcome: VertexOutcome::Failed(_),
                ..
            } => {
                if let Some(Log { stdout, stderr, last }) = logs.get_mut(vertex) {
                    stdout.finish(|line| Log::keep(last, line));
                    stderr.finish(|line| Log::keep(last, line));
                }
            }
            Event::Finished { vertex, .. } => {
                logs.remove(vertex);
            }
            _ => {}
        }
        drop(logs);
        self.next.emit(event);
    }
}

impl Renderer for Tail {
    fn tick(&self) {
        self.next.tick();
    }

    fn finish(&self) {
        self.next.finish();
    }
}
