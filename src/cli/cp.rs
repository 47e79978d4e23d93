//! `rbuild cp`: files out of an image.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::{Entry, LayerPath};
use rbuild_cache::tree::{Tree, resolve, resolve_parent};

use super::{Context, context::note, lookup, opened};
use crate::exporter::part::Part;
use crate::exporter::{Destination, rootfs};
use crate::graph::Platform;

/// `rbuild cp IMAGE:PATH DEST`.
#[derive(Debug, clap::Args)]
pub struct CpArgs {
    /// Copy what a symbolic link PATH leads to, not the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Keep owners: not possible, a tar keeps them
    #[arg(short, long, hide = true)]
    archive: bool,
    /// Accepted for docker's sake: there is no progress to leave out
    #[arg(short, long)]
    quiet: bool,
    /// Of an image of several platforms, which one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Name or id of the image and a path in it; of a directory `PATH/.` means what is in it
    #[arg(value_name = "IMAGE:PATH")]
    source: String,
    /// File or directory to copy to; `-` writes a tar to standard output
    #[arg(value_name = "DEST")]
    dest: String,
}

/// Runs the command.
pub fn run(args: CpArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if args.archive {
        bail!(
            "--archive is not supported: files belong to who copies them; `rbuild cp {} - | tar x` keeps owners",
            args.source
        );
    }
    let Some((image, path)) = split(&args.source) else {
        match split(&args.dest) {
            Some(_) => bail!(
                "cannot copy into an image, which never changes: use COPY in a Dockerfile, or rbuild commit"
            ),
            None => bail!("invalid source {:?}: it must be IMAGE:PATH", args.source),
        }
    };
    let store = context.store()?;
    let listed = lookup::find_for(&store, image, args.platform.as_ref())?;
    let opened = opened::open(context, &store, &[&listed.image])?;
    let view = &opened.views[0];

    let wanted = LayerPath::clean(path.as_bytes());
    let follow = args.follow_link || path.ends_with('/') || path.ends_with("/.");
    let found = if follow {
        resolve(view, &wanted)?
    } else {
        resolve_parent(view, &wanted)?
    };
    let entry = found
        .entry
        .with_context(|| format!("could not find the file {path} in {image}"))?;
    if !entry.is_dir() && (path.ends_with('/') || path.ends_with("/.")) {
        bail!("{path} in {image} is not a directory");
    }
    let contents = entry.is_dir() && (path == "." || path.ends_with("/.") || found.path.is_root());
    let name = if found.path.is_root() {
        b"".as_slice()
    } else {
        wanted.name()
    };
    if args.dest == "-" {
        let part = match contents {
            true => Part::inside(view, found.path),
            false => Part::named(view, found.path, name),
        };
        rootfs::write_tar(&part, &Destination::Stdout, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    let devices = to_directory(
        view,
        &entry,
        found.path,
        if contents { b"" } else { name },
        &args.dest,
    )?;
    if devices > 0 {
        note(&format!(
            "warning: left out {devices} devices, which only root could make"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Docker's rules: into a directory that is there, else as what is not there yet. An empty `name` means what is in the
/// directory. Returns how many devices were left out.
fn to_directory(
    view: &dyn Tree,
    entry: &Entry,
    from: LayerPath,
    name: &[u8],
    dest: &str,
) -> anyhow::Result<u64> {
    let path = Path::new(dest);
    if path.is_dir() {
        let part = match name {
            b"" => Part::inside(view, from),
            name => Part::named(view, from, name),
        };
        return rootfs::write_directory(&part, path, None);
    }
    let there = path.symlink_metadata().is_ok();
    if entry.is_dir() {
        ensure!(!there, "cannot copy a directory to {dest}, which is a file");
        return rootfs::write_directory(&Part::inside(view, from), path, None);
    }
    ensure!(
        !dest.ends_with('/'),
        "the destination {dest} does not exist: make the directory first, or leave the slash out"
    );
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    ensure!(
        parent.is_dir(),
        "the directory {} does not exist",
        parent.display()
    );
    let file = path.file_name().map(OsStr::as_bytes);
    let file = file.with_context(|| format!("invalid destination {dest:?}: it names no file"))?;
    rootfs::write_directory(&Part::named(view, from, file), parent, None)
}

/// Image and path of `IMAGE:PATH`. The path follows the first `:/`, else the last colon.
fn split(text: &str) -> Option<(&str, &str)> {
    let (image, path) = match text.find(":/") {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => text.rsplit_once(':')?,
    };
    // `./a:b` and `/a:b` are files.
    (!image.is_empty() && !path.is_empty() && !image.starts_with(['.', '/'])).then_some((image, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_and_path() {
        for (text, wanted) in [
            ("app:/etc", Some(("app", "/etc"))),
            ("app:1:/etc/a:/b", Some(("app:1", "/etc/a:/b"))),
            ("localhost:5000/app:1:etc", Some(("localhost:5000/app:1", "etc"))),
            ("app:etc", Some(("app", "etc"))),
            ("app", None),
            ("app:", None),
            (":/etc", None),
            ("./app:/etc", None),
            ("/app:/etc", None),
        ] {
            assert_eq!(split(text), wanted, "{text}");
        }
    }
}
