//! Speaking with one server: who we are there, and where it sends us.
//!
//! Git follows no redirect itself, because it would take our authorization along. It is told to try again at the place
//! that the server named, as if the user had written that, with what we are there.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use rbuild_parser::git_url::{Remote, Scheme};

use super::auth::GitAuth;
use super::command::{Call, Git};
use super::failure::Failure;
use crate::error::BuildError;

/// Redirects that are followed one after another.
const MAX_REDIRECTS: usize = 5;
/// What git asks a server for first.
const FIRST: &str = "/info/refs";

/// Where servers have sent us.
#[derive(Debug, Default)]
pub struct Moved(Mutex<BTreeMap<Remote, Remote>>);

/// A repository on its server.
#[derive(Debug)]
pub struct Connection<'a> {
    git: &'a Git,
    auth: &'a GitAuth,
    moved: &'a Moved,
    remote: &'a Remote,
}

impl<'a> Connection<'a> {
    pub fn new(git: &'a Git, auth: &'a GitAuth, moved: &'a Moved, remote: &'a Remote) -> Self {
        Self {
            git,
            auth,
            moved,
            remote,
        }
    }

    /// The repository as it was named.
    pub fn remote(&self) -> &Remote {
        self.remote
    }

    /// Where it really lies, as far as is known.
    pub fn place(&self) -> Remote {
        let moved = self.moved.0.lock().unwrap_or_else(PoisonError::into_inner);
        moved.get(self.remote).unwrap_or(self.remote).clone()
    }

    /// Who we are at the server of `place`, as the value of `Authorization`.
    pub fn authorization(&self, place: &Remote) -> Option<String> {
        self.auth.header(place)
    }

    /// What runs git, and ssh.
    pub fn git(&self) -> &'a Git {
        self.git
    }

    /// What git has to be told to speak with the server at `place`.
    pub fn config(&self, place: &Remote) -> Vec<(String, String)> {
        self.auth.config(place)
    }

    /// Lets `work` run git against the place of the repository, and against where that sends us.
    pub fn run<T>(&self, work: impl Fn(&Server<'_>) -> Result<T, Failure>) -> Result<T, BuildError> {
        self.attempt(work).map_err(|failure| self.failed(failure))
    }

    /// A failure of [`Connection::attempt`] as the build's, in BuildKit's words.
    pub fn failed(&self, failure: Failure) -> BuildError {
        let error = failure.with_remedy(&self.place().authority());
        BuildError {
            cause: error
                .cause
                .context(format!("failed to fetch remote {}", self.remote)),
            ..error
        }
    }

    /// As [`Connection::run`], for those who look at the failure.
    pub fn attempt<T>(&self, work: impl Fn(&Server<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut place = self.place();
        for _ in 0..=MAX_REDIRECTS {
            let server = Server {
                git: self.git,
                config: self.config(&place),
                place,
            };
            let failure = match work(&server) {
                Err(failure) if is_redirect(&failure) => failure,
                other => return other,
            };
            let Some(next) = redirect(&server)? else {
                return Err(failure);
            };
            let mut moved = self.moved.0.lock().unwrap_or_else(PoisonError::into_inner);
            moved.insert(self.remote.clone(), next.clone());
            place = next;
        }
        Err(Failure::Redirect("the server redirects in a circle".to_owned()))
    }
}

/// Where a repository is looked for.
pub struct Server<'a> {
    git: &'a Git,
    config: Vec<(String, String)>,
    /// The repository there.
    pub place: Remote,
}

impl<'a> Server<'a> {
    /// A call of git that may tell the server who we are. `origin` is the repository.
    pub fn call(&self, args: &[&str]) -> Call<'a> {
        self.git.call(args).with(&self.config).with(&origin(&self.place))
    }
}

/// The settings under which `origin` is the repository at `place`.
pub fn origin(place: &Remote) -> [(String, String); 1] {
    [("remote.origin.url".to_owned(), place.to_string())]
}

/// Asks the server once more and listens to where it sends us.
fn redirect(server: &Server<'_>) -> Result<Option<Remote>, Failure> {
    let url = server.place.to_string();
    let asked = server
        .call(&["ls-remote", "--quiet", "--", &url, "HEAD"])
        .env("GIT_TRACE_CURL", "1")
        .env("GIT_TRACE_CURL_NO_DATA", "1")
        .output();
    let Err(failure) = asked else { return Ok(None) };
    match location(failure.messages()) {
        None => Ok(None),
        Some(location) => follow(&server.place, location)
            .map(Some)
            .map_err(Failure::Redirect),
    }
}

fn is_redirect(failure: &Failure) -> bool {
    ["301", "302", "303", "307", "308"]
        .iter()
        .any(|status| failure.says(&format!("returned error: {status}")))
}

/// The last `Location` header of git's trace of what it received.
fn location(trace: &str) -> Option<&str> {
    trace.lines().rev().find_map(|line| {
        let (_, header) = line.split_once("Recv header")?;
        let header = header.trim_start_matches([':', ' ']);
        let (name, value) = header.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim())
    })
}

/// The repository that a redirect of `place` leads to.
fn follow(place: &Remote, location: &str) -> Result<Remote, String> {
    let refused = |why: &str| format!("the server redirects to {:?}, which {why}", shown(location));
    let (path, _) = location.split_once('?').unwrap_or((location, ""));
    let Some(base) = path.strip_suffix(FIRST) else {
        return Err(refused("is no repository"));
    };
    let absolute = match base.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => {
            format!("{}://{}{base}", place.scheme().as_str(), place.authority())
        }
        _ => base.to_owned(),
    };
    let (next, credentials) =
        Remote::parse(&absolute).map_err(|error| refused(&format!("is not allowed: {error}")))?;
    if credentials.is_some() {
        return Err(refused("holds credentials"));
    }
    match (place.scheme(), next.scheme()) {
        (_, Scheme::Https) | (Scheme::Http, Scheme::Http) => {}
        (Scheme::Https, Scheme::Http) => return Err(refused("is not encrypted")),
        _ => return Err(refused("is no web server")),
    }
    if is_link_local(next.host()) && !is_link_local(place.host()) {
        return Err(refused("is an address of this machine's surroundings"));
    }
    Ok(next)
}

/// Addresses under which clouds tell machines their secrets.
fn is_link_local(host: &str) -> bool {
    let v6 = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<Ipv6Addr>();
    let v4 = host
        .parse::<Ipv4Addr>()
        .ok()
        .or_else(|| v6.as_ref().ok().and_then(Ipv6Addr::to_ipv4_mapped));
    v4.is_some_and(|address| address.is_link_local())
        || v6.is_ok_and(|address| address.segments()[0] & 0xffc0 == 0xfe80)
}

fn shown(location: &str) -> String {
    let (start, rest) = location.split_once("://").unwrap_or(("", location));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let rest: String = rest.chars().take(200).collect();
    if start.is_empty() {
        rest
    } else {
        format!("{start}://{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_repositories_of_web_servers() {
        let place = Remote::parse("https://one/a.git").unwrap().0;
        let next = |location: &str| follow(&place, location).map(|remote| remote.to_string());
        let query = "?service=git-upload-pack";
        for (location, expected) in [
            ("https://two:8443/b.git/info/refs", "https://two:8443/b.git"),
            ("/b/info/refs", "https://one/b"),
        ] {
            assert_eq!(next(&format!("{location}{query}")), Ok(expected.to_owned()));
        }
        for refused in [
            "http://two/b.git/info/refs",
            "file:///etc/info/refs",
            "ssh://two/b.git/info/refs",
            "https://169.254.169.254/latest/info/refs",
            "https://[::ffff:169.254.169.254]/x/info/refs",
            "https://[fe80::1]/x/info/refs",
            "https://u:secret@two/b.git/info/refs",
            "https://two/login",
            "//two/b/info/refs",
            "gopher://x/info/refs",
        ] {
            let error = next(&format!("{refused}{query}")).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_trace_names_the_place() {
        let trace = "10:00 http.c:1 == Info: x\n10:00 http.c:2  <= Recv header: HTTP/1.1 301 Moved\n\
                     10:00 http.c:2  <= Recv header: Location: https://two/b.git/info/refs?service=x\r\nfatal: x\n";
        assert_eq!(location(trace), Some("https://two/b.git/info/refs?service=x"));
        assert_eq!(location("fatal: x"), None);
    }
}
