//! The program against a server of canned answers: what it asks, prints and exits with.

mod answers;
mod changes;
mod complete;
mod fake;
mod hints;
mod lists;
mod tls;
mod views;
mod waits;
mod watches;
