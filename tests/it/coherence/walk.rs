//! Random schedules. A walk is a seed: the same seed gives the same steps, so a complaint can be told as a story.

use std::ops::Range;

use tokio::runtime::{Builder, LocalOptions};

use super::check::Checked;
use super::mutants::Mutant;
use super::plan::{Budget, Op, Scenario, WINDOW, Whose, requests};
use super::rig::Rig;
use super::server::{KEYS, said};
use super::wire;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The server closes; what it wrote still arrives, then the end.
    Closed,
    /// What it wrote is lost too.
    Reset,
    /// The proxy closes; what it sent may still be executed.
    Cut,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Issue(usize),
    Turn(usize),
    Serve(usize),
    EndTurn,
    Arrive(usize),
    OwnArrive(usize),
    ScriptsArrive(usize),
    Message(usize),
    Connect(usize),
    Orphan,
    DropOrphans,
    Late,
    Foreign(Op, usize),
    Purge(usize),
    Kill(Whose, How),
    Tick,
    Delete(usize),
    Spurious(usize),
    Probe(usize),
    Sweep,
    Squeeze,
    WriteDisk,
    ReadDisk,
    /// A worker no longer waits for the disk.
    GiveUp(usize),
}

impl Action {
    /// What happens by itself sooner or later, unlike what the surroundings may do or not.
    fn is_progress(self) -> bool {
        use Action::*;
        matches!(
            self,
            Turn(_)
                | Serve(_)
                | EndTurn
                | Arrive(_)
                | OwnArrive(_)
                | ScriptsArrive(_)
                | Message(_)
                | Connect(_)
                | Orphan
                | DropOrphans
                | Late
                | WriteDisk
                | ReadDisk
        )
    }
}

pub struct Found {
    pub seed: u64,
    pub what: String,
    pub story: String,
}

#[derive(Default)]
pub struct Walked {
    pub walks: u64,
    pub steps: u64,
    pub hits: u64,
    pub stale: u64,
    /// Requests that were answered with an error since it took too long.
    pub late: u64,
    /// Reads sent again after a loss.
    pub repeats: u64,
    pub joins: u64,
    pub misses: u64,
    /// Answered by L3.
    pub below: u64,
    /// Of these, from entries for which nobody vouched.
    pub stale_below: u64,
    /// Copies of which the server said that it has the same, and those of which it did not.
    pub same: u64,
    pub changed: u64,
}

/// Walks until something is wrong. The count is of the seeds that were tried.
pub fn walk(
    scenario: &'static Scenario,
    mutant: Option<Mutant>,
    seeds: Range<u64>,
    walked: &mut Walked,
) -> Option<Found> {
    for seed in seeds {
        walked.walks += 1;
        if let Err(what) = one(scenario, mutant, seed, walked, &mut None) {
            let mut story = Some(String::new());
            let again = one(scenario, mutant, seed, &mut Walked::default(), &mut story);
            assert_eq!(again, Err(what.clone()), "a seed gives the same walk");
            return Some(Found {
                seed,
                what,
                story: story.unwrap_or_default(),
            });
        }
    }
    None
}

fn one(
    scenario: &'static Scenario,
    mutant: Option<Mutant>,
    seed: u64,
    walked: &mut Walked,
    story: &mut Option<String>,
) -> Checked {
    let runtime = Builder::new_current_thread()
        .build_local(LocalOptions::default())
        .expect("a runtime");
    // Nothing in here waits, so the tasks that a worker starts for its connections never run.
    runtime.block_on(async {
        let mut random = fastrand::Rng::with_seed(seed);
        let rig = Rig::new(scenario, mutant, &mut random);
        let briskness = [0, 30, 60, 85][random.usize(0..4)];
        let slow = random.bool().then(|| random.usize(0..rig.workers.len()));
        let mut walk = Walk {
            rig,
            random,
            budget: scenario.budget,
            actions: Vec::new(),
            briskness,
            slow,
            story,
        };
        let result = walk.run(walked);
        for worker in &walk.rig.workers {
            let counters = worker.counters();
            walked.hits += counters.l1_hits_total.value();
            walked.repeats += counters.repeats_total.value();
            walked.late += counters.late_total.value();
            walked.stale += counters.l1_stale_total.value() + counters.l3_stale_total.value();
            walked.stale_below += counters.l3_stale_total.value();
            walked.joins += counters.followers_total.value();
            walked.misses += counters.l1_misses_total.value();
            walked.below += counters.l3_hits_total.value();
            walked.same += counters.l3_same_total.value();
            walked.changed += counters.l3_changed_total.value();
        }
        walk.rig.dismantle();
        result
    })
}

struct Walk<'a> {
    rig: Rig,
    random: fastrand::Rng,
    budget: Budget,
    actions: Vec<Action>,
    /// Percent.
    briskness: u8,
    /// A worker whose server's stream is long on its way.
    slow: Option<usize>,
    story: &'a mut Option<String>,
}

impl Walk<'_> {
    fn run(&mut self, walked: &mut Walked) -> Checked {
        loop {
            self.collect();
            if !self.actions.iter().any(|action| action.is_progress()) {
                self.rig.check_quiet()?;
            }
            if self.actions.is_empty() {
                return Ok(());
            }
            let action = self.choose();
            walked.steps += 1;
            // Every step has a time of its own.
            self.pass_time(self.rig.scenario.step_us);
            self.tell(|| format!("{action:?}"));
            self.step(action)?;
            self.rig.check()?;
        }
    }

    /// Any of them; in a brisk walk mostly one that goes on with what was begun, so that L1 has something to answer from,
    /// and rarely one of the slow stream.
    fn choose(&mut self) -> Action {
        let is_brisk = self.random.u8(0..100) < self.briskness;
        let is_patient = self.random.u8(0..8) > 0;
        // Where stale entries are shown the upstream is away for some time.
        let is_away = self.rig.scenario.max_stale_ms.is_some();
        let is_slow = |action: &Action| match *action {
            Action::Arrive(w) => is_patient && self.slow == Some(w),
            Action::Connect(_) => is_patient && is_away,
            _ => false,
        };
        let wanted = |action: &&Action| (!is_brisk || action.is_progress()) && !is_slow(action);
        match self.actions.iter().filter(wanted).count() {
            0 => self.actions[self.random.usize(0..self.actions.len())],
            some => {
                let nth = self.random.usize(0..some);
                self.actions.iter().filter(wanted).nth(nth).copied().expect("counted")
            }
        }
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut *self.story {
            story.push_str(&format!("{:>8} {}\n", self.rig.now_us, what()));
        }
    }

    fn pass_time(&mut self, us: u64) {
        self.rig.now_us += us;
        self.rig.server.pass_time(self.rig.now_us);
    }

    fn collect(&mut self) {
        let Walk {
            rig, budget, actions, ..
        } = self;
        actions.clear();
        for (s, session) in rig.sessions.iter().enumerate() {
            let plan = &rig.scenario.sessions[s];
            if session.is_gone {
                continue;
            }
            let is_time = plan.least_entries == 0 || rig.shared.cache.stats().entries >= plan.least_entries;
            if is_time && session.issued < plan.commands && session.issued - session.answered < WINDOW {
                actions.push(Action::Issue(s));
            }
            if !session.input.is_empty() && !session.is_stalled {
                actions.push(Action::Turn(s));
            }
            let own = &rig.server.conns[rig.own_conn(s)];
            if rig.server.has_request(rig.own_conn(s)) {
                actions.push(Action::Serve(rig.own_conn(s)));
            }
            if !own.output.is_empty() || own.is_ended {
                actions.push(Action::OwnArrive(s));
            }
        }
        for (w, tracked) in rig.tracked.iter().enumerate() {
            let conn = &rig.server.conns[w];
            if rig.server.has_request(w) {
                actions.push(Action::Serve(w));
            }
            if !conn.output.is_empty() || conn.is_ended {
                actions.push(Action::Arrive(w));
            }
            let scripts = rig.script_conn(w);
            if rig.server.has_request(scripts) {
                actions.push(Action::Serve(scripts));
            }
            if !rig.server.conns[scripts].output.is_empty() {
                actions.push(Action::ScriptsArrive(w));
            }
            if !tracked.inbox.is_empty() {
                actions.push(Action::Message(w));
            }
            if !tracked.is_up {
                actions.push(Action::Connect(w));
            } else if budget.probe > 0 && (tracked.link.unanswered() == 0 || rig.scenario.request_ms.is_some()) {
                actions.push(Action::Probe(w));
            }
        }
        if rig.server.is_in_turn() {
            actions.push(Action::EndTurn);
        }
        if !rig.server.orphans.is_empty() {
            actions.extend([Action::Orphan, Action::DropOrphans]);
        }
        if !rig.late.is_empty() {
            actions.push(Action::Late);
        }
        if budget.foreign > 0 {
            actions.extend(rig.scenario.foreign.iter().map(|&(op, k)| Action::Foreign(op, k)));
        }
        if budget.tick > 0 {
            actions.push(Action::Tick);
        }
        if budget.sweep > 0 {
            actions.push(Action::Sweep);
        }
        if let Some(disk) = &rig.disk {
            if budget.squeeze > 0 && rig.shared.cache.stats().entries > 0 {
                actions.push(Action::Squeeze);
            }
            if disk.has_write() {
                actions.push(Action::WriteDisk);
            }
            if disk.has_read() {
                actions.push(Action::ReadDisk);
            }
            let is_waiting = |w: &usize| !rig.workers[*w].below.borrow().is_empty();
            // Where connections are lost, what is looked for is what a slow disk answers after that.
            if budget.squeeze > 0 && rig.scenario.kill.is_empty() {
                actions.extend((0..rig.workers.len()).filter(is_waiting).map(Action::GiveUp));
            }
        }
        for k in 0..KEYS {
            if budget.purge > 0 {
                actions.push(Action::Purge(k));
            }
            if rig.server.keys[k].is_lingering {
                actions.push(Action::Delete(k));
            }
            if budget.spurious > 0 && rig.server.keys[k].trackers != 0 {
                actions.push(Action::Spurious(k));
            }
        }
        // Without anything in L1 there is nothing to be stale.
        let is_empty = || rig.shared.cache.stats().entries == 0;
        if budget.kill > 0 && !(rig.scenario.max_stale_ms.is_some() && is_empty()) {
            for &whose in rig.scenario.kill {
                let is_there = match whose {
                    Whose::Worker(w) => rig.tracked[w].is_up && rig.server.conns[w].is_served,
                    Whose::Session(s) => rig.sessions[s].pipe.is_some() && rig.server.conns[rig.own_conn(s)].is_served,
                };
                if is_there {
                    actions.extend([How::Closed, How::Reset, How::Cut].map(|how| Action::Kill(whose, how)));
                }
            }
        }
    }

    fn step(&mut self, action: Action) -> Checked {
        match action {
            Action::Issue(s) => self.issue(s),
            Action::Turn(s) => self.rig.turn(s),
            Action::Serve(c) => {
                let what = self.rig.server.serve(c);
                self.tell(|| format!("    the server executes {what}"));
                Ok(())
            }
            Action::EndTurn => {
                self.rig.server.end_turn();
                Ok(())
            }
            Action::Arrive(w) => {
                let frames = [1, 1, 1, 2, 3][self.random.usize(0..5)];
                let has_part = self.random.u8(0..4) == 0;
                self.tell_frames(w, frames);
                self.rig.arrive(w, frames, has_part)
            }
            Action::OwnArrive(s) => {
                self.tell_frames(self.rig.own_conn(s), 1);
                self.rig.own_arrive(s)
            }
            Action::ScriptsArrive(w) => {
                self.tell_frames(self.rig.script_conn(w), 1);
                self.rig.scripts_arrive(w)
            }
            Action::Message(w) => self.rig.take_message(w),
            Action::Connect(w) => {
                let is_refused = self.rig.scenario.may_refuse && self.random.u8(0..4) == 0;
                self.tell(|| {
                    if is_refused {
                        "    tracking is refused".into()
                    } else {
                        "    tracked".into()
                    }
                });
                self.rig.connect(w, !is_refused);
                Ok(())
            }
            Action::Orphan => {
                if let Some(words) = self.rig.server.orphans.pop_front() {
                    self.tell(|| format!("    late: {}", said(&words)));
                    self.rig.server.execute(None, &words);
                }
                Ok(())
            }
            Action::DropOrphans => {
                self.rig.server.orphans.clear();
                Ok(())
            }
            Action::Late => {
                self.rig.do_late();
                Ok(())
            }
            Action::Foreign(op, k) => {
                self.budget.foreign -= 1;
                self.rig.next_token += 1;
                let names = [0, 1].map(|k| self.rig.server.keys[k].name.clone());
                let token = self.rig.next_token;
                for (bytes, _) in requests(op, k, token, self.random.usize(..), &names, self.rig.scenario.is_hash) {
                    let (words, _) = wire::split_request(&bytes).expect("a request");
                    self.rig.server.execute(None, &words);
                }
                Ok(())
            }
            Action::Purge(k) => {
                self.budget.purge -= 1;
                let hash = nearcache::cache::name_hash(&self.rig.server.keys[k].name);
                self.rig.shared.cache.purge(hash);
                Ok(())
            }
            Action::Kill(whose, how) => {
                self.budget.kill -= 1;
                self.kill(whose, how)
            }
            Action::Tick => {
                self.budget.tick -= 1;
                let more_us = 1000 - self.rig.now_us % 1000 + self.random.u64(0..10);
                self.pass_time(more_us);
                Ok(())
            }
            Action::Delete(k) => {
                self.rig.server.delete_expired(k);
                Ok(())
            }
            Action::Spurious(k) => {
                self.budget.spurious -= 1;
                self.rig.server.forget(k);
                Ok(())
            }
            Action::Probe(w) => {
                self.budget.probe -= 1;
                self.rig.probe(w)
            }
            Action::Sweep => {
                self.budget.sweep -= 1;
                self.rig.shared.cache.sweep(self.rig.now_us, 1000);
                Ok(())
            }
            Action::Squeeze => {
                self.budget.squeeze -= 1;
                self.rig.squeeze();
                Ok(())
            }
            Action::WriteDisk => {
                self.rig.write_disk();
                Ok(())
            }
            Action::ReadDisk => {
                self.rig.read_disk();
                Ok(())
            }
            Action::GiveUp(w) => self.rig.give_up_disk(w),
        }
    }

    /// One operation, or two in one piece.
    fn issue(&mut self, s: usize) -> Checked {
        let plan = &self.rig.scenario.sessions[s];
        let most = (plan.commands - self.rig.sessions[s].issued).min(2);
        for _ in 0..self.random.usize(1..=most) {
            let (op, k) = plan.ops[self.random.usize(0..plan.ops.len())];
            let choice = self.random.usize(..);
            self.rig.issue(s, op, k, choice);
            let token = self.rig.next_token;
            self.tell(|| {
                format!(
                    "    session {s} (worker {}): {op:?} key {k}, write {token:03}",
                    plan.worker
                )
            });
        }
        // A stalled session has more than it can take, and is not asked.
        if self.rig.sessions[s].is_stalled {
            Ok(())
        } else {
            self.rig.turn(s)
        }
    }

    fn kill(&mut self, whose: Whose, how: How) -> Checked {
        let c = match whose {
            Whose::Worker(w) => w,
            Whose::Session(s) => self.rig.own_conn(s),
        };
        self.rig.server.hang_up(c);
        match how {
            How::Closed => {}
            How::Reset => self.rig.server.conns[c].output.clear(),
            How::Cut => {
                self.rig.server.orphan(c);
                self.rig.server.conns[c].output.clear();
            }
        }
        self.rig.server.conns[c].input.clear();
        self.rig.server.conns[c].is_ended = true;
        match (whose, how) {
            (Whose::Worker(w), How::Cut) => self.rig.lose(w),
            (Whose::Session(s), How::Cut) => self.rig.own_arrive(s),
            _ => Ok(()),
        }
    }

    fn tell_frames(&mut self, c: usize, frames: usize) {
        let output = &self.rig.server.conns[c].output;
        let told: Vec<String> = output
            .iter()
            .take(frames)
            .map(|out| {
                format!(
                    "{:?} {}",
                    out.what,
                    String::from_utf8_lossy(&out.bytes).replace("\r\n", " ")
                )
            })
            .collect();
        self.tell(|| {
            format!(
                "    {}",
                if told.is_empty() {
                    "the end".into()
                } else {
                    told.join("; ")
                }
            )
        });
    }
}
