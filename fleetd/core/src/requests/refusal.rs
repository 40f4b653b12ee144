//! Why a request is not carried out: message, HTTP status and remedy in one place.

use unit_files::{NameError, OptionsError, SubmitError, UnitName, go_quote};

/// A request that is refused. Messages that fleet 1.0 had are kept, because its clients compare them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("OnPartition=stop is not yet supported by this cluster")]
    Exclusive,
    #[error("MachineOf forms a circle: {}", path.join(" -> "))]
    Circle { path: Vec<String> },
    #[error("Alias={alias} is the name of another unit")]
    AliasTaken { alias: String },
    #[error("cannot activate template {}", go_quote(unit.as_str()))]
    TemplateActivation { unit: UnitName },
    #[error("unit does not exist")]
    Unknown,
    #[error("unit does not exist and options field empty")]
    UnknownWithoutOptions,
    #[error("unable to find template Unit({template}) in Registry")]
    TemplateUnknown { template: UnitName },
    #[error("must provide DesiredState to update existing unit")]
    NoDesiredState,
    #[error("invalid desiredState {}: expected inactive, loaded or launched", go_quote(text))]
    BadDesiredState { text: String },
    #[error("Unable to {verb} unit {unit} in state inactive")]
    Inactive { verb: &'static str, unit: UnitName },
    #[error("destroy --force is not yet supported by this cluster")]
    Force,
    #[error("this cluster has a unit {unit} with another text")]
    OtherText { unit: UnitName },
    #[error("unit {unit} is still being destroyed")]
    Leaving { unit: UnitName },
    #[error("machine {machine} is not present in this cluster")]
    MachineAbsent { machine: String },
    #[error("arrival goes with submit, load and start alone, and with a text")]
    Arrival,
    #[error("unit {unit} is named twice, with different verbs, texts or options")]
    NamedTwice { unit: UnitName },
}

impl Refusal {
    /// The HTTP status that it is answered with.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Submit(SubmitError::TooLarge { .. }) => 413,
            Refusal::Submit(SubmitError::Empty { .. })
            | Refusal::UnknownWithoutOptions
            | Refusal::NoDesiredState
            | Refusal::OtherText { .. }
            | Refusal::Leaving { .. }
            | Refusal::MachineAbsent { .. }
            | Refusal::Inactive { .. } => 409,
            Refusal::Unknown | Refusal::TemplateUnknown { .. } => 404,
            Refusal::Name(_)
            | Refusal::Submit(_)
            | Refusal::Options(_)
            | Refusal::Exclusive
            | Refusal::Circle { .. }
            | Refusal::AliasTaken { .. }
            | Refusal::TemplateActivation { .. }
            | Refusal::BadDesiredState { .. }
            | Refusal::Force
            | Refusal::Arrival
            | Refusal::NamedTwice { .. } => 400,
        }
    }

    /// What to do next, where the message does not say it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Refusal::Exclusive => "remove the line, or write OnPartition=keep".to_owned(),
            Refusal::Circle { .. } => "take one of these units' MachineOf= away".to_owned(),
            Refusal::AliasTaken { alias } => {
                format!("remove Alias={alias}, or destroy the unit of that name")
            }
            Refusal::TemplateActivation { unit } => {
                let (stem, suffix) = unit.as_str().split_once('@').unwrap_or((unit.as_str(), ""));
                format!("start an instance of it, such as {stem}@1{suffix}")
            }
            Refusal::TemplateUnknown { template } => format!("submit {template}, or give the unit's text"),
            Refusal::Inactive { unit, .. } => format!("fleetctl start {unit} has it placed and started"),
            Refusal::Force => "bring the machine back, or `fleetctl machine forget` it".to_owned(),
            Refusal::OtherText { unit } => {
                format!("see `fleetctl cat {unit}`; destroy it here, or leave it out")
            }
            Refusal::Leaving { .. } => "try again when its machines have let it go".to_owned(),
            Refusal::MachineAbsent { .. } => "start fleetd on it first".to_owned(),
            Refusal::NamedTwice { .. } => "send two requests".to_owned(),
            _ => return None,
        })
    }
}
