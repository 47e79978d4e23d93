//! FROM, targets, what is needed, copies between stages, triggers (spec 3.1, 3.9, 4).

use super::*;

fn target(text: &str, name: &str) -> BuildRequest {
    let mut request = request(text);
    request.target = Some(name.to_owned());
    request
}

/// What was asked of the registry.
fn asked(request: &BuildRequest) -> Vec<String> {
    let images = Images::new();
    lower(request, &images).unwrap();
    let mut asked = images.asked.into_inner().unwrap();
    asked.sort();
    asked
}

#[test]
fn stages_are_found() {
    let host = Platform::host();
    for (rule, request, expected) in [
        (
            "B1",
            request("FROM busybox AS S1\nRUN one\nFROM S1\nRUN two"),
            &[
                "RUN /bin/sh -c one # buildkit *",
                "RUN /bin/sh -c two # buildkit *",
            ][..],
        ),
        (
            "F4",
            request("FROM busybox AS s\nRUN a\nFROM s AS s\nRUN b\nFROM s"),
            &["RUN /bin/sh -c a # buildkit *", "RUN /bin/sh -c b # buildkit *"],
        ),
        (
            "F2",
            request("FROM full AS busybox\nUSER x\nFROM busybox"),
            &["USER x"],
        ),
        (
            "G1",
            target("FROM busybox AS one\nUSER 1\nFROM busybox\nUSER 2", "ONE"),
            &["USER 1"],
        ),
        (
            "B10",
            target("FROM busybox AS one\nUSER 1\nFROM busybox\nUSER 2", "0"),
            &["USER 1"],
        ),
        (
            "G3",
            target(
                "FROM busybox AS a\nUSER 1\nFROM busybox\nSTOPSIGNAL NOPE\nADD http://x/y /",
                "a",
            ),
            &["USER 1"],
        ),
        ("G11", request("FROM busybox"), &[]),
    ] {
        let lowered = lowered(&request);
        assert_eq!(history(&lowered), expected, "{rule}");
        assert_eq!(lowered.platform, host);
    }
    assert_eq!(build("FROM busybox AS A").target, "a");
    assert_eq!(build("FROM busybox AS A\nFROM busybox").target, "stage-1");
}

#[test]
fn only_needed_images_are_asked_for_once() {
    let host = Platform::host();
    for (rule, text, expected) in [
        (
            "G2",
            "FROM none AS x\nFROM busybox AS y\nFROM full\nCOPY --from=y /a /b",
            vec![format!("busybox {host}"), format!("full {host}")],
        ),
        (
            "once",
            "FROM busybox AS y\nFROM busybox\nCOPY --from=y /a /b",
            vec![format!("busybox {host}")],
        ),
        (
            "G7",
            "FROM scratch\nCOPY --from=busybox /a /b",
            vec![format!("busybox {host}")],
        ),
        (
            "G4",
            "FROM none\nFROM busybox\nFROM scratch\nCOPY --from=1 /a /b",
            vec![format!("busybox {host}")],
        ),
        (
            "scratch",
            "FROM scratch AS e\nFROM scratch\nCOPY --from=e / /b",
            vec![],
        ),
        (
            "F8",
            "FROM --platform=linux/arm64 busybox AS b\nFROM b",
            vec!["busybox linux/arm64".to_owned()],
        ),
        (
            "O5",
            "FROM full AS tools\nFROM none AS other\nFROM fromtrigger",
            vec![format!("fromtrigger {host}"), format!("full {host}")],
        ),
    ] {
        assert_eq!(asked(&request(text)), expected, "{rule}");
    }
    let mut foreign = request(
        "FROM --platform=$BUILDPLATFORM busybox AS b\nFROM busybox\nCOPY --from=b /a /a\nCOPY --from=full /a /b",
    );
    foreign.platform = Some("linux/s390x".parse().unwrap());
    assert_eq!(
        asked(&foreign),
        [
            format!("busybox {host}"),
            "busybox linux/s390x".into(),
            "full linux/s390x".into()
        ]
    );
}

#[test]
fn stages_fail() {
    for (rule, request, expected) in [
        (
            "G1",
            target("FROM busybox AS build", "biuld"),
            "target stage \"biuld\" could not be found (did you mean build?)",
        ),
        (
            "B10",
            target("FROM busybox", "1"),
            "target stage \"1\" could not be found",
        ),
        (
            "G4",
            request("FROM busybox\nCOPY --from=5 a b"),
            "2: invalid stage index 5 (stages are numbered from 0 to 0)",
        ),
        (
            "G4 unneeded",
            request("FROM busybox\nCOPY --from=-1 a b\nFROM busybox"),
            "2: invalid stage index -1",
        ),
        (
            "G6",
            request("FROM busybox AS a\nCOPY --from=b /x /x\nFROM busybox AS b\nFROM a"),
            "2: cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
        ),
        (
            "G6 self",
            request("FROM busybox AS s\nCOPY --from=s /x /x"),
            "2: circular dependency detected on stage: s",
        ),
        (
            "G6 cycle",
            request(
                "FROM busybox AS a\nCOPY --from=b /x /x\nFROM busybox AS b\nCOPY --from=a /x /x\nFROM busybox",
            ),
            "4: circular dependency detected on stage: a",
        ),
        (
            "X --from",
            request("FROM busybox\nARG S=src\nCOPY --from=$S a b"),
            "3: variable expansion is not supported for --from",
        ),
        (
            "F3",
            request("FROM busybox\nFROM UPPER:x:y"),
            "2: failed to parse stage name \"UPPER:x:y\": invalid reference format",
        ),
        (
            "missing",
            request("FROM busybox AS build\nFROM biuld"),
            "2: biuld: not found (did you mean build?)",
        ),
        (
            "missing from",
            request("FROM scratch\nCOPY --from=none /a /b"),
            "2: none: not found",
        ),
        (
            "P url",
            request("FROM busybox\nCOPY https://a/b /c"),
            "2: source can't be a URL for COPY",
        ),
        (
            "P git",
            request("FROM busybox\nCOPY git@a:b/c /c"),
            "2: source can't be a git ref for COPY",
        ),
        (
            "D5",
            request("FROM busybox\nADD https://a/b /c"),
            "2: ADD of a URL is not supported yet: https://a/b",
        ),
        (
            "D6",
            request("FROM busybox\nADD https://a/b.git /c"),
            "2: ADD of a git repository is not supported yet",
        ),
        (
            "O6",
            request("FROM busybox\nFROM badtrigger\nRUN x"),
            "2: ONBUILD trigger \"NOPE x\"",
        ),
        (
            "O5 later",
            target("FROM fromtrigger\nFROM busybox AS tools", "0"),
            "1: cannot copy from stage \"tools\"",
        ),
        (
            "mount later stage",
            target(
                "FROM busybox\n\nRUN --mount=from=later,target=/x true\nFROM busybox AS later",
                "0",
            ),
            "3: cannot mount from stage \"later\" to \"stage-0\", stage needs to be defined before current command",
        ),
        (
            "mount unknown key",
            request("FROM busybox\nRUN --mount=type=cache,targat=/x true"),
            "2: unexpected key 'targat' in 'targat=/x'",
        ),
        (
            "L42",
            request("FROM busybox\nRUN []"),
            "2: RUN has nothing to run",
        ),
    ] {
        let message = failure(&request);
        assert!(message.starts_with(expected), "{rule}: {message}");
    }
}

#[test]
fn triggers_fire_once() {
    // O3 from an image, O4.
    let child = build("FROM onbuild AS a\nUSER u\nFROM a\nUSER v");
    assert_eq!(
        history(&child),
        [
            "COPY trigger.txt /onbuild/ # buildkit *",
            "RUN /bin/sh -c echo ran > /onbuild/ran # buildkit *",
            "ENV OB=1",
            "WORKDIR /onbuild *",
            "USER u",
            "USER v"
        ]
    );
    assert!(child.image.config().on_build.is_empty());
    // O2, O3 from a stage: no entry, no expansion, fires in the next stage only.
    let own = build("FROM busybox AS a\nARG X=1\nONBUILD ENV K=$X\nFROM a AS b\nFROM b");
    assert_eq!(history(&own), ["ARG X=1", "ENV K=1"]);
    let parent = build("FROM onbuild\nONBUILD RUN <<E\nx\nE\nONBUILD USER $u");
    assert_eq!(parent.image.config().on_build, ["RUN <<E\nx\nE", "USER $u"]);
    // O6: the place is the FROM, the name says so.
    let names: Vec<_> = child
        .definition
        .ids()
        .map(|id| child.definition.vertex(id))
        .collect();
    assert_eq!(names[2].name, "[a 2/4] ONBUILD COPY trigger.txt /onbuild/");
    assert_eq!(names[2].location.as_ref().map(|location| location.start), Some(1));
}

#[test]
fn platforms_are_those_of_the_rules() {
    let config = |request: &BuildRequest| {
        let written = written(&lowered(request));
        format!(
            "{} {} {}",
            written["os"].as_str().unwrap(),
            written["architecture"].as_str().unwrap(),
            written["variant"]
        )
    };
    let on = |text: &str, platform: &str| {
        let mut request = request(text);
        request.platform = Some(platform.parse().unwrap());
        request
    };
    let host = Platform::host();
    for (rule, request, expected) in [
        (
            "5.1 base's own",
            request("FROM --platform=linux/arm64 arm"),
            "linux arm64 null".to_owned(),
        ),
        (
            "5.1 target",
            on("FROM --platform=linux/arm64 arm", "linux/amd64"),
            "linux amd64 null".into(),
        ),
        (
            "F5",
            on("FROM --platform=linux/amd64 scratch", "linux/arm/v7"),
            "linux arm \"v7\"".into(),
        ),
        (
            "F5 host",
            request("FROM scratch"),
            format!("linux {} null", host.architecture),
        ),
        ("F10", request("FROM empty"), "linux amd64 null".into()),
    ] {
        assert_eq!(config(&request), expected, "{rule}");
    }
    // F9: it is used, and told.
    let mut wrong = request("FROM arm");
    wrong.platform = Some("linux/amd64".parse().unwrap());
    assert_eq!(
        warned(&lowered(&wrong)),
        [
            "1 InvalidBaseImagePlatform: Base image arm was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build"
        ]
    );
}
