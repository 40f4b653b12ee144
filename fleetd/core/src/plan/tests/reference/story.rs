//! What happens to one cluster, told to the plan and to the reference, and made shorter when they disagree.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::compare::{Tally, compare};
use crate::records::DesiredState;

#[derive(Clone, Debug, Default)]
pub struct Story {
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Submit {
        unit: &'static str,
        section: Vec<(&'static str, &'static str)>,
        desired: DesiredState,
    },
    Desire(&'static str, DesiredState),
    /// A machine joins or comes back.
    Arrive {
        id: &'static str,
        metadata: Vec<(&'static str, &'static str)>,
    },
    Vanish(&'static str),
    Metadata {
        id: &'static str,
        key: &'static str,
        value: &'static str,
    },
    /// The operator vouches that an absent machine is off.
    Vouch(&'static str),
    /// Sets the mark, or takes it away.
    Cordon(&'static str),
    /// The machine has done what it was told.
    Acknowledge(&'static str),
    /// Until absent machines may lose their units.
    Wait,
    /// One pass of the engine.
    Pass,
    /// Passes and acknowledgements until nothing is left to do.
    Rest,
}

impl Story {
    /// Plays it. A failed assertion counts as a difference.
    pub fn play(&self, is_thorough: bool) -> Result<Tally, String> {
        catch_unwind(AssertUnwindSafe(|| compare(self, is_thorough)))
            .unwrap_or_else(|panic| Err(format!("panicked: {:?}", panic.downcast_ref::<String>())))
    }

    /// A story that still shows a difference and loses it with any step or line less.
    pub fn shortest(mut self) -> Story {
        while let Some(shorter) = self.shorter().into_iter().find(|story| story.play(true).is_err()) {
            self = shorter;
        }
        self
    }

    fn shorter(&self) -> Vec<Story> {
        let mut all = Vec::new();
        for at in 0..self.steps.len() {
            let mut without = self.clone();
            without.steps.remove(at);
            all.push(without);
            let parts = match &self.steps[at] {
                Step::Submit { section, .. } => section.len(),
                Step::Arrive { metadata, .. } => metadata.len(),
                _ => 0,
            };
            for part in 0..parts {
                let mut without = self.clone();
                match &mut without.steps[at] {
                    Step::Submit { section: parts, .. } | Step::Arrive { metadata: parts, .. } => {
                        parts.remove(part);
                    }
                    _ => {}
                }
                all.push(without);
            }
        }
        all
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}
