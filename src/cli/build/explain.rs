//! `--explain`, `rbuild plan`, and the record of a build that `rbuild why` reads.

use std::process::ExitCode;

use anyhow::bail;
use rbuild_cache::Store;
use serde_json::json;

use super::args::{BuildArgs, Metadata};
use super::call::Method;
use super::options::BuildOptions;
use super::received::ContextPlace;
use super::{Build, Context, progress, report};
use crate::cli::explained::{self, Format};
use crate::error::BuildError;
use crate::graph::VertexId;
use crate::graph::address::masked;
use crate::progress::{Event, Renderer as _, Sink as _};
use crate::solver::why::cause::Cause;
use crate::solver::why::{Asked, Ran, Reasons, Step, all_cached};
use crate::solver::{Inputs, Plan, run::Solved};

/// `rbuild plan`.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// How the plan is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
    #[command(flatten)]
    build: BuildArgs,
}

/// What a build would run and what is cached, without running anything.
pub fn plan(args: PlanArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let options = BuildOptions::new(args.build)?;
    if options.call.method != Method::Build {
        bail!("plan is about a build: leave out --check and --call");
    }
    let progress = progress(&options);
    let build = Build::new(&options, context, &progress)?;
    let mut source = String::new();
    let planned = build.planned(&mut source, args.format);
    progress.finish();
    match planned {
        Ok(text) => {
            crate::cli::context::print(text)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            report::print(&error, &source, &progress);
            Ok(ExitCode::FAILURE)
        }
    }
}

impl Build<'_> {
    /// What tells this build from others of the store.
    pub(super) fn asked(&self) -> anyhow::Result<Asked> {
        let options = self.options;
        let absolute = |path: &std::path::Path| {
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            path.to_string_lossy().into_owned()
        };
        let context = match &options.context {
            ContextPlace::Directory(path) => absolute(path),
            ContextPlace::Stdin => "-".to_owned(),
            // Another branch is another version of the same.
            ContextPlace::Remote(url) => {
                let (address, _) = url.split_once('#').unwrap_or((url, ""));
                masked(address).into_owned()
            }
        };
        let dockerfile = match self.dockerfile()?.path() {
            Some(path) => absolute(path),
            None => masked(options.file.as_deref().unwrap_or("Dockerfile")).into_owned(),
        };
        Ok(Asked {
            context,
            dockerfile,
            target: options.target().map(str::to_owned),
            platforms: options.platforms.iter().map(ToString::to_string).collect(),
            no_cache: options.caching.no_cache,
        })
    }

    /// Says before a build that tells of itself what is not said otherwise.
    pub(super) fn announce(&self) {
        let kind = match (&self.options.context, self.options.context_mode) {
            (ContextPlace::Directory(_), Metadata::Raw) => {
                "context: raw, all metadata of files count but times and owners (--context-mode=git: only whether they are executable)"
            }
            (ContextPlace::Directory(_), Metadata::Git) => {
                "context: git, of the metadata of files only counts whether they are executable"
            }
            _ => "context: received, as it was packed",
        };
        if self.options.caching.explain {
            self.progress.emit(Event::Note(kind.to_owned()));
        }
    }

    /// Runs the plan by `run`, and keeps what is known of it: for the next build, and for who asks why.
    pub(super) fn explained(
        &self,
        inputs: &Inputs<'_>,
        plan: &Plan,
        ran: &Ran<'_>,
        run: impl FnOnce() -> Result<Solved, BuildError>,
    ) -> Result<Solved, BuildError> {
        let asked = self.asked()?;
        let explains = self.options.caching.explain;
        if plan.is_complete() {
            let solved = run()?;
            self.told(all_cached(inputs, plan, &asked));
            if explains {
                self.explanation
                    .borrow_mut()
                    .push_str("\nAll steps were cached.\n");
            }
            return Ok(solved);
        }
        let dockerfile = asked.dockerfile.clone();
        let reasons = self.told(Reasons::new(inputs, plan, asked));
        let solved = run();
        let kept = reasons.map(|reasons| reasons.keep(inputs, plan, ran, solved.is_ok()));
        if let Some(record) = kept.and_then(|kept| self.told(kept))
            && explains
        {
            let steps = record.steps();
            self.explanation
                .borrow_mut()
                .push_str(&explanation(&steps, &dockerfile));
        }
        solved
    }

    /// What cannot be kept costs an answer, not the build.
    fn told<T>(&self, result: Result<T, BuildError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.progress.emit(Event::Warning {
                    message: format!("rbuild why will not know of this build: {error}"),
                    location: None,
                });
                None
            }
        }
    }

    fn planned(&self, source: &mut String, format: Format) -> Result<String, BuildError> {
        let dockerfile = self.parse(source)?;
        let store: Store = self.context.store()?;
        let registry = self.context.registry();
        let images = self.images(&store, &registry);
        let remotes = self.remotes(&store, &registry)?;
        let early = self.early(&store)?;
        let lowered = self.lower(dockerfile, &images, &remotes, early.as_ref())?;
        let locals = self.locals(&lowered, &store, early.as_ref())?;
        let asked = self.asked()?;
        let results: Vec<VertexId> = lowered.iter().filter_map(|lowered| lowered.result).collect();
        let (mut steps, mut fetched) = (Vec::new(), Vec::new());
        let reasons;
        if let (Some(first), false) = (lowered.first(), results.is_empty()) {
            let sink = self.progress.as_ref();
            let inputs = self.inputs(first, &results, &store, &locals, &remotes, sink);
            let plan = Plan::new(&inputs)?;
            for local in locals.values() {
                local.save().map_err(BuildError::new)?;
            }
            reasons = Reasons::new(&inputs, &plan, asked.clone())?;
            steps = reasons.steps();
            fetched = plan.fetches(&inputs);
        }
        Ok(match format {
            Format::Json => {
                let mut document = explained::asked(&asked);
                document["fetch"] = json!(fetched);
                document["steps"] = explained::steps(&steps, status).into();
                explained::document(&document)?
            }
            Format::Text => {
                let mut text = String::new();
                for name in fetched {
                    text.push_str(&format!("fetch  {name}\n"));
                }
                for step in &steps {
                    let status = step.cause.map_or("cached", status);
                    let lines = explained::lines(step, &asked.dockerfile);
                    text.push_str(&format!("{status:<6} {lines}"));
                }
                let count = |wanted: &str| {
                    let statuses = steps.iter().filter_map(|step| step.cause.map(status));
                    statuses.filter(|status| *status == wanted).count()
                };
                let (run, maybe) = (count(RUN), count(MAYBE));
                text.push_str(&format!("{run} of {} steps would run", steps.len()));
                if maybe > 0 {
                    text.push_str(&format!(
                        ", and {maybe} that build upon them unless their input comes out the same"
                    ));
                }
                text + "\n"
            }
        })
    }
}

/// A step that will run.
const RUN: &str = "run";
/// A step that will run unless what it builds upon comes out the same as it was.
const MAYBE: &str = "maybe";

/// What a step with this cause would do.
fn status(cause: &Cause) -> &'static str {
    match cause {
        Cause::Step { .. } => MAYBE,
        _ => RUN,
    }
}

/// Which steps ran, and why.
fn explanation(steps: &[Step<'_>], dockerfile: &str) -> String {
    let ran: Vec<&Step<'_>> = steps.iter().filter(|step| step.cause.is_some()).collect();
    let mut text = format!("\n{} of {} steps ran:\n", ran.len(), steps.len());
    for step in ran {
        text.push_str(&explained::lines(step, dockerfile));
    }
    text
}
