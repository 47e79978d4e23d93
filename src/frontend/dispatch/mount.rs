//! `RUN --mount` and `--volume` (spec 3.3, M1 to M11).

use rbuild_parser::Run;
use rbuild_parser::mount::{Mount, MountType, Sharing};

use super::StageLowering;
use super::workdir::resolved;
use crate::error::BuildError;
use crate::frontend::stage::{Command, CopyFrom};
use crate::graph::{
    CacheOp, CacheSharing, CopyOp, CopySource, MountKind, MountOp, MountOwner, Op, SecretEnv, Vertex,
    VertexId,
};

/// Where secrets are shown that name no target.
const SECRETS: &str = "/run/secrets";
/// Where agents are shown that name no target.
const AGENTS: &str = "/run/buildkit/ssh_agent";
/// Where files of a local directory lie in the layer that is made of them to be mounted.
const TAKEN: &str = "/m";

/// What the mounts of one RUN came to.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) list: Vec<MountOp>,
    pub(super) secret_env: Vec<SecretEnv>,
    /// The vertices that they read.
    pub(super) inputs: Vec<VertexId>,
}

impl Mounts {
    /// Where the first ssh agent is shown.
    pub(super) fn first_agent(&self) -> Option<&str> {
        let agent = |mount: &&MountOp| matches!(mount.kind, MountKind::Ssh { .. });
        self.list.iter().find(agent).map(|mount| mount.target.as_str())
    }

    fn input(&mut self, id: VertexId) -> usize {
        if let Some(known) = self.inputs.iter().position(|input| *input == id) {
            return known;
        }
        self.inputs.push(id);
        self.inputs.len() - 1
    }
}

/// Lowers the mounts of `run`, and those that every RUN gets.
pub(super) fn lower(stage: &mut StageLowering, command: &Command, run: &Run) -> Result<Mounts, BuildError> {
    let mut mounts = Mounts {
        list: stage.shared.request.volumes.clone(),
        ..Mounts::default()
    };
    let mut agents = 0;
    for (csv, from) in run.mounts.iter().zip(&command.mounts) {
        let mount = parse(stage, command, csv)?;
        match mount.kind {
            MountType::Bind => bind(stage, command, &mut mounts, &mount, from.as_ref())?,
            MountType::Cache => cache(stage, command, &mut mounts, &mount, from.as_ref())?,
            MountType::Tmpfs => {
                let kind = MountKind::Tmpfs { size: mount.size };
                push(stage, &mut mounts, &mount, None, kind)?;
            }
            MountType::Secret => secret(stage, &mut mounts, &mount)?,
            MountType::Ssh => {
                let id = mount.id.clone().unwrap_or_else(|| "default".to_owned());
                let default = format!("{AGENTS}.{agents}");
                agents += 1;
                let kind = MountKind::Ssh {
                    id,
                    required: mount.required,
                    owner: owner(&mount, 0o600),
                };
                push(stage, &mut mounts, &mount, Some(default), kind)?;
            }
        }
    }
    Ok(mounts)
}

fn parse(stage: &mut StageLowering, command: &Command, csv: &str) -> Result<Mount, BuildError> {
    let mut undefined = Vec::new();
    let expander = stage.expander();
    let mount = Mount::parse(csv, &mut |word| {
        let expansion = expander.word(word, &|name| stage.state.env.get(name).map(str::to_owned))?;
        undefined.extend(expansion.undefined);
        Ok(expansion.text)
    });
    stage.warn_undefined(&undefined, &command.location);
    mount.map_err(|error| {
        let near = error.suggestion.as_ref();
        let hint = near.map(|near| format!("did you mean {near}?"));
        BuildError::new(error).hint(hint)
    })
}

/// Adds a mount at its target, or at `default`.
fn push(
    stage: &StageLowering,
    mounts: &mut Mounts,
    mount: &Mount,
    default: Option<String>,
    kind: MountKind,
) -> Result<(), BuildError> {
    let written = mount.target.clone().or(default).unwrap_or_default();
    let target = resolved(&stage.state.working_dir(), &written);
    if target == "/" {
        return Err(
            BuildError::message(format!("invalid mount target {written:?}")).hint(Some(
                "the root itself cannot be covered: name a path below it".to_owned(),
            )),
        );
    }
    mounts.list.push(MountOp {
        target,
        read_only: mount.readonly,
        kind,
    });
    Ok(())
}

fn owner(mount: &Mount, mode: u32) -> MountOwner {
    MountOwner {
        mode: mount.mode.unwrap_or(mode),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
    }
}

fn bind(
    stage: &mut StageLowering,
    command: &Command,
    mounts: &mut Mounts,
    mount: &Mount,
    from: Option<&CopyFrom>,
) -> Result<(), BuildError> {
    let (input, source) = tree(stage, command, mounts, mount, from)?;
    push(stage, mounts, mount, None, MountKind::Bind { input, source })
}

fn cache(
    stage: &mut StageLowering,
    command: &Command,
    mounts: &mut Mounts,
    mount: &Mount,
    from: Option<&CopyFrom>,
) -> Result<(), BuildError> {
    // A path without `from` is one of the cache, so that steps may share parts of it.
    let source = resolved("/", mount.source.as_deref().unwrap_or("/"));
    let seed = match from {
        Some(from) => match found(stage, command, &source, Some(from))? {
            Some(id) => {
                let taken = take(stage, command, id, Some(from), &source, "/");
                Some(mounts.input(taken))
            }
            None => None,
        },
        None => None,
    };
    let written = mount
        .id
        .as_deref()
        .or(mount.target.as_deref())
        .unwrap_or_default();
    let id = match stage.shared.arguments.cache_namespace() {
        "" => cleaned(written),
        namespace => cleaned(&format!("{namespace}/{written}")),
    };
    let kind = MountKind::Cache(CacheOp {
        id,
        sharing: match mount.sharing {
            Sharing::Shared => CacheSharing::Shared,
            Sharing::Private => CacheSharing::Private,
            Sharing::Locked => CacheSharing::Locked,
        },
        owner: owner(mount, 0o755),
        seed,
        source,
    });
    push(stage, mounts, mount, None, kind)
}

/// As Go's `path.Clean`: ids that BuildKit takes for one are one.
fn cleaned(id: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let rooted = id.starts_with('/');
    for part in id.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// What a mount reads: which input, and the path in it.
///
/// Of a local directory a layer is made with what is wanted and no more: as COPY would take it, so that ignored
/// files are not in it, the content is in its key, and nothing that a process does reaches the directory.
fn tree(
    stage: &mut StageLowering,
    command: &Command,
    mounts: &mut Mounts,
    mount: &Mount,
    from: Option<&CopyFrom>,
) -> Result<(Option<usize>, String), BuildError> {
    let source = resolved("/", mount.source.as_deref().unwrap_or("/"));
    let Some(id) = found(stage, command, &source, from)? else {
        return Ok((None, source));
    };
    if !matches!(from, None | Some(CopyFrom::Local(_))) {
        return Ok((Some(mounts.input(id)), source));
    }
    let taken = take(stage, command, id, from, &source, TAKEN);
    Ok((Some(mounts.input(taken)), TAKEN.to_owned()))
}

/// The vertex of `from`; `None` when it has no files.
fn found(
    stage: &mut StageLowering,
    command: &Command,
    source: &str,
    from: Option<&CopyFrom>,
) -> Result<Option<VertexId>, BuildError> {
    let found = stage.tree_of(from, &command.location, |other, this| {
        format!(
            "cannot mount from stage {other:?} to {this:?}, stage needs to be defined before current command"
        )
    })?;
    if found.is_none() && source != "/" {
        return Err(BuildError::message(format!("{source:?}: not found")));
    }
    Ok(found)
}

/// A vertex with a layer of what `source` names in `id`, at `dest`.
fn take(
    stage: &mut StageLowering,
    command: &Command,
    id: VertexId,
    from: Option<&CopyFrom>,
    source: &str,
    dest: &str,
) -> VertexId {
    let (place, is_local) = match from {
        None => ("the build context".to_owned(), true),
        Some(CopyFrom::Local(name)) => (format!("the context {name}"), true),
        Some(_) => ("a stage or image".to_owned(), false),
    };
    let op = CopyOp {
        sources: vec![CopySource::literal(source)],
        dest: dest.to_owned(),
        // The directory of the machine itself is nobody's: only what lies in it has metadata. A cache has its own.
        itself: source != "/" && dest != "/",
        reset_owner: is_local,
        ..CopyOp::of_all()
    };
    stage.shared.definition.add(Vertex {
        op: Op::Copy(Box::new(op)),
        base: None,
        source: Some(id),
        remotes: Vec::new(),
        mounts: Vec::new(),
        name: format!("[internal] take {source} of {place} for RUN --mount"),
        location: Some(command.location.clone()),
        written: None,
        no_cache: false,
        platform: stage.state.platform.clone(),
    })
}

fn secret(stage: &StageLowering, mounts: &mut Mounts, mount: &Mount) -> Result<(), BuildError> {
    let base = |path: &str| {
        path.rsplit('/')
            .find(|part| !part.is_empty())
            .unwrap_or(path)
            .to_owned()
    };
    let given = mount.source.as_deref().or(mount.id.as_deref());
    let id = match (given, mount.target.as_deref()) {
        (Some(id), _) => id.to_owned(),
        (None, target) => base(target.unwrap_or_default()),
    };
    if let Some(name) = &mount.env {
        mounts.secret_env.push(SecretEnv {
            name: name.clone(),
            id: id.clone(),
            required: mount.required,
        });
        if mount.target.is_none() {
            return Ok(());
        }
    }
    let default = format!("{SECRETS}/{}", base(&id));
    let kind = MountKind::Secret {
        required: mount.required,
        owner: owner(mount, 0o400),
        id,
    };
    push(stage, mounts, mount, Some(default), kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_cleaned_as_paths() {
        for (id, expected) in [
            ("/root/.cache/", "/root/.cache"),
            ("a//b/./c", "a/b/c"),
            ("../../x", "../../x"),
            ("/../x", "/x"),
            ("a/../..", ".."),
            ("", "."),
        ] {
            assert_eq!(cleaned(id), expected, "{id}");
        }
    }
}
