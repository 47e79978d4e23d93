//! Steps that run programs of another platform: found before anything is run or fetched, because what they need is
//! the machine's to have.

use std::collections::BTreeMap;

use rbuild_executor::{Emulation, emulation};

use super::{Inputs, Plan};
use crate::error::BuildError;
use crate::graph::{Op, Platform};

/// Fails when a step of the plan cannot run here, at its line.
pub fn check(inputs: &Inputs<'_>, plan: &Plan) -> Result<(), BuildError> {
    let host = Platform::host();
    let mut known: BTreeMap<&str, Emulation> = BTreeMap::new();
    for id in &plan.missing {
        let vertex = inputs.definition.vertex(*id);
        let Op::Exec(op) = &vertex.op else { continue };
        let wanted = &op.platform;
        if host.accepts(wanted) {
            continue;
        }
        let refusal = if wanted.os != host.os {
            Some(format!("a program for {wanted} cannot be run on {host}"))
        } else {
            let found = known
                .entry(&wanted.architecture)
                .or_insert_with(|| emulation(&wanted.architecture));
            (*found == Emulation::Missing).then(|| {
                format!(
                    "a program for {wanted} cannot be run on {host}: no emulator for {wanted} is registered"
                )
            })
        };
        if let Some(text) = refusal {
            let remedy = remedy(wanted, &host);
            let error = BuildError::message(text)
                .at(vertex.location.clone())
                .hint(Some(remedy));
            return Err(error.of_vertex(inputs.definition.digest(*id), &vertex.name));
        }
    }
    Ok(())
}

fn remedy(wanted: &Platform, host: &Platform) -> String {
    let cross = "compile for the target in a stage with FROM --platform=$BUILDPLATFORM";
    if wanted.os != host.os {
        return cross.to_owned();
    }
    format!(
        "as root of this machine: apt-get install qemu-user-static binfmt-support, which registers emulators; or {cross}"
    )
}

/// What to know about a step whose program could not be started, when an emulator should have.
pub fn explain(wanted: &Platform) -> Option<String> {
    let host = Platform::host();
    if host.accepts(wanted) {
        return None;
    }
    match emulation(&wanted.architecture) {
        Emulation::EmulatorInRoot(interpreter) => Some(format!(
            "the emulator of {wanted}, {}, is registered without flag F, so it is looked for in the image: register it \
             with F (package qemu-user-static does), or copy it into the image",
            interpreter.display()
        )),
        Emulation::Emulator(Some(interpreter)) => Some(format!(
            "the step needs {wanted} and this machine is {host}: {} ran it",
            interpreter.display()
        )),
        _ => Some(format!("the step needs {wanted} and this machine is {host}")),
    }
}

/// Whether programs of the platform are those of the machine's own 32-bit predecessor, whose name they expect to see.
pub fn is_predecessor(wanted: &Platform) -> bool {
    matches!(
        (
            Platform::host().architecture.as_str(),
            wanted.architecture.as_str()
        ),
        ("amd64", "386") | ("arm64", "arm")
    )
}
