//! Keeps declared secrets out of what an image says about itself.

use anyhow::Context as _;
use serde_json::Value;

use crate::error::BuildError;
use crate::progress::{Event, Sink};
use crate::source::agent::Agents;
use crate::source::leak::{Leak, Leaks, SecretScan};
use crate::source::secret::Secrets;

/// What must not leave the build: values of secrets, and keys.
pub(super) fn of(scan: SecretScan, secrets: &Secrets, agents: &Agents) -> anyhow::Result<Leaks> {
    let keys = agents.keys().map(|(id, file)| {
        let key = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        Ok((format!("ssh {id}"), key))
    });
    let keys = keys.collect::<anyhow::Result<Vec<_>>>()?;
    let keys = keys.iter().map(|(id, key)| (id.as_str(), key.as_slice()));
    let values = secrets.iter().map(|(id, value)| (id, &value.bytes()[..]));
    Ok(Leaks::new(scan, values.chain(keys)))
}

/// Looks for secrets in a config: environment, labels, history. Fails, or warns, as the build was told.
pub(super) fn refuse_in_config(leaks: &Leaks, config: &[u8], sink: &dyn Sink) -> Result<(), BuildError> {
    let config: Value = serde_json::from_slice(config).map_err(BuildError::new)?;
    refuse_in(leaks, &config, "the config of the image", sink)
}

/// The same in another document, which messages call `what`.
pub(super) fn refuse_in(
    leaks: &Leaks,
    document: &Value,
    what: &str,
    sink: &dyn Sink,
) -> Result<(), BuildError> {
    if !leaks.are_sought() {
        return Ok(());
    }
    let Some((place, leak)) = find(leaks, document, String::new()) else {
        return Ok(());
    };
    let message = match place.as_str() {
        "" => format!("{leak} is in {what}"),
        place => format!("{leak} is in {what}: {place}"),
    };
    if leaks.scan == SecretScan::Warn {
        sink.emit(Event::Warning {
            message,
            location: None,
        });
        return Ok(());
    }
    Err(BuildError::message(message).hint(Some(
        "hand it to the step with RUN --mount=type=secret, not as an argument, variable or label; or give --secret-scan=warn"
            .to_owned(),
    )))
}

/// The first text with a secret, and where it is.
fn find<'a>(leaks: &'a Leaks, value: &Value, place: String) -> Option<(String, &'a Leak)> {
    match value {
        Value::String(text) => leaks.find(text.as_bytes()).map(|leak| (place, leak)),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .find_map(|(index, value)| find(leaks, value, format!("{place}[{index}]"))),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let inner = match place.as_str() {
                "" => name.clone(),
                place => format!("{place}.{name}"),
            };
            // A name that is secret is not told.
            match leaks.find(name.as_bytes()) {
                Some(leak) => Some((place.clone(), leak)),
                None => find(leaks, value, inner),
            }
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_config_are_named() {
        let leaks = Leaks::new(SecretScan::Error, [("tok", &b"open \"sesame\"!"[..])].into_iter());
        for (config, place) in [
            (
                serde_json::json!({"config": {"Env": ["A=b", "T=open \"sesame\"!"]}}),
                Some("config.Env[1]"),
            ),
            (
                serde_json::json!({"history": [{"created_by": "|1 T=open \"sesame\"! sh"}]}),
                Some("history[0].created_by"),
            ),
            (
                serde_json::json!({"config": {"Labels": {"open \"sesame\"!": "x"}}}),
                Some("config.Labels"),
            ),
            (
                serde_json::json!({"config": {"Labels": {"a": "open sesame!"}}}),
                None,
            ),
        ] {
            let found = find(&leaks, &config, String::new());
            assert_eq!(found.as_ref().map(|(place, _)| place.as_str()), place, "{config}");
        }
    }
}
