//! The flags of a build as they are typed. What they mean is in [`super::options`].

use std::path::PathBuf;

use rbuild_executor::{Isolation, Rlimit};

use super::attesting::AttestArgs;
use super::caching::CacheArgs;
use super::call::Call;
use super::confinement::ConfinementArgs;
use super::handed::HandedArgs;
use super::locked::LockedArgs;
use super::network::NetworkArgs;
use super::reception::ReceptionArgs;
use super::resources::ResourceArgs;
use super::space::size;
use crate::frontend::Entitlement;
use crate::progress::Mode;

const OUTPUT: &str = "Output";
const SOURCES: &str = "Sources";
const STEPS: &str = "RUN steps";

/// Build an image from a Dockerfile
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    // The heading of flattened flags holds for what follows them: plain flags come first.
    /// The build context: a directory, a Git repository (URL.git[#REF[:DIR]]), the address of an archive or a Dockerfile, or `-` for one on standard input
    #[arg(value_name = "PATH|URL|-")]
    pub(super) context: String,
    /// Name of the image, several times for several names
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub(super) tags: Vec<String>,
    /// Dockerfile, relative to the current directory, or in a context that is no directory; an address; `-` for standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "PATH|URL|-")]
    pub(super) file: Option<String>,
    /// Ignore file to use instead of .dockerignore
    #[arg(long, value_name = "PATH")]
    pub(super) ignorefile: Option<PathBuf>,
    /// What counts of the files of a directory: raw, all metadata; git, only whether they are executable
    #[arg(long, value_name = "MODE", default_value = "raw")]
    pub(super) context_mode: Metadata,
    /// Value of an ARG; without `=` it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(super) build_args: Vec<String>,
    /// Directory, docker-image://NAME, oci-layout://DIR[:TAG], a Git repository or the address of a file to use for a stage or image of this name
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub(super) build_contexts: Vec<String>,
    /// Stage to build, by name or number [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// Platforms of the image, for example linux/amd64,linux/arm64 [default: that of this machine]
    #[arg(
        long,
        value_name = "OS/ARCH",
        env = "DOCKER_DEFAULT_PLATFORM",
        hide_env = true
    )]
    pub(super) platform: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "NAME[=VALUE]")]
    pub(super) labels: Vec<String>,
    /// Annotation, for example manifest[linux/arm64]:NAME=VALUE; on manifest, index, manifest-descriptor or index-descriptor
    #[arg(long = "annotation", value_name = "[TYPE:]NAME=VALUE")]
    pub(super) annotations: Vec<String>,
    /// Steps that run at the same time, 0 for no limit [default: up to 32 RUN, and as many COPY as there are processors]
    #[arg(long, value_name = "NUMBER")]
    pub(super) jobs: Option<usize>,
    /// Look for what is doubtful or wrong in the Dockerfile instead of building: --call=check
    #[arg(long, conflicts_with = "call")]
    pub(super) check: bool,
    /// Ask something of the Dockerfile: build, check, outline or targets, with ,format=text, json or (check) sarif
    #[arg(
        long,
        value_name = "METHOD",
        default_value = "build",
        hide_default_value = true
    )]
    pub(super) call: Call,
    /// Print nothing but the image id
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// How progress is shown: auto, tty, plain or quiet
    #[arg(long, value_name = "MODE", env = "BUILDKIT_PROGRESS", hide_env = true)]
    pub(super) progress: Option<Mode>,
    /// Where the result goes, for example type=oci,dest=image.tar [default: the local store]
    #[arg(short, long = "output", value_name = "OUTPUT", help_heading = OUTPUT)]
    pub(super) outputs: Vec<String>,
    /// Push the image, as -o type=registry does
    #[arg(long, help_heading = OUTPUT)]
    pub(super) push: bool,
    /// Also put the image into the docker daemon, podman or containerd of this machine, as -o type=docker does
    #[arg(long, help_heading = OUTPUT)]
    pub(super) load: bool,
    /// File to write the image id to
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(super) iidfile: Option<PathBuf>,
    #[command(flatten)]
    pub(super) attesting: AttestArgs,
    /// Ask the registry for every base image, also for those in the store
    #[arg(long, help_heading = SOURCES)]
    pub(super) pull: bool,
    #[command(flatten)]
    pub(super) locked: LockedArgs,
    #[command(flatten)]
    pub(super) reception: ReceptionArgs,
    #[command(flatten)]
    pub(super) caching: CacheArgs,
    /// What the store may take on its disk: before and after the build and between its steps, what is worth least goes
    #[arg(long, value_name = "SIZE", help_heading = "Cache", env = "RBUILD_STORE_MAX", hide_env_values = true, value_parser = size)]
    pub(super) store_max: Option<u64>,
    /// What has to stay free on the disk of the store
    #[arg(long, value_name = "SIZE", help_heading = "Cache", env = "RBUILD_MIN_FREE", hide_env_values = true, value_parser = size)]
    pub(super) min_free: Option<u64>,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
    /// What RUN steps may do beyond the usual: network.host or security.insecure
    #[arg(long, value_name = "RIGHT", help_heading = STEPS)]
    pub(super) allow: Vec<Entitlement>,
    /// How RUN steps are kept apart from the machine: auto, userns, userns-single, root or chroot
    #[arg(
        long,
        value_name = "TIER",
        help_heading = STEPS,
        default_value = "auto",
        env = "RBUILD_ISOLATION",
        hide_env = true
    )]
    pub(super) isolation: Isolation,
    #[command(flatten)]
    pub(super) handed: HandedArgs,
    #[command(flatten)]
    pub(super) confinement: ConfinementArgs,
    /// Limit of each process, for example nofile=1024:2048
    #[arg(
        long = "ulimit",
        value_name = "NAME=SOFT[:HARD]",
        help_heading = "Resource limits"
    )]
    pub(super) ulimits: Vec<Rlimit>,
    #[command(flatten)]
    pub(super) resources: ResourceArgs,
}

impl BuildArgs {
    /// Whether something is to be made of the image.
    pub(super) fn makes_something(&self) -> bool {
        !self.outputs.is_empty()
            || self.push
            || self.load
            || self.iidfile.is_some()
            || self.attesting.metadata_file.is_some()
    }
}

/// `--context-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Metadata {
    /// All that the file system has.
    Raw,
    /// What git keeps.
    Git,
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn plain_flags_are_under_no_heading_of_others() {
        let command = BuildArgs::augment_args(clap::Command::new("build"));
        let heading = |id: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id).unwrap();
            arg.get_help_heading()
        };
        for id in ["context", "tags", "platform", "jobs", "quiet"] {
            assert_eq!(heading(id), None, "{id}");
        }
        for (id, expected) in [
            ("outputs", OUTPUT),
            ("sbom", OUTPUT),
            ("pull", SOURCES),
            ("locked", SOURCES),
            ("min_free", "Cache"),
            ("isolation", STEPS),
            ("secrets", STEPS),
            ("memory", "Resource limits"),
        ] {
            assert_eq!(heading(id), Some(expected), "{id}");
        }
    }
}
