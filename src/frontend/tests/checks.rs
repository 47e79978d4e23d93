//! Build checks, each by its name: where it fires and with what, where it does not, and how it is skipped (spec 10).

use super::*;

struct Case {
    rule: &'static str,
    fires: &'static str,
    /// Line and message.
    expected: (usize, &'static str),
    silent: &'static str,
}

const fn case(
    rule: &'static str,
    fires: &'static str,
    expected: (usize, &'static str),
    silent: &'static str,
) -> Case {
    Case {
        rule,
        fires,
        expected,
        silent,
    }
}

const CASES: [Case; 22] = [
    case(
        "StageNameCasing",
        "FROM busybox AS Build",
        (1, "Stage name 'Build' should be lowercase"),
        "FROM busybox AS build",
    ),
    case(
        "FromAsCasing",
        "FROM busybox as build",
        (1, "'as' and 'FROM' keywords' casing do not match"),
        "from busybox as build",
    ),
    case(
        "NoEmptyContinuation",
        "FROM busybox\nRUN x \\\n\n  y",
        (2, "Empty continuation line"),
        "FROM busybox\nRUN x \\\n# y\n  y",
    ),
    case(
        "ConsistentInstructionCasing",
        "FROM busybox\nRUN x\nrun y",
        (
            3,
            "Command 'run' should match the case of the command majority (uppercase)",
        ),
        "from busybox\nrun x\nrun y",
    ),
    case(
        "DuplicateStageName",
        "FROM busybox AS b\nFROM busybox AS b",
        (2, "Duplicate stage name \"b\", stage names should be unique"),
        "FROM busybox AS b\nFROM busybox AS c",
    ),
    case(
        "ReservedStageName",
        "FROM busybox AS scratch",
        (
            1,
            "Stage name should not use the same name as reserved stage \"scratch\"",
        ),
        "FROM scratch AS b",
    ),
    case(
        "JSONArgsRecommended",
        "FROM busybox\nENTRYPOINT x y",
        (
            2,
            "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
        ),
        "FROM busybox\nSHELL [\"/x\"]\nENTRYPOINT x y",
    ),
    case(
        "MaintainerDeprecated",
        "FROM busybox\nMAINTAINER me",
        (2, "Maintainer instruction is deprecated in favor of using label"),
        "FROM busybox\nLABEL maintainer=me",
    ),
    case(
        "UndefinedArgInFrom",
        "ARG VERSION=1\nFROM busybox${VERSIO}",
        (
            2,
            "FROM argument 'VERSIO' is not declared (did you mean VERSION?)",
        ),
        "ARG V\nFROM busybox$V",
    ),
    case(
        "WorkdirRelativePath",
        "FROM busybox\nWORKDIR a",
        (
            2,
            "Relative workdir \"a\" can have unexpected results if the base image changes",
        ),
        "FROM busybox\nWORKDIR /a\nWORKDIR b",
    ),
    case(
        "UndefinedVar",
        "FROM busybox\nARG NAME\nUSER $NAM",
        (3, "Usage of undefined variable '$NAM'"),
        "FROM busybox\nARG NAME\nUSER $NAME",
    ),
    case(
        "MultipleInstructionsDisallowed",
        "FROM busybox\nCMD [\"a\"]\nCMD [\"b\"]",
        (
            2,
            "Multiple CMD instructions should not be used in the same stage because only the last one will be used",
        ),
        "FROM busybox AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]",
    ),
    case(
        "LegacyKeyValueFormat",
        "FROM busybox\nLABEL a b",
        (
            2,
            "\"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
        ),
        "FROM busybox\nLABEL a=b",
    ),
    case(
        "InvalidBaseImagePlatform",
        "FROM arm",
        (
            1,
            "Base image arm was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build",
        ),
        "FROM busybox",
    ),
    case(
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM busybox",
        (
            1,
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        "FROM --platform=$BUILDPLATFORM busybox",
    ),
    case(
        "SecretsUsedInArgOrEnv",
        "FROM busybox\nENV API_KEY=x",
        (
            2,
            "Do not use ARG or ENV instructions for sensitive data (ENV \"API_KEY\")",
        ),
        "FROM busybox\nENV PUBLIC_KEY=x KEYBOARD=y",
    ),
    case(
        "InvalidDefaultArgInFrom",
        "ARG TAG\nFROM busybox:$TAG",
        (
            2,
            "Default value for ARG busybox:$TAG results in empty or invalid base image name",
        ),
        "ARG TAG=1\nFROM busybox:$TAG",
    ),
    case(
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/amd64 busybox AS build",
        (
            1,
            "FROM --platform flag should not use constant value \"linux/amd64\"",
        ),
        "FROM --platform=linux/amd64 busybox AS build-amd64",
    ),
    case(
        "CopyIgnoredFile",
        "FROM busybox\nCOPY ignored/x /y",
        (
            2,
            "Attempting to Copy file \"ignored/x\" that is excluded by .dockerignore",
        ),
        "FROM busybox AS a\nCOPY . /\nFROM busybox\nCOPY --from=a ignored /y",
    ),
    case(
        "InvalidDefinitionDescription",
        "FROM busybox\n# the version\nARG V",
        (3, "Comment for ARG should follow the format: `# V <description>`"),
        "FROM busybox\n# V is the version\nARG V",
    ),
    case(
        "ExposeProtoCasing",
        "FROM busybox\nEXPOSE 80/TCP",
        (
            2,
            "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
        ),
        "FROM busybox\nEXPOSE 80/tcp 81",
    ),
    case(
        "ExposeInvalidFormat",
        "FROM busybox\nEXPOSE 81:82",
        (
            2,
            "EXPOSE instruction should not define an IP address or host-port mapping, found '81:82'",
        ),
        "FROM busybox\nEXPOSE 81-82",
    ),
];

/// As it is checked on an amd64 machine, with `TAG=1` given and `ignored` left out of the context.
fn checked(text: &str) -> Vec<(usize, &'static str, String)> {
    let mut request = with_args(text, &[("TAG", "1")]);
    request.platform = Some("linux/amd64".parse().unwrap());
    request.ignored = vec!["ignored".to_owned()];
    let checked = check(&request, &Images::new());
    assert!(checked.error.is_none(), "{text}: {:?}", checked.error);
    let place = |warning: &Warning| warning.location.as_ref().map_or(0, |location| location.start);
    let seen = checked.warnings.iter();
    seen.map(|warning| (place(warning), warning.rule, warning.text()))
        .collect()
}

#[test]
fn each_rule_fires_is_silent_and_is_skipped() {
    for Case {
        rule,
        fires,
        expected: (line, message),
        silent,
    } in CASES
    {
        assert!(rbuild_parser::lint::find(rule).is_some(), "{rule}");
        let ask = "# check=experimental=all\n";
        assert_eq!(
            checked(&format!("{ask}{fires}")),
            [(line + 1, rule, message.to_owned())],
            "{rule}"
        );
        assert_eq!(checked(&format!("{ask}{silent}")), [], "{rule}");
        for options in [format!("skip=X,{rule}"), "skip=all".to_owned()] {
            let text = format!("# check={options};experimental=all\n{fires}");
            assert_eq!(checked(&text), [], "{rule}: {options}");
        }
        let mut lines: Vec<&str> = fires.lines().collect();
        let here = format!("# check=skip={rule}");
        lines.insert(line - 1, &here);
        let text = format!("{ask}# no directive\n#\n{}", lines.join("\n"));
        assert_eq!(checked(&text), [], "{rule}: for one instruction");
        let experimental = rule == "InvalidDefinitionDescription";
        assert_eq!(checked(fires).is_empty(), experimental, "{rule}: unasked");
    }
    let mut names: Vec<&str> = CASES.iter().map(|case| case.rule).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rbuild_parser::lint::RULES.len());
}

#[test]
fn what_is_looked_at_depends_on_the_target() {
    // G3: all stages without a target, else what it needs.
    let text = "FROM busybox AS a\nCMD x\nFROM busybox AS b\nSTOPSIGNAL NOPE\nFROM busybox";
    let mut request = request(text);
    let all = check(&request, &Images::new());
    let error = all.error.expect("the second stage is wrong");
    assert_eq!(error.to_string(), "invalid signal: NOPE");
    assert_eq!(error.location.map(|location| location.start), Some(4));
    assert_eq!(all.warnings.len(), 1);
    for (target, warnings) in [("a", 1), ("2", 0)] {
        request.target = Some(target.to_owned());
        let checked = check(&request, &Images::new());
        assert!(checked.error.is_none(), "{target}");
        assert_eq!(checked.warnings.len(), warnings, "{target}");
    }
}

#[test]
fn warnings_fail_a_build_on_demand() {
    let text = "FROM busybox AS B\nCMD x";
    let wrong = "1: lint violation found for rules: JSONArgsRecommended, StageNameCasing";
    let request = |value: &str| with_args(text, &[("BUILDKIT_DOCKERFILE_CHECK", value)]);
    assert!(failure(&request("error=true")).starts_with(wrong));
    assert!(failure(&super::request(&format!("# check=error=true\n{text}"))).starts_with("2: lint"));
    // The build argument wins over the directive.
    let mut both = request("skip=StageNameCasing;error=true");
    both.dockerfile.directives.check = Some("skip=all".to_owned());
    assert!(failure(&both).starts_with("2: lint violation found for rules: JSONArgsRecommended ("));
    assert!(warned(&lowered(&request("skip=all;error=true"))).is_empty());
    assert_eq!(
        failure(&request("nope=1")),
        "failed to parse check options: invalid check option \"nope\""
    );
}

#[test]
fn outlines_and_targets() {
    use crate::frontend::outline::{outline, targets};
    let text = "# TAG of the base\nARG TAG=1\nARG UNUSED=2\n# build makes it\nFROM busybox:$TAG AS build\n# FAST is quick\nARG FAST=yes\nARG TAG\nRUN --network=none x\n# other\nFROM --platform=$BUILDPLATFORM busybox AS other\nARG ELSE\nFROM build";
    let request = request(text);
    let listed = targets(&request);
    let shown = listed.iter().map(|target| {
        let line = target.location.start;
        format!(
            "{}|{}|{}|{}|{}|{line}",
            target.name, target.default, target.description, target.base, target.platform
        )
    });
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            "build|false|makes it|busybox:$TAG||5",
            "other|false||busybox|$BUILDPLATFORM|11",
            "|true||build||13"
        ]
    );
    let outline = outline(&request, &Images::new()).unwrap();
    assert_eq!((outline.name.as_str(), outline.description.as_str()), ("", ""));
    let args = outline.args.iter().map(|arg| {
        let line = arg.location.start;
        format!("{}={} {} {line}", arg.name, arg.value, arg.description)
    });
    assert_eq!(
        args.collect::<Vec<_>>(),
        ["TAG=1 of the base 2", "FAST=yes is quick 7"]
    );
}
