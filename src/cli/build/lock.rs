//! `rbuild lock`: what the names of a Dockerfile mean now, written down for `rbuild --locked`.

use std::process::ExitCode;

use anyhow::{bail, ensure};

use super::args::BuildArgs;
use super::call::Method;
use super::locked::{Holding, Locked, Pins, is_meant};
use super::options::BuildOptions;
use super::{Build, Context, progress, report, result_file};
use crate::cli::context::print;
use crate::error::BuildError;
use crate::progress::Renderer as _;
use crate::source::lock::Lock;

/// `rbuild lock`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("check", |arg| arg.help("Write nothing, and fail if something is not what the lock file says")))]
#[command(mut_arg("outputs", |arg| arg.short(None).hide(true)))]
#[command(mut_arg("lock_file", |arg| arg.short('o').help("The lock file [default: the Dockerfile's name and .lock, beside it]")))]
#[command(mut_args(|arg| {
    let hidden = ["call", "iidfile", "load", "locked", "metadata_file", "pull", "push"].contains(&arg.get_id().as_str());
    if hidden { arg.hide(true) } else { arg }
}))]
pub struct LockArgs {
    /// Look up again what is in the lock file: all that this build uses, or only NAME, an image, an address or a repository
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "", value_delimiter = ',')]
    update: Option<Vec<String>>,
    /// Remove the entries that this build does not use
    #[arg(long, conflicts_with = "check")]
    prune: bool,
    #[command(flatten)]
    build: BuildArgs,
}

/// Runs the command. What has moved is exit status 1 with `--check`.
pub fn run(args: LockArgs, context: &Context) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.build.makes_something(),
        "lock makes no image: leave out --output, --push, --load, --iidfile and --metadata-file"
    );
    let options = BuildOptions::new(args.build)?;
    ensure!(
        !options.locked.locked,
        "lock looks names up and --locked does not: leave out --locked"
    );
    let checks = options.call.method == Method::Check;
    ensure!(
        checks || options.call.method == Method::Build,
        "lock is about a build: leave out --call"
    );
    let holding = match &args.update {
        _ if checks && args.update.is_some() => {
            bail!("--check looks at all of the lock file: leave out --update")
        }
        _ if checks => Holding::None,
        None => Holding::Known,
        Some(names) if names.iter().all(String::is_empty) => Holding::None,
        Some(names) => Holding::But(names.clone()),
    };
    let progress = progress(&options);
    let build = Build::new(&options, context, &progress)?;
    let mut source = String::new();
    let found = build.found(&mut source, holding.clone());
    progress.finish();
    let (path, old, found) = match found {
        Ok(found) => found,
        Err(error) => {
            report::print(&error, &source, &progress);
            return Ok(ExitCode::FAILURE);
        }
    };
    let shown = path.display();
    if let Holding::But(names) = &holding {
        for wanted in names {
            ensure!(
                found.names().any(|name| is_meant(wanted, name)),
                "this build uses nothing that is called {wanted:?}: it uses {}",
                found.names().collect::<Vec<_>>().join(", ")
            );
        }
    }
    let mut new = if args.prune { Lock::default() } else { old.clone() };
    new.merge(found.clone());
    let changes = changes(&old, &new);
    if checks {
        print(&changes)?;
        if new != old {
            print(format!(
                "{shown} is not what this build would use: `rbuild lock --update` renews it\n"
            ))?;
            return Ok(ExitCode::FAILURE);
        }
        print(format!("{shown} is up to date\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if new != old || !path.exists() {
        result_file::write(&path, new.text().as_bytes())?;
    }
    if options.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let unused = new.names().filter(|name| found.value(name).is_none()).count();
    let hint = match unused {
        0 => String::new(),
        unused => format!("; {unused} are not used by this build, and --prune removes them"),
    };
    print(format!(
        "{changes}{shown} has {} entries{hint}\n",
        new.names().count()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A line for each entry that is not what it was.
fn changes(old: &Lock, new: &Lock) -> String {
    let mut text = String::new();
    for name in new.names() {
        match (old.value(name), new.value(name)) {
            (None, Some(value)) => text.push_str(&format!("added    {name} {value}\n")),
            (Some(was), Some(is)) if was != is => {
                text.push_str(&format!("moved    {name} {was} -> {is}\n"));
            }
            _ => {
                let platforms = |lock: &Lock| lock.images.get(name).map(|image| image.platforms.clone());
                let known = platforms(old).unwrap_or_default();
                let more = platforms(new).unwrap_or_default().into_iter();
                for (platform, digest) in more.filter(|(platform, _)| !known.contains_key(platform)) {
                    text.push_str(&format!("added    {name} for {platform} {digest}\n"));
                }
            }
        }
    }
    for name in old.names().filter(|name| new.value(name).is_none()) {
        text.push_str(&format!("removed  {name}\n"));
    }
    text
}

impl Build<'_> {
    /// Where the lock file is, what it has, and what this build uses.
    fn found(
        &self,
        source: &mut String,
        holding: Holding,
    ) -> Result<(std::path::PathBuf, Lock, Lock), BuildError> {
        let dockerfile = self.parse(source)?;
        let store = self.context.store()?;
        let registry = self.context.registry();
        let images = self.images(&store, &registry);
        let remotes = self.remotes(&store, &registry)?;
        let pins = Pins::read(self.lock_path()?, holding)?;
        let resolver = Locked {
            pins: &pins,
            announced: self.announced(&images, Some(&remotes)),
        };
        self.lower_by(dockerfile, &resolver)?;
        let path = pins.path().to_owned();
        let (old, found) = pins.into_found();
        Ok((path, old, found))
    }
}
