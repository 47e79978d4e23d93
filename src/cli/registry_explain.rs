//! `rbuild registry explain`: which hosts would be asked for an image, in which order, and who we are there.

use std::process::ExitCode;

use super::Context;
use super::context::print;

/// `rbuild registry explain NAME`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Name of an image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// Runs the command. Nobody is asked anything.
pub fn run(args: ExplainArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let registry = context.registry();
    let reference = registry.parse(&args.name)?;
    let mut text = format!("{} is {reference}", args.name);
    if let Some(file) = registry.renamed_by(&args.name)? {
        text.push_str(&format!(" ({} says so)", file.display()));
    }
    text.push('\n');
    let store = context.store()?;
    if let Some(known) = store.image(&reference.to_string())? {
        let asks = match reference.digest() {
            Some(_) => "nobody is asked",
            None => "nobody is asked without --pull",
        };
        text.push_str(&format!("in the store as {}: {asks}\n", known.digest));
    }
    for (number, asked) in registry.explain(&reference)?.iter().enumerate() {
        let kind = if asked.place.is_mirror {
            "mirror"
        } else {
            "registry"
        };
        let tls = match (asked.insecure, asked.certificates) {
            (true, _) => "https without verification, else http",
            (false, true) => "https, certificates of its own",
            (false, false) => "https",
        };
        let credentials = asked.credentials.as_deref().unwrap_or("nobody");
        text.push_str(&format!(
            "{}. {kind} {} ({tls})\n   for {}\n   as {credentials}\n",
            number + 1,
            asked.address,
            asked.place.reference,
        ));
    }
    let files = context.config.files.iter().chain(registry.files()?);
    let files: Vec<String> = files.map(|path| path.display().to_string()).collect();
    let files = if files.is_empty() {
        "none".to_owned()
    } else {
        files.join(", ")
    };
    text.push_str(&format!("configuration: {files}\n"));
    print(text)?;
    Ok(ExitCode::SUCCESS)
}
