//! Instructions applied to an image config alone: `import -c`, `commit -c`.

use std::sync::Arc;

use rbuild_parser::check::CheckOptions;
use rbuild_parser::{Directives, Dockerfile, Instruction, parse_trigger};

use super::BuildRequest;
use super::args::Arguments;
use super::base_image::BaseImages;
use super::dispatch::{Lowering, StageLowering, StageState};
use super::image::{ImageDraft, ImageFile};
use super::lint::IgnoredSources;
use super::remotes::Remotes;
use super::stage::StageTable;
use super::warnings::Warnings;
use crate::error::BuildError;
use crate::graph::Definition;

const KEYWORD_ONBUILD: &str = "ONBUILD";

/// Applies one instruction (`CMD ["sh"]`, `ENV A=b`) to an image config. Only instructions that make no layer are
/// allowed: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD SHELL STOPSIGNAL USER VOLUME WORKDIR. The history
/// stays as it is.
pub fn apply(config: &[u8], instruction: &str) -> Result<Vec<u8>, BuildError> {
    let file = ImageFile::parse(config).map_err(|error| {
        BuildError::new(anyhow::Error::new(error).context("failed to parse image config"))
    })?;
    change(file, instruction)
        .map(|file| file.to_json())
        .map_err(|error| BuildError {
            cause: error.cause.context(format!("change {instruction:?}")),
            ..error
        })
}

fn change(mut file: ImageFile, text: &str) -> Result<ImageFile, BuildError> {
    let (keyword, rest) = text
        .trim()
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((text, ""));
    // The grammar of triggers has all instructions that are allowed here but this one.
    if keyword.eq_ignore_ascii_case(KEYWORD_ONBUILD) {
        parse(rest)?;
        file.config.on_build.push(rest.trim().to_owned());
        return Ok(file);
    }
    let instruction = parse(text)?;
    if matches!(
        instruction.value,
        Instruction::Maintainer(_) | Instruction::Arg(_)
    ) {
        let keyword = instruction.value.keyword();
        return Err(BuildError::message(format!(
            "{keyword} is not a valid change command"
        )));
    }
    let request = BuildRequest::of(empty_dockerfile(), Arc::from("--change"));
    let platform = file.platform();
    let mut warnings = Warnings::new(Arc::clone(&request.file), CheckOptions::default());
    let arguments = Arguments::evaluate(&request, &platform, &mut warnings)?;
    let location = warnings.location(instruction.span);
    let mut lowering = Lowering {
        request: &request,
        arguments: &arguments,
        table: &StageTable::default(),
        images: &BaseImages::default(),
        remotes: &mut Remotes::default(),
        target_platform: &platform,
        is_one_of_many: false,
        definition: &mut Definition::default(),
        warnings: &mut warnings,
        ignored: &IgnoredSources::default(),
    };
    let state = StageState::new(ImageDraft::from_file(file), platform.clone(), None);
    let state = StageLowering::detached(&mut lowering, state).apply_metadata(&instruction, &location)?;
    Ok(state.image.into_file())
}

fn parse(text: &str) -> Result<rbuild_parser::Spanned<Instruction>, BuildError> {
    parse_trigger(text, '\\')
        .map_err(|diagnostic| BuildError::message(diagnostic.message).hint(diagnostic.help))
}

fn empty_dockerfile() -> Dockerfile {
    Dockerfile {
        directives: Directives {
            escape: '\\',
            syntax: None,
            check: None,
        },
        global_args: Vec::new(),
        stages: Vec::new(),
        warnings: Vec::new(),
    }
}
