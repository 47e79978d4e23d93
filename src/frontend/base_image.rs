//! Asks for the images that needed stages begin with or copy from, several at a time.

use std::collections::BTreeMap;

use super::image::ImageFile;
use super::stage::{Base, CopyFrom, StageTable};
use super::{ImageMeta, MetaResolver};
use crate::error::BuildError;
use crate::graph::{Location, Platform};

/// How many images are asked for at the same time: enough to hide the latency of a registry.
const PARALLEL: usize = 8;

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
    /// Finds those images of the needed stages that are not known yet.
    pub(super) fn resolve(
        &mut self,
        table: &StageTable,
        needed: &[bool],
        target_platform: &Platform,
        resolver: &dyn MetaResolver,
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
            let answers: Vec<Result<BaseImage, BuildError>> = std::thread::scope(|scope| {
                let threads: Vec<_> = some
                    .iter()
                    .map(|(reference, platform, _)| scope.spawn(move || find(resolver, reference, platform)))
                    .collect();
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
