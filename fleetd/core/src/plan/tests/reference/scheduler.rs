//! One pass of the reference over the whole cluster: every unit, every machine, every time.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::cluster::{Cluster, Copy, Machine, Presence};
use super::judge::{Question, against, replacer, would_replace};
use super::wishes::Wishes;
use crate::records::DesiredState;

/// How long a machine has been written down as lost before its units may move, in milliseconds.
pub const GRACE: u64 = super::super::kit::GRACE.0;

/// Why a unit has to leave the machine it stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Lost,
    Unfit,
    Replaced,
}

#[derive(Debug)]
pub struct Scheduler<'c> {
    cluster: &'c mut Cluster,
    /// Machines whose units may move.
    dead: BTreeSet<String>,
    /// Units that have been given a machine, or none, in this pass.
    settled: BTreeSet<String>,
}

pub fn pass(cluster: &mut Cluster) {
    cluster.copies_before = cluster.copies.clone();
    let now = cluster.now;
    let is_dead = |machine: &Machine| match machine.presence {
        Presence::Lost { since } => machine.is_vouched_dead || since + GRACE <= now,
        _ => false,
    };
    let dead = cluster.machines.iter().filter(|(_, machine)| is_dead(machine)).map(|(id, _)| id.clone());
    let dead = dead.collect();
    for machine in cluster.machines.values_mut().filter(|machine| machine.presence == Presence::Silent) {
        machine.presence = Presence::Lost { since: now };
    }
    let mut scheduler = Scheduler { cluster, dead, settled: BTreeSet::new() };
    scheduler.withdraw();
    let unfit = scheduler.globals();
    let leaving = scheduler.judged();
    for (name, id) in unfit {
        scheduler.stop(&name, &id);
    }
    for name in &scheduler.singles() {
        if scheduler.place_of(name).is_none() || leaving.contains(name) {
            scheduler.settle(name);
        }
    }
    for name in &scheduler.singles() {
        if let Some(id) = scheduler.place_of(name) {
            scheduler.put(name, &id);
        }
    }
}

impl Scheduler<'_> {
    /// Units that want one machine, in the order of their names, but behind those that they have to be beside.
    fn singles(&self) -> Vec<String> {
        let units = self.cluster.units.iter().filter(|(_, unit)| unit.is_wanted() && !unit.wishes.global);
        let mut names: Vec<String> = units.map(|(name, _)| name.clone()).collect();
        names.sort_by_key(|name| self.chain(name));
        names
    }
    /// How many units, one naming the next in `MachineOf=`, begin with this one.
    fn chain(&self, name: &str) -> usize {
        let Some(unit) = self.cluster.units.get(name) else { return 0 };
        unit.wishes.peers.iter().map(|peer| 1 + self.chain(peer)).max().unwrap_or(0)
    }
    fn place_of(&self, name: &str) -> Option<String> {
        self.cluster.stands.get(name).cloned()
    }
    fn machines(&self) -> Vec<String> {
        self.cluster.machines.keys().cloned().collect()
    }

    /// The unit is to be on this machine, with its present text.
    fn put(&mut self, name: &str, id: &str) {
        let unit = &self.cluster.units[name];
        let copy = Copy { is_stopping: false, life: unit.life, wishes: unit.wishes.clone() };
        self.cluster.copies.entry(name.to_owned()).or_default().insert(id.to_owned(), copy);
    }

    fn stop(&mut self, name: &str, id: &str) {
        if let Some(copy) = self.cluster.copies.get_mut(name).and_then(|on| on.get_mut(id)) {
            copy.is_stopping = true;
        }
    }

    fn stop_but_on(&mut self, name: &str, kept: Option<&str>) {
        for id in self.machines().iter().filter(|id| kept != Some(id.as_str())) {
            self.stop(name, id);
        }
    }

    /// What nobody wants stops; what is to be destroyed goes when the last machine has said that it stopped.
    fn withdraw(&mut self) {
        let names: Vec<String> = self.cluster.units.keys().cloned().collect();
        for name in names {
            let unit = &self.cluster.units[&name];
            let (is_wanted, is_global) = (unit.is_wanted(), unit.wishes.global);
            if self.cluster.units[&name].desired == DesiredState::Destroyed
                && !self.cluster.copies.contains_key(&name)
            {
                self.cluster.units.remove(&name);
            }
            if !is_wanted {
                self.stop_but_on(&name, None);
            }
            if !is_wanted || is_global {
                self.cluster.stands.remove(&name);
            }
            let life = self.cluster.units.get(&name).map(|unit| unit.life);
            let is_of_this_life = |on: &Copy| Some(on.life) == life;
            if let Some(id) = self.place_of(&name)
                && !self.cluster.copy(&name, &id).is_some_and(is_of_this_life)
            {
                self.cluster.stands.remove(&name);
            }
        }
    }

    /// Global units in the order of their names, on every machine that is here. Gives back what changed metadata takes
    /// away: that happens when everything has been judged.
    fn globals(&mut self) -> Vec<(String, String)> {
        let mut unfit = Vec::new();
        let globals = self.cluster.units.iter().filter(|(_, unit)| unit.is_wanted() && unit.wishes.global);
        let globals: Vec<String> = globals.map(|(name, _)| name.clone()).collect();
        for name in &globals {
            for id in self.machines() {
                let is_on = self.cluster.is_on(name, &id);
                if !self.cluster.is_here(&id) {
                    if is_on {
                        self.put(name, &id);
                    }
                    continue;
                }
                let question = if is_on { Question::MayStay } else { Question::MayCome };
                match against(self.cluster, name, &id, question) {
                    None => self.put(name, &id),
                    Some("metadata") if is_on => unfit.push((name.clone(), id)),
                    Some(_) if is_on => self.stop(name, &id),
                    Some(_) => {}
                }
            }
        }
        unfit
    }

    /// Who cannot stay, before anything moves.
    fn judged(&self) -> Vec<String> {
        let leaves = |name: &String| self.place_of(name).is_some_and(|id| self.cause(name, &id).is_some());
        self.singles().into_iter().filter(leaves).collect()
    }

    fn cause(&self, name: &str, id: &str) -> Option<Cause> {
        if self.dead.contains(id) {
            return Some(Cause::Lost);
        }
        if !self.cluster.is_here(id) {
            return None;
        }
        match against(self.cluster, name, id, Question::MayStay) {
            Some(_) => Some(Cause::Unfit),
            None => replacer(self.cluster, name, id).map(|_| Cause::Replaced),
        }
    }

    /// Gives a unit that stands nowhere, or has to leave, another machine.
    fn settle(&mut self, name: &str) {
        let from = self.place_of(name);
        let cause = from.as_ref().and_then(|id| self.cause(name, id));
        if (from.is_some() && cause.is_none()) || self.settled.contains(name) {
            // What drove it out has gone meanwhile, or it has gone along with another.
            return;
        }
        self.settled.insert(name.to_owned());
        match self.best(name, from.as_deref(), cause == Some(Cause::Replaced)) {
            Some(id) => self.move_to(name, &id),
            None if matches!(cause, Some(Cause::Lost | Cause::Replaced)) => {
                self.stop_but_on(name, from.as_deref());
            }
            None => {
                self.cluster.stands.remove(name);
                self.stop_but_on(name, None);
                if from.is_some() {
                    self.drop_followers(name);
                }
            }
        }
    }

    /// Of the machines that can run the unit: where fewest followers are left behind, then where nothing replaces it,
    /// then where fewest units are, then the smallest id.
    fn best(&self, name: &str, except: Option<&str>, in_peace: bool) -> Option<String> {
        let ids = self.machines();
        let fits = ids.iter().filter(|id| {
            let is_in_peace =
                replacer(self.cluster, name, id).is_none() && !would_replace(self.cluster, name, id);
            except != Some(id.as_str())
                && against(self.cluster, name, id, Question::MayCome).is_none()
                && (is_in_peace || !in_peace)
        });
        let ranked = fits.map(|id| {
            let is_replaced = replacer(self.cluster, name, id).is_some();
            (self.left_behind(name, id), is_replaced, self.cluster.load(id), id.clone())
        });
        ranked.min().map(|(_, _, _, id)| id)
    }

    /// Followers that could not be on the machine even if all their peers were.
    fn left_behind(&self, name: &str, id: &str) -> usize {
        let followers = self.cluster.followers(name);
        if followers.is_empty() {
            return 0;
        }
        let mut imagined = self.cluster.clone();
        for follower in &followers {
            let unit = imagined.units.get_mut(follower).expect("a follower is a unit");
            unit.wishes = Rc::new(Wishes { peers: Vec::new(), ..Wishes::clone(&unit.wishes) });
        }
        let lacks = |follower: &&String| against(&imagined, follower, id, Question::MayCome).is_some();
        followers.iter().filter(lacks).count()
    }

    fn move_to(&mut self, name: &str, id: &str) {
        self.stop_but_on(name, Some(id));
        self.put(name, id);
        self.cluster.stands.insert(name.to_owned(), id.to_owned());
        self.take_followers(name, id);
    }

    /// What has to be beside the unit goes with it.
    fn take_followers(&mut self, target: &str, id: &str) {
        for name in self.cluster.followers(target) {
            let from = self.place_of(&name);
            let is_away =
                from.as_ref().is_some_and(|at| !self.cluster.is_here(at) && !self.dead.contains(at));
            if from.as_deref() == Some(id) || is_away || self.settled.contains(&name) {
                continue;
            }
            if against(self.cluster, &name, id, Question::MayCome).is_none() {
                self.settled.insert(name.clone());
                self.move_to(&name, id);
            } else if from.is_some_and(|at| self.cause(&name, &at) == Some(Cause::Unfit)) {
                self.settle(&name);
            }
        }
    }

    /// What has to be beside a unit that went nowhere cannot stay.
    fn drop_followers(&mut self, target: &str) {
        for name in self.cluster.followers(target) {
            if self.place_of(&name).is_some_and(|at| self.cause(&name, &at) == Some(Cause::Unfit)) {
                self.settle(&name);
            }
        }
    }
}
