//! The product's own decide and parse steps under random schedules: workers, clients, outboxes, L1, the shared connections
//! and their sinks are the real ones, with real bytes on both sides; only sockets, tasks and the clock are the test's. The
//! server is a model of Redis's default-mode tracking (`server`), the schedules are seeded walks (`walk`) over bounded
//! scenarios (`plan`), what must hold is in `check`, and `mutants` prove that it can be found broken.
//!
//! `NEARCACHE_COHERENCE_WALKS` sets the walks for each scenario, `NEARCACHE_COHERENCE_SEED` where they begin.

mod check;
mod cluster;
mod disk;
mod mutants;
mod plan;
mod rig;
mod server;
mod walk;
mod wire;

use std::thread;

use mutants::{MUTANTS, Mutant};
use plan::{SCENARIOS, Scenario};
use walk::{Walked, walk};

/// For each scenario; without optimisation about ten seconds for all of them.
const WALKS: u64 = 300;
const CONTROL_WALKS: u64 = 50;
/// A mutant must show itself within so many.
const WALKS_FOR_A_MUTANT: u64 = 20_000;

#[test]
fn no_schedule_shows_a_client_what_it_must_not_see() {
    let (walks, first) = (setting("WALKS", WALKS), setting("SEED", 0));
    let totals = side_by_side(SCENARIOS, |scenario: &&'static Scenario| {
        let mut walked = Walked::default();
        let found = walk(scenario, None, first..first + walks, &mut walked);
        let complaint = found.map(|found| {
            format!(
                "{}: {}\nseed {}\n{}",
                scenario.name, found.what, found.seed, found.story
            )
        });
        (*scenario, walked, complaint)
    });
    let complaints: Vec<&String> = totals
        .iter()
        .filter_map(|(_, _, complaint)| complaint.as_ref())
        .collect();
    assert!(
        complaints.is_empty(),
        "{}",
        complaints
            .iter()
            .map(|text| text.as_str())
            .collect::<Vec<_>>()
            .join("\n\n")
    );
    for (scenario, walked, _) in totals {
        let name = scenario.name;
        let Walked {
            walks,
            steps,
            hits,
            stale,
            repeats,
            late,
            joins,
            misses,
            below,
            stale_below,
            same,
            changed,
        } = walked;
        eprintln!(
            "{name}: {walks} walks, {steps} steps; {hits} hits, {stale} of them stale, {misses} misses, {joins} of them joined, {below} answered by L3, {same} of them by a digest, {changed} digests of something else; {repeats} reads sent again, {late} requests late"
        );
        assert!(hits > 0 && misses > 0, "{name} never tried L1");
        assert_eq!(
            repeats > 0,
            !scenario.kill.is_empty(),
            "{name}: {repeats} reads sent again"
        );
        assert_eq!(late > 0, scenario.request_ms.is_some(), "{name}: {late} requests late");
        assert_eq!(stale > 0, scenario.max_stale_ms.is_some(), "{name}: {stale} stale hits");
        assert!(!scenario.has_l3 || below > 0, "{name} never tried L3");
        assert_eq!(
            (same > 0, changed > 0),
            (scenario.revalidates, scenario.revalidates),
            "{name}: {same} and {changed} digests"
        );
        // Within a few milliseconds a read of the disk is rarely begun and ended.
        let must_be_stale = scenario.has_l3 && scenario.max_stale_ms.is_some_and(|ms| ms > 1000);
        let may_be_stale = scenario.has_l3 && scenario.max_stale_ms.is_some();
        assert!(
            (stale_below > 0 || !must_be_stale) && (stale_below == 0 || may_be_stale),
            "{name}: {stale_below} stale answers of L3"
        );
    }
}

#[test]
fn every_known_mistake_is_found() {
    let results = side_by_side(MUTANTS, |&(mutant, scenario)| {
        let mut walked = Walked::default();
        let found = walk(scenario, Some(mutant), 0..WALKS_FOR_A_MUTANT, &mut walked);
        (mutant, walked, found)
    });
    let mut missed = Vec::new();
    for (mutant, walked, found) in results {
        match found {
            Some(found) => eprintln!(
                "{mutant:?}: {} walks, seed {}: {}",
                walked.walks, found.seed, found.what
            ),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// What the mutants are found by is their mistake, not their way around the product's loop over frames.
#[test]
fn without_a_mistake_nothing_is_found() {
    let found = side_by_side(SCENARIOS, |scenario: &&'static Scenario| {
        walk(
            scenario,
            Some(Mutant::Control),
            0..CONTROL_WALKS,
            &mut Walked::default(),
        )
    });
    let complaints: Vec<String> = found.into_iter().flatten().map(|found| found.what).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_seed_gives_the_same_walk_again() {
    for scenario in SCENARIOS {
        let walked = [(); 2].map(|()| {
            let mut walked = Walked::default();
            assert!(walk(scenario, None, 7..9, &mut walked).is_none());
            (walked.steps, walked.hits, walked.joins)
        });
        assert_eq!(walked[0], walked[1], "{}", scenario.name);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(format!("NEARCACHE_COHERENCE_{name}"));
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Does all of them on two threads, in no particular order, and returns the results in the given one.
fn side_by_side<T: Sync, R: Send>(all: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let each = &each;
            scope.spawn(move || {
                all.iter()
                    .enumerate()
                    .filter(|(i, _)| i % 2 == half)
                    .map(|(i, t)| (i, each(t)))
                    .collect()
            })
        });
        let mut results: Vec<(usize, R)> = Vec::new();
        for half in halves {
            match half.join() {
                Ok(done) => results.extend::<Vec<(usize, R)>>(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results.sort_by_key(|(i, _)| *i);
        results.into_iter().map(|(_, result)| result).collect()
    })
}
