//! What the user sees of a build: one stream of typed events (design D11) and its renderers. Only
//! renderers print, and only on standard error.

pub mod event;
pub mod plain;
pub mod tail;
pub mod text;
pub mod tty;

use std::io::IsTerminal;
use std::str::FromStr;

pub use event::{Event, Sink, Stream, Unit, VertexOutcome};
pub use tail::Tail;

/// `--progress`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// [`Mode::Tty`] on a terminal, else [`Mode::Plain`].
    #[default]
    Auto,
    /// Redrawn in place.
    Tty,
    /// Lines.
    Plain,
    /// Nothing.
    Quiet,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tty" => Ok(Self::Tty),
            "plain" => Ok(Self::Plain),
            "quiet" | "none" => Ok(Self::Quiet),
            "rawjson" => Err("progress mode rawjson is not supported yet: use plain".to_owned()),
            other => Err(format!(
                "invalid progress mode {other:?}: use auto, tty, plain or quiet"
            )),
        }
    }
}

/// Shows events until [`Renderer::finish`].
pub trait Renderer: Sink {
    /// Called about ten times a second while steps run, for clocks that tick.
    fn tick(&self) {}

    /// No event follows; leaves the terminal in order.
    fn finish(&self) {}
}

/// The renderer of a mode on standard error.
pub fn renderer(mode: Mode) -> Box<dyn Renderer> {
    let terminal = std::io::stderr().is_terminal();
    match mode {
        Mode::Quiet => Box::new(Silent),
        Mode::Tty => Box::new(tty::Tty::new(std::io::stderr())),
        Mode::Auto if terminal => Box::new(tty::Tty::new(std::io::stderr())),
        Mode::Auto | Mode::Plain => Box::new(plain::Plain::new(std::io::stderr(), terminal)),
    }
}

/// Shows nothing.
#[derive(Debug)]
struct Silent;

impl Sink for Silent {
    fn emit(&self, _event: Event) {}
}

impl Renderer for Silent {}
