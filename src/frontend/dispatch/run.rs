//! RUN (spec 3.3, L58, L59).

use rbuild_parser::{Command as CommandLine, Heredoc, Run};

use super::{LayerInputs, StageLowering, mount};
use crate::error::BuildError;
use crate::frontend::stage::Command;
use crate::frontend::text::summary;
use crate::frontend::{BuildRequest, Entitlement};
use crate::graph::{ExecOp, InlineFile, NetworkMode, Op};

/// Where a script with its own interpreter is shown to the process.
const SCRIPTS: &str = "/dev/pipes";

/// Where programs look for an ssh agent.
const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";

/// Runs a process whose changes are one layer.
pub(super) fn run(stage: &mut StageLowering, command: &Command, run: &Run) -> Result<(), BuildError> {
    let mounts = mount::lower(stage, command, run)?;
    refuse_unsupported(run)?;
    let shell = stage.state.image.config().shell_or_default();
    let (args, script) = command_line(run, shell)?;
    if args.is_empty() {
        return Err(BuildError::message("RUN has nothing to run").hint(Some("give a command".to_owned())));
    }
    let request = stage.shared.request;
    let network = match run.network.as_deref() {
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        _ => request.network,
    };
    if network == NetworkMode::Host && request.network != NetworkMode::Host {
        require(request, Entitlement::NetworkHost)?;
    }
    let insecure = run.security.as_deref() == Some("insecure");
    if insecure {
        require(request, Entitlement::SecurityInsecure)?;
    }
    let suffix = lone_heredoc(run).map(|heredoc| format!(" ({})", summary(&heredoc.body)));
    let name = stage.step_name(command, &suffix.unwrap_or_default());
    let created_by = format!("RUN {}{} # buildkit", arguments(stage), args.join(" "));
    let mut env = stage.state.env.to_entries();
    if let Some(socket) = mounts.first_agent()
        && stage.state.env.get(SSH_AUTH_SOCK).is_none()
    {
        env.push(format!("{SSH_AUTH_SOCK}={socket}"));
    }
    let op = ExecOp {
        args,
        env,
        proxy_env: stage.shared.arguments.proxy_env(),
        cwd: stage.state.written_dir(),
        user: stage.state.image.config().user.clone(),
        network,
        insecure,
        hostname: stage.shared.arguments.hostname(request),
        extra_hosts: request.add_hosts.clone(),
        ulimits: request.ulimits.clone(),
        confinement: request.confinement.clone(),
        mounts: mounts.list,
        secret_env: mounts.secret_env,
        script,
        platform: stage.state.platform.clone(),
    };
    let inputs = LayerInputs {
        mounts: mounts.inputs,
        ..LayerInputs::default()
    };
    stage.add_layer(
        Op::Exec(Box::new(op)),
        inputs,
        name,
        &command.location,
        created_by,
    );
    Ok(())
}

/// Fails unless the caller granted `entitlement`.
fn require(request: &BuildRequest, entitlement: Entitlement) -> Result<(), BuildError> {
    if request.allow.contains(&entitlement) {
        return Ok(());
    }
    Err(
        BuildError::message(format!("{entitlement} is not allowed")).hint(Some(format!(
            "give --allow {entitlement} if you trust the Dockerfile and its base images"
        ))),
    )
}

/// The argument vector, and the script that it names.
fn command_line(run: &Run, shell: Vec<String>) -> Result<(Vec<String>, Option<InlineFile>), BuildError> {
    let text = match &run.command {
        CommandLine::Exec(args) => return Ok((args.clone(), None)),
        CommandLine::Shell(text) => text,
    };
    let text = match lone_heredoc(run) {
        // The kernel starts the interpreter, so the image needs no shell.
        Some(heredoc) if heredoc.body.starts_with("#!") => {
            let script = InlineFile {
                name: script_path(heredoc)?,
                data: heredoc.body.clone(),
            };
            return Ok((vec![script.name.clone()], Some(script)));
        }
        Some(heredoc) => heredoc.body.clone(),
        // The shell reads the heredocs itself.
        None => run.heredocs.iter().fold(text.clone(), |text, heredoc| {
            text + "\n" + &heredoc.body + &heredoc.name
        }),
    };
    let mut args = shell;
    args.push(text);
    Ok((args, None))
}

/// The heredoc that is the whole command.
fn lone_heredoc(run: &Run) -> Option<&Heredoc> {
    match (&run.command, run.heredocs.as_slice()) {
        (CommandLine::Shell(text), [heredoc]) if text.trim().is_empty() => Some(heredoc),
        _ => None,
    }
}

fn script_path(heredoc: &Heredoc) -> Result<String, BuildError> {
    if heredoc.name.contains('/') || matches!(heredoc.name.as_str(), "" | "." | "..") {
        return Err(BuildError::message(format!(
            "{:?} is no name for a script",
            heredoc.name
        )));
    }
    Ok(format!("{SCRIPTS}/{}", heredoc.name))
}

/// `|2 A=1 B=2 `: every ARG declared so far, once, with the value that the process sees (spec 5.2).
fn arguments(stage: &StageLowering) -> String {
    let mut values: Vec<(&str, &str)> = Vec::new();
    for (key, declared) in &stage.state.declared {
        let value = stage
            .state
            .env
            .get(key)
            .or(declared.as_deref())
            .unwrap_or_default();
        match values.iter_mut().find(|(name, _)| name == key) {
            Some((_, known)) => *known = value,
            None => values.push((key, value)),
        }
    }
    if values.is_empty() {
        return String::new();
    }
    let texts: String = values
        .iter()
        .map(|(key, value)| format!("{key}={value} "))
        .collect();
    format!("|{} {texts}", values.len())
}

/// Devices are not there.
fn refuse_unsupported(run: &Run) -> Result<(), BuildError> {
    match run.devices.first() {
        None => Ok(()),
        Some(device) => Err(BuildError::message(format!(
            "RUN --device={device}: devices (CDI) are not supported by rbuild"
        ))
        .hint(Some(
            "remove --device, or build this image with a builder that has them".to_owned(),
        ))),
    }
}
