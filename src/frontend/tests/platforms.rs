//! Several platforms in one build (spec G9).

use super::*;

fn platforms(texts: &[&str]) -> Vec<Platform> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn g9_what_is_the_same_for_all_is_done_once() {
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN make\n\
                FROM full\nARG TARGETARCH\nCOPY --from=build /out /$TARGETARCH\nRUN x";
    let images = Images::new();
    let all = lower_platforms(
        &request(text),
        &platforms(&["linux/amd64", "linux/arm64"]),
        &images,
    )
    .unwrap();
    let definition = &all[0].definition;
    let names: Vec<&str> = definition
        .ids()
        .map(|id| definition.vertex(id).name.split(" FROM ").next().unwrap())
        .collect();
    let host = Platform::host();
    let build = format!("[{host} build 2/2] RUN make");
    assert_eq!(
        names.iter().filter(|name| name.ends_with("RUN make")).count(),
        1,
        "{names:?}"
    );
    assert!(names.contains(&build.replace(&host.to_string(), "linux/amd64").as_str()));
    assert!(names.contains(&"[linux/arm64 stage-1 3/3] RUN x"), "{names:?}");
    assert_eq!(names.len(), 2 + 2 * 3);
    assert_ne!(all[0].result, all[1].result);
    assert!(Arc::ptr_eq(&all[0].definition, &all[1].definition));
    for (lowered, arch) in all.iter().zip(["amd64", "arm64"]) {
        assert_eq!(written(lowered)["architecture"], arch);
        let copy = lowered.definition.vertex(lowered.result.unwrap()).base.unwrap();
        let Op::Copy(copy) = &lowered.definition.vertex(copy).op else {
            panic!("a copy")
        };
        assert_eq!(copy.dest, format!("/{arch}"));
    }
    // A pair of name and platform is asked for once.
    let mut asked = images.asked.into_inner().unwrap();
    asked.sort();
    let before = asked.len();
    asked.dedup();
    assert_eq!(asked.len(), before, "{asked:?}");
}

#[test]
fn one_platform_is_named_by_no_step() {
    let all = lower_platforms(
        &request("FROM busybox\nRUN x"),
        &platforms(&["linux/arm64"]),
        &Images::new(),
    )
    .unwrap();
    let definition = &all[0].definition;
    assert_eq!(definition.vertex(all[0].result.unwrap()).name, "[2/2] RUN x");
}
