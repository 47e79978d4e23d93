//! `rbuild buildx imagetools`: indexes at registries, without a way through names of the store.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::attested::{Said, is_asked_for};
use super::context::print;
use super::deferred::Deferred;
use super::members::{Members, annotation};
use super::template::Template;
use super::{Context, inspect};
use crate::exporter::list::List;
use crate::exporter::whole::Whole;
use crate::graph::Platform;
use crate::registry::document::CONFIG_LIMIT;
use crate::registry::{Document, Reference, Registry};

/// `rbuild buildx imagetools ...`.
#[derive(Debug, clap::Subcommand)]
pub enum ImagetoolsCommand {
    /// Make an index of images of registries, and push it
    Create(Deferred<CreateArgs>),
    /// Show what a registry has under a name
    Inspect(Deferred<InspectArgs>),
}

/// `rbuild buildx imagetools create -t NAME SOURCE...`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Also keep what is under the name already
    #[arg(long)]
    append: bool,
    /// Annotation of the index
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,
    /// Show the index instead of pushing it
    #[arg(long)]
    dry_run: bool,
    /// Read names of sources, or descriptors as JSON, from a file
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Where the index goes, may be repeated
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Images and indexes of registries
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
}

/// `rbuild buildx imagetools inspect NAME`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Go template of .Name, .Manifest, .Image, .Provenance and .SBOM
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "raw")]
    format: Option<String>,
    /// Show the bytes as they are
    #[arg(long)]
    raw: bool,
    /// Name of an image
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs the command.
pub fn run(command: ImagetoolsCommand, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        ImagetoolsCommand::Create(Deferred(args)) => create(&args, context)?,
        ImagetoolsCommand::Inspect(Deferred(args)) => show(&args, context)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: &CreateArgs, context: &Context) -> anyhow::Result<()> {
    let names = args.tags.iter().map(|tag| Reference::parse(tag));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    ensure!(
        args.dry_run || !names.is_empty(),
        "can't push without tags: name one by --tag, or show the index by --dry-run"
    );
    let mut sources = args.sources.clone();
    for file in &args.file {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            ensure!(
                !line.starts_with('{'),
                "{}: descriptors are not supported, write NAME@DIGEST",
                file.display()
            );
            sources.push(line.to_owned());
        }
    }
    let store = context.store()?;
    let members = Members::of(context, &store, false, &[])?;
    let mut list = List::default();
    if args.append {
        let Some(first) = names.first() else {
            bail!("--append needs the name by --tag");
        };
        members
            .registered(&first.to_string(), true)?
            .into_iter()
            .for_each(|entry| list.add(entry));
    }
    ensure!(!sources.is_empty() || args.append, "no sources specified");
    for source in &sources {
        members
            .registered(source, true)?
            .into_iter()
            .for_each(|entry| list.add(entry));
    }
    list.annotate_index(&args.annotation);
    if args.dry_run {
        let json: Value = serde_json::from_slice(&list.bytes()?)?;
        return print(inspect::indented(&json)?);
    }
    let descriptor = list.put(&store)?;
    let whole = Whole::read(&store, &descriptor)?;
    let registry = context.registry();
    context.source(&store, &registry);
    let encoding = context.config.encoding();
    for name in &names {
        let sent = whole.push(&registry, &store, name, &encoding, &|_| {})?;
        print(format!("{}@{}\n", name.name(), sent.digest))?;
    }
    Ok(())
}

fn show(args: &InspectArgs, context: &Context) -> anyhow::Result<()> {
    let template = args.format.as_deref().map(Template::parse).transpose()?;
    let name = Reference::parse(&args.name)?;
    let registry = context.registry();
    let document = registry.manifest(&name)?;
    if args.raw {
        return print(&document.bytes);
    }
    let json: Value = serde_json::from_slice(&document.bytes)?;
    if let Some(template) = template {
        let mut manifest = json.clone();
        manifest["digest"] = document.descriptor.digest.to_string().into();
        manifest["size"] = document.descriptor.size.into();
        let mut data = json!({"Name": name.to_string(), "Manifest": manifest});
        let said = args.format.as_deref().is_some_and(is_asked_for);
        image(&registry, &name, &document, said, &mut data)?;
        return print(template.render(&data)? + "\n");
    }
    let mut out = format!(
        "Name:      {name}\nMediaType: {}\nDigest:    {}\n",
        document.descriptor.media_type, document.descriptor.digest
    );
    if let Some(entries) = json["manifests"].as_array() {
        out.push_str("\nManifests:\n");
        for entry in entries {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let part = |field: &str| text(&entry["platform"][field]);
            out.push_str(&format!(
                "  Name:      {}@{}\n  MediaType: {}\n",
                name.name(),
                text(&entry["digest"]),
                text(&entry["mediaType"])
            ));
            if entry["platform"].is_object() {
                let variant = match part("variant") {
                    empty if empty.is_empty() => empty,
                    variant => format!("/{variant}"),
                };
                out.push_str(&format!(
                    "  Platform:  {}/{}{variant}\n",
                    part("os"),
                    part("architecture")
                ));
            }
            let annotations = entry["annotations"].as_object().into_iter().flatten();
            for (number, (key, value)) in annotations.enumerate() {
                if number == 0 {
                    out.push_str("  Annotations:\n");
                }
                out.push_str(&format!("    {key}: {}\n", text(value)));
            }
            out.push('\n');
        }
    }
    let referrers = registry.referrers(&name, &document.descriptor.digest)?;
    if !referrers.is_empty() {
        out.push_str("\nReferrers:\n");
    }
    for referrer in referrers {
        out.push_str(&format!(
            "  Name:         {}@{}\n  ArtifactType: {}\n",
            name.name(),
            referrer.descriptor.digest,
            referrer.artifact_type
        ));
        for (number, (key, value)) in referrer.annotations.iter().enumerate() {
            if number == 0 {
                out.push_str("  Annotations:\n");
            }
            out.push_str(&format!("    {key}: {value}\n"));
        }
        out.push('\n');
    }
    print(out)
}

/// The config of the image for this machine, if there is one, and with `said` what is attested of it.
fn image(
    registry: &Registry,
    name: &Reference,
    document: &Document,
    said: bool,
    data: &mut Value,
) -> anyhow::Result<()> {
    let Ok(resolved) = registry.resolve_document(name, document.clone(), &Platform::host()) else {
        for field in ["Image", "Provenance", "SBOM"] {
            data[field] = Value::Null;
        }
        return Ok(());
    };
    let manifest = resolved.manifest.manifest(&name.to_string())?;
    let config = registry.small_blob(name, &manifest.config, CONFIG_LIMIT)?;
    data["Image"] = serde_json::from_slice(&config)?;
    if !said {
        return Ok(());
    }
    let index = resolved.index.as_ref().map(|index| index.bytes.as_slice());
    let said = Said::pushed(registry, name, &resolved.manifest.descriptor.digest, index)?;
    if let Some(fields) = data.as_object_mut() {
        said.write(fields);
    }
    Ok(())
}
