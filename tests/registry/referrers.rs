//! What refers to an image: at a registry that lists it, and at one that does not.

use std::collections::BTreeMap;

use rbuild_cache::{Descriptor, Digest, Referrer};

use super::common::TestRegistry;
use super::images::{OCI_MANIFEST, image, push};
use super::server::{Answer, Server};
use super::{anonymous, reference};

fn referrer(kind: &str) -> (Referrer, Vec<u8>) {
    let empty = b"{}";
    let config = serde_json::json!({"mediaType": "application/vnd.oci.empty.v1+json",
        "digest": Digest::of(empty), "size": empty.len()});
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
        "config": config, "layers": []});
    let bytes = manifest.to_string().into_bytes();
    let referrer = Referrer {
        descriptor: Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        },
        artifact_type: kind.to_owned(),
        annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
    };
    (referrer, bytes)
}

#[test]
fn a_registry_that_lists_them_needs_no_tag() {
    let (known, bytes) = referrer("a/b");
    let subject = Digest::of(b"image");
    let listed = serde_json::to_vec(&rbuild_cache::Referrers::new(vec![known.clone()])).unwrap();
    let server = Server::start(move |request| match request.path.as_str() {
        path if path.contains("/referrers/") => {
            Answer::of(listed.clone()).header("Content-Type", "application/vnd.oci.image.index.v1+json")
        }
        path if path.contains("/manifests/") => Answer::new(201).header("OCI-Subject", &subject.to_string()),
        _ => Answer::new(200),
    });
    let name = reference(&format!("{}/app:1", server.address()));
    let client = anonymous();
    client
        .push_referrer(&name, &subject, &known, &bytes, &[])
        .unwrap();
    let asked: Vec<String> = server.take().into_iter().map(|request| request.path).collect();
    assert!(
        asked.contains(&format!("/v2/app/manifests/{}", known.descriptor.digest)),
        "{asked:?}"
    );
    assert!(!asked.iter().any(|path| path.contains("sha256-")), "{asked:?}");
    assert_eq!(client.referrers(&name, &subject).unwrap(), [known]);
}

#[test]
fn elsewhere_a_tag_leads_to_all_of_them() {
    let registry = TestRegistry::start();
    let client = anonymous();
    let name = reference(&registry.reference("app:1"));
    let image = image("amd64", &[10]);
    push(&client, &name, &image).unwrap();
    let subject = Digest::of(&image.manifest);
    assert_eq!(client.referrers(&name, &subject).unwrap(), []);
    let mut all = Vec::new();
    for kind in ["a/a", "b/b", "a/a"] {
        let (new, bytes) = referrer(kind);
        let empty = super::blob(b"{}");
        client
            .push_referrer(&name, &subject, &new, &bytes, &[empty])
            .unwrap();
        if !all.contains(&new) {
            all.push(new);
        }
    }
    assert_eq!(client.referrers(&name, &subject).unwrap(), all);
    assert_eq!(client.referrers(&name, &Digest::of(b"other")).unwrap(), []);
}
