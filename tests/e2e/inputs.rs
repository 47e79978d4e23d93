//! What comes from others: archives that blow up (A1-11), contexts, Git repositories and web servers that mean no good (A3-1 to
//! A3-10). Each test has the canary of `escape`, compared before and after, and the census of what is left.

// Archives, layers and indexes that want to fill the disk, the memory or the time.
mod bombs;
// Repositories and their servers.
mod git;
// Large files of repositories.
mod lfs;
// Directories and Dockerfiles.
mod tree;
// Web servers.
mod web;
