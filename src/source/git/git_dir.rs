//! `.git` of a commit, for steps that ask git about themselves: a repository with this one commit, HEAD detached at it, the branch or
//! tag that led to it, and the remote. The same commit gives the same bytes.

use std::fs::File;
use std::io::{Cursor, Read};

use anyhow::Context as _;
use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::{Store, TempDir};
use rbuild_parser::git_url::Remote;

use super::clone::Clone;
use super::failure::Failure;
use crate::error::BuildError;

/// What `.git` tells.
pub struct Facts<'a> {
    pub remote: &'a Remote,
    pub commit: &'a str,
    /// Full name of the ref that led to the commit; may be empty.
    pub reference: &'a str,
    /// The annotated tag.
    pub tag: Option<&'a str>,
}

/// A `.git` that was made.
pub struct GitDir {
    scratch: TempDir,
    pack: String,
    files: Vec<(&'static str, Vec<u8>)>,
    time: Timestamp,
}

/// Content of a file.
type Bytes = Box<dyn Read>;

/// Makes it of what `clone` has.
pub fn make(clone: &Clone<'_>, store: &Store, facts: &Facts<'_>) -> Result<GitDir, BuildError> {
    let scratch = store.temp_dir().map_err(BuildError::new)?;
    let made = fill(clone, &scratch, facts);
    let (pack, index, time) = made.map_err(|failure| {
        BuildError::from(anyhow::Error::new(failure).context(format!("making .git of {}", facts.remote)))
    })?;
    let mut files = vec![
        ("HEAD", format!("{}\n", facts.commit).into_bytes()),
        ("config", config(facts).into_bytes()),
        ("index", index),
        ("packed-refs", packed_refs(facts).into_bytes()),
        ("shallow", format!("{}\n", facts.commit).into_bytes()),
    ];
    files.retain(|(_, bytes)| !bytes.is_empty());
    Ok(GitDir {
        scratch,
        pack,
        files,
        time,
    })
}

/// Writes the pack into the scratch directory; its name, the index, and the time of the commit.
fn fill(
    clone: &Clone<'_>,
    scratch: &TempDir,
    facts: &Facts<'_>,
) -> Result<(String, Vec<u8>, Timestamp), Failure> {
    let git = |args: &[&str]| clone.git().call(args).inside(&clone.path);
    let args = [
        "rev-list",
        "--objects",
        "--no-object-names",
        "--max-count=1",
        facts.commit,
    ];
    let mut objects = git(&args).output()?;
    if let Some(tag) = facts.tag {
        objects.extend_from_slice(format!("{tag}\n").as_bytes());
    }
    let base = scratch.path().join("pack");
    let base = base.to_str().unwrap_or_default();
    // Neither threads nor what the clone happens to have packed decide about the bytes.
    let args = [
        "pack-objects",
        "-q",
        "--threads=1",
        "--no-reuse-delta",
        "--no-reuse-object",
        base,
    ];
    let settings = [("pack.writeReverseIndex".to_owned(), "false".to_owned())];
    let pack = git(&args).with(&settings).input(objects).output()?;
    let pack = String::from_utf8_lossy(&pack).trim().to_owned();
    let index = scratch.path().join("index");
    git(&["read-tree", facts.commit])
        .env("GIT_INDEX_FILE", index.as_os_str())
        .output()?;
    let index = std::fs::read(index).map_err(Failure::Read)?;
    let time = Timestamp {
        seconds: clone.time(facts.commit)?,
        nanoseconds: 0,
    };
    Ok((pack, index, time))
}

impl GitDir {
    /// What it consists of, directories before what lies in them.
    pub fn entries(&self) -> anyhow::Result<Vec<(Entry, Option<Bytes>)>> {
        let entry = |path: &str, kind: Kind, mode: u32| Entry {
            path: LayerPath::clean(path.as_bytes()),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: self.time,
            xattrs: Vec::new(),
        };
        let mut entries: Vec<(Entry, Option<Bytes>)> = Vec::new();
        for directory in [
            "",
            "/objects",
            "/objects/info",
            "/objects/pack",
            "/refs",
            "/refs/heads",
            "/refs/tags",
        ] {
            let kind = Kind::Directory { opaque: false };
            entries.push((entry(&format!(".git{directory}"), kind, 0o755), None));
        }
        for (name, bytes) in &self.files {
            let size = bytes.len() as u64;
            let bytes: Bytes = Box::new(Cursor::new(bytes.clone()));
            entries.push((
                entry(&format!(".git/{name}"), Kind::File { size }, 0o644),
                Some(bytes),
            ));
        }
        for end in ["idx", "pack"] {
            let path = self.scratch.path().join(format!("pack-{}.{end}", self.pack));
            let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            let size = file.metadata()?.len();
            let path = format!(".git/objects/pack/pack-{}.{end}", self.pack);
            entries.push((entry(&path, Kind::File { size }, 0o444), Some(Box::new(file))));
        }
        Ok(entries)
    }
}

fn config(facts: &Facts<'_>) -> String {
    let url = facts
        .remote
        .to_string()
        .replace('\\', "\\\\")
        .replace('"', "\\\"");
    let (version, format) = match facts.commit.len() {
        64 => (1, "[extensions]\n\tobjectformat = sha256\n"),
        _ => (0, ""),
    };
    format!(
        "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\
         {format}[remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    )
}

fn packed_refs(facts: &Facts<'_>) -> String {
    let (reference, commit) = (facts.reference, facts.commit);
    let known = ["refs/heads/", "refs/tags/"]
        .iter()
        .any(|prefix| reference.starts_with(prefix));
    if !known || reference.chars().any(|c| c.is_control() || c == ' ') {
        return String::new();
    }
    let head = "# pack-refs with: peeled fully-peeled sorted \n";
    match facts.tag {
        Some(tag) => format!("{head}{tag} {reference}\n^{commit}\n"),
        None => format!("{head}{commit} {reference}\n"),
    }
}
