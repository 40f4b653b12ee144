//! The rules of the agent, one test each; names begin with the promise that they show.

mod edges;
mod faults;
mod histories;
mod left;
mod promises;
