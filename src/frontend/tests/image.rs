//! The written config (spec 5).

use super::*;
use crate::frontend::image::ImageFile;

#[test]
fn keys_are_in_order_and_empty_ones_are_left_out() {
    let lowered = build("FROM full\nRUN x\nONBUILD USER u\nCMD [\"c\"]");
    let bytes = lowered.image.finish(
        &[FinishedLayer {
            diff_id: DiffId(Digest::of(b"1")),
            created: BuildTime {
                seconds: 0,
                nanoseconds: 500_000_000,
            },
        }],
        None,
        BuildTime::default(),
    );
    let written: Value = serde_json::from_slice(&bytes).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&written),
        [
            "architecture",
            "author",
            "config",
            "created",
            "history",
            "os",
            "rootfs"
        ]
    );
    assert_eq!(
        keys(&written["config"]),
        [
            "User",
            "ExposedPorts",
            "Env",
            "Entrypoint",
            "Cmd",
            "Volumes",
            "WorkingDir",
            "Labels",
            "StopSignal",
            "ArgsEscaped",
            "Healthcheck",
            "OnBuild",
            "Shell"
        ]
    );
    assert_eq!(
        written["history"][0],
        json!({"created": "2023-11-14T22:13:20Z", "created_by": "base layer 0", "x": 1})
    );
    assert_eq!(
        written["history"][1],
        json!({"created": "1970-01-01T00:00:00.5Z", "created_by": "RUN /bin/ash -e -c x # buildkit", "comment": "buildkit.dockerfile.v0"})
    );
    assert_eq!(written["history"][2]["empty_layer"], true);
    assert_eq!(written["created"], "1970-01-01T00:00:00.5Z");
    assert_eq!(
        written["rootfs"],
        json!({"type": "layers", "diff_ids": [Digest::of(b"layer"), Digest::of(b"1")]})
    );
}

#[test]
fn times_of_entries() {
    let times = |text: &str, epoch: Option<i64>| {
        let mut request = request(text);
        request.source_date_epoch = epoch;
        let written = written(&lowered(&request));
        let mut times: Vec<String> = written["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["created"].as_str().unwrap_or("none").to_owned())
            .collect();
        times.push(written["created"].as_str().unwrap().to_owned());
        times
            .iter()
            .map(|time| {
                time.replace("1970-01-01T00:0", "")
                    .replace("2023-11-14T22:13:20Z", "base")
            })
            .collect::<Vec<_>>()
    };
    for (rule, text, epoch, expected) in [
        (
            "next, then previous",
            "FROM busybox\nUSER a\nRUN x\nUSER b\nRUN y\nUSER c",
            None,
            &["base", "0:01Z", "0:01Z", "0:01Z", "0:02Z", "0:02Z", "0:02Z"][..],
        ),
        (
            "no layer: the base's",
            "FROM busybox\nUSER a",
            None,
            &["base", "base", "base"],
        ),
        ("nothing at all", "FROM scratch", None, &["1:39.000000005Z"]),
        (
            "B7",
            "FROM scratch\nLABEL a=b",
            None,
            &["1:39.000000005Z", "1:39.000000005Z"],
        ),
        (
            "T7",
            "FROM busybox\nUSER a\nRUN x\nUSER b",
            Some(59),
            &["base", "0:59Z", "0:59Z", "0:59Z", "0:59Z"],
        ),
        ("T7 base only", "FROM busybox", Some(59), &["base", "0:59Z"]),
        (
            "T7 older base",
            "FROM busybox",
            Some(4_000_000_000),
            &["base", "base"],
        ),
        (
            "T7 scratch",
            "FROM scratch\nUSER a",
            Some(59),
            &["0:59Z", "0:59Z"],
        ),
    ] {
        assert_eq!(times(text, epoch), expected, "{rule}");
    }
}

#[test]
fn empty_images_have_lists() {
    let written = written(&build("FROM scratch\nLABEL only=label"));
    assert_eq!(written["rootfs"], json!({"type": "layers", "diff_ids": []}));
    assert_eq!(written["history"].as_array().unwrap().len(), 1);
    assert!(build("FROM scratch").result.is_none());
    assert!(build("FROM empty").result.is_none());
}

#[test]
fn base_history_is_made_to_fit() {
    let layered = |history: Value, layers: usize| {
        let file = json!({"created": "2020-01-01T00:00:00Z", "history": history, "os": "linux", "architecture": "amd64"});
        let layer = ImageLayer {
            media_type: String::new(),
            digest: Digest::of(b"x"),
            size: 0,
            diff_id: DiffId(Digest::of(b"y")),
        };
        let op = ImageOp {
            reference: String::new(),
            manifest: Digest::of(b"m"),
            platform: Platform::host(),
            layers: vec![layer; layers],
        };
        let file = ImageFile::parse(file.to_string().as_bytes()).unwrap();
        let written = ImageDraft::from_base(file, &op).finish(&[], None, BuildTime::default());
        let written: Value = serde_json::from_slice(&written).unwrap();
        written["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["empty_layer"] != true)
            .collect::<Vec<_>>()
    };
    for (rule, history, layers, expected) in [
        (
            "fits",
            json!([{}, {"empty_layer": true}, {}]),
            2,
            &[true, false, true][..],
        ),
        ("none", json!(null), 2, &[true, true]),
        (
            "too few",
            json!([{"created_by": "x"}, {"empty_layer": true}]),
            2,
            &[true, false, true],
        ),
        ("too many", json!([{}, {}, {}]), 2, &[true, true, false]),
        ("no objects", json!([1, null, {}]), 1, &[true]),
    ] {
        assert_eq!(layered(history, layers), expected, "{rule}");
    }
}

#[test]
fn labels_of_the_caller_come_last() {
    let mut request = request("FROM busybox\nLABEL a=1 b=2");
    request.labels = vec![("b".into(), "cli $a".into()), ("c".into(), String::new())];
    let lowered = lowered(&request);
    assert_eq!(
        written(&lowered)["config"]["Labels"],
        json!({"a": "1", "b": "cli $a", "c": ""})
    );
    assert_eq!(history(&lowered), ["LABEL a=1 b=2"]);
}

#[test]
fn unreadable_configs_are_errors() {
    let mut images = Images::new();
    images.configs.insert("busybox", json!({"config": {"Env": 1}}));
    let error = lower(&request("FROM busybox"), &images).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("busybox: failed to parse image config: "),
        "{error}"
    );
    assert_eq!(error.location.unwrap().start, 1);
}
