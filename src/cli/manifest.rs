//! `rbuild manifest`: lists of images of several platforms, put together by hand. A list is an index of the store, with a name as
//! any image.

mod shown;

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::{Descriptor, Digest, Store};

use super::Context;
use super::context::{note, print};
use super::deferred::Deferred;
use super::lookup::{self, LookupError};
use super::members::{self, Members, annotation};
use crate::exporter::list::{List, Notes};
use crate::exporter::whole::Whole;
use crate::registry::Reference;
use crate::registry::document::{DOCKER_LIST, OCI_INDEX};

/// `rbuild manifest ...`.
#[derive(Debug, clap::Subcommand)]
pub enum ManifestCommand {
    /// Make a manifest list
    Create(Deferred<CreateArgs>),
    /// Add an image to a manifest list
    Add(Deferred<AddArgs>),
    /// Say more of an image of a manifest list
    Annotate(Deferred<AnnotateArgs>),
    /// Show a manifest list, or the manifest of an image
    Inspect(Deferred<InspectArgs>),
    /// Push a manifest list and its images to a registry
    Push(Deferred<PushArgs>),
    /// Take an image out of a manifest list
    Remove(Deferred<RemoveArgs>),
    /// Remove manifest lists
    Rm(Deferred<RmArgs>),
    /// Say by the exit status whether there is a manifest list of this name
    Exists(Deferred<ExistsArgs>),
}

/// `rbuild manifest create LIST IMAGE...`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Add to a list that is there already
    #[arg(short, long)]
    amend: bool,
    /// Of images of several platforms take all, not only this machine's
    #[arg(long)]
    all: bool,
    /// Speak to the registries of these images without TLS
    #[arg(long)]
    insecure: bool,
    /// Annotation of the list
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Images of the store, by name or id, or else of their registries
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

/// `rbuild manifest add LIST IMAGE`.
#[derive(Debug, clap::Args)]
pub struct AddArgs {
    /// Of images of several platforms take all, not only this machine's
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    notes: NoteArgs,
    /// Speak to the registries of these images without TLS
    #[arg(long)]
    insecure: bool,
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Images of the store, by name or id, or else of their registries
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// What is said of an image of a list
#[derive(Debug, clap::Args)]
pub struct NoteArgs {
    /// Architecture
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Operating system
    #[arg(long, value_name = "OS")]
    os: Option<String>,
    /// What the operating system has to have
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    os_features: Vec<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION")]
    os_version: Option<String>,
    /// Variant of the architecture
    #[arg(long, value_name = "VARIANT")]
    variant: Option<String>,
    /// Annotation
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,
}

/// `rbuild manifest annotate LIST IMAGE`.
#[derive(Debug, clap::Args)]
pub struct AnnotateArgs {
    #[command(flatten)]
    notes: NoteArgs,
    /// The annotations are of the list, not of an image
    #[arg(long)]
    index: bool,
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Image of the list, by name, id or digest
    #[arg(value_name = "IMAGE", required_unless_present = "index")]
    image: Option<String>,
}

/// `rbuild manifest inspect [LIST] IMAGE`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Speak to the registry of the image without TLS
    #[arg(long)]
    insecure: bool,
    /// Show the manifests of all platforms, with descriptors and as they are stored
    #[arg(short, long)]
    verbose: bool,
    /// List or image; what the store does not have is asked of its registry
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// `rbuild manifest push LIST [DEST]`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Speak to the registry without TLS
    #[arg(long)]
    insecure: bool,
    /// Remove the list afterwards
    #[arg(short, long, visible_alias = "rm")]
    purge: bool,
    /// Accepted for buildah's sake: the images are always pushed with their list
    #[arg(long, hide = true)]
    all: bool,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Where to push it, if not to its own name
    #[arg(value_name = "DEST")]
    dest: Option<String>,
}

/// `rbuild manifest remove LIST DIGEST`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Images of the list, by name, id or digest
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// `rbuild manifest rm LIST...`.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// Names of lists
    #[arg(value_name = "LIST", required = true)]
    lists: Vec<String>,
}

/// `rbuild manifest exists LIST`.
#[derive(Debug, clap::Args)]
pub struct ExistsArgs {
    /// Name of a list
    #[arg(value_name = "LIST")]
    list: String,
}

/// Runs the command.
pub fn run(command: ManifestCommand, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    match command {
        ManifestCommand::Create(Deferred(args)) => create(&args, context, &store)?,
        ManifestCommand::Add(Deferred(args)) => add(args, context, &store)?,
        ManifestCommand::Annotate(Deferred(args)) => annotate(args, &store)?,
        ManifestCommand::Inspect(Deferred(args)) => shown::show(&args, context, &store)?,
        ManifestCommand::Push(Deferred(args)) => push(&args, context, &store)?,
        ManifestCommand::Remove(Deferred(args)) => {
            let (name, mut list) = named(&store, &args.list)?;
            for image in &args.images {
                let digest = digest_of(&store, image)?;
                ensure!(list.remove(&digest), "the list {} has no {image}", args.list);
            }
            keep(&store, &name, &list)?;
        }
        ManifestCommand::Rm(Deferred(args)) => return rm(&args, &store),
        ManifestCommand::Exists(Deferred(args)) => {
            return Ok(match named(&store, &args.list) {
                Ok(_) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: &CreateArgs, context: &Context, store: &Store) -> anyhow::Result<()> {
    let name = Reference::parse(&args.list)?;
    ensure!(
        name.digest().is_none(),
        "a list is named by a tag, not by a digest"
    );
    let mut list = match store.image(&name.to_string())? {
        None => List::default(),
        Some(known) if args.amend => List::read(store, &known)?,
        Some(_) => bail!(
            "refusing to amend an existing manifest list with no --amend flag: {} is there",
            name.familiar()
        ),
    };
    let members = Members::of(context, store, args.insecure, &args.images)?;
    for image in &args.images {
        members
            .find(image, args.all)?
            .into_iter()
            .for_each(|entry| list.add(entry));
    }
    list.annotate_index(&args.annotation);
    keep(store, &name, &list)?;
    print(format!("Created manifest list {name}\n"))
}

fn add(args: AddArgs, context: &Context, store: &Store) -> anyhow::Result<()> {
    let (name, mut list) = named(store, &args.list)?;
    let notes = args.notes.into();
    let members = Members::of(context, store, args.insecure, &args.images)?;
    for image in &args.images {
        for mut entry in members.find(image, args.all)? {
            Notes::write(&notes, &mut entry);
            list.add(entry);
        }
    }
    let kept = keep(store, &name, &list)?;
    print(format!("{}\n", kept.digest))
}

fn annotate(args: AnnotateArgs, store: &Store) -> anyhow::Result<()> {
    let (name, mut list) = named(store, &args.list)?;
    let notes: Notes = args.notes.into();
    if args.index {
        let of_image = Notes {
            annotations: Vec::new(),
            ..notes.clone()
        };
        ensure!(
            of_image == Notes::default(),
            "--index is about annotations of the list: a platform is one of an image"
        );
        list.annotate_index(&notes.annotations);
    }
    if let Some(image) = args.image.filter(|_| !args.index) {
        let digest = digest_of(store, &image)?;
        ensure!(
            list.annotate(&digest, &notes),
            "manifest for image {image} does not exist in {}",
            args.list
        );
    }
    keep(store, &name, &list)?;
    Ok(())
}

fn push(args: &PushArgs, context: &Context, store: &Store) -> anyhow::Result<()> {
    let (name, list) = named(store, &args.list)?;
    let dest = args.dest.as_deref().map(|dest| {
        // As buildah writes it.
        Reference::parse(dest.strip_prefix("docker://").unwrap_or(dest))
    });
    let dest = dest.transpose()?.unwrap_or_else(|| name.clone());
    ensure!(!list.entries().is_empty(), "the list {} has no images", args.list);
    let context = members::context_for(context, args.insecure, [&dest]);
    let registry = context.registry();
    context.source(store, &registry);
    let descriptor = store
        .image(&name.to_string())?
        .ok_or_else(|| LookupError::Missing(name.familiar()))?;
    let whole = Whole::read(store, &descriptor)?;
    if let Whole::Index(index) = &whole {
        ensure!(
            !index.partial,
            "the store does not have all images of {}: add them again",
            args.list
        );
    }
    let sent = whole.push(&registry, store, &dest, &context.config.encoding(), &|layer| {
        if !args.quiet {
            note(&format!("{}: Pushed", &layer.hex()[..12]));
        }
    })?;
    if args.purge {
        store.untag(&name.to_string())?;
    }
    if !args.quiet {
        print(format!("{}\n", sent.digest))?;
    }
    Ok(())
}

fn rm(args: &RmArgs, store: &Store) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for text in &args.lists {
        match named(store, text).and_then(|(name, _)| Ok(store.untag(&name.to_string())?)) {
            Ok(_) => {}
            Err(error) => {
                note(&format!("error: {error:#}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// The list of this name.
fn named(store: &Store, text: &str) -> anyhow::Result<(Reference, List)> {
    let name = Reference::parse(text)?;
    let known = store.image(&name.to_string())?;
    let known = known.with_context(|| format!("No such manifest: {}", name.familiar()))?;
    ensure!(
        [OCI_INDEX, DOCKER_LIST].contains(&known.media_type.as_str()),
        "{} is an image and no manifest list",
        name.familiar()
    );
    let list = List::read(store, &known)?;
    Ok((name, list))
}

/// Lets the name lead to the list as it is now. What it led to before is nobody's image.
fn keep(store: &Store, name: &Reference, list: &List) -> anyhow::Result<Descriptor> {
    let descriptor = list.put(store)?;
    let before = store.image(&name.to_string())?;
    store.tag(&name.to_string(), &descriptor)?;
    if let Some(before) = before.filter(|before| before.digest != descriptor.digest) {
        let nameless = |image: &rbuild_cache::StoredImage| {
            image.descriptor.digest == before.digest && image.name.is_none()
        };
        if store.images()?.iter().any(nameless) {
            store.remove_image(&before.digest)?;
        }
    }
    Ok(descriptor)
}

/// What the store has under a name or id.
fn descriptor_of(store: &Store, text: &str) -> anyhow::Result<Option<Descriptor>> {
    if let Ok(name) = Reference::parse(text)
        && let Some(known) = store.image(&name.to_string())?
    {
        return Ok(Some(known));
    }
    match lookup::find(store, text) {
        Ok(found) => Ok(Some(found.first().descriptor.clone())),
        Err(error) => match error.downcast_ref() {
            Some(LookupError::Missing(_)) => Ok(None),
            _ => Err(error),
        },
    }
}

/// The digest by which a list names an image.
fn digest_of(store: &Store, text: &str) -> anyhow::Result<Digest> {
    if let Ok(digest) = text.parse() {
        return Ok(digest);
    }
    if let Ok(name) = Reference::parse(text)
        && let Some(digest) = name.digest()
    {
        return Ok(*digest);
    }
    match descriptor_of(store, text)? {
        Some(_) => Ok(lookup::find(store, text)?.first().image.descriptor.digest),
        None => bail!("no such image: {text}; give its digest, as `manifest inspect` shows it"),
    }
}

impl From<NoteArgs> for Notes {
    fn from(args: NoteArgs) -> Self {
        Self {
            os: args.os,
            arch: args.arch,
            variant: args.variant,
            os_version: args.os_version,
            os_features: args.os_features,
            annotations: args.annotation,
        }
    }
}
