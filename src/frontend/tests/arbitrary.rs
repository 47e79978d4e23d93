//! Whatever is in a Dockerfile: no panic, and a config that a reader can rely on.

use proptest::prelude::*;

use super::*;

const LINES: [&str; 34] = [
    "FROM busybox",
    "FROM busybox AS a",
    "FROM a AS b",
    "FROM scratch",
    "FROM onbuild",
    "FROM fromtrigger AS tools",
    "FROM --platform=$BUILDPLATFORM full AS Tools",
    "FROM ${X:-arm}",
    "ARG X=busybox Y=$X",
    "ARG A B=${A:-1}",
    "ENV A=1 B=$A",
    "ENV K $A ${A",
    "LABEL a=\"$A\" b='x",
    "RUN echo $A ${B} '${",
    "RUN [\"a\", \"b\"]",
    "RUN <<E\n#!/x\n$A\nE",
    "RUN cat <<A <<-B\nx\nA\n\ty\n\tB",
    "COPY a $A /x/",
    "COPY --from=0 / /y",
    "COPY --from=a /x /y",
    "COPY --from=tools /x /y",
    "COPY <<E /e\n$A \\\nE",
    "ADD --chown=$A:1 x.tar .",
    "WORKDIR ../$A/.",
    "WORKDIR /",
    "USER $A:é",
    "EXPOSE $A 1-3/udp",
    "VOLUME $A /v",
    "CMD a \"b\"",
    "ENTRYPOINT []",
    "HEALTHCHECK --retries=2 CMD x",
    "ONBUILD COPY --from=a x y",
    "SHELL [\"/s\"]",
    "STOPSIGNAL RTMIN+$A",
];

proptest! {
    #[test]
    fn lowering_never_panics(picks in prop::collection::vec(0..LINES.len(), 0..24), target in prop::option::of("[ab0-3]")) {
        let mut text = "FROM busybox AS a\n".to_owned();
        for pick in picks {
            text += LINES[pick];
            text.push('\n');
        }
        let Ok(dockerfile) = rbuild_parser::parse(text.as_bytes()) else { return Ok(()) };
        let mut request = BuildRequest::of(dockerfile, Arc::from("Dockerfile"));
        request.target = target;
        let Ok(lowered) = lower(&request, &Images::new()) else { return Ok(()) };
        let written = written(&lowered);
        let history = written["history"].as_array().unwrap();
        let layers = history.iter().filter(|entry| entry["empty_layer"] != true).count();
        prop_assert_eq!(layers, written["rootfs"]["diff_ids"].as_array().unwrap().len());
        prop_assert!(history.iter().all(|entry| entry["created"].is_string()));
        // The layers are the chain below the result, and every input comes before its user.
        let mut chain = Vec::new();
        let mut next = lowered.result;
        while let Some(id) = next {
            let vertex = lowered.definition.vertex(id);
            if !matches!(vertex.op, Op::Image(_)) {
                chain.insert(0, id);
            }
            next = vertex.base;
        }
        prop_assert_eq!(chain, lowered.image.layers());
        for id in lowered.definition.ids() {
            prop_assert!(lowered.definition.inputs(id).all(|input| input < id));
        }
    }

    #[test]
    fn any_text_as_operands(operand in "[ -~\\n$é{}'\"\\\\<]{0,40}", keyword in "(RUN|COPY|ENV|ARG|EXPOSE|WORKDIR|CMD|FROM|ADD|LABEL|USER|ONBUILD)") {
        if let Ok(dockerfile) = rbuild_parser::parse(format!("FROM busybox\nENV A=1\n{keyword} {operand}\n").as_bytes()) {
            let request = BuildRequest::of(dockerfile, Arc::from("Dockerfile"));
            if let Ok(lowered) = lower(&request, &Images::new()) {
                written(&lowered);
            }
        }
    }
}
