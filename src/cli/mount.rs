//! `rbuild mount` and `umount`: the files of an image at a path, for reading.
//!
//! A mount of an ordinary user lives in a namespace of his and goes with its last process. So there he gets a command that
//! sees it, and root a mount that stays until `umount`. What is mounted keeps its layers from being pruned.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::{Hold, LayerId, Store};
use rbuild_executor::{Executor, Isolation, Snapshots, shown};
use rustix::io::Errno;

use super::context::{note, print};
use super::{Context, human, lookup, opened};
use crate::graph::Platform;
use crate::solver::trial;

/// `rbuild mount [IMAGE [MOUNTPOINT]] [-- COMMAND...]`.
#[derive(Debug, clap::Args)]
pub struct MountArgs {
    /// Of an image of several platforms, which one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Name or id; without it the mounts are listed
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    /// Where to [default: a directory below the store, which is printed]
    #[arg(value_name = "MOUNTPOINT", requires = "image")]
    target: Option<PathBuf>,
    /// A command that has the image at $RBUILD_MOUNT as long as it runs: the only way for an ordinary user
    #[arg(value_name = "COMMAND", last = true, requires = "image")]
    command: Vec<OsString>,
}

/// `rbuild umount IMAGE|MOUNTPOINT...`.
#[derive(Debug, clap::Args)]
pub struct UmountArgs {
    /// Take all mounts away
    #[arg(short, long)]
    all: bool,
    /// Images, by name or id, or where they are mounted
    #[arg(value_name = "IMAGE|MOUNTPOINT", required_unless_present = "all")]
    mounts: Vec<String>,
}

/// Where a command finds the image.
const VARIABLE: &str = "RBUILD_MOUNT";

/// Runs `rbuild mount`.
pub fn mount(args: MountArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let Some(image) = &args.image else {
        print(list(&store)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let listed = lookup::find_for(&store, image, args.platform.as_ref())?;
    let layers = listed.image.layers(&store)?;
    let layers: Vec<LayerId> = layers.iter().map(|layer| layer.id().clone()).collect();
    let (command, target) = (&args.command, args.target.as_deref());
    if !command.is_empty() {
        return with_command(context, &store, &layers, target, command);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "mounting {image}: a mount of an ordinary user ends with the process that made it: give a command that reads it \
         (rbuild mount {image} -- COMMAND, which finds it at ${VARIABLE}), or take the files out with rbuild export or rbuild cp"
    );
    let registry = context.registry();
    context.source(&store, &registry);
    let trees = trial::trees(&store, &layers).map_err(|error| error.cause)?;
    let at = match target {
        None => None,
        Some(path) => Some(
            path.canonicalize()
                .with_context(|| format!("opening the mount point {}", path.display()))?,
        ),
    };
    let mounted = Mounted {
        image: listed.image.id().to_string(),
        path: at.clone().unwrap_or_default(),
    };
    let hold = store.hold(layers, &mounted.to_text())?;
    let shown = || -> anyhow::Result<PathBuf> {
        let make = |name: &str| {
            let path = hold.room.join(name);
            std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
            anyhow::Ok(path)
        };
        let empty = make("empty")?;
        let at = at.map_or_else(|| make("root"), Ok)?;
        shown::mount(&trees, &empty, &at)?;
        Ok(at)
    };
    match shown() {
        Ok(at) => print(format!("{}\n", at.display()))?,
        Err(error) => {
            store.release(&hold)?;
            return Err(error);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `command` where the image is mounted; its exit status is the command's.
fn with_command(
    context: &Context,
    store: &Store,
    layers: &[LayerId],
    target: Option<&Path>,
    command: &[OsString],
) -> anyhow::Result<ExitCode> {
    let scratch = store.temp_dir()?;
    let target = target
        .map(|path| {
            path.canonicalize()
                .with_context(|| format!("opening the mount point {}", path.display()))
        })
        .transpose()?;
    let executor =
        Executor::enter(Isolation::Auto, scratch.path()).context("entering the namespace of the mount")?;
    opened::own(store, &executor);
    let registry = context.registry();
    context.source(store, &registry);
    let mut copy = None;
    let path = if executor.snapshots() == Snapshots::Overlay {
        let trees = trial::trees(store, layers).map_err(|error| error.cause)?;
        let make = |name: &str| {
            let path = scratch.path().join(name);
            std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
            anyhow::Ok(path)
        };
        let empty = make("empty")?;
        let at = target.map_or_else(|| make("image"), Ok)?;
        shown::mount(&trees, &empty, &at)?;
        at
    } else {
        ensure!(
            target.is_none(),
            "nothing can be mounted here: leave the mount point out, and the command finds a copy at ${VARIABLE}"
        );
        note("note: nothing can be mounted here: the command gets a copy");
        copy.insert(store.copy_of(layers)?).path()
    };
    // Its threads would take signals.
    registry.quiesce();
    let [program, arguments @ ..] = command else {
        bail!("no command specified");
    };
    let mut started = std::process::Command::new(program);
    started.args(arguments).env(VARIABLE, &path);
    let status = shown::run(&mut started).with_context(|| format!("starting {}", program.to_string_lossy()));
    drop(executor);
    if path.starts_with(scratch.path()) {
        // It would hold the directory that goes now.
        shown::unmount_at(&path).with_context(|| format!("unmounting {}", path.display()))?;
    }
    drop(copy);
    let status = status?;
    let code = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    let code = code.or_else(|| status.code()).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Runs `rbuild umount`.
pub fn umount(args: UmountArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut code = ExitCode::SUCCESS;
    let mounts = mounts(&store)?;
    let mut wanted: Vec<&(Hold, Mounted)> = Vec::new();
    if args.all {
        wanted.extend(&mounts);
    }
    for text in &args.mounts {
        let found = meant(&store, text, &mounts);
        if found.is_empty() {
            note(&format!("error: {text} is not mounted"));
            code = ExitCode::FAILURE;
        }
        wanted.extend(found);
    }
    for (hold, mounted) in wanted {
        match shown::unmount_at(&mounted.path) {
            // Somebody has unmounted it, or the machine was started again.
            Ok(()) | Err(_) if !is_mounted(&mounted.path) => {
                store.release(hold)?;
                print(format!("{}\n", mounted.path.display()))?;
            }
            Ok(()) => note(&format!(
                "error: {}: something else is mounted there",
                mounted.path.display()
            )),
            Err(error) => {
                let hint = match Errno::from_io_error(&error) {
                    Some(Errno::BUSY) => ": a process still uses it (fuser -m shows which)",
                    Some(Errno::PERM) => ": only root may",
                    _ => "",
                };
                note(&format!(
                    "error: unmounting {}: {error}{hint}",
                    mounted.path.display()
                ));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// An image that is mounted, as its hold tells.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    /// The image's id.
    image: String,
    path: PathBuf,
}

impl Mounted {
    fn to_text(&self) -> String {
        format!("mount {} {}", self.image, self.path.display())
    }

    fn of(hold: &Hold) -> Option<Self> {
        let (image, path) = hold.purpose.strip_prefix("mount ")?.split_once(' ')?;
        Some(Self {
            image: image.to_owned(),
            path: match path {
                "" => hold.room.join("root"),
                path => path.into(),
            },
        })
    }
}

fn mounts(store: &Store) -> anyhow::Result<Vec<(Hold, Mounted)>> {
    let holds = store.holds()?.into_iter();
    Ok(holds
        .filter_map(|hold| Mounted::of(&hold).map(|mounted| (hold, mounted)))
        .collect())
}

fn meant<'a>(store: &Store, text: &str, mounts: &'a [(Hold, Mounted)]) -> Vec<&'a (Hold, Mounted)> {
    let path = Path::new(text).canonicalize().unwrap_or_else(|_| text.into());
    let by_path: Vec<_> = mounts
        .iter()
        .filter(|(_, mounted)| mounted.path == path)
        .collect();
    if !by_path.is_empty() {
        return by_path;
    }
    let Ok(found) = lookup::find(store, text) else {
        return Vec::new();
    };
    let id = found.first().image.id().to_string();
    mounts.iter().filter(|(_, mounted)| mounted.image == id).collect()
}

fn list(store: &Store) -> anyhow::Result<String> {
    let mut rows = vec![["IMAGE ID", "MOUNTPOINT"].map(str::to_owned).to_vec()];
    for (_, mounted) in mounts(store)? {
        let id = mounted.image.trim_start_matches("sha256:");
        let gone = if is_mounted(&mounted.path) {
            ""
        } else {
            " (not mounted any more)"
        };
        rows.push(vec![
            id.chars().take(12).collect(),
            format!("{}{gone}", mounted.path.display()),
        ]);
    }
    Ok(human::table(&rows))
}

/// Whether something is mounted at `path`: it is on another device than the directory above it.
fn is_mounted(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
        StatxFlags::BASIC_STATS,
    );
    found.is_ok_and(|found| {
        StatxAttributes::from_bits_retain(found.stx_attributes.bits()).contains(StatxAttributes::MOUNT_ROOT)
    })
}
