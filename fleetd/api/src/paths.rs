//! Where the resources are. Constants with `{name}` are route patterns for the server; the functions fill them in for
//! the client.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Prefix of the API of fleet 1.0.
pub const V1: &str = "/fleet/v1";
/// Another prefix for the same resources, kept for old clients.
pub const V1_ALPHA: &str = "/v1-alpha";
/// Prefix of everything that fleet 1.0 did not have.
pub const V2: &str = "/fleet/v2";

/// POST: a batch of changes. [`crate::v2::ChangeRequest`] -> [`crate::v2::ChangeReport`].
pub const REQUESTS: &str = "/fleet/v2/requests";
/// POST: [`crate::v2::WaitRequest`] -> NDJSON of [`crate::v2::WaitLine`].
pub const WAIT: &str = "/fleet/v2/wait";
/// GET `[?name=&prefix=&text=true]`: [`crate::v2::UnitList`]. `name` may be repeated.
pub const UNITS: &str = "/fleet/v2/units";
/// GET: [`crate::v2::UnitView`].
pub const UNIT: &str = "/fleet/v2/units/{name}";
/// GET: the stored bytes, `text/plain`.
pub const UNIT_TEXT: &str = "/fleet/v2/units/{name}/text";
/// GET `[?machine=]`: [`crate::v2::Explanation`].
pub const UNIT_WHY: &str = "/fleet/v2/units/{name}/why";
/// GET `[?machine=]`: [`crate::v2::StatusReport`].
pub const UNIT_STATUS: &str = "/fleet/v2/units/{name}/status";
/// GET `[?lines=&follow=&output=&machine=]`: NDJSON of [`crate::v2::JournalLine`].
pub const UNIT_JOURNAL: &str = "/fleet/v2/units/{name}/journal";
/// GET `[?unit=&machine=]`: [`crate::v2::StateList`].
pub const STATES: &str = "/fleet/v2/states";
/// GET: [`crate::v2::MachineList`].
pub const MACHINES: &str = "/fleet/v2/machines";
/// POST: [`crate::v2::Requester`] -> [`crate::v2::Done`].
pub const MACHINE_FORGET: &str = "/fleet/v2/machines/{id}/forget";
/// POST: [`crate::v2::Requester`] -> [`crate::v2::Done`].
pub const MACHINE_CONFIRM_DEAD: &str = "/fleet/v2/machines/{id}/confirm-dead";
/// GET `[?kind=&since=]`: server-sent events, [`crate::v2::WatchEvent`]. `kind` may be repeated.
pub const WATCH: &str = "/fleet/v2/watch";
/// GET: this API as an OpenAPI document.
pub const OPENAPI: &str = "/fleet/v2/openapi.json";
/// GET `[?limit=&since=&unit=]`: [`crate::v2::EventList`], newest last. `since` is in Unix milliseconds.
pub const EVENTS: &str = "/fleet/v2/events";
/// GET: [`crate::v2::ClusterView`].
pub const CLUSTER: &str = "/fleet/v2/cluster";
/// GET: [`crate::v2::HealthView`].
pub const CLUSTER_HEALTH: &str = "/fleet/v2/cluster/health";
/// POST: [`crate::v2::AdoptRequest`] -> [`crate::v2::AdoptReport`].
pub const CLUSTER_ADOPT: &str = "/fleet/v2/cluster/adopt";
/// GET: the cluster as lines of JSON.
pub const CLUSTER_EXPORT: &str = "/fleet/v2/cluster/export";
/// POST: [`crate::v2::ImportRequest`] -> [`crate::v2::ImportReport`].
pub const CLUSTER_IMPORT: &str = "/fleet/v2/cluster/import";
/// POST: [`crate::v2::JoinRequest`] -> [`crate::v2::JoinReport`]. Of the machine that answers.
pub const MACHINE_JOIN: &str = "/fleet/v2/machine/join";
/// POST: [`crate::v2::Requester`] -> [`crate::v2::Done`].
pub const CLUSTER_RESUME: &str = "/fleet/v2/cluster/resume";

/// Everything but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as one path segment or one query value.
#[must_use]
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// `pattern` with its placeholder, `{name}` or `{id}`, replaced by the encoded `value`.
#[must_use]
pub fn fill(pattern: &str, value: &str) -> String {
    let encoded = encode(value);
    pattern.replace("{name}", &encoded).replace("{id}", &encoded)
}

/// `path` with a query string; pairs in the order given, values encoded.
#[must_use]
pub fn with_query<'a>(path: &str, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::from(path);
    for (index, (key, value)) in pairs.into_iter().enumerate() {
        out.push(if index == 0 { '?' } else { '&' });
        out.push_str(key);
        out.push('=');
        out.push_str(&encode(value));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_where_they_enter_a_path() {
        assert_eq!(fill(UNIT_TEXT, r"a\x2d@1.service"), "/fleet/v2/units/a%5Cx2d%401.service/text");
        assert_eq!(fill(MACHINE_FORGET, "0123"), "/fleet/v2/machines/0123/forget");
        assert_eq!(with_query(UNITS, [("name", "a&b"), ("name", "c")]), "/fleet/v2/units?name=a%26b&name=c");
        assert_eq!(with_query(UNITS, []), UNITS);
    }
}
