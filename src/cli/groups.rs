//! Docker's other names for the same commands: `image ls`, `builder prune`, `buildx build`.

use super::deferred::Deferred;
use super::{
    Command, build, du, history, image_prune, images, imagetools, import, inspect, load, prune, pull, push,
    rmi, save, tag,
};

/// A group of commands.
#[derive(Debug, clap::Subcommand)]
pub enum Group {
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage the build cache
    #[command(subcommand)]
    Builder(BuilderCommand),
    /// Docker's other names of builds
    #[command(subcommand)]
    Buildx(BuildxCommand),
}

/// `rbuild image ...`: docker's other names for the same commands.
#[derive(Debug, clap::Subcommand)]
pub enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(Deferred<images::ImagesArgs>),
    /// Show the steps that an image was made by
    History(Deferred<history::HistoryArgs>),
    /// Create an image from the tar of a root file system
    Import(Deferred<import::ImportArgs>),
    /// Show all that is known about images, as JSON
    Inspect(Deferred<inspect::InspectArgs>),
    /// Load images from an archive
    Load(Deferred<load::LoadArgs>),
    /// Remove images without a name
    Prune(Deferred<image_prune::ImagePruneArgs>),
    /// Fetch an image from its registry
    Pull(Deferred<pull::PullArgs>),
    /// Send an image to its registry
    Push(Deferred<push::PushArgs>),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(Deferred<rmi::RmiArgs>),
    /// Write images to an archive
    Save(Deferred<save::SaveArgs>),
    /// Give an image another name
    Tag(Deferred<tag::TagArgs>),
    /// Build an image from a Dockerfile
    Build(Deferred<Box<build::BuildArgs>>),
}

/// `rbuild builder ...`.
#[derive(Debug, clap::Subcommand)]
pub enum BuilderCommand {
    /// Build an image from a Dockerfile
    Build(Deferred<Box<build::BuildArgs>>),
    /// Show what takes the space of the store
    Du(Deferred<du::DuArgs>),
    /// Remove build cache
    Prune(Deferred<prune::PruneArgs>),
}

/// `rbuild buildx ...`.
#[derive(Debug, clap::Subcommand)]
pub enum BuildxCommand {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b")]
    Build(Deferred<Box<build::BuildArgs>>),
    /// Show what takes the space of the store
    Du(Deferred<du::DuArgs>),
    /// Show and make indexes at registries
    #[command(subcommand)]
    Imagetools(imagetools::ImagetoolsCommand),
    /// Remove build cache
    Prune(Deferred<prune::PruneArgs>),
}

impl Group {
    /// The command that is meant.
    pub(super) fn command(self) -> Command {
        use {BuilderCommand as Builder, BuildxCommand as Buildx, ImageCommand as Image};
        match self {
            Self::Image(Image::Build(args))
            | Self::Builder(Builder::Build(args))
            | Self::Buildx(Buildx::Build(args)) => Command::Build(args),
            Self::Builder(Builder::Du(args)) | Self::Buildx(Buildx::Du(args)) => Command::Du(args),
            Self::Builder(Builder::Prune(args)) | Self::Buildx(Buildx::Prune(args)) => Command::Prune(args),
            Self::Buildx(Buildx::Imagetools(command)) => Command::Imagetools(command),
            Self::Image(Image::History(args)) => Command::History(args),
            Self::Image(Image::Import(args)) => Command::Import(args),
            Self::Image(Image::Inspect(args)) => Command::Inspect(args),
            Self::Image(Image::Load(args)) => Command::Load(args),
            Self::Image(Image::Ls(args)) => Command::Images(args),
            Self::Image(Image::Prune(args)) => Command::ImagePrune(args),
            Self::Image(Image::Pull(args)) => Command::Pull(args),
            Self::Image(Image::Push(args)) => Command::Push(args),
            Self::Image(Image::Rm(args)) => Command::Rmi(args),
            Self::Image(Image::Save(args)) => Command::Save(args),
            Self::Image(Image::Tag(args)) => Command::Tag(args),
        }
    }
}
