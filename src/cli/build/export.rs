//! From images to where they were asked for, as steps of the progress output.

use std::time::Instant;

use anyhow::Context as _;
use rbuild_cache::KeyBuilder;

use super::Build;
use crate::error::BuildError;
use crate::exporter::{self, BuiltImage, ExportContext, Exported, Output};
use crate::progress::{Event, Sink as _, Stream, VertexOutcome};

impl Build<'_> {
    /// What was made and what it is called now, in BuildKit's words.
    fn announcement(&self, exported: &Exported, output: &Output) -> String {
        let Some(manifest) = &exported.manifest else {
            return String::new();
        };
        let mut text = format!(
            "writing manifest {}\nwriting image {}\n",
            manifest.digest, exported.image_id
        );
        let names: Vec<String> = if output.names.is_empty() {
            self.options.tags.iter().map(ToString::to_string).collect()
        } else {
            output.names.clone()
        };
        for name in names {
            text.push_str(&format!("naming to {name}\n"));
        }
        text.push_str(&exported.said);
        text
    }

    pub(super) fn export(
        &self,
        images: &[BuiltImage],
        context: ExportContext<'_>,
    ) -> Result<Exported, BuildError> {
        let mut exported = None;
        for output in &self.options.outputs {
            let name = format!("exporting to {}", output.type_name());
            let vertex = KeyBuilder::new("export")
                .field("output", format!("{output:?}").as_bytes())
                .finish();
            self.progress.emit(Event::Started {
                vertex,
                name,
                location: None,
                at: Instant::now(),
            });
            let result = exporter::export(
                &context,
                images,
                self.options.as_index,
                &self.options.tags,
                output,
            );
            let outcome = match &result {
                Ok(exported) => {
                    let data = self.announcement(exported, output).into_bytes();
                    let stream = Stream::Stdout;
                    self.progress.emit(Event::Log {
                        vertex,
                        stream,
                        data,
                        at: Instant::now(),
                    });
                    VertexOutcome::Done
                }
                Err(error) => VertexOutcome::Failed(format!("{error:#}")),
            };
            self.progress.emit(Event::Finished {
                vertex,
                outcome,
                at: Instant::now(),
            });
            let result = result.with_context(|| format!("exporting to {}", output.type_name()))?;
            if result.devices > 0 {
                let message = format!(
                    "{} device files were left out: only root can make them",
                    result.devices
                );
                self.progress.emit(Event::Warning {
                    message,
                    location: None,
                });
            }
            exported.get_or_insert(result);
        }
        exported.ok_or_else(|| BuildError::message("there is no output"))
    }
}
