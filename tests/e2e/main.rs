//! The real binary, end to end: as the user who runs the suite and, when that is root, as the ordinary user that
//! `scripts/test` names in `RBUILD_TEST_USER`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot be set up has failed, and one that cannot run says so"
)]

// The environment: users, stores, contexts, base images.
mod env;

// Small images in the context of the specification, read back.
mod built;

// One stage: what instructions do to files, config and history.
mod build;
// What is cached, what is run again, and what concurrent builds share.
mod cache;
// Random builds, changed at random: the cache is never wrong.
mod metamorphic;
// Wrong cache hits of other builders.
mod wrong_hits;
// Many builds on one store.
mod crowd;
// Numbers that a seed decides.
mod random;
// What is in the keys of steps, row by row.
mod keys;
// Which steps run when, and how many at once.
mod schedule;
// Ignore files, lists and modes of a directory.
mod context;
// Inside of containers that allow little.
mod containers;
// Named contexts: directories, images, OCI layouts.
mod contexts;
// What is said of a Dockerfile without building it, and of a doubtful one after it was built.
mod check;
// The corpus: Dockerfiles in every isolation tier.
mod corpus;
// Three stages on a Debian base from a registry, read by other people's tools.
mod debian;
// Bad input: one error, the right exit status, nothing lost.
mod errors;
// Hostile images and Dockerfiles: the machine stays as it was.
mod escape;
// Why a step runs that did not before: one change, one cause.
mod why;
// What the work costs in system calls: nothing is created or looked at without need (design D3).
mod economy;
// Hostile archives.
mod extract;
// Hostile inputs: bombs, contexts, repositories, servers.
mod inputs;
// Git repositories as contexts and sources.
mod git;
// The golden vectors of the specification.
mod golden;
// ADD of URLs.
mod http;
// Signals, kill -9 and what is left after them.
mod kill;
// The network of RUN: what can be reached, and what stays in no image.
mod network;
// How rbuild goes: signals at any moment, as process 1, in the middle of an export.
mod leaving;
// What the machine offers to builds.
mod doctor;
// Lock files: names that go on meaning what they meant.
mod lock;
// A namespace with one id: for whom, and beside others.
mod single;
// Memory, processors and processes of steps.
mod limits;
// One build for several platforms.
mod platforms;
// Capabilities, entitlements, system calls.
mod privilege;
// Contexts and Dockerfiles from standard input and from web servers.
mod received;
// A registry on a free loopback port.
#[path = "../common/registry.rs"]
mod registry;
// A web server on a free loopback port.
#[path = "../common/server.rs"]
mod server;
// SOURCE_DATE_EPOCH: the same digest from everywhere.
mod reproducible;
// Steps for other architectures, with and without an emulator.
mod foreign;
// Archives byte by byte.
#[path = "../common/tar.rs"]
mod tar;
// What gets from a context into a layer: odd names and files, files that change, bytes of earlier layers.
mod packing;
// Which room may use which.
mod rooms;
// The rules of the specification that only a build shows, one test or row each, named by their IDs.
mod rules;
// RUN --mount and --volume: what is seen, what is kept, what never gets out.
mod mounts;
// Secrets: in the step, and nowhere else.
mod secrets;
// Bits that flip, files that are cut or gone: never another image.
mod damage;
// Disks that are full, limits of the store.
mod full;
// Commands in images, outside of builds.
mod trial;
// Images that are mounted for reading.
mod mounted;
// Changed root file systems that become images.
mod changed;
// What takes space, and what gives it back.
mod space;
