//! The definition of a Dockerfile with several stages, as data.

use super::*;

const SEVERAL_STAGES: &str = r#"# syntax=docker/dockerfile:1
ARG VERSION=1
FROM busybox AS base
WORKDIR /src

FROM base AS Build
ARG VERSION
COPY --chown=1:2 go.* ./
RUN make v$VERSION
ONBUILD RUN never

FROM busybox AS unused
RUN false

FROM scratch
COPY --from=build /src/out /out
COPY <<EOF /etc/motd
version ${VERSION:-unknown}
EOF
USER 1000
CMD ["/out"]
"#;

#[test]
fn several_stages() {
    let mut request = request(SEVERAL_STAGES);
    request.platform = Some("linux/amd64".parse().unwrap());
    let lowered = lowered(&request);
    let text = serde_json::to_string_pretty(&lowered.definition.to_json()).unwrap();
    insta::assert_snapshot!("several_stages", text);
    // The same text gives the same graph.
    assert_eq!(lowered.definition.digest(lowered.result.unwrap()), {
        let again = super::lowered(&request);
        again.definition.digest(again.result.unwrap())
    });
}

#[test]
fn steps_are_named_as_in_buildkit() {
    let lowered = build(SEVERAL_STAGES);
    let names: Vec<_> = lowered
        .definition
        .ids()
        .map(|id| lowered.definition.vertex(id).name.clone())
        .collect();
    let manifest = Digest::of(b"busybox");
    assert_eq!(
        names,
        [
            format!("[base 1/2] FROM docker.io/library/busybox:latest@{manifest}"),
            "[base 2/2] WORKDIR /src".to_owned(),
            "[internal] load build context".to_owned(),
            "[build 1/2] COPY --chown=1:2 go.* ./".to_owned(),
            "[build 2/2] RUN make v1".to_owned(),
            "[stage-3 1/2] COPY --from=build /src/out /out".to_owned(),
            "[stage-3 2/2] COPY <<EOF /etc/motd".to_owned(),
        ]
    );
    let lines: Vec<_> = lowered
        .definition
        .ids()
        .map(|id| {
            lowered
                .definition
                .vertex(id)
                .location
                .as_ref()
                .map(|location| (location.start, location.end))
        })
        .collect();
    assert_eq!(
        lines,
        [
            Some((3, 3)),
            Some((4, 4)),
            None,
            Some((8, 8)),
            Some((9, 9)),
            Some((16, 16)),
            Some((17, 19))
        ]
    );

    let mut many = "FROM busybox".to_owned();
    for number in 0..9 {
        many += &format!("\nRUN {number}");
    }
    let many = build(&many);
    assert_eq!(many.definition.vertex(VertexId(1)).name, "[ 2/10] RUN 0");
}

#[test]
fn no_cache_marks_steps() {
    let marks = |request: &BuildRequest| {
        let lowered = lowered(request);
        let ids = lowered.definition.ids();
        ids.map(|id| u8::from(lowered.definition.vertex(id).no_cache))
            .collect::<Vec<_>>()
    };
    let mut request = request("FROM busybox AS a\nRUN x\nFROM a\nRUN y");
    assert_eq!(marks(&request), [0, 0, 0]);
    request.no_cache_filter = vec!["A".into()];
    assert_eq!(marks(&request), [0, 1, 0]);
    request.no_cache_filter = vec!["stage-1".into(), "b".into()];
    assert_eq!(marks(&request), [0, 0, 1]);
    assert_eq!(
        warned(&lowered(&request)),
        ["0 : --no-cache-filter b: there is no stage of that name (did you mean a?)"]
    );
    request.no_cache_filter.clear();
    request.no_cache = true;
    assert_eq!(marks(&request), [0, 1, 1]);
}
