//! `rbuild commit`: what was changed in the root file system of an image becomes a layer of a new one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use rbuild_cache::layer::{Layer, Owners};
use rbuild_cache::{Digest, LayerId, Store};
use serde_json::{Value, json};

use super::context::print;
use super::import::created;
use super::lookup::{self, Listed};
use super::{Context, opened};
use crate::exporter::{BuiltImage, Encoding, image};
use crate::frontend::changes;
use crate::graph::Platform;
use crate::registry::Reference;

/// `rbuild commit --base IMAGE DIR [REPOSITORY[:TAG]]`.
#[derive(Debug, clap::Args)]
pub struct CommitArgs {
    #[command(flatten)]
    notes: Notes,
    /// The image whose root file system the directory was
    #[arg(long, value_name = "IMAGE", required = true)]
    base: String,
    /// Of an image of several platforms, which one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Directory with the changed root file system, as `rbuild export IMAGE | tar -xp` makes it. Files count as changed by type, contents, owner, mode and extended attributes, not by time. What an ordinary user cannot change
    /// stays as in the base: owners of his own files, devices
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Name of the new image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// What is said of the new image.
#[derive(Debug, Default, clap::Args)]
pub struct Notes {
    /// Author, for example "Jane Doe <jane@example.com>"
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// Apply a Dockerfile instruction to the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR ...
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Comment in the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

/// Runs the command.
pub fn run(args: CommitArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let name = parse_name(args.name.as_deref())?;
    let store = context.store()?;
    let base = lookup::find_for(&store, &args.base, args.platform.as_ref())?;
    let directory = args
        .directory
        .canonicalize()
        .with_context(|| format!("opening {}", args.directory.display()))?;
    ensure!(directory.is_dir(), "{} is not a directory", directory.display());
    // A wrong instruction is found before files are read.
    args.notes.config(&base, None, "")?;
    let owners = match rustix::process::geteuid().is_root() {
        true => Owners::Real,
        // As whom the user sees himself in his namespace.
        false => Owners::Unprivileged { uid: 0, gid: 0 },
    };
    let _scratch = opened::enter(&store)?;
    let opened = opened::open(context, &store, &[&base.image])?;
    let layer = store
        .commit_directory(base.image.layers(&store)?, &directory, owners)
        .with_context(|| format!("comparing {} with {}", directory.display(), args.base))?;
    drop(opened);
    let by = format!("rbuild commit {}", args.directory.display());
    let id = args
        .notes
        .put(&store, &base, layer.as_ref(), &by, name.as_slice())?;
    print(format!("{id}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The name of a new image.
pub(super) fn parse_name(name: Option<&str>) -> anyhow::Result<Option<Reference>> {
    let name = name.map(Reference::parse).transpose()?;
    ensure!(
        name.as_ref().is_none_or(|name| name.digest().is_none()),
        "an image is named by a tag, not by a digest"
    );
    Ok(name)
}

impl Notes {
    /// Puts an image into the store that is `base` and, if there is one, `layer` on top, under `names`; its id.
    pub(super) fn put(
        &self,
        store: &Store,
        base: &Listed,
        layer: Option<&LayerId>,
        by: &str,
        names: &[Reference],
    ) -> anyhow::Result<Digest> {
        let layer = layer.map(|id| store.layer(id)).transpose()?;
        let mut layers = base.image.layers(store)?;
        let config = self.config(base, layer.as_ref(), by)?;
        layers.extend(layer);
        let built = BuiltImage {
            config,
            layers: layers.iter().map(Layer::id).cloned().collect(),
            platform: base.image.facts.platform.clone(),
            attested: std::sync::Arc::default(),
        };
        let assembled = image::assemble(store, &built, &Encoding::default(), None)?;
        image::put(store, &built, &assembled)?;
        image::tag(store, &assembled.descriptor, names)?;
        Ok(assembled.config.digest)
    }

    /// The config of `base` with what is new.
    fn config(&self, base: &Listed, layer: Option<&Layer>, by: &str) -> anyhow::Result<Vec<u8>> {
        let mut config: Value = serde_json::from_slice(&base.image.config)
            .with_context(|| format!("reading the config of the image {}", base.image.id()))?;
        let created = created()?;
        let mut step = json!({"created": created, "created_by": by});
        if let Some(message) = &self.message {
            step["comment"] = message.as_str().into();
        }
        if let Some(author) = &self.author {
            step["author"] = author.as_str().into();
            config["author"] = author.as_str().into();
        }
        match layer {
            Some(layer) => append(&mut config["rootfs"]["diff_ids"], json!(layer.diff_id()?)),
            None => step["empty_layer"] = true.into(),
        }
        append(&mut config["history"], step);
        config["created"] = created.into();
        let mut config = serde_json::to_vec(&config)?;
        for change in &self.change {
            config = changes::apply(&config, change).map_err(|error| error.cause)?;
        }
        Ok(config)
    }
}

fn append(list: &mut Value, item: Value) {
    match list {
        Value::Array(list) => list.push(item),
        none => *none = Value::Array(vec![item]),
    }
}
