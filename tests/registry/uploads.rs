//! What a push asks of a registry, by that registry's own log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rbuild::registry::{CredentialFiles, Registry, RegistryOptions, Transferred};
use rbuild_cache::Digest;

use super::common::TestRegistry;
use super::images::{blob, image, push};
use super::server::{Answer, Server};
use super::{anonymous, reference};

/// Method, blob or what else, and status of each request about `repository` that came since `before` was read.
fn requests(server: &TestRegistry, before: &str, repository: &str) -> Vec<(String, String, u16)> {
    let log = server.log();
    let new = log.strip_prefix(before).unwrap();
    let asked = |line: &str| {
        let (_, request) = line.split_once("] \"")?;
        let (request, rest) = request.split_once("\" ")?;
        let mut words = request.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let what = path.strip_prefix(&format!("/v2/{repository}/"))?;
        let status = rest.split(' ').next()?.parse().ok()?;
        Some((method.to_owned(), what.to_owned(), status))
    };
    new.lines().filter_map(asked).collect()
}

#[test]
fn a_push_asks_first_and_sends_in_parts() {
    let server = TestRegistry::start();
    let options = RegistryOptions {
        upload_part: 1 << 20,
        ..RegistryOptions::default()
    };
    let client = Registry::with_credentials(options, CredentialFiles::default());
    let image = image("amd64", &[(3 << 20) + 5, 1000]);
    push(&client, &reference(&server.reference("first:1")), &image).unwrap();
    let seen = requests(&server, "", "first");
    let count = |method: &str, status: u16| {
        let same = |(had, _, was): &&(String, String, u16)| had == method && *was == status;
        seen.iter().filter(same).count()
    };
    // Two layers and the config: asked for, begun, and ended; the large one in four parts.
    assert_eq!((count("HEAD", 404), count("POST", 202)), (3, 3), "{seen:?}");
    assert_eq!((count("PATCH", 202), count("PUT", 201)), (4, 4), "{seen:?}");
    assert_eq!(seen.len(), 14, "{seen:?}");
    for layer in &image.layers {
        let asked = format!("blobs/{}", Digest::of(layer));
        let head = seen.iter().position(|(_, what, _)| *what == asked).unwrap();
        assert_eq!((seen[head].0.as_str(), seen[head].2), ("HEAD", 404));
    }
    let (last, ..) = seen.last().unwrap();
    assert_eq!(last, "PUT");
    assert!(seen.last().unwrap().1.starts_with("manifests/1"), "{seen:?}");

    // Once more: all is there, and is only asked for.
    let before = server.log();
    push(&client, &reference(&server.reference("first:2")), &image).unwrap();
    let seen = requests(&server, &before, "first");
    let methods: Vec<&str> = seen.iter().map(|(method, ..)| method.as_str()).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "HEAD", "PUT"], "{seen:?}");

    // Into another repository: not a byte of the layer.
    let before = server.log();
    let mut mounted = blob(&image.layers[0]);
    mounted.mount_from = vec![server.reference("first")];
    let second = reference(&server.reference("second:1"));
    let done = client.push_blob(&second, &mounted, &|_| {}).unwrap();
    assert_eq!(done, Transferred::Mounted);
    let seen = requests(&server, &before, "second");
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!((seen[0].0.as_str(), seen[0].2), ("HEAD", 404), "{seen:?}");
    let mount = format!("mount={}&from=first", Digest::of(&image.layers[0]));
    assert!(seen[1].1.contains(&mount) && seen[1].2 == 201, "{seen:?}");
}

#[test]
fn four_blobs_are_on_their_way_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let highest = Arc::clone(&most);
    let server = Server::start(move |request| {
        if !request.path.contains("/blobs/") {
            return Answer::new(200);
        }
        let at_once = now.fetch_add(1, Ordering::SeqCst) + 1;
        highest.fetch_max(at_once, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        now.fetch_sub(1, Ordering::SeqCst);
        // They are all there.
        Answer::new(200)
    });
    let sizes: Vec<usize> = (1..12).collect();
    let name = reference(&format!("{}/app:1", server.address()));
    push(&anonymous(), &name, &image("amd64", &sizes)).unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 4);
}
