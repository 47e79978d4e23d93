//! Large files (Git LFS): what a repository has of them are pointers, which are replaced by the files that they name, fetched by
//! the batch API of LFS. No `git-lfs` is run, whose own rules would decide who is spoken to and what it is told.
//!
//! * The server is the one of the repository, whatever `.lfsconfig` says.
//! * Who we are goes to that server. Where it says that a file is gets what it says for that place, and leads no further than a
//!   redirection may: not from https to http, not to this machine.
//! * A file is what its pointer says, by size and SHA-256, or an error. It is kept beside the clone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::LayerPath;
use rbuild_cache::{Digest, TempDir};
use rbuild_parser::git_url::{Remote, Scheme};
use serde::Deserialize;

use super::clone::Clone;
use super::connection::Connection;
use super::failure::Failure;
use super::listing::{Kind, Listed};
use crate::error::BuildError;
use crate::parallel::in_parallel;
use crate::registry::{FetchOptions, FetchRequest, Fetched, Post, Registry};
use crate::source::hash_reader::HashReader;

/// No pointer is larger.
const POINTER_LIMIT: u64 = 1024;
/// Git itself reads no file of attributes that is much larger.
const ATTRIBUTES_LIMIT: u64 = 1 << 20;
/// Files that are asked for at once.
const BATCH: usize = 100;
/// No answer to that is larger.
const ANSWER_LIMIT: u64 = 16 << 20;
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";
const NAMES: [&str; 2] = [
    "https://git-lfs.github.com/spec/v1",
    "https://hawser.github.com/spec/v1",
];
/// Headers that say how something is sent, and so are nobody else's to choose.
const OWN_HEADERS: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "range",
    "if-range",
    "accept-encoding",
];

/// Whether large files are wanted: `GIT_LFS_SKIP_SMUDGE` says that they are not, as it does to git-lfs.
pub fn are_wanted() -> bool {
    !std::env::var("GIT_LFS_SKIP_SMUDGE").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// What stands for a large file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    digest: Digest,
    /// Its bytes.
    pub size: u64,
}

impl Pointer {
    /// Reads a pointer; `None` for every other file.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let version = lines.next()?.strip_prefix("version ")?;
        let (mut oid, mut size) = (None, None);
        for line in lines {
            match line.split_once(' ')? {
                ("oid", value) => oid = Some(value.parse().ok()?),
                ("size", value) => size = Some(value.parse().ok()?),
                // An extension's program would have to be run for the content.
                (key, _) if key.starts_with("ext-") => return None,
                _ => {}
            }
        }
        let size = size.filter(|size| *size < 1 << 60)?;
        NAMES.contains(&version).then_some(Self { digest: oid?, size })
    }
}

/// The large files of a commit that are here.
#[derive(Debug, Default)]
pub struct LargeFiles {
    directory: PathBuf,
    pointers: BTreeMap<LayerPath, Pointer>,
}

impl LargeFiles {
    /// The file that stands at `path` of the commit, and its size.
    pub fn open(&self, path: &LayerPath) -> anyhow::Result<Option<(File, u64)>> {
        let Some(pointer) = self.pointers.get(path) else {
            return Ok(None);
        };
        let file = self.directory.join(pointer.digest.hex());
        let file = File::open(&file).with_context(|| format!("opening {}", file.display()))?;
        Ok(Some((file, pointer.size)))
    }
}

/// Fetches large files.
pub struct Lfs<'a> {
    pub registry: &'a Registry,
    pub options: &'a FetchOptions,
    pub connection: &'a Connection<'a>,
}

impl Lfs<'_> {
    /// Fetches what is not here of the large files among `listed`. `attributes` are the files above them that say which
    /// these are, `tree` holds them all.
    pub fn fetch(
        &self,
        clone: &Clone<'_>,
        tree: &str,
        (listed, attributes): (&[Listed], &[Listed]),
        scratch: &TempDir,
    ) -> Result<LargeFiles, BuildError> {
        let pointers = pointers(clone, tree, (listed, attributes), scratch);
        let pointers = pointers.map_err(|failure| self.connection.failed(failure))?;
        let directory = clone.path.join("lfs");
        let get = || -> anyhow::Result<()> {
            let mut missing: Vec<Pointer> = Vec::new();
            for pointer in pointers.values() {
                if !missing.contains(pointer) && !is_here(&directory, pointer) {
                    missing.push(*pointer);
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
            let server = self.server()?;
            for batch in missing.chunks(BATCH) {
                let answer = self.ask(&server, batch)?;
                in_parallel(batch.to_vec(), |pointer| {
                    let doing = || format!("fetching the large file {}", pointer.digest);
                    self.download(&server, &answer, &pointer, &directory, scratch)
                        .with_context(doing)
                })?;
            }
            Ok(())
        };
        let remote = self.connection.remote();
        get().map_err(|error| {
            let authority = remote.authority();
            BuildError::new(error.context(format!("failed to fetch large files of {remote}"))).hint(Some(format!(
                "GIT_LFS_SKIP_SMUDGE=1 in the environment leaves their pointers in place; a private server wants \
                 --secret id=GIT_AUTH_TOKEN.{authority}"
            )))
        })?;
        Ok(LargeFiles { directory, pointers })
    }

    /// Where the repository's server of large files is, and who we are there.
    fn server(&self) -> anyhow::Result<Server> {
        let place = self.connection.place();
        let mut url = place.to_string();
        let scheme = place.scheme();
        if scheme == Scheme::Ssh {
            let words = ["git-lfs-authenticate", place.path(), "download"];
            let call = self
                .connection
                .git()
                .ssh(&place.destination(), place.port(), &words);
            let leader = format!("https://{}/", place.host());
            match call.output() {
                Ok(said) => return Server::of_ssh(&said, leader),
                // A server that does not know it has them at its web server, if anywhere.
                Err(failure) if failure.says("not found") || failure.says("nvalid command") => {}
                Err(failure) => return Err(failure.with_remedy(&place.authority()).cause),
            }
        }
        if matches!(scheme, Scheme::Ssh | Scheme::Git) {
            let path = place.path().trim_start_matches('/');
            url = format!("https://{}/{path}", place.host());
        }
        let url = url.trim_end_matches('/');
        let git = if url.ends_with(".git") { "" } else { ".git" };
        Ok(Server {
            url: format!("{url}{git}/info/lfs"),
            headers: BTreeMap::new(),
            authorization: self.connection.authorization(&place),
            leader: None,
        })
    }

    /// Where these files are.
    fn ask(&self, server: &Server, wanted: &[Pointer]) -> anyhow::Result<Answer> {
        let objects: Vec<_> = wanted
            .iter()
            .map(|pointer| serde_json::json!({"oid": pointer.digest.hex(), "size": pointer.size}))
            .collect();
        let question =
            serde_json::json!({"operation": "download", "transfers": ["basic"], "objects": objects});
        let request = FetchRequest {
            url: format!("{}/objects/batch", server.url),
            authorization: server.authorization.clone(),
            headers: sendable(&server.headers),
            limit: Some(ANSWER_LIMIT),
            post: Some(Post {
                media_type: MEDIA_TYPE,
                body: question.to_string(),
            }),
            led_by: server.leader.clone(),
            ..FetchRequest::default()
        };
        let mut bytes = Vec::new();
        match self.registry.fetch(request, self.options)? {
            Fetched::File(mut file) => file.body.read_to_end(&mut bytes)?,
            Fetched::NotModified => 0,
        };
        serde_json::from_slice(&bytes).with_context(|| format!("reading what {} answers", server.url))
    }

    fn download(
        &self,
        server: &Server,
        answer: &Answer,
        pointer: &Pointer,
        directory: &Path,
        scratch: &TempDir,
    ) -> anyhow::Result<()> {
        let name = pointer.digest.hex().to_string();
        let object = answer.objects.iter().find(|object| object.oid == name);
        let object = object.context("the server says nothing of it")?;
        if let Some(error) = &object.error {
            let message: String = error
                .message
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect();
            bail!("the server says: {message} ({})", error.code);
        }
        let action = object
            .actions
            .as_ref()
            .and_then(|actions| actions.download.as_ref());
        let action = action.context("the server does not say where it is")?;
        let mut request = FetchRequest {
            url: action.href.clone(),
            headers: sendable(&action.header),
            limit: Some(pointer.size),
            led_by: Some(server.url.clone()),
            ..FetchRequest::default()
        };
        let told = request
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if !told && same_server(&action.href, &server.url) {
            request.authorization.clone_from(&server.authorization);
        }
        let Fetched::File(mut file) = self.registry.fetch(request, self.options)? else {
            bail!("the server says that nothing changed, but nothing was there");
        };
        let place = scratch.path().join(&name);
        let mut out = File::create(&place).with_context(|| format!("creating {}", place.display()))?;
        let size = io::copy(&mut file.body, &mut out)?;
        ensure!(
            size == pointer.size && is_here(scratch.path(), pointer),
            "what came is another file: {size} of {} bytes, or another digest",
            pointer.size
        );
        fs::rename(&place, directory.join(&name)).with_context(|| format!("creating {}", directory.display()))
    }
}

/// Where large files are asked for.
struct Server {
    url: String,
    headers: BTreeMap<String, String>,
    authorization: Option<String>,
    /// What has led there, when it is not the place that the user named.
    leader: Option<String>,
}

impl Server {
    /// What `git-lfs-authenticate` says.
    fn of_ssh(said: &[u8], leader: String) -> anyhow::Result<Self> {
        let action: Action =
            serde_json::from_slice(said).context("reading what git-lfs-authenticate says")?;
        Ok(Self {
            url: action.href.trim_end_matches('/').to_owned(),
            headers: action.header,
            authorization: None,
            leader: Some(leader),
        })
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Actions {
    download: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    #[serde(default)]
    message: String,
}

/// Those of a server's headers that may be sent.
fn sendable(headers: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let is_token = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    headers
        .iter()
        .filter(|(name, _)| is_token(name) && !OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Whether both addresses are of one server.
fn same_server(one: &str, other: &str) -> bool {
    let parse = |text: &str| Remote::parse(text).map(|(remote, _)| (remote.scheme(), remote.authority()));
    matches!((parse(one), parse(other)), (Ok(one), Ok(other)) if one == other)
}

/// Whether a directory has the file that a pointer means.
fn is_here(directory: &Path, pointer: &Pointer) -> bool {
    let Ok(file) = File::open(directory.join(pointer.digest.hex())) else {
        return false;
    };
    let mut hasher = HashReader::new(file);
    let size = io::copy(&mut hasher, &mut io::sink());
    size.is_ok_and(|size| size == pointer.size) && hasher.digest() == pointer.digest
}

/// The pointers among `listed`, as the attributes say which files are large.
fn pointers(
    clone: &Clone<'_>,
    tree: &str,
    (listed, above): (&[Listed], &[Listed]),
    scratch: &TempDir,
) -> Result<BTreeMap<LayerPath, Pointer>, Failure> {
    let is_attributes = |entry: &&Listed| entry.path.ends_with(b".gitattributes") && entry.kind == Kind::File;
    let attributes: Vec<&str> = listed
        .iter()
        .chain(above)
        .filter(is_attributes)
        .map(|entry| entry.id.as_str())
        .collect();
    let says_lfs = |(_, text): &(String, Vec<u8>)| text.windows(10).any(|window| window == b"filter=lfs");
    let attributes = clone.small(&attributes, ATTRIBUTES_LIMIT)?;
    let attributes: Vec<&str> = attributes.iter().map(String::as_str).collect();
    if !clone.contents(&attributes)?.iter().any(says_lfs) {
        return Ok(BTreeMap::new());
    }
    let files = listed.iter().filter(|entry| entry.kind == Kind::File);
    let ids: Vec<&str> = files.clone().map(|entry| entry.id.as_str()).collect();
    let small = clone.small(&ids, POINTER_LIMIT)?;
    let small: Vec<&str> = small.iter().map(String::as_str).collect();
    let contents: BTreeMap<String, Pointer> = clone
        .contents(&small)?
        .into_iter()
        .filter_map(|(id, bytes)| Some((id, Pointer::parse(&bytes)?)))
        .collect();
    let found: Vec<(&Listed, Pointer)> = files
        .filter_map(|entry| Some((entry, *contents.get(&entry.id)?)))
        .collect();
    let paths: Vec<&[u8]> = found.iter().map(|(entry, _)| entry.path.as_slice()).collect();
    let filters = clone.filters(tree, &paths, scratch)?;
    Ok(found
        .into_iter()
        .zip(filters)
        .filter(|(_, filter)| filter == b"lfs")
        .map(|((entry, pointer), _)| (LayerPath::clean(&entry.path), pointer))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    #[test]
    fn pointers_are_told_from_files() {
        let pointer = |rest: &str| Pointer::parse(format!("version {}\n{rest}", NAMES[0]).as_bytes());
        let usual = pointer(&format!("oid sha256:{OID}\nsize 12345\n")).unwrap();
        assert_eq!(
            (usual.digest.hex().to_string(), usual.size),
            (OID.to_owned(), 12345)
        );
        for other in [
            format!("oid sha256:{OID}\n"),
            format!("oid sha256:{OID}\nsize -1\n"),
            format!("oid sha256:{OID}\nsize 18446744073709551615\n"),
            "oid sha256:../../x\nsize 1\n".to_owned(),
            format!("oid md5:{OID}\nsize 1\n"),
            format!("ext-0-x sha256:{OID}\noid sha256:{OID}\nsize 1\n"),
            "nonsense\n".to_owned(),
            String::new(),
        ] {
            assert_eq!(pointer(&other), None, "{other}");
        }
        assert_eq!(Pointer::parse(b"\xff\xfe"), None);
        assert_eq!(
            Pointer::parse(format!("version x\noid sha256:{OID}\nsize 1\n").as_bytes()),
            None
        );
    }

    #[test]
    fn a_server_chooses_no_header_of_the_connection() {
        let headers = [
            ("Host", "x"),
            ("content-length", "0"),
            ("a b", "c"),
            ("X-Amz-Date", "d"),
            ("Authorization", "e"),
        ];
        let headers = headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let names: Vec<String> = sendable(&headers).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["Authorization", "X-Amz-Date"]);
        assert!(same_server("http://h:1/a", "http://h:1/b"));
        for other in ["http://h:2/a", "https://h:1/a", "http://g:1/a", "file:///x"] {
            assert!(!same_server("http://h:1/a", other), "{other}");
        }
    }

    #[test]
    fn what_ssh_says_of_the_server() {
        let said = br#"{"href": "https://h/r.git/info/lfs/", "header": {"Authorization": "RemoteAuth x"}, "expires_in": 60}"#;
        let server = Server::of_ssh(said, "https://h/".to_owned()).unwrap();
        assert_eq!(server.url, "https://h/r.git/info/lfs");
        assert_eq!(
            sendable(&server.headers),
            [("Authorization".to_owned(), "RemoteAuth x".to_owned())]
        );
        assert!(Server::of_ssh(b"Welcome!", String::new()).is_err());
    }
}
