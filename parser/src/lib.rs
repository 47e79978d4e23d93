//! What did the author write? Text to typed instructions with their places, word expansion, ignore
//! patterns. No I/O: everything takes text and gives values.

pub mod diagnostic;
pub mod instruction;
pub mod span;

pub use diagnostic::{Diagnostic, Severity};
pub use instruction::*;
pub use span::Span;
