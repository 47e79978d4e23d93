//! What goes into the keys of steps (design D4, spec 12): all that changes the result, and no more.

use rbuild_cache::{Key, KeyBuilder, LayerId};

use crate::graph::{CopyOp, ExecOp, GitOp, HttpOp, ImageOp, MkdirOp, MountOp, Op, SecretEnv, Ulimit, Vertex};

/// The key of what a vertex does, without its inputs. Steps with equal operation keys differ only
/// in what they are applied to, or were given by different lines of a Dockerfile.
pub fn operation(vertex: &Vertex, epoch: Option<i64>, clamp: Option<i64>) -> Key {
    match &vertex.op {
        Op::Image(op) => image(op),
        Op::Local(op) => KeyBuilder::new("local/1")
            .field("name", op.name.as_bytes())
            .finish(),
        Op::Http(op) => http(op),
        Op::Git(op) => git(op),
        Op::Exec(op) => exec(op, vertex),
        Op::Copy(op) => copy(op, epoch, clamp),
        Op::Mkdir(op) => mkdir(op, epoch, clamp),
    }
}

/// The key of a step before any of its inputs is looked at: operation, the definition keys of its
/// inputs, and what it reads of a local directory (`selection`).
pub fn definition(
    operation: &Key,
    base: Option<&Key>,
    source: Option<&Key>,
    remotes: &[Key],
    selection: Option<&Key>,
    mounts: &[Key],
) -> Key {
    let mut key = KeyBuilder::new("definition/1");
    key.field("operation", &operation.0);
    for (name, input) in [("base", base), ("source", source), ("selection", selection)] {
        if let Some(input) = input {
            key.field(name, &input.0);
        }
    }
    if !remotes.is_empty() {
        key.list("remotes", remotes.iter().map(|remote| remote.0));
    }
    if !mounts.is_empty() {
        key.list("mounts", mounts.iter().map(|mount| mount.0));
    }
    key.finish()
}

/// The key of the files that are there once the layer of `definition`, which knows no base, lies on `base`.
pub fn linked(definition: &Key, base: &Key) -> Key {
    KeyBuilder::new("linked/1")
        .field("layer", &definition.0)
        .field("base", &base.0)
        .finish()
}

/// A file by what is in it, how it is called and when it was modified, wherever it came from.
pub fn http(op: &HttpOp) -> Key {
    let mut key = KeyBuilder::new("http/1");
    key.field("digest", op.digest.as_bytes())
        .field("filename", op.filename.as_bytes());
    if let Some(modified) = op.modified {
        key.field("modified", &modified.to_le_bytes());
    }
    key.finish()
}

/// The files of a commit, wherever it came from and whatever led to it.
pub fn git(op: &GitOp) -> Key {
    let mut key = KeyBuilder::new("git/1");
    key.field("commit", op.commit.as_bytes())
        .field("subdir", op.subdir.as_bytes())
        .field("keep git dir", &[u8::from(op.keep_git_dir)])
        .field("submodules", &[u8::from(op.submodules)])
        .field("commit time", &[u8::from(op.commit_time)])
        .field("lfs", &[u8::from(op.lfs)]);
    if op.keep_git_dir {
        key.field("reference", op.reference.as_bytes());
    }
    if op.keep_git_dir || op.submodules {
        // Where it came from is written in .git, and is what relative submodules are relative to.
        key.field("remote", op.remote.as_bytes());
    }
    key.finish()
}

/// The key of a copy or mkdir by what it really reads: the selected files and the resolved destination.
pub fn content(operation: &Key, selection: Option<&Key>, facts: &Key) -> Key {
    let mut key = KeyBuilder::new("content/1");
    key.field("operation", &operation.0).field("facts", &facts.0);
    if let Some(selection) = selection {
        key.field("selection", &selection.0);
    }
    key.finish()
}

/// The name of what a step was made on among the inputs of a record.
pub const BASE: &str = "base";

/// How a record names the layers that a RUN saw, for a later comparison by content.
pub fn layer_list(layers: &[LayerId]) -> String {
    layers.iter().map(LayerId::as_str).collect::<Vec<_>>().join(",")
}

/// The reverse of [`layer_list`]; `None` for anything that it did not write.
pub fn parse_layer_list(text: &str) -> Option<Vec<LayerId>> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect()
}

/// Layers by diff id: the same files under another compression or name are the same input.
fn image(op: &ImageOp) -> Key {
    let mut key = KeyBuilder::new("image/1");
    key.field("platform", op.platform.to_string().as_bytes());
    key.list(
        "layers",
        op.layers.iter().map(|layer| *layer.diff_id.0.as_bytes()),
    );
    key.finish()
}

fn exec(op: &ExecOp, vertex: &Vertex) -> Key {
    let mut key = KeyBuilder::new("exec/1");
    key.list("args", &op.args)
        .list("env", &op.env)
        .field("cwd", op.cwd.as_bytes())
        .field("user", op.user.as_bytes())
        .field("network", format!("{:?}", op.network).as_bytes())
        .field("insecure", &[u8::from(op.insecure)])
        .field("hostname", op.hostname.as_bytes())
        // Addresses stay out: the same build on another network is the same step.
        .list("hosts", op.extra_hosts.iter().map(|(name, _)| name))
        .field("platform", vertex.platform.to_string().as_bytes());
    if !op.ulimits.is_empty() {
        let limit = |limit: &Ulimit| format!("{} {:?} {:?}", limit.name, limit.soft, limit.hard);
        key.list("ulimits", op.ulimits.iter().map(limit));
    }
    if !op.confinement.is_usual() {
        // serde_json writes struct fields in their order: the text is canonical.
        let text = serde_json::to_string(&op.confinement).unwrap_or_default();
        key.field("confinement", text.as_bytes());
    }
    if !op.mounts.is_empty() {
        // serde_json writes struct fields in their order: the text is canonical.
        let mount = |mount: &MountOp| serde_json::to_string(mount).unwrap_or_default();
        key.list("mounts", op.mounts.iter().map(mount));
    }
    if !op.secret_env.is_empty() {
        let variable = |variable: &SecretEnv| serde_json::to_string(variable).unwrap_or_default();
        key.list("secret env", op.secret_env.iter().map(variable));
    }
    if let Some(script) = &op.script {
        key.field("script path", script.name.as_bytes())
            .field("script", script.data.as_bytes());
    }
    key.finish()
}

fn copy(op: &CopyOp, epoch: Option<i64>, clamp: Option<i64>) -> Key {
    let mut canonical = op.clone();
    if !canonical.dest.starts_with('/') {
        canonical.dest = format!("{}/{}", canonical.cwd, canonical.dest);
    }
    canonical.cwd.clear();
    let mut key = KeyBuilder::new("copy/1");
    // serde_json writes struct fields in their order: the text is canonical.
    key.field(
        "op",
        serde_json::to_string(&canonical).unwrap_or_default().as_bytes(),
    );
    time_fields(&mut key, epoch, clamp);
    key.finish()
}

fn mkdir(op: &MkdirOp, epoch: Option<i64>, clamp: Option<i64>) -> Key {
    let mut key = KeyBuilder::new("mkdir/1");
    key.field("path", op.path.as_bytes())
        .field("user", op.user.as_bytes());
    time_fields(&mut key, epoch, clamp);
    key.finish()
}

/// Directories that a step creates bear the time of `SOURCE_DATE_EPOCH` when it is set; nothing is later than the clamp.
fn time_fields(key: &mut KeyBuilder, epoch: Option<i64>, clamp: Option<i64>) {
    for (name, time) in [("source date epoch", epoch), ("clamp", clamp)] {
        if let Some(time) = time {
            key.field(name, &time.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        Capabilities, Confinement, MountKind, MountOwner, NetworkMode, Platform, SystemCalls,
    };

    fn vertex(op: ExecOp) -> Vertex {
        let platform = Platform::host();
        Vertex {
            op: Op::Exec(Box::new(op)),
            base: None,
            source: None,
            remotes: Vec::new(),
            mounts: Vec::new(),
            name: String::new(),
            location: None,
            written: None,
            no_cache: false,
            platform,
        }
    }

    fn run(change: impl FnOnce(&mut ExecOp)) -> Key {
        let mut op = ExecOp {
            args: vec!["/bin/sh".to_owned(), "-c".to_owned(), "true".to_owned()],
            env: vec!["A=1".to_owned()],
            proxy_env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            network: NetworkMode::Default,
            insecure: false,
            hostname: "h".to_owned(),
            extra_hosts: vec![("db".to_owned(), "10.0.0.1".to_owned())],
            ulimits: Vec::new(),
            confinement: Confinement::default(),
            mounts: Vec::new(),
            secret_env: Vec::new(),
            script: None,
            platform: Platform::host(),
        };
        change(&mut op);
        operation(&vertex(op), None, None)
    }

    #[test]
    fn a_run_depends_on_what_reaches_the_process() {
        let same = run(|_| {});
        assert_eq!(same, run(|op| op.proxy_env.push("HTTP_PROXY=x".to_owned())));
        assert_eq!(same, run(|op| op.extra_hosts[0].1 = "10.0.0.2".to_owned()));
        for other in [
            run(|op| op.args[2].push(' ')),
            run(|op| op.env[0].push('1')),
            run(|op| op.cwd.push('x')),
            run(|op| op.user.push('x')),
            run(|op| op.network = NetworkMode::None),
            run(|op| op.insecure = true),
            run(|op| op.hostname.push('x')),
            run(|op| op.extra_hosts[0].0.push('x')),
            run(|op| op.confinement.system_calls = SystemCalls::Unconfined),
            run(|op| op.confinement.no_new_privileges = true),
            run(|op| op.confinement.shm_size = Some(1 << 20)),
            run(|op| {
                op.confinement.capabilities = Some(Capabilities { held: 1, demanded: 0 });
            }),
            run(|op| op.mounts.push(secret("id", 0o400))),
            run(|op| op.mounts.push(secret("id", 0o440))),
            run(|op| op.mounts.push(secret("other", 0o400))),
            run(|op| {
                op.secret_env.push(SecretEnv {
                    name: "A".to_owned(),
                    id: "id".to_owned(),
                    required: false,
                });
            }),
            run(|op| {
                op.ulimits = vec![Ulimit {
                    name: "nofile".to_owned(),
                    soft: None,
                    hard: Some(5),
                }];
            }),
        ] {
            assert_ne!(same, other);
        }
    }

    fn secret(id: &str, mode: u32) -> MountOp {
        let owner = MountOwner { mode, uid: 0, gid: 0 };
        MountOp {
            target: "/run/secrets/s".to_owned(),
            read_only: true,
            kind: MountKind::Secret {
                id: id.to_owned(),
                required: false,
                owner,
            },
        }
    }

    #[test]
    fn layer_lists_round_trip() {
        let layers = vec![LayerId::from_random([1; 16]), LayerId::from_random([2; 16])];
        assert_eq!(parse_layer_list(&layer_list(&layers)), Some(layers));
        assert_eq!(parse_layer_list(""), Some(Vec::new()));
        assert_eq!(parse_layer_list("../x"), None);
    }
}
