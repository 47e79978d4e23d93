//! Names of stages: lower-case, unique, not reserved.

use std::collections::BTreeSet;

use super::Findings;
use crate::instruction::Dockerfile;

/// Names that `COPY --from` and named contexts give another meaning.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(file: &Dockerfile, findings: &mut Findings) {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for stage in &file.stages {
        let from = &stage.from;
        let (Some(name), Some(written)) = (&from.value.name, &from.value.name_as_written) else {
            continue;
        };
        let mut add = |rule, message| findings.add(rule, from.span, &from.comments, message);
        if name != written {
            add(
                "StageNameCasing",
                format!("Stage name '{written}' should be lowercase"),
            );
        }
        if RESERVED.contains(&name.as_str()) {
            let message = format!("Stage name should not use the same name as reserved stage {name:?}");
            add("ReservedStageName", message);
        }
        if !known.insert(name) {
            let message = format!("Duplicate stage name {name:?}, stage names should be unique");
            add("DuplicateStageName", message);
        }
    }
}
