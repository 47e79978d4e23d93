//! Steps of a build and why they run, as text and as JSON: for `build --explain`, `plan` and `why`.

use serde_json::{Value, json};

use crate::graph::address::masked;
use crate::solver::why::cause::Cause;
use crate::solver::why::{Asked, Step};

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The step in one line, then its cause.
pub fn lines(step: &Step<'_>, dockerfile: &str) -> String {
    let file = dockerfile.rsplit('/').next().unwrap_or(dockerfile);
    let place = step.node.line.map(|line| format!(" ({file}:{line})"));
    let mut text = format!("{}{}\n", step.node.name, place.unwrap_or_default());
    for line in step.cause.iter().flat_map(|cause| cause.lines()) {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

/// The steps as JSON; `status` says what a step with a cause does or did.
pub fn steps(steps: &[Step<'_>], status: impl Fn(&Cause) -> &'static str) -> Vec<Value> {
    let step = |step: &Step<'_>| {
        let node = step.node;
        let mut value = json!({
            "stage": node.written.as_ref().map(|written| &written.stage),
            "step": node.written.as_ref().map(|written| written.step),
            "platform": node.platform.to_string(),
            "line": node.line,
            "name": node.name,
            "status": step.cause.map_or("cached", &status),
        });
        if let Some(cause) = step.cause {
            value["cause"] = serde_json::to_value(cause).unwrap_or_default();
        }
        value
    };
    steps.iter().map(step).collect()
}

/// What was asked of a build.
pub fn asked(asked: &Asked) -> Value {
    json!({
        "context": masked(&asked.context),
        "dockerfile": masked(&asked.dockerfile),
        "target": asked.target,
        "platforms": asked.platforms,
    })
}

/// All that a value prints as, in lines.
pub fn document(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
