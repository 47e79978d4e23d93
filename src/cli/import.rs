//! `rbuild import`: a root file system becomes an image of one layer.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::{LayerBlob, MEDIA_TYPE_TAR, TarReader};
use rbuild_cache::{BlobWriter, DiffId, Store};
use serde_json::json;

use super::Context;
use super::context::print;
use crate::exporter::{BuiltImage, Encoding, image};
use crate::frontend::changes;
use crate::graph::{Address, Platform};
use crate::registry::fetched::Body;
use crate::registry::{FetchOptions, FetchRequest, Fetched, Reference, Registry};
use crate::source::compressed::decompressed;
use crate::source::http::basic;

/// `rbuild import FILE|URL|- [REPOSITORY[:TAG]]`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Apply a Dockerfile instruction to the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR ...
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Comment in the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Platform of the image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Tar of the root file system, a file or an address, plain or compressed by gzip, bzip2, xz or zstd; `-` for standard input
    #[arg(value_name = "FILE|URL|-")]
    file: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Runs the command.
pub fn run(args: ImportArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let name = args.name.as_deref().map(Reference::parse).transpose()?;
    ensure!(
        name.as_ref().is_none_or(|name| name.digest().is_none()),
        "cannot import digest reference"
    );
    let registry = context.registry();
    let input: Box<dyn Read> = match args.file.as_str() {
        "-" if io::stdin().is_terminal() => {
            bail!("standard input is a terminal: give a file or redirect one")
        }
        "-" => Box::new(io::stdin().lock()),
        url if url.starts_with("http://") || url.starts_with("https://") => {
            Box::new(fetched(url, &registry)?)
        }
        path => Box::new(File::open(path).with_context(|| format!("opening {path}"))?),
    };
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    // A wrong instruction is found before the tar is read.
    let config = config(&args, &platform)?;
    let store = context.store()?;
    let diff_id = store_tar(&store, input).with_context(|| format!("importing {}", place(&args.file)))?;
    let mut config: serde_json::Value = serde_json::from_slice(&config)?;
    config["rootfs"]["diff_ids"] = json!([diff_id]);
    let size = store.blob_size(&diff_id.0).context("the layer is gone")?;
    let blob = LayerBlob {
        media_type: MEDIA_TYPE_TAR.to_owned(),
        digest: diff_id.0,
        size,
    };
    let layer = store.register_layer(&blob, &diff_id, &[])?;
    let built = BuiltImage {
        config: serde_json::to_vec(&config)?,
        layers: vec![layer],
        platform,
        attested: Arc::default(),
    };
    let assembled = image::assemble(&store, &built, &Encoding::default(), None)?;
    image::put(&store, &built, &assembled)?;
    image::tag(&store, &assembled.descriptor, name.as_slice())?;
    print(format!("{}\n", assembled.config.digest))?;
    Ok(ExitCode::SUCCESS)
}

/// The file or address without credentials.
fn place(file: &str) -> String {
    Address::parse(file).map_or_else(|_| file.to_owned(), |address| address.url)
}

/// A file of a web server on its way; credentials in the address are for its server only.
fn fetched(url: &str, registry: &Registry) -> anyhow::Result<Body> {
    let address = Address::parse(url)?;
    let request = FetchRequest {
        authorization: address.user_info.as_deref().map(basic),
        url: address.url,
        ..FetchRequest::default()
    };
    match registry.fetch(request, &FetchOptions::default())? {
        Fetched::File(file) => Ok(file.body),
        Fetched::NotModified => bail!("the server says that {url} has not changed, but nobody has asked"),
    }
}

/// When an image that is made now is said to be made: by SOURCE_DATE_EPOCH, where it is set.
pub(super) fn created() -> anyhow::Result<String> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) if !text.is_empty() => {
            let invalid = || format!("invalid SOURCE_DATE_EPOCH {text:?}");
            jiff::Timestamp::from_second(text.parse().with_context(invalid)?).with_context(invalid)?
        }
        _ => jiff::Timestamp::now(),
    };
    Ok(time.to_string())
}

/// The image's config without its layer.
fn config(args: &ImportArgs, platform: &Platform) -> anyhow::Result<Vec<u8>> {
    let created = created()?;
    let comment = args
        .message
        .clone()
        .unwrap_or_else(|| format!("Imported from {}", place(&args.file)));
    let mut config = json!({
        "architecture": platform.architecture,
        "config": {},
        "created": created,
        "history": [{"created": created, "comment": comment}],
        "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    if !platform.variant.is_empty() {
        config["variant"] = platform.variant.as_str().into();
    }
    let mut config = serde_json::to_vec(&config)?;
    for change in &args.change {
        config = changes::apply(&config, change).map_err(|error| error.cause)?;
    }
    Ok(config)
}

/// Puts the decompressed tar into the store as it is, after the strict reader has seen all of it.
fn store_tar(store: &Store, input: Box<dyn Read>) -> anyhow::Result<DiffId> {
    let tee = Tee {
        reader: decompressed(input, store.growth())?,
        writer: store.blob_writer()?,
    };
    let mut tar = TarReader::archive(tee);
    let mut empty = true;
    while tar.next_entry()?.is_some() {
        empty = false;
    }
    let mut tee = tar.into_inner();
    io::copy(&mut tee, &mut io::sink())?;
    ensure!(!empty || tee.writer.written() > 0, "it is empty");
    let (digest, _) = tee.writer.commit(None)?;
    Ok(DiffId(digest))
}

/// Writes what is read.
struct Tee<R> {
    reader: R,
    writer: BlobWriter,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.writer.write_all(&buffer[..length])?;
        Ok(length)
    }
}
