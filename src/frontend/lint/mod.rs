//! Build checks that need more than the text: values of variables, the ignore file (spec 10). Those that come out of
//! lowering an instruction are where it is lowered; [`rbuild_parser::lint`] has the others, and what all are called.

mod from;
mod ignored;

pub(super) use from::{FromWords, check_from};
pub(super) use ignored::IgnoredSources;
