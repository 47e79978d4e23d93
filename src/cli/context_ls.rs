//! `rbuild context ls`: which files of a directory a build could use, and which pattern decided.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use rbuild_cache::layer::{Entry, Kind, LayerPath};
use rbuild_cache::tree::Tree;
use serde_json::json;

use super::context::print;
use super::{Context, human};
use crate::source::ignore_file::IgnoreFile;
use crate::source::local::LocalContext;

/// `rbuild context ls [PATH]`.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Dockerfile whose ignore file counts [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Ignore file to use instead of .dockerignore
    #[arg(long, value_name = "PATH")]
    ignorefile: Option<PathBuf>,
    /// Tell what decided about this path of the context, instead of listing
    #[arg(long, value_name = "PATH")]
    why: Vec<String>,
    /// How the list is written: table or json (a line for each file)
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// The directory
    #[arg(value_name = "PATH", default_value = ".")]
    context: PathBuf,
}

/// Runs the command.
pub fn run(args: LsArgs, _context: &Context) -> anyhow::Result<ExitCode> {
    let dockerfile = args.file.unwrap_or_else(|| args.context.join("Dockerfile"));
    let ignore = IgnoreFile::find(Some(&args.context), Some(&dockerfile), args.ignorefile.as_deref())?;
    let matcher = ignore.as_ref().map(IgnoreFile::matcher).transpose()?;
    let tree = LocalContext::open(&args.context, matcher, None)?;
    if args.why.is_empty() {
        return list(&tree, args.format == "json");
    }
    let mut text = String::new();
    for path in &args.why {
        text.push_str(&format!("{}\n", why(&tree, ignore.as_ref(), path)?));
    }
    print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(tree: &LocalContext, as_json: bool) -> anyhow::Result<ExitCode> {
    let (mut files, mut bytes) = (0u64, 0u64);
    let mut waiting = vec![LayerPath::root()];
    while let Some(directory) = waiting.pop() {
        let mut text = Vec::new();
        let entries = tree.read_dir(&directory)?;
        for entry in &entries {
            let size = match entry.kind {
                Kind::File { size } => Some(size),
                _ => None,
            };
            files += u64::from(!entry.is_dir());
            bytes += size.unwrap_or(0);
            if as_json {
                let path = String::from_utf8_lossy(entry.path.as_bytes());
                let line = json!({"path": path, "type": kind(entry), "size": size});
                text.extend_from_slice(format!("{line}\n").as_bytes());
            } else {
                let size = size.map_or_else(|| "-".to_owned(), human::size);
                text.extend_from_slice(format!("{size:>8}  ").as_bytes());
                text.extend_from_slice(entry.path.as_bytes());
                text.extend_from_slice(if entry.is_dir() { b"/\n" } else { b"\n" });
            }
        }
        print(text)?;
        // The first name is looked into first.
        let below = entries.into_iter().filter(Entry::is_dir).map(|entry| entry.path);
        waiting.extend(below.rev());
    }
    if !as_json {
        let files = if files == 1 {
            "1 file".to_owned()
        } else {
            format!("{files} files")
        };
        print(format!("{files}, {}\n", human::size(bytes)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn kind(entry: &Entry) -> &'static str {
    match entry.kind {
        Kind::File { .. } => "file",
        Kind::Directory { .. } => "directory",
        Kind::Symlink { .. } => "symlink",
        Kind::Fifo => "fifo",
        _ => "device",
    }
}

/// One line: what becomes of `path`, and the pattern that had the last word.
fn why(tree: &LocalContext, ignore: Option<&IgnoreFile>, path: &str) -> anyhow::Result<String> {
    let clean: Vec<&str> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if clean.contains(&"..") {
        bail!("{path:?} is not a path of the context");
    }
    let clean = clean.join("/");
    let place = LayerPath::clean(clean.as_bytes());
    let there = tree.lookup(&place)?.is_some();
    let Some(ignore) = ignore else {
        return Ok(match there {
            true => format!("{clean}: used, there is no ignore file"),
            false => format!("{clean}: not found"),
        });
    };
    let matcher = ignore.matcher()?;
    let decided = matcher
        .deciding(clean.as_bytes())
        .map(|index| &ignore.lines[index]);
    let by = |number: usize, pattern: &str| format!("{}:{number}: {pattern}", ignore.path.display());
    Ok(match decided {
        None if there => format!(
            "{clean}: used, no pattern of {} matches it",
            ignore.path.display()
        ),
        None => format!("{clean}: not found"),
        Some(line) if line.pattern.starts_with('!') => {
            let verdict = if there {
                "used"
            } else {
                "not found, it would be used"
            };
            format!("{clean}: {verdict}, by {}", by(line.number, &line.pattern))
        }
        Some(line) if there => format!(
            "{clean}: used for what is below it, else left out by {}",
            by(line.number, &line.pattern)
        ),
        Some(line) => format!("{clean}: left out, by {}", by(line.number, &line.pattern)),
    })
}
