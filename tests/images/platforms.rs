//! Images of several platforms, and registries: `push`, `pull`, `save` and `load` of all of them, `manifest`, `merge`, `imagetools`.

use serde_json::Value;

use super::registry::TestRegistry;
use super::{Place, has};

const BOTH: &str = "linux/amd64,linux/arm64";

impl Place {
    /// An image of two platforms.
    fn build_both(&self, name: &str) {
        std::fs::create_dir_all(self.path("both")).unwrap();
        std::fs::write(
            self.path("both/Dockerfile"),
            "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n",
        )
        .unwrap();
        self.rbuild(&["build", "-q", "--platform", BOTH, "-t", name, "both"]);
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.rbuild(args)).unwrap()
    }
}

/// Architectures that an index names.
fn architectures(index: &Value) -> Vec<&str> {
    let entries = index["manifests"].as_array().unwrap().iter();
    entries
        .map(|entry| entry["platform"]["architecture"].as_str().unwrap())
        .collect()
}

#[test]
fn an_index_goes_to_a_registry_and_back() {
    let place = Place::new();
    let registry = TestRegistry::start();
    let (name, copy) = (registry.reference("app:1"), registry.reference("copy:1"));
    place.build_both(&name);
    let pushed = place.rbuild(&["push", &name]);
    assert!(pushed.contains("1: digest: sha256:"), "{pushed}");
    let raw = place.rbuild(&["buildx", "imagetools", "inspect", "--raw", &name]);
    assert_eq!(
        architectures(&serde_json::from_str(&raw).unwrap()),
        ["amd64", "arm64"]
    );
    if has("skopeo") {
        let from = format!("docker://{name}");
        let flags = ["copy", "-q", "--src-tls-verify=false", "--override-arch", "arm64"];
        place.tool("skopeo", &[&flags[..], &[&from, "oci:arm:1"]].concat());
        let config = place.tool("skopeo", &["inspect", "--config", "oci:arm:1"]);
        assert!(config.contains("arm64"), "{config}");
    }
    // What was pulled whole goes out as it came.
    let digest = place.rbuild(&["push", &name]).lines().last().unwrap().to_owned();
    place.succeed_on("other", &["pull", "--all-platforms", &name]);
    place.succeed_on("other", &["tag", &name, &copy]);
    let again = place.succeed_on("other", &["push", &copy]);
    assert_eq!(again.lines().last().unwrap(), digest);
    // Of one platform only that goes out, and that is said.
    place.succeed_on("third", &["pull", "--platform", "linux/arm64", &name]);
    place.succeed_on("third", &["tag", &name, &copy]);
    let output = place.run_on("third", &["push", &copy], None);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("only linux/arm64 of"),
        "{said}"
    );
    assert_eq!(
        place.json(&["manifest", "inspect", &copy])["manifests"],
        Value::Null
    );
}

#[test]
fn an_index_is_saved_and_loaded_with_its_digests() {
    let place = Place::new();
    place.build_both("app:1");
    place.rbuild(&["save", "-o", "both.tar", "app:1"]);
    place.succeed_on("other", &["load", "-i", "both.tar"]);
    assert_eq!(place.digest("store", "app:1"), place.digest("other", "app:1"));
    place.succeed_on("other", &["save", "-o", "again.tar", "app:1"]);
    assert_eq!(
        std::fs::read(place.path("both.tar")).unwrap(),
        std::fs::read(place.path("again.tar")).unwrap()
    );
    let one = place.succeed_on("one", &["load", "--platform", "linux/arm64", "-i", "both.tar"]);
    assert_eq!(one, "Loaded image: app:1\n");
    assert_eq!(
        place.succeed_on("one", &["inspect", "-f", "{{.Architecture}}", "app:1"]),
        "arm64\n"
    );
    let none = place.run_on(
        "none",
        &["load", "--platform", "linux/s390x", "-i", "both.tar"],
        None,
    );
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(
        said.contains("no image for linux/s390x: it has linux/amd64, linux/arm64"),
        "{said}"
    );
    place.rbuild(&["save", "--platform", "linux/arm64", "-o", "arm.tar", "app:1"]);
    if has("skopeo") {
        let config = place.tool("skopeo", &["inspect", "--config", "docker-archive:arm.tar"]);
        assert!(config.contains("arm64"), "{config}");
        let config = place.tool("skopeo", &["inspect", "--config", "docker-archive:both.tar"]);
        assert!(config.contains("amd64"), "{config}");
        place.tool(
            "skopeo",
            &["copy", "-q", "--all", "oci-archive:both.tar", "oci:layout:1"],
        );
        let merged = place.rbuild(&["merge", "-t", "merged", "layout:1"]);
        assert_eq!(merged.trim(), place.digest("store", "merged"));
    }
}

#[test]
fn all_tags_go_both_ways() {
    let place = Place::new();
    let registry = TestRegistry::start();
    let repository = registry.reference("many");
    place.import("base");
    for tag in ["1", "2", "latest"] {
        place.rbuild(&["tag", "base", &format!("{repository}:{tag}")]);
    }
    let pushed = place.rbuild(&["push", "-a", &repository]);
    assert_eq!(pushed.matches(": digest: sha256:").count(), 3, "{pushed}");
    let pulled = place.succeed_on("other", &["pull", "-a", &repository]);
    assert_eq!(
        pulled.matches("Downloaded newer image").count() + pulled.matches("is up to date").count(),
        3,
        "{pulled}"
    );
    assert_eq!(
        place
            .succeed_on("other", &["images", "-q", &repository])
            .lines()
            .count(),
        3
    );
    assert!(
        place
            .refused(&["push", "-a", "nosuch"])
            .contains("does not exist locally")
    );
    let tagged = format!("{repository}:1");
    for verb in ["push", "pull"] {
        assert!(
            place
                .refused(&[verb, "-a", &tagged])
                .contains("can't be used with --all-tags"),
            "{verb}"
        );
    }
}

#[test]
fn a_list_is_put_together_by_hand() {
    let place = Place::new();
    let registry = TestRegistry::start();
    let name = registry.reference("list:1");
    for arch in ["amd64", "arm64"] {
        let platform = format!("linux/{arch}");
        place.rbuild(&[
            "import",
            "--platform",
            &platform,
            "root.tar",
            &registry.reference(arch),
        ]);
    }
    // One of the store, one of the registry.
    place.rbuild(&["push", &registry.reference("arm64")]);
    place.rbuild(&["rmi", &registry.reference("arm64")]);
    let (amd, arm) = (registry.reference("amd64"), registry.reference("arm64"));
    assert_eq!(
        place
            .run_on("store", &["manifest", "exists", &name], None)
            .status
            .code(),
        Some(1)
    );
    let created = place.rbuild(&["manifest", "create", &name, &amd, &arm]);
    assert_eq!(created, format!("Created manifest list {name}\n"));
    assert!(
        place
            .refused(&["manifest", "create", &name, &amd])
            .contains("--amend")
    );
    place.rbuild(&["manifest", "create", "--amend", &name, &amd]);
    place.rbuild(&["manifest", "exists", &name]);
    let list = place.json(&["manifest", "inspect", &name]);
    assert_eq!(architectures(&list), ["arm64", "amd64"]);
    let digest = list["manifests"][0]["digest"].as_str().unwrap();
    place.rbuild(&[
        "manifest",
        "annotate",
        "--variant",
        "v8",
        "--os-features",
        "a,b",
        &name,
        digest,
    ]);
    place.rbuild(&["manifest", "annotate", "--index", "--annotation", "k=v", &name]);
    let list = place.json(&["manifest", "inspect", &name]);
    assert_eq!(list["manifests"][0]["platform"]["variant"], "v8");
    assert_eq!(list["manifests"][0]["platform"]["os.features"][1], "b");
    assert_eq!(list["annotations"]["k"], "v");
    // No state on the way is left as an image without a name.
    assert_eq!(place.rbuild(&["images", "-q", "-f", "dangling=true"]), "");

    let pushed = place.rbuild(&["manifest", "push", "-p", &name]);
    assert!(pushed.starts_with("sha256:"), "{pushed}");
    assert_eq!(
        place
            .run_on("store", &["manifest", "exists", &name], None)
            .status
            .code(),
        Some(1)
    );
    for platform in ["linux/amd64", "linux/arm64"] {
        place.succeed_on(
            platform.split('/').next_back().unwrap(),
            &["pull", "-q", "--platform", platform, &name],
        );
    }
    assert_eq!(
        place.succeed_on("arm64", &["inspect", "-f", "{{.Architecture}}", &name]),
        "arm64\n"
    );
    assert_eq!(
        place.succeed_on("arm64", &["images", "--format", "{{.Digest}}"]),
        pushed
    );

    place.rbuild(&["manifest", "create", "local", &amd]);
    place.rbuild(&["manifest", "add", "--arch", "riscv64", "local", &arm]);
    assert_eq!(
        architectures(&place.json(&["manifest", "inspect", "local"])),
        ["amd64", "riscv64"]
    );
    place.rbuild(&["manifest", "remove", "local", &amd]);
    assert_eq!(
        architectures(&place.json(&["manifest", "inspect", "local"])),
        ["riscv64"]
    );
    place.rbuild(&["manifest", "rm", "local"]);
    for (args, reason) in [
        (&["manifest", "rm", "local"][..], "No such manifest"),
        (
            &["manifest", "add", &amd, &arm],
            "is an image and no manifest list",
        ),
        (&["manifest", "create", "x", "127.0.0.1:1/nosuch"], "127.0.0.1:1"),
    ] {
        let error = place.refused(args);
        assert!(error.contains(reason), "{args:?}: {error}");
    }
}

#[test]
fn images_that_were_built_apart_are_merged() {
    let place = Place::new();
    let registry = TestRegistry::start();
    place.import("base");
    for (arch, output) in [
        ("amd64", "type=oci,dest=amd,tar=false"),
        ("arm64", "type=oci,dest=arm.tar"),
    ] {
        let platform = format!("linux/{arch}");
        std::fs::create_dir_all(place.path("both")).unwrap();
        std::fs::write(place.path("both/Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
        place.rbuild(&["build", "-q", "--platform", &platform, "-o", output, "both"]);
    }
    let name = registry.reference("merged:1");
    place.rbuild(&["merge", "-t", &name, "--annotation", "a=b", "amd", "arm.tar"]);
    let list = place.json(&["manifest", "inspect", &name]);
    assert_eq!(
        (architectures(&list), &list["annotations"]["a"]),
        (vec!["amd64", "arm64"], &Value::from("b"))
    );
    place.rbuild(&["push", &name]);
    let again = registry.reference("again:1");
    let made = place.rbuild(&["buildx", "imagetools", "create", "-t", &again, &name]);
    assert!(
        made.starts_with(&format!("{}@sha256:", registry.reference("again"))),
        "{made}"
    );
    let shown = place.rbuild(&["buildx", "imagetools", "inspect", &again]);
    assert!(
        shown.contains("Platform:  linux/amd64") && shown.contains("Platform:  linux/arm64"),
        "{shown}"
    );
    let format = "{{.Manifest.digest}} {{.Image.architecture}}";
    let line = place.rbuild(&["buildx", "imagetools", "inspect", "--format", format, &again]);
    assert_eq!(
        line,
        format!("{} amd64\n", made.trim().rsplit('@').next().unwrap())
    );
    let dry = place.json(&["buildx", "imagetools", "create", "--dry-run", &name]);
    assert_eq!(architectures(&dry).len(), 2);
    let error = place.refused(&["merge", "-t", "x", "amd", "amd", "base"]);
    assert!(error.contains("two images are for the platform"), "{error}");
    assert!(
        place
            .refused(&["buildx", "imagetools", "create", &name])
            .contains("can't push without tags")
    );
}
