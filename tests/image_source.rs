//! Base images: names are resolved, remembered and fetched lazily, against a real registry.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

#[path = "common/registry.rs"]
mod common;
#[path = "common/image.rs"]
mod images;

use std::io::Read;
use std::sync::{Arc, Mutex};

use common::TestRegistry;
use images::{OCI_INDEX, image, index, push};
use rbuild::frontend::MetaResolver;
use rbuild::graph::Platform;
use rbuild::registry::{CredentialFiles, Reference, Registry, RegistryOptions};
use rbuild::source::image::{ImageSource, PullPolicy};
use rbuild_cache::{BlobProvider, Digest, LayerId, Store};

struct Setup {
    _dir: tempfile::TempDir,
    store: Store,
    registry: Registry,
    source: ImageSource,
}

fn setup() -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let registry = Registry::with_credentials(RegistryOptions::default(), CredentialFiles::default());
    let source = ImageSource::new(store.clone(), registry.clone(), PullPolicy::Missing);
    Setup {
        _dir: dir,
        store,
        registry,
        source,
    }
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

#[test]
fn a_base_is_resolved_once_and_its_layers_are_not_fetched() {
    let server = TestRegistry::start();
    let Setup {
        store,
        registry,
        source,
        _dir,
    } = setup();
    let text = server.reference("base:1");
    let name = Reference::parse(&text).unwrap();
    let first = image("amd64", &[1000, 2000]);
    let manifest = push(&registry, &name, &first).unwrap();

    let meta = source.resolve_image(&text, &amd64()).unwrap();
    assert_eq!(meta.config, first.config);
    assert_eq!(
        (meta.op.reference.as_str(), meta.op.manifest),
        (name.to_string().as_str(), manifest)
    );
    assert_eq!(meta.op.layers.len(), 2);
    assert!(store.has_blob(&manifest) && store.has_blob(&Digest::of(&first.config)));
    for layer in &meta.op.layers {
        assert!(!store.has_blob(&layer.digest), "layers are not fetched");
        assert!(
            store.layer_exists(&LayerId::of_diff_id(&layer.diff_id)),
            "but known"
        );
    }
    assert_eq!(store.image(&name.to_string()).unwrap().unwrap().digest, manifest);

    // The tag moves on: a build notices only when it is told to look.
    let second = image("amd64", &[1000, 3000]);
    let moved = push(&registry, &name, &second).unwrap();
    let requests = server.log().lines().count();
    assert_eq!(source.resolve_image(&text, &amd64()).unwrap().op, meta.op);
    assert_eq!(server.log().lines().count(), requests, "no request");
    let pulling = ImageSource::new(store.clone(), registry.clone(), PullPolicy::Always);
    assert_eq!(pulling.resolve_image(&text, &amd64()).unwrap().op.manifest, moved);
    assert_eq!(
        source.resolve_image(&text, &amd64()).unwrap().op.manifest,
        manifest,
        "one build has one answer"
    );
    let source = ImageSource::new(store.clone(), registry.clone(), PullPolicy::Missing);
    assert_eq!(source.resolve_image(&text, &amd64()).unwrap().op.manifest, moved);

    // Its layers come when they are asked for.
    let layer = meta.op.layers[0].clone();
    let mut bytes = Vec::new();
    let origins = vec!["127.0.0.1:1/nobody".to_owned(), name.name()];
    source
        .origins()
        .fetch(&layer.digest, layer.size, &origins)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes, first.layers[0]);
    let error = source
        .origins()
        .fetch(&layer.digest, layer.size, &[])
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("nobody is known"), "{error}");

    // A damaged store heals itself.
    std::fs::write(store.blob_path(&moved), "{}").unwrap();
    std::fs::remove_file(store.blob_path(&Digest::of(&second.config))).unwrap();
    assert_eq!(
        source.resolve_image(&text, &amd64()).unwrap().config,
        second.config
    );
}

#[test]
fn platforms_of_one_name_are_resolved_one_by_one() {
    let server = TestRegistry::start();
    let Setup {
        store,
        registry,
        source,
        _dir,
    } = setup();
    let name = Reference::parse(&server.reference("multi:1")).unwrap();
    let images = ["amd64", "arm64"].map(|architecture| image(architecture, &[100]));
    for image in &images {
        push(&registry, &name.with_tag("x").unwrap(), image).unwrap();
    }
    let index = index(&[("amd64", &images[0]), ("arm64", &images[1])]);
    let digest = registry.push_manifest(&name, OCI_INDEX, &index).unwrap();
    for (architecture, image) in ["amd64", "arm64"].iter().zip(&images) {
        let platform: Platform = format!("linux/{architecture}").parse().unwrap();
        let meta = source.resolve_image(&name.to_string(), &platform).unwrap();
        assert_eq!(
            (meta.op.manifest, &meta.op.platform),
            (Digest::of(&image.manifest), &platform)
        );
    }
    assert_eq!(
        store.image(&name.to_string()).unwrap().unwrap().digest,
        digest,
        "the name leads to the index"
    );
    let error = source
        .resolve_image(&name.to_string(), &"linux/s390x".parse().unwrap())
        .unwrap_err();
    assert!(
        error.to_string().contains("it has linux/amd64, linux/arm64"),
        "{error}"
    );
    // By digest, which wins over a tag that is not there.
    let pinned = format!("{}:gone@{}", name.name(), Digest::of(&images[1].manifest));
    assert_eq!(
        source
            .resolve_image(&pinned, &amd64())
            .unwrap()
            .op
            .platform
            .to_string(),
        "linux/arm64"
    );
}

/// The requests in a registry's log that are about manifests, without their addresses, in order.
fn asked(log: &str) -> Vec<String> {
    let requests = log.lines().filter_map(|line| line.split('"').nth(1));
    let about = requests.filter_map(|request| {
        let (method, rest) = request.split_once(" /v2/")?;
        let (_, version) = rest.split_once("/manifests/")?;
        let version = version.split(' ').next().unwrap_or_default();
        let kind = if version.starts_with("sha256:") {
            "digest"
        } else {
            version
        };
        Some(format!("{method} {kind}"))
    });
    about.collect()
}

#[test]
fn a_name_is_asked_about_once_however_many_want_it() {
    let server = TestRegistry::start();
    let Setup {
        store,
        registry,
        _dir,
        ..
    } = setup();
    let name = Reference::parse(&server.reference("multi:latest")).unwrap();
    let platforms = ["amd64", "arm64", "riscv64"];
    let publish = |size: usize| {
        let images = platforms.map(|architecture| image(architecture, &[size]));
        for image in &images {
            push(&registry, &name.with_tag("x").unwrap(), image).unwrap();
        }
        let images: Vec<_> = platforms.iter().copied().zip(&images).collect();
        registry.push_manifest(&name, OCI_INDEX, &index(&images)).unwrap()
    };
    let digest = publish(100);
    let mut seen = server.log().len();
    // Two spellings and three platforms, all at once.
    let mut build = |policy| {
        let source = ImageSource::new(store.clone(), registry.clone(), policy);
        std::thread::scope(|scope| {
            for architecture in platforms {
                for text in [name.to_string(), name.name()] {
                    let source = &source;
                    scope.spawn(move || {
                        let platform = format!("linux/{architecture}").parse().unwrap();
                        source.resolve_image(&text, &platform).unwrap()
                    });
                }
            }
        });
        let log = server.log();
        let new = asked(&log[seen..]);
        seen = log.len();
        new
    };
    let by = |asked: &[String], what: &str| asked.iter().filter(|asked| *asked == what).count();
    let first = build(PullPolicy::Missing);
    assert_eq!(
        (by(&first, "GET latest"), by(&first, "HEAD latest")),
        (1, 0),
        "{first:?}"
    );
    assert_eq!(build(PullPolicy::Missing), Vec::<String>::new());
    assert_eq!(build(PullPolicy::Always), ["HEAD latest"]);
    let moved = publish(200);
    build(PullPolicy::Missing);
    let asked = build(PullPolicy::Always);
    assert_eq!(
        (by(&asked, "HEAD latest"), by(&asked, "GET latest")),
        (1, 0),
        "{asked:?}"
    );
    assert_eq!(store.image(&name.to_string()).unwrap().unwrap().digest, moved);
    // By digest nobody is asked, by whichever name it came here.
    let source = ImageSource::new(store.clone(), registry.clone(), PullPolicy::Always);
    let before = server.log().len();
    for digest in [digest, moved] {
        let pinned = name.with_digest(digest).to_string();
        source.resolve_image(&pinned, &amd64()).unwrap();
    }
    assert_eq!(server.log().len(), before, "no request");
}

#[test]
fn a_pull_fetches_all_layers_and_says_what_changed() {
    let server = TestRegistry::start();
    let Setup {
        store,
        registry,
        source,
        _dir,
    } = setup();
    let name = Reference::parse(&server.reference("app")).unwrap();
    let image = image("amd64", &[10, 5_000_000, 70_000, 10]);
    push(&registry, &name, &image).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let source = source.with_progress(Arc::new(move |digest, done, size| {
        told.lock().unwrap().push((*digest, done, size));
    }));
    let pulled = source.pull(&name, &amd64()).unwrap();
    assert!(pulled.changed && pulled.descriptor.digest == Digest::of(&image.manifest));
    for layer in &image.layers {
        assert!(store.has_blob(&Digest::of(layer)));
        let size = layer.len() as u64;
        assert!(seen.lock().unwrap().contains(&(Digest::of(layer), size, size)));
    }
    assert!(!source.pull(&name, &amd64()).unwrap().changed);
    std::fs::remove_file(store.blob_path(&Digest::of(&image.layers[1]))).unwrap();
    assert!(
        source.pull(&name, &amd64()).unwrap().changed,
        "a missing layer is fetched again"
    );
}

#[test]
fn an_oci_layout_is_a_base_too() {
    let server = TestRegistry::start();
    let Setup {
        store,
        registry,
        source,
        _dir,
    } = setup();
    let name = Reference::parse(&server.reference("app:1")).unwrap();
    let image = image("amd64", &[4000]);
    push(&registry, &name, &image).unwrap();
    let layout = tempfile::tempdir().unwrap();
    let path = layout.path().join("lay:out");
    let status = std::process::Command::new("skopeo")
        .args(["copy", "--quiet", "--preserve-digests", "--src-tls-verify=false"])
        .arg(format!("docker://{name}"))
        .arg(format!(
            "oci:{}:v1",
            path.display().to_string().replace("lay:out", "layout")
        ))
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::rename(layout.path().join("layout"), &path).unwrap();
    let digest = Digest::of(&image.manifest);
    for selector in [":v1", &format!("@{digest}")] {
        let text = format!("oci-layout://{}{selector}", path.display());
        let meta = source.resolve_image(&text, &amd64()).unwrap();
        assert_eq!(
            (meta.op.manifest, &meta.config),
            (digest, &image.config),
            "{text}"
        );
        let layer = &meta.op.layers[0];
        assert!(!store.has_blob(&layer.digest));
        let origin = format!("oci-layout:{}", path.display());
        let mut bytes = Vec::new();
        source
            .origins()
            .fetch(&layer.digest, layer.size, &[origin])
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(bytes, image.layers[0]);
    }
    let error = source
        .resolve_image(&format!("oci-layout://{}:v2", path.display()), &amd64())
        .unwrap_err();
    assert!(format!("{error:#}").contains("it has the tags v1"), "{error:#}");
    // What was changed in the layout is not believed.
    std::fs::write(
        path.join("blobs/sha256").join(digest.hex()),
        image.manifest.to_ascii_uppercase(),
    )
    .unwrap();
    let Setup { source, _dir, .. } = setup();
    let error = source
        .resolve_image(&format!("oci-layout://{}:v1", path.display()), &amd64())
        .unwrap_err();
    assert!(format!("{error:#}").contains("it has the digest"), "{error:#}");
}

#[test]
fn an_image_that_does_not_fit_its_config_is_refused() {
    let server = TestRegistry::start();
    let Setup {
        store,
        registry,
        source,
        _dir,
    } = setup();
    let name = Reference::parse(&server.reference("odd:1")).unwrap();
    let mut odd = image("amd64", &[10, 20]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&odd.manifest).unwrap();
    manifest["layers"].as_array_mut().unwrap().pop();
    odd.manifest = manifest.to_string().into_bytes();
    push(&registry, &name, &odd).unwrap();
    let error = source.resolve_image(&name.to_string(), &amd64()).unwrap_err();
    assert!(
        format!("{error:#}").contains("2 diff ids and the manifest 1 layers"),
        "{error:#}"
    );
    assert_eq!(store.image(&name.to_string()).unwrap(), None, "nothing is tagged");
    assert!(!store.has_blob(&Digest::of(&odd.manifest)));
}
