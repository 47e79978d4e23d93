//! What did the user type? One file per command: its arguments and what it does with them.

mod attested;
pub mod build;
pub mod commit;
pub mod config;
pub mod confirm;
pub mod context;
pub mod context_ls;
pub mod cp;
pub mod deferred;
pub mod diff;
pub mod doctor;
pub mod du;
pub mod explained;
pub mod export;
pub mod filter;
pub mod format;
mod groups;
pub mod history;
pub mod human;
pub mod image_prune;
pub mod images;
pub mod imagetools;
pub mod import;
pub mod inspect;
pub mod leaving;
pub mod load;
pub mod login;
pub mod lookup;
pub mod manifest;
pub mod members;
pub mod merge;
pub mod mount;
pub mod opened;
pub mod parse;
pub mod prune;
pub mod pull;
pub mod push;
pub mod registry_explain;
pub mod rmi;
pub mod run;
pub mod save;
pub mod search;
pub mod store;
pub mod system;
pub mod tag;
pub mod template;
pub mod trees;
pub mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use config::Config;
pub use context::Context;
use deferred::Deferred;
use groups::Group;

/// Builds OCI images from Dockerfiles: no daemon, no root.
#[derive(Debug, clap::Parser)]
#[command(
    name = "rbuild",
    version,
    max_term_width = 110,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    called: Called,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of all commands")]
struct Global {
    /// Directory of the store [default: $XDG_DATA_HOME/rbuild]
    #[arg(
        long,
        global = true,
        env = "RBUILD_ROOT",
        hide_env_values = true,
        value_name = "DIR"
    )]
    root: Option<PathBuf>,
    /// Configuration file [default: ~/.config/rbuild/config.toml, where there is one]
    #[arg(
        long,
        global = true,
        env = "RBUILD_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    config: Option<PathBuf>,
    /// Talk to this registry without TLS, or with a certificate that nobody vouches for
    #[arg(long, global = true, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,
    /// Most bytes that one archive or layer may become when it is decompressed [default: 1 GiB, 4 GiB for a layer, and beyond that 250 times what it is compressed]
    #[arg(long, global = true, value_name = "SIZE", value_parser = human::size_argument)]
    max_unpacked_size: Option<u64>,
}

#[derive(Debug, clap::Subcommand)]
enum Called {
    #[command(flatten)]
    Plainly(Command),
    #[command(flatten)]
    InGroup(Group),
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Build an image from a Dockerfile; the word may be left out
    Build(Deferred<Box<build::BuildArgs>>),
    /// Make an image of what was changed in the root file system of another
    Commit(Deferred<commit::CommitArgs>),
    /// Look at build contexts
    #[command(subcommand)]
    Context(ContextCommand),
    /// Copy files out of an image
    Cp(Deferred<cp::CpArgs>),
    /// Show what one image has and another has not
    Diff(Deferred<diff::DiffArgs>),
    /// Say what this machine offers to builds, and what changes that
    Doctor(Deferred<doctor::DoctorArgs>),
    /// Show what takes the space of the store
    Du(Deferred<du::DuArgs>),
    /// Write the root file system of an image as a tar
    Export(Deferred<export::ExportArgs>),
    /// Show the steps that an image was made by
    History(Deferred<history::HistoryArgs>),
    /// Remove images without a name
    #[command(hide = true)]
    ImagePrune(Deferred<image_prune::ImagePruneArgs>),
    /// List images
    Images(Deferred<images::ImagesArgs>),
    /// Show and make indexes at registries
    #[command(subcommand, hide = true)]
    Imagetools(imagetools::ImagetoolsCommand),
    /// Create an image from the tar of a root file system
    Import(Deferred<import::ImportArgs>),
    /// Show all that is known about images, as JSON
    Inspect(Deferred<inspect::InspectArgs>),
    /// Load images from an archive
    Load(Deferred<load::LoadArgs>),
    /// Write down what the names of a Dockerfile mean now, for builds with --locked
    Lock(Deferred<Box<build::lock::LockArgs>>),
    /// Log in to a registry
    Login(Deferred<login::LoginArgs>),
    /// Forget the password of a registry
    Logout(Deferred<login::LogoutArgs>),
    /// Make and change manifest lists: images of several platforms under one name
    #[command(subcommand)]
    Manifest(manifest::ManifestCommand),
    /// Make one index of images that were built apart, each for its platform
    Merge(Deferred<merge::MergeArgs>),
    /// Show the files of an image at a path, for reading
    Mount(Deferred<mount::MountArgs>),
    /// Parse a Dockerfile and print what was understood
    Parse(Deferred<parse::ParseArgs>),
    /// Say what a build would run, and why, and what is cached
    Plan(Deferred<Box<build::explain::PlanArgs>>),
    /// Remove build cache
    Prune(Deferred<prune::PruneArgs>),
    /// Fetch an image from its registry
    Pull(Deferred<pull::PullArgs>),
    /// Send an image to its registry
    Push(Deferred<push::PushArgs>),
    /// Look at registries
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Remove images
    Rmi(Deferred<rmi::RmiArgs>),
    /// Run a command in an image, and keep nothing of what it writes
    Run(Deferred<Box<run::RunArgs>>),
    /// Write images to an archive
    Save(Deferred<save::SaveArgs>),
    /// Search for images
    Search(Deferred<search::SearchArgs>),
    /// Look after the store
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show what the store takes, and give it back
    #[command(subcommand)]
    System(system::SystemCommand),
    /// Give an image another name
    Tag(Deferred<tag::TagArgs>),
    /// Take mounts of images away
    #[command(visible_alias = "unmount")]
    Umount(Deferred<mount::UmountArgs>),
    /// Say why the steps of the last build ran
    Why(Deferred<why::WhyArgs>),
}

impl Command {
    /// Whether it works on files that have to go when it is interrupted. A build looks after them itself, and what removes
    /// things has none.
    fn leaves_temporary_files(&self) -> bool {
        use Command as C;
        matches!(
            self,
            C::Imagetools(_)
                | C::Import(_)
                | C::Load(_)
                | C::Manifest(_)
                | C::Merge(_)
                | C::Pull(_)
                | C::Push(_)
                | C::Save(_)
        )
    }
}

/// `rbuild store ...`.
#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// Look for damage, and repair it
    Check(Deferred<store::CheckArgs>),
}

/// `rbuild registry ...`.
#[derive(Debug, clap::Subcommand)]
enum RegistryCommand {
    /// Say which hosts would be asked for an image, and who we are there
    Explain(Deferred<registry_explain::ExplainArgs>),
}

/// `rbuild context ...`.
#[derive(Debug, clap::Subcommand)]
enum ContextCommand {
    /// List the files of a directory that a build could use
    Ls(Deferred<context_ls::LsArgs>),
}

/// The program: parses the arguments, does what they say, and tells how it went. 0 is success, 1 a failure,
/// 2 arguments that cannot be understood.
pub fn run() -> ExitCode {
    if let Err(error) = rbuild_executor::init::stand_behind() {
        context::note(&format!("error: starting as the first process: {error}"));
        return ExitCode::FAILURE;
    }
    rbuild_executor::signals::survive_file_size_limit();
    let mut command = Cli::command();
    let (args, verb) = with_verb(std::env::args_os().collect(), &command);
    let mut matches = understood(&mut command, &args);
    let config = matches.get_one::<PathBuf>("config");
    let config = match Config::load(config.map(PathBuf::as_path)) {
        Ok(config) => config,
        Err(error) => {
            context::note(&format!("error: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let (words, defaults) = config.defaults(&matches);
    if !defaults.is_empty() {
        let mut args = args;
        let place = (verb + words).min(args.len());
        args.splice(place..place, defaults);
        matches = understood(&mut command, &args);
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let context = Context {
        config,
        root: cli.global.root,
        insecure: cli.global.insecure_registry,
        max_unpacked: cli.global.max_unpacked_size,
    };
    let command = match cli.called {
        Called::Plainly(command) => command,
        Called::InGroup(group) => group.command(),
    };
    match dispatch(command, &context) {
        Ok(code) => code,
        Err(error) if error.is::<context::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            context::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The arguments as `command` knows them; where they cannot be understood the program ends.
fn understood(command: &mut clap::Command, args: &[OsString]) -> ArgMatches {
    let matches = command.try_get_matches_from_mut(args);
    matches.unwrap_or_else(|error| error.exit())
}

/// The flags that may stand before the verb; each has a value.
const GLOBAL: [&str; 4] = ["--root", "--config", "--insecure-registry", "--max-unpacked-size"];

/// A call without a verb is a build: `rbuild -t name .` is `rbuild build -t name .`. The verb is the first word
/// that is no global flag and no value of one. Also its place.
fn with_verb(mut args: Vec<OsString>, command: &clap::Command) -> (Vec<OsString>, usize) {
    let mut place = 1;
    while let Some(word) = args.get(place).and_then(|word| word.to_str()) {
        match word {
            _ if GLOBAL.contains(&word) => place += 2,
            _ if word
                .split_once('=')
                .is_some_and(|(flag, _)| GLOBAL.contains(&flag)) =>
            {
                place += 1
            }
            "-h" | "--help" | "-V" | "--version" => return (args, place),
            _ if command.find_subcommand(word).is_some() => return (args, place),
            _ => break,
        }
    }
    if place < args.len() {
        args.insert(place, "build".into());
    }
    (args, place)
}

fn dispatch(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    if command.leaves_temporary_files() {
        leaving::end_in_order()?;
    }
    match command {
        Command::Build(Deferred(args)) => build::run(*args, context),
        Command::Commit(Deferred(args)) => commit::run(args, context),
        Command::Context(ContextCommand::Ls(Deferred(args))) => context_ls::run(args, context),
        Command::Cp(Deferred(args)) => cp::run(args, context),
        Command::Diff(Deferred(args)) => diff::run(args, context),
        Command::Du(Deferred(args)) => du::run(args, context),
        Command::Doctor(Deferred(args)) => doctor::run(args, context),
        Command::Export(Deferred(args)) => export::run(args, context),
        Command::History(Deferred(args)) => history::run(args, context),
        Command::Images(Deferred(args)) => images::run(args, context),
        Command::Import(Deferred(args)) => import::run(args, context),
        Command::Inspect(Deferred(args)) => inspect::run(args, context),
        Command::Load(Deferred(args)) => load::run(args, context),
        Command::ImagePrune(Deferred(args)) => image_prune::run(args, context),
        Command::Imagetools(command) => imagetools::run(command, context),
        Command::Manifest(command) => manifest::run(command, context),
        Command::Merge(Deferred(args)) => merge::run(args, context),
        Command::Lock(Deferred(args)) => build::lock::run(*args, context),
        Command::Login(Deferred(args)) => login::login(args, context),
        Command::Logout(Deferred(args)) => login::logout(args),
        Command::Mount(Deferred(args)) => mount::mount(args, context),
        Command::Parse(Deferred(args)) => parse::run(args, context),
        Command::Plan(Deferred(args)) => build::explain::plan(*args, context),
        Command::Prune(Deferred(args)) => prune::run(args, context),
        Command::Pull(Deferred(args)) => pull::run(args, context),
        Command::Push(Deferred(args)) => push::run(args, context),
        Command::Registry(RegistryCommand::Explain(Deferred(args))) => registry_explain::run(args, context),
        Command::Rmi(Deferred(args)) => rmi::run(args, context),
        Command::Run(Deferred(args)) => run::run(*args, context),
        Command::Save(Deferred(args)) => save::run(args, context),
        Command::Store(StoreCommand::Check(Deferred(args))) => store::check(&args, context),
        Command::Search(Deferred(args)) => search::run(args, context),
        Command::System(command) => system::run(command, context),
        Command::Tag(Deferred(args)) => tag::run(args, context),
        Command::Umount(Deferred(args)) => mount::umount(args, context),
        Command::Why(Deferred(args)) => why::run(args, context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_verb_is_a_build() {
        for (given, meant) in [
            ("rbuild -t a .", "rbuild build -t a ."),
            ("rbuild .", "rbuild build ."),
            ("rbuild --root /r -t a .", "rbuild --root /r build -t a ."),
            ("rbuild --root=/r images", "rbuild --root=/r images"),
            (
                "rbuild --max-unpacked-size=1g .",
                "rbuild --max-unpacked-size=1g build .",
            ),
            ("rbuild images", "rbuild images"),
            ("rbuild --version", "rbuild --version"),
            ("rbuild", "rbuild"),
        ] {
            let args = given.split(' ').map(OsString::from).collect();
            let meant: Vec<OsString> = meant.split(' ').map(OsString::from).collect();
            assert_eq!(with_verb(args, &Cli::command()).0, meant);
        }
    }
}
