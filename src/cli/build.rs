//! `rbuild [build]`: the one flow from argv to an image.

mod announced;
pub mod args;
mod attesting;
mod caching;
mod call;
mod commit;
mod confinement;
pub mod dockerfile;
mod early;
mod engine;
pub mod explain;
mod export;
pub mod handed;
mod interrupt;
mod leaks;
pub mod lock;
mod locked;
mod lower;
mod metadata;
pub mod network;
pub mod options;
mod proxies;
mod received;
mod reception;
pub mod report;
mod request;
pub mod resources;
mod result_file;
mod solve;
mod space;
mod transfers;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;

use super::Context;
use crate::error::BuildError;
use crate::exporter::{BuiltImage, ExportContext, Exported};
use crate::frontend::Warning;
use crate::progress::{Event, Mode, Renderer, Sink, Tail, renderer};
use crate::source::agent::Agents;
use crate::source::context::BuildContext;
use crate::source::ignore_file::IgnoreFile;
use crate::source::leak::Leaks;
use crate::source::secret::Secrets;

pub use args::BuildArgs;
use commit::Committed;
use interrupt::Interrupts;
use options::BuildOptions;
use received::Arrival;

/// Builds. Errors are printed here, because they belong to a Dockerfile that is at hand here.
pub fn run(args: BuildArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut options = BuildOptions::new(args)?;
    for output in options.outputs.iter_mut().filter(|output| output.leaves_store()) {
        context.config.complete(&mut output.encoding);
    }
    if options.call.method != call::Method::Build {
        return call::run(&options, context);
    }
    if let Some(file) = &options.iidfile {
        result_file::remove(file)?;
    }
    if let Some(file) = &options.metadata_file {
        result_file::remove(file)?;
    }
    let progress = progress(&options);
    let mut source = String::new();
    let build = Build::new(&options, context, &progress)?;
    let built = build.run(&mut source);
    // Who has come so far tells himself how it ended.
    build.interrupts.borrow_mut().pause();
    progress.finish();
    if options.progress != Mode::Quiet {
        report::summary(&build.warnings.borrow());
    }
    report::tell(&build.explanation.borrow());
    options.space.after(context, build.started);
    match built {
        Ok(exported) => {
            if let Some(file) = &options.iidfile {
                result_file::write(file, exported.image_id.to_string().as_bytes())?;
            }
            if let Some(file) = &options.metadata_file {
                result_file::write(file, &build.metadata(&exported)?)?;
            }
            if options.quiet && options.shows_id() {
                super::context::print(format!("{}\n", exported.image_id))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        // Whoever read the archive from standard output has seen enough.
        Err(error) if error.cause.is::<super::context::Closed>() => Ok(ExitCode::SUCCESS),
        Err(error) => {
            report::print(&error, &source, &progress);
            Ok(match interrupt::signal() {
                None => ExitCode::FAILURE,
                Some(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
            })
        }
    }
}

fn progress(options: &BuildOptions) -> Arc<Tail> {
    Arc::new(Tail::new(renderer(options.progress)))
}

struct Build<'a> {
    options: &'a BuildOptions,
    context: &'a Context,
    progress: &'a Arc<Tail>,
    /// What the frontend found doubtful, for the end.
    warnings: RefCell<Vec<Warning>>,
    interrupts: RefCell<Interrupts>,
    secrets: Secrets,
    agents: Arc<Agents>,
    leaks: Leaks,
    /// The context's ignore file, once somebody asked.
    ignore: OnceCell<Option<IgnoreFile>>,
    /// Context and Dockerfile from elsewhere, once somebody asked.
    arrival: OnceCell<Arrival>,
    /// What `--explain` has to say, for the end.
    explanation: RefCell<String>,
    /// What the caller asked for, for provenance.
    parameters: OnceCell<BTreeMap<String, String>>,
    /// The images, for the file that tells of them.
    made: RefCell<Vec<BuiltImage>>,
    started: SystemTime,
}

impl<'a> Build<'a> {
    fn new(options: &'a BuildOptions, context: &'a Context, progress: &'a Arc<Tail>) -> anyhow::Result<Self> {
        let mut interrupts = Interrupts::catch(progress, options.stop_grace).context("catching signals")?;
        interrupts.watch().context("catching signals")?;
        let secrets = Secrets::read(&options.secrets)?;
        let agents = Arc::new(Agents::find(&options.agents)?);
        Ok(Self {
            options,
            context,
            progress,
            warnings: RefCell::default(),
            interrupts: RefCell::new(interrupts),
            leaks: leaks::of(options.secret_scan, &secrets, &agents)?,
            secrets,
            agents,
            ignore: OnceCell::new(),
            arrival: OnceCell::new(),
            explanation: RefCell::default(),
            parameters: OnceCell::new(),
            made: RefCell::default(),
            started: SystemTime::now(),
        })
    }

    /// parse, lower, solve, commit, export. `source` receives the Dockerfile's text, for excerpts.
    fn run(&self, source: &mut String) -> Result<Exported, BuildError> {
        let dockerfile = self.parse(source)?;
        self.announce();
        let store = self.context.store()?;
        let progress = self.progress.clone();
        store.set_waiting(move |line| progress.emit(Event::Note(line.to_owned())));
        let registry = self.context.registry();
        let engine = self.engine(&registry)?;
        let images = self.images(&store, &registry);
        let remotes = self.remotes(&store, &registry)?;
        let early = self.early(&store)?;
        let lowered = self.lower(dockerfile, &images, &remotes, early.as_ref())?;
        let locals = self.locals(&lowered, &store, early.as_ref())?;
        let (solved, sandbox) = self.solve(&lowered, &store, &registry, &locals, &remotes)?;
        let committed = lowered
            .iter()
            .map(|lowered| commit::commit(lowered, solved.as_ref(), &store, self.clamp(lowered)))
            .collect::<Result<Vec<Committed>, BuildError>>()?;
        let epoch = lowered.first().and_then(|lowered| lowered.source_date_epoch);
        for Committed { image, .. } in &committed {
            leaks::refuse_in_config(&self.leaks, &image.config, self.progress.as_ref())?;
        }
        let images = self.attest(&store, &lowered, committed, source)?;
        let exported = self.export(
            &images,
            ExportContext {
                store: &store,
                registry: &registry,
                epoch,
                engine: engine.as_ref(),
            },
        )?;
        if let (Some(solved), Some(_)) = (&solved, &sandbox) {
            solved.seal(&store)?;
        }
        self.made.replace(images);
        locals.into_values().for_each(BuildContext::abandon);
        Ok(exported)
    }
}
