//! Record + verb -> new record, nothing, or a refusal.
//!
//! Every verb that asks for something to happen raises a counter, an edge, and leaves its request id, so that the same
//! request sent twice counts once. A record that is being destroyed is as good as none: its name starts a new life.

use std::collections::BTreeSet;

use unit_files::UnitName;

use super::Refusal;
use super::content::Content;
use crate::ids::{Generation, RequestId, UnitUid};
use crate::records::{Counters, DesiredState, Extra, SCHEMA, Stamp, UnitRecord};

/// Earlier generations that a record keeps.
const KEPT_GENERATIONS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Submit,
    Load,
    Start,
    Stop,
    Unload,
    Destroy,
    Restart,
}

/// Who asks, and the uid that a new unit gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What a repetition is known by: it stays in the record, and has to differ for whatever is asked for otherwise.
    pub id: RequestId,
    pub stamp: Stamp,
    pub new_uid: UnitUid,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub verb: Verb,
    /// Judged for this unit. Used for a new unit, and with `replace`.
    pub content: Option<Content>,
    pub replace: bool,
    pub all_at_once: bool,
    /// A text was given that is not the stored one and is not to replace it.
    pub differs: bool,
    /// The unit comes from another fleet as it is there: no start is counted, and a unit that is known is not changed.
    pub arrives: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Write(Box<Written>),
    /// Everything asked for is so already.
    Nothing {
        warnings: Vec<String>,
    },
    /// The record says that this very request was carried out.
    Repeated {
        created: bool,
    },
}

/// A record to write over the one that was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub record: UnitRecord,
    /// The text of `record.current`, if it is a new one.
    pub text: Option<String>,
    pub created: bool,
    /// A stable word for the event log.
    pub kind: &'static str,
    /// What was asked, in words.
    pub why: String,
    pub warnings: Vec<String>,
}

impl Written {
    /// The kind of an event that tells of a new unit.
    pub const CREATED: &str = "unit-created";
    /// The kind of an event that tells of a new text.
    pub const REPLACED: &str = "unit-replaced";
}

impl Change {
    #[must_use]
    pub fn new(verb: Verb) -> Change {
        Change { verb, content: None, replace: false, all_at_once: false, differs: false, arrives: false }
    }

    /// Judges the change against the record as it is now.
    ///
    /// # Errors
    /// A refusal; then nothing is to be written.
    pub fn decide(
        &self,
        name: &UnitName,
        record: Option<&UnitRecord>,
        request: &Request,
    ) -> Result<Verdict, Refusal> {
        if let Some(repeated) = repeated(record, request) {
            return Ok(repeated);
        }
        let activates = matches!(self.verb, Verb::Load | Verb::Start | Verb::Restart);
        match live(record) {
            // Machines may still have what is left of it.
            None if self.arrives && record.is_some() => Err(Refusal::Leaving { unit: name.clone() }),
            Some(_) if self.arrives && self.differs => Err(Refusal::OtherText { unit: name.clone() }),
            Some(_) if self.arrives => Ok(Verdict::Nothing { warnings: Vec::new() }),
            None => {
                let content = match self.verb {
                    Verb::Stop | Verb::Unload | Verb::Destroy => None,
                    _ => self.content.as_ref(),
                };
                let content = content.ok_or(Refusal::Unknown)?;
                if activates && name.is_template() {
                    return Err(Refusal::TemplateActivation { unit: name.clone() });
                }
                let desired = match self.verb {
                    Verb::Load => DesiredState::Loaded,
                    Verb::Start | Verb::Restart => DesiredState::Launched,
                    _ => DesiredState::Inactive,
                };
                let mut written = create(content, desired, request, record);
                written.record.all_at_once = self.all_at_once;
                if self.arrives {
                    written.record.counters = Counters::default();
                    "came from another fleet".clone_into(&mut written.why);
                }
                Ok(Verdict::Write(Box::new(written)))
            }
            Some(_) if activates && name.is_template() => {
                Err(Refusal::TemplateActivation { unit: name.clone() })
            }
            Some(record) => self.change(name, record, request),
        }
    }

    fn change(&self, name: &UnitName, old: &UnitRecord, request: &Request) -> Result<Verdict, Refusal> {
        let mut record = old.clone();
        let content = self.content.as_ref().filter(|_| self.replace && self.verb != Verb::Destroy);
        let replaces = content.is_some_and(|content| replace(&mut record, content));
        let refuse = |verb| Err(Refusal::Inactive { verb, unit: name.clone() });
        match (self.verb, old.desired) {
            (Verb::Stop, DesiredState::Inactive) => return refuse("stop"),
            (Verb::Restart, DesiredState::Inactive) => return refuse("restart"),
            (Verb::Submit, _) => {}
            (Verb::Load, _) => set_desired(&mut record, DesiredState::Loaded),
            (Verb::Start, _) => set_desired(&mut record, DesiredState::Launched),
            (Verb::Stop, _) => {
                record.desired = DesiredState::Loaded;
                record.counters.stop += 1;
            }
            (Verb::Unload, _) => set_desired(&mut record, DesiredState::Inactive),
            (Verb::Restart, _) => {
                record.desired = DesiredState::Launched;
                record.counters.restart += 1;
            }
            (Verb::Destroy, _) => record.desired = DesiredState::Destroyed,
        }
        let mut warnings = content.filter(|_| replaces).map(|c| c.warnings.clone()).unwrap_or_default();
        if self.differs {
            let shown =
                format!("Unit {name} in registry differs from the text given; add --replace to override");
            warnings.push(shown);
        }
        if record == *old {
            return Ok(Verdict::Nothing { warnings });
        }
        if record.desired != DesiredState::Destroyed {
            record.all_at_once = self.all_at_once;
        }
        let kind = if replaces { Written::REPLACED } else { self.verb.kind() };
        let text = content.filter(|_| replaces).map(|content| content.text.clone());
        let written = Written {
            record: stamped(record, request),
            text,
            created: false,
            kind,
            why: format!("{} asked for", self.verb.as_str()),
            warnings,
        };
        Ok(Verdict::Write(Box::new(written)))
    }
}

impl Verb {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Submit => "submit",
            Verb::Load => "load",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Unload => "unload",
            Verb::Destroy => "destroy",
            Verb::Restart => "restart",
        }
    }

    /// Whether an event of this kind can tell of it.
    #[must_use]
    pub fn may_be_told_as(self, kind: &str) -> bool {
        match kind {
            Written::CREATED => matches!(self, Verb::Submit | Verb::Load | Verb::Start | Verb::Restart),
            Written::REPLACED => self != Verb::Destroy,
            kind => kind == self.kind(),
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Verb::Destroy => "unit-destroyed",
            Verb::Restart => "unit-restart-requested",
            Verb::Submit | Verb::Load | Verb::Start | Verb::Stop | Verb::Unload => "unit-changed",
        }
    }
}

/// The record, unless its name is free again.
#[must_use]
pub fn live(record: Option<&UnitRecord>) -> Option<&UnitRecord> {
    record.filter(|record| record.desired != DesiredState::Destroyed)
}

/// The answer to a request that the record, or the life of the name before it, knows.
#[must_use]
pub fn repeated(record: Option<&UnitRecord>, request: &Request) -> Option<Verdict> {
    let record = record.filter(|record| record.recent_requests.contains(&request.id))?;
    let is_last = record.recent_requests.first() == Some(&request.id);
    Some(Verdict::Repeated { created: is_last && record.created == record.changed })
}

/// A new life of a name. `before` is what is left of the last one.
pub(super) fn create(
    content: &Content,
    desired: DesiredState,
    request: &Request,
    before: Option<&UnitRecord>,
) -> Written {
    let current = content.generation(Generation(1));
    let mut record = UnitRecord {
        v: SCHEMA,
        uid: request.new_uid.clone(),
        last_good: current.clone(),
        current,
        template: content.template.clone(),
        previous: Vec::new(),
        desired: DesiredState::Inactive,
        counters: Counters::default(),
        recent_requests: before.map(|before| before.recent_requests.clone()).unwrap_or_default(),
        all_at_once: false,
        features: BTreeSet::new(),
        created: request.stamp.clone(),
        changed: request.stamp.clone(),
        extra: Extra::new(),
    };
    set_desired(&mut record, desired);
    Written {
        record: stamped(record, request),
        text: Some(content.text.clone()),
        created: true,
        kind: Written::CREATED,
        why: format!("wanted {}", desired.as_str()),
        warnings: content.warnings.clone(),
    }
}

/// A new generation, unless the text is the current one. Without a rollout it is the last good one at once.
pub(super) fn replace(record: &mut UnitRecord, content: &Content) -> bool {
    if content.hash == record.current.content {
        return false;
    }
    let next = content.generation(Generation(record.current.generation.0 + 1));
    let old = std::mem::replace(&mut record.current, next);
    record.previous.insert(0, old);
    record.previous.truncate(KEPT_GENERATIONS);
    record.last_good = record.current.clone();
    record.template = content.template.clone();
    true
}

/// A wish for `launched` is a start, also where it is so already; lowering is a stop; the same `loaded` or `inactive`
/// again is nothing.
pub(super) fn set_desired(record: &mut UnitRecord, desired: DesiredState) {
    if desired == DesiredState::Launched {
        record.counters.start += 1;
    } else if desired < record.desired {
        record.counters.stop += 1;
    }
    record.desired = desired;
}

pub(super) fn stamped(mut record: UnitRecord, request: &Request) -> UnitRecord {
    record.recent_requests.insert(0, request.id.clone());
    record.recent_requests.truncate(UnitRecord::KEPT_REQUESTS);
    record.changed = request.stamp.clone();
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::RunKind;
    use crate::requests::testing::{OTHER, TEXT, after, content, name, request};

    fn decide(change: &Change, record: Option<&UnitRecord>, id: &str) -> Result<Verdict, Refusal> {
        change.decide(&name("a.service"), record, &request(id))
    }

    fn written(verdict: Result<Verdict, Refusal>) -> Written {
        match verdict {
            Ok(Verdict::Write(written)) => *written,
            other => panic!("{other:?}"),
        }
    }

    fn counts(record: &UnitRecord) -> (u64, u64, u64) {
        (record.counters.start, record.counters.stop, record.counters.restart)
    }

    #[test]
    fn a_unit_that_arrives_counts_no_start_and_changes_nothing_that_is_known() {
        let arrives = |verb, differs| Change {
            content: Some(content(TEXT)),
            arrives: true,
            differs,
            ..Change::new(verb)
        };
        let new = written(decide(&arrives(Verb::Start, false), None, "x"));
        assert_eq!((new.record.desired, counts(&new.record)), (DesiredState::Launched, (0, 0, 0)));
        let known = Some(&new.record);
        let same = decide(&arrives(Verb::Load, false), known, "y");
        assert_eq!(same, Ok(Verdict::Nothing { warnings: Vec::new() }));
        let other = decide(&arrives(Verb::Start, true), known, "z").unwrap_err();
        assert_eq!((other.status(), other), (409, Refusal::OtherText { unit: name("a.service") }));
        let going = after(&[Verb::Start, Verb::Destroy]);
        let leaving = decide(&arrives(Verb::Start, false), Some(&going), "z").unwrap_err();
        assert_eq!(leaving, Refusal::Leaving { unit: name("a.service") });
    }

    #[test]
    fn a_new_unit_is_wanted_as_the_verb_says() {
        for (verb, desired) in [
            (Verb::Submit, DesiredState::Inactive),
            (Verb::Load, DesiredState::Loaded),
            (Verb::Start, DesiredState::Launched),
            (Verb::Restart, DesiredState::Launched),
        ] {
            let change = Change { content: Some(content(TEXT)), ..Change::new(verb) };
            let new = written(decide(&change, None, "x"));
            assert_eq!((new.record.desired, new.created), (desired, true), "{verb:?}");
            assert_eq!(new.text.as_deref(), Some(TEXT));
            assert_eq!(new.record.current.run, RunKind::Continuous);
            assert_eq!(new.record.uid.as_str(), "uid-x");
        }
    }

    #[test]
    fn an_unknown_unit_without_text_or_under_a_stopping_verb_does_not_exist() {
        for verb in [Verb::Submit, Verb::Load, Verb::Start, Verb::Restart] {
            assert_eq!(decide(&Change::new(verb), None, "x"), Err(Refusal::Unknown));
        }
        for verb in [Verb::Stop, Verb::Unload, Verb::Destroy] {
            let change = Change { content: Some(content(TEXT)), ..Change::new(verb) };
            assert_eq!(decide(&change, None, "x"), Err(Refusal::Unknown));
        }
    }

    #[test]
    fn every_start_and_restart_is_an_edge_and_lowering_is_a_stop() {
        assert_eq!(counts(&after(&[Verb::Submit])), (0, 0, 0));
        assert_eq!(counts(&after(&[Verb::Start, Verb::Start])), (2, 0, 0));
        assert_eq!(counts(&after(&[Verb::Start, Verb::Load])), (1, 1, 0));
        assert_eq!(counts(&after(&[Verb::Start, Verb::Unload])), (1, 1, 0));
        assert_eq!(counts(&after(&[Verb::Load, Verb::Stop])), (0, 1, 0));
        assert_eq!(counts(&after(&[Verb::Start, Verb::Restart, Verb::Restart])), (1, 0, 2));
        assert_eq!(after(&[Verb::Load, Verb::Restart]).desired, DesiredState::Launched);
    }

    #[test]
    fn the_same_loaded_or_inactive_again_is_nothing() {
        for verbs in [[Verb::Load, Verb::Load], [Verb::Submit, Verb::Unload], [Verb::Submit, Verb::Submit]] {
            let record = after(&verbs[..1]);
            let verdict = decide(&Change::new(verbs[1]), Some(&record), "again");
            assert_eq!(verdict, Ok(Verdict::Nothing { warnings: Vec::new() }), "{verbs:?}");
        }
    }

    #[test]
    fn the_same_request_twice_counts_once() {
        for verb in [Verb::Start, Verb::Restart, Verb::Stop, Verb::Unload, Verb::Destroy] {
            let record = after(&[Verb::Start]);
            let once = written(decide(&Change::new(verb), Some(&record), "one")).record;
            let twice = decide(&Change::new(verb), Some(&once), "one");
            assert_eq!(twice, Ok(Verdict::Repeated { created: false }), "{verb:?}");
        }
        let change = Change { content: Some(content(TEXT)), ..Change::new(Verb::Submit) };
        let once = written(decide(&change, None, "one")).record;
        assert_eq!(decide(&change, Some(&once), "one"), Ok(Verdict::Repeated { created: true }));
    }

    #[test]
    fn a_request_sent_again_counts_once_whatever_came_between() {
        let record = written(decide(&Change::new(Verb::Load), Some(&after(&[Verb::Start])), "load")).record;
        let mut record = written(decide(&Change::new(Verb::Start), Some(&record), "start")).record;
        let again = decide(&Change::new(Verb::Load), Some(&record), "load");
        assert_eq!(again, Ok(Verdict::Repeated { created: false }), "a late load would stop it");
        for number in 0..UnitRecord::KEPT_REQUESTS {
            let id = format!("other-{number}");
            record = written(decide(&Change::new(Verb::Start), Some(&record), &id)).record;
        }
        assert_eq!(record.recent_requests.len(), UnitRecord::KEPT_REQUESTS);
        assert_eq!(record.recent_requests[0].as_str(), "other-15");
    }

    #[test]
    fn a_destroy_sent_again_does_not_reach_the_next_life() {
        let old =
            written(decide(&Change::new(Verb::Destroy), Some(&after(&[Verb::Start])), "destroy")).record;
        let change = Change { content: Some(content(TEXT)), ..Change::new(Verb::Start) };
        let new = written(decide(&change, Some(&old), "new")).record;
        let again = decide(&Change::new(Verb::Destroy), Some(&new), "destroy");
        assert_eq!(again, Ok(Verdict::Repeated { created: false }));
        let again = decide(&change, Some(&new), "new");
        assert_eq!(again, Ok(Verdict::Repeated { created: true }));
    }

    #[test]
    fn a_destroyed_unit_is_hidden_and_its_name_starts_a_new_life() {
        let old = after(&[Verb::Start, Verb::Destroy]);
        assert_eq!(old.desired, DesiredState::Destroyed);
        assert_eq!(decide(&Change::new(Verb::Start), Some(&old), "x"), Err(Refusal::Unknown));
        assert_eq!(decide(&Change::new(Verb::Destroy), Some(&old), "x"), Err(Refusal::Unknown));
        let change = Change { content: Some(content(OTHER)), ..Change::new(Verb::Submit) };
        let new = written(decide(&change, Some(&old), "x")).record;
        assert_ne!(new.uid, old.uid);
        assert_eq!((new.current.generation, counts(&new)), (Generation(1), (0, 0, 0)));
    }

    #[test]
    fn stop_and_restart_of_an_inactive_unit_are_refused() {
        let record = after(&[Verb::Submit]);
        for verb in [Verb::Stop, Verb::Restart] {
            let refusal = decide(&Change::new(verb), Some(&record), "x").unwrap_err();
            assert_eq!(refusal.status(), 409);
            let text = format!("Unable to {} unit a.service in state inactive", verb.as_str());
            assert_eq!(refusal.to_string(), text);
        }
    }

    #[test]
    fn replacing_keeps_the_desired_state_and_the_last_five_generations() {
        let mut record = after(&[Verb::Start]);
        for number in 0..7 {
            let text = format!("[Service]\nExecStart=/bin/sleep {number}\n");
            let change = Change { content: Some(content(&text)), replace: true, ..Change::new(Verb::Submit) };
            let written = written(decide(&change, Some(&record), &format!("x{number}")));
            assert_eq!(written.text.as_deref(), Some(text.as_str()));
            record = written.record;
        }
        assert_eq!((record.desired, record.current.generation), (DesiredState::Launched, Generation(8)));
        assert_eq!(record.last_good, record.current);
        let kept: Vec<u64> = record.previous.iter().map(|old| old.generation.0).collect();
        assert_eq!(kept, [7, 6, 5, 4, 3]);
        assert_eq!(counts(&record), (1, 0, 0));
    }

    #[test]
    fn a_comment_is_a_new_generation_with_an_equal_run_hash() {
        let record = after(&[Verb::Start]);
        let commented = content(&format!("# why\n{TEXT}[X-Fleet]\nMachineMetadata=a=b\n"));
        let change = Change { content: Some(commented), replace: true, ..Change::new(Verb::Submit) };
        let new = written(decide(&change, Some(&record), "x")).record;
        assert_eq!(new.current.generation, Generation(2));
        assert_eq!(new.current.run_hash, record.current.run_hash);
        assert_ne!(new.current.content, record.current.content);
    }

    #[test]
    fn without_replace_other_text_is_a_warning_and_the_verb_goes_on() {
        let record = after(&[Verb::Submit]);
        let change = Change { content: Some(content(OTHER)), differs: true, ..Change::new(Verb::Start) };
        let new = written(decide(&change, Some(&record), "x"));
        assert_eq!((new.warnings.len(), new.text), (1, None));
        assert_eq!(new.record.current, record.current);
    }

    #[test]
    fn a_template_is_never_activated() {
        let template = name("a@.service");
        let submit = Change { content: Some(content(TEXT)), ..Change::new(Verb::Submit) };
        let record = written(submit.decide(&template, None, &request("x"))).record;
        for verb in [Verb::Load, Verb::Start, Verb::Restart] {
            for known in [None, Some(&record)] {
                let change = Change { content: Some(content(TEXT)), ..Change::new(verb) };
                let refusal = change.decide(&template, known, &request("y")).unwrap_err();
                assert_eq!(refusal.to_string(), "cannot activate template \"a@.service\"");
            }
        }
        assert!(Change::new(Verb::Destroy).decide(&template, Some(&record), &request("y")).is_ok());
    }
}
