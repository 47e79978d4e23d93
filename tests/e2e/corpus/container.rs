//! Containers in which rbuild builds: root with Docker's capabilities, or an ordinary user, without subordinate ids.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::case::{self, Bases};
use crate::env::{Env, Run, rbuild_binary};

/// Where the contexts are in the container.
pub const CONTEXTS: &str = "/contexts";

/// The system calls that a container allows.
#[derive(Clone, Copy, PartialEq)]
pub enum Filter {
    /// podman's own: user namespaces may be made, and mounts in them.
    Podman,
    /// Docker's: neither.
    Docker,
}

/// A container that runs nothing but what is executed in it. Its store is on its own root file system, as in CI.
pub struct Container {
    storage: PathBuf,
    runtime: PathBuf,
    id: String,
}

/// Docker's default capabilities; podman gives fewer.
const CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

impl Container {
    /// Starts one that sees the contexts and the archives of the bases.
    pub fn start(env: &Env, user: Option<u32>, filter: Filter, contexts: &Path, bases: &Bases) -> Self {
        let image = env.path("container.tar");
        pack(env, bases, &image);
        let mut container = Self {
            storage: env.path("podman"),
            runtime: env.path("podman-run"),
            id: String::new(),
        };
        container.podman(&["import", "-q", image.to_str().unwrap(), "rbuild"]);
        let mount = |from: &Path, to: &str| format!("--volume={}:{to}:ro", from.display());
        let mounts = [
            mount(contexts, CONTEXTS),
            mount(&bases.busybox, &Self::base(&bases.busybox)),
            mount(&bases.debian, &Self::base(&bases.debian)),
        ];
        let mut args = vec!["run", "-d", "--network=host", "--runtime=/usr/sbin/runc"];
        args.extend([
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=4096:4096",
            "--cap-drop=all",
        ]);
        let capabilities = CAPABILITIES.map(|name| format!("--cap-add={name}"));
        args.extend(capabilities.iter().map(String::as_str));
        let user = user.map(|id| format!("--user={id}:{id}"));
        args.extend(user.as_deref());
        let profile = env.path("docker-seccomp.json");
        let option = format!("--security-opt=seccomp={}", profile.display());
        if filter == Filter::Docker {
            fs::write(&profile, docker_profile().to_string()).unwrap();
            args.push(&option);
        }
        args.extend(mounts.iter().map(String::as_str));
        args.extend(["rbuild", "sleep", "100000"]);
        container.id = container.podman(&args).trim().to_owned();
        container
    }

    /// Where the archive of a base is in the container.
    pub fn base(archive: &Path) -> String {
        format!("/bases/{}", archive.file_name().unwrap().display())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(&self.storage)
            .arg("--runroot")
            .arg(&self.runtime);
        command.args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs"]);
        command.args(["--runtime=/usr/sbin/runc"]).stdin(Stdio::null());
        command
    }

    fn podman(&self, args: &[&str]) -> String {
        let run: Run = self.command().args(args).output().unwrap().into();
        run.ok().stdout
    }

    /// Runs rbuild in the container.
    pub fn exec(&self, args: &[&str]) -> Run {
        let mut command = self.command();
        command.args(["exec", &self.id, "/usr/bin/rbuild", "--root", "/store/rbuild"]);
        command.args(args).output().unwrap().into()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "-f", "-t", "0", &self.id]).output();
        let _ = self.command().args(["rmi", "-af"]).output();
        // podman mounts the directory of its overlays over itself.
        let _ = Command::new("umount").arg(self.storage.join("overlay")).output();
        case::remove(&self.storage);
    }
}

/// Packs the container's image: the busybox base and rbuild.
fn pack(env: &Env, bases: &Bases, image: &Path) {
    let root = env.path("container");
    fs::create_dir(&root).unwrap();
    let unpacked = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-xpf")
        .arg(&bases.busybox)
        .status();
    assert!(unpacked.unwrap().success());
    fs::copy(rbuild_binary(), root.join("usr/bin/rbuild")).unwrap();
    for directory in ["store", "home"] {
        fs::create_dir(root.join(directory)).unwrap();
        fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o1777)).unwrap();
    }
    let _ = symlink("/proc/self/mounts", root.join("etc/mtab"));
    let packed = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(image)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    case::remove(&root);
}

/// What podman's profile allows and Docker's does not to a process without CAP_SYS_ADMIN.
const NOT_IN_DOCKER: [&str; 23] = [
    "add_key",
    "clone",
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "swapoff",
    "swapon",
    "syslog",
    "umount",
    "umount2",
    "unshare",
];

/// Docker's default profile, made of podman's: nothing that makes namespaces or mounts.
fn docker_profile() -> Value {
    let text = fs::read_to_string("/usr/share/containers/seccomp.json").unwrap();
    let mut profile: Value = serde_json::from_str(&text).unwrap();
    profile["defaultErrnoRet"] = json!(1);
    profile["defaultErrno"] = json!("EPERM");
    let rules = profile["syscalls"].as_array_mut().unwrap();
    rules.retain(|rule| !rule.to_string().contains("CAP_SYS_ADMIN"));
    for rule in rules.iter_mut() {
        let names = rule["names"].as_array_mut().unwrap();
        names.retain(|name| !NOT_IN_DOCKER.contains(&name.as_str().unwrap()));
    }
    rules.retain(|rule| rule["names"].as_array().is_some_and(|names| !names.is_empty()));
    // Threads and processes, without the seven flags that make namespaces.
    rules.push(json!({
        "names": ["clone"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 0x7E02_0000_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
    }));
    rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    profile
}
