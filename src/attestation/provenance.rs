//! How a result came about: SLSA provenance, version 1, with the extensions that BuildKit gave it, so that what reads
//! BuildKit's reads this. `docs/attestations.md` says what each field is, which the build type asks for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rbuild_cache::Descriptor;
use serde_json::{Map, Value, json};

use crate::graph::address::masked;
use crate::graph::written::is_sensitive;
use crate::graph::{
    Definition, GitOp, HttpOp, ImageOp, MountKind, NetworkMode, Op, Platform, Reference, Vertex, VertexId,
};
use crate::sbom::package_url::{part, path};

/// What kind of build this is; it tells what the parameters mean.
const BUILD_TYPE: &str = "urn:rbuild:dockerfile:v1";
/// Who built, when nobody says it.
const BUILDER: &str = "urn:rbuild:builder";

const MASK: &str = "xxxxx";
/// A shorter value of a secret argument is not looked for in other texts.
const TELLING: usize = 8;
const LAYOUT: &str = "oci-layout://";
/// The local directory that is the build context.
const CONTEXT: &str = "context";

/// A build, as far as it is told of.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// All of the graph.
    pub definition: &'a Definition,
    /// What the platform's image is made of: its result, and the steps that made its layers.
    pub results: &'a [VertexId],
    /// The layers that steps made, as far as they are known.
    pub layers: &'a [(VertexId, Descriptor)],
    /// Name of the Dockerfile.
    pub file: &'a str,
    /// Its text.
    pub text: &'a [u8],
    /// Where the context came from, when it is no directory of this machine.
    pub origin: Option<&'a Op>,
    /// Whether the Dockerfile is a file of this machine.
    pub is_local_file: bool,
    /// What the caller asked for, by BuildKit's names: `build-arg:NAME`, `label:NAME`, `target`.
    pub parameters: &'a BTreeMap<String, String>,
    /// When it began and ended, RFC 3339, and what names this run; `None` when it is to be the same each time.
    pub run: Option<&'a Run>,
}

/// One run of a build.
#[derive(Debug, Clone)]
pub struct Run {
    /// Names it.
    pub id: String,
    /// When it began.
    pub started: String,
    /// When it ended.
    pub finished: String,
}

impl Build<'_> {
    /// The predicate. `full` is BuildKit's `mode=max`.
    pub fn predicate(&self, full: bool, builder: Option<&str>, reproducible: bool) -> Value {
        let masks = Masks::of(self.parameters);
        let reached = self.definition.reachable(self.results);
        let steps: Vec<VertexId> = self.definition.ids().filter(|id| reached[id.0]).collect();
        let vertices = || steps.iter().map(|id| self.definition.vertex(*id));
        let (request, all_said) = self.request(full, &masks, &vertices().collect::<Vec<_>>());
        let mut source = json!({"path": self.file});
        if let Some(Value::Object(origin)) = self.origin.and_then(dependency) {
            source["uri"] = origin["uri"].clone();
            source["digest"] = origin["digest"].clone();
        }
        let mut internal = json!({"builderPlatform": Platform::host().to_string()});
        let mut extra = Map::new();
        if full {
            internal["buildConfig"] = json!({"llbDefinition": self.steps(&steps, &masks)});
            extra.insert("source".to_owned(), self.source(&steps, &masks));
            extra.insert("layers".to_owned(), self.layers(&steps));
        }
        let mut dependencies: Vec<Value> = self.origin.and_then(dependency).into_iter().collect();
        for found in vertices().filter_map(|vertex| dependency(&vertex.op)) {
            if !dependencies.contains(&found) {
                dependencies.push(found);
            }
        }
        // The context of an address is a local directory to the steps, too.
        let untracked = vertices().any(|vertex| match &vertex.op {
            Op::Local(local) => self.origin.is_none() || local.name != CONTEXT,
            _ => false,
        });
        let mut metadata = Map::new();
        if let Some(run) = self.run {
            metadata.insert("invocationId".to_owned(), json!(run.id));
            metadata.insert("startedOn".to_owned(), json!(run.started));
            metadata.insert("finishedOn".to_owned(), json!(run.finished));
        }
        metadata.insert("buildkit_metadata".to_owned(), Value::Object(extra));
        metadata.insert("buildkit_hermetic".to_owned(), json!(vertices().all(is_hermetic)));
        metadata.insert(
            "buildkit_completeness".to_owned(),
            json!({"request": full && all_said, "resolvedDependencies": !untracked}),
        );
        metadata.insert("buildkit_reproducible".to_owned(), json!(reproducible));
        json!({
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"configSource": source, "request": request},
                "internalParameters": internal,
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": builder.unwrap_or(BUILDER), "version": {"rbuild": env!("CARGO_PKG_VERSION")}},
                "metadata": metadata,
            },
        })
    }

    /// What was asked for, and whether all of it is told. BuildKit's `mode=min` has neither build arguments and labels
    /// nor ids of secrets.
    fn request(&self, full: bool, masks: &Masks<'_>, vertices: &[&Vertex]) -> (Value, bool) {
        let mut args = Map::new();
        let mut all = true;
        for (name, value) in self.parameters {
            let argument = name.strip_prefix("build-arg:");
            if !full && (argument.is_some() || name.starts_with("label:")) {
                continue;
            }
            let shown = match argument.is_some_and(is_sensitive) && !value.is_empty() {
                true => MASK.to_owned(),
                false => masks.text(value),
            };
            all &= shown == *value;
            args.insert(name.clone(), shown.into());
        }
        let mut locals: Vec<&str> = vertices
            .iter()
            .filter_map(|vertex| match &vertex.op {
                Op::Local(local) => Some(local.name.as_str()),
                _ => None,
            })
            .collect();
        if self.is_local_file {
            locals.push("dockerfile");
        }
        let locals: Vec<Value> = locals.into_iter().map(|name| json!({"name": name})).collect();
        let mut request = json!({"frontend": "dockerfile.v0", "args": args, "locals": locals});
        if full {
            let (secrets, agents) = handed(vertices);
            request["secrets"] = secrets;
            request["ssh"] = agents;
        }
        (request, all)
    }

    fn steps(&self, steps: &[VertexId], masks: &Masks<'_>) -> Value {
        let step = |id: &VertexId| {
            let vertex = self.definition.vertex(*id);
            let mut step = json!({
                "id": name_of(steps, *id),
                "name": masks.text(&vertex.name),
                "op": operation(vertex, masks),
                "platform": vertex.platform,
            });
            let inputs: Vec<String> = self
                .definition
                .inputs(*id)
                .map(|input| format!("{}:0", name_of(steps, input)))
                .collect();
            if !inputs.is_empty() {
                step["inputs"] = json!(inputs);
            }
            if let Some(written) = &vertex.written {
                step["text"] = masks.text(&written.text).into();
            }
            step
        };
        steps.iter().map(step).collect()
    }

    /// The Dockerfile, and the lines of it that each step comes from.
    fn source(&self, steps: &[VertexId], masks: &Masks<'_>) -> Value {
        let mut locations = Map::new();
        for id in steps {
            let location = self.definition.vertex(*id).location.as_ref();
            if let Some(location) = location.filter(|location| *location.file == *self.file) {
                let range = json!({"start": {"line": location.start}, "end": {"line": location.end}});
                locations.insert(name_of(steps, *id), json!({"locations": [{"ranges": [range]}]}));
            }
        }
        let text = masks.text(&String::from_utf8_lossy(self.text));
        json!({
            "locations": locations,
            "infos": [{"filename": self.file, "language": "Dockerfile", "data": BASE64.encode(text)}],
        })
    }

    fn layers(&self, steps: &[VertexId]) -> Value {
        let mut layers = Map::new();
        for id in steps {
            let own: Vec<Value> = match &self.definition.vertex(*id).op {
                Op::Image(image) => image
                    .layers
                    .iter()
                    .map(|it| json!({"mediaType": it.media_type, "digest": it.digest, "size": it.size}))
                    .collect(),
                _ => {
                    let made = self.layers.iter().filter(|(vertex, _)| vertex == id);
                    made.map(|(_, descriptor)| json!(descriptor)).collect()
                }
            };
            if !own.is_empty() {
                layers.insert(format!("{}:0", name_of(steps, *id)), json!([own]));
            }
        }
        Value::Object(layers)
    }
}

fn name_of(steps: &[VertexId], id: VertexId) -> String {
    let place = steps.binary_search(&id).unwrap_or(usize::MAX);
    format!("step{place}")
}

/// Whether it asks nobody outside of the graph.
fn is_hermetic(vertex: &Vertex) -> bool {
    match &vertex.op {
        Op::Exec(exec) => exec.network == NetworkMode::None,
        _ => true,
    }
}

/// Secrets and agents that steps ask for, by their ids.
fn handed(vertices: &[&Vertex]) -> (Value, Value) {
    let (mut secrets, mut agents) = (BTreeMap::new(), BTreeMap::new());
    let mut note = |of_agent: bool, id: &str, required: bool| {
        let known = if of_agent { &mut agents } else { &mut secrets };
        *known.entry(id.to_owned()).or_insert(false) |= required;
    };
    for vertex in vertices {
        let Op::Exec(exec) = &vertex.op else { continue };
        for mount in &exec.mounts {
            match &mount.kind {
                MountKind::Secret { id, required, .. } => note(false, id, *required),
                MountKind::Ssh { id, required, .. } => note(true, id, *required),
                _ => {}
            }
        }
        for secret in &exec.secret_env {
            note(false, &secret.id, secret.required);
        }
    }
    let list = |known: BTreeMap<String, bool>| {
        let entry = |(id, required): (String, bool)| match required {
            true => json!({"id": id}),
            false => json!({"id": id, "optional": true}),
        };
        Value::Array(known.into_iter().map(entry).collect())
    };
    (list(secrets), list(agents))
}

/// What a source is, by its address and digest.
fn dependency(op: &Op) -> Option<Value> {
    match op {
        Op::Image(image) => Some(json!({
            "uri": image_uri(image),
            "digest": {"sha256": image.manifest.hex()},
        })),
        Op::Http(HttpOp { url, digest, .. }) => Some(json!({
            "uri": masked(url),
            "digest": {"sha256": digest.hex()},
        })),
        Op::Git(GitOp {
            remote,
            reference,
            commit,
            ..
        }) => {
            let remote = masked(remote);
            let uri = match reference.as_str() {
                "" => remote.into_owned(),
                reference => format!("{remote}#{reference}"),
            };
            let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
            Some(json!({"uri": uri, "digest": {algorithm: commit}}))
        }
        Op::Local(_) | Op::Exec(_) | Op::Copy(_) | Op::Mkdir(_) => None,
    }
}

/// The package URL of a base image. Of a layout only its name is told: where it lies is the machine's own.
fn image_uri(image: &ImageOp) -> String {
    let platform = part(&image.platform.to_string());
    if let Some(layout) = image.reference.strip_prefix(LAYOUT) {
        let name = layout_name(layout);
        let name = name.split([':', '@']).next().unwrap_or_default();
        return format!("pkg:oci/{}@{}?platform={platform}", part(name), image.manifest);
    }
    match Reference::parse(&image.reference) {
        Ok(name) => match (name.tag(), name.digest()) {
            (tag, Some(digest)) => {
                let tag = tag.map(|tag| format!("tag={}&", part(tag))).unwrap_or_default();
                format!(
                    "pkg:docker/{}@{digest}?{tag}platform={platform}",
                    path(&name.familiar_name())
                )
            }
            (tag, None) => {
                let tag = part(tag.unwrap_or("latest"));
                format!(
                    "pkg:docker/{}@{tag}?platform={platform}",
                    path(&name.familiar_name())
                )
            }
        },
        Err(_) => format!("pkg:docker/{}?platform={platform}", part(&image.reference)),
    }
}

fn layout_name(layout: &str) -> &str {
    layout.rsplit('/').next().unwrap_or_default()
}

/// An operation as data, without what is the machine's own and without secrets.
fn operation(vertex: &Vertex, masks: &Masks<'_>) -> Value {
    let mut op = serde_json::to_value(&vertex.op).unwrap_or_default();
    match &vertex.op {
        Op::Exec(_) => {
            if let Some(fields) = op.as_object_mut() {
                fields.remove("proxy_env");
            }
            for mount in op["mounts"].as_array_mut().into_iter().flatten() {
                if let Some(kind) = mount["kind"].as_object_mut()
                    && kind.get("type").is_some_and(|kind| kind == "volume")
                {
                    kind.remove("path");
                }
            }
            for variable in op["env"].as_array_mut().into_iter().flatten() {
                let name = variable
                    .as_str()
                    .and_then(|text| text.split_once('='))
                    .map(|(name, _)| name);
                if let Some(name) = name.filter(|name| is_sensitive(name)) {
                    *variable = format!("{name}={MASK}").into();
                }
            }
        }
        Op::Image(image) => {
            if let Some(layout) = image.reference.strip_prefix(LAYOUT) {
                op["reference"] = format!("{LAYOUT}{}", layout_name(layout)).into();
            }
        }
        _ => {}
    }
    masks.value(&mut op);
    op
}

/// What must not be told: credentials in addresses, and values of arguments that are called secrets.
struct Masks<'a>(Vec<&'a str>);

impl<'a> Masks<'a> {
    fn of(parameters: &'a BTreeMap<String, String>) -> Self {
        let secret = |(name, value): (&'a String, &'a String)| {
            let name = name.strip_prefix("build-arg:")?;
            (is_sensitive(name) && value.len() >= TELLING).then_some(value.as_str())
        };
        Self(parameters.iter().filter_map(secret).collect())
    }

    fn text(&self, text: &str) -> String {
        let mut text = masked(text).into_owned();
        for secret in &self.0 {
            text = text.replace(secret, MASK);
        }
        text
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.value(value)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
