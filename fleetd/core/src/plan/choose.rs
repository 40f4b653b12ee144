//! Which machine takes a unit.

use std::collections::BTreeSet;

use unit_files::UnitName;

use super::board::{Board, Slot};
use super::draft::Draft;
use super::fit::{Purpose, literal_prefix, verdict};
use super::orphans;
use crate::records::{Decision, DecisionLine, Reason, UnitRecord, Wanted};

/// How good a machine is for a unit; the least is taken. The order of the fields is the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Units that have to follow and could not.
    followers_left_behind: usize,
    /// A unit there replaces this one: it would have to move at once.
    is_replaced: bool,
    load: u32,
    /// Ties end in the machine id.
    slot: Slot,
}

/// At most this many machines are named per reason.
const SAMPLES: usize = 3;
/// A decision in short takes at most 4 KiB; texts are cut to this many bytes.
const SAMPLE_BYTES: usize = 160;

/// The best machine that can run the unit, or none. With `in_peace` only one where it neither is replaced nor replaces:
/// a unit that leaves because another replaces it must not start the next such move, or units that replace each other
/// in a ring would move for ever.
pub fn choose<'w>(
    draft: &mut Draft<'w>,
    name: &UnitName,
    unit: &'w UnitRecord,
    except: Option<Slot>,
    in_peace: bool,
) -> Option<Slot> {
    if let Some(home) = orphans::home(draft, name, unit)
        && Some(home) != except
        && verdict(&draft.board, home, name, unit, Purpose::Place, draft.now).is_ok()
    {
        // It runs there already: adopted, nothing is started or stopped.
        return Some(home);
    }
    let candidates = candidates(draft, unit);
    let board = &draft.board;
    let is_plain = draft.world.followers(name).is_none() && draft.world.replacers().is_empty();
    let mut best: Option<Score> = None;
    for slot in candidates.iter(board) {
        if Some(slot) == except || verdict(board, slot, name, unit, Purpose::Place, draft.now).is_err() {
            continue;
        }
        if is_plain {
            return Some(slot);
        }
        let is_replaced = replacer_of(board, slot, name, unit).is_some();
        if in_peace && (is_replaced || replaces(board, slot, name, unit)) {
            continue;
        }
        let score = Score {
            followers_left_behind: followers_left_behind(draft, name, slot),
            is_replaced,
            load: board.load(slot),
            slot,
        };
        if best.is_none_or(|best| score < best) {
            best = Some(score);
        }
        // Candidates come least loaded first: nobody behind this one is better.
        if score.followers_left_behind == 0 && !score.is_replaced {
            break;
        }
    }
    best.map(|best| best.slot)
}

/// Machines to try, least loaded first.
enum Candidates {
    All,
    Some(Vec<Slot>),
}

impl Candidates {
    fn iter<'b>(&'b self, board: &'b Board<'_>) -> Box<dyn Iterator<Item = Slot> + 'b> {
        match self {
            Candidates::All => Box::new(board.by_load()),
            Candidates::Some(slots) => Box::new(slots.iter().copied()),
        }
    }
}

fn candidates<'w>(draft: &mut Draft<'w>, unit: &'w UnitRecord) -> Candidates {
    let requirements = unit.requirements();
    let mut slots: Vec<Slot> = if let Some(peer) = requirements.machine_of.first() {
        draft.board.scheduled_at(peer).collect()
    } else if let Some(id) = &requirements.machine_id {
        match draft.board.slot(id) {
            Some(slot) => vec![slot],
            // The short form names a machine by its first characters.
            None => draft
                .board
                .slots()
                .filter(|slot| requirements.fits_machine_id(draft.board.id(*slot).as_str()))
                .collect(),
        }
    } else if requirements.metadata.is_empty() {
        return Candidates::All;
    } else {
        draft.board.with_metadata(unit).to_vec()
    };
    slots.sort_unstable_by_key(|slot| (draft.board.load(*slot), *slot));
    Candidates::Some(slots)
}

fn followers_left_behind(draft: &Draft<'_>, name: &UnitName, slot: Slot) -> usize {
    let followers = draft.world.followers(name).into_iter().flatten();
    let lacking = followers.filter(|follower| {
        let Some(unit) = draft.board.unit(follower) else { return false };
        // What the follower needs besides its peers decides here.
        let mut alone = unit.clone();
        alone.last_good.requirements.machine_of.clear();
        unit.desired.wants_a_machine()
            && verdict(&draft.board, slot, follower, &alone, Purpose::Place, draft.now).is_err()
    });
    lacking.count()
}

/// The unit on this machine that replaces `name`.
pub fn replacer_of<'w>(
    board: &Board<'w>,
    slot: Slot,
    name: &UnitName,
    unit: &UnitRecord,
) -> Option<&'w UnitName> {
    board.world().replacers().iter().find(|other| {
        board.is_scheduled(other.as_str(), slot)
            && board.unit(other).is_some_and(|theirs| is_replaced(board, (other, theirs), (name, unit)))
    })
}

/// Whether the unit would replace one that is to be on this machine.
fn replaces(board: &Board<'_>, slot: Slot, name: &UnitName, unit: &UnitRecord) -> bool {
    let is_displaced = |other: &UnitName| match board.unit(other) {
        Some(theirs) => is_replaced(board, (name, unit), (other, theirs)),
        None => other != name,
    };
    unit.requirements().replaces.iter().any(|glob| {
        board.occupants_from(slot, literal_prefix(glob)).any(|(other, wanted)| {
            wanted != Wanted::Gone && glob.matches(other.as_str()) && is_displaced(other)
        })
    })
}

/// Whether one unit drives the other from its machine. Two that replace each other do not, nor does one that has to be
/// beside the other: it would go along and drive it on for ever.
fn is_replaced(
    board: &Board<'_>,
    (replacer, theirs): (&UnitName, &UnitRecord),
    (name, unit): (&UnitName, &UnitRecord),
) -> bool {
    let names = |unit: &UnitRecord, other: &UnitName| {
        unit.requirements().replaces.iter().any(|glob| glob.matches(other.as_str()))
    };
    replacer != name && names(theirs, name) && !names(unit, replacer) && !has_to_follow(board, theirs, name)
}

/// Whether `MachineOf=` leads from the unit to the target, through however many others.
fn has_to_follow(board: &Board<'_>, unit: &UnitRecord, target: &UnitName) -> bool {
    let mut ahead: Vec<&str> = unit.requirements().machine_of.iter().map(String::as_str).collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    while let Some(peer) = ahead.pop() {
        if peer == target.as_str() {
            return true;
        }
        if seen.insert(peer)
            && let Some(unit) = board.world().units().get(peer)
        {
            ahead.extend(unit.value.requirements().machine_of.iter().map(String::as_str));
        }
    }
    false
}

/// Why no machine can take the unit, in short: counted by reason, with samples.
pub fn refusal_in_short(draft: &Draft<'_>, name: &UnitName, unit: &UnitRecord, reason: Reason) -> Decision {
    let mut lines: Vec<DecisionLine> = Vec::new();
    for slot in draft.board.slots().filter(|slot| !draft.board.view(*slot).is_forgotten()) {
        let Err(why) = verdict(&draft.board, slot, name, unit, Purpose::Place, draft.now) else { continue };
        let at = lines.iter().position(|line| line.code == why.code()).unwrap_or_else(|| {
            lines.push(DecisionLine { code: why.code().to_owned(), machines: 0, sample: Vec::new() });
            lines.len() - 1
        });
        lines[at].machines += 1;
        if lines[at].sample.len() < SAMPLES {
            let mut text = why.to_string();
            if text.len() > SAMPLE_BYTES {
                let cut = (0..=SAMPLE_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                text.truncate(cut);
            }
            lines[at].sample.push((draft.board.id(slot).clone(), text));
        }
    }
    Decision { reason, refused: lines, ..Decision::default() }
}
