//! Where does `--load` go? Looked for before the build, as docker's and podman's own commands look: a daemon's socket, then
//! programs.

use std::env;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::Digest;
use serde_json::Value;

use super::Build;
use crate::cli::config::{docker_client, docker_directory};
use crate::exporter::engine::Engine;
use crate::exporter::{Output, OutputKind};
use crate::progress::{Event, Sink as _};
use crate::registry::Registry;

const CONTAINERD: &str = "/run/containerd/containerd.sock";

impl Build<'_> {
    /// Who takes what `--load` gives; looked for before the work is done. Where there is nobody, the images of the machine
    /// are those of our store.
    pub(super) fn engine(&self, registry: &Registry) -> anyhow::Result<Option<Engine>> {
        let outputs = &self.options.outputs;
        let for_docker =
            |output: &Output| matches!(output.kind, OutputKind::Load | OutputKind::Docker { .. });
        ensure!(
            self.options.platforms.len() < 2 && !self.options.as_index || !outputs.iter().any(for_docker),
            "docker exporter does not currently support exporting manifest lists: use type=oci, or give one --platform"
        );
        if !outputs.iter().any(|output| output.kind == OutputKind::Load) {
            return Ok(None);
        }
        match find(registry)? {
            Found::Engine(engine) => Ok(Some(engine)),
            Found::Nobody(looked) => {
                let message = format!(
                    "--load: there is no docker daemon, podman or containerd to load the image into, so it is in the store of \
                     rbuild only (looked for {looked}); -o type=docker,dest=FILE writes an archive"
                );
                self.progress.emit(Event::Warning {
                    message,
                    location: None,
                });
                Ok(None)
            }
        }
    }
}

/// Who is there to take an image.
enum Found {
    Engine(Engine),
    /// Nobody: where was looked.
    Nobody(String),
}

/// The first that is there. A daemon that the user has named has to be.
fn find(registry: &Registry) -> anyhow::Result<Found> {
    let named = [named("DOCKER_HOST")?, docker_context()?, named("CONTAINER_HOST")?];
    if let Some((by, address)) = named.into_iter().flatten().next() {
        let Some(socket) = address.strip_prefix("unix://") else {
            bail!(
                "--load: {by} is {address}, and only sockets of this machine (unix://) are supported: write an archive with -o type=docker,dest=FILE"
            );
        };
        let socket = PathBuf::from(socket);
        registry
            .ping_daemon(&socket)
            .with_context(|| format!("--load: {by} names a daemon that does not answer"))?;
        return Ok(Found::Engine(Engine::Daemon(socket)));
    }
    let mut looked = Vec::new();
    for socket in sockets() {
        if !is_socket(&socket) {
            looked.push(socket.display().to_string());
            continue;
        }
        match registry.ping_daemon(&socket) {
            Ok(()) => return Ok(Found::Engine(Engine::Daemon(socket))),
            Err(error) => looked.push(error.to_string()),
        }
    }
    if program("podman") {
        return Engine::start("podman", &["load", "-q"]).map(Found::Engine);
    }
    looked.push("the program podman".to_owned());
    if is_socket(Path::new(CONTAINERD)) {
        if program("nerdctl") {
            return Engine::start("nerdctl", &["load"]).map(Found::Engine);
        }
        if program("ctr") {
            return Engine::start("ctr", &["images", "import", "-"]).map(Found::Engine);
        }
        looked.push("nerdctl or ctr, for containerd".to_owned());
    } else {
        looked.push(CONTAINERD.to_owned());
    }
    Ok(Found::Nobody(looked.join(", ")))
}

/// An address that a variable names.
fn named(variable: &'static str) -> anyhow::Result<Option<(String, String)>> {
    match env::var(variable) {
        Ok(address) if !address.is_empty() => Ok(Some((variable.to_owned(), address))),
        Ok(_) | Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {variable}")),
    }
}

/// The address of docker's current context, if that is not the usual one.
fn docker_context() -> anyhow::Result<Option<(String, String)>> {
    let Some(directory) = docker_directory() else {
        return Ok(None);
    };
    let name = match env::var("DOCKER_CONTEXT") {
        Ok(name) if !name.is_empty() => name,
        _ => match docker_client()?["currentContext"].as_str() {
            Some(name) => name.to_owned(),
            None => return Ok(None),
        },
    };
    if name == "default" || name.is_empty() {
        return Ok(None);
    }
    let key = Digest::of(name.as_bytes());
    let path = directory.join("contexts/meta").join(key.hex()).join("meta.json");
    let described: Value = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?,
        Err(_) => Value::Null,
    };
    match described["Endpoints"]["docker"]["Host"].as_str() {
        Some(address) => Ok(Some((format!("docker's context {name:?}"), address.to_owned()))),
        None => bail!(
            "--load: docker's context {name:?} is not known: choose one with `docker context use`, or set DOCKER_HOST"
        ),
    }
}

/// Where daemons listen when nobody says otherwise.
fn sockets() -> Vec<PathBuf> {
    let below = |variable: &str, path: &str| env::var_os(variable).map(|dir| Path::new(&dir).join(path));
    let podman = match rustix::process::geteuid().is_root() {
        true => Some("/run/podman/podman.sock".into()),
        false => below("XDG_RUNTIME_DIR", "podman/podman.sock"),
    };
    let docker = [
        below("XDG_RUNTIME_DIR", "docker.sock"),
        Some("/var/run/docker.sock".into()),
        below("HOME", ".docker/run/docker.sock"),
        below("HOME", ".docker/desktop/docker.sock"),
    ];
    docker.into_iter().chain([podman]).flatten().collect()
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Whether there is a program of this name.
fn program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .any(|directory| rustix::fs::access(directory.join(name), rustix::fs::Access::EXEC_OK).is_ok())
}
