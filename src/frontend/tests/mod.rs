//! Dockerfile texts lowered against images that exist only here; cases are named by the rule of the specification.

mod arbitrary;
mod arguments;
mod broken;
mod changes;
mod checks;
mod contexts;
mod graph;
mod image;
mod instructions;
mod platforms;
mod stages;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rbuild_cache::{DiffId, Digest};
use serde_json::{Value, json};

use super::*;
use crate::graph::op::ImageLayer;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Knows a few images, and remembers what it was asked for.
struct Images {
    configs: BTreeMap<&'static str, Value>,
    asked: Mutex<Vec<String>>,
}

impl Images {
    fn new() -> Self {
        let std = |config: Value| {
            json!({"architecture": "amd64", "os": "linux", "created": "2023-11-14T22:13:20Z", "config": config,
                   "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"layer")]},
                   "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "base layer 0", "x": 1}]})
        };
        let onbuild = [
            "COPY trigger.txt /onbuild/",
            "RUN echo ran > /onbuild/ran",
            "ENV OB=1",
            "WORKDIR /onbuild",
        ];
        let mut full = std(json!({
            "User": "app", "Env": [PATH, "BASE_A=one", "BASE_B=two words", "EMPTYV="], "WorkingDir": "/home/app",
            "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["dflt", "arg"], "Volumes": {"/vol": {}, "/data": {}},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Labels": {"base.label": "x", "shared": "from base"},
            "StopSignal": "SIGQUIT", "Shell": ["/bin/ash", "-e", "-c"], "Hostname": "dropped",
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_i64, "Retries": 4}}));
        full["author"] = "Base Author".into();
        full["docker_version"] = "dropped".into();
        let mut arm = std(json!({"Env": [PATH]}));
        arm["architecture"] = "arm64".into();
        arm["variant"] = "v8".into();
        let configs = [
            (
                "busybox",
                std(json!({"Env": [PATH], "Cmd": ["sh"], "Labels": null})),
            ),
            ("full", full),
            ("arm", arm),
            ("nopath", std(json!({"Env": ["A=1"], "WorkingDir": "/w/../x/"}))),
            ("noconfig", std(Value::Null)),
            (
                "empty",
                json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": null}, "history": null}),
            ),
            ("onbuild", std(json!({"Env": [PATH], "OnBuild": onbuild}))),
            (
                "fromtrigger",
                std(json!({"OnBuild": ["COPY --from=tools /t /t"]})),
            ),
            ("badtrigger", std(json!({"OnBuild": ["NOPE x"]}))),
        ];
        Self {
            configs: configs.into(),
            asked: Mutex::default(),
        }
    }
}

impl MetaResolver for Images {
    fn resolve_image(&self, reference: &str, platform: &Platform) -> anyhow::Result<ImageMeta> {
        self.asked.lock().unwrap().push(format!("{reference} {platform}"));
        let name = reference.strip_prefix("oci-layout://").unwrap_or(reference);
        let name = name.split(':').next().unwrap();
        let config = self
            .configs
            .get(name)
            .ok_or_else(|| anyhow::anyhow!("not found"))?;
        let diff_ids = config["rootfs"]["diff_ids"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let layer = |diff_id: &Value| ImageLayer {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            digest: Digest::of(name.as_bytes()),
            size: 7,
            diff_id: DiffId(diff_id.as_str().unwrap().parse().unwrap()),
        };
        let op = ImageOp {
            reference: format!("docker.io/library/{name}:latest"),
            manifest: Digest::of(reference.as_bytes()),
            platform: platform.clone(),
            layers: diff_ids.iter().map(layer).collect(),
        };
        Ok(ImageMeta {
            op,
            config: serde_json::to_vec(config).unwrap(),
        })
    }
}

/// The request to build `text`.
fn request(text: &str) -> BuildRequest {
    let dockerfile = match rbuild_parser::parse(text.as_bytes()) {
        Ok(dockerfile) => dockerfile,
        Err(diagnostics) => panic!("{text}\n{diagnostics:?}"),
    };
    let mut request = BuildRequest::of(dockerfile, Arc::from("Dockerfile"));
    request.platform = None;
    request
}

fn with_args(text: &str, args: &[(&str, &str)]) -> BuildRequest {
    let mut request = request(text);
    request.build_args = args
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())))
        .collect();
    request
}

fn lowered(request: &BuildRequest) -> Lowered {
    match lower(request, &Images::new()) {
        Ok(lowered) => lowered,
        Err(error) => panic!("{error} at {:?}", error.location),
    }
}

fn build(text: &str) -> Lowered {
    lowered(&request(text))
}

/// The message, with its line and hint: `3: message (hint)`.
fn failure(request: &BuildRequest) -> String {
    match lower(request, &Images::new()) {
        Ok(_) => panic!("it was lowered"),
        Err(error) => {
            let line = error
                .location
                .as_ref()
                .map_or(String::new(), |location| format!("{}: ", location.start));
            let hint = error
                .hint
                .as_ref()
                .map_or(String::new(), |hint| format!(" ({hint})"));
            format!("{line}{error}{hint}")
        }
    }
}

/// The texts of the history, `*` behind those with a layer.
fn history(lowered: &Lowered) -> Vec<String> {
    let entries = lowered.image.history();
    entries
        .map(|(text, layer)| format!("{text}{}", if layer { " *" } else { "" }))
        .collect()
}

/// The written config, as if layer N had been made at second N and a diff id of its number.
fn written(lowered: &Lowered) -> Value {
    let layers: Vec<FinishedLayer> = (1..=lowered.image.layers().len())
        .map(|number| FinishedLayer {
            diff_id: DiffId(Digest::of(&[u8::try_from(number).unwrap()])),
            created: BuildTime {
                seconds: i64::try_from(number).unwrap(),
                nanoseconds: 0,
            },
        })
        .collect();
    let bytes = lowered.image.finish(
        &layers,
        lowered.source_date_epoch,
        BuildTime {
            seconds: 99,
            nanoseconds: 5,
        },
    );
    serde_json::from_slice(&bytes).unwrap()
}

/// The operation of the last vertex.
fn last(lowered: &Lowered) -> &Op {
    &lowered.definition.vertex(lowered.result.unwrap()).op
}

fn exec(lowered: &Lowered) -> &crate::graph::ExecOp {
    match last(lowered) {
        Op::Exec(exec) => exec,
        other => panic!("{other:?}"),
    }
}

fn copied(lowered: &Lowered) -> &crate::graph::CopyOp {
    match last(lowered) {
        Op::Copy(copy) => copy,
        other => panic!("{other:?}"),
    }
}

/// The rules that warned, with their messages.
fn warned(lowered: &Lowered) -> Vec<String> {
    let text = |warning: &Warning| {
        let line = warning.location.as_ref().map_or(0, |location| location.start);
        let help = warning
            .help
            .as_ref()
            .map_or(String::new(), |help| format!(" ({help})"));
        format!("{line} {}: {}{help}", warning.rule, warning.message)
    };
    lowered.warnings.iter().map(text).collect()
}
