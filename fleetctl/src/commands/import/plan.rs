//! What an import comes to: for each unit of the other fleet whether it is new here, here already, or cannot come, and
//! what its machines lack. Pure; called by `import` with what both sides said.

use std::collections::{BTreeMap, BTreeSet};

use fleet_api::v1::{Unit, UnitState};
use fleet_api::v2::{Action, Arrival, MachineState, MachineView, UnitView, Verb};
use serde::Serialize;
use unit_files::{UnitFile, UnitName, check_submit};

use super::source::{Fleet, options};

/// What becomes of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It comes, or would; after an import that failed half way it has not come.
    New,
    /// It has come.
    Imported,
    /// It is here, with the same text.
    Same,
    /// A unit of that name is here, with another text.
    Conflict,
    /// It cannot be here as it is there.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub name: String,
    pub desired: String,
    /// Id of the machine that has it; empty for a global unit and for one that is nowhere.
    pub machine: String,
    pub fate: Fate,
    /// Why it cannot come, or what is worth knowing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    #[serde(skip)]
    pub action: Option<Action>,
}

/// Metadata that a machine has there and not here. Units are placed by it, so that what somebody has set here since an
/// earlier import is left alone: to overwrite it would move units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lacking {
    pub machine: String,
    /// What is set before the units come; empty for a machine to which none comes.
    pub metadata: BTreeMap<String, String>,
    /// What is only told.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<String, String>,
    /// Whether `metadata` has been set.
    #[serde(rename = "set")]
    pub is_set: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In the order in which they are sent: what others name in `MachineOf=` before those.
    pub units: Vec<Entry>,
    pub machines: Vec<Lacking>,
}

impl Plan {
    pub fn of(fleet: &Fleet, here: &BTreeMap<String, UnitView>, machines: &[MachineView]) -> Plan {
        let present: BTreeMap<&str, &MachineView> = machines
            .iter()
            .filter(|machine| machine.state == MachineState::Present)
            .map(|machine| (machine.id.as_str(), machine))
            .collect();
        let mut states: BTreeMap<&str, Vec<&UnitState>> = BTreeMap::new();
        for state in &fleet.states {
            states.entry(&state.name).or_default().push(state);
        }
        let mut peers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut units = Vec::new();
        for unit in &fleet.units {
            let states = states.get(unit.name.as_str()).map_or(&[][..], Vec::as_slice);
            let (entry, machine_of) = entry(unit, states, here.get(&unit.name), &present);
            peers.insert(entry.name.clone(), machine_of);
            units.push(entry);
        }
        let depths: BTreeMap<String, usize> =
            peers.keys().map(|name| (name.clone(), depth(name, &peers, &mut BTreeSet::new()))).collect();
        units.sort_by_key(|entry| depths.get(&entry.name).copied().unwrap_or_default());
        let machines = lacking(fleet, &units, &states, &present);
        Plan { units, machines }
    }

    pub fn count(&self, fate: Fate) -> usize {
        self.units.iter().filter(|entry| entry.fate == fate).count()
    }

    /// Nothing that is in the way.
    pub fn is_clear(&self) -> bool {
        self.count(Fate::Conflict) + self.count(Fate::Refused) == 0
    }
}

/// With the units that it names in `MachineOf=`.
fn entry(
    unit: &Unit,
    states: &[&UnitState],
    here: Option<&UnitView>,
    present: &BTreeMap<&str, &MachineView>,
) -> (Entry, Vec<String>) {
    let verb = match unit.desired_state.as_str() {
        "launched" => Verb::Start,
        "loaded" => Verb::Load,
        _ => Verb::Submit,
    };
    let mut entry = Entry {
        name: unit.name.clone(),
        desired: match verb {
            Verb::Start => "launched",
            Verb::Load => "loaded",
            _ => "inactive",
        }
        .to_owned(),
        machine: unit.machine_id.clone(),
        fate: Fate::Refused,
        text: String::new(),
        action: None,
    };
    let judged = UnitName::parse(&unit.name).map_err(|error| error.to_string()).and_then(|name| {
        // The bytes that fleet 1.0 has written on the unit's machine.
        let file = UnitFile::from_options(options(unit)).map_err(|error| error.to_string())?;
        let text = file.serialize();
        let checked = check_submit(&name, text.as_bytes()).map_err(|error| error.to_string())?;
        Ok((text, file.unit_hash().to_string(), checked.requirements))
    });
    let (text, hash, requirements) = match judged {
        Ok(judged) => judged,
        Err(why) => {
            entry.text = why;
            return (entry, Vec::new());
        }
    };
    if requirements.global {
        entry.machine.clear();
    }
    if let Some(here) = here {
        (entry.fate, entry.text) = match (here.hash == hash, here.desired == entry.desired) {
            (false, _) => (
                Fate::Conflict,
                format!(
                    "a unit of that name is here with another text; see `fleetctl cat {}`: destroy it here, or \
                     take it out of what --save writes",
                    entry.name
                ),
            ),
            (true, false) => (Fate::Same, format!("here already, wanted {}", here.desired)),
            (true, true) => (Fate::Same, "here already".to_owned()),
        };
        return (entry, requirements.machine_of);
    }
    if !entry.machine.is_empty() && !present.contains_key(entry.machine.as_str()) {
        entry.text =
            format!("its machine {} is not present in this cluster; start fleetd on it first", entry.machine);
        return (entry, requirements.machine_of);
    }
    entry.fate = Fate::New;
    if states.iter().any(|state| !state.hash.is_empty() && state.hash != hash) {
        "what runs there comes from an earlier text: it is stopped and started".clone_into(&mut entry.text);
    }
    let machine = Some(entry.machine.clone()).filter(|machine| !machine.is_empty());
    let action =
        Action { text: Some(text), arrival: Some(Arrival { machine }), ..Action::new(&*unit.name, verb) };
    entry.action = Some(action);
    (entry, requirements.machine_of)
}

/// Length of the longest chain of `MachineOf=` behind a unit. A circle, which fleet 1.0 accepts, ends where it closes.
fn depth(name: &str, peers: &BTreeMap<String, Vec<String>>, above: &mut BTreeSet<String>) -> usize {
    if !above.insert(name.to_owned()) {
        return 0;
    }
    let below = peers.get(name).into_iter().flatten();
    let deepest =
        below.filter(|peer| peers.contains_key(*peer)).map(|peer| 1 + depth(peer, peers, above)).max();
    above.remove(name);
    deepest.unwrap_or(0)
}

fn lacking(
    fleet: &Fleet,
    units: &[Entry],
    states: &BTreeMap<&str, Vec<&UnitState>>,
    present: &BTreeMap<&str, &MachineView>,
) -> Vec<Lacking> {
    let is_repeat = units.iter().any(|entry| entry.fate == Fate::Same);
    // A global unit is where it has a state.
    let takes: BTreeSet<&str> = units
        .iter()
        .filter(|entry| entry.fate == Fate::New)
        .flat_map(|entry| {
            let states = states.get(entry.name.as_str()).into_iter().flatten();
            states.map(|state| state.machine_id.as_str()).chain([entry.machine.as_str()])
        })
        .collect();
    let of = |machine: &fleet_api::v1::Machine| {
        let here = present.get(machine.id.as_str())?;
        let differs = machine.metadata.iter().filter(|(key, value)| here.metadata.get(*key) != Some(*value));
        let comes = |key: &str| {
            takes.contains(machine.id.as_str()) && !(is_repeat && here.metadata.contains_key(key))
        };
        let (metadata, left): (BTreeMap<String, String>, BTreeMap<String, String>) =
            differs.map(|(key, value)| (key.clone(), value.clone())).partition(|(key, _)| comes(key));
        let is_same = metadata.is_empty() && left.is_empty();
        (!is_same).then(|| Lacking { machine: machine.id.clone(), metadata, left, is_set: false })
    };
    fleet.machines.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use fleet_api::v1::{Machine, UnitOption};

    use super::*;

    fn unit(name: &str, desired: &str, machine: &str, fleet: &[(&str, &str)]) -> Unit {
        let option = |section: &str, name: &str, value: &str| UnitOption {
            section: section.into(),
            name: name.into(),
            value: value.into(),
        };
        let mut options = vec![option("Service", "ExecStart", "/bin/sleep 1d")];
        options.extend(fleet.iter().map(|(name, value)| option("X-Fleet", name, value)));
        Unit {
            name: name.into(),
            desired_state: desired.into(),
            machine_id: machine.into(),
            options,
            ..Unit::default()
        }
    }

    fn present(id: &str) -> MachineView {
        MachineView { id: id.into(), state: MachineState::Present, ..MachineView::default() }
    }

    fn plan(units: Vec<Unit>, here: &[UnitView]) -> Plan {
        let here = here.iter().map(|unit| (unit.name.clone(), unit.clone())).collect();
        Plan::of(&Fleet { units, ..Fleet::default() }, &here, &[present("m1")])
    }

    #[test]
    fn units_come_with_their_text_their_wanted_state_and_their_machine() {
        let plan = plan(
            vec![
                unit("a.service", "launched", "m1", &[]),
                unit("g.service", "loaded", "m1", &[("Global", "true")]),
            ],
            &[],
        );
        let action = |index: usize| plan.units[index].action.clone().unwrap();
        assert_eq!((action(0).verb, action(1).verb), (Verb::Start, Verb::Load));
        assert_eq!(action(0).text.as_deref(), Some("[Service]\nExecStart=/bin/sleep 1d\n"));
        assert_eq!(action(0).arrival, Some(Arrival { machine: Some("m1".into()) }));
        assert_eq!(action(1).arrival, Some(Arrival { machine: None }), "a global unit has no place");
    }

    #[test]
    fn what_is_here_is_the_same_or_a_conflict() {
        let same = unit("a.service", "launched", "m1", &[]);
        let hash = UnitFile::from_options(options(&same)).unwrap().unit_hash().to_string();
        let here = |name: &str, hash: &str| UnitView {
            name: name.into(),
            hash: hash.into(),
            desired: "launched".into(),
            ..UnitView::default()
        };
        let plan = plan(
            vec![same, unit("b.service", "launched", "m1", &[])],
            &[here("a.service", &hash), here("b.service", "other")],
        );
        let fates: Vec<Fate> = plan.units.iter().map(|entry| entry.fate).collect();
        assert_eq!(fates, [Fate::Same, Fate::Conflict]);
        assert!(!plan.is_clear() && plan.units.iter().all(|entry| entry.action.is_none()));
    }

    #[test]
    fn a_machine_that_is_not_here_and_a_text_that_cannot_be_are_named() {
        let smuggled = Unit {
            options: vec![UnitOption {
                section: "Service".into(),
                name: "ExecStart".into(),
                value: "a\nb=c".into(),
            }],
            ..unit("s.service", "launched", "m1", &[])
        };
        let plan = plan(vec![unit("a.service", "launched", "m9", &[]), smuggled], &[]);
        assert!(
            plan.units.iter().all(|entry| entry.fate == Fate::Refused && !entry.text.is_empty()),
            "{plan:?}"
        );
        assert!(plan.units[0].text.contains("m9"), "{plan:?}");
    }

    #[test]
    fn followers_come_after_what_they_follow() {
        let plan = plan(
            vec![
                unit("a.service", "launched", "m1", &[("MachineOf", "b.service")]),
                unit("b.service", "launched", "m1", &[("MachineOf", "c.service")]),
                unit("c.service", "launched", "m1", &[]),
            ],
            &[],
        );
        let names: Vec<&str> = plan.units.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["c.service", "b.service", "a.service"]);
    }

    fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// Two units on m1, of which the first ones are here already, and metadata of m1 and m2 there and of m1 here.
    fn plan_of_metadata(are_here: usize, here_now: &[(&str, &str)]) -> Vec<Lacking> {
        let machine = |id: &str, pairs: &[(&str, &str)]| Machine {
            id: id.into(),
            metadata: metadata(pairs),
            ..Machine::default()
        };
        let units = vec![unit("a.service", "launched", "m1", &[]), unit("b.service", "launched", "m1", &[])];
        let view = |unit: &Unit| UnitView {
            name: unit.name.clone(),
            hash: UnitFile::from_options(options(unit)).unwrap().unit_hash().to_string(),
            desired: "launched".into(),
            ..UnitView::default()
        };
        let here = units.iter().take(are_here).map(|unit| (unit.name.clone(), view(unit))).collect();
        let machines = vec![machine("m1", &[("role", "web"), ("rack", "3")]), machine("m2", &[("x", "y")])];
        let present = [MachineView { metadata: metadata(here_now), ..present("m1") }, present("m2")];
        Plan::of(&Fleet { units, machines, ..Fleet::default() }, &here, &present).machines
    }

    fn lacks(machine: &str, set: &[(&str, &str)], left: &[(&str, &str)]) -> Lacking {
        Lacking { machine: machine.into(), metadata: metadata(set), left: metadata(left), is_set: false }
    }

    #[test]
    fn metadata_that_differs_here_is_set_where_a_unit_comes_and_told_elsewhere() {
        let plan = plan_of_metadata(0, &[("rack", "3"), ("role", "file")]);
        assert_eq!(plan, [lacks("m1", &[("role", "web")], &[]), lacks("m2", &[], &[("x", "y")])]);
    }

    #[test]
    fn a_repeat_leaves_metadata_alone_that_somebody_has_set_here_since() {
        let all = plan_of_metadata(2, &[("role", "db")]);
        let m2 = lacks("m2", &[], &[("x", "y")]);
        assert_eq!(all, [lacks("m1", &[], &[("rack", "3"), ("role", "web")]), m2.clone()], "no unit comes");
        let one = plan_of_metadata(1, &[("role", "db")]);
        assert_eq!(one, [lacks("m1", &[("rack", "3")], &[("role", "web")]), m2], "one comes");
    }
}
