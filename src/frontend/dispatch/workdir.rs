//! WORKDIR (spec 3.7).

use super::StageLowering;
use crate::error::BuildError;
use crate::frontend::stage::Command;
use crate::graph::{MkdirOp, Op};

/// Goes into a directory and makes it: a layer of its own, but for the root, which is always there.
pub(super) fn workdir(stage: &mut StageLowering, command: &Command, path: &str) -> Result<(), BuildError> {
    let name = stage.step_name(command, "");
    let expanded = stage.expand(path, &command.location)?;
    if !stage.state.workdir_set && !expanded.starts_with('/') {
        let message =
            format!("Relative workdir \"{expanded}\" can have unexpected results if the base image changes");
        stage
            .shared
            .warnings
            .rule("WorkdirRelativePath", &command.location, message);
    }
    let created_by = format!("WORKDIR {}", set(stage, &expanded));
    let dir = stage.state.working_dir();
    if dir == "/" {
        stage.record(created_by);
        return Ok(());
    }
    let op = MkdirOp {
        path: dir,
        user: stage.state.image.config().user.clone(),
    };
    stage.add_layer(Op::Mkdir(op), None, name, &command.location, created_by);
    Ok(())
}

/// Goes into a directory without making it.
pub(super) fn enter(
    stage: &mut StageLowering,
    path: &str,
    location: &crate::graph::Location,
) -> Result<(), BuildError> {
    let expanded = stage.expand(path, location)?;
    set(stage, &expanded);
    Ok(())
}

/// `path` seen from `dir`, absolute and clean.
pub(super) fn resolved(dir: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let from = if path.starts_with('/') { "" } else { dir };
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The config has an absolute path as it was written, as BuildKit's has; whoever uses it takes the clean one.
fn set(stage: &mut StageLowering, path: &str) -> String {
    let text = joined(&stage.state.working_dir(), path);
    stage.state.image.config_mut().working_dir.clone_from(&text);
    stage.state.workdir_set = true;
    text
}

/// `path` if it is absolute, else `path` seen from `dir`.
pub(super) fn joined(dir: &str, path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        resolved(dir, path)
    }
}

#[cfg(test)]
mod tests {
    use super::resolved;

    #[test]
    fn paths_are_absolute_and_clean() {
        for (dir, path, result) in [
            ("/", "a", "/a"),
            ("/a", "b/../c/", "/a/c"),
            ("/a", "/b//./c", "/b/c"),
            ("/a", "", "/a"),
            ("/a", "../../..", "/"),
            ("/", "~", "/~"),
        ] {
            assert_eq!(resolved(dir, path), result, "{dir} {path}");
        }
    }
}
