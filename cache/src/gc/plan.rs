//! Which parts of the store a prune takes. Nothing is removed here.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use super::survey::{Found, FoundLayer, FoundRecord, Survey, age, worth_of_fetched};
use super::{PruneFilter, PruneKind, PruneOptions, PruneReport};
use crate::digest::{Digest, Key, LayerId};
use crate::error::StoreError;
use crate::mounts::FoundCacheMount;
use crate::store::Store;

/// A context that was not built for this long has its file digests forgotten.
const FORGET_FILES_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// What making anything again costs beside the work itself, in milliseconds: so that what took no time has a value.
const LEAST_WORTH: u64 = 10;

impl Store {
    pub(super) fn plan(&self, options: &PruneOptions) -> Result<Plan, StoreError> {
        let cutoff = options.until.and_then(|age| SystemTime::now().checked_sub(age));
        let pinned = self.0.session.oldest(&self.0.sessions, options.for_own_build)?;
        let may_go = |used: SystemTime| {
            cutoff.is_none_or(|cutoff| used < cutoff) && pinned.is_none_or(|pinned| used < pinned)
        };
        let images = self.images()?;
        let mut plan = Plan::default();
        let image_may_go = |kept| may_go(kept) && options.images_until.is_none_or(|until| kept < until);
        for image in images.iter().filter(|image| image.name.is_none()) {
            let tagged = image
                .created
                .as_deref()
                .and_then(|time| time.parse::<jiff::Timestamp>().ok());
            if options.takes_images() && tagged.is_none_or(|time| image_may_go(time.into())) {
                plan.images.push(image.descriptor.digest);
            }
        }
        plan.roots = images
            .iter()
            .map(|image| image.descriptor.digest)
            .filter(|digest| !plan.images.contains(digest))
            .collect();
        let needed = self.reachable(plan.roots.iter().copied().collect())?;
        let survey = self.survey(needed, &mut HashSet::new())?;
        plan.choose(&survey, options, &may_go, self.free_bytes()?);
        Ok(plan)
    }
}

/// What shall go.
#[derive(Default)]
pub(super) struct Plan {
    /// The images that stay.
    pub(super) roots: HashSet<Digest>,
    /// Nameless images.
    pub(super) images: Vec<Digest>,
    /// Records that lead nowhere, or to layers that stay.
    pub(super) records: Vec<Key>,
    pub(super) layers: Vec<LayerGoes>,
    /// Layers whose tree shall go.
    pub(super) trees: Vec<LayerId>,
    /// Blobs that nobody needs.
    pub(super) blobs: Vec<Digest>,
    pub(super) files: Vec<String>,
    /// Clones of repositories.
    pub(super) clones: Vec<String>,
    /// Directory and name of caches that steps mount.
    pub(super) mounts: Vec<(String, String)>,
    /// The operations whose lists of keys change; `None` when a record does not tell.
    pub(super) operations: HashSet<Option<Key>>,
    /// What that will give back.
    pub(super) bytes: u64,
}

/// A layer, and what goes with it.
pub(super) struct LayerGoes {
    pub(super) id: LayerId,
    pub(super) records: Vec<Key>,
    pub(super) blobs: Vec<Digest>,
}

/// Something that may go.
struct Candidate<'a> {
    what: What<'a>,
    bytes: u64,
    /// The higher, the sooner it goes.
    score: f64,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Layer(&'a LayerId, &'a FoundLayer),
    Tree(&'a LayerId),
    Clone(&'a str),
    Mount(&'a FoundCacheMount),
}

/// How little is lost with something: the longer nobody used it, the larger it is and the sooner it is made again, the less.
fn score(used: SystemTime, bytes: u64, worth_ms: u64) -> f64 {
    age(used).as_secs_f64().max(1.0) * bytes as f64 / (worth_ms + LEAST_WORTH) as f64
}

impl Plan {
    fn choose(
        &mut self,
        survey: &Survey,
        options: &PruneOptions,
        may_go: &dyn Fn(SystemTime) -> bool,
        free: u64,
    ) {
        let mut records: HashMap<&LayerId, Vec<&FoundRecord>> = HashMap::new();
        let mut astray = Vec::new();
        for record in &survey.records {
            match &record.record {
                Some(found) if survey.layers.contains_key(&found.layer) => {
                    records.entry(&found.layer).or_default().push(record);
                }
                // Damaged, or its layer is gone.
                _ => astray.push(record),
            }
        }
        let mut users: HashMap<&Digest, usize> = HashMap::new();
        for digest in survey.layers.values().flat_map(FoundLayer::blobs) {
            *users.entry(digest).or_default() += 1;
        }
        let mut blobs: HashMap<&Digest, &Found> = survey.blobs.iter().collect();
        blobs.retain(|digest, _| !survey.needed.blobs.contains(digest));
        if options.takes_regular() && options.filter.is_empty() {
            // Where a newer version left its mark, nobody knows what belongs to what.
            if survey.layers.values().all(|layer| layer.facts.is_some()) {
                blobs.retain(|digest, found| {
                    let goes = !users.contains_key(digest) && may_go(found.used);
                    if goes {
                        self.bytes += found.bytes;
                        self.blobs.push(**digest);
                    }
                    !goes
                });
            }
            astray.retain(|record| may_go(record.found.used));
            self.records.extend(astray.iter().map(|record| record.key));
            self.operations.extend(
                astray
                    .iter()
                    .map(|record| record.record.as_ref().map(|record| record.op)),
            );
        }

        let (mut candidates, total) = candidates(survey, &blobs, options);
        let keep = options.keep(total, free, self.bytes);
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut left = total;
        for candidate in candidates {
            if keep.is_some_and(|keep| left <= keep) {
                break;
            }
            let goes = match candidate.what {
                What::Layer(_, layer) => may_go(layer.used),
                What::Tree(id) => survey.layers.get(id).is_some_and(|layer| may_go(layer.used)),
                What::Clone(name) => survey
                    .clones
                    .iter()
                    .any(|(other, found)| other == name && may_go(found.used)),
                What::Mount(mount) => may_go(mount.used),
            };
            if !goes {
                continue;
            }
            left = left.saturating_sub(candidate.bytes);
            self.bytes += candidate.bytes;
            match candidate.what {
                What::Layer(id, layer) => {
                    let mut goes = LayerGoes {
                        id: id.clone(),
                        records: Vec::new(),
                        blobs: Vec::new(),
                    };
                    for record in records.get(id).into_iter().flatten() {
                        goes.records.push(record.key);
                        self.operations
                            .insert(record.record.as_ref().map(|record| record.op));
                    }
                    for digest in layer.blobs() {
                        let others = users.get_mut(digest).map_or(0, |count| {
                            *count = count.saturating_sub(1);
                            *count
                        });
                        if others == 0
                            && let Some(found) = blobs.remove(digest)
                        {
                            left = left.saturating_sub(found.bytes);
                            self.bytes += found.bytes;
                            goes.blobs.push(*digest);
                        }
                    }
                    self.layers.push(goes);
                }
                What::Tree(id) => self.trees.push(id.clone()),
                What::Clone(name) => self.clones.push(name.to_owned()),
                What::Mount(mount) => self.mounts.push((mount.name.clone(), mount.id.clone())),
            }
        }
        if options.all && keep.is_none() && options.takes_regular() && options.filter.is_empty() {
            let of_images = records.values().flatten().filter(|record| {
                let layer = record.record.as_ref().and_then(|it| survey.layers.get(&it.layer));
                layer.is_some_and(|layer| layer.needed) && may_go(record.found.used)
            });
            for record in of_images {
                self.records.push(record.key);
                self.operations
                    .insert(record.record.as_ref().map(|record| record.op));
            }
        }
        self.choose_files(survey, options, may_go, keep.is_some());
    }

    fn choose_files(
        &mut self,
        survey: &Survey,
        options: &PruneOptions,
        may_go: &dyn Fn(SystemTime) -> bool,
        limited: bool,
    ) {
        if !options.filter.is_empty() || !(options.takes_regular() || options.kind == Some(PruneKind::Local))
        {
            return;
        }
        let all = options.all && !limited || options.kind == Some(PruneKind::Local);
        for (name, found) in &survey.files {
            if may_go(found.used) && (all || age(found.used) > FORGET_FILES_AFTER) {
                self.bytes += found.bytes;
                self.files.push(name.clone());
            }
        }
    }

    /// What a prune that carries it out would report.
    pub(super) fn report(self) -> PruneReport {
        let records = self.records.len() + self.layers.iter().map(|layer| layer.records.len()).sum::<usize>();
        let mut blobs = self.blobs;
        let mut layers = Vec::new();
        for layer in self.layers {
            layers.push(layer.id);
            blobs.extend(layer.blobs);
        }
        PruneReport {
            images: self.images,
            layers,
            blobs,
            records: records as u64,
            mounts: self.mounts.into_iter().map(|(_, id)| id).collect(),
            freed: self.bytes,
        }
    }
}

/// What may go as far as the options say, and what all of it takes.
fn candidates<'a>(
    survey: &'a Survey,
    blobs: &HashMap<&Digest, &Found>,
    options: &PruneOptions,
) -> (Vec<Candidate<'a>>, u64) {
    let mut all = Vec::new();
    let mut total = 0;
    let mut add = |what: What<'a>, bytes: u64, more: u64, used: SystemTime, worth: u64| {
        total += bytes;
        all.push(Candidate {
            what,
            bytes,
            score: score(used, bytes + more, worth),
        });
    };
    let filter = &options.filter;
    if options.takes_regular() {
        let recorded: HashSet<&LayerId> = match options.kind {
            Some(PruneKind::Unused) => {
                let records = survey.records.iter().filter_map(|record| record.record.as_ref());
                records.map(|record| &record.layer).collect()
            }
            _ => HashSet::new(),
        };
        for (id, layer) in &survey.layers {
            if layer.held || !filter.admits_layer(id, layer) || recorded.contains(id) {
                continue;
            }
            let bytes = layer.removable();
            if !layer.needed {
                let more = layer.blobs().filter_map(|digest| blobs.get(digest));
                let more = more.map(|found| found.bytes).sum();
                add(What::Layer(id, layer), bytes, more, layer.used, layer.worth());
            } else if options.all && bytes > 0 {
                add(What::Tree(id), bytes, 0, layer.used, layer.worth());
            }
        }
        total += blobs.values().map(|found| found.bytes).sum::<u64>();
    }
    let mut add = |what, bytes, used, worth| {
        total += bytes;
        all.push(Candidate {
            what,
            bytes,
            score: score(used, bytes, worth),
        });
    };
    if options.takes_clones() {
        for (name, found) in survey
            .clones
            .iter()
            .filter(|(name, _)| filter.admits(name, "", false))
        {
            add(
                What::Clone(name),
                found.bytes,
                found.used,
                worth_of_fetched(found.bytes),
            );
        }
    }
    if options.takes_mounts() {
        for mount in survey
            .mounts
            .iter()
            .filter(|it| filter.admits(&it.name, &it.id, true))
        {
            add(
                What::Mount(mount),
                mount.bytes,
                mount.used,
                worth_of_fetched(mount.bytes),
            );
        }
    }
    (all, total)
}

impl PruneFilter {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn admits(&self, id: &str, description: &str, mutable: bool) -> bool {
        self.ids.iter().all(|wanted| id.contains(wanted.as_str()))
            && self
                .descriptions
                .iter()
                .all(|wanted| description.contains(wanted.as_str()))
            && self.mutable.is_none_or(|wanted| wanted == mutable)
            && self.shared.is_none_or(|wanted| !wanted)
    }

    fn admits_layer(&self, id: &LayerId, layer: &FoundLayer) -> bool {
        let own = Self {
            shared: None,
            ..self.clone()
        };
        own.admits(id.as_str(), &layer.description, false)
            && self.shared.is_none_or(|wanted| wanted == layer.needed)
    }
}

impl PruneOptions {
    fn takes_images(&self) -> bool {
        self.kind.is_none_or(|kind| kind == PruneKind::Regular)
    }

    pub(super) fn takes_regular(&self) -> bool {
        self.takes_images() || self.kind == Some(PruneKind::Unused)
    }

    fn takes_clones(&self) -> bool {
        self.kind == Some(PruneKind::Git) || self.all && self.takes_regular()
    }

    fn takes_mounts(&self) -> bool {
        self.kind == Some(PruneKind::CacheMounts) || self.all && self.kind.is_none()
    }

    /// How many bytes of the `total` stay, by BuildKit's rules, when `loose` bytes go in any case; `None` when nothing has
    /// to.
    fn keep(&self, total: u64, free: u64, loose: u64) -> Option<u64> {
        let mut keep = self.max_used;
        let mut at_most = |bytes: u64| keep = Some(keep.map_or(bytes, |keep| keep.min(bytes)));
        if let Some(wanted) = self.min_free {
            match wanted.checked_sub(free) {
                Some(excess) if excess > 0 => at_most(total.saturating_sub(excess)),
                // Enough is free: without another limit all may stay.
                _ if self.max_used.is_none() => at_most(total),
                _ => {}
            }
        }
        if let Some(bytes) = self.give_back {
            at_most(total.saturating_sub(bytes.saturating_sub(loose)));
        }
        match (keep, self.keep_storage) {
            (Some(keep), Some(reserved)) => Some(keep.max(reserved)),
            (keep, reserved) => keep.or(reserved),
        }
    }
}
