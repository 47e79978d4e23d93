//! COPY and ADD (spec 3.8, L60 to L62).

use rbuild_cache::Digest;
use rbuild_parser::expand::ExpandError;
use rbuild_parser::git_url::GitUrl;
use rbuild_parser::{Add, Copy, Heredoc, Source};

use super::{LayerInputs, StageLowering};
use crate::error::BuildError;
use crate::frontend::remotes::RemoteRequest;
use crate::frontend::stage::{Command, CopyFrom};
use crate::frontend::{GitRequest, HttpRequest};
use crate::graph::address::masked;
use crate::graph::{Address, CopyOp, CopySource, InlineFile, Location, Op, RemotePath, Unpack};

/// What COPY and ADD have in common.
struct Transfer<'a> {
    keyword: &'static str,
    sources: &'a [Source],
    dest: &'a str,
    chown: Option<&'a str>,
    chmod: Option<&'a str>,
    excludes: &'a [String],
    parents: bool,
    link: bool,
    unpack: Unpack,
    /// Remote sources are unpacked if they are archives.
    unpack_remote: bool,
    checksum: Option<&'a str>,
    keep_git_dir: Option<bool>,
}

/// Where an operand of ADD lies.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Local,
    Http,
    Git,
}

/// Copies files of the context, a stage or an image.
pub(super) fn copy(stage: &mut StageLowering, command: &Command, copy: &Copy) -> Result<(), BuildError> {
    let transfer = Transfer {
        keyword: "COPY",
        sources: &copy.sources,
        dest: &copy.dest,
        chown: copy.chown.as_deref(),
        chmod: copy.chmod.as_deref(),
        excludes: &copy.excludes,
        parents: copy.parents,
        link: copy.link,
        unpack: Unpack::Never,
        unpack_remote: false,
        checksum: None,
        keep_git_dir: None,
    };
    transfer.lower(stage, command, |operand| match place(operand) {
        Place::Local => Ok(()),
        Place::Http => {
            Err(BuildError::message("source can't be a URL for COPY").hint(Some("ADD takes URLs".to_owned())))
        }
        Place::Git => Err(BuildError::message("source can't be a git ref for COPY")
            .hint(Some("ADD takes git repositories".to_owned()))),
    })
}

/// Copies files of the context and unpacks archives.
pub(super) fn add(stage: &mut StageLowering, command: &Command, add: &Add) -> Result<(), BuildError> {
    let transfer = Transfer {
        keyword: "ADD",
        sources: &add.sources,
        dest: &add.dest,
        chown: add.chown.as_deref(),
        chmod: add.chmod.as_deref(),
        excludes: &add.excludes,
        parents: false,
        link: add.link,
        unpack: if add.unpack == Some(false) {
            Unpack::Never
        } else {
            Unpack::Archives
        },
        unpack_remote: add.unpack == Some(true),
        checksum: add.checksum.as_deref(),
        keep_git_dir: add.keep_git_dir,
    };
    if add.checksum.is_some() && add.sources.len() != 1 {
        return Err(BuildError::message(
            "checksum can't be specified for multiple sources",
        ));
    }
    transfer.lower(stage, command, |operand| match place(operand) {
        Place::Local if add.checksum.is_some() => Err(BuildError::message(
            "checksum can't be specified for local sources",
        )),
        _ => Ok(()),
    })
}

impl Transfer<'_> {
    fn lower(
        &self,
        stage: &mut StageLowering,
        command: &Command,
        allow: impl Fn(&str) -> Result<(), BuildError>,
    ) -> Result<(), BuildError> {
        let location = &command.location;
        let name = stage.step_name(command, "");
        let mut written = Vec::new();
        let mut sources = Vec::new();
        let mut remotes = Vec::new();
        let mut files = Vec::new();
        for source in self.sources {
            match source {
                Source::Path(path) => {
                    let path = stage.expand(path, location)?;
                    allow(&path)?;
                    written.push(masked(&path).into_owned());
                    let remote = match place(&path) {
                        Place::Local => None,
                        Place::Http => Some(self.http(stage, &path, location)?),
                        Place::Git => Some(self.git(stage, &path, location)?),
                    };
                    if let Some((request, path)) = remote {
                        sources.push(CopySource::Remote(RemotePath {
                            source: remotes.len(),
                            path,
                            unpack: self.unpack_remote,
                        }));
                        remotes.push(stage.shared.remote_vertex(request, location));
                        continue;
                    }
                    if command.from.is_none()
                        && let Some(message) = stage.shared.ignored.warning(self.keyword, &path)
                    {
                        stage.shared.warnings.rule("CopyIgnoredFile", location, message);
                    }
                    sources.push(CopySource::Path(path));
                }
                Source::Heredoc(heredoc) => files.push(self.inline(stage, command, heredoc)?),
            }
        }
        let dest = stage.expand(self.dest, location)?;
        let chown = self
            .chown
            .map(|chown| stage.expand(chown, location))
            .transpose()?;
        let chmod = self
            .chmod
            .map(|chmod| stage.expand(chmod, location))
            .transpose()?;
        let (chown, chmod) = (
            chown.filter(|text| !text.is_empty()),
            chmod.filter(|text| !text.is_empty()),
        );
        let created_by = self.created_by(&written, &files, &dest, chown.as_deref(), chmod.as_deref());

        let source = if sources.len() > remotes.len() {
            stage.copy_source(command)?
        } else {
            None
        };
        sources.extend(files.into_iter().map(CopySource::Inline));
        let op = CopyOp {
            sources,
            dest,
            cwd: stage.state.working_dir(),
            chown,
            chmod,
            excludes: self.excludes.to_vec(),
            parents: self.parents,
            link: self.link,
            unpack: self.unpack,
            itself: false,
            reset_owner: matches!(
                command.from,
                None | Some(CopyFrom::Local(_) | CopyFrom::Remote(_))
            ),
        };
        let op = Op::Copy(Box::new(op));
        let inputs = LayerInputs {
            source,
            remotes,
            ..LayerInputs::default()
        };
        stage.add_layer(op, inputs, name, location, created_by);
        Ok(())
    }

    /// The file of a web server that an operand names (spec D5), and its path in its tree.
    fn http(
        &self,
        stage: &mut StageLowering,
        operand: &str,
        location: &Location,
    ) -> Result<(RemoteRequest, String), BuildError> {
        let address = Address::parse(operand).map_err(BuildError::new)?;
        let checksum = self
            .checksum
            .map(|text| stage.expand(text, location))
            .transpose()?
            .filter(|text| !text.is_empty())
            .map(|text| checksum(&text))
            .transpose()?;
        let filename = address.file_name();
        let path = format!("/{filename}");
        let request = RemoteRequest::Http(HttpRequest {
            url: operand.to_owned(),
            filename,
            checksum,
            limit: None,
        });
        Ok((request, path))
    }

    /// The commit that an operand names (spec D6): all of its tree.
    fn git(
        &self,
        stage: &mut StageLowering,
        operand: &str,
        location: &Location,
    ) -> Result<(RemoteRequest, String), BuildError> {
        let checksum = self
            .checksum
            .map(|text| stage.expand(text, location))
            .transpose()?
            .filter(|text| !text.is_empty());
        // What is wrong with it is told at its line, whether it is asked for or not.
        let url = GitUrl::of_add(operand).map_err(BuildError::new)?;
        url.map(|url| url.with_flags(checksum.as_deref(), self.keep_git_dir))
            .transpose()
            .map_err(BuildError::new)?;
        let request = RemoteRequest::Git(GitRequest {
            url: operand.to_owned(),
            keep_git_dir: self.keep_git_dir,
            checksum,
        });
        Ok((request, "/".to_owned()))
    }

    /// A heredoc as a file, its variables expanded unless its name was quoted (spec L61).
    fn inline(
        &self,
        stage: &mut StageLowering,
        command: &Command,
        heredoc: &Heredoc,
    ) -> Result<InlineFile, BuildError> {
        if heredoc.name.contains('/') || matches!(heredoc.name.as_str(), "" | "." | "..") {
            let message = format!(
                "{} cannot make a file named {:?} of a heredoc",
                self.keyword, heredoc.name
            );
            return Err(BuildError::message(message).hint(Some(
                "name the heredoc after the file, without slashes".to_owned(),
            )));
        }
        let mut data = heredoc.body.clone();
        if heredoc.expand {
            let expansion = stage
                .expander()
                .heredoc(&data, &|name| stage.state.env.get(name).map(str::to_owned))
                .map_err(|error| in_heredoc(stage, command, heredoc, error))?;
            stage.warn_undefined(&expansion.undefined, &command.location);
            data = expansion.text;
        }
        Ok(InlineFile {
            name: heredoc.name.clone(),
            data,
        })
    }

    fn created_by(
        &self,
        paths: &[String],
        files: &[InlineFile],
        dest: &str,
        chown: Option<&str>,
        chmod: Option<&str>,
    ) -> String {
        let mut words = vec![self.keyword.to_owned()];
        if self.parents {
            words.push("--parents".to_owned());
        }
        words.extend(chown.map(|chown| format!("--chown={chown}")));
        words.extend(chmod.map(|chmod| format!("--chmod={chmod}")));
        words.extend(paths.iter().cloned());
        words.extend(files.iter().map(|file| format!("<<{}", file.name)));
        words.push(dest.to_owned());
        words.push("# buildkit".to_owned());
        words.join(" ")
    }
}

/// The digest of `--checksum`.
fn checksum(text: &str) -> Result<Digest, BuildError> {
    let fail = |reason: &str| BuildError::message(format!("invalid --checksum {text:?}: {reason}"));
    let hint = || Some("write it as sha256:, and the 64 digits that sha256sum shows".to_owned());
    let (algorithm, _) = text
        .split_once(':')
        .ok_or_else(|| fail("invalid checksum digest format").hint(hint()))?;
    if algorithm != "sha256" {
        return Err(fail("unsupported digest algorithm").hint(hint()));
    }
    text.parse()
        .map_err(|_| fail("invalid checksum digest format").hint(hint()))
}

/// Bodies with more lines are not searched for the one that is wrong.
const MOST_LINES: usize = 1000;

/// The failure of a heredoc's expansion, at the line on which it fails: the first up to which it fails for the same
/// reason.
fn in_heredoc(
    stage: &StageLowering,
    command: &Command,
    heredoc: &Heredoc,
    mut error: ExpandError,
) -> BuildError {
    let expander = stage.expander();
    let mut end = 0;
    for (index, line) in heredoc.body.split_inclusive('\n').enumerate().take(MOST_LINES) {
        end += line.len();
        let part = expander.heredoc(&heredoc.body[..end], &|name| {
            stage.state.env.get(name).map(str::to_owned)
        });
        if part.is_err_and(|part| part.reason == error.reason) {
            line.trim().clone_into(&mut error.word);
            let number = heredoc.span.start_line + index;
            // The lines of a trigger are not those of this file.
            let location = (!command.is_trigger).then(|| Location {
                start: number,
                end: number,
                ..command.location.clone()
            });
            return BuildError::new(error).at(location);
        }
    }
    BuildError::new(error)
}

/// Tells URLs and git repositories from paths (spec 7.2, D7); what could be a path is one.
/// Whether an operand names files, and no address.
pub(in crate::frontend) fn is_local(operand: &str) -> bool {
    place(operand) == Place::Local
}

fn place(operand: &str) -> Place {
    let lower = operand.to_ascii_lowercase();
    let web = ["http://", "https://"];
    if !matches!(GitUrl::of_add(operand), Ok(None)) {
        Place::Git
    } else if web.iter().any(|scheme| lower.starts_with(scheme)) {
        Place::Http
    } else {
        Place::Local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_operands_are_known() {
        for (operand, expected) in [
            ("a/b", Place::Local),
            ("./https://x", Place::Local),
            ("https://host/x.tar.gz", Place::Http),
            ("HTTP://host/x", Place::Http),
            ("https://host/x.git#main:dir", Place::Git),
            ("git@github.com:a/b", Place::Git),
            ("ssh://host/x", Place::Git),
            ("me@file", Place::Local),
            ("a b@c:d", Place::Local),
            ("github.com/a/b", Place::Local),
        ] {
            assert_eq!(place(operand), expected, "{operand}");
        }
    }
}
