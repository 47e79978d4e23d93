//! Instructions applied to an image config alone: `import -c`, `commit -c`.

use crate::error::BuildError;

/// Applies one instruction (`CMD ["sh"]`, `ENV A=b`) to an image config. Only instructions that make no layer are
/// allowed: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD SHELL STOPSIGNAL USER VOLUME WORKDIR.
pub fn apply(config: &[u8], instruction: &str) -> Result<Vec<u8>, BuildError> {
    let _ = config;
    Err(BuildError::message(format!(
        "{instruction:?} cannot be applied yet"
    )))
}
