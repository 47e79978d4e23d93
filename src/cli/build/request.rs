//! From the Dockerfile's text to what the frontend is asked for.

use rbuild_parser::{Dockerfile, Instruction, Spanned};

use super::Build;
use super::dockerfile::DockerfileSource;
use super::received::{Arrival, Receiver};
use crate::error::BuildError;
use crate::frontend::BuildRequest;
use crate::graph::Location;
use crate::progress::{Event, Sink as _};
use crate::source::ignore_file::IgnoreFile;
use crate::source::image::ImageSource;

impl Build<'_> {
    /// Reads and parses the Dockerfile. `source` receives its text, for excerpts.
    pub(super) fn parse(&self, source: &mut String) -> Result<Dockerfile, BuildError> {
        let dockerfile = self.dockerfile()?;
        let bytes = dockerfile.read()?;
        *source = String::from_utf8_lossy(&bytes).into_owned();
        rbuild_parser::parse(&bytes).map_err(|errors| {
            let Some(first) = errors.into_iter().next() else {
                return BuildError::message("the Dockerfile cannot be parsed");
            };
            let (start, end) = (first.span.start_line, first.span.end_line);
            let location = (start > 0).then(|| Location {
                file: dockerfile.shown(),
                start,
                end,
            });
            let text = match start {
                0 => first.message.clone(),
                line => format!("dockerfile parse error on line {line}: {}", first.message),
            };
            BuildError::message(text).at(location).hint(first.help)
        })
    }

    /// What the frontend is asked for. The ignore file is of interest when something of the context is copied.
    pub(super) fn request(&self, dockerfile: Dockerfile) -> Result<BuildRequest, BuildError> {
        let of_context = |place: &Spanned<Instruction>| match &place.value {
            Instruction::Copy(copy) => copy.from.is_none(),
            Instruction::Add(_) => true,
            _ => false,
        };
        let mut instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
        let ignored = if instructions.any(of_context) {
            let ignore = self.ignore()?.as_ref();
            ignore.map(IgnoreFile::patterns).unwrap_or_default()
        } else {
            Vec::new()
        };
        let mut request = self.options.request(dockerfile);
        request.file = self.dockerfile()?.shown();
        request.ignored = ignored;
        Ok(request)
    }

    /// Context and Dockerfile, as far as they come from elsewhere; received once.
    pub(super) fn arrival(&self) -> anyhow::Result<&Arrival> {
        if let Some(arrival) = self.arrival.get() {
            return Ok(arrival);
        }
        if !self.options.needs_receiving() {
            return Ok(self.arrival.get_or_init(Arrival::default));
        }
        let (store, registry) = (self.context.store()?, self.context.registry());
        let remotes = self.remotes(&store, &registry)?;
        let images = ImageSource::new(store.clone(), registry.clone(), self.options.pull);
        let receiver = Receiver {
            store: &store,
            remotes: &remotes,
            resolver: &self.announced(&images, Some(&remotes)),
            keep_git_dir: self.options.keeps_git_dir(),
        };
        let arrival = receiver.receive(self.options);
        registry.quiesce();
        let arrival = arrival?;
        Ok(self.arrival.get_or_init(|| arrival))
    }

    /// Where the Dockerfile is.
    pub(super) fn dockerfile(&self) -> anyhow::Result<&DockerfileSource> {
        let arrived = self.arrival()?.dockerfile.as_ref();
        Ok(arrived.unwrap_or(&self.options.dockerfile))
    }

    /// The ignore file of the context; read once, and those that it hides are told of.
    pub(super) fn ignore(&self) -> anyhow::Result<&Option<IgnoreFile>> {
        if let Some(known) = self.ignore.get() {
            return Ok(known);
        }
        if self.options.is_received() && self.options.ignore_file.is_none() {
            // BuildKit applies none to an archive (spec 6.1); one that is named is.
            return Ok(self.ignore.get_or_init(|| None));
        }
        let found = IgnoreFile::find(
            self.options.context.directory(),
            self.dockerfile()?.path(),
            self.options.ignore_file.as_deref(),
        )?;
        for (unused, used) in found
            .iter()
            .flat_map(|used| used.unused.iter().map(move |it| (it, used)))
        {
            self.progress.emit(Event::Warning {
                message: format!("{} is not used: {} is", unused.display(), used.path.display()),
                location: None,
            });
        }
        Ok(self.ignore.get_or_init(|| found))
    }
}
