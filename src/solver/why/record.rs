//! What is kept of a build: the graph as data, with the keys of its vertices, and why what ran did.

use std::collections::BTreeMap;

use rbuild_cache::Key;
use serde::{Deserialize, Serialize};

use super::cause::Cause;
use crate::graph::{Op, Platform, Written};
use crate::solver::{Inputs, Plan};

/// What was asked of a build, as far as builds are told apart by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The context: a directory's path, a repository's address, `-`.
    pub context: String,
    /// Where the Dockerfile is.
    pub dockerfile: String,
    /// `--target`.
    pub target: Option<String>,
    /// `--platform`.
    pub platforms: Vec<String>,
    /// `--no-cache`.
    #[serde(skip)]
    pub no_cache: bool,
}

/// A build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildRecord {
    /// What was asked of it.
    pub asked: Asked,
    /// Whether all steps were done.
    pub succeeded: bool,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<i64>,
    /// The time that nothing was later than.
    pub clamp: Option<i64>,
    /// All vertices, inputs first.
    pub nodes: Vec<Node>,
    /// Why the steps ran that did.
    pub ran: BTreeMap<usize, Cause>,
}

/// A vertex as it was. Inputs are numbers of nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// Its definition key.
    pub key: Key,
    /// The key of the files that it leaves.
    pub root: Key,
    /// What it did.
    pub op: Op,
    /// What it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<usize>,
    /// What it copied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<usize>,
    /// Remote sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<usize>,
    /// What mounts read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<usize>,
    /// The key of the files that it read of a local directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Key>,
    /// Platform of the stage.
    pub platform: Platform,
    /// Name in the progress output.
    pub name: String,
    /// Line of the Dockerfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The instruction, if it is a numbered step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
}

/// The vertices of a plan as they are kept. Proxies are left out: they are in no key, and have passwords.
pub(super) fn nodes(inputs: &Inputs<'_>, plan: &Plan) -> Vec<Node> {
    let definition = inputs.definition;
    let node = |id: crate::graph::VertexId| {
        let vertex = definition.vertex(id);
        let mut op = vertex.op.clone();
        if let Op::Exec(exec) = &mut op {
            exec.proxy_env.clear();
        }
        let numbers = |ids: &[crate::graph::VertexId]| ids.iter().map(|id| id.0).collect();
        Node {
            key: plan.definitions[id.0],
            root: plan.roots[id.0],
            op,
            base: vertex.base.map(|id| id.0),
            source: vertex.source.map(|id| id.0),
            remotes: numbers(&vertex.remotes),
            mounts: numbers(&vertex.mounts),
            selection: plan.selections[id.0].as_ref().map(|selection| selection.key()),
            platform: vertex.platform.clone(),
            name: vertex.name.clone(),
            line: vertex.location.as_ref().map(|location| location.start),
            written: vertex.written.clone(),
        }
    };
    definition.ids().map(node).collect()
}
