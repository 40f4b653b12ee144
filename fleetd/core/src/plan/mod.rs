//! The engine's decision: from a world to groups of writes.
mod group;
pub use group::{Compare, Group, Plan, Policy, Write};
