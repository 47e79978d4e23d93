//! What every command shares: where the store is, which registries may be spoken to without TLS, and how
//! results are printed.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use rbuild_cache::Store;
use rbuild_cache::layer::Growth;

use super::config::Config;
pub use crate::exporter::archive::StdoutClosed as Closed;
use crate::registry::Registry;
use crate::source::image::{ImageSource, PullPolicy};

/// The global flags.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--insecure-registry`, `HOST[:PORT]`.
    pub insecure: Vec<String>,
    /// `--max-unpacked-size`.
    pub max_unpacked: Option<u64>,
    /// The configuration file.
    pub config: Config,
}

impl Context {
    /// Where the store lies: `--root`, else `$XDG_DATA_HOME/rbuild`, else `~/.local/share/rbuild`.
    pub fn store_path(&self) -> anyhow::Result<PathBuf> {
        if let Some(root) = &self.root {
            return Ok(root.clone());
        }
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let data =
            absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        let data =
            data.context("finding the store: neither XDG_DATA_HOME nor HOME is set; give --root DIR")?;
        Ok(data.join("rbuild"))
    }

    /// The store, created when it is missing.
    pub fn store(&self) -> anyhow::Result<Store> {
        let store = Store::open(&self.store_path()?)?;
        if let Some(most) = self.max_unpacked {
            store.set_growth(Growth::at_most(most));
        }
        store.set_waiting(note);
        Ok(store)
    }

    /// A registry client; nothing is connected yet.
    pub fn registry(&self) -> Registry {
        Registry::new(self.config.registry_options(&self.insecure))
    }

    /// Images of `store` and of the registries that `registry` speaks to. From now on the store fetches layers that it
    /// knows and does not have.
    pub fn source(&self, store: &Store, registry: &Registry) -> Arc<ImageSource> {
        let source = Arc::new(ImageSource::new(
            store.clone(),
            registry.clone(),
            PullPolicy::default(),
        ));
        store.set_provider(Arc::new(source.origins().clone()));
        source
    }
}

/// Writes to standard output. A closed pipe is [`Closed`], which ends the program with success.
pub fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("writing to standard output"),
    }
}

/// Writes a line to standard error; a closed one is nobody's loss.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
