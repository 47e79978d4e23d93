//! The image's config (spec 5.1) and its history (5.2).
//!
//! The written JSON is a pure function of the draft, the layers and the times it is given: keys in a fixed order, maps
//! sorted. Of a base image's config everything in the OCI specification and docker's extensions of it is kept; what
//! old daemons left there besides (`container`, `Hostname`) is not.

use std::collections::BTreeMap;

use rbuild_cache::{DiffId, Digest};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::graph::{ImageOp, Platform, VertexId};

/// A time as seconds and nanoseconds since 1970-01-01 UTC.
pub use rbuild_cache::layer::Timestamp as BuildTime;

/// What the entries of a Dockerfile carry as their comment; other tools look for it.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// PATH of an image whose base has none (spec X14).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A layer that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedLayer {
    /// Digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// When it was made.
    pub created: BuildTime,
}

/// `{}`: the value of the members of ExposedPorts and Volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

/// Nanoseconds and counts of a HEALTHCHECK; 0 means inherited or default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// `["CMD", argv..]`, `["CMD-SHELL", text]` or `["NONE"]`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Of one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Failures in it do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The member `config` of an image config: what a container starts with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// USER.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// EXPOSE: `80/tcp`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// ENV: `K=V` in the order of first definition.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// ENTRYPOINT.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// CMD.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// VOLUME.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// WORKDIR.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// LABEL.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// STOPSIGNAL.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Set by CMD (spec C5).
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// HEALTHCHECK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// ONBUILD.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// SHELL.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

impl ImageConfig {
    /// Sets a variable: in its place when it is there, else at the end (spec E2).
    pub fn set_env(&mut self, key: &str, value: &str) {
        let new = format!("{key}={value}");
        match self.env.iter_mut().find(|entry| env_key(entry) == key) {
            Some(entry) => *entry = new,
            None => self.env.push(new),
        }
    }

    /// The shell of shell forms.
    pub fn shell_or_default(&self) -> Vec<String> {
        if self.shell.is_empty() {
            vec!["/bin/sh".to_owned(), "-c".to_owned()]
        } else {
            self.shell.clone()
        }
    }
}

/// The name of a `K=V`.
pub(super) fn env_key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

/// A whole image config, keys in the order in which they are written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFile {
    /// Architecture by its Go name.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// MAINTAINER.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// What a container starts with.
    #[serde(deserialize_with = "or_default")]
    pub config: ImageConfig,
    /// When the last layer was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How it was made; entries of base images verbatim.
    #[serde(deserialize_with = "or_default")]
    pub history: Vec<Value>,
    /// Operating system.
    #[serde(deserialize_with = "or_default")]
    pub os: String,
    /// Windows only.
    #[serde(
        rename = "os.features",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// Windows only.
    #[serde(
        rename = "os.version",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// The layers.
    #[serde(deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// Variant of the architecture.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// The member `rootfs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

impl ImageFile {
    /// Reads a config as it is stored.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The config as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps have text keys and there is no custom serialisation: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Os, architecture and variant, normalised.
    pub fn platform(&self) -> Platform {
        Platform::normalised(&self.os, &self.architecture, &self.variant)
    }

    /// Says for which platform the image is (spec 5.1, os to os.features).
    fn set_platform(&mut self, platform: &Platform) {
        let same = self.os == platform.os && self.architecture == platform.architecture;
        if !same {
            self.os_version.clear();
            self.os_features.clear();
        }
        self.os.clone_from(&platform.os);
        self.architecture.clone_from(&platform.architecture);
        if !same || !platform.variant.is_empty() {
            self.variant.clone_from(&platform.variant);
        }
        self.normalise_platform();
    }

    fn normalise_platform(&mut self) {
        if !self.os.is_empty() && !self.architecture.is_empty() {
            let platform = self.platform();
            (self.os, self.architecture, self.variant) =
                (platform.os, platform.architecture, platform.variant);
        }
    }
}

/// An entry of the history that this build adds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    created_by: String,
    has_layer: bool,
}

/// An image before its layers are known.
#[derive(Debug, Clone)]
pub struct ImageDraft {
    file: ImageFile,
    steps: Vec<Step>,
    /// One for each step that has a layer.
    layers: Vec<VertexId>,
}

impl ImageDraft {
    /// The image of `FROM scratch` (spec F5).
    pub(super) fn scratch(platform: &Platform) -> Self {
        let mut file = ImageFile::default();
        file.set_platform(platform);
        file.config.set_env("PATH", DEFAULT_PATH);
        "/".clone_into(&mut file.config.working_dir);
        Self::from_file(file)
    }

    /// What `FROM` an image begins with (spec F11): all of its config but the time and the triggers, which have
    /// fired. Its layers are those of `op`, and
    /// its history is made to fit them when it does not.
    pub(super) fn from_base(mut file: ImageFile, op: &ImageOp) -> Self {
        file.rootfs = RootFs {
            diff_ids: op.layers.iter().map(|layer| layer.diff_id.0).collect(),
            ..RootFs::default()
        };
        fit_history(&mut file.history, op.layers.len(), file.created.take());
        if !file.config.env.iter().any(|entry| env_key(entry) == "PATH") && file.os != "windows" {
            file.config.set_env("PATH", DEFAULT_PATH);
        }
        file.config.on_build.clear();
        Self::from_file(file)
    }

    /// A draft that goes on with a finished config, for changes to it.
    pub(super) fn from_file(file: ImageFile) -> Self {
        Self {
            file,
            steps: Vec::new(),
            layers: Vec::new(),
        }
    }

    pub(super) fn into_file(self) -> ImageFile {
        self.file
    }

    /// What a container starts with.
    pub fn config(&self) -> &ImageConfig {
        &self.file.config
    }

    pub(super) fn config_mut(&mut self) -> &mut ImageConfig {
        &mut self.file.config
    }

    pub(super) fn set_author(&mut self, author: &str) {
        author.clone_into(&mut self.file.author);
    }

    pub(super) fn set_platform(&mut self, platform: &Platform) {
        self.file.set_platform(platform);
    }

    pub(super) fn normalise_platform(&mut self) {
        self.file.normalise_platform();
    }

    /// Adds an entry to the history; `layer` is the vertex that made its layer.
    pub(super) fn record(&mut self, created_by: String, layer: Option<VertexId>) {
        self.steps.push(Step {
            created_by,
            has_layer: layer.is_some(),
        });
        self.layers.extend(layer);
    }

    /// The vertices whose layers lie on the base image, lowest first: what [`ImageDraft::finish`] wants to be told about.
    pub fn layers(&self) -> &[VertexId] {
        &self.layers
    }

    /// Texts of the entries that this build adds to the history, and whether each has a layer.
    pub fn history(&self) -> impl Iterator<Item = (&str, bool)> {
        self.steps
            .iter()
            .map(|step| (step.created_by.as_str(), step.has_layer))
    }

    /// Platform of the image.
    pub fn platform(&self) -> Platform {
        self.file.platform()
    }

    /// The config's bytes. `layers` has one entry for each of [`ImageDraft::layers`]; the base's diff ids are known
    /// already. All times of this build are `source_date_epoch` when that is given (spec T7); `now` is used where no
    /// layer says a time.
    pub fn finish(
        &self,
        layers: &[FinishedLayer],
        source_date_epoch: Option<i64>,
        now: BuildTime,
    ) -> Vec<u8> {
        let mut file = self.file.clone();
        let time = |time: BuildTime| match source_date_epoch {
            Some(seconds) => rfc3339(BuildTime {
                seconds,
                nanoseconds: 0,
            }),
            None => rfc3339(time),
        };
        file.rootfs
            .diff_ids
            .extend(layers.iter().map(|layer| layer.diff_id.0));

        // An entry without a layer has the time of the layer before it; those before the first layer have its time.
        // A build that adds no layer has the base's time: nothing of it depends on when it ran.
        let mut current = match layers.first() {
            Some(layer) => time(layer.created),
            None => match (last_created(&file.history), source_date_epoch) {
                (Some(last), None) => last.to_owned(),
                _ => time(now),
            },
        };
        let mut rest = layers.iter();
        for step in &self.steps {
            let layer = if step.has_layer { rest.next() } else { None };
            if let Some(layer) = layer {
                current = time(layer.created);
            }
            let mut entry = serde_json::Map::new();
            entry.insert("created".to_owned(), current.clone().into());
            entry.insert("created_by".to_owned(), step.created_by.clone().into());
            entry.insert("comment".to_owned(), HISTORY_COMMENT.into());
            if layer.is_none() {
                entry.insert("empty_layer".to_owned(), true.into());
            }
            file.history.push(Value::Object(entry));
        }
        file.created = Some(match (last_created(&file.history), source_date_epoch) {
            (Some(last), Some(epoch)) => earlier(last, epoch),
            (Some(last), None) => last.to_owned(),
            (None, _) => time(now),
        });
        file.to_json()
    }
}

/// The time of the last entry that has one.
fn last_created(history: &[Value]) -> Option<&str> {
    history
        .iter()
        .rev()
        .find_map(|entry| entry.get("created")?.as_str())
}

/// Makes as many entries have a layer as there are layers: other builders leave entries out or mark them wrongly, and
/// a reader pairs entries with layers by counting.
fn fit_history(history: &mut Vec<Value>, layers: usize, created: Option<String>) {
    let has_layer = |entry: &Value| !entry.get("empty_layer").and_then(Value::as_bool).unwrap_or(false);
    history.retain(Value::is_object);
    let mut surplus = history
        .iter()
        .filter(|entry| has_layer(entry))
        .count()
        .saturating_sub(layers);
    for entry in history.iter_mut().rev() {
        if surplus > 0 && has_layer(entry) {
            entry["empty_layer"] = true.into();
            surplus -= 1;
        }
    }
    for _ in history.iter().filter(|entry| has_layer(entry)).count()..layers {
        let mut entry = serde_json::Map::new();
        if let Some(created) = &created {
            entry.insert("created".to_owned(), created.clone().into());
        }
        entry.insert(
            "comment".to_owned(),
            "layer of the base image, without history".into(),
        );
        history.push(Value::Object(entry));
    }
}

/// `text`, or the time `epoch` when that is earlier.
fn earlier(text: &str, epoch: i64) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) if time.as_second() < epoch => text.to_owned(),
        _ => rfc3339(BuildTime {
            seconds: epoch,
            nanoseconds: 0,
        }),
    }
}

/// RFC 3339 with as many digits as are needed; a time beyond the year 9999 or before -9999 becomes 1970.
fn rfc3339(time: BuildTime) -> String {
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or_default();
    jiff::Timestamp::new(time.seconds, nanoseconds)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// `null`, which Go writes for empty slices and maps, is the default.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}
