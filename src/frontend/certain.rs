//! What steps will read of the context, whatever base images say: known before these are.

use rbuild_parser::{Instruction, Source};

use super::dispatch::copy::is_local;
use super::stage::StageTable;
use crate::graph::{CopyOp, CopySource, Unpack};

/// Characters by which an operand means something else than what is written.
const MEANING: &[char] = &['$', '\'', '"', '\\', '`'];

/// The operands of COPY and ADD in the needed stages that name files of the context as they are written, each as a copy of its
/// own. Where they are copied to is left open.
pub(super) fn reads(table: &StageTable, needed: &[bool]) -> Vec<CopyOp> {
    let mut reads = Vec::new();
    let stages = table.stages.iter().zip(needed).filter(|(_, needed)| **needed);
    for command in stages.flat_map(|(stage, _)| &stage.commands) {
        if command.from.is_some() {
            continue;
        }
        let (sources, excludes, parents, unpack) = match &command.instruction.value {
            Instruction::Copy(copy) => (&copy.sources, &copy.excludes, copy.parents, Unpack::Never),
            Instruction::Add(add) if add.unpack == Some(false) => {
                (&add.sources, &add.excludes, false, Unpack::Never)
            }
            Instruction::Add(add) => (&add.sources, &add.excludes, false, Unpack::Archives),
            _ => continue,
        };
        let plain = sources.iter().filter_map(|source| match source {
            Source::Path(path) if !path.contains(MEANING) && is_local(path) => Some(path),
            _ => None,
        });
        reads.extend(plain.map(|path| CopyOp {
            sources: vec![CopySource::Path(path.clone())],
            dest: "/".to_owned(),
            cwd: "/".to_owned(),
            chown: None,
            chmod: None,
            excludes: excludes.clone(),
            parents,
            link: false,
            unpack,
            itself: false,
            reset_owner: true,
        }));
    }
    reads
}
