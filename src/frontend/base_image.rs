//! Asks for the images that needed stages begin with or copy from, several at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::image::ImageFile;
use super::stage::{Base, CopyFrom, StageTable};
use super::{ImageMeta, MetaResolver};
use crate::error::BuildError;
use crate::graph::{Location, Platform};

/// How many images are asked for at the same time: enough to hide the latency of a registry.
const PARALLEL: usize = 8;

/// Answers that take longer come from a registry, and leave time for other things.
const AT_ONCE: Duration = Duration::from_millis(5);

/// An image that was found.
#[derive(Debug, Clone)]
pub(super) struct BaseImage {
    pub(super) meta: ImageMeta,
    pub(super) file: ImageFile,
}

/// The images by reference as written and platform.
#[derive(Debug, Default)]
pub(super) struct BaseImages(BTreeMap<(String, Platform), BaseImage>);

impl BaseImages {
    /// Finds those images of the needed stages that are not known yet. Calls `meanwhile` when that takes time; it is told when
    /// one was not found.
    pub(super) fn resolve(
        &mut self,
        table: &StageTable,
        needed: &[bool],
        target_platform: &Platform,
        resolver: &dyn MetaResolver,
        meanwhile: &dyn Fn(&AtomicBool),
    ) -> Result<(), BuildError> {
        let mut wanted: Vec<(String, Platform, Location)> = Vec::new();
        let mut want = |reference: &str, platform: &Platform, location: &Location| {
            let asked = wanted
                .iter()
                .any(|(known, on, _)| known == reference && on == platform);
            if !asked && self.get(reference, platform).is_none() {
                wanted.push((reference.to_owned(), platform.clone(), location.clone()));
            }
        };
        for (stage, _) in table.stages.iter().zip(needed).filter(|(_, needed)| **needed) {
            if let Base::Image(reference) = &stage.base {
                want(
                    reference,
                    stage.platform.as_ref().unwrap_or(target_platform),
                    &stage.location,
                );
            }
            for command in &stage.commands {
                for from in command.sources() {
                    if let CopyFrom::Image(reference) = from {
                        want(reference, target_platform, &command.location);
                    }
                }
            }
        }
        for some in wanted.chunks(PARALLEL) {
            let is_over = AtomicBool::new(false);
            let answers: Vec<Result<BaseImage, BuildError>> = std::thread::scope(|scope| {
                let (sender, answered) = channel();
                let threads: Vec<_> = some
                    .iter()
                    .map(|(reference, platform, _)| {
                        let (sender, is_over) = (sender.clone(), &is_over);
                        scope.spawn(move || {
                            let answer = find(resolver, reference, platform);
                            if answer.is_err() {
                                is_over.store(true, Ordering::Relaxed);
                            }
                            // Nobody waits for it when there is something else to do.
                            let _ = sender.send(());
                            answer
                        })
                    })
                    .collect();
                let began = Instant::now();
                let is_late = |_: &_| {
                    let left = AT_ONCE.saturating_sub(began.elapsed());
                    answered.recv_timeout(left).is_err()
                };
                if threads.iter().any(is_late) {
                    meanwhile(&is_over);
                }
                threads
                    .into_iter()
                    .map(|thread| {
                        thread.join().unwrap_or_else(|_| {
                            Err(BuildError::message("the search for a base image broke off"))
                        })
                    })
                    .collect()
            });
            for ((reference, platform, location), answer) in some.iter().zip(answers) {
                let image = answer
                    .map_err(|error| error.at(Some(location.clone())).hint(table.suggest(reference)))?;
                self.0.insert((reference.clone(), platform.clone()), image);
            }
        }
        Ok(())
    }

    /// The image, if it was asked for.
    pub(super) fn get(&self, reference: &str, platform: &Platform) -> Option<&BaseImage> {
        self.0.get(&(reference.to_owned(), platform.clone()))
    }
}

fn find(resolver: &dyn MetaResolver, reference: &str, platform: &Platform) -> Result<BaseImage, BuildError> {
    let meta = resolver.resolve_image(reference, platform).map_err(|cause| {
        let error = BuildError::from(cause);
        BuildError {
            cause: error.cause.context(reference.to_owned()),
            ..error
        }
    })?;
    let file = ImageFile::parse(&meta.config).map_err(|error| {
        BuildError::new(
            anyhow::Error::new(error).context(format!("{reference}: failed to parse image config")),
        )
    })?;
    Ok(BaseImage { meta, file })
}
