//! The graph itself: vertices in topological order.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_cache::{Key, KeyBuilder};
use serde::Serialize;

use super::{Op, Platform, Written};

/// Index of a vertex in its [`Definition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub usize);

/// Where in a Dockerfile a vertex comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file as the user named it, for messages.
    pub file: Arc<str>,
    /// First line, from 1.
    pub start: usize,
    /// Last line, inclusive.
    pub end: usize,
}

/// A node of the graph.
#[derive(Debug, Clone, Serialize)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// The vertex whose root file system it changes; `None` for sources and on scratch.
    #[serde(skip)]
    pub base: Option<VertexId>,
    /// The tree that a copy reads; `None` when all its operands are inline.
    #[serde(skip)]
    pub source: Option<VertexId>,
    /// The remote sources that a copy reads beside `source`, as [`super::RemotePath::source`] counts them.
    #[serde(skip)]
    pub remotes: Vec<VertexId>,
    /// What the mounts of a process read; [`super::MountKind`] counts them.
    #[serde(skip)]
    pub mounts: Vec<VertexId>,
    /// Name in the progress output: `[build 2/5] RUN make`.
    pub name: String,
    /// Where it was written.
    pub location: Option<Location>,
    /// The instruction, if it is a numbered step.
    #[serde(skip)]
    pub written: Option<Written>,
    /// Never taken from the cache (`--no-cache`, `--no-cache-filter`); its result is still recorded.
    pub no_cache: bool,
    /// Platform of the stage.
    pub platform: Platform,
}

/// Vertices in an order where every input comes before its user. Equal vertices are one.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    vertices: Vec<Vertex>,
    digests: Vec<Key>,
    known: HashMap<Key, VertexId>,
    stages: Vec<String>,
}

impl Definition {
    /// Adds a vertex, or finds the equal one that is there. Its inputs must be ids that this definition gave.
    pub fn add(&mut self, vertex: Vertex) -> VertexId {
        let digest = self.digest_of(&vertex);
        *self.known.entry(digest).or_insert_with(|| {
            self.vertices.push(vertex);
            self.digests.push(digest);
            VertexId(self.vertices.len() - 1)
        })
    }

    /// Says which names the Dockerfile gives to stages, needed or not.
    pub fn set_stages(&mut self, names: Vec<String>) {
        self.stages = names;
    }

    /// Names that the Dockerfile gives to stages, also to those that have no vertex because nothing needs them.
    pub fn stages(&self) -> &[String] {
        &self.stages
    }

    /// The vertex with this id.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0]
    }

    /// Its digest: of the operation and of its inputs' digests, not of names and locations.
    pub fn digest(&self, id: VertexId) -> Key {
        self.digests[id.0]
    }

    /// All ids, inputs first.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = VertexId> + use<> {
        (0..self.vertices.len()).map(VertexId)
    }

    /// The inputs of a vertex.
    pub fn inputs(&self, id: VertexId) -> impl Iterator<Item = VertexId> + use<'_> {
        let vertex = self.vertex(id);
        let inputs = vertex.base.into_iter().chain(vertex.source);
        inputs.chain(vertex.remotes.iter().chain(&vertex.mounts).copied())
    }

    /// Which vertices `targets` need, themselves included, by index.
    pub fn reachable(&self, targets: &[VertexId]) -> Vec<bool> {
        let mut needed = vec![false; self.vertices.len()];
        for target in targets {
            needed[target.0] = true;
        }
        for id in self.ids().rev() {
            if needed[id.0] {
                for input in self.inputs(id) {
                    needed[input.0] = true;
                }
            }
        }
        needed
    }

    /// The graph as data: `[{digest, op, base, source, name, location, ...}]`.
    pub fn to_json(&self) -> serde_json::Value {
        let digest = |id: Option<VertexId>| id.map(|id| self.digest(id).hex());
        self.ids()
            .map(|id| {
                let vertex = self.vertex(id);
                let mut value = serde_json::to_value(vertex).unwrap_or_default();
                value["digest"] = self.digest(id).hex().into();
                value["base"] = digest(vertex.base).into();
                value["source"] = digest(vertex.source).into();
                if !vertex.remotes.is_empty() {
                    let remotes = vertex.remotes.iter().map(|id| self.digest(*id).hex());
                    value["remotes"] = remotes.collect();
                }
                if !vertex.mounts.is_empty() {
                    value["mounts"] = vertex.mounts.iter().map(|id| self.digest(*id).hex()).collect();
                }
                value
            })
            .collect()
    }

    fn digest_of(&self, vertex: &Vertex) -> Key {
        let mut key = KeyBuilder::new("vertex/1");
        // serde_json writes struct fields in their order: the text is canonical.
        key.field(
            "op",
            serde_json::to_string(&vertex.op).unwrap_or_default().as_bytes(),
        );
        key.field("platform", vertex.platform.to_string().as_bytes());
        for (name, input) in [("base", vertex.base), ("source", vertex.source)] {
            if let Some(input) = input {
                key.field(name, &self.digest(input).0);
            }
        }
        if !vertex.remotes.is_empty() {
            key.list("remotes", vertex.remotes.iter().map(|id| self.digest(*id).0));
        }
        if !vertex.mounts.is_empty() {
            key.list("mounts", vertex.mounts.iter().map(|input| self.digest(*input).0));
        }
        key.field("no_cache", &[u8::from(vertex.no_cache)]);
        key.finish()
    }
}
