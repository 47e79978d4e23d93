use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::env::{Env, Run, as_every_user, has};
use crate::registry::TestRegistry;

const DOCKERFILE: &str = "FROM --platform=$BUILDPLATFORM base AS build
ARG BUILDARCH
RUN echo $BUILDARCH > /built
FROM scratch
ARG TARGETARCH
COPY --from=build /built /built
COPY $TARGETARCH /arch
";

#[test]
fn an_image_of_two_platforms_is_an_index() {
    as_every_user(|env| {
        env.base();
        let context = env.context("ctx", &[("amd64", "a\n"), ("arm64", "b\n")]);
        env.write("ctx/Dockerfile", DOCKERFILE);
        let build = |more: &[&str]| {
            let args = ["build", "--progress=plain", "--platform=linux/amd64,linux/arm64"];
            env.rbuild(args.iter().chain(more).chain([&context.as_str()]))
        };
        let layout = env.path("layout");
        let oci = format!(
            "type=oci,tar=false,dest={},annotation-manifest-descriptor[linux/arm64].d=4",
            layout.display()
        );
        let id = env.path("id");
        let made = build(&[
            "-t",
            "multi:1",
            "-o",
            &oci,
            "-o",
            "type=image",
            "--annotation=index:i=1",
            "--annotation=manifest[linux/arm64]:m=2",
            "--annotation=index-descriptor:x=3",
            "--iidfile",
            id.to_str().unwrap(),
        ])
        .ok();
        assert_eq!(
            made.count("RUN echo"),
            1,
            "the shared stage ran once:\n{}",
            made.stderr
        );

        let outer = json(&layout.join("index.json"));
        let entry = &outer["manifests"][0];
        assert_eq!(outer["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(entry["mediaType"], "application/vnd.oci.image.index.v1+json");
        assert_eq!(entry["annotations"]["x"], "3");
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "docker.io/library/multi:1"
        );
        assert_eq!(
            fs::read_to_string(&id).unwrap(),
            entry["digest"].as_str().unwrap()
        );
        let index = blob(&layout, &entry["digest"]);
        assert_eq!(index["annotations"], serde_json::json!({"i": "1"}));
        for (number, arch) in ["amd64", "arm64"].iter().enumerate() {
            let entry = &index["manifests"][number];
            assert_eq!(entry["platform"]["architecture"], *arch);
            let manifest = blob(&layout, &entry["digest"]);
            let is_arm = *arch == "arm64";
            assert_eq!(manifest["annotations"]["m"] == "2", is_arm);
            assert_eq!(entry["annotations"]["d"] == "4", is_arm);
            assert_eq!(
                blob(&layout, &manifest["config"]["digest"])["architecture"],
                *arch
            );
            assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
        }

        // Each platform finds its image of the stored index.
        env.write("child/Dockerfile", "FROM multi:1\n");
        let child = env.path("child");
        for (arch, text) in [("amd64", "a\n"), ("arm64", "b\n")] {
            let dest = env.path(arch);
            let output = format!("type=local,dest={}", dest.display());
            let platform = format!("--platform=linux/{arch}");
            env.rbuild(["build", &platform, "-o", &output, child.to_str().unwrap()])
                .ok();
            assert_eq!(fs::read_to_string(dest.join("arch")).unwrap(), text);
        }
        let split = env.path("split");
        build(&["-o", split.to_str().unwrap()]).ok();
        assert_eq!(fs::read_to_string(split.join("linux_arm64/arch")).unwrap(), "b\n");
        let docker = format!("type=docker,dest={}", env.path("docker.tar").display());
        let refused = build(&["-o", &docker]).fails(1);
        assert!(refused.stderr.contains("manifest lists"), "{}", refused.stderr);
        let plain = env.rbuild(["build", "--annotation=index:i=1", &context]).fails(1);
        assert!(plain.stderr.contains("several platforms"), "{}", plain.stderr);
        pushed(env, &context);
    });
}

fn pushed(env: &Env, context: &str) {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let registry = TestRegistry::start();
    let name = registry.reference("team/multi:2");
    let platforms = "--platform=linux/arm64,linux/amd64";
    env.rbuild(["build", platforms, "-t", &name, "--push", context])
        .ok();
    let raw = env
        .command("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{name}"))
        .output()
        .unwrap();
    let raw = Run::from(raw).ok();
    let index: Value = serde_json::from_str(&raw.stdout).unwrap();
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");
    // All of it is there: another store gets both.
    for arch in ["arm64", "amd64"] {
        let other = env.path(&format!("other-{arch}"));
        env.rbuild_in(&other, ["pull", &format!("--platform=linux/{arch}"), &name])
            .ok();
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, digest: &Value) -> Value {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    json(&layout.join("blobs/sha256").join(hex))
}
