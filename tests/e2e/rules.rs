//! The rules of the specification that only a build shows. A test or a row is named by the ID of its rule.

mod copy;
mod mounts;
mod peers;
mod run;
