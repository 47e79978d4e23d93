//! The typed instructions of a Dockerfile: what the author wrote, not yet expanded.

use serde::Serialize;

use crate::span::Span;

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dockerfile {
    /// Directives at the head of the file.
    pub directives: Directives,
    /// ARGs before the first FROM, in order.
    pub global_args: Vec<Spanned<Arg>>,
    /// Stages in order; at least one.
    pub stages: Vec<Stage>,
    /// Things that are allowed and doubtful, for example blank lines in continuations.
    pub warnings: Vec<crate::diagnostic::Diagnostic>,
}

/// `# escape=`, `# syntax=`, `# check=` (spec 1.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Directives {
    /// `\` or a backtick.
    pub escape: char,
    /// Value of `# syntax=`.
    pub syntax: Option<String>,
    /// Value of `# check=` up to its first blank.
    pub check: Option<String>,
}

/// FROM and what follows up to the next FROM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// The FROM.
    pub from: Spanned<From>,
    /// The instructions, in order.
    pub instructions: Vec<Spanned<Instruction>>,
}

/// `FROM [--platform=P] REF [AS NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct From {
    /// Reference, not expanded.
    pub image: String,
    /// `--platform`, not expanded.
    pub platform: Option<String>,
    /// Stage name, lower-cased (spec F1).
    pub name: Option<String>,
    /// Stage name as written.
    pub name_as_written: Option<String>,
}

/// Something with its place and its source text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spanned<T> {
    /// The thing.
    pub value: T,
    /// Bytes and lines of the whole instruction, heredoc bodies included (spec L26).
    pub span: Span,
    /// The keyword as written (`run`, `RUN`).
    pub keyword: String,
    /// The instruction's logical line: continuations joined, comments dropped, heredoc bodies not included, for example `RUN make all`.
    pub text: String,
    /// Comment lines directly above, without `#` and one blank (spec L25).
    pub comments: Vec<String>,
}

/// `K=V` as ENV, LABEL and ARG have it; quotes and escapes still in place, for the expander.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyValue {
    /// Key, not expanded.
    pub key: String,
    /// Value, not expanded.
    pub value: String,
    /// Legacy form `ENV K rest of line` (spec X16).
    pub legacy: bool,
}

/// `ARG K[=V] ...`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arg {
    /// Names with their defaults, quotes and escapes in place.
    pub args: Vec<ArgItem>,
}

/// One name of an ARG.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArgItem {
    /// Name, not expanded.
    pub key: String,
    /// Default, not expanded.
    pub default: Option<String>,
}

/// A heredoc with its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heredoc {
    /// Delimiter after quote removal.
    pub name: String,
    /// File descriptor before `<<`, for example `3`; empty for none.
    pub fd: String,
    /// Body as it is to be used: for `<<-` without leading tabs (spec L55).
    pub body: String,
    /// Whether variables in it are expanded: no part of the delimiter was quoted.
    pub expand: bool,
    /// `<<-`.
    pub strip_tabs: bool,
    /// Opener as written, for example `<<-"EOF"`.
    pub opener: String,
    /// Lines of the body with its terminator.
    pub span: Span,
}

/// Shell or JSON form of a command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Shell form: one string, flags removed, continuations joined.
    Shell(String),
    /// JSON form.
    Exec(Vec<String>),
}

/// An operand of COPY or ADD that is a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Path, wildcard, URL: not expanded.
    Path(String),
    /// Heredoc.
    Heredoc(Heredoc),
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// What to run. Empty shell text when a lone heredoc is the command; see [`Run::heredocs`].
    pub command: Command,
    /// Heredocs of the shell form, in order. With a command line beside them the shell gets line, bodies and
    /// terminators again (spec L58).
    pub heredocs: Vec<Heredoc>,
    /// `--mount` values, not expanded, not yet taken apart (csv).
    pub mounts: Vec<String>,
    /// `--network`, one of `default`, `none`, `host`.
    pub network: Option<String>,
    /// `--security`, one of `sandbox`, `insecure`.
    pub security: Option<String>,
    /// `--device` values.
    pub devices: Vec<String>,
}

/// COPY.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// Operands but the last; at least one.
    pub sources: Vec<Source>,
    /// Last operand, not expanded.
    pub dest: String,
    /// Whether the operands were a JSON array.
    pub json: bool,
    /// `--from`.
    pub from: Option<String>,
    /// `--chown`, not expanded.
    pub chown: Option<String>,
    /// `--chmod`, not expanded.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` values.
    pub excludes: Vec<String>,
}

/// ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Add {
    /// Operands but the last; at least one.
    pub sources: Vec<Source>,
    /// Last operand, not expanded.
    pub dest: String,
    /// Whether the operands were a JSON array.
    pub json: bool,
    /// `--chown`, not expanded.
    pub chown: Option<String>,
    /// `--chmod`, not expanded.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--exclude` values.
    pub excludes: Vec<String>,
    /// `--checksum`, not expanded.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK [flags] CMD ...`; durations in nanoseconds, 0 for unset.
    Cmd {
        /// What to run.
        command: Command,
        /// `--interval`.
        interval: i64,
        /// `--timeout`.
        timeout: i64,
        /// `--start-period`.
        start_period: i64,
        /// `--start-interval`.
        start_interval: i64,
        /// `--retries`.
        retries: i32,
    },
}

/// An instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "instruction", content = "value", rename_all = "UPPERCASE")]
pub enum Instruction {
    /// ADD.
    Add(Add),
    /// ARG.
    Arg(Arg),
    /// CMD.
    Cmd(Command),
    /// COPY.
    Copy(Copy),
    /// ENTRYPOINT.
    Entrypoint(Command),
    /// ENV.
    Env(Vec<KeyValue>),
    /// EXPOSE: operands, not expanded, sorted as text.
    Expose(Vec<String>),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// LABEL.
    Label(Vec<KeyValue>),
    /// MAINTAINER, not expanded.
    Maintainer(String),
    /// ONBUILD: the source text of the trigger, heredoc bodies appended (spec O2). It was parsed once to see that it can be.
    Onbuild(String),
    /// RUN.
    Run(Run),
    /// SHELL.
    Shell(Vec<String>),
    /// STOPSIGNAL, not expanded.
    Stopsignal(String),
    /// USER, not expanded.
    User(String),
    /// VOLUME: operands, not expanded.
    Volume(Vec<String>),
    /// WORKDIR, not expanded.
    Workdir(String),
}

impl Instruction {
    /// The keyword in upper case.
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}
