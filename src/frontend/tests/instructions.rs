//! What each instruction adds to graph, config and history (spec 3, 5.2).

use super::*;
use crate::graph::{CopySource, InlineFile, Unpack};

#[test]
fn config_and_history() {
    for (rule, text, entries, config) in [
        (
            "C1",
            "FROM busybox\nSHELL [\"/bin/x\",\"-c\"]\nCMD a  b",
            &["SHELL [/bin/x -c]", "CMD [\"/bin/x\" \"-c\" \"a  b\"]"][..],
            json!({"Cmd": ["/bin/x", "-c", "a  b"], "Shell": ["/bin/x", "-c"], "ArgsEscaped": true}),
        ),
        (
            "C3 inherited",
            "FROM busybox AS a\nCMD [\"from-a\"]\nFROM a\nENTRYPOINT [\"e\"]",
            &["CMD [\"from-a\"]", "ENTRYPOINT [\"e\"]"],
            json!({"Entrypoint": ["e"], "Cmd": null, "ArgsEscaped": true}),
        ),
        (
            "C3 same stage",
            "FROM busybox\nCMD [\"c\"]\nENTRYPOINT [\"e\"]",
            &["CMD [\"c\"]", "ENTRYPOINT [\"e\"]"],
            json!({"Entrypoint": ["e"], "Cmd": ["c"]}),
        ),
        (
            "C3 base",
            "FROM full\nENTRYPOINT e",
            &["ENTRYPOINT [\"/bin/ash\" \"-e\" \"-c\" \"e\"]"],
            json!({"Entrypoint": ["/bin/ash", "-e", "-c", "e"], "Cmd": null}),
        ),
        (
            "C4",
            "FROM full\nENTRYPOINT []",
            &["ENTRYPOINT []"],
            json!({"Entrypoint": null, "Cmd": null}),
        ),
        (
            "C4 cmd",
            "FROM full\nCMD []",
            &["CMD []"],
            json!({"Entrypoint": ["/bin/echo", "entry"], "Cmd": null}),
        ),
        (
            "C5",
            "FROM busybox\nENTRYPOINT [\"e\"]",
            &["ENTRYPOINT [\"e\"]"],
            json!({"ArgsEscaped": null}),
        ),
        (
            "C2",
            "FROM busybox\nCMD a\nCMD [\"b\"]\nENTRYPOINT a\nENTRYPOINT [\"c\"]",
            &[
                "CMD [\"/bin/sh\" \"-c\" \"a\"]",
                "CMD [\"b\"]",
                "ENTRYPOINT [\"/bin/sh\" \"-c\" \"a\"]",
                "ENTRYPOINT [\"c\"]",
            ],
            json!({"Entrypoint": ["c"], "Cmd": ["b"]}),
        ),
        (
            "C6",
            "FROM busybox\nCMD cat <<E",
            &["CMD [\"/bin/sh\" \"-c\" \"cat <<E\"]"],
            json!({"Cmd": ["/bin/sh", "-c", "cat <<E"]}),
        ),
        (
            "E7",
            "FROM full\nSHELL [\"/bin/x\", \"-e\"]\nRUN r\nENTRYPOINT e\nCMD c\nHEALTHCHECK CMD h",
            &[
                "SHELL [/bin/x -e]",
                "RUN /bin/x -e r # buildkit *",
                "ENTRYPOINT [\"/bin/x\" \"-e\" \"e\"]",
                "CMD [\"/bin/x\" \"-e\" \"c\"]",
                "HEALTHCHECK {Test:[CMD-SHELL h] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
            ],
            json!({"Shell": ["/bin/x", "-e"], "Entrypoint": ["/bin/x", "-e", "e"], "Cmd": ["/bin/x", "-e", "c"],
                   "Healthcheck": {"Test": ["CMD-SHELL", "h"]}}),
        ),
        (
            "F11",
            "FROM full",
            &[],
            json!({"User": "app", "WorkingDir": "/home/app", "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["dflt", "arg"],
                   "Volumes": {"/vol": {}, "/data": {}}, "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                   "Labels": {"base.label": "x", "shared": "from base"}, "StopSignal": "SIGQUIT",
                   "Shell": ["/bin/ash", "-e", "-c"], "OnBuild": null}),
        ),
        (
            "E1",
            "FROM full\nLABEL shared=mine \"a b\"='c \"d'",
            &["LABEL shared=mine a b=c \"d"],
            json!({"Labels": {"a b": "c \"d", "base.label": "x", "shared": "mine"}}),
        ),
        (
            "E2",
            "FROM full\nENV BASE_A=changed NEW=${BASE_B}!\nENV EMPTYV=$EMPTYV-x",
            &["ENV BASE_A=changed NEW=two words!", "ENV EMPTYV=-x"],
            json!({"Env": [PATH, "BASE_A=changed", "BASE_B=two words", "EMPTYV=-x", "NEW=two words!"]}),
        ),
        (
            "X16",
            "FROM busybox\nENV K  a  b \nENV A = b",
            &["ENV K=a  b", "ENV A== b"],
            json!({"Env": [PATH, "K=a  b", "A== b"]}),
        ),
        (
            "X14",
            "FROM nopath\nENV P=$PATH:/x",
            &[],
            json!({"Env": ["A=1", PATH, format!("P={}:/x", &PATH[5..])], "WorkingDir": "/w/../x/"}),
        ),
        (
            "X14 no config",
            "FROM noconfig",
            &[],
            json!({"Env": [PATH], "WorkingDir": null}),
        ),
        (
            "F5",
            "FROM scratch",
            &[],
            json!({"Env": [PATH], "WorkingDir": "/"}),
        ),
        (
            "E3",
            "FROM full\nENV P=\"90/udp 80\"\nEXPOSE $P 7-8 \"\"\nEXPOSE 1/TCP",
            &[
                "ENV P=90/udp 80",
                "EXPOSE [90/udp 80/tcp 7/tcp 8/tcp]",
                "EXPOSE [1/tcp]",
            ],
            json!({"ExposedPorts": {"1/tcp": {}, "53/udp": {}, "7/tcp": {}, "8/tcp": {}, "80/tcp": {}, "90/udp": {}}}),
        ),
        (
            "E4",
            "FROM full\nARG U=u\nUSER $U:g\nUSER \"\"",
            &["ARG U=u", "USER u:g", "USER "],
            json!({"User": null}),
        ),
        (
            "E5",
            "FROM full\nVOLUME [\"/a b\", \"rel\"]\nVOLUME /x /y",
            &["VOLUME [/a b rel]", "VOLUME [/x /y]"],
            json!({"Volumes": {"/a b": {}, "/data": {}, "/vol": {}, "/x": {}, "/y": {}, "rel": {}}}),
        ),
        (
            "E6",
            "FROM full\nSTOPSIGNAL kill",
            &["STOPSIGNAL kill"],
            json!({"StopSignal": "kill"}),
        ),
        (
            "3.6",
            "FROM busybox\nHEALTHCHECK --interval=1m30s --timeout=500ms --start-period=2h --start-interval=250ms --retries=7 CMD curl x || exit 1",
            &[
                "HEALTHCHECK {Test:[CMD-SHELL curl x || exit 1] Interval:1m30s Timeout:500ms StartPeriod:2h0m0s StartInterval:250ms Retries:7}",
            ],
            json!({"Healthcheck": {"Test": ["CMD-SHELL", "curl x || exit 1"], "Interval": 90_000_000_000_i64, "Timeout": 500_000_000,
                "StartPeriod": 7_200_000_000_000_i64, "StartInterval": 250_000_000, "Retries": 7}}),
        ),
        (
            "3.6 exec",
            "FROM full\nHEALTHCHECK CMD [\"a\",\"b\"]",
            &[
                "HEALTHCHECK {Test:[CMD a b] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
            ],
            json!({"Healthcheck": {"Test": ["CMD", "a", "b"]}}),
        ),
        (
            "3.6 none",
            "FROM full\nHEALTHCHECK NONE",
            &["HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}"],
            json!({"Healthcheck": {"Test": ["NONE"]}}),
        ),
        (
            "3.7",
            "FROM scratch\nWORKDIR /a/b\nWORKDIR ../c/\nWORKDIR /",
            &["WORKDIR /a/b *", "WORKDIR /a/c *", "WORKDIR /"],
            json!({"WorkingDir": "/"}),
        ),
        (
            "3.7 absolute",
            "FROM nopath\nWORKDIR y\nWORKDIR /a/./b/../c/",
            &["WORKDIR /x/y *", "WORKDIR /a/./b/../c/ *"],
            json!({"WorkingDir": "/a/./b/../c/"}),
        ),
        (
            "3.7 base",
            "FROM full\nARG D=\"x y\"\nWORKDIR $D",
            &["ARG D=x y", "WORKDIR /home/app/x y *"],
            json!({"WorkingDir": "/home/app/x y"}),
        ),
    ] {
        let lowered = build(text);
        if !entries.is_empty() {
            assert_eq!(history(&lowered), entries, "{rule}");
        }
        let written = written(&lowered);
        for (key, value) in config.as_object().unwrap() {
            assert_eq!(&written["config"][key], value, "{rule}: {key}");
        }
    }
    let workdir = build("FROM busybox\nWORKDIR /a/./b/../c/");
    assert!(matches!(last(&workdir), Op::Mkdir(mkdir) if mkdir.path == "/a/c"));
    // E8
    assert_eq!(
        written(&build("FROM full\nMAINTAINER Me <me@x>"))["author"],
        "Me <me@x>"
    );
    assert_eq!(written(&build("FROM full"))["author"], "Base Author");
}

#[test]
fn run_forms() {
    let shell = |text: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
    for (rule, text, args, entry, name) in [
        (
            "R1",
            "FROM busybox\nRUN  echo   a \\\n  b",
            shell("echo   a   b"),
            "RUN /bin/sh -c echo   a   b # buildkit *",
            "[2/2] RUN echo   a   b",
        ),
        (
            "R1 exec",
            "FROM busybox\nRUN [\"a\", \"b c\"]",
            vec!["a".to_owned(), "b c".to_owned()],
            "RUN a b c # buildkit *",
            "[2/2] RUN [\"a\", \"b c\"]",
        ),
        (
            "L58",
            "FROM busybox\nRUN <<EOF\nset -e\necho $HOME\nEOF",
            shell("set -e\necho $HOME\n"),
            "RUN /bin/sh -c set -e\necho $HOME\n # buildkit *",
            "[2/2] RUN <<EOF (set -e...)",
        ),
        (
            "L58 tabs",
            "FROM busybox\nRUN <<-EOF\n\techo\n\tEOF",
            shell("echo\n"),
            "RUN /bin/sh -c echo\n # buildkit *",
            "[2/2] RUN <<-EOF (echo)",
        ),
        (
            "L58 script",
            "FROM busybox\nRUN <<EOF\n#!/usr/bin/env python3\nprint()\nEOF",
            vec!["/dev/pipes/EOF".to_owned()],
            "RUN /dev/pipes/EOF # buildkit *",
            "[2/2] RUN <<EOF (#!/usr/bin/env python3...)",
        ),
        (
            "L58 two",
            "FROM busybox\nRUN cat <<A && cat <<B\na\nA\nb\nB",
            shell("cat <<A && cat <<B\na\nA\nb\nB"),
            "RUN /bin/sh -c cat <<A && cat <<B\na\nA\nb\nB # buildkit *",
            "[2/2] RUN cat <<A && cat <<B",
        ),
        (
            "variables shown",
            "FROM busybox\nARG V=1\nrun echo $V '$V'",
            shell("echo $V '$V'"),
            "RUN |1 V=1 /bin/sh -c echo $V '$V' # buildkit *",
            "[2/2] RUN echo 1 '$V'",
        ),
    ] {
        let lowered = build(text);
        assert_eq!(exec(&lowered).args, args, "{rule}");
        assert_eq!(
            history(&lowered).last().map(String::as_str),
            Some(entry),
            "{rule}"
        );
        assert_eq!(
            lowered.definition.vertex(lowered.result.unwrap()).name,
            name,
            "{rule}"
        );
    }
    let script = build("FROM scratch\nRUN <<-EOF\n\t#!/x\n\ty\n\tEOF");
    assert_eq!(
        exec(&script).script,
        Some(InlineFile {
            name: "/dev/pipes/EOF".into(),
            data: "#!/x\ny\n".into()
        })
    );
    assert_eq!(
        failure(&request("FROM busybox\nRUN <<a/b\n#!/x\na/b")),
        "2: \"a/b\" is no name for a script"
    );

    let mut insecure = request("FROM full\nRUN --network=none --security=insecure x");
    insecure.allow = vec![Entitlement::SecurityInsecure];
    let run = lowered(&insecure);
    let exec = exec(&run);
    assert_eq!(
        (exec.cwd.as_str(), exec.user.as_str(), exec.network, exec.insecure),
        ("/home/app", "app", NetworkMode::None, true)
    );
    assert_eq!(exec.args, ["/bin/ash", "-e", "-c", "x"]);
    assert_eq!(exec.env, [PATH, "BASE_A=one", "BASE_B=two words", "EMPTYV="]);
    let mut host = request("FROM busybox\nRUN x\nRUN --network=default y");
    host.network = NetworkMode::Host;
    host.add_hosts = vec![("h".into(), "1.2.3.4".into())];
    let host = lowered(&host);
    assert_eq!(super::exec(&host).network, NetworkMode::Host);
    assert_eq!(
        super::exec(&host).extra_hosts,
        [("h".to_owned(), "1.2.3.4".to_owned())]
    );
    assert_eq!(super::exec(&host).cwd, "/");
}

#[test]
fn rights_must_be_granted() {
    for (text, expected) in [
        (
            "FROM busybox\nRUN --security=insecure x",
            "2: security.insecure is not allowed",
        ),
        (
            "FROM busybox\nRUN --network=host x",
            "2: network.host is not allowed",
        ),
        (
            "FROM busybox AS a\nONBUILD RUN --security=insecure x\nFROM a",
            "3: security.insecure is not allowed",
        ),
    ] {
        let mut request = request(text);
        assert!(failure(&request).starts_with(expected), "{text}");
        request.allow = vec![
            "network.host".parse().unwrap(),
            "security.insecure".parse().unwrap(),
        ];
        lowered(&request);
    }
    let mut host = request("FROM busybox\nRUN --network=host x");
    host.network = NetworkMode::Host;
    lowered(&host);
    assert!("all".parse::<Entitlement>().is_err());
}

#[test]
fn copies() {
    let lowered = build(
        "FROM full\nARG V=v\nCOPY --chown=$V:g --chmod=6${V:+44} --exclude=*.$V --parents --link a$V \"b\" <<F ./d/$V\n$V \\n\nF\n",
    );
    let copy = copied(&lowered);
    let inline = InlineFile {
        name: "F".into(),
        data: "v n\n".into(),
    };
    assert_eq!(
        copy.sources,
        [
            CopySource::Path("av".into()),
            CopySource::Path("b".into()),
            CopySource::Inline(inline)
        ]
    );
    assert_eq!((copy.dest.as_str(), copy.cwd.as_str()), ("./d/v", "/home/app"));
    assert_eq!(
        (copy.chown.as_deref(), copy.chmod.as_deref()),
        (Some("v:g"), Some("644"))
    );
    assert_eq!(copy.excludes, ["*.$V"]);
    assert!(copy.parents && copy.link && copy.reset_owner && copy.unpack == Unpack::Never);
    assert_eq!(
        history(&lowered)[1],
        "COPY --parents --chown=v:g --chmod=644 av b <<F ./d/v # buildkit *"
    );
    assert!(lowered.reads_local(CONTEXT));

    // L62, and only inline files need no source.
    let order = build("FROM busybox\nCOPY <<A b <<\"C\" /x/\n$A\nA\n$C\nC");
    assert_eq!(history(&order), ["COPY b <<A <<C /x/ # buildkit *"]);
    let inline = build("FROM busybox\nCOPY <<A <<\"C\" /x/\n$A\nA\n$C\nC");
    assert!(!inline.reads_local(CONTEXT));
    assert_eq!(inline.definition.vertex(inline.result.unwrap()).source, None);
    assert!(matches!(&copied(&inline).sources[1], CopySource::Inline(file) if file.data == "$C\n"));

    let from = build("FROM busybox AS a\nRUN x\nFROM scratch\nCOPY --from=A /o /p");
    assert!(!copied(&from).reset_owner);
    assert_eq!(from.definition.vertex(from.result.unwrap()).base, None);
    assert!(!from.reads_local(CONTEXT));
    // err-not-copy-from-empty
    assert!(build("FROM busybox\nCOPY --from= f /f").reads_local(CONTEXT));

    for (text, unpack) in [
        ("ADD a b", Unpack::Archives),
        ("ADD --unpack=false a b", Unpack::Never),
        ("ADD --unpack=true a b", Unpack::Archives),
    ] {
        assert_eq!(
            copied(&build(&format!("FROM busybox\n{text}"))).unpack,
            unpack,
            "{text}"
        );
    }
    for (text, expected) in [
        (
            "COPY <<a/b /x\na/b",
            "2: COPY cannot make a file named \"a/b\" of a heredoc",
        ),
        (
            "ADD --checksum=sha256:00 a b",
            "2: checksum can't be specified for local sources",
        ),
    ] {
        let message = failure(&request(&format!("FROM busybox\n{text}")));
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn bad_operands_fail_at_their_line() {
    for (rule, text, expected) in [
        (
            "E3",
            "EXPOSE 80/bogus",
            "2: invalid port: \"80/bogus\": invalid proto: bogus",
        ),
        ("E3 range", "EXPOSE 99999", "2: invalid containerPort: 99999"),
        (
            "E5",
            "ARG E\nVOLUME /a $E",
            "3: VOLUME specified can not be an empty string",
        ),
        ("E6", "STOPSIGNAL SIGNOPE", "2: invalid signal: SIGNOPE"),
        (
            "ENV blank",
            "ARG E\nENV \"$E\"=1",
            "3: ENV names can not be blank",
        ),
    ] {
        let message = failure(&request(&format!("FROM busybox\n{text}")));
        assert!(message.starts_with(expected), "{rule}: {message}");
    }
}

#[test]
fn doubtful_instructions_warn() {
    for (text, expected) in [
        (
            "CMD a\nCMD [\"b\"]",
            &[
                "2 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
                "2 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used",
            ][..],
        ),
        ("SHELL [\"/x\"]\nENTRYPOINT a", &[]),
        (
            "ENV a b",
            &[
                "2 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            ],
        ),
        (
            "WORKDIR a\nWORKDIR b",
            &[
                "2 WorkdirRelativePath: Relative workdir \"a\" can have unexpected results if the base image changes",
            ],
        ),
        ("WORKDIR /a\nWORKDIR b", &[]),
        (
            "EXPOSE 80/TCP 127.0.0.1:81:82",
            &[
                "2 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:81:82'",
                "2 ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
            ],
        ),
    ] {
        assert_eq!(
            warned(&build(&format!("FROM busybox\n{text}"))),
            expected,
            "{text}"
        );
    }
}

#[test]
fn f12_user_and_directory_of_the_base_are_in_effect() {
    let lowered = build("FROM full\nRUN x");
    assert_eq!(
        (exec(&lowered).cwd.as_str(), exec(&lowered).user.as_str()),
        ("/home/app", "app")
    );
    // The base's only entry and that of RUN: nothing was made for the directory.
    assert_eq!(history(&lowered).len(), 1, "{:?}", history(&lowered));
    let lowered = build("FROM full\nCOPY a b");
    assert_eq!(copied(&lowered).cwd, "/home/app");
}

#[test]
fn f6_f13_what_from_may_name() {
    let lowered = build("FROM busybox");
    let Op::Image(image) = last(&lowered) else {
        panic!("no image")
    };
    assert_eq!(image.reference, "docker.io/library/busybox:latest");
    for (text, expected) in [
        ("FROM --after=x busybox", "unknown flag: --after"),
        ("FROM oci-archive:/x.tar", "oci-archive"),
    ] {
        let told = match rbuild_parser::parse(text.as_bytes()) {
            Err(errors) => errors[0].to_string(),
            Ok(_) => failure(&request(text)),
        };
        assert!(told.contains(expected), "{text}: {told}");
    }
}
