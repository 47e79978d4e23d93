use super::*;
use crate::instruction::{Command, Copy, Healthcheck, Run, Source};

fn parsed(text: &str) -> Dockerfile {
    parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
}

/// The instructions of the only stage of a file that begins with `FROM scratch`.
fn body(text: &str) -> Vec<Spanned<Instruction>> {
    parsed(&format!("FROM scratch\n{text}"))
        .stages
        .remove(0)
        .instructions
}

fn one(text: &str) -> Instruction {
    let mut instructions = body(text);
    assert_eq!(instructions.len(), 1, "{text}");
    instructions.remove(0).value
}

fn run(text: &str) -> Run {
    match one(text) {
        Instruction::Run(run) => run,
        other => panic!("{text}: {other:?}"),
    }
}

fn copy(text: &str) -> Copy {
    match one(text) {
        Instruction::Copy(copy) => copy,
        other => panic!("{text}: {other:?}"),
    }
}

fn shell(text: &str) -> String {
    match run(text).command {
        Command::Shell(line) => line,
        other => panic!("{text}: {other:?}"),
    }
}

fn message(text: &str) -> String {
    let errors = parse(text.as_bytes()).expect_err(text);
    errors[0].to_string()
}

#[test]
fn l1_to_l3_bytes_and_lines() {
    let file = parsed("\u{feff}# escape=`\r\nFROM scratch\r\nRUN a `\r\n  b\r\nENV A=1");
    assert_eq!(file.directives.escape, '`');
    let values: Vec<_> = file.stages[0]
        .instructions
        .iter()
        .map(|it| it.text.as_str())
        .collect();
    assert_eq!(values, ["RUN a   b", "ENV A=1"]);
}

#[test]
fn bytes_that_are_no_text() {
    assert!(parse(b"# \xff is fine in a comment\nFROM scratch\n").is_ok());
    let errors = parse(b"FROM scratch\nRUN echo \xff\n").expect_err("no text");
    assert_eq!((errors[0].code, errors[0].span.start_line), ("encoding", 2));
    assert!(parse(b"FROM scratch\nCOPY <<E /x\n\xff\nE\n").is_err());
}

#[test]
fn l4_lines_may_be_long() {
    assert_eq!(shell(&format!("RUN {}", "x".repeat(1 << 20))).len(), 1 << 20);
}

#[test]
fn l5_files_without_stages() {
    for (text, expected) in [
        ("", "line 0: the Dockerfile cannot be empty"),
        ("# nothing\n\n", "line 2: file with no instructions"),
        ("ARG A\n", "line 1: dockerfile contains no stages to build"),
        ("ARG A\nRUN x\n", "line 2: no build stage in current context"),
        (
            "FOO x\nRUN y",
            "line 1: unknown instruction: FOO (did you mean FROM?)",
        ),
        ("\\\n", "line 1: unknown instruction: "),
    ] {
        assert_eq!(message(text), expected, "{text:?}");
    }
}

#[test]
fn l6_to_l8_instructions() {
    let file = parsed("\n   \n\t\u{a0}from\x0bscratch\n\tRuN \t echo x  \n   #trailing\n");
    let place = &file.stages[0].instructions[0];
    assert_eq!(
        (place.keyword.as_str(), place.text.as_str()),
        ("RuN", "RuN \t echo x")
    );
    assert_eq!(place.value, one("RUN echo x"));
    assert_eq!(
        message("FORM scratch"),
        "line 1: unknown instruction: FORM (did you mean FROM?)"
    );
    assert_eq!(shell("RUN"), "");
}

#[test]
fn l10_to_l15_directives() {
    for (head, escape, syntax, check) in [
        ("# escape=`\n", '`', None, None),
        (
            "#ESCAPE = ` \n# syntax = a/b:1 x\n#check=skip=A;error=true trailing\n",
            '`',
            Some("a/b:1 x"),
            Some("skip=A;error=true"),
        ),
        ("# plain\n# escape=`\n", '\\', None, None),
        ("\n# escape=`\n# syntax=x\n", '\\', None, None),
        ("# unknown=1\n# escape=`\n", '\\', None, None),
        ("# escape=\n# syntax=x\n", '\\', None, None),
        ("  # escape=`\n", '`', None, None),
        ("  # syntax=x\n", '\\', None, None),
        (
            "#!/usr/bin/env x\n# syntax=y\n# escape=`\n",
            '\\',
            Some("y"),
            None,
        ),
    ] {
        let directives = parsed(&format!("{head}FROM scratch\n")).directives;
        assert_eq!(
            (
                directives.escape,
                directives.syntax.as_deref(),
                directives.check.as_deref()
            ),
            (escape, syntax, check),
            "{head}"
        );
    }
    assert_eq!(
        message("# escape=x\nFROM a"),
        "line 1: invalid escape token 'x' does not match ` or \\"
    );
    for name in ["escape", "syntax", "check"] {
        let text = format!("# {name}=\\\n# {name}=\\\nFROM a");
        assert_eq!(
            message(&text),
            format!("line 2: only one {name} parser directive can be used")
        );
    }
}

#[test]
fn l16_syntax_of_files_that_are_no_dockerfiles() {
    for (text, expected) in [
        ("//syntax=x/y\n", Some("x/y")),
        ("// syntax = x/y:1 a b\n", Some("x/y:1 a b")),
        ("{\"syntax\": \"x/y\"}", Some("x/y")),
        ("\n//syntax=x/y\n", None),
        ("[\"syntax\", \"x/y\"]", None),
        ("{\"syntax\": 1}", None),
    ] {
        assert_eq!(detect_syntax(text.as_bytes()).as_deref(), expected, "{text:?}");
    }
}

#[test]
fn l19_directives_do_not_continue() {
    let directives = parsed("# syntax=a/b \\\n# escape=`\nFROM scratch\n").directives;
    assert_eq!(directives.syntax.as_deref(), Some("a/b \\"));
    assert_eq!(directives.escape, '`');
}

#[test]
fn l59_bodies_of_run_are_the_shells() {
    for opener in ["<<E", "<<'E'"] {
        let run = run(&format!("RUN {opener}\n$HOME ${{x:-y}} \\\n\"q\"\nE"));
        assert_eq!(run.heredocs[0].body, "$HOME ${x:-y} \\\n\"q\"\n", "{opener}");
    }
}

#[test]
fn l20_to_l24_comments_and_continuations() {
    for (text, expected) in [
        ("RUN a \\\n  b", "a   b"),
        ("RUN a \\\n# c \\\n   # d\n b", "a  b"),
        ("RUN a # b", "a # b"),
        ("RUN a\\ \t\nb", "ab"),
        ("RUN a\\\\\nENV A=1", "a\\\\"),
        ("RUN a\\\\\\\nENV A=1", "a\\\\\\"),
        ("RUN \\\n\\\n echo x", "echo x"),
        ("RUN a \\\n\n \n b", "a  b"),
        ("RUN a \\", "a"),
        ("RUN a \\\n# c", "a"),
        ("RUN a\\\x0b\n", "a\\"),
    ] {
        let file = parsed(&format!("FROM scratch\n{text}"));
        let Instruction::Run(run) = &file.stages[0].instructions[0].value else {
            panic!("{text}")
        };
        assert_eq!(run.command, Command::Shell(expected.into()), "{text:?}");
    }
    let warnings = parsed("FROM scratch\nRUN a \\\n\n b\nRUN c").warnings;
    assert_eq!(
        (warnings.len(), warnings[0].code, warnings[0].span.start_line),
        (1, "NoEmptyContinuation", 2)
    );
}

#[test]
fn l25_l26_comments_and_places() {
    let text =
        "# head\n\n#  one\n\n  # two \nFROM scratch\n# gone\n#\n# kept\nRUN <<E\n# not\nE\n# trailing\n";
    let file = parsed(text);
    assert_eq!(file.stages[0].from.comments, ["head", "one", "two"]);
    let place = &file.stages[0].instructions[0];
    assert_eq!(place.comments, ["kept"]);
    assert_eq!((place.span.start_line, place.span.end_line), (10, 12));
    assert_eq!(&text[place.span.start..place.span.end], "RUN <<E\n# not\nE");
}

#[test]
fn l30_to_l34_flags() {
    for (text, expected) in [
        ("COPY --bogus=1 a b", "unknown flag: --bogus"),
        (
            "COPY --chwon=1 a b",
            "unknown flag: --chwon (did you mean --chown?)",
        ),
        ("COPY --link= a b", "missing a value on flag: --link"),
        (
            "COPY --link=yes a b",
            "expecting boolean value for flag --link, not: yes",
        ),
        ("COPY --from a b", "missing a value on flag: --from"),
        (
            "COPY --chown=1 --chown=2 a b",
            "duplicate flag specified: --chown",
        ),
        ("ADD --from=x a b", "unknown flag: --from"),
        ("ADD --parents a b", "unknown flag: --parents"),
        ("ENV --x A=b", "unknown flag: --x"),
        ("CMD --x", "unknown flag: --x"),
        ("RUN --network=bad x", "invalid network mode \"bad\""),
        ("RUN --security=bad x", "security \"bad\" is not valid"),
        (
            "RUN --mount=from=$x,target=/y x",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
    ] {
        assert_eq!(
            message(&format!("FROM scratch\n{text}")),
            format!("line 2: {expected}")
        );
    }
    let found =
        copy("COPY --link --parents=FALSE --exclude=a --exclude=b --chown=\"a b\":c --from= -- --x y");
    assert!(found.link && !found.parents && found.from.is_none());
    assert_eq!(
        (found.excludes, found.chown.as_deref()),
        (vec!["a".into(), "b".into()], Some("a b:c"))
    );
    assert_eq!(found.sources, [Source::Path("--x".into())]);
    assert_eq!(copy("COPY a --chown=1 /x").sources.len(), 2);
    assert_eq!(one("ARG --x A"), one("ARG A"));
    assert_eq!(one("STOPSIGNAL --x 9"), one("STOPSIGNAL 9"));
}

#[test]
fn l40_to_l46_forms_and_words() {
    for (text, expected) in [
        (
            "CMD [\"a\", \"b\"]",
            Instruction::Cmd(Command::Exec(vec!["a".into(), "b".into()])),
        ),
        (
            "CMD [\"a\"] b",
            Instruction::Cmd(Command::Shell("[\"a\"] b".into())),
        ),
        ("CMD []", Instruction::Cmd(Command::Exec(vec![]))),
        (
            "ENTRYPOINT ['a']",
            Instruction::Entrypoint(Command::Shell("['a']".into())),
        ),
        (
            "VOLUME a  \"b c\"",
            Instruction::Volume(vec!["a".into(), "\"b".into(), "c\"".into()]),
        ),
        ("VOLUME [\"/a b\"]", Instruction::Volume(vec!["/a b".into()])),
        ("USER a b", Instruction::User("a b".into())),
        (
            "EXPOSE 9 10 8",
            Instruction::Expose(vec!["10".into(), "8".into(), "9".into()]),
        ),
        ("SHELL [\"x\"]", Instruction::Shell(vec!["x".into()])),
        ("MAINTAINER a <b>", Instruction::Maintainer("a <b>".into())),
    ] {
        assert_eq!(one(text), expected, "{text}");
    }
    assert_eq!(
        message("FROM scratch\nCMD [1]"),
        "line 2: when using JSON array syntax, arrays must be comprised of strings only"
    );
}

#[test]
fn l50_to_l58_heredocs() {
    let lone = run("RUN <<-'E X' \n\t\ta\r\n\t b\n\tE X");
    assert_eq!(lone.command, Command::Shell(String::new()));
    assert_eq!(
        (lone.heredocs[0].body.as_str(), lone.heredocs[0].expand),
        ("a\r\n b\n", false)
    );
    let several = run("RUN cat <<A && cat 3<<B \\\n| x\n E\nA\n\\\nb\nB");
    assert_eq!(several.command, Command::Shell("cat <<A && cat 3<<B | x".into()));
    let bodies: Vec<_> = several
        .heredocs
        .iter()
        .map(|it| (it.fd.as_str(), it.body.as_str()))
        .collect();
    assert_eq!(bodies, [("", " E\n"), ("3", "\\\nb\n")]);
    assert!(run("RUN [\"a\",\"<<E\"]").heredocs.is_empty());
    assert_eq!(
        message("FROM scratch\nRUN <<E\nx\nE2\n"),
        "line 2: unterminated heredoc"
    );
    assert_eq!(
        message("FROM scratch\nRUN echo $((1 << 3))"),
        "line 2: unterminated heredoc"
    );
    assert_eq!(shell("RUN echo $((1<<3)) <<<x"), "echo $((1<<3)) <<<x");
    let file = parsed("FROM scratch\nENV V=\"<<EOF\"\nCMD cat <<X\n");
    assert_eq!(file.stages[0].instructions.len(), 2);
}

#[test]
fn l60_heredocs_of_copy() {
    let found = copy("COPY a <<E <<\"F\" /x/\n$x\nE\nF\n");
    let names: Vec<_> = found
        .sources
        .iter()
        .map(|source| match source {
            Source::Path(path) => path.clone(),
            Source::Heredoc(heredoc) => format!("{}={:?}/{}", heredoc.name, heredoc.body, heredoc.expand),
        })
        .collect();
    assert_eq!(names, ["a", "E=\"$x\\n\"/true", "F=\"\"/false"]);
    let expected = "line 2: COPY cannot accept a heredoc as a destination";
    assert_eq!(message("FROM scratch\nCOPY a <<E\nx\nE\n"), expected);
    assert!(message("FROM scratch\nCOPY << E /x\nx\nE\n").contains("delimiter is not one word"));
}

#[test]
fn x16_to_x18_keys_and_values() {
    let env = |text: &str| match one(text) {
        Instruction::Env(pairs) | Instruction::Label(pairs) => pairs
            .into_iter()
            .map(|pair| format!("{}|{}|{}", pair.key, pair.value, pair.legacy))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        env("ENV A=1 B=\"x y\" C=a\\ b D="),
        ["A|1|false", "B|\"x y\"|false", "C|a\\ b|false", "D||false"]
    );
    assert_eq!(env("ENV A  b  c "), ["A|b  c|true"]);
    assert_eq!(env("ENV A = b"), ["A|= b|true"]);
    assert_eq!(env("LABEL \"a b\"=c"), ["\"a b\"|c|false"]);
    for (text, expected) in [
        ("ENV A", "ENV must have two arguments"),
        (
            "ENV A=b c",
            "Syntax error - can't find = in \"c\". Must be of the form: name=value",
        ),
        ("ENV =b", "ENV names can not be blank"),
        ("ENV", "ENV requires at least one argument"),
        ("LABEL a", "LABEL must have two arguments"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =b", "ARG names can not be blank"),
    ] {
        assert_eq!(
            message(&format!("FROM scratch\n{text}")),
            format!("line 2: {expected}")
        );
    }
    let Instruction::Arg(arg) = one("ARG A B=\"c d\" C=") else {
        panic!()
    };
    let items: Vec<_> = arg
        .args
        .iter()
        .map(|item| (item.key.as_str(), item.default.as_deref()))
        .collect();
    assert_eq!(items, [("A", None), ("B", Some("\"c d\"")), ("C", Some(""))]);
}

#[test]
fn f1_stages() {
    let file = parsed("ARG V=1\nFROM --platform=$P a:$V As B.1-x_y\nFROM b\n");
    let from = &file.stages[0].from.value;
    assert_eq!(
        (from.image.as_str(), from.platform.as_deref()),
        ("a:$V", Some("$P"))
    );
    assert_eq!(
        (from.name.as_deref(), from.name_as_written.as_deref()),
        (Some("b.1-x_y"), Some("B.1-x_y"))
    );
    assert_eq!((file.global_args.len(), file.stages.len()), (1, 2));
    for text in ["FROM", "FROM a b", "FROM a AS", "FROM a IS b", "FROM a AS b c"] {
        assert_eq!(
            message(text),
            "line 1: FROM requires either one or three arguments",
            "{text}"
        );
    }
    let expected =
        "line 1: invalid name for build stage: \"1x\", name can't start with a number or contain symbols";
    assert_eq!(message("FROM a AS 1x\nRUN x"), expected);
}

#[test]
fn numbers_of_operands() {
    for (text, expected) in [
        (
            "COPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (
            "ADD",
            "ADD requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ("VOLUME [\" \"]", "VOLUME specified can not be an empty string"),
        ("SHELL", "SHELL requires at least one argument"),
        ("SHELL sh", "SHELL requires the arguments to be in JSON form"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
    ] {
        assert_eq!(
            message(&format!("FROM scratch\n{text}")),
            format!("line 2: {expected}")
        );
    }
}

#[test]
fn healthchecks() {
    let found = one("HEALTHCHECK --interval=1m30s --timeout=0 --start-period=2ms --retries=3 cmd [\"a\"]");
    let expected = Healthcheck::Cmd {
        command: Command::Exec(vec!["a".into()]),
        interval: 90_000_000_000,
        timeout: 0,
        start_period: 2_000_000,
        start_interval: 0,
        retries: 3,
    };
    assert_eq!(found, Instruction::Healthcheck(expected));
    assert_eq!(
        one("HEALTHCHECK --bogus none"),
        Instruction::Healthcheck(Healthcheck::None)
    );
    for (text, expected) in [
        ("", "HEALTHCHECK requires at least one argument"),
        ("NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("CMD", "Missing command after HEALTHCHECK CMD"),
        ("CMD []", "Missing command after HEALTHCHECK CMD"),
        ("foo x", "Unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
        ("--interval=1 CMD x", "time: missing unit in duration \"1\""),
        (
            "--timeout=1us CMD x",
            "Interval \"timeout\" cannot be less than 1ms",
        ),
        ("--retries=-1 CMD x", "--retries cannot be negative (-1)"),
        (
            "--retries=x CMD x",
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
    ] {
        assert_eq!(
            message(&format!("FROM scratch\nHEALTHCHECK {text}")),
            format!("line 2: {expected}")
        );
    }
}

#[test]
fn o1_o2_triggers() {
    let trigger = |text: &str| match one(text) {
        Instruction::Onbuild(text) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(trigger("ONBUILD  RUN  a  \\\n b "), "RUN  a   b");
    let heredoc = trigger("onbuild COPY <<-E /x\n\ta\n\tE\n");
    assert_eq!(heredoc, "COPY <<-E /x\n\ta\nE");
    let again = parse_trigger(&heredoc, '\\').expect("a trigger");
    assert!(matches!(again.value, Instruction::Copy(_)));
    for (text, expected) in [
        (
            "onbuild RUN x",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("From x", "FROM isn't allowed as an ONBUILD trigger"),
        ("MAINTAINER x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
    ] {
        assert_eq!(
            message(&format!("FROM scratch\nONBUILD {text}")),
            format!("line 2: {expected}")
        );
        assert!(parse_trigger(text.replace("onbuild", "ONBUILD").as_str(), '\\').is_err());
    }
    for late in ["FOO x", "COPY x", "RUN --nosuch x"] {
        assert_eq!(trigger(&format!("ONBUILD {late}")), late);
        assert!(parse_trigger(late, '\\').is_err(), "{late}");
    }
    assert!(parse_trigger("", '\\').is_err());
    assert!(parse_trigger("RUN a\nRUN b", '\\').is_err());
    assert!(parse_trigger("RUN a `\n b", '`').is_ok());
    assert!(message(&format!("FROM scratch\n{}", "ONBUILD ".repeat(100_000))).contains("Chaining"));
}

#[test]
fn all_errors_in_order() {
    let errors = parse(b"FROM a b\nFOO\nRUN --x y\nENV A\n").expect_err("four errors");
    let lines: Vec<_> = errors.iter().map(|error| error.span.start_line).collect();
    assert_eq!(lines, [1, 2, 3, 4]);
    let many = format!("FROM a\n{}", "FOO\n".repeat(1000));
    assert_eq!(
        parse(many.as_bytes()).expect_err("many errors").len(),
        MOST_ERRORS
    );
}

#[test]
fn instructions_are_counted() {
    let most = "FROM scratch\nRUN a\n".repeat(MOST_INSTRUCTIONS / 2);
    assert!(parse(most.as_bytes()).is_ok());
    let errors = parse(format!("{most}RUN a\nRUN b\nRUN c\n").as_bytes()).expect_err("too many");
    let line = u32::try_from(MOST_INSTRUCTIONS + 1).unwrap();
    assert_eq!((errors.len(), errors[0].span.start_line as u64), (1, line.into()));
    assert!(errors[0].message.contains("at most 20000") && errors[0].help.is_some());
}

#[test]
fn a_megabyte_takes_no_time() {
    let started = std::time::Instant::now();
    for unit in [
        "RUN a \\\n",
        "a<<b ",
        "ENV A=1\n",
        "# c\n",
        "RUN <<E\nx\nE\n",
        "\"'",
        "\\\n",
        "${",
        "--a=b ",
    ] {
        let text = format!("FROM scratch\nRUN {}", unit.repeat((1 << 20) / unit.len()));
        let _ = parse(text.as_bytes());
        let text = format!("FROM scratch\nENV {}", unit.repeat((1 << 20) / unit.len()));
        let _ = parse(text.as_bytes());
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
