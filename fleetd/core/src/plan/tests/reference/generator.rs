//! Clusters and what happens to them, from a seed.

use super::story::{Step, Story};
use crate::records::DesiredState;

/// Two ids share their first eight characters, one has only eight, two have fewer.
pub const MACHINES: [&str; 6] = ["aaaaaaaa1111", "aaaaaaaa2222", "bbbbbbbb", "cccccccc3333", "m1", "m2"];
const UNITS: [&str; 12] = [
    "a.service",
    "b.service",
    "db.service",
    "job.timer",
    "log.service",
    "log@1.service",
    "log@2.service",
    "web-x.socket",
    "web@1.service",
    "web@2.service",
    "web@3.service",
    "zz.mount",
];
const METADATA: [(&str, [&str; 3]); 2] = [("role", ["web", "db", ""]), ("disk", ["ssd", "hdd", ""])];
const IDS: [&str; 7] = ["aaaaaaaa", "aaaaaaaa1111", "bbbbbbbb", "cccccccc", "m1", "", "aaaaaaa"];
const WANTED: [&str; 10] = [
    "role=web",
    "role=db",
    "disk=ssd",
    "disk=hdd",
    "\"role=web\" \"disk=ssd\"",
    "\"role=db\" \"role=web\"",
    "role=web disk=ssd",
    "role=a=b",
    "=web",
    "role=%p",
];
const PEERS: [&str; 10] = [
    "a.service",
    "db.service",
    "log.service",
    "web@1.service",
    "%p@1.service",
    "web@%i.service",
    "log@%i.service",
    "\"a.service\" \"db.service\"",
    "a.service db.service",
    "b.service",
];
const PATTERNS: [&str; 18] = [
    "%p@*.service",
    "web@*.service",
    "web@[12].service",
    "web@[^1].service",
    "*",
    "*.service",
    "?.service",
    "a.service",
    "b.service",
    "db.service log*",
    "\"a.service\" \"log*\"",
    "%n",
    "%N.*",
    "[a-d]*",
    "web[",
    "w\\eb@?.service",
    "\"web*\"",
    "log@[1-",
];
const TRUTHS: [&str; 8] = ["true", "Yes", "1", "ON", "t", "y", "", "false"];

/// splitmix64: small, and the same everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice of neighbouring seeds have nothing in common.
    pub fn of(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("less than a usize")
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
    fn is_one_of(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }
}

pub fn story(dice: &mut Dice) -> Story {
    let is_large = dice.is_one_of(3);
    let machines = 1 + dice.roll(if is_large { 6 } else { 3 });
    let units = dice.roll(if is_large { 13 } else { 7 });
    let mut story = Story::default();
    let mut known = Known::default();
    for _ in 0..machines {
        let id = dice.pick(&MACHINES);
        if !known.machines.contains(&id) {
            known.machines.push(id);
            story.steps.push(arrival(dice, id));
        }
    }
    for _ in 0..units {
        let unit = dice.pick(&UNITS);
        known.units.push(unit);
        story.steps.push(submission(dice, unit));
        if dice.is_one_of(4) {
            story.steps.push(Step::Pass);
        }
    }
    story.steps.push(Step::Rest);
    for _ in 0..dice.roll(9) {
        let step = event(dice, &known);
        let is_death = matches!(step, Step::Vanish(_));
        story.steps.push(step);
        if is_death && dice.is_one_of(2) {
            story.steps.push(Step::Wait);
        }
        match dice.roll(6) {
            0 | 1 => {}
            2 | 3 => story.steps.push(Step::Pass),
            _ => story.steps.push(Step::Rest),
        }
    }
    story.steps.extend([Step::Rest, Step::Wait, Step::Rest]);
    story
}

/// What the cluster began with; most of what happens later happens to these.
#[derive(Debug, Default)]
struct Known {
    machines: Vec<&'static str>,
    units: Vec<&'static str>,
}

fn event(dice: &mut Dice, known: &Known) -> Step {
    let any = |dice: &mut Dice, known: &[&'static str], all: &[&'static str]| {
        if known.is_empty() || dice.is_one_of(4) { dice.pick(all) } else { dice.pick(known) }
    };
    let id = any(dice, &known.machines, &MACHINES);
    let unit = any(dice, &known.units, &UNITS);
    match dice.roll(22) {
        0..=4 => submission(dice, unit),
        5..=7 => {
            let (key, values) = dice.pick(&METADATA);
            Step::Metadata { id, key, value: dice.pick(&values) }
        }
        8..=10 => Step::Vanish(id),
        11..=13 => arrival(dice, id),
        14 => Step::Vouch(id),
        15 => Step::Cordon(id),
        16 => Step::Acknowledge(id),
        17 => Step::Wait,
        18 => Step::Desire(unit, DesiredState::Destroyed),
        19 => Step::Desire(unit, DesiredState::Inactive),
        20 => Step::Desire(unit, DesiredState::Loaded),
        _ => Step::Desire(unit, DesiredState::Launched),
    }
}

fn arrival(dice: &mut Dice, id: &'static str) -> Step {
    let mut metadata = Vec::new();
    for (key, values) in METADATA {
        if dice.is_one_of(2) {
            metadata.push((key, dice.pick(&values[..2])));
        }
    }
    Step::Arrive { id, metadata }
}

fn submission(dice: &mut Dice, unit: &'static str) -> Step {
    let desired = match dice.roll(8) {
        0 => DesiredState::Inactive,
        1 => DesiredState::Loaded,
        _ => DesiredState::Launched,
    };
    Step::Submit { unit, section: section(dice), desired }
}

/// Mostly what may be submitted, and now and then anything.
fn section(dice: &mut Dice) -> Vec<(&'static str, &'static str)> {
    let mut lines = Vec::new();
    let metadata = ["MachineMetadata", "MachineMetadata", "X-ConditionMachineMetadata"];
    let peers = ["MachineOf", "MachineOf", "X-ConditionMachineOf"];
    let conflicts = ["Conflicts", "Conflicts", "X-Conflicts"];
    let ids = ["MachineID", "X-ConditionMachineID", "X-ConditionMachineBootID"];
    match dice.roll(16) {
        0..=2 => {}
        3 => lines.push((dice.pick(&ids), dice.pick(&IDS))),
        4 | 5 => lines.push((dice.pick(&peers), dice.pick(&PEERS))),
        6 => {
            lines.push((dice.pick(&peers), dice.pick(&PEERS)));
            lines.push((dice.pick(&conflicts), dice.pick(&PATTERNS)));
        }
        7 => {
            lines.push((dice.pick(&peers), dice.pick(&PEERS)));
            lines.push(("Replaces", dice.pick(&PATTERNS)));
        }
        8..=10 => lines.push((dice.pick(&conflicts), dice.pick(&PATTERNS))),
        11 | 12 => lines.push(("Replaces", dice.pick(&PATTERNS))),
        13 => lines.push(("Global", dice.pick(&TRUTHS))),
        14 => {
            lines.push(("Global", dice.pick(&TRUTHS[..5])));
            lines.push((dice.pick(&conflicts), dice.pick(&PATTERNS)));
        }
        _ => {
            for _ in 0..1 + dice.roll(4) {
                let line = match dice.roll(5) {
                    0 => (dice.pick(&ids), dice.pick(&IDS)),
                    1 => (dice.pick(&peers), dice.pick(&PEERS)),
                    2 => (dice.pick(&conflicts), dice.pick(&PATTERNS)),
                    3 => ("Replaces", dice.pick(&PATTERNS)),
                    _ => ("Global", dice.pick(&TRUTHS)),
                };
                lines.push(line);
            }
        }
    }
    for _ in 0..dice.roll(5).saturating_sub(2) {
        lines.push((dice.pick(&metadata), dice.pick(&WANTED)));
    }
    lines
}
