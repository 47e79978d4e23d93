//! The corpus of `testdata/corpus`: Dockerfiles that make owners, modes, links, names and packages of every kind, each
//! built in every isolation tier. What a step sees by `stat` has to be what the case's file `expect` says, in all of
//! them, and the layers of the cases that need no network have to have the same digests.
//!
//! `RBUILD_CORPUS=all` builds every case in every tier; without it a selection is built that keeps the suite short and
//! still enters every tier. `RBUILD_CORPUS=NAME,NAME` and `RBUILD_CORPUS_TIERS=NAME,NAME` choose by name. The table of
//! results is printed at the end (`--nocapture`).

// A case, and how a build of it is judged.
mod case;
// Tiers that are containers.
mod container;
// The tiers: who builds, where, with which --isolation.
mod tier;

use std::collections::BTreeMap;
use std::time::Duration;

use case::{Case, Outcome};
use tier::{TIERS, Tier};

/// Results by case, in the order of the tiers.
type Table = BTreeMap<String, Vec<(Tier, Outcome)>>;

#[test]
fn every_tier_builds_the_corpus_alike() {
    let cases = case::selected();
    let Some(bases) = case::Bases::find() else { return };
    let exceptions = case::exceptions();
    let closed = |tier: &Tier| exceptions.iter().any(|(t, c)| t == tier.name && c == "*");
    let (closed, tiers): (Vec<Tier>, Vec<Tier>) = TIERS.into_iter().filter(tier::selected).partition(closed);
    for tier in closed {
        eprintln!(
            "skipped: the tier {}: see the exceptions of the corpus",
            tier.name
        );
    }
    let mut table = Table::new();
    // Two at a time: as many as continuous integration has processors.
    for pair in tiers.chunks(2) {
        let built: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = pair
                .iter()
                .map(|tier| scope.spawn(|| build_all(*tier, &cases, &bases)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (tier, outcomes) in pair.iter().zip(built) {
            for (name, outcome) in outcomes {
                table.entry(name).or_default().push((*tier, outcome));
            }
        }
    }
    print(&table);
    let failures = judge(&cases, &table);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// All cases that the tier takes, in its own store.
fn build_all(tier: Tier, cases: &[Case], bases: &case::Bases) -> Vec<(String, Outcome)> {
    let wanted: Vec<&Case> = cases.iter().filter(|case| tier::takes(tier, case)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let Some(place) = tier.open(bases) else {
        return Vec::new();
    };
    let built = wanted.iter().map(|case| (case.name.clone(), place.build(case)));
    built.collect()
}

/// What is wrong, in sentences.
fn judge(cases: &[Case], table: &Table) -> Vec<String> {
    let exceptions = case::exceptions();
    let mut failures = Vec::new();
    for (name, outcomes) in table {
        let case = cases.iter().find(|case| case.name == *name).unwrap();
        let mut layers: Option<(&str, &[String])> = None;
        for (tier, outcome) in outcomes {
            let excepted = exceptions.iter().any(|(t, c)| t == tier.name && c == name);
            let wrong = case.wrong(outcome);
            match (&wrong, excepted) {
                (Some(wrong), false) => failures.push(format!("{name} in tier {}: {wrong}", tier.name)),
                (None, true) => {
                    failures.push(format!("{name} in tier {}: an exception that works", tier.name))
                }
                _ => {}
            }
            let others = format!("{name}/layers");
            let others = exceptions.iter().any(|(t, c)| t == tier.name && *c == others);
            if wrong.is_some() || !case.is_deterministic() || others {
                continue;
            }
            match layers {
                None => layers = Some((tier.name, &outcome.layers)),
                Some((first, digests)) if digests != outcome.layers => failures.push(format!(
                    "{name}: layers of {first} and of {} differ:\n{}\n{}",
                    tier.name,
                    digests.join(" "),
                    outcome.layers.join(" ")
                )),
                Some(_) => {}
            }
        }
    }
    failures
}

/// The table: a line for each case, a column for each tier.
#[allow(clippy::print_stdout, reason = "the table is the report of this test")]
fn print(table: &Table) {
    let seconds = |time: Duration| format!("{:.1}s", time.as_secs_f64());
    for (name, outcomes) in table {
        let cells = outcomes.iter().map(|(tier, outcome)| {
            let result = if outcome.failure.is_none() { "ok" } else { "FAIL" };
            format!("{}: {result} {}", tier.name, seconds(outcome.time))
        });
        println!("{name:<20} {}", cells.collect::<Vec<_>>().join("  "));
    }
    let mut sums: BTreeMap<&str, (usize, usize, Duration)> = BTreeMap::new();
    for (tier, outcome) in table.values().flatten() {
        let (ok, all, time) = sums.entry(tier.name).or_default();
        *ok += usize::from(outcome.failure.is_none());
        *all += 1;
        *time += outcome.time;
    }
    for (tier, (ok, all, time)) in sums {
        println!("tier {tier}: {ok} of {all} built, {}", seconds(time));
    }
}
