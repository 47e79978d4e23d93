//! EXPOSE (spec E3).

use rbuild_parser::port::parse_expose_ports;

use super::StageLowering;
use crate::error::BuildError;
use crate::frontend::image::Empty;
use crate::frontend::text::plain_list;
use crate::graph::Location;

/// Adds ports to those of the image.
pub(super) fn expose(
    stage: &mut StageLowering,
    operands: &[String],
    location: &Location,
) -> Result<(), BuildError> {
    let mut words = Vec::new();
    for operand in operands {
        let expanded = stage
            .expander()
            .words(operand, &|name| stage.state.env.get(name).map(str::to_owned))
            .map_err(BuildError::new)?;
        stage.warn_undefined(&expanded.undefined, location);
        words.extend(expanded.words);
    }
    let mut ports: Vec<String> = Vec::new();
    let specs = parse_expose_ports(&words).map_err(BuildError::new)?;
    for (spec, word) in specs.iter().zip(&words) {
        if spec.protocol_casing.is_some() {
            let message = format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase");
            stage.shared.warnings.rule("ExposeProtoCasing", location, message);
        }
        if spec.has_host_part {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
            );
            stage
                .shared
                .warnings
                .rule("ExposeInvalidFormat", location, message);
        }
        for port in &spec.ports {
            if !ports.contains(port) {
                ports.push(port.clone());
            }
        }
    }
    stage.record(format!("EXPOSE {}", plain_list(&ports)));
    let exposed = &mut stage.state.image.config_mut().exposed_ports;
    exposed.extend(ports.into_iter().map(|port| (port, Empty {})));
    Ok(())
}
