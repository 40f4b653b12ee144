//! The program against a server of canned answers: what it asks, prints and exits with.

mod changes;
mod fake;
mod tls;
mod views;
