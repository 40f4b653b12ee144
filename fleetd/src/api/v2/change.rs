//! Batches of changes. Units are judged each for itself and written together, as many as fit in a transaction; what
//! others wrote meanwhile is read and judged again. The request id makes a repetition harmless: the records tell, and
//! where a repetition is known to be one, the event log.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use fleet_api::v2::{Action, ActionResult, Arrival, ChangeReport, ChangeRequest, Verb as WireVerb};
use fleet_core::records::{
    Decision, Extra, Placement, Reason, SCHEMA, Stamp, TemplateOrigin, UnitRecord, Versioned,
};
use fleet_core::requests::Refusal;
use fleet_core::requests::change::{Change, Request, Verb, Verdict, Written, live};
use fleet_core::requests::content::Content;
use fleet_core::{MachineId, OrderNumber, RequestId, Revision, UnitUid};
use fleet_registry::keys::{Area, Key};
use fleet_registry::registry::Outcome;
use fleet_registry::registry::snapshot::Snapshot;
use sha2::Digest as _;
use unit_files::{UnitFile, UnitName};

use super::super::Failure;
use super::super::state::{Api, new_id};
use super::super::units::{self, ATTEMPTS, Earlier, Records};
use super::{Answer, document, json};

/// More names than this are read as a whole.
const NAMED_READS: usize = 100;

pub(super) async fn post(State(api): State<Api>, body: Body) -> Answer {
    let request: ChangeRequest = document(&api, body).await?;
    let id =
        RequestId::parse(&request.request_id).map_err(|error| Failure::bad_request(error.to_string()))?;
    let mut batch = Batch::new(&api, &request, id);
    batch.run().await?;
    json(&ChangeReport { results: batch.results() })
}

/// One action under way.
struct Item<'r> {
    action: &'r Action,
    name: Result<UnitName, Failure>,
    result: Option<ActionResult>,
}

struct Batch<'r> {
    api: &'r Api,
    request: &'r ChangeRequest,
    id: RequestId,
    stamp: Stamp,
    items: Vec<Item<'r>>,
}

/// What is known of the registry when a round is judged.
#[derive(Default)]
struct Known {
    units: Records,
    unreadable: HashMap<UnitName, Failure>,
    /// Texts of templates, by the template's name.
    templates: HashMap<UnitName, (TemplateOrigin, String)>,
    /// Every unit is in `units`.
    is_whole: bool,
    /// Read only where a unit arrives.
    present: BTreeSet<MachineId>,
    earlier: Earlier,
}

impl Known {
    fn record(&self, name: &UnitName) -> Option<&Versioned<UnitRecord>> {
        self.units.get(name)
    }
}

impl<'r> Batch<'r> {
    fn new(api: &'r Api, request: &'r ChangeRequest, id: RequestId) -> Batch<'r> {
        let stamp = Stamp {
            at: api.now(),
            by: api.by(request.by.as_deref()),
            why: request.why.clone().unwrap_or_default(),
        };
        let mut named: BTreeMap<&str, &Action> = BTreeMap::new();
        let items = request.actions.iter().map(|action| {
            let mut name = UnitName::parse(&action.unit).map_err(|error| Failure::from(Refusal::from(error)));
            let first = *named.entry(&action.unit).or_insert(action);
            if let Ok(unit) = &name {
                if first != action {
                    name = Err(Refusal::NamedTwice { unit: unit.clone() }.into());
                } else if action.arrival.is_some() && !may_arrive(action) {
                    name = Err(Refusal::Arrival.into());
                } else if action.force && action.verb == WireVerb::Destroy {
                    name = Err(Refusal::Force.into());
                }
            }
            Item { action, name, result: None }
        });
        let items = items.collect();
        Batch { api, request, id, stamp, items }
    }

    async fn run(&mut self) -> Result<(), Failure> {
        for item in &mut self.items {
            if let Err(failure) = &item.name {
                item.result = Some(failed(item.action, failure));
            }
        }
        let fence = if self.request.dry_run { None } else { Some(self.api.fence().await?) };
        let asked = self.api.asked(Some(&self.stamp.by), Some(self.id.clone()));
        let mut last = Outcome::Conflict;
        // Since when this request may have been carried out.
        let mut may_have_counted = self.request.resent.then(|| Earlier::since(&self.stamp));
        for _ in 0..ATTEMPTS {
            let open: Vec<usize> =
                (0..self.items.len()).filter(|i| self.items[*i].result.is_none()).collect();
            if open.is_empty() {
                return Ok(());
            }
            let mut known = self.read(&open).await?;
            if let Some(since) = may_have_counted
                && !self.is_told_by_records(&open, &known)
            {
                known.earlier = Earlier::look(self.api, &self.id, since).await?;
            }
            let judged = self.judge(&open, &known);
            let Some(fence) = fence else {
                for (index, expected, written) in judged {
                    let result = changed(self.items[index].action, &written, expected, false);
                    self.items[index].result = Some(result);
                }
                continue;
            };
            let mut writes = Vec::with_capacity(judged.len());
            let mut answers = Vec::with_capacity(judged.len());
            for (index, expected, written) in judged {
                let Ok(name) = &self.items[index].name else { continue };
                answers.push((index, changed(self.items[index].action, &written, Revision(0), true)));
                let placement = place_of(self.items[index].action, &written, &self.stamp);
                let mut write = units::unit_write(name, expected, written);
                write.note.machine = placement.as_ref().and_then(|placement| placement.machine.clone());
                write.placement = placement;
                writes.push(write);
            }
            let outcomes = self.api.registry.write_units(fence, &writes, &asked).await;
            for ((index, mut answer), outcome) in answers.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Applied(revision) => {
                        answer.revision = revision.0;
                        self.items[index].result = Some(answer);
                    }
                    Outcome::Conflict | Outcome::Unknown(_) | Outcome::Skipped => {
                        if matches!(outcome, Outcome::Unknown(_)) {
                            may_have_counted.get_or_insert(self.stamp.at);
                        }
                        last = outcome;
                    }
                    outcome => {
                        let failure = Failure::of_outcome(&outcome);
                        self.items[index].result = Some(failed(self.items[index].action, &failure));
                    }
                }
            }
        }
        let failure = Failure::of_outcome(&last);
        for item in self.items.iter_mut().filter(|item| item.result.is_none()) {
            item.result = Some(failed(item.action, &failure));
        }
        Ok(())
    }

    fn results(self) -> Vec<ActionResult> {
        self.items.into_iter().filter_map(|item| item.result).collect()
    }

    /// Every record that is there knows this request: then nothing has to be looked for.
    fn is_told_by_records(&self, open: &[usize], known: &Known) -> bool {
        open.iter().all(|index| {
            let item = &self.items[*index];
            let Ok(name) = &item.name else { return true };
            let id = request_of(&self.id, item.action.verb);
            known.record(name).is_some_and(|record| record.value.recent_requests.contains(&id))
        })
    }

    fn names(&self, open: &[usize]) -> Vec<&UnitName> {
        open.iter().filter_map(|index| self.items[*index].name.as_ref().ok()).collect()
    }

    /// The records of the units, of the templates of those that are unknown, and of all units where a text names
    /// others.
    async fn read(&self, open: &[usize]) -> Result<Known, Failure> {
        let names = self.names(open);
        let looks_around = |action: &Action| {
            // A cheap look: what it finds is judged exactly later.
            let text = action.text.as_deref().unwrap_or_default();
            text.contains("MachineOf") || text.contains("Alias")
        };
        let is_whole =
            names.len() > NAMED_READS || open.iter().any(|index| looks_around(self.items[*index].action));
        let mut snapshot = Snapshot::default();
        if is_whole {
            snapshot = self.api.registry.read(&[Area::Units]).await?;
        } else {
            let keys = names.iter().map(|name| Key::Unit((*name).clone())).collect();
            units::read_keys(self.api, &mut snapshot, keys).await?;
        }
        let templates = self.templates_needed(open, &snapshot);
        if !is_whole {
            let keys = templates.iter().cloned().map(Key::Unit).collect();
            units::read_keys(self.api, &mut snapshot, keys).await?;
        }
        let found = templates.iter().filter_map(|name| {
            let record = live(snapshot.units.get(name).map(|unit| &unit.value))?;
            let origin = TemplateOrigin { unit: name.clone(), generation: record.current.generation };
            Some((name.clone(), origin, record.current.content))
        });
        let found: Vec<_> = found.collect();
        let texts = units::texts(self.api, found.iter().map(|(_, _, hash)| *hash).collect()).await?;
        let mut known = Known { is_whole, ..Known::default() };
        if open.iter().any(|index| self.items[*index].action.arrival.is_some()) {
            known.present = self.api.registry.read(&[Area::Presence]).await?.presence.into_keys().collect();
        }
        for (name, origin, hash) in found {
            let text = texts.get(&hash).cloned().unwrap_or_default();
            // What a template's instance names is known only now.
            let names_others = text.contains("MachineOf") || text.contains("Alias");
            if names_others && !known.is_whole {
                snapshot.units = self.api.registry.read(&[Area::Units]).await?.units;
                known.is_whole = true;
            }
            known.templates.insert(name, (origin, text));
        }
        for unreadable in snapshot.undecodable {
            if let Key::Unit(name) = unreadable.key {
                let failure = Failure::new(StatusCode::INTERNAL_SERVER_ERROR, unreadable.error.to_string());
                known.unreadable.insert(name, failure);
            }
        }
        known.units = snapshot.units;
        Ok(known)
    }

    fn templates_needed(&self, open: &[usize], snapshot: &Snapshot) -> BTreeSet<UnitName> {
        let needs = |index: &usize| {
            let item = &self.items[*index];
            let name = item.name.as_ref().ok()?;
            let is_new = live(snapshot.units.get(name).map(|unit| &unit.value)).is_none();
            let creates = !matches!(item.action.verb, WireVerb::Stop | WireVerb::Unload | WireVerb::Destroy);
            if is_new && creates && item.action.text.is_none() && name.is_instance() {
                name.template()
            } else {
                None
            }
        };
        open.iter().filter_map(needs).collect()
    }

    /// What is to be written, with the revision of the record it was judged on. What needs no write is answered.
    fn judge(&mut self, open: &[usize], known: &Known) -> Vec<(usize, Revision, Written)> {
        let mut submitted: BTreeMap<UnitName, Vec<String>> = BTreeMap::new();
        let mut writes = Vec::new();
        let mut written_names = BTreeSet::new();
        for index in open.iter().copied() {
            let Ok(name) = self.items[index].name.clone() else { continue };
            let action = self.items[index].action;
            if written_names.contains(&name) {
                // Named twice: the next round finds the request's id in the record.
                continue;
            }
            if let Some(failure) = known.unreadable.get(&name) {
                self.items[index].result = Some(failed(action, failure));
                continue;
            }
            let record = known.record(&name);
            match self.judge_one(action, &name, record, known, &mut submitted) {
                Ok(Verdict::Write(written)) => {
                    written_names.insert(name.clone());
                    writes.push((index, record.map_or(Revision(0), |record| record.modified), *written));
                }
                Ok(Verdict::Nothing { warnings }) => {
                    let mut result = unchanged(action, record);
                    result.warnings = warnings;
                    self.items[index].result = Some(result);
                }
                Ok(Verdict::Repeated { created }) => {
                    // What was destroyed by it is gone, or going; a later life of the name is not its doing.
                    let is_told = |record: &&Versioned<UnitRecord>| {
                        action.verb != WireVerb::Destroy || live(Some(&record.value)).is_none()
                    };
                    let told = unchanged(action, record.filter(is_told));
                    let result = ActionResult { created, changed: true, ..told };
                    self.items[index].result = Some(result);
                }
                Err(refusal) => self.items[index].result = Some(failed(action, &refusal.into())),
            }
        }
        writes
    }

    fn judge_one(
        &self,
        action: &Action,
        name: &UnitName,
        record: Option<&Versioned<UnitRecord>>,
        known: &Known,
        submitted: &mut BTreeMap<UnitName, Vec<String>>,
    ) -> Result<Verdict, Refusal> {
        if let Some(repeated) = known.earlier.verdict(name, Some(verb(action.verb))) {
            return Ok(repeated);
        }
        let current = live(record.map(|record| &record.value));
        if let Some(machine) = machine_of(action).filter(|_| current.is_none())
            && !known.present.iter().any(|present| present.as_str() == machine)
        {
            return Err(Refusal::MachineAbsent { machine: machine.to_owned() });
        }
        let mut change = Change::new(verb(action.verb));
        (change.replace, change.all_at_once) = (action.replace, action.all_at_once);
        change.arrives = action.arrival.is_some();
        let is_destroy = action.verb == WireVerb::Destroy;
        match (current, &action.text) {
            (_, _) if is_destroy => {}
            (Some(current), Some(text)) if !action.replace => {
                let hash = UnitFile::parse(text).ok().map(|file| file.unit_hash());
                change.differs = hash != Some(current.current.unit_hash);
            }
            (_, Some(text)) => change.content = Some(Content::judge(name, text.as_bytes())?),
            (None, None) => change.content = from_template(name, known)?,
            (Some(_), None) => {}
        }
        if let Some(content) = &change.content {
            let peers = &content.requirements.machine_of;
            units::check_among(&known.units, submitted, name, &content.aliases, peers)?;
            submitted.insert(name.clone(), peers.clone());
        }
        let request = Request {
            id: request_of(&self.id, action.verb),
            stamp: self.stamp.clone(),
            new_uid: UnitUid::parse(&new_id()).expect("hexadecimal digits are an id"),
        };
        match change.decide(name, record.map(|record| &record.value), &request) {
            Err(Refusal::Unknown) if name.is_instance() && action.text.is_none() && creates(action.verb) => {
                Err(name
                    .template()
                    .map_or(Refusal::Unknown, |template| Refusal::TemplateUnknown { template }))
            }
            judged => judged,
        }
    }
}

/// What a record keeps of a request: a client that uses an id again for another verb asks for something else.
fn request_of(id: &RequestId, wire: WireVerb) -> RequestId {
    let text = format!("{id}-{}", verb(wire).as_str());
    // One that is too long for an id is told by its digest, which has 64 characters.
    RequestId::parse(&text).unwrap_or_else(|_| {
        let digest = hex::encode(sha2::Sha256::digest(&text));
        RequestId::parse(&digest).expect("hexadecimal digits are an id")
    })
}

/// Without `replace`, which would be another wish.
fn may_arrive(action: &Action) -> bool {
    let is_new = matches!(action.verb, WireVerb::Submit | WireVerb::Load | WireVerb::Start);
    is_new && action.text.is_some() && !action.replace
}

fn machine_of(action: &Action) -> Option<&str> {
    action.arrival.as_ref().and_then(|Arrival { machine }| machine.as_deref())
}

/// Where a new unit that arrives is. The engine orders it there, as it does for whatever stands on a machine.
fn place_of(action: &Action, written: &Written, stamp: &Stamp) -> Option<Placement> {
    let is_wanted = written.record.desired.wants_a_machine() && !written.record.is_global();
    let machine = machine_of(action).filter(|_| written.created && is_wanted)?;
    let reason = Reason::new("arrived", format!("it came with machine {machine}, which has it already"));
    Some(Placement {
        v: SCHEMA,
        uid: written.record.uid.clone(),
        machine: MachineId::parse(machine).ok(),
        number: OrderNumber::default(),
        decision: Decision { reason, at: stamp.at, ..Decision::default() },
        refusals: Vec::new(),
        extra: Extra::new(),
    })
}

fn creates(verb: WireVerb) -> bool {
    !matches!(verb, WireVerb::Stop | WireVerb::Unload | WireVerb::Destroy)
}

/// A new instance gets a copy of its template's text.
fn from_template(name: &UnitName, known: &Known) -> Result<Option<Content>, Refusal> {
    let template = name.template().filter(|_| name.is_instance());
    let Some((origin, text)) = template.and_then(|template| known.templates.get(&template)) else {
        return Ok(None);
    };
    let content = Content::judge(name, text.as_bytes())?;
    Ok(Some(Content { template: Some(origin.clone()), ..content }))
}

fn verb(verb: WireVerb) -> Verb {
    match verb {
        WireVerb::Submit => Verb::Submit,
        WireVerb::Load => Verb::Load,
        WireVerb::Start => Verb::Start,
        WireVerb::Stop => Verb::Stop,
        WireVerb::Unload => Verb::Unload,
        WireVerb::Destroy => Verb::Destroy,
        WireVerb::Restart => Verb::Restart,
    }
}

fn failed(action: &Action, failure: &Failure) -> ActionResult {
    ActionResult { unit: action.unit.clone(), error: Some(failure.to_api_error()), ..ActionResult::default() }
}

fn of_record(action: &Action, record: &UnitRecord, revision: Revision) -> ActionResult {
    ActionResult {
        unit: action.unit.clone(),
        ok: true,
        uid: record.uid.to_string(),
        generation: record.current.generation.0,
        desired: record.desired.as_str().to_owned(),
        revision: revision.0,
        global: record.current.requirements.global,
        ..ActionResult::default()
    }
}

fn unchanged(action: &Action, record: Option<&Versioned<UnitRecord>>) -> ActionResult {
    match record {
        Some(record) => of_record(action, &record.value, record.modified),
        None => ActionResult { unit: action.unit.clone(), ok: true, ..ActionResult::default() },
    }
}

/// `revision` is that of the record before if nothing is written.
fn changed(action: &Action, written: &Written, revision: Revision, is_written: bool) -> ActionResult {
    ActionResult {
        created: written.created,
        changed: is_written,
        warnings: written.warnings.clone(),
        ..of_record(action, &written.record, revision)
    }
}
