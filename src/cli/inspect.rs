//! `rbuild inspect`: what is known about images, with docker's fields.

use std::process::ExitCode;

use rbuild_cache::Store;
use serde_json::{Value, json};

use super::Context;
use super::attested::{Said, is_asked_for};
use super::context::{note, print};
use super::lookup::{Listed, Lookup};
use super::template::Template;
use crate::graph::Platform;

/// `rbuild inspect IMAGE...`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Format output with a Go template, for example '{{json .Config}}'; `json` prints one line per image
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Of an image of several platforms, which one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Kind of thing: only `image` exists here
    #[arg(long = "type", value_name = "TYPE", value_parser = ["image"], hide = true)]
    kind: Option<String>,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Fields of a config that docker always writes.
const CONFIG_FIELDS: [&str; 8] = [
    "User",
    "Env",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Entrypoint",
    "OnBuild",
    "Labels",
];
/// Those that it leaves out when they are empty, and that a template may name nevertheless.
const RARE_FIELDS: [&str; 5] = [
    "ExposedPorts",
    "Healthcheck",
    "StopSignal",
    "Shell",
    "ArgsEscaped",
];

/// Runs the command.
pub fn run(args: InspectArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let asks_for_more = template.is_some() && args.format.as_deref().is_some_and(is_asked_for);
    let store = context.store()?;
    let lookup = Lookup::new(&store);
    let mut values = Vec::new();
    let mut errors = Vec::new();
    for text in &args.images {
        match lookup.find_for(text, args.platform.as_ref()) {
            Ok(listed) => {
                let mut value = fields(&store, &listed);
                if asks_for_more && let Some(fields) = value.as_object_mut() {
                    let index = (listed.descriptor != listed.image.descriptor).then_some(&listed.descriptor);
                    Said::stored(&store, &listed.image.descriptor.digest, index)?.write(fields);
                }
                values.push(value);
            }
            Err(error) => errors.push(error),
        }
    }
    let mut out = String::new();
    match (&template, args.format.as_deref()) {
        (Some(template), _) => {
            for value in &mut values {
                // The field as docker's own type calls it.
                value["ID"] = value["Id"].clone();
                if let Some(config) = value["Config"].as_object_mut() {
                    for field in RARE_FIELDS {
                        config.entry(field).or_insert(Value::Null);
                    }
                }
                out.push_str(&template.render(value)?);
                out.push('\n');
            }
        }
        (None, Some("json")) => values
            .iter()
            .for_each(|value| out.push_str(&format!("{value}\n"))),
        _ => out = indented(&Value::Array(values))?,
    }
    print(out)?;
    for error in &errors {
        note(&format!("error: {error:#}"));
    }
    Ok(if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// JSON with docker's four blanks.
pub fn indented(value: &Value) -> anyhow::Result<String> {
    use serde::Serialize as _;

    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    out.push(b'\n');
    Ok(String::from_utf8(out)?)
}

fn fields(store: &Store, listed: &Listed) -> Value {
    let document = listed.config();
    let text = |field: &str| Value::from(document[field].as_str().unwrap_or_default());
    let mut config = json!({});
    for field in CONFIG_FIELDS {
        let empty = if matches!(field, "User" | "WorkingDir") {
            json!("")
        } else {
            Value::Null
        };
        config[field] = empty;
    }
    if let Some(given) = document["config"].as_object() {
        for (field, value) in given {
            config[field] = value.clone();
        }
    }
    let last = document["history"]
        .as_array()
        .and_then(|history| history.last()?["comment"].as_str());
    let diff_ids: Vec<String> = listed
        .image
        .facts
        .diff_ids
        .iter()
        .map(|id| id.to_string())
        .collect();
    let mut value = json!({
        "Id": listed.image.id(),
        "RepoTags": listed.repo_tags(),
        "RepoDigests": listed.repo_digests(),
        "Parent": "",
        "Comment": last.unwrap_or_default(),
        "Created": document["created"],
        "Author": text("author"),
        "Architecture": listed.image.facts.platform.architecture,
        "Variant": listed.image.facts.platform.variant,
        "Os": listed.image.facts.platform.os,
        "Size": listed.size(store),
        "GraphDriver": {"Data": null, "Name": "overlayfs"},
        "RootFS": {"Type": "layers", "Layers": diff_ids},
        "Metadata": {"LastTagTime": listed.tagged},
        "Descriptor": listed.descriptor,
        "Config": config,
    });
    if let (Value::Object(map), true) = (&mut value, listed.image.facts.platform.variant.is_empty()) {
        map.shift_remove("Variant");
    }
    value
}
