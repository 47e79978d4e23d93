//! Operands of EXPOSE after expansion (spec E3).

/// One operand of EXPOSE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// `80/tcp`, one for each port of a range, in order.
    pub ports: Vec<String>,
    /// The protocol as written when it is not lower-case.
    pub protocol_casing: Option<String>,
    /// Whether an address or a host port was given; it has no effect.
    pub has_host_part: bool,
}

/// An operand of EXPOSE is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PortError(String);

/// Takes `[ip:][hostport:]port[-port][/proto]` apart.
pub fn parse_expose_port(_operand: &str) -> Result<PortSpec, PortError> {
    Err(PortError("ports cannot be read yet".into()))
}

/// All operands of one EXPOSE: sorted as text before they are taken apart, as BuildKit does.
pub fn parse_expose_ports(_operands: &[String]) -> Result<Vec<PortSpec>, PortError> {
    Err(PortError("ports cannot be read yet".into()))
}
