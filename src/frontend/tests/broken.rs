//! Broken Dockerfiles: what is said of them, and of which line.

use super::*;

/// The line and the message with its hint, of whatever fails first: parsing or lowering.
fn told(text: &str) -> String {
    let text = text.replace('~', "\n");
    match rbuild_parser::parse(text.as_bytes()) {
        Ok(_) => match lower(&request(&text), &Images::new()) {
            Ok(_) => "nothing".to_owned(),
            Err(_) => failure(&request(&text)),
        },
        Err(errors) => {
            let error = &errors[0];
            let line = match error.span.start_line {
                0 => String::new(),
                line => format!("{line}: "),
            };
            let help = error
                .help
                .as_ref()
                .map_or(String::new(), |help| format!(" ({help})"));
            format!("{line}{}{help}", error.message)
        }
    }
}

/// The Dockerfile, `~` for a line end; what is said, as far as it is given.
const BROKEN: &[(&str, &str)] = &[
    // The file as a whole.
    ("", "the Dockerfile cannot be empty"),
    ("# only a comment~", "1: file with no instructions"),
    ("ARG A~ARG B", "2: dockerfile contains no stages to build"),
    ("~RUN a~FROM busybox", "2: no build stage in current context"),
    (
        "# escape=x~FROM busybox",
        "1: invalid escape token 'x' does not match ` or \\",
    ),
    (
        "# escape=`~# escape=`~FROM busybox",
        "2: only one escape parser directive can be used",
    ),
    (
        "# syntax=other/frontend~FROM busybox",
        "the Dockerfile asks for the frontend \"other/frontend\"",
    ),
    (
        "# check=nope=1~FROM busybox",
        "failed to parse check options: invalid check option \"nope\"",
    ),
    // Instructions.
    (
        "FROM busybox~FOO bar",
        "2: unknown instruction: FOO (did you mean FROM?)",
    ),
    (
        "FROM busybox~RUNN a",
        "2: unknown instruction: RUNN (did you mean RUN?)",
    ),
    (
        "FROM busybox~copyy a b",
        "2: unknown instruction: copyy (did you mean copy?)",
    ),
    (
        "FORM busybox",
        "1: unknown instruction: FORM (did you mean FROM?)",
    ),
    (
        "FROM busybox~RUN a && \\~~  b~&& c",
        "5: unknown instruction: && (a line begins with an instruction, unless",
    ),
    (
        "FROM busybox~RUN a \\~# comment~  b~  ENVV A=1",
        "5: unknown instruction: ENVV (did you mean ENV?)",
    ),
    ("FROM busybox~RUN <<E~FOO~E~BAR x", "5: unknown instruction: BAR"),
    // FROM.
    (
        "FROM",
        "1: FROM requires either one or three arguments (write FROM [--platform=PLATFORM] IMAGE [AS NAME])",
    ),
    ("FROM a b", "1: FROM requires either one or three arguments"),
    (
        "FROM a AS 1x",
        "1: invalid name for build stage: \"1x\", name can't start with a number or contain symbols (use a letter",
    ),
    (
        "FROM --platfrom=x busybox",
        "1: unknown flag: --platfrom (did you mean --platform?)",
    ),
    ("~ARG A~FROM $A", "3: base name ($A) should not be blank"),
    (
        "ARG VERSION=1~FROM $VERSIO",
        "2: base name ($VERSIO) should not be blank ($VERSIO is not set, did you mean $VERSION?)",
    ),
    (
        "FROM --platform=$X busybox",
        "1: empty platform value from expression $X ($X is not set: declare it",
    ),
    (
        "FROM --platform=a/b/c/d busybox",
        "1: failed to parse platform a/b/c/d: \"a/b/c/d\" is an invalid",
    ),
    (
        "FROM busybox~FROM a/Upper",
        "2: failed to parse stage name \"a/Upper\": invalid reference format",
    ),
    (
        "FROM busybox AS builder~FROM bulider",
        "2: bulider: not found (did you mean builder?)",
    ),
    (
        "FROM busybox~~FROM ${A:?needed}",
        "3: failed to process \"${A:?needed}\": A: needed",
    ),
    // Flags.
    (
        "FROM busybox~COPY --form=a b c",
        "2: unknown flag: --form (did you mean --from?)",
    ),
    (
        "FROM busybox~COPY --chown a b c",
        "2: missing a value on flag: --chown (write --chown=VALUE)",
    ),
    (
        "FROM busybox~COPY --link=maybe b c",
        "2: expecting boolean value for flag --link, not: maybe",
    ),
    (
        "FROM busybox~COPY --chown=1 \\~ --chown=2 b c",
        "2: duplicate flag specified: --chown",
    ),
    ("FROM busybox~ADD --from=a b c", "2: unknown flag: --from"),
    (
        "FROM busybox~USER --x a",
        "2: unknown flag: --x (USER takes no flags",
    ),
    (
        "FROM busybox~RUN --network=nome a",
        "2: invalid network mode \"nome\" (did you mean none?) (the modes are",
    ),
    (
        "FROM busybox~RUN --security=insecre a",
        "2: security \"insecre\" is not valid (did you mean insecure?)",
    ),
    (
        "FROM busybox~HEALTHCHECK --intervl=1s CMD a",
        "2: unknown flag: --intervl (did you mean --interval?)",
    ),
    // Mounts.
    (
        "FROM busybox~RUN --mount=type=cahce,target=/a b",
        "2: unsupported mount type \"cahce\" (did you mean cache?)",
    ),
    (
        "FROM busybox~~RUN --mount=type=cache,tagret=/a \\~ b",
        "3: unexpected key 'tagret' in 'tagret=/a' (did you mean target?)",
    ),
    ("FROM busybox~RUN --mount=type=cache b", "2: "),
    (
        "FROM busybox~RUN --mount=type=cache,target=/a,sharing=lokced b",
        "2: unsupported sharing value \"lokced\" (did you mean locked?)",
    ),
    (
        "FROM busybox~RUN --mount=type=bind,from=$A,target=/a b",
        "2: 'from' doesn't support variable expansion",
    ),
    // Operands.
    (
        "FROM busybox~COPY a",
        "2: COPY requires at least two arguments, but only one was provided. Destination could not be determined (write COPY SOURCE... DESTINATION)",
    ),
    ("FROM busybox~ADD", "2: ADD requires at least two arguments"),
    ("FROM busybox~ENV", "2: ENV requires at least one argument"),
    (
        "FROM busybox~ENV A",
        "2: ENV must have two arguments (write ENV A=VALUE)",
    ),
    (
        "FROM busybox~ENV A=b c",
        "2: Syntax error - can't find = in \"c\". Must be of the form: name=value (put quotes",
    ),
    ("FROM busybox~LABEL =a", "2: LABEL names can not be blank"),
    ("FROM busybox~ARG", "2: ARG requires at least one argument"),
    ("FROM busybox~ARG =x", "2: ARG names can not be blank"),
    (
        "FROM busybox~SHELL /bin/sh",
        "2: SHELL requires the arguments to be in JSON form",
    ),
    (
        "FROM busybox~CMD [\"a\", 1]",
        "2: when using JSON array syntax, arrays must be comprised of strings only (put double",
    ),
    ("FROM busybox~RUN []", "2: RUN has nothing to run"),
    ("FROM busybox~USER", "2: USER requires exactly one argument"),
    ("FROM busybox~WORKDIR", "2: WORKDIR requires exactly one argument"),
    (
        "FROM busybox~EXPOSE 80/foo",
        "2: invalid port: \"80/foo\": invalid proto: foo",
    ),
    ("FROM busybox~EXPOSE 99999", "2: invalid containerPort: 99999"),
    ("FROM busybox~STOPSIGNAL SIGNOPE", "2: invalid signal: SIGNOPE"),
    (
        "FROM busybox~VOLUME [\"\"]",
        "2: VOLUME specified can not be an empty string",
    ),
    (
        "FROM busybox~HEALTHCHECK",
        "2: HEALTHCHECK requires at least one argument",
    ),
    (
        "FROM busybox~HEALTHCHECK CDM a",
        "2: Unknown type \"CDM\" in HEALTHCHECK (try CMD)",
    ),
    (
        "FROM busybox~HEALTHCHECK --interval=1 CMD a",
        "2: time: missing unit in duration \"1\" (durations are written",
    ),
    (
        "FROM busybox~HEALTHCHECK NONE a",
        "2: HEALTHCHECK NONE takes no arguments",
    ),
    // Words.
    (
        "FROM busybox~COPY a \"b c\" /d",
        "2: failed to process \"\\\"b\": unexpected end of statement while looking for matching double-quote",
    ),
    ("FROM busybox~ENV A=${B", "2: failed to process \"${B\": "),
    (
        "FROM busybox~ENV A=${B^^}",
        "2: failed to process \"${B^^}\": unsupported modifier (^) in substitution",
    ),
    ("FROM busybox~USER ${}", "2: failed to process \"${}\": "),
    (
        "FROM busybox~~LABEL a=b \\~  c=${X:?needed}",
        "3: failed to process \"${X:?needed}\": X: needed",
    ),
    // Heredocs.
    (
        "FROM busybox~RUN <<EOF~a~EOF x",
        "2: unterminated heredoc (no line is exactly \"EOF\", blanks included)",
    ),
    (
        "FROM busybox~COPY a <<E~E",
        "2: COPY cannot accept a heredoc as a destination",
    ),
    (
        "FROM busybox~COPY <<a/b /c~x~a/b~",
        "2: COPY cannot make a file named \"a/b\" of a heredoc",
    ),
    (
        "FROM busybox~COPY <<A <<B /c~x~A~z${Y:?needed}~${Y:?needed}~B~",
        "5: failed to process",
    ),
    // Triggers.
    (
        "FROM busybox~ONBUILD",
        "2: ONBUILD requires at least one argument",
    ),
    (
        "FROM busybox~ONBUILD ONBUILD RUN a",
        "2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
    ),
    (
        "FROM busybox~ONBUILD FROM a",
        "2: FROM isn't allowed as an ONBUILD trigger",
    ),
    (
        "FROM busybox AS a~~ONBUILD RUNN a~FROM a",
        "4: ONBUILD trigger \"RUNN a\": unknown instruction: RUNN (did you mean RUN?)",
    ),
    ("FROM busybox AS a~ONBUILD COPY --from=zz:x:y b c~~FROM a", "4: "),
    (
        "FROM busybox~FROM badtrigger",
        "2: ONBUILD trigger \"NOPE x\": unknown instruction: NOPE",
    ),
    // Stages.
    (
        "FROM busybox~COPY --from=5 a b",
        "2: invalid stage index 5 (stages are numbered from 0 to 0)",
    ),
    (
        "FROM busybox AS build~FROM busybox~COPY --from=biuld a b",
        "3: biuld: not found (did you mean build?)",
    ),
    (
        "FROM busybox~COPY --from=$A a b",
        "2: variable expansion is not supported for --from",
    ),
    (
        "FROM busybox AS a~COPY --from=a b c",
        "2: circular dependency detected on stage: a",
    ),
    (
        "FROM busybox AS a~COPY --from=b c d~FROM busybox AS b~FROM a",
        "2: cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
    ),
    (
        "FROM busybox~COPY http://a/b c",
        "2: source can't be a URL for COPY (ADD takes URLs)",
    ),
];

#[test]
fn broken_dockerfiles_are_told_with_their_line() {
    assert!(BROKEN.len() >= 60, "{}", BROKEN.len());
    let mut wrong = Vec::new();
    for (text, expected) in BROKEN {
        let message = told(text);
        if !message.starts_with(expected) {
            wrong.push(format!("{text}\n  said     {message}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
