//! What was fetched of a repository: a bare clone below the store, `git/<key>`, which is fetched into next time.
//!
//! **Invariant**: a commit that has `refs/rbuild/<commit>` is here with all its directories. Its files are as well, unless
//! only a sub-directory was wanted from a server that can leave the others out; so the files are counted before they are
//! used ([`Clone::missing`]). A clone that turns out to be damaged is thrown away and made anew.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use rbuild_cache::{Key, KeyBuilder, KeyLock, Store, TempDir};
use rbuild_parser::git_url::Remote;

use super::command::Git;
use super::connection::Connection;
use super::failure::Failure;
use super::listing::{self, Listed};
use crate::error::BuildError;

/// Nothing is left out of an archive, or written into its files, because the repository's attributes say so: a checkout
/// does neither.
const ATTRIBUTES: &str = "* -export-ignore -export-subst\n";

/// What is said by servers that give nothing but what refs lead to.
const UNADVERTISED: [&str; 3] = ["not our ref", "unadvertised object", "upload-pack: not"];

/// The clone of one repository. Locked against other builds as long as it is held.
pub struct Clone<'a> {
    git: &'a Git,
    /// Its directory.
    pub path: PathBuf,
    _lock: KeyLock,
}

impl<'a> Clone<'a> {
    /// The clone of `remote`, empty when there is none. `commit` is one of its commits, which tells its kind of ids.
    pub fn open(git: &'a Git, store: &Store, remote: &Remote, commit: &str) -> anyhow::Result<Self> {
        let format = if commit.len() == 64 { "sha256" } else { "sha1" };
        let key = key(remote, format);
        let parent = store.root().join("git");
        let path = parent.join(key.hex());
        let clone = Self {
            git,
            _lock: store.lock_key(&key)?,
            path,
        };
        match fs::symlink_metadata(&clone.path) {
            Ok(metadata) if metadata.is_dir() => clone.unlock()?,
            _ => {
                fs::create_dir_all(&parent).with_context(|| format!("creating {}", parent.display()))?;
                clone.make(store, format)?;
            }
        }
        Ok(clone)
    }

    fn make(&self, store: &Store, format: &str) -> anyhow::Result<()> {
        let scratch = store.temp_dir()?;
        let made = scratch.path().join("clone");
        let format = format!("--object-format={format}");
        let path = made.to_str().context("the store's path is not UTF-8")?;
        self.git
            .call(["init", "--quiet", "--bare", "--template=", &format, "--", path])
            .output()
            .map_err(|failure| failure.with_remedy(""))?;
        let write = || {
            fs::create_dir(made.join("info"))?;
            fs::write(made.join("info/attributes"), ATTRIBUTES)?;
            fs::rename(&made, &self.path)
        };
        write().with_context(|| format!("creating {}", self.path.display()))
    }

    /// Removes what a killed git has left: we hold the lock, so nobody else is at work.
    fn unlock(&self) -> anyhow::Result<()> {
        let doing = || format!("reading {}", self.path.display());
        for entry in fs::read_dir(&self.path).with_context(doing)? {
            let entry = entry.with_context(doing)?;
            if entry.file_name().as_encoded_bytes().ends_with(b".lock") {
                fs::remove_file(entry.path()).with_context(doing)?;
            }
        }
        Ok(())
    }

    /// Throws away what is here.
    pub fn renew(&self, store: &Store, commit: &str) -> anyhow::Result<()> {
        let scratch = store.temp_dir()?;
        let place = scratch.path().join("damaged");
        fs::rename(&self.path, place).with_context(|| format!("removing {}", self.path.display()))?;
        self.make(store, if commit.len() == 64 { "sha256" } else { "sha1" })
    }

    /// Whether the commit has been fetched.
    pub fn has(&self, commit: &str) -> bool {
        let name = format!("refs/rbuild/{commit}^{{commit}}");
        let args = ["rev-parse", "--quiet", "--verify", "--end-of-options", &name];
        self.git.call(args).inside(&self.path).output().is_ok()
    }

    /// Fetches a commit, without its history. `reference` led to it, for servers that give nothing but what refs lead to. With
    /// `sparse`, files are left out if the server can do that.
    pub fn fetch(
        &self,
        connection: &Connection<'_>,
        commit: &str,
        reference: &str,
        sparse: bool,
    ) -> Result<(), BuildError> {
        let kept = format!("+{commit}:refs/rbuild/{commit}");
        let filter: &[&str] = if sparse {
            &["--filter=blob:none"]
        } else {
            &["--no-filter"]
        };
        let mut failure = match self.fetch_with(connection, &[filter, &["--depth=1"]].concat(), &[&kept]) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        // Servers of old: they give what a ref leads to, or know nothing of depths.
        let depth: &[&str] = if failure.says("shallow") || failure.says("--depth") {
            &["--no-filter"]
        } else {
            &["--no-filter", "--depth=1"]
        };
        let unable = UNADVERTISED.iter().chain(&["shallow", "--depth"]);
        if !unable.into_iter().any(|text| failure.says(text)) {
            return Err(connection.failed(failure));
        }
        if !reference.is_empty() {
            let named = format!("+{reference}:refs/rbuild/fetched");
            match self.fetch_with(connection, depth, &[&named]) {
                Ok(()) if self.keep(commit) => return Ok(()),
                Ok(()) => {}
                Err(other) => failure = other,
            }
        }
        let all = [
            "+refs/heads/*:refs/rbuild/heads/*",
            "+refs/tags/*:refs/rbuild/tags/*",
        ];
        let whole: &[&str] = if self.path.join("shallow").exists() {
            &["--no-filter", "--unshallow"]
        } else {
            &["--no-filter"]
        };
        match self.fetch_with(connection, whole, &all) {
            Ok(()) if self.keep(commit) => Ok(()),
            Ok(()) => Err(BuildError::message(format!(
                "repository {} does not contain commit {commit}",
                connection.remote()
            ))),
            Err(_) => Err(connection.failed(failure)),
        }
    }

    /// Remembers that a commit is here; `false` when it is not.
    fn keep(&self, commit: &str) -> bool {
        let name = format!("refs/rbuild/{commit}");
        let args = ["update-ref", "--no-deref", &name, commit];
        self.git.call(args).inside(&self.path).output().is_ok()
    }

    /// Fetches files of a commit by their ids.
    pub fn fetch_files(
        &self,
        connection: &Connection<'_>,
        commit: &str,
        ids: &[String],
    ) -> Result<(), BuildError> {
        let input = ids.iter().map(|id| format!("{id}\n")).collect::<String>();
        let args = [
            "fetch",
            "--progress",
            "--no-tags",
            "--no-write-fetch-head",
            "--filter=blob:none",
            "--stdin",
            "origin",
        ];
        let settings = [("fetch.negotiationAlgorithm".to_owned(), "noop".to_owned())];
        let fetched = connection.attempt(|server| {
            let call = server.call(&args).inside(&self.path).with(&settings);
            call.input(input.clone().into_bytes()).output()
        });
        let Err(failure) = fetched else { return Ok(()) };
        if !UNADVERTISED.iter().any(|text| failure.says(text)) {
            return Err(connection.failed(failure));
        }
        // Who speaks the old protocol (sshd that does not accept GIT_PROTOCOL) gives commits, and no single files.
        let kept = format!("+{commit}:refs/rbuild/{commit}");
        self.fetch_with(connection, &["--refetch", "--no-filter", "--depth=1"], &[&kept])
            .map_err(|_| connection.failed(failure))
    }

    fn fetch_with(
        &self,
        connection: &Connection<'_>,
        options: &[&str],
        refs: &[&str],
    ) -> Result<(), Failure> {
        let mut args = vec!["fetch", "--progress", "--no-tags", "--no-write-fetch-head"];
        args.extend(options);
        args.extend(["--", "origin"]);
        args.extend(refs);
        connection.attempt(|server| server.call(&args).inside(&self.path).output())?;
        Ok(())
    }

    /// Fetches an annotated tag and returns its object; `None` when the tag is not one, or names another commit by now.
    pub fn fetch_tag(
        &self,
        connection: &Connection<'_>,
        tag: &str,
        commit: &str,
    ) -> Result<Option<String>, BuildError> {
        let kept = format!("+{tag}:refs/rbuild/tag");
        self.fetch_with(connection, &["--no-filter", "--depth=1"], &[&kept])
            .map_err(|failure| connection.failed(failure))?;
        let args = ["rev-parse", "refs/rbuild/tag", "refs/rbuild/tag^{commit}"];
        let said = self.git.call(args).inside(&self.path).output();
        let said = said.map_err(|failure| connection.failed(failure))?;
        let said = String::from_utf8_lossy(&said);
        let mut ids = said.lines();
        let (tag, of) = (ids.next(), ids.next());
        Ok(tag
            .filter(|tag| *tag != commit && of == Some(commit))
            .map(str::to_owned))
    }

    /// Which of these files are not here.
    pub fn missing(&self, files: &[Listed]) -> Result<Vec<String>, Failure> {
        if !self.is_partial() {
            return Ok(Vec::new());
        }
        let mut ids: Vec<&str> = files.iter().map(|file| file.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let input: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let args = ["cat-file", "--batch-check=%(objectname)"];
        let said = self
            .git
            .call(args)
            .inside(&self.path)
            .input(input.into_bytes())
            .output()?;
        let said = String::from_utf8_lossy(&said);
        let missing = said.lines().filter_map(|line| line.strip_suffix(" missing"));
        Ok(missing.map(str::to_owned).collect())
    }

    /// Whether files were ever left out of it.
    fn is_partial(&self) -> bool {
        let packs = fs::read_dir(self.path.join("objects/pack"));
        packs
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().as_encoded_bytes().ends_with(b".promisor"))
    }

    /// What lies at and below `path` of a commit, directories left out.
    pub fn list(&self, commit: &str, path: Option<&str>) -> Result<Vec<Listed>, Failure> {
        let mut args = vec!["ls-tree", "-r", "-z", "--full-tree", commit, "--"];
        args.extend(path);
        listing::parse(&self.git.call(args).inside(&self.path).output()?)
    }

    /// What is at `path` of a commit.
    pub fn look_up(&self, commit: &str, path: &str) -> Result<Option<Listed>, Failure> {
        let args = ["ls-tree", "-z", "--full-tree", commit, "--", path];
        let listed = listing::parse(&self.git.call(args).inside(&self.path).output()?)?;
        Ok(listed.into_iter().find(|found| found.path == path.as_bytes()))
    }

    /// A tree with nothing but these entries: what is not here is not missed in it.
    pub fn tree_of(&self, listed: &[Listed], scratch: &TempDir) -> Result<String, Failure> {
        let index = scratch.path().join("index");
        let call = |args: &[&str]| {
            let call = self.git.call(args).inside(&self.path);
            call.env("GIT_INDEX_FILE", index.as_os_str())
        };
        let lines = listing::index_info(listed);
        call(&["update-index", "-z", "--index-info"])
            .input(lines)
            .output()?;
        let tree = call(&["write-tree", "--missing-ok"]).output()?;
        Ok(String::from_utf8_lossy(&tree).trim().to_owned())
    }

    /// What git says of these objects, asked for in one call; nothing of none.
    fn cat_file(&self, batch: &str, ids: &[&str]) -> Result<Vec<u8>, Failure> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let call = self.git.call(["cat-file", batch]);
        call.inside(&self.path).input(lines(ids)).output()
    }

    /// Those of these files that have at most `limit` bytes.
    pub fn small(&self, ids: &[&str], limit: u64) -> Result<Vec<String>, Failure> {
        let said = self.cat_file("--batch-check=%(objectname) %(objectsize)", ids)?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let is_small = |line: &str| {
            let (id, size) = line.split_once(' ')?;
            (size.parse::<u64>().ok()? <= limit).then(|| id.to_owned())
        };
        Ok(said.lines().filter_map(is_small).collect())
    }

    /// What stands in these files, which are small.
    pub fn contents(&self, ids: &[&str]) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let said = self.cat_file("--batch=%(objectname) %(objectsize)", ids)?;
        let odd = || Failure::Read(std::io::Error::other("the contents of files are not understood"));
        let (mut contents, mut rest) = (Vec::new(), said.as_slice());
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(odd)?;
            let facts = std::str::from_utf8(&rest[..end]).map_err(|_| odd())?;
            let (id, size) = facts.split_once(' ').ok_or_else(odd)?;
            let size: usize = size.parse().map_err(|_| odd())?;
            let text = rest[end + 1..].get(..size).ok_or_else(odd)?;
            contents.push((id.to_owned(), text.to_vec()));
            rest = rest[end + 1 + size..].get(1..).ok_or_else(odd)?;
        }
        Ok(contents)
    }

    /// The attribute `filter` of each of these paths of a tree.
    pub fn filters(&self, tree: &str, paths: &[&[u8]], scratch: &TempDir) -> Result<Vec<Vec<u8>>, Failure> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let index = scratch.path().join("attributes");
        let call = |args: &[&str]| {
            let call = self.git.call(args).inside(&self.path);
            call.env("GIT_INDEX_FILE", index.as_os_str())
        };
        call(&["read-tree", tree]).output()?;
        let said = call(&["check-attr", "--cached", "-z", "--stdin", "filter"])
            .input([paths.join(&0), vec![0]].concat())
            .output()?;
        // PATH NUL filter NUL VALUE NUL
        let mut parts = said.split(|byte| *byte == 0);
        let values = std::iter::from_fn(|| parts.nth(2).map(<[u8]>::to_vec));
        Ok(values.take(paths.len()).collect())
    }

    /// When a commit was made, in seconds since 1970.
    pub fn time(&self, commit: &str) -> Result<i64, Failure> {
        let args = ["show", "--no-patch", "--format=%ct", commit];
        let time = self.git.call(args).inside(&self.path).output()?;
        Ok(String::from_utf8_lossy(&time).trim().parse().unwrap_or_default())
    }

    /// What runs git here.
    pub fn git(&self) -> &'a Git {
        self.git
    }

    /// Says that it was used, for those who remove what was not.
    pub fn touch(&self) {
        let _ = fs::File::open(&self.path).and_then(|file| file.set_modified(std::time::SystemTime::now()));
    }
}

/// Ids, one in a line.
fn lines(ids: &[&str]) -> Vec<u8> {
    ids.iter()
        .flat_map(|id| [id.as_bytes(), b"\n"].concat())
        .collect()
}

fn key(remote: &Remote, format: &str) -> Key {
    KeyBuilder::new("git clone/1")
        .field("remote", remote.to_string().as_bytes())
        .field("format", format.as_bytes())
        .finish()
}
