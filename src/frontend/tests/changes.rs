//! Changes to a config.

use super::*;
use crate::frontend::changes::apply;

#[test]
fn changes_apply_to_the_config_alone() {
    let config = serde_json::to_vec(&Images::new().configs["full"]).unwrap();
    let before: Value = serde_json::from_slice(&config).unwrap();
    for (change, key, value) in [
        ("CMD [\"sh\"]", "Cmd", json!(["sh"])),
        ("CMD a b", "Cmd", json!(["/bin/ash", "-e", "-c", "a b"])),
        ("entrypoint []", "Entrypoint", json!(null)),
        (
            "ENV A=b BASE_A=$BASE_B",
            "Env",
            json!([PATH, "BASE_A=two words", "BASE_B=two words", "EMPTYV=", "A=b"]),
        ),
        (
            "EXPOSE 1",
            "ExposedPorts",
            json!({"1/tcp": {}, "53/udp": {}, "80/tcp": {}}),
        ),
        (
            "LABEL x=y",
            "Labels",
            json!({"base.label": "x", "shared": "from base", "x": "y"}),
        ),
        ("ONBUILD RUN x", "OnBuild", json!(["RUN x"])),
        ("STOPSIGNAL 9", "StopSignal", json!("9")),
        ("USER u", "User", json!("u")),
        ("VOLUME /n", "Volumes", json!({"/data": {}, "/n": {}, "/vol": {}})),
        ("WORKDIR x", "WorkingDir", json!("/home/app/x")),
        ("HEALTHCHECK NONE", "Healthcheck", json!({"Test": ["NONE"]})),
    ] {
        let after: Value = serde_json::from_slice(&apply(&config, change).unwrap()).unwrap();
        assert_eq!(after["config"][key], value, "{change}");
        for kept in ["history", "rootfs", "created", "architecture", "author"] {
            assert_eq!(after[kept], before[kept], "{change}: {kept}");
        }
    }
    for bad in [
        "RUN x",
        "COPY a b",
        "FROM x",
        "ARG A",
        "MAINTAINER m",
        "NOPE x",
        "",
        "STOPSIGNAL NOPE",
    ] {
        assert!(apply(&config, bad).is_err(), "{bad}");
    }
    assert!(apply(b"nonsense", "USER x").is_err());
}
