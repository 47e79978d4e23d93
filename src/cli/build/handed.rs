//! The flags for what the caller hands to RUN steps: secrets, ssh agents, directories.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail};

use crate::graph::{MountKind, MountOp};
use crate::source::agent::AgentSource;
use crate::source::leak::SecretScan;
use crate::source::secret::SecretSource;

/// Flags of a build.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "RUN steps")]
pub struct HandedArgs {
    /// Secret for RUN --mount=type=secret: id=NAME with src=FILE or env=VARIABLE
    #[arg(long = "secret", value_name = "id=NAME,src=FILE")]
    pub secrets: Vec<SecretSource>,
    /// SSH agent for RUN --mount=type=ssh: default (that of SSH_AUTH_SOCK), or a name with a socket or keys
    #[arg(long = "ssh", value_name = "default|ID=SOCKET|ID=KEY[,KEY]")]
    pub agents: Vec<AgentSource>,
    /// Directory or file of this machine to mount in every RUN; options: ro, rw, O (what is written is thrown away)
    #[arg(short = 'v', long = "volume", value_name = "HOST:PATH[:OPTIONS]")]
    volumes: Vec<Volume>,
    /// When the value of a secret is found in a new layer, the config or the output: error, warn or off
    #[arg(long = "secret-scan", value_name = "MODE", default_value = "error")]
    pub secret_scan: SecretScan,
}

impl HandedArgs {
    /// `--volume` as mounts.
    pub fn volumes(&self) -> anyhow::Result<Vec<MountOp>> {
        self.volumes.iter().map(Volume::mount).collect()
    }
}

/// A value of `--volume`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Directory or file of this machine.
    pub host: PathBuf,
    /// Absolute path in the step.
    pub target: String,
    /// `ro`.
    pub read_only: bool,
    /// `O`: what is written is thrown away.
    pub overlay: bool,
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let (host, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if host.is_empty() || !target.starts_with('/') {
            return Err("expected HOST:PATH[:OPTIONS] with an absolute PATH".to_owned());
        }
        let mut volume = Self {
            host: PathBuf::from(host),
            target: clean(target)?,
            read_only: false,
            overlay: false,
        };
        for option in parts
            .next()
            .unwrap_or_default()
            .split(',')
            .filter(|option| !option.is_empty())
        {
            match option {
                "ro" => volume.read_only = true,
                "rw" => volume.read_only = false,
                "O" => volume.overlay = true,
                // What there is anyway.
                "private" | "rprivate" | "nosuid" | "nodev" | "rbind" => {}
                "z" | "Z" => {
                    return Err(format!(
                        "{option}: labels of SELinux are not set by rbuild: use chcon"
                    ));
                }
                "U" => return Err("U: rbuild does not change the owner of files of the machine".to_owned()),
                "shared" | "rshared" | "slave" | "rslave" => {
                    return Err(format!("{option}: mounts of a step are never seen outside of it"));
                }
                other => return Err(format!("unknown option {other:?}: use ro, rw or O")),
            }
        }
        Ok(volume)
    }
}

/// An absolute path without `.`, `..` and doubled slashes.
fn clean(path: &str) -> Result<String, String> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.is_empty() || parts.contains(&"..") {
        return Err(format!(
            "{path:?} is no place for a volume: name a path below the root, without .."
        ));
    }
    Ok(format!("/{}", parts.join("/")))
}

impl Volume {
    fn mount(&self) -> anyhow::Result<MountOp> {
        let shown = self.host.display();
        let path = self
            .host
            .canonicalize()
            .with_context(|| format!("--volume: looking for {shown}"))?;
        if self.overlay && !path.is_dir() {
            bail!("--volume: {shown} is no directory, which the option O needs");
        }
        Ok(MountOp {
            target: self.target.clone(),
            read_only: self.read_only,
            kind: MountKind::Volume {
                path,
                overlay: self.overlay,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_podman_s() {
        let volume = |host: &str, target: &str, read_only, overlay| {
            Ok(Volume {
                host: host.into(),
                target: target.to_owned(),
                read_only,
                overlay,
            })
        };
        for (text, expected) in [
            ("/a:/b", volume("/a", "/b", false, false)),
            ("./a:/b/./c/:ro", volume("./a", "/b/c", true, false)),
            ("/a:/b:ro,rprivate", volume("/a", "/b", true, false)),
            ("/a:/b:O", volume("/a", "/b", false, true)),
        ] {
            assert_eq!(text.parse::<Volume>(), expected, "{text}");
        }
        for bad in [
            "/a",
            ":/b",
            "/a:b",
            "/a:/",
            "/a:/b/../c",
            "/a:/b:rshared",
            "/a:/b:slave",
            "/a:/b:Z",
            "/a:/b:U",
            "/a:/b:x",
        ] {
            assert!(bad.parse::<Volume>().is_err(), "{bad}");
        }
    }
}
