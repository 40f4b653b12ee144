//! The keeper over the in-memory store.
