//! Large files (Git LFS): fetched when `git-lfs` is installed, else what is there is what the repository has, pointers.
//!
//! The server of large files is the one of the repository, whatever `.lfsconfig` says: nobody but the user decides who is
//! spoken to.

use rbuild_parser::git_url::Scheme;

use super::command::{Call, Git};
use super::connection::{Connection, origin};
use super::failure::Failure;
use crate::error::BuildError;

/// Whether large files can be fetched, and are wanted: `GIT_LFS_SKIP_SMUDGE` says that they are not, as it does to git-lfs.
pub fn is_there(git: &Git) -> bool {
    let skipped =
        std::env::var("GIT_LFS_SKIP_SMUDGE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    !skipped && git.call(["lfs", "version"]).output().is_ok()
}

/// Lets `call` replace pointers by the files that they stand for.
pub fn with<'a>(call: Call<'a>, connection: &Connection<'_>) -> Call<'a> {
    let place = connection.place();
    let mut settings = connection.config(&place);
    settings.extend(origin(&place));
    let url = match place.scheme() {
        Scheme::Http | Scheme::Https => {
            let url = place.to_string();
            let url = url.trim_end_matches('/');
            let git = if url.ends_with(".git") { "" } else { ".git" };
            Some(format!("{url}{git}/info/lfs"))
        }
        Scheme::Ssh => Some(place.to_string()),
        Scheme::Git => None,
    };
    settings.extend(url.map(|url| ("lfs.url".to_owned(), url)));
    for (name, value) in [
        ("filter.lfs.process", "git-lfs filter-process"),
        ("filter.lfs.smudge", "git-lfs smudge -- %f"),
        ("filter.lfs.required", "true"),
        ("lfs.basictransfersonly", "true"),
        ("lfs.locksverify", "false"),
    ] {
        settings.push((name.to_owned(), value.to_owned()));
    }
    // It says how far it is, so that it is seen to get on.
    call.with(&settings).env("GIT_LFS_FORCE_PROGRESS", "1")
}

/// A failure that has to do with large files.
pub fn failed(connection: &Connection<'_>, failure: Failure) -> BuildError {
    let error = connection.failed(failure);
    error.hint(Some(
        "GIT_LFS_SKIP_SMUDGE=1 in the environment leaves the pointers of large files in their place"
            .to_owned(),
    ))
}
