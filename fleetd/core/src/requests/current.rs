//! The state of a unit as API v1 shows it: what the last order that its machine carried out wanted.

use crate::records::{DesiredState, StateRow, Wanted};

/// `inactive` without a row, while the machine is lost, and for a row of an earlier life of the name.
#[must_use]
pub fn current_state(row: Option<&StateRow>, is_lost: bool) -> DesiredState {
    match row.filter(|_| !is_lost).and_then(|row| row.wanted) {
        Some(Wanted::Launched) => DesiredState::Launched,
        Some(Wanted::Loaded) => DesiredState::Loaded,
        Some(Wanted::Gone) | None => DesiredState::Inactive,
    }
}
