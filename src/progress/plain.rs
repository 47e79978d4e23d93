//! Lines as BuildKit's plain mode prints them: `#N name`, `#N secs text`, `#N DONE 0.1s`.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rbuild_cache::Key;

use super::text::{Lines, harmless};
use super::{Event, Renderer, Sink, Stream, VertexOutcome};

/// Writes lines to `W`.
pub struct Plain<W> {
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    /// Escape sequences are taken out for a terminal; a file gets the bytes as they are.
    terminal: bool,
    vertices: HashMap<Key, Running>,
    last: Option<usize>,
}

struct Running {
    number: usize,
    started: Instant,
    stdout: Lines,
    stderr: Lines,
}

impl<W: Write + Send> Plain<W> {
    /// `terminal` says whether `out` is one.
    pub fn new(out: W, terminal: bool) -> Self {
        Self {
            state: Mutex::new(State {
                out,
                terminal,
                vertices: HashMap::new(),
                last: None,
            }),
        }
    }
}

impl<W> fmt::Debug for Plain<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

impl<W: Write + Send> Sink for Plain<W> {
    fn emit(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody reads any more: the build goes on, its exit status tells the result.
        let _ = state.show(event);
    }
}

impl<W: Write + Send> Renderer for Plain<W> {}

impl<W: Write> State<W> {
    fn show(&mut self, event: Event) -> std::io::Result<()> {
        match event {
            Event::Started { vertex, name, at, .. } => {
                let number = self.vertices.len() + 1;
                let running = Running {
                    number,
                    started: at,
                    stdout: Lines::default(),
                    stderr: Lines::default(),
                };
                self.vertices.insert(vertex, running);
                self.switch(number)?;
                let name = if self.terminal {
                    harmless(name.as_bytes())
                } else {
                    name
                };
                writeln!(self.out, "#{number} {}", name.replace('\n', " "))
            }
            Event::Log {
                vertex,
                stream,
                data,
                at,
            } => {
                let Some(running) = self.vertices.get_mut(&vertex) else {
                    return Ok(());
                };
                let number = running.number;
                let seconds = at.saturating_duration_since(running.started).as_secs_f64();
                let lines = if stream == Stream::Stdout {
                    &mut running.stdout
                } else {
                    &mut running.stderr
                };
                let mut block = Vec::new();
                lines.push(&data, |line| {
                    append(&mut block, number, seconds, line, self.terminal)
                });
                if block.is_empty() {
                    return Ok(());
                }
                self.switch(number)?;
                self.out.write_all(&block)
            }
            Event::Finished { vertex, outcome, at } => {
                let Some(mut running) = self.vertices.remove(&vertex) else {
                    return Ok(());
                };
                let number = running.number;
                let seconds = at.saturating_duration_since(running.started).as_secs_f64();
                let mut block = Vec::new();
                running
                    .stdout
                    .finish(|line| append(&mut block, number, seconds, line, self.terminal));
                running
                    .stderr
                    .finish(|line| append(&mut block, number, seconds, line, self.terminal));
                // The number stays taken.
                self.vertices.insert(vertex, running);
                self.switch(number)?;
                self.out.write_all(&block)?;
                match outcome {
                    VertexOutcome::Done => writeln!(self.out, "#{number} DONE {seconds:.1}s"),
                    VertexOutcome::Cached => writeln!(self.out, "#{number} CACHED"),
                    VertexOutcome::Canceled => writeln!(self.out, "#{number} CANCELED"),
                    VertexOutcome::Failed(message) => {
                        writeln!(
                            self.out,
                            "#{number} ERROR: {}",
                            message.lines().next().unwrap_or_default()
                        )
                    }
                }
            }
            Event::Warning { message, location } => {
                self.separate()?;
                match location {
                    Some(at) => writeln!(self.out, "WARN: {message} (line {})", at.start),
                    None => writeln!(self.out, "WARN: {message}"),
                }
            }
            Event::Note(text) => {
                self.separate()?;
                writeln!(self.out, "{text}")
            }
            Event::Progress { .. } => Ok(()),
        }
    }

    /// A blank line between the lines of different vertices.
    fn switch(&mut self, number: usize) -> std::io::Result<()> {
        if self.last.is_some_and(|last| last != number) {
            writeln!(self.out)?;
        }
        self.last = Some(number);
        Ok(())
    }

    fn separate(&mut self) -> std::io::Result<()> {
        if self.last.take().is_some() {
            writeln!(self.out)
        } else {
            Ok(())
        }
    }
}

fn append(block: &mut Vec<u8>, number: usize, seconds: f64, line: &[u8], terminal: bool) {
    block.extend_from_slice(format!("#{number} {seconds:.3} ").as_bytes());
    if terminal {
        block.extend_from_slice(harmless(line).as_bytes());
    } else {
        block.extend_from_slice(line);
    }
    block.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn looks_like_buildkit() {
        let plain = Plain::new(Vec::new(), false);
        let start = Instant::now();
        let later = start + Duration::from_millis(1250);
        let (a, b) = (Key([1; 32]), Key([2; 32]));
        let started = |vertex, name: &str| Event::Started {
            vertex,
            name: name.to_owned(),
            location: None,
            at: start,
        };
        plain.emit(started(a, "[1/2] RUN make"));
        plain.emit(Event::Log {
            vertex: a,
            stream: Stream::Stdout,
            data: b"one\ntw".to_vec(),
            at: later,
        });
        plain.emit(started(b, "[2/2] RUN x"));
        plain.emit(Event::Finished {
            vertex: b,
            outcome: VertexOutcome::Cached,
            at: later,
        });
        plain.emit(Event::Finished {
            vertex: a,
            outcome: VertexOutcome::Done,
            at: later,
        });
        let out = plain.state.into_inner().unwrap().out;
        let expected =
            "#1 [1/2] RUN make\n#1 1.250 one\n\n#2 [2/2] RUN x\n#2 CACHED\n\n#1 1.250 tw\n#1 DONE 1.2s\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
