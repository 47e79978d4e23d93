//! COPY and ADD (spec 3.8, L60 to L62).

use rbuild_parser::expand::ExpandError;
use rbuild_parser::{Add, Copy, Heredoc, Source};

use super::StageLowering;
use crate::error::BuildError;
use crate::frontend::stage::{Command, CopyFrom};
use crate::graph::{CopyOp, CopySource, InlineFile, Location, Op, Unpack};

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
    };
    transfer.lower(stage, command, |operand| match place(operand) {
        Place::Local if add.checksum.is_some() => Err(BuildError::message(
            "checksum can't be specified for local sources",
        )),
        Place::Local => Ok(()),
        Place::Http => Err(
            BuildError::message(format!("ADD of a URL is not supported yet: {operand}")).hint(Some(
                "download it in a RUN, or into the context before the build".to_owned(),
            )),
        ),
        Place::Git => Err(BuildError::message(format!(
            "ADD of a git repository is not supported yet: {operand}"
        ))
        .hint(Some(
            "clone it in a RUN, or into the context before the build".to_owned(),
        ))),
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
        let mut paths = Vec::new();
        let mut files = Vec::new();
        for source in self.sources {
            match source {
                Source::Path(path) => {
                    let path = stage.expand(path, location)?;
                    allow(&path)?;
                    if command.from.is_none()
                        && place(&path) == Place::Local
                        && let Some(message) = stage.shared.ignored.warning(self.keyword, &path)
                    {
                        stage.shared.warnings.rule("CopyIgnoredFile", location, message);
                    }
                    paths.push(path);
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
        let created_by = self.created_by(&paths, &files, &dest, chown.as_deref(), chmod.as_deref());

        let source = if paths.is_empty() {
            None
        } else {
            stage.copy_source(command)?
        };
        let op = CopyOp {
            sources: paths
                .into_iter()
                .map(CopySource::Path)
                .chain(files.into_iter().map(CopySource::Inline))
                .collect(),
            dest,
            cwd: stage.state.working_dir(),
            chown,
            chmod,
            excludes: self.excludes.to_vec(),
            parents: self.parents,
            link: self.link,
            unpack: self.unpack,
            reset_owner: matches!(command.from, None | Some(CopyFrom::Local(_))),
        };
        stage.add_layer(Op::Copy(Box::new(op)), source, name, location, created_by);
        Ok(())
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
fn place(operand: &str) -> Place {
    let lower = operand.to_ascii_lowercase();
    let scp_like = || {
        let (user, rest) = operand.split_once('@')?;
        let (host, path) = rest.split_once(':')?;
        let plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        Some(plain(user) && plain(host) && !path.is_empty())
    };
    if ["http://", "https://"]
        .iter()
        .any(|scheme| lower.starts_with(scheme))
    {
        let path = operand.split(['#', '?']).next().unwrap_or_default();
        if path.ends_with(".git") {
            Place::Git
        } else {
            Place::Http
        }
    } else if ["git://", "ssh://"]
        .iter()
        .any(|scheme| lower.starts_with(scheme))
        || scp_like() == Some(true)
    {
        Place::Git
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
