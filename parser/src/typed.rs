//! Statements to typed instructions: numbers of operands, flags and their values (spec section 3).

use crate::duration;
use crate::flags::{Fault, Flags, Kind, Known};
use crate::heredoc::Opener;
use crate::instruction::{
    Add, Arg, ArgItem, Command, Copy, From, Healthcheck, Instruction, KeyValue, Run, Source,
};
use crate::mount::Mount;
use crate::statement::{Operands, Statement};
use crate::suggest::did_you_mean;

/// What a statement is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Begins a stage.
    From(From),
    /// Belongs to one.
    Instruction(Instruction),
}

const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const ADD_FLAGS: Known = &[
    ("chown", Kind::Text),
    ("chmod", Kind::Text),
    ("link", Kind::Switch),
    ("keep-git-dir", Kind::Switch),
    ("checksum", Kind::Text),
    ("unpack", Kind::Switch),
    ("exclude", Kind::List),
];

const COPY_FLAGS: Known = &[
    ("chown", Kind::Text),
    ("from", Kind::Text),
    ("chmod", Kind::Text),
    ("link", Kind::Switch),
    ("parents", Kind::Switch),
    ("exclude", Kind::List),
];

const RUN_FLAGS: Known = &[
    ("mount", Kind::List),
    ("network", Kind::Text),
    ("security", Kind::Text),
    ("device", Kind::List),
];

const HEALTHCHECK_FLAGS: Known = &[
    ("interval", Kind::Text),
    ("timeout", Kind::Text),
    ("start-period", Kind::Text),
    ("start-interval", Kind::Text),
    ("retries", Kind::Text),
];

/// Least duration of a health check, in nanoseconds.
const LEAST_INTERVAL: i64 = 1_000_000;

impl Typed {
    pub(crate) fn of(statement: &Statement) -> Result<Self, Fault> {
        let instruction = match statement.name.as_str() {
            "FROM" => return from(statement).map(Self::From),
            "ADD" => add(statement)?,
            "ARG" => Instruction::Arg(arg(statement)?),
            "CMD" => {
                no_flags(statement)?;
                Instruction::Cmd(command(&statement.operands))
            }
            "COPY" => copy(statement)?,
            "ENTRYPOINT" => {
                no_flags(statement)?;
                Instruction::Entrypoint(command(&statement.operands))
            }
            "ENV" => Instruction::Env(key_values(statement)?),
            "EXPOSE" => {
                let mut ports = some_words(statement)?;
                // BuildKit sorts them before it expands them.
                ports.sort();
                Instruction::Expose(ports)
            }
            "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(statement)?),
            "LABEL" => Instruction::Label(key_values(statement)?),
            "MAINTAINER" => Instruction::Maintainer(one_text(statement)?),
            "ONBUILD" => Instruction::Onbuild(onbuild(statement)?),
            "RUN" => Instruction::Run(run(statement)?),
            "SHELL" => Instruction::Shell(shell(statement)?),
            // Its flags are dropped unseen, as ARG's are (L33).
            "STOPSIGNAL" => Instruction::Stopsignal(exactly_one(statement)?),
            "USER" => Instruction::User(one_text(statement)?),
            "VOLUME" => Instruction::Volume(volume(statement)?),
            "WORKDIR" => Instruction::Workdir(one_text(statement)?),
            _ => return Err(unknown(&statement.keyword)),
        };
        Ok(Self::Instruction(instruction))
    }
}

fn unknown(keyword: &str) -> Fault {
    let near = did_you_mean(keyword, NAMES);
    let fault = Fault::new(
        "unknown-instruction",
        format!("unknown instruction: {keyword}{near}"),
    );
    if near.is_empty() {
        fault.help(
            "a line begins with an instruction, unless the line above ends in its continuation character",
        )
    } else {
        fault
    }
}

fn wrong(message: impl Into<String>) -> Fault {
    Fault::new("operands", message)
}

fn no_flags(statement: &Statement) -> Result<(), Fault> {
    Flags::parse(&statement.flags, &[], &statement.name).map(drop)
}

fn at_least_one(name: &str) -> Fault {
    wrong(format!("{name} requires at least one argument"))
}

/// The words of a statement whose operands are words, whichever way they are written.
fn words(operands: &Operands) -> (&[String], bool) {
    match operands {
        Operands::Words(words) => (words, false),
        Operands::Json(words) => (words, true),
        Operands::Pairs(_) | Operands::Typed(..) | Operands::Statement(_) => (&[], false),
    }
}

fn some_words(statement: &Statement) -> Result<Vec<String>, Fault> {
    let (words, _) = words(&statement.operands);
    if words.is_empty() {
        return Err(at_least_one(&statement.name));
    }
    no_flags(statement)?;
    Ok(words.to_vec())
}

fn exactly_one(statement: &Statement) -> Result<String, Fault> {
    match words(&statement.operands).0 {
        [text] => Ok(text.clone()),
        _ => Err(wrong(format!("{} requires exactly one argument", statement.name))),
    }
}

fn one_text(statement: &Statement) -> Result<String, Fault> {
    let text = exactly_one(statement)?;
    no_flags(statement)?;
    Ok(text)
}

fn command(operands: &Operands) -> Command {
    match words(operands) {
        (words, true) => Command::Exec(words.to_vec()),
        (words, false) => Command::Shell(words.join(" ")),
    }
}

fn from(statement: &Statement) -> Result<From, Fault> {
    let (image, written) = match words(&statement.operands).0 {
        [image] => (image, None),
        [image, keyword, name] if keyword.eq_ignore_ascii_case("AS") => (image, Some(name)),
        _ => {
            let fault = wrong("FROM requires either one or three arguments");
            return Err(fault.help("write FROM [--platform=PLATFORM] IMAGE [AS NAME]"));
        }
    };
    let name = written.map(|name| name.to_lowercase());
    if let (Some(name), Some(written)) = (&name, written) {
        let mut bytes = name.bytes();
        let valid = bytes.next().is_some_and(|first| first.is_ascii_lowercase())
            && bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
        if !valid {
            let message = format!(
                "invalid name for build stage: {written:?}, name can't start with a number or contain symbols"
            );
            return Err(
                Fault::new("stage-name", message).help("use a letter, then letters, digits, -, _ and .")
            );
        }
    }
    let flags = Flags::parse(&statement.flags, &[("platform", Kind::Text)], "FROM")?;
    Ok(From {
        image: image.clone(),
        platform: flags.text("platform"),
        name,
        name_as_written: written.cloned(),
    })
}

fn arg(statement: &Statement) -> Result<Arg, Fault> {
    let (words, _) = words(&statement.operands);
    if words.is_empty() {
        return Err(at_least_one("ARG"));
    }
    let items = words.iter().map(|word| match word.split_once('=') {
        Some(("", _)) => Err(wrong("ARG names can not be blank")),
        Some((key, default)) => Ok(ArgItem {
            key: key.to_owned(),
            default: Some(default.to_owned()),
        }),
        None => Ok(ArgItem {
            key: word.clone(),
            default: None,
        }),
    });
    Ok(Arg {
        args: items.collect::<Result<_, _>>()?,
    })
}

fn key_values(statement: &Statement) -> Result<Vec<KeyValue>, Fault> {
    no_flags(statement)?;
    match &statement.operands {
        Operands::Pairs(pairs) if pairs.is_empty() => Err(at_least_one(&statement.name)),
        Operands::Pairs(pairs) if pairs.iter().any(|pair| pair.key.is_empty()) => {
            Err(wrong(format!("{} names can not be blank", statement.name)))
        }
        Operands::Pairs(pairs) => Ok(pairs.clone()),
        _ => Err(at_least_one(&statement.name)),
    }
}

/// The operands of COPY and ADD.
fn sources(statement: &Statement) -> Result<(Vec<Source>, String, bool), Fault> {
    let (words, json) = words(&statement.operands);
    let name = &statement.name;
    let [sources @ .., dest] = words else {
        return Err(too_few(name));
    };
    if sources.is_empty() {
        return Err(too_few(name));
    }
    let opener = |word: &String| if json { None } else { Opener::parse(word) };
    if opener(dest).is_some() {
        return Err(Fault::new(
            "heredoc",
            format!("{name} cannot accept a heredoc as a destination"),
        ));
    }
    let mut heredocs = statement.heredocs.iter();
    let mut taken = Vec::with_capacity(sources.len());
    for source in sources {
        let heredoc =
            opener(source).and_then(|opener| heredocs.find(|(heredoc, _)| heredoc.name == opener.name));
        taken.push(match heredoc {
            Some((heredoc, _)) => Source::Heredoc(heredoc.clone()),
            None => Source::Path(source.clone()),
        });
    }
    if taken
        .iter()
        .filter(|source| matches!(source, Source::Heredoc(_)))
        .count()
        != statement.heredocs.len()
    {
        let fault = Fault::new(
            "heredoc",
            format!("{name} cannot use a heredoc whose delimiter is not one word"),
        );
        return Err(fault.help("write <<EOF without blanks"));
    }
    Ok((taken, dest.clone(), json))
}

fn too_few(name: &str) -> Fault {
    let message = format!(
        "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
    );
    wrong(message).help(format!("write {name} SOURCE... DESTINATION"))
}

fn add(statement: &Statement) -> Result<Instruction, Fault> {
    if words(&statement.operands).0.len() < 2 {
        return Err(too_few("ADD"));
    }
    let flags = Flags::parse(&statement.flags, ADD_FLAGS, "ADD")?;
    let (sources, dest, json) = sources(statement)?;
    Ok(Instruction::Add(Add {
        sources,
        dest,
        json,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        excludes: flags.list("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    }))
}

fn copy(statement: &Statement) -> Result<Instruction, Fault> {
    if words(&statement.operands).0.len() < 2 {
        return Err(too_few("COPY"));
    }
    let flags = Flags::parse(&statement.flags, COPY_FLAGS, "COPY")?;
    let (sources, dest, json) = sources(statement)?;
    Ok(Instruction::Copy(Copy {
        sources,
        dest,
        json,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        excludes: flags.list("exclude"),
    }))
}

fn run(statement: &Statement) -> Result<Run, Fault> {
    let flags = Flags::parse(&statement.flags, RUN_FLAGS, "RUN")?;
    let mounts = flags.list("mount");
    for mount in &mounts {
        Mount::check(mount).map_err(|error| Fault::new("mount", error.to_string()))?;
    }
    let network = flags.raw("network");
    if let Some(mode) = network.filter(|mode| !["default", "none", "host"].contains(mode)) {
        let near = did_you_mean(mode, ["default", "none", "host"]);
        let fault = Fault::new("network", format!("invalid network mode {mode:?}{near}"));
        return Err(fault.help("the modes are default, none and host"));
    }
    let security = flags.raw("security");
    if let Some(mode) = security.filter(|mode| !["sandbox", "insecure"].contains(mode)) {
        let near = did_you_mean(mode, ["sandbox", "insecure"]);
        let fault = Fault::new("security", format!("security {mode:?} is not valid{near}"));
        return Err(fault.help("the modes are sandbox and insecure"));
    }
    let heredocs: Vec<_> = statement
        .heredocs
        .iter()
        .map(|(heredoc, _)| heredoc.clone())
        .collect();
    let command = match command(&statement.operands) {
        // A lone heredoc is the script itself (L58).
        Command::Shell(text) if !heredocs.is_empty() && Opener::parse(&text).is_some() => {
            Command::Shell(String::new())
        }
        command => command,
    };
    Ok(Run {
        command,
        heredocs,
        mounts,
        network: network.map(str::to_owned),
        security: security.map(str::to_owned),
        devices: flags.list("device"),
    })
}

fn healthcheck(statement: &Statement) -> Result<Healthcheck, Fault> {
    let Operands::Typed(kind, operands) = &statement.operands else {
        return Err(at_least_one("HEALTHCHECK"));
    };
    let (words, json) = words(operands);
    let upper = kind.to_uppercase();
    if upper.is_empty() {
        return Err(at_least_one("HEALTHCHECK"));
    }
    if upper == "NONE" {
        if !words.is_empty() {
            return Err(wrong("HEALTHCHECK NONE takes no arguments"));
        }
        return Ok(Healthcheck::None);
    }
    let flags = Flags::parse(&statement.flags, HEALTHCHECK_FLAGS, "HEALTHCHECK")?;
    if upper != "CMD" {
        return Err(wrong(format!("Unknown type {upper:?} in HEALTHCHECK (try CMD)")));
    }
    if words.is_empty() || (!json && words.concat().is_empty()) {
        return Err(wrong("Missing command after HEALTHCHECK CMD"));
    }
    let interval = |name: &str| {
        let Some(text) = flags.text(name) else {
            return Ok(0);
        };
        let duration = duration::parse(&text).map_err(|message| {
            Fault::new("duration", message).help("durations are written like 300ms, 30s or 1m30s")
        })?;
        if duration != 0 && duration < LEAST_INTERVAL {
            return Err(Fault::new(
                "duration",
                format!("Interval {name:?} cannot be less than 1ms"),
            ));
        }
        Ok(duration)
    };
    let (period, timeout) = (interval("interval")?, interval("timeout")?);
    let (start_period, start_interval) = (interval("start-period")?, interval("start-interval")?);
    Ok(Healthcheck::Cmd {
        command: command(operands),
        interval: period,
        timeout,
        start_period,
        start_interval,
        retries: retries(flags.text("retries"))?,
    })
}

fn retries(text: Option<String>) -> Result<i32, Fault> {
    let Some(text) = text else { return Ok(0) };
    let retries: i32 = text.parse().map_err(|error: std::num::ParseIntError| {
        let reason = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Fault::new("number", format!("strconv.ParseInt: parsing {text:?}: {reason}"))
    })?;
    if retries < 0 {
        return Err(Fault::new(
            "number",
            format!("--retries cannot be negative ({retries})"),
        ));
    }
    Ok(retries)
}

fn shell(statement: &Statement) -> Result<Vec<String>, Fault> {
    no_flags(statement)?;
    match words(&statement.operands) {
        ([], _) => Err(at_least_one("SHELL")),
        (words, true) => Ok(words.to_vec()),
        (_, false) => {
            let fault = wrong("SHELL requires the arguments to be in JSON form");
            Err(fault.help("write SHELL [\"/bin/sh\", \"-c\"]"))
        }
    }
}

fn volume(statement: &Statement) -> Result<Vec<String>, Fault> {
    let volumes = some_words(statement)?;
    let volumes: Vec<String> = volumes.iter().map(|volume| volume.trim().to_owned()).collect();
    if volumes.iter().any(String::is_empty) {
        return Err(wrong("VOLUME specified can not be an empty string"));
    }
    Ok(volumes)
}

/// The source text of the trigger. Whether it is an instruction is found out when it fires, as in BuildKit (O1, O2).
fn onbuild(statement: &Statement) -> Result<String, Fault> {
    if statement.rest.is_empty() {
        return Err(at_least_one("ONBUILD"));
    }
    no_flags(statement)?;
    let Operands::Statement(inner) = &statement.operands else {
        return Err(wrong("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
    };
    if matches!(inner.name.as_str(), "FROM" | "MAINTAINER") {
        return Err(wrong(format!(
            "{} isn't allowed as an ONBUILD trigger",
            inner.name
        )));
    }
    let mut text = statement.rest.clone();
    for (heredoc, body) in &statement.heredocs {
        text.push('\n');
        text.push_str(body);
        text.push_str(&heredoc.name);
    }
    Ok(text)
}
