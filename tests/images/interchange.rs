//! Images go from rbuild to skopeo, umoci, podman and docker-registry and back, in every form, and stay what they are.

use std::path::Path;

use rbuild_cache::Digest;
use serde_json::Value;

use super::registry::TestRegistry;
use super::{Place, has};

/// Compressions, and whether umoci 0.4 knows them.
const CODECS: [(&str, bool); 3] = [("gzip", true), ("zstd", false), ("uncompressed", true)];
const KINDS: [(&str, &str); 2] = [("one", "linux/amd64"), ("both", "linux/amd64,linux/arm64")];

impl Place {
    /// Builds for `platforms` with these outputs.
    fn output(&self, name: &str, platforms: &str, outputs: &[String]) {
        let context = self.path("outputs");
        std::fs::create_dir_all(&context).unwrap();
        let dockerfile =
            "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\nCOPY Dockerfile /etc/file\n";
        std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let mut args = vec!["build", "-q", "--platform", platforms, "-t", name];
        args.extend(outputs.iter().flat_map(|output| ["-o", output]));
        args.push("outputs");
        self.rbuild(&args);
    }

    /// The digest of what skopeo sees at `image`.
    fn seen(&self, image: &str) -> String {
        let raw = self.tool("skopeo", &["inspect", "--tls-verify=false", "--raw", image]);
        Digest::of(raw.as_bytes()).to_string()
    }

    fn skopeo_copy(&self, args: &[&str]) {
        let common = ["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"];
        self.tool("skopeo", &[&common[..], args].concat());
    }

    /// podman with images of its own.
    fn podman(&self, args: &[&str]) -> String {
        let root = self.path("podman");
        let root = root.to_str().unwrap();
        let flags = ["--root", root, "--runroot", root, "--storage-driver", "vfs"];
        self.tool("podman", &[&flags[..], args].concat())
    }

    /// Ids and names of all images of a store.
    fn names(&self, store: &str) -> Vec<String> {
        let format = "{{.ID}} {{.Repository}}:{{.Tag}}";
        let output = self.run_on(store, &["images", "--no-trunc", "--format", format], None);
        let mut names: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }
}

/// The digest that a layout's only entry has.
fn entry(layout: &Path) -> String {
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index}");
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn every_form_is_read_by_skopeo_and_a_registry_and_comes_back() {
    if !has("skopeo") {
        return;
    }
    let place = Place::new();
    let registry = TestRegistry::start();
    for (codec, _) in CODECS {
        for (kind, platforms) in KINDS {
            let (name, pushed) = (
                format!("{kind}-{codec}"),
                registry.reference(&format!("pushed/{kind}:{codec}")),
            );
            let outputs = [
                format!("type=oci,dest={name}.tar,compression={codec}"),
                format!("type=oci,dest={name},tar=false,compression={codec}"),
                format!("type=image,name={pushed},push=true,compression={codec}"),
            ];
            place.output(&format!("{kind}:1"), platforms, &outputs);
            let digest = entry(&place.path(&name));
            let copied = registry.reference(&format!("copied/{kind}:{codec}"));
            place.skopeo_copy(&[
                "--all",
                "--preserve-digests",
                &format!("oci-archive:{name}.tar"),
                &format!("docker://{copied}"),
            ]);
            // To a layout and an archive of skopeo's.
            for (transport, from) in [("oci", &pushed), ("oci-archive", &copied)] {
                let to = format!("{transport}:{name}.{transport}:{kind}:1");
                place.skopeo_copy(&["--all", "--preserve-digests", &format!("docker://{from}"), &to]);
            }
            for image in [
                format!("oci:{name}"),
                format!("docker://{pushed}"),
                format!("docker://{copied}"),
                format!("oci:{name}.oci"),
            ] {
                assert_eq!(place.seen(&image), digest, "{image}");
            }
            // And back, each time into another store.
            let archive = format!("{name}.oci-archive");
            place.succeed_on(&format!("{name}.loaded"), &["load", "-i", &archive]);
            place.succeed_on(
                &format!("{name}.pulled"),
                &["pull", "-q", "--all-platforms", &copied],
            );
            for (store, called) in [("loaded", format!("{kind}:1")), ("pulled", copied)] {
                let store = format!("{name}.{store}");
                assert_eq!(place.digest(&store, &called), digest, "{store}");
            }
        }
    }
    // Compressed by skopeo, as docker's own manifest, and as a context.
    let copied = registry.reference("copied/both:gzip");
    let squeezed = ["--dest-compress", "--dest-compress-format=zstd"];
    place.skopeo_copy(&[&squeezed[..], &[&format!("docker://{copied}"), "oci:squeezed:1"]].concat());
    let old = registry.reference("old:1");
    place.skopeo_copy(&[
        "--format",
        "v2s2",
        "--all",
        &format!("docker://{copied}"),
        &format!("docker://{old}"),
    ]);
    place.succeed_on("old", &["pull", "-q", "--all-platforms", &old]);
    assert_eq!(place.digest("old", &old), place.seen(&format!("docker://{old}")));
    std::fs::create_dir(place.path("from")).unwrap();
    std::fs::write(
        place.path("from/Dockerfile"),
        format!("FROM squeezed AS one\nFROM {old}\nCOPY --from=one /etc/file /two\n"),
    )
    .unwrap();
    let context = "squeezed=oci-layout://squeezed:1";
    place.rbuild(&["build", "-q", "-t", "two", "--build-context", context, "from"]);
    assert!(place.rbuild(&["cp", "two:/two", "-"]).contains("FROM scratch"));
}

#[test]
fn archives_of_several_images_go_to_podman_and_back() {
    if !has("skopeo") || !has("podman") {
        return;
    }
    let place = Place::new();
    let docker = "type=docker,dest=docker.tar,name=built:1".to_owned();
    let squeezed = "type=oci,dest=squeezed.tar,name=squeezed:1,compression=zstd".to_owned();
    place.output(
        "built:1",
        "linux/amd64",
        &["type=image".to_owned(), docker, squeezed],
    );
    let id = place.import("base:1");
    place.rbuild(&["save", "-o", "several.tar", "base:1", "built:1"]);
    let built = place
        .rbuild(&["inspect", "-f", "{{.Id}}", "built:1"])
        .trim()
        .to_owned();
    for (name, id) in [("base:1", &id), ("built:1", &built)] {
        let config = place.tool(
            "skopeo",
            &[
                "inspect",
                "--raw",
                "--config",
                &format!("docker-archive:several.tar:docker.io/library/{name}"),
            ],
        );
        assert_eq!(Digest::of(config.as_bytes()).to_string(), *id, "{name}");
    }
    for archive in ["several.tar", "docker.tar"] {
        place.podman(&["load", "-q", "-i", archive]);
    }
    place.podman(&[
        "save",
        "-q",
        "-m",
        "-o",
        "many.tar",
        "localhost/base:1",
        "localhost/built:1",
    ]);
    // From then on it knows the same image with zstd, which it does not write in docker's form.
    place.podman(&["load", "-q", "-i", "squeezed.tar"]);
    let listed = place.podman(&[
        "images",
        "--no-trunc",
        "--format",
        "{{.Id}} {{.Repository}}:{{.Tag}}",
    ]);
    // docker's archives have short names, which are the machine's own to podman.
    let names = [
        ("localhost/base", &id),
        ("localhost/built", &built),
        ("docker.io/library/squeezed", &built),
    ];
    for (name, id) in names {
        let line = format!("{} {name}:1", id.strip_prefix("sha256:").unwrap());
        assert!(listed.lines().any(|listed| listed == line), "{line}: {listed}");
    }
    place.podman(&[
        "save",
        "-q",
        "--format",
        "oci-archive",
        "-o",
        "oci.tar",
        "squeezed:1",
    ]);
    place.tool("xz", &["oci.tar"]);
    let from = "docker-archive:several.tar:docker.io/library/built:1";
    place.skopeo_copy(&[from, "docker-archive:old.tar:foo/old:1"]);
    for archive in ["many.tar", "oci.tar.xz", "old.tar"] {
        place.succeed_on("back", &["load", "-i", archive]);
    }
    let mut expected = vec![
        format!("{id} localhost/base:1"),
        format!("{built} localhost/built:1"),
        format!("{built} squeezed:1"),
        format!("{built} foo/old:1"),
    ];
    expected.sort();
    assert_eq!(place.names("back"), expected);
}

#[test]
fn layouts_go_to_umoci_and_back() {
    if !has("umoci") {
        return;
    }
    let place = Place::new();
    for (codec, _) in CODECS.into_iter().filter(|(_, known)| *known) {
        let output = format!("type=oci,dest={codec},tar=false,name=app:1,compression={codec}");
        place.output("app:1", "linux/amd64", &[output]);
        let bundle = format!("{codec}.bundle");
        let image = format!("{codec}:1");
        place.tool("umoci", &["unpack", "--rootless", "--image", &image, &bundle]);
        let file = std::fs::read_to_string(place.path(&bundle).join("rootfs/etc/file")).unwrap();
        assert!(file.starts_with("FROM scratch\n"), "{file}");
        // Something more, as a layer of umoci's.
        std::fs::write(place.path(&bundle).join("rootfs/etc/more"), codec).unwrap();
        let changed = format!("{codec}:changed");
        place.tool("umoci", &["repack", "--image", &changed, &bundle]);
        std::fs::create_dir_all(place.path("from")).unwrap();
        std::fs::write(place.path("from/Dockerfile"), "FROM changed\nCOPY Dockerfile /\n").unwrap();
        let context = format!("changed=oci-layout://{changed}");
        place.rbuild(&["build", "-q", "-t", codec, "--build-context", &context, "from"]);
        assert!(
            place
                .rbuild(&["cp", &format!("{codec}:/etc/more"), "-"])
                .contains(codec)
        );
    }
}
