//! The typed layer over the in-memory store.
