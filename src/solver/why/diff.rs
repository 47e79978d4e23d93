//! What is different between two operations that were written in the same place. What is in a key is looked at, in the
//! order of what an author would want to know first; fields are taken apart by name, so that a new one is not forgotten.

use rbuild_executor::Capabilities as Held;

use super::cause::Cause;
use super::record::Node;
use crate::graph::{
    Capabilities, CopyOp, CopySource, ExecOp, MkdirOp, MountKind, MountOp, NetworkMode, Op, SecretEnv,
    SystemCalls, Ulimit, Variable,
};

/// The difference between what two steps do, not between what they read; `None` when they do the same.
pub(super) fn operation(old: &Node, new: &Node) -> Option<Cause> {
    match (&old.op, &new.op) {
        (Op::Exec(before), Op::Exec(after)) => exec(old, new, before, after),
        (Op::Copy(before), Op::Copy(after)) => copy(old, new, before, after),
        (Op::Mkdir(before), Op::Mkdir(after)) => mkdir(old, new, before, after),
        (before, after) if before == after => None,
        _ => Some(text(old, new)),
    }
}

/// Another platform.
pub(super) fn platform(old: &Node, new: &Node) -> Option<Cause> {
    setting("platform", &old.platform, &new.platform)
}

/// A setting with these values, if they are not the same.
pub(super) fn setting<T: PartialEq + ToString>(name: &str, from: &T, to: &T) -> Option<Cause> {
    (from != to).then(|| Cause::Setting {
        name: name.to_owned(),
        from: Some(from.to_string()),
        to: Some(to.to_string()),
    })
}

/// A setting that may be absent.
pub(super) fn optional<T: PartialEq + ToString>(
    name: &str,
    from: &Option<T>,
    to: &Option<T>,
) -> Option<Cause> {
    (from != to).then(|| Cause::Setting {
        name: name.to_owned(),
        from: from.as_ref().map(T::to_string),
        to: to.as_ref().map(T::to_string),
    })
}

/// What was written, if that differs.
pub(super) fn written(old: &Node, new: &Node) -> Option<Cause> {
    (!has_same_text(old, new)).then(|| text(old, new))
}

fn text(old: &Node, new: &Node) -> Cause {
    let shown = |node: &Node| node.written.as_ref().map_or(&node.name, |it| &it.text).clone();
    let (mut from, mut to) = (shown(old), shown(new));
    if from == to {
        // Something that is expanded in a way of its own.
        (from, to) = (old.name.clone(), new.name.clone());
    }
    Cause::Instruction { from, to }
}

fn has_same_text(old: &Node, new: &Node) -> bool {
    let text = |node: &'_ Node| node.written.as_ref().map(|written| written.text.clone());
    text(old) == text(new)
}

fn exec(old: &Node, new: &Node, before: &ExecOp, after: &ExecOp) -> Option<Cause> {
    let ExecOp {
        args,
        env,
        // In no key.
        proxy_env: _,
        cwd,
        user,
        network,
        insecure,
        hostname,
        extra_hosts,
        ulimits,
        confinement,
        mounts: mounted,
        secret_env,
        script,
        platform: machine,
    } = after;
    let ran = setting("platform", &before.platform, machine).or_else(|| platform(old, new));
    if ran.is_some() {
        return ran;
    }
    if before.args != *args || before.script != *script {
        return Some(if has_same_text(old, new) {
            shell(&before.args, args)
        } else {
            text(old, new)
        });
    }
    // A mounted agent is also a variable that nobody wrote.
    if agents(&before.mounts).ne(agents(mounted)) {
        return Some(mounts(&before.mounts, mounted));
    }
    if before.env != *env {
        return Some(environment(old, new, &before.env, env));
    }
    if before.mounts != *mounted {
        return Some(mounts(&before.mounts, mounted));
    }
    let names = |list: &[(String, String)]| {
        let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
        names.join(" ")
    };
    let security = |insecure: bool| if insecure { "insecure" } else { "sandbox" };
    setting("user", &before.user, user)
        .or_else(|| setting("workdir", &before.cwd, cwd))
        .or_else(|| setting("network", &network_name(before.network), &network_name(*network)))
        .or_else(|| setting("security", &security(before.insecure), &security(*insecure)))
        .or_else(|| setting("secret-env", &secrets(&before.secret_env), &secrets(secret_env)))
        .or_else(|| {
            let (from, to) = (&before.confinement, confinement);
            let held = |it: &Option<Capabilities>| {
                let held = it.map(|Capabilities { held, demanded }| Held { held, demanded });
                let tweaks = held.unwrap_or_default().tweaks();
                if tweaks.is_empty() {
                    "usual".to_owned()
                } else {
                    tweaks
                }
            };
            // Demanded and usual ones look alike.
            let capabilities = (from.capabilities != to.capabilities).then(|| Cause::Setting {
                name: "capabilities".to_owned(),
                from: Some(held(&from.capabilities)),
                to: Some(held(&to.capabilities)),
            });
            capabilities
                .or_else(|| {
                    let differ = from.system_calls != to.system_calls;
                    differ.then(|| Cause::Setting {
                        name: "seccomp".to_owned(),
                        from: Some(calls(&from.system_calls)),
                        to: Some(calls(&to.system_calls)),
                    })
                })
                .or_else(|| {
                    setting(
                        "no-new-privileges",
                        &from.no_new_privileges,
                        &to.no_new_privileges,
                    )
                })
                .or_else(|| optional("shm-size", &from.shm_size, &to.shm_size))
        })
        .or_else(|| setting("hostname", &before.hostname, hostname))
        .or_else(|| setting("add-host", &names(&before.extra_hosts), &names(extra_hosts)))
        .or_else(|| setting("ulimit", &limits(&before.ulimits), &limits(ulimits)))
}

/// Command lines of the same text: what runs it is another, or what it is expanded to.
fn shell(before: &[String], after: &[String]) -> Cause {
    let split = |args: &[String]| {
        let (command, shell) = args
            .split_last()
            .map_or(("", &[][..]), |(last, rest)| (last, rest));
        (command.to_owned(), shell.join(" "))
    };
    let ((old, old_shell), (new, new_shell)) = (split(before), split(after));
    setting("shell", &old_shell, &new_shell).unwrap_or(Cause::Instruction { from: old, to: new })
}

fn network_name(network: NetworkMode) -> &'static str {
    match network {
        NetworkMode::Default => "default",
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
    }
}

fn calls(calls: &SystemCalls) -> String {
    match calls {
        SystemCalls::Usual => "usual".to_owned(),
        SystemCalls::Unconfined => "unconfined".to_owned(),
        SystemCalls::Profile(text) => {
            let digest = rbuild_cache::Digest::of(text.as_bytes());
            format!("a profile ({})", &digest.hex()[..12])
        }
    }
}

/// Secrets that are variables, as `--mount` has them.
fn secrets(list: &[SecretEnv]) -> String {
    let one = |secret: &SecretEnv| {
        let SecretEnv { name, id, required } = secret;
        format!("id={id},env={name}{}", if *required { ",required" } else { "" })
    };
    list.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Limits as `--ulimit` has them.
fn limits(list: &[Ulimit]) -> String {
    let number = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
    let one = |limit: &Ulimit| format!("{}={}:{}", limit.name, number(limit.soft), number(limit.hard));
    list.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Environments that differ. What ARG sets comes first: what ENV sets is often made of it.
fn environment(old: &Node, new: &Node, before: &[String], after: &[String]) -> Cause {
    let split = |entry: &'_ String| -> (String, String) {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.to_owned())
    };
    let before: Vec<(String, String)> = before.iter().map(split).collect();
    let after: Vec<(String, String)> = after.iter().map(split).collect();
    let value = |list: &[(String, String)], name: &str| {
        let found = list.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    };
    let names = after.iter().chain(&before).map(|(name, _)| name.as_str());
    let changed: Vec<&str> = names
        .filter(|name| value(&before, name) != value(&after, name))
        .collect();
    let first = changed.iter().find(|name| is_argument(old, new, name));
    match first.or(changed.first()) {
        Some(name) => variable(old, new, name, value(&before, name), value(&after, name)),
        None => {
            let order = |list: &[(String, String)]| {
                let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
                Some(names.join(" "))
            };
            Cause::Setting {
                name: "order of the environment".to_owned(),
                from: order(&before),
                to: order(&after),
            }
        }
    }
}

fn variables(node: &Node) -> &[Variable] {
    node.written
        .as_ref()
        .map(|written| written.variables.as_slice())
        .unwrap_or_default()
}

fn is_argument(old: &Node, new: &Node, name: &str) -> bool {
    let mut known = variables(new).iter().chain(variables(old));
    known.any(|variable| variable.name == name && variable.is_argument)
}

fn variable(old: &Node, new: &Node, name: &str, from: Option<String>, to: Option<String>) -> Cause {
    let is_argument = is_argument(old, new, name);
    let name = name.to_owned();
    if is_argument {
        Cause::Arg { name, from, to }
    } else {
        Cause::Env { name, from, to }
    }
}

/// A variable in the text of an instruction that is not the one it was.
fn expanded(old: &Node, new: &Node) -> Option<Cause> {
    let value = |node: &'_ Node, name: &str| {
        let found = variables(node).iter().find(|variable| variable.name == name);
        found.map(|variable| variable.value.clone())
    };
    let mut names = variables(new).iter().chain(variables(old)).map(|it| &it.name);
    let name = names.find(|name| value(old, name) != value(new, name))?;
    Some(variable(old, new, name, value(old, name), value(new, name)))
}

fn agents(mounts: &[MountOp]) -> impl Iterator<Item = &MountOp> {
    let is_agent = |mount: &&MountOp| matches!(mount.kind, MountKind::Ssh { .. });
    mounts.iter().filter(is_agent)
}

/// The first mount that differs.
fn mounts(before: &[MountOp], after: &[MountOp]) -> Cause {
    let gone = before.iter().find(|mount| !after.contains(mount));
    let come = after.iter().find(|mount| !before.contains(mount));
    if gone.is_none() && come.is_none() {
        let order = |list: &[MountOp]| Some(list.iter().map(mount).collect::<Vec<_>>().join("; "));
        return Cause::Mount {
            from: order(before),
            to: order(after),
        };
    }
    Cause::Mount {
        from: gone.map(mount),
        to: come.map(mount),
    }
}

/// A mount as a Dockerfile has it, as far as it is in the key.
fn mount(mount: &MountOp) -> String {
    let MountOp {
        target,
        read_only,
        kind,
    } = mount;
    let access = if *read_only { ",ro" } else { ",rw" };
    let mut text = match kind {
        // Files of a local directory lie where they are mounted.
        MountKind::Bind { source, .. } if source == target => "type=bind".to_owned(),
        MountKind::Bind { source, .. } => format!("type=bind,source={source}"),
        MountKind::Cache(cache) => format!(
            "type=cache,id={},sharing={:?},mode={:04o},uid={},gid={}",
            cache.id, cache.sharing, cache.owner.mode, cache.owner.uid, cache.owner.gid
        )
        .to_ascii_lowercase(),
        MountKind::Tmpfs { size } => {
            let size = size.map(|size| format!(",size={size}"));
            format!("type=tmpfs{}", size.unwrap_or_default())
        }
        MountKind::Secret { id, required, owner } => format!(
            "type=secret,id={id},required={required},mode={:04o},uid={},gid={}",
            owner.mode, owner.uid, owner.gid
        ),
        MountKind::Ssh { id, required, owner } => format!(
            "type=ssh,id={id},required={required},mode={:04o},uid={},gid={}",
            owner.mode, owner.uid, owner.gid
        ),
        MountKind::Volume { path, overlay } => format!("volume {}, overlay={overlay}", path.display()),
    };
    text.push_str(&format!(",target={target}{access}"));
    text
}

fn copy(old: &Node, new: &Node, before: &CopyOp, after: &CopyOp) -> Option<Cause> {
    let CopyOp {
        sources,
        dest,
        cwd,
        chown,
        chmod,
        excludes,
        parents,
        link,
        unpack,
        reset_owner,
        itself,
    } = after;
    let written = before.sources != *sources
        || before.dest != *dest
        || before.chown != *chown
        || before.chmod != *chmod
        || before.excludes != *excludes
        || before.parents != *parents
        || before.link != *link
        || before.unpack != *unpack
        || before.reset_owner != *reset_owner
        || before.itself != *itself;
    if written {
        if has_same_text(old, new) {
            return Some(expanded(old, new).unwrap_or_else(|| text(old, new)));
        }
        return Some(heredoc(&before.sources, sources).unwrap_or_else(|| text(old, new)));
    }
    if dest.starts_with('/') {
        return None;
    }
    setting("workdir", &before.cwd, cwd)
}

/// The bodies of heredocs, when these are all that differs between the sources.
fn heredoc(before: &[CopySource], after: &[CopySource]) -> Option<Cause> {
    let mut pairs = before.iter().zip(after);
    let (CopySource::Inline(from), CopySource::Inline(to)) = pairs.find(|(from, to)| from != to)? else {
        return None;
    };
    let same_name = from.name == to.name && before.len() == after.len();
    same_name.then(|| Cause::Instruction {
        from: from.data.clone(),
        to: to.data.clone(),
    })
}

fn mkdir(old: &Node, new: &Node, before: &MkdirOp, after: &MkdirOp) -> Option<Cause> {
    let MkdirOp { path, user } = after;
    if before.path != *path {
        return Some(if has_same_text(old, new) {
            expanded(old, new)
                .or_else(|| setting("workdir", &before.path, path))
                .unwrap_or_else(|| text(old, new))
        } else {
            text(old, new)
        });
    }
    setting("user", &before.user, user)
}
