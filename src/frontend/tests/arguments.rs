//! ARG, build arguments and what expansion sees (spec 2.2, 3.2).

use super::*;

#[test]
fn history_tells_what_arguments_became() {
    for (rule, text, args, expected) in [
        (
            "A1 X10",
            "FROM busybox\nARG A=1\nARG B=$A-x\nRUN echo\nARG A=2\nRUN echo 2",
            &[("A", "cli")][..],
            &[
                "ARG A=cli",
                "ARG B=cli-x",
                "RUN |2 A=cli B=cli-x /bin/sh -c echo # buildkit *",
                "ARG A=cli",
                "RUN |2 A=cli B=cli-x /bin/sh -c echo 2 # buildkit *",
            ][..],
        ),
        (
            "X10 env wins after ARG",
            "FROM busybox\nARG A=arg\nENV A=env\nRUN a\nARG A=again\nRUN b\nENV B=${A}",
            &[("A", "cli")],
            &[
                "ARG A=cli",
                "ENV A=env",
                "RUN |1 A=env /bin/sh -c a # buildkit *",
                "ARG A=cli",
                "RUN |1 A=cli /bin/sh -c b # buildkit *",
                "ENV B=cli",
            ],
        ),
        (
            "B9",
            "FROM busybox\nENV A=a\nARG A=z\nLABEL l=$A",
            &[],
            &["ENV A=a", "ARG A=z", "LABEL l=z"],
        ),
        (
            "A5",
            "FROM busybox\nARG A=1 B=$A-2\nENV C=$B",
            &[],
            &["ARG A=1 B=1-2", "ENV C=1-2"],
        ),
        (
            "X11",
            "FROM busybox\nENV a=1\nENV a=x b=$a",
            &[],
            &["ENV a=1", "ENV a=x b=1"],
        ),
        (
            "X12",
            "ARG G=g\nFROM busybox\nENV a=${G:-no}\nARG G\nENV b=$G",
            &[],
            &["ENV a=no", "ARG G=g", "ENV b=g"],
        ),
        (
            "X13",
            "FROM busybox\nENV a=${TARGETOS:-no}${HTTP_PROXY:-no}\nARG TARGETOS",
            &[("http_proxy", "p")],
            &["ENV a=nono", "ARG TARGETOS=linux"],
        ),
        (
            "X18",
            "FROM busybox\nARG A\nENV B=${A-unset}",
            &[],
            &["ARG A", "ENV B=unset"],
        ),
        (
            "X18 empty",
            "FROM busybox\nARG A\nENV B=${A-unset}",
            &[("A", "")],
            &["ARG A=", "ENV B="],
        ),
        (
            "A2",
            "FROM busybox\nARG TARGETARCH=foo\nARG TARGETOS",
            &[("TARGETOS", "x")],
            &["ARG TARGETARCH=foo", "ARG TARGETOS=x"],
        ),
        (
            "A4",
            "FROM busybox AS a\nARG A=1\nFROM a\nRUN x",
            &[],
            &["ARG A=1", "RUN |1 A=1 /bin/sh -c x # buildkit *"],
        ),
        (
            "A10",
            "FROM busybox\nARG TARGETSTAGE TARGETVARIANT",
            &[],
            &["ARG TARGETSTAGE=default TARGETVARIANT="],
        ),
        (
            "A10 named",
            "FROM busybox AS Last\nARG TARGETSTAGE",
            &[],
            &["ARG TARGETSTAGE=last"],
        ),
        (
            "A11",
            "FROM busybox\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nENV a=${BUILDKIT_SBOM_SCAN_STAGE:-no}",
            &[],
            &["ARG BUILDKIT_SBOM_SCAN_STAGE=true", "ENV a=no"],
        ),
        (
            "arg-redefine",
            "FROM busybox\nARG A=2\nARG A\nRUN x",
            &[],
            &["ARG A=2", "ARG A", "RUN |1 A=2 /bin/sh -c x # buildkit *"],
        ),
        (
            "arg-quoted",
            "FROM busybox\nARG A=\"two words\"\nARG B='single $A'\nARG C=\"x $A\"\nARG D=",
            &[],
            &[
                "ARG A=two words",
                "ARG B=single $A",
                "ARG C=x two words",
                "ARG D=",
            ],
        ),
        (
            "L61 escape directive",
            "# escape=`\nFROM busybox\nENV A=c:\\x B=a`$b",
            &[],
            &["ENV A=c:\\x B=a$b"],
        ),
    ] {
        assert_eq!(history(&lowered(&with_args(text, args))), expected, "{rule}");
    }
}

#[test]
fn from_sees_global_arguments() {
    for (rule, text, args, asked) in [
        ("A1", "ARG V=busybox\nFROM $V", &[][..], "busybox"),
        ("A2", "ARG V=none\nFROM $V", &[("V", "full")], "full"),
        ("A5", "ARG A=busy B=${A}box\nFROM $B", &[], "busybox"),
        ("A10", "FROM ${TARGETOS:+busybox}", &[], "busybox"),
        ("X12 default", "FROM ${V:-busybox}", &[], "busybox"),
        (
            "oci layout",
            "FROM oci-layout://busybox:tag",
            &[],
            "oci-layout://busybox:tag",
        ),
    ] {
        let images = Images::new();
        lower(&with_args(text, args), &images).unwrap();
        let platform = Platform::host();
        assert_eq!(
            *images.asked.lock().unwrap(),
            [format!("{asked} {platform}")],
            "{rule}"
        );
    }
}

#[test]
fn run_gets_arguments_and_proxies() {
    // A8: both spellings, and not in the environment that is in the key.
    let run = lowered(&with_args(
        "FROM busybox\nENV E=1\nARG A=2\nRUN x",
        &[("Http_Proxy", "p"), ("no_proxy", "n")],
    ));
    assert_eq!(exec(&run).env, [PATH, "E=1", "A=2"]);
    assert_eq!(
        exec(&run).proxy_env,
        ["HTTP_PROXY=p", "http_proxy=p", "NO_PROXY=n", "no_proxy=n"]
    );
    assert_eq!(exec(&run).hostname, "buildkitsandbox");
    assert!(warned(&run).is_empty(), "{:?}", warned(&run));
    // Declared, it is a variable like others.
    let run = lowered(&with_args(
        "FROM busybox\nARG HTTP_PROXY\nRUN x",
        &[("HTTP_PROXY", "p")],
    ));
    assert_eq!(exec(&run).env, [PATH, "HTTP_PROXY=p"]);
    // A11, A3.
    let run = lowered(&with_args(
        "FROM busybox\nARG A=2\nRUN x",
        &[("BUILDKIT_SANDBOX_HOSTNAME", "h")],
    ));
    assert_eq!(exec(&run).hostname, "h");
    assert_eq!(run.image.config().env, [PATH]);
}

#[test]
fn doubtful_arguments_warn() {
    for (rule, text, args, expected) in [
        (
            "A6",
            "ARG VERSION=1\nFROM busybox",
            &[("VERSON", "2")][..],
            &[
                "0 : build argument VERSON was not used: the Dockerfile has no ARG of that name (did you mean VERSION?)",
            ][..],
        ),
        (
            "A6 used elsewhere",
            "FROM busybox AS a\nARG X\nFROM busybox",
            &[("X", "2")],
            &[],
        ),
        (
            "A11",
            "FROM busybox",
            &[
                ("BUILDKIT_INLINE_CACHE", "1"),
                ("SOURCE_DATE_EPOCH", "0"),
                ("TARGETARCH", "x"),
            ],
            &[],
        ),
        (
            "UndefinedVar",
            "FROM busybox\nENV HOMEDIR=1\nENV A=$HOMEDR B=${X-1}",
            &[],
            &[
                "3 UndefinedVar: Usage of undefined variable '$HOMEDR' (did you mean $HOMEDIR?)",
                "3 UndefinedVar: Usage of undefined variable '$X'",
            ],
        ),
        ("UndefinedVar declared", "FROM busybox\nARG A\nENV B=$A", &[], &[]),
        (
            "UndefinedArgInFrom",
            "ARG VERSION\nFROM busybox$VERSION$VERSIO",
            &[],
            &["2 UndefinedArgInFrom: FROM argument 'VERSIO' is not declared (did you mean VERSION?)"],
        ),
        (
            "SecretsUsedInArgOrEnv",
            "FROM busybox\nARG API_TOKEN PUBLIC_KEY\nENV secret=1",
            &[],
            &[
                "2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"API_TOKEN\")",
                "3 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"secret\")",
            ],
        ),
        (
            "check skip one",
            "FROM busybox\n# check=skip=SecretsUsedInArgOrEnv\nARG API_TOKEN\nENV secret=1",
            &[],
            &[
                "4 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"secret\")",
            ],
        ),
        (
            "check skip",
            "# check=skip=SecretsUsedInArgOrEnv\nFROM busybox\nARG API_TOKEN",
            &[],
            &[],
        ),
    ] {
        assert_eq!(warned(&lowered(&with_args(text, args))), expected, "{rule}");
    }
}

#[test]
fn arguments_fail() {
    for (rule, text, args, expected) in [
        (
            "F7",
            "FROM $X",
            &[][..],
            "1: base name ($X) should not be blank ($X is not set",
        ),
        (
            "F7 unneeded",
            "FROM ${X}\nFROM busybox",
            &[],
            "1: base name (${X}) should not be blank",
        ),
        (
            "F7 platform",
            "ARG P\nFROM --platform=$P busybox",
            &[],
            "2: empty platform value from expression $P",
        ),
        (
            "F7 unparsable",
            "FROM --platform=a/b/c/d busybox",
            &[],
            "1: failed to parse platform a/b/c/d: ",
        ),
        (
            "V ?",
            "FROM busybox\nENV A=\"${NOPE:?must be given}\"",
            &[],
            "2: failed to process",
        ),
        (
            "V ? ARG",
            "ARG A=${NOPE:?must be given}\nFROM busybox",
            &[],
            "1: failed to process",
        ),
        (
            "T6",
            "FROM busybox",
            &[("SOURCE_DATE_EPOCH", "soon")],
            "invalid SOURCE_DATE_EPOCH \"soon\"",
        ),
        (
            "L17",
            "# syntax=acme/frontend\nFROM busybox",
            &[],
            "the Dockerfile asks for the frontend \"acme/frontend\"",
        ),
        (
            "L18",
            "# check=error=true\nFROM busybox\nARG API_TOKEN",
            &[],
            "3: lint violation found for rules: SecretsUsedInArgOrEnv",
        ),
    ] {
        let message = failure(&with_args(text, args));
        assert!(message.starts_with(expected), "{rule}: {message}");
    }
    for syntax in [
        "docker/dockerfile:1",
        "docker.io/docker/dockerfile-upstream:master",
        "host:5/mirror/docker/dockerfile",
    ] {
        build(&format!("# syntax={syntax}\nFROM busybox"));
    }
}

#[test]
fn source_date_epoch_comes_from_the_nearest() {
    let mut request = request("ARG SOURCE_DATE_EPOCH=5\nFROM busybox");
    assert_eq!(lowered(&request).source_date_epoch, Some(5));
    request.source_date_epoch = Some(7);
    assert_eq!(lowered(&request).source_date_epoch, Some(7));
    request.build_args = vec![("SOURCE_DATE_EPOCH".into(), Some("9".into()))];
    assert_eq!(lowered(&request).source_date_epoch, Some(9));
    assert_eq!(build("FROM busybox").source_date_epoch, None);
}
