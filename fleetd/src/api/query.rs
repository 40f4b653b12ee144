//! Query strings: only the parameters that are known are looked at, the others are ignored.

use axum::http::Uri;

use super::Failure;

pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(uri: &Uri) -> Query {
        // Every text is some list of pairs, as browsers read it.
        Query(
            axum::extract::Query::try_from_uri(uri)
                .map(|axum::extract::Query(pairs)| pairs)
                .unwrap_or_default(),
        )
    }

    pub fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str()).collect()
    }

    /// The first value, unless it is empty.
    pub fn first(&self, key: &str) -> Option<&str> {
        self.all(key).first().copied().filter(|value| !value.is_empty())
    }

    pub fn is_set(&self, key: &str) -> bool {
        matches!(self.first(key), Some("true" | "1"))
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.first(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Failure::bad_request(format!("{key}={text}: expected a number"))),
        }
    }
}
