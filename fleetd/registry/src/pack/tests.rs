//! Packing against the in-memory store.
