//! HEALTHCHECK (spec 3.6).

use rbuild_parser::{Command, Healthcheck};

use super::StageLowering;
use crate::frontend::image::HealthConfig;
use crate::frontend::text::{duration, plain_list};
use crate::graph::Location;

/// How a runtime finds out whether a container works.
pub(super) fn healthcheck(stage: &mut StageLowering, check: &Healthcheck, location: &Location) {
    let this = stage.earlier(location);
    let earlier = stage.state.healthcheck.replace(this);
    stage.warn_repeated("HEALTHCHECK", earlier);
    let config = match check {
        Healthcheck::None => HealthConfig {
            test: vec!["NONE".to_owned()],
            ..HealthConfig::default()
        },
        Healthcheck::Cmd {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        } => HealthConfig {
            test: test(command),
            interval: *interval,
            timeout: *timeout,
            start_period: *start_period,
            start_interval: *start_interval,
            retries: i64::from(*retries),
        },
    };
    stage.record(format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&config.test),
        duration(config.interval),
        duration(config.timeout),
        duration(config.start_period),
        duration(config.start_interval),
        config.retries,
    ));
    stage.state.image.config_mut().healthcheck = Some(config);
}

/// The shell form is left to the runtime, which knows the image's shell (spec E7).
fn test(command: &Command) -> Vec<String> {
    match command {
        Command::Exec(args) => [&["CMD".to_owned()], args.as_slice()].concat(),
        Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
    }
}
