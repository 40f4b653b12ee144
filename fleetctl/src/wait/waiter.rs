//! The judgement of a wait: lines of the server's stream and the passing of time go in, settled units come out.
//!
//! Fed by [`super::wait`] only. No I/O and no clock: the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_api::v2::{Phase, Progress, WaitLine};
use tokio::time::Instant;

/// How long a unit has to stay without a machine before it counts: a machine that just comes back, or a conflict that
/// is just being cleared, must not fail a start. The promise is an answer within 5 s.
const UNPLACEABLE_FOR: Duration = Duration::from_secs(3);
/// How long nobody may lead, or the registry be silent, before that is the answer. A leader's lease is 5 s, so that a
/// change of leaders is over well before.
const SILENT_FOR: Duration = Duration::from_secs(15);
/// How the wait for one unit ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done(Box<Progress>),
    Failed(Box<Progress>),
    /// No machine can take it.
    Unplaceable(Box<Progress>),
    /// Another request came after this one and wants something else, or destroyed the unit.
    Superseded(Box<Progress>),
    /// The time was over first; none if nothing was heard of the unit.
    Pending(Option<Box<Progress>>),
    NoLeader,
    NoRegistry,
    /// The API could not be asked until the time was over, or refused to answer.
    Unreachable(String),
}

impl Outcome {
    pub fn progress(&self) -> Option<&Progress> {
        match self {
            Outcome::Done(p) | Outcome::Failed(p) | Outcome::Unplaceable(p) | Outcome::Superseded(p) => {
                Some(p)
            }
            Outcome::Pending(p) => p.as_deref(),
            Outcome::NoLeader | Outcome::NoRegistry | Outcome::Unreachable(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Pending {
    last: Option<Box<Progress>>,
    unplaceable_since: Option<Instant>,
}

/// What a wait wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The desired state that the request wrote: `launched`, `loaded`, `inactive`, `destroyed`.
    pub desired: &'static str,
    /// The unit is not to run: a unit that no machine can take does not.
    pub is_withdrawal: bool,
}

#[derive(Debug)]
pub struct Waiter {
    goal: Goal,
    pending: BTreeMap<String, Pending>,
    leaderless_since: Option<Instant>,
    registry_silent_since: Option<Instant>,
    pub deadline: Instant,
}

impl Waiter {
    pub fn new(goal: Goal, units: impl IntoIterator<Item = String>, deadline: Instant) -> Waiter {
        let pending = units.into_iter().map(|unit| (unit, Pending::default())).collect();
        Waiter { goal, pending, leaderless_since: None, registry_silent_since: None, deadline }
    }

    pub fn is_over(&self) -> bool {
        self.pending.is_empty()
    }

    pub fn is_pending(&self, unit: &str) -> bool {
        self.pending.contains_key(unit)
    }

    /// Takes a line; what it settled, if anything.
    pub fn line(&mut self, line: WaitLine, now: Instant) -> Option<(String, Outcome)> {
        match line {
            WaitLine::NoLeader { no_leader, .. } => since(&mut self.leaderless_since, no_leader, now),
            WaitLine::NoRegistry { no_registry, .. } => {
                since(&mut self.registry_silent_since, no_registry, now);
            }
            WaitLine::Progress(progress) => return self.progress(progress, now),
            WaitLine::Heartbeat { .. } | WaitLine::Error { .. } | WaitLine::Other(_) => {}
        }
        None
    }

    fn progress(&mut self, progress: Box<Progress>, now: Instant) -> Option<(String, Outcome)> {
        let unit = progress.unit.clone();
        let pending = self.pending.get_mut(&unit)?;
        let wants_destroyed = self.goal.desired == "destroyed";
        let is_gone = progress.phase == Phase::Gone;
        // Before the engine has judged the record, what is reported may still be that of an older one.
        let other_wish = progress.phase != Phase::WaitingForEngine
            && !progress.desired.is_empty()
            && progress.desired != self.goal.desired;
        let outcome = if is_gone || (progress.done && wants_destroyed) {
            if wants_destroyed { Outcome::Done(progress) } else { Outcome::Superseded(progress) }
        } else if other_wish {
            Outcome::Superseded(progress)
        } else if progress.done {
            Outcome::Done(progress)
        } else if progress.failed || progress.phase == Phase::Failed {
            Outcome::Failed(progress)
        } else if progress.phase == Phase::Unplaceable && self.goal.is_withdrawal {
            Outcome::Done(progress)
        } else {
            since(&mut pending.unplaceable_since, progress.phase == Phase::Unplaceable, now);
            pending.last = Some(progress);
            return None;
        };
        self.pending.remove(&unit);
        Some((unit, outcome))
    }

    /// For a new stream, with its first line, and for an API that cannot be asked: what an earlier stream said may be
    /// over, and is said again if it is not.
    pub fn forget_silence(&mut self) {
        (self.leaderless_since, self.registry_silent_since) = (None, None);
    }

    /// What the passing of time settles.
    pub fn tick(&mut self, now: Instant) -> Vec<(String, Outcome)> {
        let is_over = now >= self.deadline;
        let lasted = |since: Option<Instant>, length: Duration| {
            since.is_some_and(|since| is_over || now.duration_since(since) >= length)
        };
        let general = if lasted(self.registry_silent_since, SILENT_FOR) {
            Some(Outcome::NoRegistry)
        } else if lasted(self.leaderless_since, SILENT_FOR) {
            Some(Outcome::NoLeader)
        } else {
            None
        };
        let mut settled = Vec::new();
        self.pending.retain(|unit, pending| {
            let outcome = match &pending.last {
                Some(last) if lasted(pending.unplaceable_since, UNPLACEABLE_FOR) => {
                    Outcome::Unplaceable(last.clone())
                }
                last => match &general {
                    Some(general) => general.clone(),
                    None if is_over => Outcome::Pending(last.clone()),
                    None => return true,
                },
            };
            settled.push((unit.clone(), outcome));
            false
        });
        settled
    }

    /// When `tick` may settle something.
    pub fn next_tick(&self) -> Instant {
        let unplaceable =
            self.pending.values().filter_map(|p| p.unplaceable_since).map(|at| at + UNPLACEABLE_FOR);
        let silent = [self.leaderless_since, self.registry_silent_since]
            .into_iter()
            .flatten()
            .map(|at| at + SILENT_FOR);
        unplaceable.chain(silent).min().map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// Everything that is left ends with the same outcome.
    pub fn end(&mut self, outcome: &Outcome) -> Vec<(String, Outcome)> {
        std::mem::take(&mut self.pending).into_keys().map(|unit| (unit, outcome.clone())).collect()
    }
}

/// Keeps the first moment of a state that goes on.
fn since(at: &mut Option<Instant>, is: bool, now: Instant) {
    *at = if is { at.or(Some(now)) } else { None };
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Goal = Goal { desired: "launched", is_withdrawal: false };
    const STOP: Goal = Goal { desired: "loaded", is_withdrawal: true };
    const DESTROY: Goal = Goal { desired: "destroyed", is_withdrawal: true };

    fn line(phase: Phase, change: impl FnOnce(&mut Progress)) -> WaitLine {
        let mut progress = Progress { unit: "a.service".into(), phase, ..Progress::default() };
        change(&mut progress);
        WaitLine::Progress(Box::new(progress))
    }

    fn waiter(goal: Goal) -> (Waiter, Instant) {
        let now = Instant::now();
        (Waiter::new(goal, ["a.service".to_owned()], now + Duration::from_secs(90)), now)
    }

    fn outcome(settled: impl IntoIterator<Item = (String, Outcome)>) -> Outcome {
        settled.into_iter().next().expect("the unit is settled").1
    }

    #[test]
    fn a_unit_is_done_only_when_the_server_says_so() {
        let (mut waiter, now) = waiter(START);
        for phase in [Phase::WaitingForEngine, Phase::Placed, Phase::Loading, Phase::Starting] {
            assert_eq!(waiter.line(line(phase, |p| p.active = "active".into()), now), None);
        }
        let done = outcome(waiter.line(line(Phase::Done, |p| p.done = true), now));
        assert!(matches!(done, Outcome::Done(_)) && waiter.is_over());
    }

    #[test]
    fn a_unit_that_no_machine_can_take_fails_within_five_seconds() {
        let (mut waiter, now) = waiter(START);
        assert_eq!(waiter.line(line(Phase::Unplaceable, |_| {}), now), None);
        assert_eq!(waiter.next_tick(), now + UNPLACEABLE_FOR);
        assert!(waiter.tick(now + Duration::from_secs(2)).is_empty());
        assert!(UNPLACEABLE_FOR < Duration::from_secs(5));
        assert!(matches!(outcome(waiter.tick(now + UNPLACEABLE_FOR)), Outcome::Unplaceable(_)));
    }

    #[test]
    fn a_machine_that_turns_up_in_time_ends_the_alarm() {
        let (mut waiter, now) = waiter(START);
        waiter.line(line(Phase::Unplaceable, |_| {}), now);
        waiter.line(line(Phase::Placed, |_| {}), now + Duration::from_secs(1));
        assert!(waiter.tick(now + Duration::from_secs(80)).is_empty());
        let ended = outcome(waiter.tick(now + Duration::from_secs(90)));
        assert!(matches!(ended, Outcome::Pending(Some(p)) if p.phase == Phase::Placed));
    }

    #[test]
    fn what_is_on_no_machine_is_stopped() {
        let (mut waiter, now) = waiter(STOP);
        assert!(matches!(outcome(waiter.line(line(Phase::Unplaceable, |_| {}), now)), Outcome::Done(_)));
    }

    #[test]
    fn another_wish_ends_the_wait() {
        let (mut start, now) = waiter(START);
        let other = line(Phase::Done, |p| {
            p.done = true;
            p.desired = "inactive".into();
        });
        assert!(matches!(outcome(start.line(other, now)), Outcome::Superseded(_)));
        let (mut start, now) = waiter(START);
        assert!(matches!(outcome(start.line(line(Phase::Gone, |_| {}), now)), Outcome::Superseded(_)));
        let (mut destroy, now) = waiter(DESTROY);
        assert!(matches!(outcome(destroy.line(line(Phase::Gone, |_| {}), now)), Outcome::Done(_)));
    }

    #[test]
    fn nobody_leading_is_the_answer_after_a_while_or_at_the_deadline() {
        let (mut first, now) = waiter(START);
        first.line(WaitLine::NoLeader { no_leader: true, since: 0 }, now);
        assert!(first.tick(now + Duration::from_secs(14)).is_empty());
        assert_eq!(outcome(first.tick(now + SILENT_FOR)), Outcome::NoLeader);

        let mut short = Waiter::new(START, ["a.service".to_owned()], now + Duration::from_secs(2));
        short.line(WaitLine::NoRegistry { no_registry: true, since: 0 }, now);
        assert_eq!(outcome(short.tick(now + Duration::from_secs(2))), Outcome::NoRegistry);

        let (mut elected, now) = waiter(START);
        elected.line(WaitLine::NoLeader { no_leader: true, since: 0 }, now);
        elected.line(WaitLine::NoLeader { no_leader: false, since: 0 }, now + Duration::from_secs(5));
        assert!(elected.tick(now + Duration::from_secs(60)).is_empty());
    }

    #[test]
    fn a_failed_run_fails_at_once() {
        let (mut waiter, now) = waiter(START);
        let failed = line(Phase::Failed, |p| p.result = "exit-code".into());
        assert!(matches!(outcome(waiter.line(failed, now)), Outcome::Failed(p) if p.result == "exit-code"));
    }
}
