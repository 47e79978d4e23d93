//! What did the author write? Text to typed instructions with their places, word expansion, ignore
//! patterns. No I/O: everything takes text and gives values.

pub mod check;
pub mod diagnostic;
pub mod expand;
pub mod glob;
pub mod ignore;
pub mod instruction;
mod json;
pub mod mount;
mod parse;
pub mod port;
pub mod signal;
pub mod span;
pub mod suggest;

pub use diagnostic::{Diagnostic, Severity};
pub use instruction::*;
pub use parse::{parse, parse_trigger};
pub use span::Span;
