use super::*;
use crate::parse;

/// `LINE Rule: message` of all findings.
fn found(text: &str) -> Vec<String> {
    let file = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"));
    let line = |it: &Diagnostic| format!("{} {}: {}", it.span.start_line, it.code, it.message);
    check(&file).iter().map(line).collect()
}

/// For every rule here: where it fires with what it says, where it does not, and where it is skipped.
#[test]
fn each_rule_fires_and_does_not() {
    for (rule, fires, expected, silent) in [
        (
            "StageNameCasing",
            "FROM a AS Build",
            "1 StageNameCasing: Stage name 'Build' should be lowercase",
            "FROM a AS build",
        ),
        (
            "FromAsCasing",
            "FROM a as b",
            "1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match",
            "FROM as",
        ),
        (
            "NoEmptyContinuation",
            "FROM a\nRUN x \\\n\n y",
            "2 NoEmptyContinuation: Empty continuation line",
            "FROM a\nRUN x \\\n# no\n y",
        ),
        (
            "ConsistentInstructionCasing",
            "FROM a\nRUN b\nrun c",
            "3 ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase)",
            "arg A\nFROM a\nRUN b",
        ),
        (
            "DuplicateStageName",
            "FROM a AS b\nFROM c AS b",
            "2 DuplicateStageName: Duplicate stage name \"b\", stage names should be unique",
            "FROM a AS b\nFROM b\nFROM b",
        ),
        (
            "ReservedStageName",
            "FROM a AS context",
            "1 ReservedStageName: Stage name should not use the same name as reserved stage \"context\"",
            "FROM scratch AS contexts",
        ),
        (
            "MaintainerDeprecated",
            "FROM a\nMAINTAINER me",
            "2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label",
            "FROM a\nLABEL maintainer=me",
        ),
        (
            "InvalidDefinitionDescription",
            "# the version\nARG V=1\nFROM a",
            "2 InvalidDefinitionDescription: Comment for ARG should follow the format: `# V <description>`",
            "# V is the version\nARG V=1\n# the version\n#\nARG W\nFROM a",
        ),
    ] {
        assert_eq!(found(fires), [expected], "{rule}");
        assert!(found(silent).is_empty(), "{rule}: {:?}", found(silent));
        assert!(find(rule).is_some(), "{rule}");
        // Skipped for this instruction: the comment goes above the line that the finding is about.
        let line: usize = expected.split(' ').next().and_then(|n| n.parse().ok()).unwrap();
        let mut lines: Vec<String> = fires.lines().map(str::to_owned).collect();
        lines.insert(line - 1, format!("# check=skip=Other,{rule}"));
        lines.insert(0, "# no directive".to_owned());
        assert!(
            !found(&lines.join("\n")).iter().any(|it| it.contains(rule)),
            "{rule}: {lines:?}"
        );
    }
}

#[test]
fn other_forms() {
    for (text, expected) in [
        (
            "from a AS b\nrun x",
            &["1 FromAsCasing: 'AS' and 'from' keywords' casing do not match"][..],
        ),
        (
            // A tie is upper-case, and mixed case is never right.
            "FROM a\nrun b\nRun c\nCMD [\"d\"]\nuser e",
            &[
                "2 ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase)",
                "3 ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (uppercase)",
                "5 ConsistentInstructionCasing: Command 'user' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "from a\nrun b\nRUN c",
            &[
                "3 ConsistentInstructionCasing: Command 'RUN' should match the case of the command majority (lowercase)",
            ],
        ),
        (
            "FROM a AS B\nFROM a AS b",
            &[
                "1 StageNameCasing: Stage name 'B' should be lowercase",
                "2 DuplicateStageName: Duplicate stage name \"b\", stage names should be unique",
            ],
        ),
        (
            "# what it is\nFROM a AS b\n# two\nARG X Y",
            &[
                "2 InvalidDefinitionDescription: Comment for FROM should follow the format: `# b <description>`",
                "4 InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>`",
            ],
        ),
        (
            "From a as b\nRUN x",
            &[
                "1 ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase)",
            ],
        ),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
}

#[test]
fn pages() {
    for (name, page) in [
        ("JSONArgsRecommended", Some("json-args-recommended")),
        ("SecretsUsedInArgOrEnv", Some("secrets-used-in-arg-or-env")),
        ("FromAsCasing", Some("from-as-casing")),
        ("UndefinedVar", Some("undefined-var")),
        ("InvalidBaseImagePlatform", None),
    ] {
        let url = page.map(|page| format!("https://docs.docker.com/go/dockerfile/rule/{page}/"));
        assert_eq!(find(name).map(Rule::url), Some(url), "{name}");
    }
    assert_eq!(RULES.iter().filter(|rule| rule.experimental).count(), 1);
    assert!(find("Nothing").is_none());
}

#[test]
fn descriptions() {
    let comments = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    for (lines, expected) in [
        (&["V the version"][..], Some("the version")),
        (&["V  old", "V new", "more"], Some("new")),
        (&["Version"], None),
        (&["V"], None),
        (&[], None),
    ] {
        assert_eq!(description(&comments(lines), "V"), expected, "{lines:?}");
    }
}
