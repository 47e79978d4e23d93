//! Which step of the last build each step of this one was. Steps of a stage keep their order, so an inserted line takes
//! nobody's place.

use super::record::Node;
use super::words::likeness;
use crate::graph::{Platform, Written};

/// Stages with more pairs of steps than this are matched in order, without looking at texts.
const MOST_PAIRS: usize = 1 << 16;

/// Which node of the last build each node is.
#[derive(Debug)]
pub(super) struct Pairs {
    nodes: Vec<Option<usize>>,
    /// Whether it is in a stage that the last build had.
    known: Vec<bool>,
}

impl Pairs {
    /// There was no last build.
    pub(super) fn of_nothing(length: usize) -> Self {
        Self {
            nodes: vec![None; length],
            known: vec![false; length],
        }
    }

    /// The node that `number` was.
    pub(super) fn of(&self, number: usize) -> Option<usize> {
        self.nodes[number]
    }

    /// Whether the last build had nothing of the stage that `number` is in.
    pub(super) fn is_of_new_stage(&self, number: usize) -> bool {
        !self.known[number]
    }
}

/// For each node of `new`, the one of `old` that it was. Only numbered steps are matched. `names` are those of all stages
/// of the Dockerfile.
pub(super) fn pairs(old: &[Node], new: &[Node], names: &[String]) -> Pairs {
    let mut pairs = Pairs::of_nothing(new.len());
    let (old_stages, new_stages) = (stages(old), stages(new));
    for (stage, other) in matched_stages(&old_stages, &new_stages, names) {
        for (number, _) in &stage.steps {
            pairs.known[*number] = true;
        }
        let matched = matched(&other.steps, &stage.steps);
        // What is left over and has the same text was moved.
        let mut left: Vec<usize> = (0..other.steps.len()).collect();
        left.retain(|i| matched.iter().all(|(known, _)| known != i));
        for (j, (number, written)) in stage.steps.iter().enumerate() {
            let kept = matched.iter().find(|(_, known)| *known == j).map(|(i, _)| *i);
            let moved = || {
                let place = left.iter().position(|i| other.steps[*i].1.text == written.text)?;
                Some(left.remove(place))
            };
            pairs.nodes[*number] = kept.or_else(moved).map(|i| other.steps[i].0);
        }
    }
    pairs
}

/// Which stage of the last build each stage was: that of its name. What is left over was renamed, and is matched from the
/// end, because the last stage is the result; but a stage whose name is still in the Dockerfile is only not needed.
fn matched_stages<'a, 'b>(
    old: &'b [Stage<'a>],
    new: &'b [Stage<'a>],
    names: &[String],
) -> Vec<(&'b Stage<'a>, &'b Stage<'a>)> {
    let mut matched = Vec::new();
    let mut left: Vec<&Stage<'_>> = Vec::new();
    for stage in new {
        let mut same = old.iter().filter(|other| other.name == stage.name);
        let of_platform = same.clone().find(|other| other.platform == stage.platform);
        match of_platform.or_else(|| same.next()) {
            Some(other) => matched.push((stage, other)),
            None => left.push(stage),
        }
    }
    let is_gone = |other: &&Stage<'_>| {
        let stays = new.iter().any(|stage| stage.name == other.name);
        !stays && names.iter().all(|name| name != other.name)
    };
    let mut gone: Vec<&Stage<'_>> = old.iter().filter(is_gone).collect();
    for stage in left.into_iter().rev() {
        if let Some(place) = gone.iter().rposition(|other| other.platform == stage.platform) {
            matched.push((stage, gone.remove(place)));
        }
    }
    matched
}

struct Stage<'a> {
    name: &'a str,
    platform: &'a Platform,
    steps: Vec<(usize, &'a Written)>,
}

/// The numbered steps by stage, in order.
fn stages(nodes: &[Node]) -> Vec<Stage<'_>> {
    let mut stages: Vec<Stage<'_>> = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let Some(written) = &node.written else { continue };
        let (name, platform) = (written.stage.as_str(), &node.platform);
        let known = stages
            .iter_mut()
            .find(|stage| stage.name == name && stage.platform == platform);
        match known {
            Some(stage) => stage.steps.push((number, written)),
            None => stages.push(Stage {
                name,
                platform,
                steps: vec![(number, written)],
            }),
        }
    }
    stages
}

/// The pairs of places with the most in common, in order.
fn matched(old: &[(usize, &Written)], new: &[(usize, &Written)]) -> Vec<(usize, usize)> {
    // Most of two versions is the same.
    let same = |(one, other): &(&(usize, &Written), &(usize, &Written))| one.1.text == other.1.text;
    let head = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest
        .iter()
        .rev()
        .zip(new_rest.iter().rev())
        .take_while(same)
        .count();
    let (old_rest, new_rest) = (
        &old_rest[..old_rest.len() - tail],
        &new_rest[..new_rest.len() - tail],
    );
    let mut pairs: Vec<(usize, usize)> = (0..head).map(|place| (place, place)).collect();
    pairs.extend(
        best(old_rest, new_rest)
            .into_iter()
            .map(|(i, j)| (head + i, head + j)),
    );
    pairs.extend((0..tail).map(|place| (old.len() - tail + place, new.len() - tail + place)));
    pairs
}

fn best(old: &[(usize, &Written)], new: &[(usize, &Written)]) -> Vec<(usize, usize)> {
    if old.len().saturating_mul(new.len()) > MOST_PAIRS {
        return (0..old.len().min(new.len()))
            .map(|place| (place, place))
            .collect();
    }
    let worth = |i: usize, j: usize| worth(&old[i].1.text, &new[j].1.text);
    let width = new.len() + 1;
    // The most that can be had from each pair of places on.
    let mut most = vec![0usize; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let apart = most[(i + 1) * width + j].max(most[i * width + j + 1]);
            most[i * width + j] = match worth(i, j) {
                0 => apart,
                worth => apart.max(worth + most[(i + 1) * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < old.len() && j < new.len() {
        let here = most[i * width + j];
        if here == most[(i + 1) * width + j] {
            i += 1;
        } else if here == most[i * width + j + 1] {
            j += 1;
        } else {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        }
    }
    pairs
}

/// What it is worth to take one text for another version of the other: nothing for different instructions.
fn worth(old: &str, new: &str) -> usize {
    let keyword = |text: &str| text.split_whitespace().next().map(str::to_ascii_uppercase);
    if old == new {
        3000
    } else if keyword(old) == keyword(new) {
        1 + likeness(old, new)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(texts: &[&str]) -> Vec<Written> {
        let one = |(step, text): (usize, &&str)| Written {
            stage: "s".to_owned(),
            step,
            text: (*text).to_owned(),
            variables: Vec::new(),
        };
        texts.iter().enumerate().map(one).collect()
    }

    #[test]
    fn steps_are_found_again() {
        for (old, new, pairs) in [
            (&["A", "B"][..], &["A", "B"][..], &[(0, 0), (1, 1)][..]),
            (
                &["RUN a", "RUN b"],
                &["RUN a", "RUN x", "RUN b"],
                &[(0, 0), (1, 2)],
            ),
            (
                &["RUN a", "RUN b", "RUN c"],
                &["RUN a", "RUN c"],
                &[(0, 0), (2, 1)],
            ),
            (&["RUN one two"], &["RUN x", "RUN one 2"], &[(0, 1)]),
            (&["RUN a"], &["COPY a /"], &[]),
            (&["RUN a", "RUN b"], &["RUN b", "RUN a"], &[(1, 0)]),
            (
                &["RUN a", "COPY b /"],
                &["RUN a2", "COPY b2 /"],
                &[(0, 0), (1, 1)],
            ),
            (&[], &["RUN a"], &[]),
        ] {
            let (old, new) = (written(old), written(new));
            let old: Vec<(usize, &Written)> = old.iter().enumerate().collect();
            let new: Vec<(usize, &Written)> = new.iter().enumerate().collect();
            assert_eq!(matched(&old, &new), pairs, "{new:?}");
        }
    }
}
