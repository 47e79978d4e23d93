//! `--call` and `--check`: what a Dockerfile says of itself, instead of a build (spec 8.4).

mod checked;
mod described;

use std::process::ExitCode;
use std::str::FromStr;

use serde_json::{Value, json};

use super::locked::Locked;
use super::options::BuildOptions;
use super::{Build, Context, report};
use crate::error::BuildError;
use crate::frontend::outline::{outline, targets};
use crate::frontend::{self, Checked, MetaResolver};
use crate::graph::Location;
use crate::progress::Renderer as _;
use crate::source::image::ImageSource;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Method {
    /// A build.
    #[default]
    Build,
    /// The build checks.
    Check,
    /// What the target takes.
    Outline,
    /// Which targets there are.
    Targets,
    /// What may be asked for.
    Describe,
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// As buildx has it.
    Json,
    /// Static Analysis Results Interchange Format 2.1.0, for build checks.
    Sarif,
}

/// The value of `--call`: `METHOD[,format=FORMAT][,ignorestatus]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Call {
    /// What is asked for.
    pub method: Method,
    /// How the answer is written.
    pub format: Format,
    /// Whether warnings are no failure.
    pub ignore_status: bool,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let mut call = Self {
            method: match parts.next().unwrap_or_default() {
                "" | "build" => Method::Build,
                "check" | "lint" => Method::Check,
                "outline" => Method::Outline,
                "targets" => Method::Targets,
                "subrequests.describe" => Method::Describe,
                other => {
                    return Err(format!(
                        "method {other:?} is not supported: use build, check, outline, targets or subrequests.describe"
                    ));
                }
            },
            ..Self::default()
        };
        for part in parts {
            match part.split_once('=').unwrap_or((part, "true")) {
                ("format", "text") => call.format = Format::Text,
                ("format", "json") => call.format = Format::Json,
                ("format", "sarif") if call.method == Method::Check => call.format = Format::Sarif,
                ("format", "sarif") => return Err("format sarif is for check".to_owned()),
                ("format", other) => {
                    return Err(format!("invalid format {other:?}: use text, json or sarif"));
                }
                ("ignorestatus", "true") => call.ignore_status = true,
                ("ignorestatus", "false") => call.ignore_status = false,
                _ => {
                    return Err(format!(
                        "invalid option {part:?}: use format=FORMAT or ignorestatus"
                    ));
                }
            }
        }
        Ok(call)
    }
}

/// Answers on standard output. Warnings of a check and whatever keeps it from being built are exit status 1.
pub fn run(options: &BuildOptions, context: &Context) -> anyhow::Result<ExitCode> {
    let progress = super::progress(options);
    let build = Build::new(options, context, &progress)?;
    let mut source = String::new();
    let answer = build.answer(&mut source);
    progress.finish();
    let failed = match answer {
        Ok(Answer::Text(text)) => {
            super::super::context::print(text)?;
            false
        }
        Ok(Answer::Checked(checked)) => {
            let text = match options.call.format {
                Format::Text => checked::text(&checked, &source),
                Format::Json => checked::json(&checked, build.dockerfile()?, &source),
                Format::Sarif => checked::sarif(&checked, build.dockerfile()?),
            };
            super::super::context::print(text)?;
            if let (Some(error), Format::Text) = (&checked.error, options.call.format) {
                report::print(error, &source, &progress);
            }
            (!checked.warnings.is_empty() || checked.error.is_some()) && !options.call.ignore_status
        }
        Err(error) => {
            report::print(&error, &source, &progress);
            true
        }
    };
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

enum Answer {
    Text(String),
    Checked(Checked),
}

impl Build<'_> {
    fn answer(&self, source: &mut String) -> Result<Answer, BuildError> {
        let call = self.options.call;
        if call.method == Method::Describe {
            return Ok(Answer::Text(match call.format {
                Format::Text => described::methods_text(),
                Format::Json | Format::Sarif => described::methods_json(),
            }));
        }
        let dockerfile = match (self.parse(source), call.method) {
            (Ok(dockerfile), _) => dockerfile,
            (Err(error), Method::Check) => {
                return Ok(Answer::Checked(Checked {
                    warnings: Vec::new(),
                    error: Some(error),
                }));
            }
            (Err(error), _) => return Err(error),
        };
        let mut request = self.request(dockerfile)?;
        request.platform = self.options.platforms.first().cloned();
        if call.method == Method::Targets {
            let targets = targets(&request);
            return Ok(Answer::Text(match call.format {
                Format::Text => described::targets_text(&targets),
                Format::Json | Format::Sarif => described::targets_json(&targets, source),
            }));
        }
        let images = ImageSource::new(self.context.store()?, self.context.registry(), self.options.pull);
        let pins = self.pins()?;
        let (announced, locked);
        let resolver: &dyn MetaResolver = match &pins {
            None => {
                announced = self.announced(&images, None);
                &announced
            }
            Some(pins) => {
                locked = Locked {
                    pins,
                    announced: self.announced(&images, None),
                };
                &locked
            }
        };
        if call.method == Method::Check {
            return Ok(Answer::Checked(frontend::check(&request, resolver)));
        }
        let outline = outline(&request, resolver)?;
        Ok(Answer::Text(match call.format {
            Format::Text => described::outline_text(&outline),
            Format::Json | Format::Sarif => described::outline_json(&outline, source),
        }))
    }
}

/// A place as BuildKit's messages have it.
fn place(location: &Location) -> Value {
    json!({"ranges": [{"start": {"line": location.start}, "end": {"line": location.end}}]})
}

/// JSON as people read it, with a line end.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let call = |method, format, ignore_status| {
            Ok(Call {
                method,
                format,
                ignore_status,
            })
        };
        for (text, expected) in [
            ("build", call(Method::Build, Format::Text, false)),
            ("check", call(Method::Check, Format::Text, false)),
            ("check,format=json", call(Method::Check, Format::Json, false)),
            (
                "lint,format=sarif,ignorestatus",
                call(Method::Check, Format::Sarif, true),
            ),
            ("targets,format=json", call(Method::Targets, Format::Json, false)),
            (
                "outline,ignorestatus=true",
                call(Method::Outline, Format::Text, true),
            ),
            ("outline,format=sarif", Err("format sarif is for check".into())),
            (
                "check,format=xml",
                Err("invalid format \"xml\": use text, json or sarif".into()),
            ),
            (
                "chek",
                Err("method \"chek\" is not supported: use build, check, outline, targets or subrequests.describe"
                    .into()),
            ),
            (
                "check,x",
                Err("invalid option \"x\": use format=FORMAT or ignorestatus".into()),
            ),
        ] {
            assert_eq!(text.parse::<Call>(), expected, "{text}");
        }
    }
}
