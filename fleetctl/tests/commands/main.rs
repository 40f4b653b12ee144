//! The program against a server of canned answers: what it asks, prints and exits with.

mod answers;
mod changes;
mod fake;
mod tls;
mod views;
mod waits;
mod watches;
