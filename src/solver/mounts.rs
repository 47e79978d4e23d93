//! What a RUN has mounted: from the graph's description to what the executor mounts, and back when the step has ended.

use std::path::Path;
use std::time::{Duration, Instant};

use rbuild_cache::layer::{CopiedRoot, LayerPath, Snapshot};
use rbuild_cache::tree;
use rbuild_cache::{
    CacheMount, CacheMountFound, CacheMountRequest, CacheUse, Key, KeyBuilder, LayerId, StoreError,
};
use rbuild_executor::{Cancel, Executor, Mount, MountSource, Scratch, Secret, SecretVariable, Snapshots};

use super::ops::{Sources, select};
use super::root::trees;
use super::{Inputs, interrupted};
use crate::error::BuildError;
use crate::graph::{CacheOp, CacheSharing, CopyOp, CopySource, ExecOp, Location, MountKind, MountOp};
use crate::progress::{Event, Stream};
use crate::source::agent::Forwarded;

/// How often a step looks whether a cache is free.
const CACHE_POLL: Duration = Duration::from_millis(50);

/// The layers of a vertex that is read by a mount, and its definition key.
pub(super) struct MountInput {
    pub(super) layers: Vec<LayerId>,
    pub(super) key: Key,
}

/// Who asks: the step, for messages.
pub(super) struct Asking<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) cancel: &'a Cancel,
    pub(super) vertex: &'a Key,
    pub(super) name: &'a str,
    pub(super) location: Option<&'a Location>,
    pub(super) executor: &'a Executor,
}

/// The mounts of a step, and what has to live as long as it runs.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) mounts: Vec<Mount>,
    pub(super) secret_env: Vec<SecretVariable>,
    pub(super) secrets: Vec<Secret>,
    caches: Vec<(Key, CacheMount)>,
    agents: Vec<Forwarded>,
    /// Where steps write what is thrown away.
    scratch: Vec<Snapshot>,
    /// What steps see where no overlay can be mounted, and may change.
    copies: Vec<CopiedRoot>,
}

impl Prepared {
    /// The step has ended by itself, well or not.
    pub(super) fn finish(self) -> Result<(), BuildError> {
        for (_, cache) in self.caches {
            cache.finish().map_err(BuildError::new)?;
        }
        Ok(())
    }

    fn secret(&mut self, bytes: &std::sync::Arc<[u8]>) -> usize {
        self.secrets.push(Secret::new(bytes.clone()));
        self.secrets.len() - 1
    }

    fn scratch(&mut self, inputs: &Inputs<'_>) -> Result<Scratch, BuildError> {
        let snapshot = inputs.store.begin_snapshot().map_err(BuildError::new)?;
        let scratch = Scratch {
            upper: snapshot.upper().to_owned(),
            work: snapshot.work().to_owned(),
        };
        self.scratch.push(snapshot);
        Ok(scratch)
    }
}

/// Gets all that `op` mounts; `read` are the vertices that it names.
pub(super) fn prepare(asking: &Asking<'_>, op: &ExecOp, read: &[MountInput]) -> Result<Prepared, BuildError> {
    let mut prepared = Prepared::default();
    take_caches(asking, op, read, &mut prepared)?;
    for mount in &op.mounts {
        if let Some((source, path)) = source(asking, mount, read, &mut prepared)? {
            prepared.mounts.push(Mount {
                target: mount.target.clone(),
                source,
                path,
                read_only: mount.read_only,
            });
        }
    }
    for variable in &op.secret_env {
        let bytes = match asking.inputs.secrets.get(&variable.id) {
            Some(value) => value.bytes().clone(),
            None if variable.required => return Err(no_secret(&variable.id)),
            // Set, but empty (spec M3).
            None => Vec::new().into(),
        };
        let secret = prepared.secret(&bytes);
        prepared.secret_env.push(SecretVariable {
            name: variable.name.clone(),
            secret,
        });
    }
    Ok(prepared)
}

/// The source of a mount and the path in it; `None` for one that may be left out.
fn source(
    asking: &Asking<'_>,
    mount: &MountOp,
    read: &[MountInput],
    prepared: &mut Prepared,
) -> Result<Option<(MountSource, String)>, BuildError> {
    let whole = || "/".to_owned();
    let inputs = asking.inputs;
    Ok(Some(match &mount.kind {
        MountKind::Bind { input, source } if asking.executor.snapshots() == Snapshots::Copy => {
            let layers = match input {
                None => &[],
                Some(input) => {
                    let read = input_of(read, *input)?;
                    look_for(inputs, &read.layers, source)?;
                    read.layers.as_slice()
                }
            };
            let copy = inputs.store.copy_of(layers).map_err(BuildError::new)?;
            let shown = MountSource::Host {
                path: copy.path(),
                create: false,
                recursive: false,
            };
            prepared.copies.push(copy);
            (shown, source.clone())
        }
        MountKind::Bind { input, source } => {
            let lowers = match input {
                None => Vec::new(),
                Some(input) => {
                    let read = input_of(read, *input)?;
                    look_for(inputs, &read.layers, source)?;
                    trees(inputs.store, &read.layers)?
                }
            };
            let scratch = match mount.read_only {
                true => None,
                false => Some(prepared.scratch(inputs)?),
            };
            (MountSource::Layers { lowers, scratch }, source.clone())
        }
        MountKind::Cache(cache) => {
            let key = cache_key(cache, read)?;
            let taken = prepared.caches.iter().find(|(known, _)| *known == key);
            let (_, taken) = taken.ok_or_else(|| BuildError::message("a cache was not taken"))?;
            let path = match cache.seed {
                Some(_) => whole(),
                None => cache.source.clone(),
            };
            let source = MountSource::Host {
                path: taken.path().to_owned(),
                create: true,
                recursive: false,
            };
            (source, path)
        }
        MountKind::Tmpfs { size } => (MountSource::Memory { size: *size }, whole()),
        MountKind::Secret { id, required, owner } => match inputs.secrets.get(id) {
            Some(value) => {
                let secret = prepared.secret(value.bytes());
                let (mode, uid, gid) = (owner.mode, owner.uid, owner.gid);
                let source = MountSource::Secret {
                    secret,
                    mode,
                    uid,
                    gid,
                };
                (source, whole())
            }
            None if *required => return Err(no_secret(id)),
            None => return Ok(None),
        },
        MountKind::Ssh { id, required, owner } => match inputs.agents.forward(id, inputs.store)? {
            Some(forwarded) => {
                let source = MountSource::Socket {
                    path: forwarded.path(),
                    mode: owner.mode,
                    uid: owner.uid,
                    gid: owner.gid,
                };
                prepared.agents.push(forwarded);
                (source, whole())
            }
            None if *required => return Err(no_agent(id)),
            None => return Ok(None),
        },
        MountKind::Volume { path, overlay: false } => {
            let source = MountSource::Host {
                path: path.clone(),
                create: false,
                recursive: true,
            };
            (source, whole())
        }
        MountKind::Volume { path, overlay: true } => {
            let source = MountSource::Layers {
                lowers: vec![path.clone()],
                scratch: Some(prepared.scratch(inputs)?),
            };
            (source, whole())
        }
    }))
}

fn input_of(read: &[MountInput], number: usize) -> Result<&MountInput, BuildError> {
    read.get(number)
        .ok_or_else(|| BuildError::message("a mount reads something that the step does not name"))
}

fn no_secret(id: &str) -> BuildError {
    BuildError::message(format!("secret {id}: not found")).hint(Some(format!(
        "give --secret id={id},src=FILE or --secret id={id},env=NAME"
    )))
}

fn no_agent(id: &str) -> BuildError {
    BuildError::message(format!("no SSH key {id:?} forwarded from the client")).hint(Some(format!(
        "give --ssh {id}, with SSH_AUTH_SOCK set, or --ssh {id}=FILE"
    )))
}

/// Fails when `path` is not there.
fn look_for(inputs: &Inputs<'_>, layers: &[LayerId], path: &str) -> Result<(), BuildError> {
    let clean = LayerPath::clean(path.as_bytes());
    let found = tree::resolve(&inputs.view(layers)?, &clean).map_err(BuildError::new)?;
    match found.entry {
        Some(_) => Ok(()),
        None => Err(BuildError::message(format!("{path:?}: not found"))),
    }
}

/// Whether the mounts of `op` that read its input `number` show the same files of two stacks of layers.
pub(super) fn same_files(
    inputs: &Inputs<'_>,
    op: &ExecOp,
    number: usize,
    one: &[LayerId],
    other: &[LayerId],
) -> Result<bool, BuildError> {
    let all_there = |layers: &[LayerId]| layers.iter().all(|id| inputs.store.layer_exists(id));
    if !all_there(one) || !all_there(other) {
        return Ok(false);
    }
    for mount in &op.mounts {
        let path = match &mount.kind {
            MountKind::Bind {
                input: Some(input),
                source,
            } if *input == number => source.as_str(),
            // All of it was taken for the cache.
            MountKind::Cache(cache) if cache.seed == Some(number) => "/",
            _ => continue,
        };
        let selected = |layers: &[LayerId]| -> Result<Key, BuildError> {
            let all = CopyOp {
                sources: vec![CopySource::literal(path)],
                // It is seen, with its mode and its owner.
                itself: true,
                ..CopyOp::of_all()
            };
            Ok(select::selection(&all, Sources::of(&inputs.view(layers)?))?.key())
        };
        if selected(one)? != selected(other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Digest of all that makes a cache another one (spec M8).
fn cache_key(cache: &CacheOp, read: &[MountInput]) -> Result<Key, BuildError> {
    let mut key = KeyBuilder::new("cache mount/1");
    key.field("id", cache.id.as_bytes())
        .field("mode", &cache.owner.mode.to_le_bytes())
        .field("uid", &cache.owner.uid.to_le_bytes())
        .field("gid", &cache.owner.gid.to_le_bytes());
    if let Some(seed) = cache.seed {
        key.field("from", &input_of(read, seed)?.key.0)
            .field("source", cache.source.as_bytes());
    }
    Ok(key.finish())
}

/// Takes all caches of a step, in an order that is the same for all steps, so that two never wait for each other.
fn take_caches(
    asking: &Asking<'_>,
    op: &ExecOp,
    read: &[MountInput],
    prepared: &mut Prepared,
) -> Result<(), BuildError> {
    let mut wanted: Vec<(Key, &CacheOp, CacheUse)> = Vec::new();
    for mount in &op.mounts {
        let MountKind::Cache(cache) = &mount.kind else {
            continue;
        };
        let sharing = match cache.sharing {
            // It is moved to the step that uses it.
            CacheSharing::Shared if !asking.executor.can_mount() => CacheUse::Locked,
            CacheSharing::Shared => CacheUse::Shared,
            CacheSharing::Private => CacheUse::Private,
            CacheSharing::Locked => CacheUse::Locked,
        };
        let key = cache_key(cache, read)?;
        // The same cache at two places of one step is taken once, by the one who lets in the fewest others.
        match wanted.iter_mut().find(|(known, ..)| *known == key) {
            Some((.., known)) if *known == CacheUse::Shared => *known = sharing,
            Some(_) => {}
            None => wanted.push((key, cache, sharing)),
        }
    }
    wanted.sort_by_key(|(key, ..)| key.0);
    for (key, cache, sharing) in wanted {
        let taken = take_cache(asking, key, cache, sharing, read)?;
        let left: Vec<&str> = taken.left_by().collect();
        if !left.is_empty() {
            asking.log(&format!(
                "the cache mount {} was being written by a step that was killed ({}); its files are used as they are\n",
                cache.id,
                left.join(", ")
            ));
        }
        prepared.caches.push((key, taken));
    }
    Ok(())
}

fn take_cache(
    asking: &Asking<'_>,
    key: Key,
    cache: &CacheOp,
    sharing: CacheUse,
    read: &[MountInput],
) -> Result<CacheMount, BuildError> {
    let request = CacheMountRequest {
        key,
        id: &cache.id,
        sharing,
        mode: cache.owner.mode,
        owner: (cache.owner.uid, cache.owner.gid),
        user: asking.name,
    };
    let seed: &[LayerId] = match cache.seed {
        Some(number) => &input_of(read, number)?.layers,
        None => &[],
    };
    let store = asking.inputs.store;
    let mut fill = |data: &Path| -> Result<(), StoreError> {
        seed.iter()
            .try_for_each(|layer| store.layer(layer)?.unpack_to(data))
    };
    let mut said = false;
    loop {
        let found = store.cache_mount(&request, &mut fill);
        match found.map_err(BuildError::new)? {
            CacheMountFound::Ready(mount) => return Ok(mount),
            CacheMountFound::Busy(users) => {
                if !std::mem::replace(&mut said, true) {
                    let users = match users.is_empty() {
                        true => "another step".to_owned(),
                        false => users.join(", "),
                    };
                    asking.log(&format!(
                        "waiting for the cache mount {}, used by {users}\n",
                        cache.id
                    ));
                }
            }
        }
        if asking.cancel.is_cancelled() {
            return Err(interrupted());
        }
        std::thread::sleep(CACHE_POLL);
    }
}

impl Asking<'_> {
    /// A line in the log of the step.
    fn log(&self, line: &str) {
        self.inputs.sink.emit(Event::Log {
            vertex: *self.vertex,
            stream: Stream::Stderr,
            data: line.as_bytes().to_vec(),
            at: Instant::now(),
        });
    }
}
