//! What an agent keeps on its own disk about a unit: the order it obeys, what of it has been carried out, the start it
//! has begun, and how the last run ended.
//!
//! Written ahead by the shell (one durable write a pass) and read again after a crash or a boot. Readable by the
//! previous release: new fields have defaults, unknown ones are kept.

use serde::{Deserialize, Serialize};
use unit_files::{ContentHash, RunHash, UnitHash};

use super::left::FLEET_1_RUNS;
use crate::ids::{BootId, Generation, OrderNumber, UnitUid};
use crate::records::{Counters, Extra, Order, Reason, SCHEMA, Wanted};
use crate::time::{Span, Timestamp};

/// First wait after an order was refused; it doubles up to [`LONGEST_WAIT`].
const REFUSED_WAIT: Span = Span::from_secs(30);
/// First wait after systemd or the disk failed us: such faults are usually over at once.
const RETRY_WAIT: Span = Span::from_secs(1);
/// Between looks whether somebody has ended the daemon of fleet 1.0.
const FLEET_1_WAIT: Span = Span::from_secs(5);
pub(super) const LONGEST_WAIT: Span = Span::from_secs(900);

/// One unit on the agent's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    #[serde(default)]
    pub v: u32,
    /// The last order accepted. It is also what the machine obeys when it boots without the registry.
    pub order: Order,
    /// The last order carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// A start that was begun and whose end is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// How the last run that we started, or took over, came out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// What keeps the machine from carrying out `order`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// The unit ran when it had to be stopped for its new text, and is to run again although it is only `loaded`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relaunch: bool,
    /// The registry was read and held no order for the unit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// When the unit's `gone` was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<Timestamp>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// An order as far as it matters once it has been carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub number: OrderNumber,
    pub uid: UnitUid,
    pub run_hash: RunHash,
    pub wanted: Wanted,
    #[serde(default)]
    pub counters: Counters,
    /// The boot in which it was carried out: a new boot is a new edge.
    pub boot: BootId,
    pub generation: Generation,
    pub content: ContentHash,
    pub unit_hash: UnitHash,
}

/// A start, written down before it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What will have been carried out when the start is over.
    pub toward: Applied,
    /// Invocation that the unit showed before; any other is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Microseconds since the epoch of the last check of its conditions before.
    #[serde(default)]
    pub previous_condition: u64,
    pub since: Timestamp,
    /// The start was seen queued, so the unit was pinned: should it be unloaded now, its fate is unknown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_queued: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It ran, however it ended.
    Ran,
    /// A condition was not met.
    Skipped,
    /// The start ended without a run.
    NeverRan,
    /// Nobody can tell any more.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub uid: UnitUid,
    pub run_hash: RunHash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
    pub boot: BootId,
    pub outcome: Outcome,
    /// systemd's `Result=`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Reason>,
}

/// What keeps an order from being carried out, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub reason: Reason,
    /// The machine will not do it as things are, in contrast to something that merely failed.
    #[serde(default)]
    pub is_refusal: bool,
    pub attempts: u32,
    pub next: Timestamp,
}

impl DiskRecord {
    #[must_use]
    pub fn new(order: Order) -> DiskRecord {
        DiskRecord {
            v: SCHEMA,
            order,
            applied: None,
            intent: None,
            run: None,
            trouble: None,
            relaunch: false,
            withdrawn: false,
            gone_at: None,
            extra: Extra::new(),
        }
    }

    /// Takes a newer order in place of the one obeyed so far. What stood in the way of the old one is tried anew.
    pub(super) fn accept(&mut self, order: &Order) {
        if order.number > self.order.number {
            self.order = order.clone();
            self.trouble = None;
        }
        self.withdrawn = false;
        self.gone_at = None;
    }

    pub(super) fn settle(&mut self, boot: &BootId) {
        let applied = Applied::of(&self.order, boot);
        if self.applied.as_ref() != Some(&applied) {
            self.applied = Some(applied);
        }
        self.trouble = None;
        self.relaunch = false;
    }

    pub(super) fn refuse(&mut self, reason: Reason, now: Timestamp) {
        self.trouble(reason, true, now);
    }

    pub(super) fn retry(&mut self, reason: Reason, now: Timestamp) {
        self.trouble(reason, false, now);
    }

    fn trouble(&mut self, reason: Reason, is_refusal: bool, now: Timestamp) {
        let before = self.trouble.as_ref().filter(|t| t.is_refusal == is_refusal).map_or(0, |t| t.attempts);
        let first = if is_refusal { REFUSED_WAIT } else { RETRY_WAIT };
        let wait = match reason.code.as_str() {
            FLEET_1_RUNS => FLEET_1_WAIT,
            _ => Span((first.0 << before.min(10)).min(LONGEST_WAIT.0)),
        };
        self.trouble = Some(Trouble { reason, is_refusal, attempts: before + 1, next: now.plus(wait) });
    }

    /// Whether the unit has a place on this machine: it was put there, or its start was begun.
    pub(super) fn is_placed(&self) -> bool {
        self.intent.is_some() || self.applied.as_ref().is_some_and(|a| a.wanted != Wanted::Gone)
    }
}

impl Applied {
    #[must_use]
    pub fn of(order: &Order, boot: &BootId) -> Applied {
        Applied {
            number: order.number,
            uid: order.uid.clone(),
            run_hash: order.run_hash,
            wanted: order.wanted,
            counters: order.counters,
            boot: boot.clone(),
            generation: order.generation,
            content: order.content,
            unit_hash: order.unit_hash,
        }
    }
}
