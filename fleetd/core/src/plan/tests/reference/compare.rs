//! Plays a story on the plan and on the reference, and holds them against each other after every pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};

use unit_files::{Requirements, UnitFile};

use super::super::kit::{GRACE, Kit, machine, name};
use super::cluster::Cluster;
use super::generator::MACHINES;
use super::judge::{Question, against};
use super::scheduler;
use super::story::{Step, Story};
use super::wishes::Wishes;
use crate::plan::explain;
use crate::records::{ConfirmedDead, DesiredState, MachineRecord, Settings, Stamp, Wanted};
use crate::requests::circle::circle;

/// What the comparison has seen, so that it cannot pass by seeing nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<&'static str, u64>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self.counts.iter().map(|(what, n)| format!("{what} {n}")).collect();
        f.write_str(&counts.join(", "))
    }
}

impl Tally {
    fn add(&mut self, what: &'static str, n: usize) {
        *self.counts.entry(what).or_default() += n as u64;
    }

    pub fn include(&mut self, other: &Tally) {
        for (what, n) in &other.counts {
            *self.counts.entry(what).or_default() += n;
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }
}

struct Both {
    kit: Kit,
    cluster: Cluster,
    tally: Tally,
    /// Whether the plan over everything is compared with the plan over what is dirty as well.
    is_thorough: bool,
}

/// # Errors
/// The first difference.
pub fn compare(story: &Story, is_thorough: bool) -> Result<Tally, String> {
    let mut kit = Kit::new(&[]);
    // What the brake holds back is no question of where a unit fits.
    kit.settings(Settings { brake_ratio: 1.0, ..Settings::default() });
    kit.all_at_once = true;
    let cluster = Cluster { now: kit.now.0, ..Cluster::default() };
    let mut both = Both { kit, cluster, tally: Tally::default(), is_thorough };
    for (at, step) in story.steps.iter().enumerate() {
        both.play(step).map_err(|difference| format!("step {at}, {step:?}: {difference}"))?;
    }
    Ok(both.tally)
}

impl Both {
    fn play(&mut self, step: &Step) -> Result<(), String> {
        let knows = |id: &str| self.cluster.machines.contains_key(id);
        match step {
            Step::Submit { unit, section, desired } => return self.submit(unit, section, *desired),
            Step::Desire(unit, desired) => {
                let old = self.cluster.units.get(*unit).map(|unit| unit.desired);
                if old.is_some_and(|old| old != DesiredState::Destroyed) {
                    self.kit.desire(unit, *desired);
                    self.cluster.desire(unit, *desired);
                }
            }
            Step::Arrive { id, metadata } => {
                self.kit.join(id, metadata);
                let owned = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
                self.cluster.arrive(id, owned.collect());
            }
            Step::Metadata { id, key, value } if knows(id) => {
                self.kit.set_metadata(id, key, value);
                let known = self.cluster.machines.get_mut(*id).expect("asked above");
                known.overriding.insert((*key).to_owned(), (*value).to_owned());
            }
            Step::Vanish(id) if knows(id) => {
                self.kit.vanish(id);
                self.cluster.vanish(id);
            }
            Step::Vouch(id) if knows(id) && !self.cluster.is_here(id) => {
                let confirmed_dead = Some(ConfirmedDead { stamp: Stamp::default() });
                self.note(id, |record| record.confirmed_dead = confirmed_dead);
                self.cluster.machines.get_mut(*id).expect("asked above").is_vouched_dead = true;
            }
            Step::Cordon(id) if knows(id) => {
                self.note(id, |record| record.cordon = !record.cordon);
                let known = self.cluster.machines.get_mut(*id).expect("asked above");
                known.is_cordoned = !known.is_cordoned;
            }
            Step::Vouch(_) | Step::Cordon(_) | Step::Metadata { .. } | Step::Vanish(_) => {}
            Step::Acknowledge(id) => {
                self.kit.acknowledge(id);
                self.cluster.acknowledge(id);
            }
            Step::Wait => {
                self.pass()?;
                self.kit.wait(GRACE);
                self.cluster.now += GRACE.0;
            }
            Step::Pass => {
                self.pass()?;
                self.verdicts()?;
            }
            Step::Rest => return self.rest(),
        }
        Ok(())
    }

    fn note(&mut self, id: &str, change: impl FnOnce(&mut MachineRecord)) {
        let id = machine(id);
        let mut record = self.kit.machines[&id].value.clone();
        change(&mut record);
        self.kit.set_machine(&id, record);
    }

    /// Both refuse, with the same words, or both take it.
    fn submit(&mut self, unit: &str, section: &[(&str, &str)], desired: DesiredState) -> Result<(), String> {
        let lines: Vec<String> = section.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let lines = lines.join("\n");
        let file = UnitFile::parse(&format!("[X-Fleet]\n{lines}\n")).expect("a generated text is readable");
        let wishes = Wishes::read(&file, unit);
        let real = Requirements::of(&file, &name(unit)).map(|(requirements, _)| requirements);
        let refusal = real.as_ref().err().map(ToString::to_string);
        same("refusal", &refusal, &wishes.refusal())?;
        if refusal.is_some() {
            self.tally.add("refused at submit", 1);
            return Ok(());
        }
        let peers = real.map(|requirements| requirements.machine_of).unwrap_or_default();
        let of = |peer: &str| {
            let record = self.kit.units.get(peer).map(|unit| unit.value.requirements().machine_of.as_slice());
            record.unwrap_or_default()
        };
        let is_circle = circle(&name(unit), &peers, of).is_some();
        same("circle", &is_circle, &self.cluster.would_circle(unit, &wishes))?;
        if is_circle {
            self.tally.add("refused as a circle", 1);
            return Ok(());
        }
        self.kit.submit(unit, &lines, desired);
        self.cluster.submit(unit, wishes, desired);
        Ok(())
    }

    /// Whether the plan had anything to do.
    fn pass(&mut self) -> Result<bool, String> {
        let before = self.cluster.stands.clone();
        let plan = if self.is_thorough { self.kit.pass() } else { self.kit.pass_dirty() };
        scheduler::pass(&mut self.cluster);
        self.tally.add("passes", 1);
        let replaced = plan.groups.iter().flat_map(|group| &group.note);
        let replaced =
            replaced.filter(|note| note.kind == "unit-moved" && note.why.contains("found replace"));
        self.tally.add("replaced", replaced.count());
        for (unit, id) in &self.cluster.stands {
            match before.get(unit) {
                None => self.tally.add("placed", 1),
                Some(old) if old != id => self.tally.add("moved", 1),
                Some(_) => {}
            }
        }
        let gone = before.keys().filter(|unit| !self.cluster.stands.contains_key(*unit)).count();
        self.tally.add("withdrawn", gone);
        same(
            "units",
            &self.kit.units.keys().map(|unit| unit.as_str()).collect(),
            &keys(&self.cluster.units),
        )?;
        same("who stands where", &self.placed(), &self.cluster.stands)?;
        let mut copies = BTreeMap::new();
        for (unit, on) in &self.cluster.copies {
            for (id, copy) in on {
                copies.insert((id.clone(), unit.clone()), copy.is_stopping);
            }
        }
        same("orders (true: is to stop)", &self.orders(), &copies)?;
        Ok(!plan.groups.is_empty())
    }

    fn placed(&self) -> BTreeMap<String, String> {
        let placed = self.kit.placements.iter().filter_map(|(unit, placement)| {
            Some((unit.to_string(), placement.value.machine.as_ref()?.to_string()))
        });
        placed.collect()
    }

    fn orders(&self) -> BTreeMap<(String, String), bool> {
        let orders = self.kit.orders.iter();
        let orders = orders.map(|((id, unit), order)| {
            ((id.to_string(), unit.to_string()), order.value.wanted == Wanted::Gone)
        });
        orders.collect()
    }

    fn rest(&mut self) -> Result<(), String> {
        for _ in 0..20 {
            let mut is_busy = self.pass()?;
            for id in MACHINES {
                let before = self.kit.orders.len();
                self.kit.acknowledge(id);
                self.cluster.acknowledge(id);
                is_busy |= self.kit.orders.len() != before;
            }
            if !is_busy {
                self.verdicts()?;
                return self.decisions();
            }
        }
        Err("it does not come to rest".to_owned())
    }

    /// What speaks against each machine for each unit.
    fn verdicts(&mut self) -> Result<(), String> {
        self.cluster.copies_before.clear();
        for unit in self.cluster.units.keys() {
            let why = explain(&self.kit.world, &name(unit), self.kit.now).expect("compared with the records");
            for verdict in &why.machines {
                let id = verdict.machine.as_str();
                let is_on = self.cluster.is_on(unit, id);
                let question = if is_on { Question::MayStay } else { Question::MayCome };
                let against = against(&self.cluster, unit, id, question);
                let found = verdict.against.as_ref().map(|why| why.code());
                same(&format!("what speaks against {unit} on {id}"), &found, &against)?;
                same(&format!("load of {id}"), &(verdict.load as usize), &self.cluster.load(id))?;
                self.tally.add(against.unwrap_or("fits"), 1);
            }
        }
        Ok(())
    }

    /// At rest the decision of a unit without a machine names what speaks against each now.
    fn decisions(&self) -> Result<(), String> {
        for (unit, record) in &self.cluster.units {
            if !record.is_wanted() || record.wishes.global || self.cluster.stands.contains_key(unit) {
                continue;
            }
            let placement = self.kit.placements.get(&name(unit)).map(|placement| &placement.value);
            let decision =
                &placement.ok_or_else(|| format!("nothing says why {unit} has no machine"))?.decision;
            let said: BTreeSet<&str> = decision.refused.iter().map(|line| line.code.as_str()).collect();
            let machines = self.cluster.machines.keys();
            let reasons = machines.filter_map(|id| against(&self.cluster, unit, id, Question::MayCome));
            same(&format!("why {unit} has no machine"), &said, &reasons.collect())?;
        }
        Ok(())
    }
}

fn keys<V>(map: &BTreeMap<String, V>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}

fn same<T: PartialEq + Debug>(what: &str, plan: &T, reference: &T) -> Result<(), String> {
    if plan == reference {
        return Ok(());
    }
    Err(format!("{what}: the plan says {plan:?}, the reference {reference:?}"))
}
