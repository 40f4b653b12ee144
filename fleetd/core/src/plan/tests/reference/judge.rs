//! The tests 1 to 5: may this unit be on that machine? Each is the specification's sentence.

use super::cluster::{Cluster, Copy, Unit};

/// A unit that stands on a machine is asked less than one that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    MayCome,
    MayStay,
}

/// The first reason against, as the word that `fleetctl why` shows.
pub fn against(cluster: &Cluster, name: &str, id: &str, question: Question) -> Option<&'static str> {
    let unit = &cluster.units[name];
    let wishes = &unit.wishes;
    if !cluster.is_here(id) {
        return Some("machine-absent");
    }
    if question == Question::MayCome && cluster.machines[id].is_cordoned {
        return Some("machine-cordoned");
    }
    // 1. The machine's id, or the first eight characters of it.
    if let Some(wanted) = &wishes.machine_id
        && wanted != id
        && (wanted.len() != 8 || !id.starts_with(wanted.as_str()))
    {
        return Some("machine-id");
    }
    // 2. One of the values for every key.
    for (key, allowed) in &wishes.metadata {
        if !cluster.metadata(id, key).is_some_and(|value| allowed.contains(value)) {
            return Some("metadata");
        }
    }
    // 3. Every peer is scheduled on the machine.
    if !wishes.peers.iter().all(|peer| cluster.is_on(peer, id)) {
        return Some("peer");
    }
    // 4. Nothing there excludes the unit, or is excluded by it.
    let others = cluster.on(id).filter(|(other, _)| *other != name);
    let in_the_way: Vec<(&String, &Copy)> =
        others.filter(|(other, copy)| conflict(cluster, name, other, id, copy, question)).collect();
    match question {
        Question::MayCome if in_the_way.iter().any(|(_, copy)| !copy.is_stopping) => Some("conflict"),
        Question::MayCome if !in_the_way.is_empty() => Some("conflict-leaving"),
        Question::MayStay
            if in_the_way.iter().any(|(other, copy)| !copy.is_stopping && is_older(cluster, other, name)) =>
        {
            Some("conflict")
        }
        _ => None,
    }
}

fn conflict(cluster: &Cluster, name: &str, other: &str, id: &str, copy: &Copy, question: Question) -> bool {
    let mut texts = vec![&*copy.wishes];
    if question == Question::MayCome {
        // It has to get along with the text that the machine had, because it may have it still, and with the one that
        // it is to get.
        let before = cluster.copies_before.get(other).and_then(|on| on.get(id));
        let is_to_stay = |unit: &&Unit| unit.is_wanted() && unit.life == copy.life && !copy.is_stopping;
        texts.extend(before.map(|copy| &*copy.wishes));
        texts.extend(cluster.units.get(other).filter(is_to_stay).map(|unit| &*unit.wishes));
    }
    cluster.units[name].wishes.conflicts_with(other) || texts.iter().any(|text| text.conflicts_with(name))
}

fn is_older(cluster: &Cluster, other: &str, name: &str) -> bool {
    cluster.units.get(other).is_none_or(|unit| unit.changed < cluster.units[name].changed)
}

/// 5. The unit there that replaces this one. Two that replace each other are ignored, and so is one that would come along.
pub fn replacer<'c>(cluster: &'c Cluster, name: &str, id: &str) -> Option<&'c String> {
    cluster
        .units
        .keys()
        .find(|other| *other != name && cluster.is_on(other, id) && replaces(cluster, other, name))
}

/// Whether the unit would replace another that is there.
pub fn would_replace(cluster: &Cluster, name: &str, id: &str) -> bool {
    cluster.on(id).any(|(other, copy)| other != name && !copy.is_stopping && replaces(cluster, name, other))
}

fn replaces(cluster: &Cluster, replacer: &str, replaced: &str) -> bool {
    let says = |a: &str, b: &str| cluster.units.get(a).is_some_and(|unit| unit.wishes.replaces(b));
    says(replacer, replaced) && !says(replaced, replacer) && !cluster.leads_to(replacer, replaced)
}
