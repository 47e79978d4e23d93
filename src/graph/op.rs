//! What a vertex does. Every field that changes the result is here and in the digest; what only
//! changes how it is shown (names, locations) is in [`super::Vertex`].

use rbuild_cache::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use super::{Confinement, MountOp, Platform, SecretEnv};

/// The operation of a vertex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Op {
    /// The layers of an image: a source, without base.
    Image(ImageOp),
    /// A directory of the machine that runs the build: a source, without base. Only the input of copies and mounts.
    Local(LocalOp),
    /// A file of a web server: a source, without base.
    Http(HttpOp),
    /// The files of a commit: a source, without base.
    Git(GitOp),
    /// Runs a process in the base's root file system; all that it changes is one layer.
    Exec(Box<ExecOp>),
    /// Copies files (COPY and ADD) into the base as one layer.
    Copy(Box<CopyOp>),
    /// Creates a directory and its missing parents in the base as one layer (WORKDIR).
    Mkdir(MkdirOp),
}

/// Layers of an image, named by digest. Nothing is fetched before somebody needs the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOp {
    /// The reference as the user would write it, canonical (`docker.io/library/busybox:latest`): for messages.
    pub reference: String,
    /// Digest of the manifest that was resolved for the platform.
    pub manifest: Digest,
    /// Platform of the image.
    pub platform: Platform,
    /// Layers, lowest first.
    pub layers: Vec<ImageLayer>,
}

/// One layer of an [`ImageOp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the blob as it is in the registry, mostly compressed.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Digest of the uncompressed tar, from the image's config.
    pub diff_id: DiffId,
}

/// A directory of the machine. The bytes that a step reads of it are in that step's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalOp {
    /// `context` for the build context, else the name given by `--build-context`.
    pub name: String,
}

/// A file of a web server, alone in its tree, with mode 0600. What is in its key is what is in the file and how it is
/// called, not where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpOp {
    /// The address without user name, password and fragment: for messages, and to fetch it.
    pub url: String,
    /// Digest of the bytes: what the server had when it was asked, or what the user demands.
    pub digest: Digest,
    /// Name of the file in its tree.
    pub filename: String,
    /// `Last-Modified` in seconds since 1970, the time of the file; 0 when the server did not say. `None` when the
    /// server was not asked because the user demands a digest: then it is what the server says when the file is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<i64>,
}

/// The files of a commit of a Git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitOp {
    /// The repository without user name and password: for messages, and to fetch it.
    pub remote: String,
    /// What was asked for, a branch or a tag for example; empty for the remote's HEAD. Not in the key.
    pub reference: String,
    /// The commit, all digits in lower case.
    pub commit: String,
    /// The directory whose files are the tree; empty for all.
    pub subdir: String,
    /// Whether the tree has `.git`.
    pub keep_git_dir: bool,
    /// Whether submodules are filled.
    pub submodules: bool,
    /// Whether files bear the time of the commit instead of that of the checkout.
    pub commit_time: bool,
    /// Whether large files (Git LFS) are fetched instead of their pointers.
    pub lfs: bool,
}

/// Network of a RUN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// What the build was told with `--network`.
    #[default]
    Default,
    /// Only a loopback device.
    None,
    /// The network of the machine.
    Host,
}

/// A process to run in a sandbox (spec R1 to R10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOp {
    /// Program and arguments; the program is looked up in the PATH of `env`, inside the root.
    pub args: Vec<String>,
    /// Environment in order, `K=V`. HOME is added by the executor when absent.
    pub env: Vec<String>,
    /// Proxy variables, `K=V`: set for the process, not part of the key (spec A8).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `USER` as it is in the config; empty for root.
    pub user: String,
    /// Network.
    pub network: NetworkMode,
    /// `--security=insecure`.
    #[serde(default)]
    pub insecure: bool,
    /// Host name inside the sandbox.
    pub hostname: String,
    /// Names that `--add-host` adds, with their addresses; only the names are in the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<(String, String)>,
    /// `--ulimit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// Capabilities, system calls and shared memory.
    #[serde(default, skip_serializing_if = "Confinement::is_usual")]
    pub confinement: Confinement,
    /// What is mounted for the process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountOp>,
    /// Secrets in its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_env: Vec<SecretEnv>,
    /// A script shown read-only at this absolute path and executable (a lone heredoc with `#!`, spec L58).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<InlineFile>,
    /// Platform whose programs are run.
    pub platform: Platform,
}

/// A resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Docker's name, `nofile` for example.
    pub name: String,
    /// Soft limit; `None` is unlimited.
    pub soft: Option<u64>,
    /// Hard limit; `None` is unlimited.
    pub hard: Option<u64>,
}

/// A file whose bytes are in the definition: a heredoc of COPY, ADD or RUN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineFile {
    /// Its name, or for a script its absolute path.
    pub name: String,
    /// Its bytes.
    pub data: String,
}

/// Whether archives are unpacked by a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpack {
    /// COPY, and ADD `--unpack=false`.
    Never,
    /// ADD: local archives are unpacked.
    Archives,
}

/// Files to copy (spec P1 to P32, D1 to D3). The sources lie in the vertex' inputs `source` and `remotes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOp {
    /// Operands in order, expanded, as they were written.
    pub sources: Vec<CopySource>,
    /// Destination as it was written, after expansion; relative ones are below `cwd`.
    pub dest: String,
    /// WORKDIR at this point, absolute.
    pub cwd: String,
    /// `--chown`, expanded; names are looked up in the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chown: Option<String>,
    /// `--chmod`, expanded, octal or symbolic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chmod: Option<String>,
    /// `--exclude` patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    /// `--parents`.
    #[serde(default)]
    pub parents: bool,
    /// `--link`.
    #[serde(default)]
    pub link: bool,
    /// Archives.
    pub unpack: Unpack,
    /// A directory that is an operand is taken itself, so that the destination has its metadata, and not only what lies
    /// in it. For mounts, which show it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub itself: bool,
    /// Sources come from the machine (context), so their owner becomes 0:0; else owners are kept (spec P12).
    pub reset_owner: bool,
}

impl CopyOp {
    /// The same with no operand that is a remote source.
    pub fn without_remotes(&self) -> Self {
        let mut op = self.clone();
        op.sources
            .retain(|source| !matches!(source, CopySource::Remote(_)));
        op
    }

    /// All files of a directory of the machine into the root.
    pub fn of_all() -> Self {
        Self {
            sources: vec![CopySource::Path("/".to_owned())],
            dest: "/".to_owned(),
            cwd: "/".to_owned(),
            chown: None,
            chmod: None,
            excludes: Vec::new(),
            parents: false,
            link: false,
            unpack: Unpack::Never,
            itself: false,
            reset_owner: true,
        }
    }
}

/// One operand of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopySource {
    /// A path or wildcard below the root of the source tree.
    Path(String),
    /// A heredoc.
    Inline(InlineFile),
    /// A path, literally, in another tree.
    Remote(RemotePath),
}

/// A file or directory of a remote source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemotePath {
    /// Which of the vertex' remote sources.
    pub source: usize,
    /// The path in its tree; no wildcards.
    pub path: String,
    /// Whether it is unpacked if it is an archive (`--unpack=true`).
    pub unpack: bool,
}

impl CopySource {
    /// The file or directory `path` itself, whatever wildcards its name has.
    pub fn literal(path: &str) -> Self {
        let mut pattern = String::with_capacity(path.len());
        for scalar in path.chars() {
            if matches!(scalar, '*' | '?' | '[' | '\\') {
                pattern.push('\\');
            }
            pattern.push(scalar);
        }
        Self::Path(pattern)
    }
}

/// A directory to create (spec 3.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MkdirOp {
    /// Absolute, clean path.
    pub path: String,
    /// `USER` at this point, which owns the directories that are created; empty for root.
    pub user: String,
}
