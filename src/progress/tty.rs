//! The build redrawn in place on a terminal: one line a step, the last log lines of those that run.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rbuild_cache::Key;

use super::text::{Lines, harmless};
use super::{Event, Renderer, Sink, VertexOutcome};

/// Log lines shown below a running step (BuildKit's default of `BUILDKIT_TTY_LOG_LINES`).
const LOG_LINES: usize = 6;

/// Not drawn more often than this.
const REDRAW: Duration = Duration::from_millis(80);

/// Draws on `W`.
pub struct Tty<W> {
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    began: Instant,
    steps: Vec<Step>,
    notes: Vec<String>,
    /// Steps before this one were printed for good and are not redrawn.
    settled: usize,
    /// Lines of the last drawing, which the next one goes back over.
    drawn: usize,
    last_draw: Option<Instant>,
    colour: bool,
}

struct Step {
    vertex: Key,
    name: String,
    started: Instant,
    ended: Option<(Instant, VertexOutcome)>,
    transfers: Vec<(String, u64, u64)>,
    lines: Lines,
    log: VecDeque<String>,
}

impl<W: Write + AsFd + Send> Tty<W> {
    /// Colours are left out under `NO_COLOR`.
    pub fn new(out: W) -> Self {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            state: Mutex::new(State {
                out,
                began: Instant::now(),
                steps: Vec::new(),
                notes: Vec::new(),
                settled: 0,
                drawn: 0,
                last_draw: None,
                colour,
            }),
        }
    }
}

impl<W> fmt::Debug for Tty<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tty")
    }
}

impl<W: Write + AsFd + Send> Sink for Tty<W> {
    fn emit(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.take(event);
        if state.last_draw.is_none_or(|last| last.elapsed() >= REDRAW) {
            state.draw(false);
        }
    }
}

impl<W: Write + AsFd + Send> Renderer for Tty<W> {
    fn tick(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .draw(false);
    }

    fn finish(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .draw(true);
    }
}

impl<W: Write + AsFd> State<W> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Started { vertex, name, at, .. } => self.steps.push(Step {
                vertex,
                name: harmless(name.replace('\n', " ").as_bytes()),
                started: at,
                ended: None,
                transfers: Vec::new(),
                lines: Lines::default(),
                log: VecDeque::new(),
            }),
            Event::Progress {
                vertex,
                id,
                current,
                total,
                ..
            } => {
                let Some(step) = self.step(&vertex) else { return };
                match step.transfers.iter_mut().find(|(known, ..)| *known == id) {
                    Some(transfer) => (transfer.1, transfer.2) = (current, total),
                    None => step.transfers.push((id, current, total)),
                }
            }
            Event::Log { vertex, data, .. } => {
                let Some(step) = self.step(&vertex) else { return };
                let log = &mut step.log;
                step.lines.push(&data, |line| {
                    if log.len() == LOG_LINES {
                        log.pop_front();
                    }
                    log.push_back(harmless(line));
                });
            }
            Event::Finished { vertex, outcome, at } => {
                if let Some(step) = self.step(&vertex) {
                    step.ended = Some((at, outcome));
                }
            }
            // What has a place in the Dockerfile is listed when the build has ended.
            Event::Warning {
                location: Some(_), ..
            } => {}
            Event::Warning { message, .. } => self.notes.push(format!("WARN: {message}")),
            Event::Note(text) => self.notes.push(text),
        }
    }

    fn step(&mut self, vertex: &Key) -> Option<&mut Step> {
        self.steps.iter_mut().rev().find(|step| step.vertex == *vertex)
    }

    fn draw(&mut self, last: bool) {
        let now = Instant::now();
        self.last_draw = Some(now);
        let (width, height) = size(&self.out);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\u{1b}[{}A\r\u{1b}[J", self.drawn));
        }
        // Notes and the ended steps above the first running one scroll away for good.
        for note in self.notes.drain(..) {
            text.push_str(&note);
            text.push('\n');
        }
        while let Some(step) = self.steps.get(self.settled) {
            if step.ended.is_none() {
                break;
            }
            text.push_str(&step.headline(now, width, self.colour));
            self.settled += 1;
        }
        let mut lines = Vec::new();
        if !last {
            let done = self.steps.iter().filter(|step| step.ended.is_some()).count();
            let seconds = now.saturating_duration_since(self.began).as_secs_f64();
            lines.push(format!(
                "[+] Building {seconds:.1}s ({done}/{})\n",
                self.steps.len()
            ));
        }
        for step in &self.steps[self.settled..] {
            lines.push(step.headline(now, width, self.colour));
            if step.ended.is_none() && !last {
                lines.extend(
                    step.log
                        .iter()
                        .map(|line| clip(&format!(" => => # {line}"), width)),
                );
            }
        }
        lines.truncate(height.saturating_sub(2).max(1));
        self.drawn = if last { 0 } else { lines.len() };
        text.extend(lines);
        let _ = self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush());
    }
}

impl Step {
    fn headline(&self, now: Instant, width: usize, colour: bool) -> String {
        let end = self.ended.as_ref().map_or(now, |(at, _)| *at);
        let time = format!(
            "{:.1}s",
            end.saturating_duration_since(self.started).as_secs_f64()
        );
        let state = match &self.ended {
            Some((_, VertexOutcome::Cached)) => "CACHED ",
            Some((_, VertexOutcome::Canceled)) => "CANCELED ",
            Some((_, VertexOutcome::Failed(_))) => "ERROR ",
            _ => "",
        };
        let (current, total) = self
            .transfers
            .iter()
            .fold((0, 0), |(c, t), (_, current, total)| (c + current, t + total));
        let transfer = match total {
            0 => String::new(),
            _ => format!(" {:.1}MB / {:.1}MB", current as f64 / 1e6, total as f64 / 1e6),
        };
        let left = clip(
            &format!(" => {state}{}{transfer}", self.name),
            width.saturating_sub(time.len() + 2),
        );
        let left = left.trim_end_matches('\n');
        let fill = width.saturating_sub(left.chars().count() + time.len() + 1);
        let line = format!("{left}{:fill$}{time}", "");
        let code = match &self.ended {
            _ if !colour => return format!("{line}\n"),
            Some((_, VertexOutcome::Failed(_))) => "31",
            Some((_, VertexOutcome::Canceled)) => "33",
            Some(_) => "34",
            None => return format!("{line}\n"),
        };
        format!("\u{1b}[{code}m{line}\u{1b}[0m\n")
    }
}

/// At most `width` characters and a newline; colours of a clipped line are ended.
fn clip(line: &str, width: usize) -> String {
    let flat = line.replace('\t', "    ");
    let mut shown: String = flat.chars().take(width.max(10)).collect();
    if shown.contains('\u{1b}') {
        shown.push_str("\u{1b}[0m");
    }
    shown.push('\n');
    shown
}

fn size(out: &impl AsFd) -> (usize, usize) {
    match rustix::termios::tcgetwinsize(out) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
