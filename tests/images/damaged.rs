//! An image whose blobs are gone, beside whole ones.

use super::Place;

#[test]
fn a_damaged_image_is_named_and_can_be_removed_and_is_nobody_elses_trouble() {
    let place = Place::new();
    place.import("base");
    place.build("app", "FROM base\nLABEL n=1\n", &[]);
    let digest = place.digest("store", "app");
    let blob = digest.replace(':', "/");
    std::fs::remove_file(place.path("store/blobs").join(blob)).unwrap();

    for args in [
        &["inspect", "base"][..],
        &["tag", "base", "base:2"],
        &["history", "base"],
    ] {
        let output = place.run_on("store", args, None);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.is_empty(), "{args:?}: {told}");
    }
    for args in [
        &["inspect", "app"][..],
        &["push", "app"],
        &["save", "-o", "x.tar", "app"],
    ] {
        let told = place.refused(args);
        let named = "the image docker.io/library/app:latest of the store cannot be read";
        assert!(told.contains(named) && told.contains(&digest), "{args:?}: {told}");
    }
    assert_eq!(place.rbuild(&["rmi", "app"]), "Untagged: app:latest\n");
    assert!(place.refused(&["inspect", "app"]).contains("No such image"));
    assert_eq!(place.run_on("store", &["images"], None).stderr, b"");
}
