//! `rbuild run`: a command in an image, to try it at once. The sandbox is that of RUN, and what is written is thrown away, or
//! becomes an image.

mod refused;
mod streams;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::Layer;
use rbuild_cache::{LayerId, Store};
use rbuild_executor::{
    Cancel, ExecSpec, Executor, Isolation, Mount, MountSource, Network, NetworkPlan, Rootfs, signals,
};
use serde_json::Value;

use super::Context;
use super::build::handed::Volume;
use super::build::network::{NetworkArgs, NetworkOptions};
use super::build::resources::ResourceArgs;
use super::commit::{Notes, parse_name};
use super::context::note;
use super::lookup::{self, Listed, LookupError};
use super::opened;
use crate::graph::{NetworkMode, Platform};
use crate::registry::{Reference, Registry};
use crate::solver::trial::{self, Trial};

/// `rbuild run IMAGE [COMMAND...]`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Pass standard input on to the command
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Accepted for docker's sake: nothing is ever kept
    #[arg(long)]
    rm: bool,
    /// Variable, NAME=VALUE or NAME for this process' value; may be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File with variables, one in a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Directory or file of this machine to mount; options: ro, rw
    #[arg(short = 'v', long = "volume", value_name = "HOST:PATH[:OPTIONS]")]
    volumes: Vec<Volume>,
    /// Working directory
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// User and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Program in place of the image's; an empty one takes the image's away
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Make an image of this name of what the command leaves, however it ends
    #[arg(long, value_name = "NAME")]
    commit: Option<String>,
    /// Host name inside
    #[arg(long, value_name = "NAME", default_value = "rbuild")]
    hostname: String,
    /// Of an image of several platforms, which one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// When to ask the registry for the image: always, missing or never
    #[arg(long, value_name = "POLICY", default_value = "missing", value_parser = ["always", "missing", "never"])]
    pull: String,
    /// How the command is kept apart from the machine: auto, userns, userns-single, root or chroot
    #[arg(
        long,
        value_name = "TIER",
        default_value = "auto",
        env = "RBUILD_ISOLATION",
        hide_env = true
    )]
    isolation: Isolation,
    /// Name or id of the image, and a command in place of its own: what follows the name is the command's
    #[arg(
        value_name = "IMAGE [COMMAND]",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<String>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    resources: ResourceArgs,
}

impl RunArgs {
    /// Name or id of the image, and the command.
    fn split(&self) -> anyhow::Result<(&str, &[String])> {
        match self.words.split_first() {
            // The words of a command may begin with a dash, no image does.
            Some((flag, _)) if flag.starts_with('-') => match refused::reason(flag) {
                Some(reason) => bail!("{flag} is not supported: {reason}"),
                None => bail!("unknown flag: {flag}, see `rbuild run --help`"),
            },
            Some((image, command)) => Ok((image, command)),
            None => bail!("requires at least 1 argument: the image"),
        }
    }
}

/// The signal that ended the command, 0 for none.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Runs the command; its exit status is the program's.
pub fn run(args: RunArgs, context: &Context) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.tty || !args.interactive || std::io::stdin().is_terminal(),
        "the input device is not a TTY: leave -t out"
    );
    // What is wrong is found before anything is fetched.
    args.split()?;
    let commit = parse_name(args.commit.as_deref())?;
    let resources = args.resources.resources()?;
    let store = context.store()?;
    let registry = context.registry();
    let listed = find(&args, context, &store, &registry)?;
    let config = listed.config()["config"].clone();
    let command = Command::new(&args, &config)?;
    let by = command.args.join(" ");
    let layers = listed.image.layers(&store)?;
    let layers: Vec<LayerId> = layers.iter().map(Layer::id).cloned().collect();
    let mounts = args
        .volumes
        .iter()
        .map(mount)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let tty = args.tty;
    let network = NetworkOptions::new(args.network, &[])?;

    // Before any thread starts.
    let caught = signals::install().context("catching signals")?;
    registry.quiesce();
    let scratch = store.temp_dir()?;
    let executor = Executor::enter_with(args.isolation, scratch.path(), &resources)?;
    opened::own(&store, &executor);
    executor
        .warnings()
        .iter()
        .for_each(|text| note(&format!("warning: {text}")));
    if network.mode == NetworkMode::Default {
        executor.start_network(NetworkPlan {
            reach_machine: network.reach_machine(),
        })?;
    }
    let cancel = Cancel::new().context("catching signals")?;
    let asked = cancel.clone();
    std::thread::spawn(move || {
        while let Ok(signal) = caught.wait() {
            SIGNAL.store(signal, Ordering::Relaxed);
            asked.cancel();
        }
    });
    let spec = |rootfs: Rootfs| {
        let mut spec = ExecSpec::new(rootfs, command.args);
        spec.env = command.env;
        spec.cwd = command.cwd;
        spec.user = command.user;
        spec.hostname = args.hostname;
        spec.terminal = tty;
        spec.mounts = mounts;
        spec.network = match network.mode {
            NetworkMode::None => Network::None,
            NetworkMode::Host => Network::Host,
            NetworkMode::Default => Network::Default,
        };
        spec.extra_hosts = network.add_hosts;
        spec.dns = network.dns;
        spec.certificates = network.certificates;
        spec
    };
    let (streams, relay) = match tty {
        true => streams::terminal(args.interactive),
        false => streams::pipes(args.interactive),
    }
    .context("making what the command reads and writes")?;
    let image = Trial {
        layers: &layers,
        platform: &listed.image.facts.platform,
        keep: commit.is_some(),
    };
    let ended = trial::run(&store, &executor, &image, spec, streams, &cancel);
    relay.finish();
    let code = match (ended, SIGNAL.load(Ordering::Relaxed)) {
        (Ok((exit, layer)), _) => {
            if let (Some(layer), Some(name)) = (layer, commit) {
                let id =
                    Notes::default().put(&store, &listed, Some(&layer), &by, std::slice::from_ref(&name))?;
                note(&format!("committed {}: {id}", name.familiar()));
            }
            exit.code()
        }
        (Err(_), signal) if signal != 0 => 128 + signal,
        (Err(error), _) => {
            note(&format!("error: {:#}", error.cause));
            error.hint.iter().for_each(|hint| note(&format!("hint: {hint}")));
            // As docker: there is no such command, or something else is wrong.
            match error.cause.downcast_ref() {
                Some(rbuild_executor::Error::Start(_)) => 127,
                _ => 125,
            }
        }
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The image of the store, or of its registry.
fn find(args: &RunArgs, context: &Context, store: &Store, registry: &Registry) -> anyhow::Result<Listed> {
    let source = context.source(store, registry);
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let (image, _) = args.split()?;
    let find = || lookup::find_for(store, image, args.platform.as_ref());
    if args.pull == "always" {
        source.pull(&Reference::parse(image)?, &platform)?;
        return find();
    }
    match find() {
        Err(error) if args.pull == "missing" && is_missing(&error) => {
            let Ok(name) = Reference::parse(image) else {
                return Err(error);
            };
            note(&format!("Unable to find image '{}' locally", name.familiar()));
            source.pull(&name, &platform)?;
            find()
        }
        found => found,
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LookupError::Missing(_)))
}

/// What is run, from the flags and the config of the image.
#[derive(Debug, PartialEq, Eq)]
struct Command {
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
    user: String,
}

/// Where programs are searched when the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Command {
    fn new(args: &RunArgs, config: &Value) -> anyhow::Result<Self> {
        let list = |field: &str| -> Vec<String> {
            let items = config[field].as_array().into_iter().flatten();
            items
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        let text = |field: &str| config[field].as_str().unwrap_or_default().to_owned();
        let (image, command) = args.split()?;
        let mut words = match &args.entrypoint {
            None => list("Entrypoint"),
            Some(program) if program.is_empty() => Vec::new(),
            Some(program) => vec![program.clone()],
        };
        if !command.is_empty() {
            words.extend(command.iter().cloned());
        } else if args.entrypoint.is_none() {
            words.extend(list("Cmd"));
        }
        ensure!(
            !words.is_empty(),
            "no command specified: the image {image} has none of its own"
        );
        let mut env = list("Env");
        if !env.iter().any(|variable| variable.starts_with("PATH=")) {
            env.push(PATH.to_owned());
        }
        if args.tty {
            set(&mut env, "TERM=xterm");
        }
        for file in &args.env_file {
            let lines =
                std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            let lines = lines.lines().map(str::trim_start);
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
                give(&mut env, line)?;
            }
        }
        for variable in &args.env {
            give(&mut env, variable)?;
        }
        let cwd = args.workdir.clone().unwrap_or_else(|| text("WorkingDir"));
        let cwd = if cwd.is_empty() { "/".to_owned() } else { cwd };
        ensure!(
            cwd.starts_with('/'),
            "the working directory {cwd:?} is invalid: it needs to be an absolute path"
        );
        Ok(Self {
            args: words,
            env,
            cwd,
            user: args.user.clone().unwrap_or_else(|| text("User")),
        })
    }
}

/// `NAME=VALUE`, or `NAME` for what this process has; without that there is none.
fn give(env: &mut Vec<String>, variable: &str) -> anyhow::Result<()> {
    let name = variable.split('=').next().unwrap_or_default();
    ensure!(!name.is_empty(), "invalid environment variable: {variable}");
    if name.len() < variable.len() {
        set(env, variable);
    } else if let Some(value) = std::env::var_os(name) {
        let Some(value) = value.to_str() else {
            bail!("the value of {name} is no text");
        };
        set(env, &format!("{name}={value}"));
    }
    Ok(())
}

fn set(env: &mut Vec<String>, variable: &str) {
    let name = variable.split_inclusive('=').next().unwrap_or_default();
    env.retain(|known| !known.starts_with(name));
    env.push(variable.to_owned());
}

fn mount(volume: &Volume) -> anyhow::Result<Mount> {
    let Volume {
        host,
        target,
        read_only,
        overlay,
    } = volume;
    if *overlay {
        bail!(
            "--volume {}: the option O is not supported by run: use ro",
            host.display()
        );
    }
    let path = host.canonicalize().with_context(|| {
        format!(
            "--volume {}: there are no named volumes, only paths",
            host.display()
        )
    })?;
    Ok(Mount {
        target: target.clone(),
        source: MountSource::Host {
            path,
            create: false,
            recursive: true,
        },
        path: "/".to_owned(),
        read_only: *read_only,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: RunArgs,
    }

    fn command(flags: &str) -> anyhow::Result<Command> {
        let cli = Cli::try_parse_from(["run"].into_iter().chain(flags.split(' ')))?;
        let config = json!({
            "Entrypoint": ["entry"], "Cmd": ["cmd"], "Env": ["A=1", "PATH=/p"], "User": "u", "WorkingDir": "/w",
        });
        Command::new(&cli.args, &config)
    }

    #[test]
    fn the_words_are_those_of_docker() {
        for (flags, words) in [
            ("image", &["entry", "cmd"][..]),
            ("image other -x", &["entry", "other", "-x"]),
            ("--entrypoint e image", &["e"]),
            ("--entrypoint e image -c x --rm", &["e", "-c", "x", "--rm"]),
            ("--entrypoint= image a b", &["a", "b"]),
        ] {
            assert_eq!(command(flags).unwrap().args, words, "{flags}");
        }
        assert!(command("--entrypoint= image").is_err());
        assert!(command("--nosuch image").is_err());
        for (flags, wanted) in [
            ("-d image", "-d is not supported: rbuild keeps no containers"),
            ("-itd image", "-itd is not supported"),
            ("-itp 80:80 image", "--network host"),
            ("--name=x image", "--name=x is not supported"),
            ("--privileged image", "the sandbox of RUN"),
            ("--nosuch image", "unknown flag: --nosuch"),
        ] {
            let refused = command(flags).unwrap_err().to_string();
            assert!(refused.contains(wanted), "{flags}: {refused}");
        }
    }

    #[test]
    fn flags_win_over_the_image() {
        let usual = command("image").unwrap();
        assert_eq!((usual.cwd.as_str(), usual.user.as_str()), ("/w", "u"));
        assert_eq!(usual.env, ["A=1", "PATH=/p"]);
        let other = command("-w /x -u 5 -e A=2 -e B= -e RBUILD_NO_SUCH -t image").unwrap();
        assert_eq!((other.cwd.as_str(), other.user.as_str()), ("/x", "5"));
        assert_eq!(other.env, ["PATH=/p", "TERM=xterm", "A=2", "B="]);
        assert!(command("-w x image").is_err() && command("-e =1 image").is_err());
    }
}
