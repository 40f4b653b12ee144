//! What goes over the wire of the HTTP API, for both ends.
//!
//! The daemon's HTTP server encodes these types and the command line decodes them, so that neither has words of its own
//! for the same thing. [`v1`] is the API of fleet 1.0, byte for byte; [`v2`] is everything else. Both answer errors with
//! [`ErrorBody`]. The feature `client` adds an HTTP client, `schema` what the API's own description is made with. Nothing
//! here decides anything, and nothing here knows the registry or systemd.

#[cfg(feature = "client")]
pub mod client;
mod error;
pub mod paths;
#[cfg(feature = "schema")]
pub mod schema;
pub mod v1;
pub mod v2;

pub use error::{ApiError, ErrorBody};

/// API v2 as an OpenAPI 3.1 document: what `schema::openapi` makes, which a test of the daemon compares.
pub const OPENAPI: &[u8] = include_bytes!("../openapi.json");
