//! The tests A2-1 to A2-21: what a hostile Dockerfile, context or base image does to the machine that builds it, in
//! every tier where it makes sense. The answer has to be: nothing. Each test has a canary tree that belongs to the
//! building user, compared before and after by path, mode, owner, time and content, and a census of what is left.
//!
//! A2-2b and the races of A2-4 are in `executor/tests/sandbox/race.rs`, where steps start by the hundred.

// The canary, the census, hostile images.
pub mod guard;
// What the image holds where rbuild looks for devices, users, directories: A2-1 to A2-5, A2-10 to A2-12.
mod image;
// What RUN --mount reaches: A2-6 to A2-9, A2-18.
mod mount;
// What a step may do, and what it learns of the machine: A2-13 to A2-17, A2-20, A2-21.
mod step;
// What rbuild itself runs and maps: A2-19.
mod program;
