//! Named contexts (spec 7.3) in FROM and `--from`.

use super::*;

fn with_contexts(text: &str, contexts: &[(&str, &str)]) -> Lowered {
    let mut request = request(text);
    request.contexts = contexts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.parse().unwrap()))
        .collect();
    lowered(&request)
}

/// The local directories that are read.
fn locals(lowered: &Lowered) -> Vec<String> {
    let definition = &lowered.definition;
    let name = |id| match &definition.vertex(id).op {
        Op::Local(local) => Some(local.name.clone()),
        _ => None,
    };
    definition.ids().filter_map(name).collect()
}

#[test]
fn f2_a_context_replaces_the_stage_of_its_name() {
    let text = "FROM nosuch AS dep\nRUN make\nFROM busybox\nCOPY --from=dep /f /f";
    for context in ["dep", "DEP", "dep:latest"] {
        let lowered = with_contexts(text, &[(context, "some/dir")]);
        assert_eq!(locals(&lowered), [context], "{context}");
        assert!(copied(&lowered).reset_owner);
        assert_eq!(lowered.image.layers().len(), 1);
    }
    let number = with_contexts(&text.replace("from=dep", "from=0"), &[("dep", "some/dir")]);
    assert_eq!(locals(&number), ["dep"]);
    let image = with_contexts(text, &[("dep", "docker-image://full")]);
    assert!(locals(&image).is_empty() && !copied(&image).reset_owner);
    assert_eq!(image.definition.ids().count(), 3, "two images and a copy, no RUN");
}

#[test]
fn g5_a_context_goes_before_images() {
    let text = "FROM busybox\nCOPY --from=tools /f /f";
    assert_eq!(locals(&with_contexts(text, &[("tools", "dir")])), ["tools"]);
    let text = "FROM docker.io/library/tools:latest\nCOPY x /x";
    let lowered = with_contexts(text, &[("tools", "dir")]);
    assert_eq!(locals(&lowered), ["tools", "context"]);
    assert_eq!(
        history(&lowered),
        ["FROM tools # build context *", "COPY x /x # buildkit *"]
    );
    assert_eq!(written(&lowered)["config"]["Env"], json!([PATH]));
    let scratch = with_contexts(text, &[("tools", "docker-image://scratch")]);
    assert_eq!(history(&scratch), ["COPY x /x # buildkit *"]);
    let layout = with_contexts("FROM tools", &[("tools", "oci-layout://full:1")]);
    assert_eq!(layout.definition.ids().count(), 1);
    // These names stay what they are.
    let taken = with_contexts("FROM scratch\nCOPY x /", &[("scratch", "dir")]);
    assert_eq!(locals(&taken), ["context"]);
}
