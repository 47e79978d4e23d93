//! All that a build is given: files, Dockerfile, ignore file, flags; and how it gets onto the disk.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::env::Env;
use crate::tar;

/// The files of one directory, parents before children.
pub type Files = BTreeMap<String, Node>;

/// A file of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File {
        content: String,
        mode: u32,
        xattr: Option<&'static str>,
    },
    Dir {
        mode: u32,
    },
    Link(String),
    /// Another name of a file.
    Hard(String),
    Fifo {
        mode: u32,
    },
    Tar {
        members: Vec<Member>,
        gzip: bool,
    },
}

/// A member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: &'static str,
    pub mode: u32,
    pub owner: u32,
    pub content: String,
    /// A symbolic link to this, instead of a file.
    pub link: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct World {
    pub files: Files,
    /// Of the context called `other`.
    pub other: Files,
    /// Instructions, heredocs included.
    pub dockerfile: Vec<String>,
    pub ignore: Vec<String>,
    pub args: BTreeMap<&'static str, String>,
    pub target: Option<String>,
    pub platform: Option<&'static str>,
    pub label: Option<String>,
}

impl World {
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        for (name, value) in &self.args {
            flags.push(format!("--build-arg={name}={value}"));
        }
        flags.extend(self.target.iter().map(|target| format!("--target={target}")));
        flags.extend(self.platform.map(|platform| format!("--platform={platform}")));
        flags.extend(self.label.iter().map(|label| format!("--label=l={label}")));
        flags
    }

    pub fn dockerfile_text(&self) -> String {
        self.dockerfile.join("\n") + "\n"
    }

    /// Makes the directories `ctx` and `other` of `env` what they are here. Only what differs from `before` is touched.
    pub fn write(&self, before: &World, env: &Env) {
        place(&before.files, &self.files, &env.path("ctx"), env);
        place(&before.other, &self.other, &env.path("other"), env);
        env.write("ctx/Dockerfile", self.dockerfile_text());
        env.write("ctx/.dockerignore", self.ignore.join("\n") + "\n");
    }
}

fn place(before: &Files, now: &Files, root: &Path, env: &Env) {
    let stays = |path: &String, node: &Node| {
        now.get(path)
            .is_some_and(|new| new == node || matches!((new, node), (Node::Dir { .. }, Node::Dir { .. })))
    };
    // A hard link is made anew with the file that it names.
    let changed = |node: &Node| matches!(node, Node::Hard(to) if before.get(to) != now.get(to));
    for (path, node) in before.iter().rev() {
        if !stays(path, node) || changed(node) {
            let path = root.join(path);
            match node {
                Node::Dir { .. } => fs::remove_dir(path).unwrap(),
                _ => fs::remove_file(path).unwrap(),
            }
        }
    }
    if !root.exists() {
        fs::create_dir(root).unwrap();
        env.own(root);
    }
    let hard = |(_, node): &(&String, &Node)| matches!(node, Node::Hard(_));
    for (path, node) in now.iter().filter(|it| !hard(it)).chain(now.iter().filter(hard)) {
        let unchanged = before.get(path) == Some(node);
        if !unchanged || changed(node) {
            make(node, &root.join(path), root);
            if !matches!(node, Node::Link(_)) {
                env.own(&root.join(path));
                // After the owner: changing that clears bits.
                chmod(node, &root.join(path));
            }
        }
    }
}

fn chmod(node: &Node, path: &Path) {
    if let Node::File { mode, .. } | Node::Dir { mode } | Node::Fifo { mode } = node {
        fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
    }
}

fn make(node: &Node, path: &Path, root: &Path) {
    match node {
        Node::File { content, xattr, .. } => {
            fs::write(path, content).unwrap();
            if let Some(value) = xattr {
                let flags = rustix::fs::XattrFlags::empty();
                // Where it is not supported it is as if it had none.
                let _ = rustix::fs::setxattr(path, "user.test", value.as_bytes(), flags);
            }
            old(path);
        }
        Node::Dir { .. } => {
            if !path.exists() {
                fs::create_dir(path).unwrap();
            }
        }
        Node::Link(target) => symlink(target, path).unwrap(),
        Node::Hard(to) => fs::hard_link(root.join(to), path).unwrap(),
        Node::Fifo { .. } => {
            let mode = rustix::fs::Mode::RUSR;
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }
        Node::Tar { members, gzip } => {
            let bytes = archive(members);
            if *gzip {
                let mut encoder = flate2::write::GzEncoder::new(
                    fs::File::create(path).unwrap(),
                    flate2::Compression::fast(),
                );
                encoder.write_all(&bytes).unwrap();
                encoder.finish().unwrap();
            } else {
                fs::write(path, bytes).unwrap();
            }
            old(path);
        }
    }
}

/// All files have one time: that of the last change tells nothing.
fn old(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .unwrap();
}

fn archive(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for member in members {
        let kind = match member.link {
            Some(_) => b'2',
            None if member.name.ends_with('/') => b'5',
            None => b'0',
        };
        let data = if kind == b'0' {
            member.content.as_bytes()
        } else {
            b""
        };
        let mut header = tar::header(member.name, kind, data.len() as u64, member.link.unwrap_or(""));
        header[100..108].copy_from_slice(format!("{:07o}\0", member.mode).as_bytes());
        header[108..116].copy_from_slice(format!("{:07o}\0", member.owner).as_bytes());
        // A time that rewrite-timestamp changes.
        header[136..148].copy_from_slice(format!("{:011o}\0", 1_600_000_000).as_bytes());
        tar::checksum(&mut header);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&tar::padded(data));
    }
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.dockerfile_text())?;
        writeln!(f, "flags: {:?}\nignored: {:?}", self.flags(), self.ignore)?;
        for (path, node) in &self.files {
            writeln!(f, "  {path}: {node:?}")?;
        }
        for (path, node) in &self.other {
            writeln!(f, "  other {path}: {node:?}")?;
        }
        Ok(())
    }
}
