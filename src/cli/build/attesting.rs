//! What is said of the result beside it: the flags of docker's buildx, and what a build knows for them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::{KeyBuilder, Store, View};
use rbuild_parser::value::{csv_fields, parse_bool};
use serde_json::Value;

use super::Build;
use super::commit::Committed;
use super::dockerfile::DockerfileSource;
use super::leaks;
use crate::attestation::provenance::{self, Run};
use crate::attestation::{Attested, PROVENANCE, Place, ProvenanceWish, SPDX, SbomWish, Wanted, spdx};
use crate::error::BuildError;
use crate::exporter::{BuiltImage, Output, OutputKind};
use crate::frontend::{BuildRequest, Lowered, NamedContext};
use crate::graph::address::masked;
use crate::graph::{NetworkMode, VertexId};
use crate::progress::{Event, Sink as _, VertexOutcome};
use crate::registry::Reference;
use crate::registry::document::read_config;
use crate::sbom;

/// Build arguments that are the machine's own: they are in no key either.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// How BuildKit's arguments begin that have more looked through than the result.
const SCAN: &str = "BUILDKIT_SBOM_SCAN_";

/// Flags of a build.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct AttestArgs {
    /// Attestation of the result: type=provenance,mode=min or max, or type=sbom; with inline=true in the index of the image
    #[arg(long, value_name = "ATTESTATION")]
    attest: Vec<String>,
    /// Provenance attestation, how the result came about: true (as mode=max), false, mode=min or mode=max [default: false]
    #[arg(long, value_name = "MODE")]
    provenance: Option<String>,
    /// SBOM attestation, which packages are in the result: true or false [default: false]
    #[arg(long, value_name = "BOOL")]
    sbom: Option<String>,
    /// JSON file to write digests, names and provenance of the result to
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
}

impl AttestArgs {
    /// What the flags ask for.
    pub fn wanted(&self) -> anyhow::Result<Wanted> {
        let mut wanted = Wanted::default();
        let mut seen = Vec::new();
        for text in &self.attest {
            let kind =
                attest(&mut wanted, text, None).with_context(|| format!("invalid --attest {text:?}"))?;
            ensure!(
                !seen.contains(&kind),
                "invalid --attest {text:?}: type={kind} is there twice"
            );
            seen.push(kind);
        }
        // What has a flag of its own wins.
        for (flag, kind, value) in [
            ("--provenance", "provenance", &self.provenance),
            ("--sbom", "sbom", &self.sbom),
        ] {
            let Some(value) = value else { continue };
            let text = match parse_bool(value) {
                Some(wanted) => format!("disabled={}", !wanted),
                None => value.clone(),
            };
            attest(&mut wanted, &text, Some(kind)).with_context(|| format!("invalid {flag} {value:?}"))?;
        }
        Ok(wanted)
    }
}

/// Takes one `--attest`, or the value of a flag for attestations of `kind`. Which kind it was.
fn attest(wanted: &mut Wanted, text: &str, kind: Option<&'static str>) -> anyhow::Result<&'static str> {
    let fields = csv_fields(text)?;
    let pairs: Vec<(&str, &str)> = fields
        .iter()
        .map(|field| {
            field
                .split_once('=')
                .with_context(|| format!("{field:?} is not KEY=VALUE"))
        })
        .collect::<anyhow::Result<_>>()?;
    let given = pairs
        .iter()
        .find(|(key, _)| *key == "type")
        .map(|(_, value)| *value);
    let kind = match (kind, given) {
        (Some(kind), None) => kind,
        (Some(_), Some(_)) => bail!("the flag says the type already"),
        (None, Some("provenance")) => "provenance",
        (None, Some("sbom")) => "sbom",
        (None, Some(other)) => bail!("the type {other:?} is not supported: there are provenance and sbom"),
        (None, None) => bail!("type is missing: provenance or sbom"),
    };
    let mut place = Place {
        in_index: false,
        images_only: false,
        file: if kind == "sbom" {
            "sbom.spdx.json"
        } else {
            "provenance.json"
        }
        .to_owned(),
    };
    let mut wish = ProvenanceWish {
        full: true,
        builder: None,
        reproducible: false,
        place: place.clone(),
    };
    let mut disabled = false;
    for (key, value) in pairs {
        let boolean = || parse_bool(value).with_context(|| format!("{key} is true or false, not {value:?}"));
        match (key, kind) {
            ("type", _) => {}
            ("disabled", _) => disabled = boolean()?,
            ("inline", _) => place.in_index = boolean()?,
            ("inline-only", _) => place.images_only = boolean()?,
            ("filename", _) => {
                ensure!(
                    !value.is_empty() && !value.contains('/') && value != "." && value != "..",
                    "filename is the name of a file, not {value:?}"
                );
                value.clone_into(&mut place.file);
            }
            ("mode", "provenance") => {
                wish.full = match value {
                    "min" => false,
                    "max" => true,
                    _ => bail!("mode is min or max, not {value:?}"),
                };
            }
            ("builder-id", "provenance") => wish.builder = Some(value.to_owned()),
            ("reproducible", "provenance") => wish.reproducible = boolean()?,
            ("version", "provenance") => ensure!(
                value == "v1",
                "version is v1: provenance of {value:?} is not written"
            ),
            ("generator", "sbom") => {
                bail!("the generator is built in: scanners that are images are not run, leave generator= out")
            }
            _ => bail!("type={kind} has no key {key:?}"),
        }
    }
    if kind == "sbom" {
        wanted.sbom = (!disabled).then_some(SbomWish { place });
    } else {
        wanted.provenance = (!disabled).then_some(ProvenanceWish { place, ..wish });
    }
    Ok(kind)
}

/// Docker's archive has one manifest and no place beside it.
pub(super) fn refuse_in_docker_archive(wanted: &Wanted, outputs: &[Output]) -> anyhow::Result<()> {
    let archive = |output: &Output| matches!(output.kind, OutputKind::Docker { .. });
    ensure!(
        !wanted.is_any() || !outputs.iter().any(archive),
        "attestations have no place in an archive of docker's: use type=oci, or leave --attest, --provenance and --sbom out"
    );
    Ok(())
}

/// What was asked for, by the names that BuildKit's frontends know.
pub(super) fn parameters(request: &BuildRequest) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut say = |name: String, value: String| drop(found.insert(name, value));
    for (name, value) in &request.build_args {
        let is_proxy = PROXIES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy));
        if let Some(value) = value.as_ref().filter(|_| !is_proxy) {
            say(format!("build-arg:{name}"), value.clone());
        }
    }
    for (name, value) in &request.labels {
        say(format!("label:{name}"), value.clone());
    }
    for (name, context) in &request.contexts {
        let value = match context {
            NamedContext::Local => format!("local:{name}"),
            // Where a layout lies is the machine's own.
            NamedContext::Image(image) if image.starts_with("oci-layout://") => {
                let name = image.rsplit('/').next().unwrap_or_default();
                format!("oci-layout://{name}")
            }
            NamedContext::Image(image) => format!("docker-image://{image}"),
            NamedContext::Remote(url) => masked(url).into_owned(),
            NamedContext::Scratch => "docker-image://scratch".to_owned(),
        };
        say(format!("context:{name}"), value);
    }
    if let Some(target) = &request.target {
        say("target".to_owned(), target.clone());
    }
    if request.no_cache || !request.no_cache_filter.is_empty() {
        say("no-cache".to_owned(), request.no_cache_filter.join(","));
    }
    match request.network {
        NetworkMode::Default => {}
        NetworkMode::None => say("force-network-mode".to_owned(), "none".to_owned()),
        NetworkMode::Host => say("force-network-mode".to_owned(), "host".to_owned()),
    }
    if !request.add_hosts.is_empty() {
        let hosts: Vec<String> = request
            .add_hosts
            .iter()
            .map(|(name, address)| format!("{name}={address}"))
            .collect();
        say("add-hosts".to_owned(), hosts.join(","));
    }
    found
}

impl Build<'_> {
    /// The images with what was asked for to be said of them.
    pub(super) fn attest(
        &self,
        store: &Store,
        lowered: &[Lowered],
        committed: Vec<Committed>,
        source: &str,
    ) -> Result<Vec<BuiltImage>, BuildError> {
        let wanted = &self.options.attestations;
        let scans_more = source.contains(SCAN) || self.parameters().keys().any(|name| name.contains(SCAN));
        if wanted.sbom.is_some() && scans_more {
            let message = format!(
                "{SCAN}STAGE and {SCAN}CONTEXT do nothing: packages are looked for in the result only"
            );
            self.progress.emit(Event::Warning {
                message,
                location: None,
            });
        }
        let mut images = Vec::with_capacity(committed.len());
        for (lowered, Committed { mut image, made }) in lowered.iter().zip(committed) {
            let mut attested = Vec::new();
            if let Some(wish) = &wanted.provenance {
                attested.push(Attested {
                    predicate_type: PROVENANCE,
                    predicate: self.provenance(wish, lowered, &made, source)?,
                    place: wish.place.clone(),
                });
            }
            if let Some(wish) = &wanted.sbom {
                attested.push(Attested {
                    predicate_type: SPDX,
                    predicate: self.shown(lowered, || self.packages(store, lowered, &image))?,
                    place: wish.place.clone(),
                });
            }
            image.attested = attested.into();
            images.push(image);
        }
        Ok(images)
    }

    /// What was asked for; known once the Dockerfile was lowered.
    fn parameters(&self) -> &BTreeMap<String, String> {
        static NOTHING: BTreeMap<String, String> = BTreeMap::new();
        self.parameters.get().unwrap_or(&NOTHING)
    }

    fn provenance(
        &self,
        wish: &ProvenanceWish,
        lowered: &Lowered,
        made: &[(VertexId, rbuild_cache::Descriptor)],
        source: &str,
    ) -> Result<Value, BuildError> {
        let results: Vec<VertexId> = lowered
            .result
            .into_iter()
            .chain(lowered.image.layers().iter().copied())
            .collect();
        let dockerfile = self.dockerfile()?;
        let run = match lowered.source_date_epoch {
            Some(_) => None,
            None => Some(self.this_run()),
        };
        let build = provenance::Build {
            definition: &lowered.definition,
            results: &results,
            layers: made,
            file: &dockerfile.shown(),
            text: source.as_bytes(),
            origin: self
                .arrival()?
                .context
                .as_ref()
                .and_then(|context| context.origin.as_ref()),
            is_local_file: matches!(
                dockerfile,
                DockerfileSource::File { .. } | DockerfileSource::Stdin
            ),
            parameters: self.parameters(),
            run: run.as_ref(),
        };
        let predicate = build.predicate(wish.full, wish.builder.as_deref(), wish.reproducible);
        leaks::refuse_in(&self.leaks, &predicate, "the provenance", self.progress.as_ref())?;
        if wish.full {
            let text = Value::from(source);
            leaks::refuse_in(
                &self.leaks,
                &text,
                "the provenance, as part of the Dockerfile",
                self.progress.as_ref(),
            )?;
        }
        Ok(predicate)
    }

    fn this_run(&self) -> Run {
        let now = SystemTime::now();
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let text = |time: SystemTime| {
            let time = since(time);
            let seconds = i64::try_from(time.as_secs()).unwrap_or(0);
            let nanoseconds = i32::try_from(time.subsec_nanos()).unwrap_or(0);
            jiff::Timestamp::new(seconds, nanoseconds)
                .unwrap_or_default()
                .to_string()
        };
        let id = KeyBuilder::new("run of a build")
            .field("started", &since(self.started).as_nanos().to_be_bytes())
            .field("process", &std::process::id().to_be_bytes())
            .finish();
        Run {
            id: id.hex()[..32].to_owned(),
            started: text(self.started),
            finished: text(now),
        }
    }

    /// The list of packages of an image.
    fn packages(&self, store: &Store, lowered: &Lowered, image: &BuiltImage) -> anyhow::Result<Value> {
        let layers = image.layers.iter().map(|id| store.layer(id));
        let view = View::new(layers.collect::<Result<_, _>>()?);
        let inventory = sbom::scan(&view)?;
        let facts = read_config(&image.config, image.layers.len()).map_err(anyhow::Error::msg)?;
        let diff_ids: Vec<_> = facts.diff_ids.iter().map(|id| id.0).collect();
        let config: Value = serde_json::from_slice(&image.config)?;
        let created = config["created"]
            .as_str()
            .and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let created = match lowered.source_date_epoch {
            Some(epoch) => jiff::Timestamp::from_second(epoch).ok(),
            None => created.and_then(|time| jiff::Timestamp::from_second(time.as_second()).ok()),
        };
        let name = self.options.tags.first().map(Reference::familiar);
        let image = spdx::Image {
            name: name.as_deref().unwrap_or(&lowered.target),
            id: &rbuild_cache::Digest::of(&image.config),
            layers: &diff_ids,
            created: &created.unwrap_or_default().to_string(),
        };
        Ok(spdx::document(&image, &inventory))
    }

    /// Shows the search for packages as a step.
    fn shown(
        &self,
        lowered: &Lowered,
        search: impl FnOnce() -> anyhow::Result<Value>,
    ) -> Result<Value, BuildError> {
        let vertex = KeyBuilder::new("packages")
            .field("platform", lowered.platform.to_string().as_bytes())
            .finish();
        self.progress.emit(Event::Started {
            vertex,
            name: "[internal] list packages of the result".to_owned(),
            location: None,
            at: Instant::now(),
        });
        let found = search();
        self.progress.emit(Event::Finished {
            vertex,
            outcome: match &found {
                Ok(_) => VertexOutcome::Done,
                Err(error) => VertexOutcome::Failed(format!("{error:#}")),
            },
            at: Instant::now(),
        });
        Ok(found.context("listing the packages of the result")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(attest: &[&str], provenance: Option<&str>, sbom: Option<&str>) -> Result<Wanted, String> {
        let args = AttestArgs {
            attest: attest.iter().map(|text| (*text).to_owned()).collect(),
            provenance: provenance.map(str::to_owned),
            sbom: sbom.map(str::to_owned),
            metadata_file: None,
        };
        args.wanted().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn flags_are_those_of_buildx() {
        let mode = |wanted: Result<Wanted, String>| wanted.unwrap().provenance.map(|wish| wish.full);
        assert_eq!(mode(wanted(&[], None, None)), None);
        assert_eq!(mode(wanted(&["type=provenance"], None, None)), Some(true));
        assert_eq!(
            mode(wanted(&["type=provenance,mode=min"], None, None)),
            Some(false)
        );
        assert_eq!(
            mode(wanted(&[], Some("mode=min,inline-only=true"), None)),
            Some(false)
        );
        assert_eq!(mode(wanted(&[], Some("true"), None)), Some(true));
        assert_eq!(mode(wanted(&["type=provenance"], Some("false"), None)), None);
        assert_eq!(mode(wanted(&["type=provenance,disabled=true"], None, None)), None);
        assert!(
            wanted(&["type=sbom,inline=1"], None, None)
                .unwrap()
                .sbom
                .unwrap()
                .place
                .in_index
        );
        assert!(wanted(&[], None, Some("false")).unwrap().sbom.is_none());
        for (attest, error) in [
            ("", "EOF"),
            ("mode=max", "type is missing"),
            ("type=x", "not supported"),
            ("type=provenance,mode=all", "mode is min or max"),
            ("type=provenance,generator=x", "no key \"generator\""),
            ("type=provenance,version=v0.2", "is not written"),
            ("type=sbom,generator=x/y", "the generator is built in"),
            ("type=sbom,mode=max", "no key \"mode\""),
            ("type=sbom,inline=maybe", "true or false"),
            ("type=sbom,filename=../x", "name of a file"),
        ] {
            let found = wanted(&[attest], None, None).unwrap_err();
            assert!(found.contains(error), "{attest}: {found}");
        }
        assert!(
            wanted(&["type=sbom", "type=sbom"], None, None)
                .unwrap_err()
                .contains("twice")
        );
        assert!(wanted(&[], Some("."), None).unwrap_err().contains("--provenance"));
    }
}
