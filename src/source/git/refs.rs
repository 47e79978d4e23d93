//! Which commit does a ref lead to? The server is asked (`git ls-remote`); a full commit id is its own answer.

use rbuild_parser::git_url::{Remote, is_commit};

use super::connection::Connection;
use crate::error::BuildError;

/// What a ref led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The commit.
    pub commit: String,
    /// The whole name of the ref; empty when a commit was asked for.
    pub reference: String,
    /// The annotated tag that names the commit.
    pub tag: Option<String>,
}

impl Found {
    /// Fails, in BuildKit's words, when neither the commit nor the tag is what `checksum` begins.
    pub fn check(&self, checksum: Option<&str>) -> Result<(), BuildError> {
        let Some(checksum) = checksum else { return Ok(()) };
        let ids = [Some(&self.commit), self.tag.as_ref()];
        if ids.into_iter().flatten().any(|id| id.starts_with(checksum)) {
            return Ok(());
        }
        Err(BuildError::message(format!(
            "expected checksum to match {checksum}, got {}",
            self.commit
        )))
    }
}

/// What `reference` of a repository leads to, its HEAD when there is none.
pub fn resolve(connection: &Connection<'_>, reference: Option<&str>) -> Result<Found, BuildError> {
    match reference {
        Some(commit) if is_commit(commit) => Ok(Found {
            commit: commit.to_owned(),
            reference: String::new(),
            tag: None,
        }),
        Some(reference) => {
            let peeled = format!("{reference}^{{}}");
            let listed = list(connection, &["--", "URL", reference, &peeled])?;
            pick(&listed, reference).ok_or_else(|| missing(connection.remote(), reference, &listed))
        }
        None => {
            let listed = list(connection, &["--symref", "--", "URL", "HEAD"])?;
            head(&listed).ok_or_else(|| {
                BuildError::message(format!(
                    "could not find default branch for repository: {}",
                    connection.remote()
                ))
                .hint(Some(
                    "the repository may be empty; else name a branch: URL#BRANCH".to_owned(),
                ))
            })
        }
    }
}

fn list(connection: &Connection<'_>, args: &[&str]) -> Result<String, BuildError> {
    let output = connection.run(|server| {
        let url = server.place.to_string();
        let args = args.iter().map(|arg| match *arg {
            "URL" => url.as_str(),
            arg => arg,
        });
        let args: Vec<&str> = ["ls-remote", "--quiet"].into_iter().chain(args).collect();
        server.call(&args).output()
    })?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// Lines of `ls-remote`: id and name.
fn lines(listed: &str) -> impl Iterator<Item = (&str, &str)> {
    listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(id, _)| is_commit(id))
}

/// The ref itself, else the branch, else the tag of that name. The server may list more, of which the name is only the
/// end.
fn pick(listed: &str, reference: &str) -> Option<Found> {
    let find = |name: &str| lines(listed).find(|(_, other)| *other == name).map(|(id, _)| id);
    let exact = reference.starts_with("refs/").then(|| reference.to_owned());
    let others = ["refs/heads/", "refs/tags/", "refs/"].map(|prefix| format!("{prefix}{reference}"));
    let names = exact.into_iter().chain(others);
    for name in names {
        let Some(id) = find(&name) else { continue };
        let peeled = find(&format!("{name}^{{}}"));
        return Some(Found {
            commit: peeled.unwrap_or(id).to_owned(),
            tag: peeled.map(|_| id.to_owned()),
            reference: name,
        });
    }
    (reference == "HEAD")
        .then(|| find("HEAD"))
        .flatten()
        .map(|id| Found {
            commit: id.to_owned(),
            reference: String::new(),
            tag: None,
        })
}

/// What HEAD is, and the branch that it stands for.
fn head(listed: &str) -> Option<Found> {
    let (id, _) = lines(listed).find(|(_, name)| *name == "HEAD")?;
    let branch = listed
        .lines()
        .find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
    Some(Found {
        commit: id.to_owned(),
        reference: branch.unwrap_or_default().to_owned(),
        tag: None,
    })
}

fn missing(remote: &Remote, reference: &str, listed: &str) -> BuildError {
    let names: Vec<&str> = lines(listed).map(|(_, name)| name).take(5).collect();
    let short = (7..40).contains(&reference.len()) && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hint = if short {
        Some(
            "a commit is named by all its digits: give URL?ref=BRANCH&checksum=DIGITS or the whole id"
                .to_owned(),
        )
    } else if names.is_empty() {
        None
    } else {
        Some(format!("there is {}", names.join(", ")))
    };
    BuildError::message(format!("repository {remote} does not contain ref {reference}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const C: &str = "cccccccccccccccccccccccccccccccccccccccc";

    #[test]
    fn branches_come_before_tags_and_tags_are_peeled() {
        let listed = format!(
            "{A}\trefs/heads/x/v1\n{B}\trefs/tags/v1\n{C}\trefs/tags/v1^{{}}\n{A}\trefs/pull/1/head\nnonsense\tv1\n"
        );
        let tag = pick(&listed, "v1").unwrap();
        assert_eq!((tag.commit.as_str(), tag.tag.as_deref()), (C, Some(B)));
        assert_eq!(tag.reference, "refs/tags/v1");
        assert_eq!(pick(&listed, "refs/pull/1/head").unwrap().commit, A);
        assert_eq!(pick(&listed, "x/v1").unwrap().reference, "refs/heads/x/v1");
        assert_eq!(pick(&listed, "heads/x/v1").unwrap().commit, A);
        assert_eq!(pick(&listed, "other"), None);
        let both = format!("{A}\trefs/heads/v1\n{B}\trefs/tags/v1\n");
        assert_eq!(pick(&both, "v1").unwrap().commit, A);
        for checksum in [&B[..7], C, &C[..4]] {
            assert!(tag.check(Some(checksum)).is_ok());
        }
        let error = tag.check(Some(A)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("expected checksum to match {A}, got {C}")
        );
    }

    #[test]
    fn the_head_names_its_branch() {
        let found = head(&format!("ref: refs/heads/main\tHEAD\n{A}\tHEAD\n")).unwrap();
        assert_eq!(
            (found.commit.as_str(), found.reference.as_str()),
            (A, "refs/heads/main")
        );
        assert_eq!(head(&format!("{A}\tHEAD\n")).unwrap().reference, "");
        assert_eq!(head("ref: refs/heads/main\tHEAD\n"), None);
    }
}
