//! What did the author write? Text to typed instructions with their places, word expansion, ignore
//! patterns. No I/O: everything takes text and gives values.

pub mod check;
pub mod diagnostic;
pub mod directive;
mod display;
mod duration;
pub mod expand;
mod flags;
pub mod git_url;
pub mod glob;
mod heredoc;
pub mod ignore;
pub mod instruction;
mod json;
mod line;
pub mod lint;
pub mod mount;
mod parse;
pub mod port;
pub mod signal;
pub mod span;
mod statement;
pub mod suggest;
mod typed;
pub mod value;
mod words;

pub use diagnostic::{Diagnostic, Severity};
pub use instruction::*;
pub use parse::{parse, parse_trigger};
pub use span::Span;
