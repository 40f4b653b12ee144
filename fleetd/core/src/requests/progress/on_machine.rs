//! How far one machine is with one order.

use super::Phase;
use crate::records::{Order, Reason, RowPhase, StateRow, Wanted};
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnMachine {
    pub phase: Phase,
    /// The machine will not carry the order out.
    pub is_refused: bool,
    pub active: String,
    pub sub: String,
    pub result: String,
    pub reason: Reason,
    pub since: Timestamp,
}

impl OnMachine {
    /// The engine has not told the machine yet.
    pub(super) fn waiting(row: Option<&StateRow>, since: Timestamp) -> OnMachine {
        let reason = Reason::new("waiting-for-engine", "the machine has not got its order yet");
        OnMachine::new(row, Phase::WaitingForEngine, reason, since)
    }

    fn new(row: Option<&StateRow>, phase: Phase, reason: Reason, since: Timestamp) -> OnMachine {
        let text = |field: fn(&StateRow) -> &String| row.map(|row| field(row).clone()).unwrap_or_default();
        OnMachine {
            phase,
            is_refused: false,
            active: text(|row| &row.active),
            sub: text(|row| &row.sub),
            result: text(|row| &row.result),
            reason,
            since,
        }
    }
}

/// Judges an order that asks for what the record wants.
pub(super) fn judge(order: &Order, row: Option<&StateRow>, is_present: bool) -> OnMachine {
    let Some(row) = row else {
        let reason = if is_present {
            Reason::new("placed", "the machine has not reported on its order yet")
        } else {
            lost()
        };
        return OnMachine::new(None, Phase::Placed, reason, order.at);
    };
    let new = |phase, reason, since| OnMachine::new(Some(row), phase, reason, since);
    if !is_present {
        return new(Phase::Placed, lost(), row.at);
    }
    if let Some(refused) = row.refused.as_ref().filter(|refused| refused.number == order.number) {
        let refusal = new(Phase::Failed, refused.reason.clone(), row.phase_since);
        return OnMachine { is_refused: true, ..refusal };
    }
    let error = row.last_error.clone().unwrap_or_default();
    if row.applied.is_none_or(|number| number < order.number) {
        let phase = match row.phase {
            RowPhase::Loading => Phase::Loading,
            RowPhase::Starting => Phase::Starting,
            RowPhase::Stopping => Phase::Stopping,
            RowPhase::Retrying if order.wanted == Wanted::Launched => Phase::Starting,
            RowPhase::Retrying => Phase::Loading,
            RowPhase::Settled | RowPhase::Refused | RowPhase::Orphan => Phase::Placed,
        };
        return new(phase, error, row.phase_since);
    }
    if row.phase == RowPhase::Stopping || row.active == "deactivating" {
        return new(Phase::Stopping, error, row.since);
    }
    if order.wanted == Wanted::Loaded {
        return new(Phase::Done, Reason::default(), row.since);
    }
    let (phase, reason) = launched(row);
    new(phase, reason, row.since)
}

/// The order to run has been carried out: did it go well?
fn launched(row: &StateRow) -> (Phase, Reason) {
    let ended_badly = !row.result.is_empty() && row.result != "success";
    match row.active.as_str() {
        "active" | "reloading" | "refreshing" => (Phase::Done, Reason::default()),
        "activating" if row.sub == "auto-restart" || ended_badly => {
            let text = format!(
                "it ended with result {} and is started again by systemd ({} restarts)",
                row.result, row.restarts
            );
            (Phase::Starting, Reason::new("restarting", text))
        }
        "activating" => (Phase::Starting, Reason::default()),
        "inactive" if !ended_badly => match &row.last_error {
            Some(error) => (Phase::Failed, error.clone()),
            None if row.invocation.is_empty() => (
                Phase::Done,
                Reason::new("skipped", "a condition of the unit was not met, so it did not run"),
            ),
            None => (Phase::Done, Reason::new("ended", "it ran and ended well")),
        },
        _ => {
            let result = if row.result.is_empty() { "unknown" } else { &row.result };
            let mut text = format!("the unit failed with result {result}");
            if let Some(status) = row.exit_status.filter(|status| *status != 0) {
                text.push_str(&format!(", status {status}"));
            }
            (Phase::Failed, row.last_error.clone().unwrap_or_else(|| Reason::new(result, text)))
        }
    }
}

fn lost() -> Reason {
    Reason::new("machine-lost", "the machine is not present; the unit moves when its time has run out")
}
