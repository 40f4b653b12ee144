//! Faults that a test puts between the in-memory store and its clients.
//!
//! Called by the store's handle before each call and by tests; holds no data of the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::store::{Operation, StoreError};

/// The way between a client and the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    #[default]
    Open,
    /// Calls fail at once, as with a connection that is refused.
    Refused,
    /// Calls vanish and run into the request time-out, as with packets that are dropped.
    Silent,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this and is not applied.
    Fail(StoreError),
    /// It is late by this much, then goes on.
    Delay(Duration),
    /// It is applied, but the answer is lost: a writing transaction's outcome is unknown.
    DropReply,
}

/// A fault for the next calls that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    fault: Fault,
    client: Option<String>,
    operation: Option<Operation>,
    /// Matching calls that still go through before the fault strikes.
    skip: usize,
    times: usize,
}

impl Injection {
    /// Strikes the next call of any client.
    pub fn next(fault: Fault) -> Self {
        Self { fault, client: None, operation: None, skip: 0, times: 1 }
    }

    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    #[must_use]
    pub fn of_client(mut self, client: impl Into<String>) -> Self {
        self.client = Some(client.into());
        self
    }

    /// Lets `calls` matching calls through first.
    #[must_use]
    pub fn after(mut self, calls: usize) -> Self {
        self.skip = calls;
        self
    }

    /// Strikes so many calls instead of one.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    links: HashMap<Arc<str>, Link>,
    all: Link,
    injections: Vec<Injection>,
    calls: HashMap<Operation, u64>,
}

impl Faults {
    pub fn inject(&mut self, injection: Injection) {
        self.injections.push(injection);
    }

    pub fn clear(&mut self) {
        self.injections.clear();
        self.links.clear();
        self.all = Link::Open;
    }

    pub fn set_link(&mut self, client: Option<Arc<str>>, link: Link) {
        match client {
            Some(client) => drop(self.links.insert(client, link)),
            None => self.all = link,
        }
    }

    pub fn link(&self, client: &str) -> Link {
        match self.all {
            Link::Open => self.links.get(client).copied().unwrap_or_default(),
            down => down,
        }
    }

    /// Counts the call and takes every fault that strikes it, in the order of injection.
    pub fn strike(&mut self, client: &str, operation: Operation) -> Vec<Fault> {
        *self.calls.entry(operation).or_default() += 1;
        let mut struck = Vec::new();
        self.injections.retain_mut(|injection| {
            let is_match = injection.client.as_deref().is_none_or(|own| own == client)
                && injection.operation.is_none_or(|own| own == operation);
            if !is_match {
                return true;
            }
            if injection.skip > 0 {
                injection.skip -= 1;
                return true;
            }
            if injection.times > 0 {
                injection.times -= 1;
                struck.push(injection.fault.clone());
            }
            injection.times > 0
        });
        struck
    }

    pub fn calls(&self, operation: Operation) -> u64 {
        self.calls.get(&operation).copied().unwrap_or_default()
    }
}
