//! The body of every answer that is not a success, in v1 and v2.

use serde::{Deserialize, Serialize};

/// What went wrong. `code` repeats the HTTP status; inside a batch it is the status the request would have had alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[error("{message}{}", remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default())]
pub struct ApiError {
    pub code: u16,
    /// Always present, empty at worst; fleet 1.0's clients print it.
    pub message: String,
    /// What to do next. Only v2 has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl ApiError {
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), remedy: None }
    }

    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> ApiError {
        self.remedy = Some(remedy.into());
        self
    }
}

/// `{"error":{"code":404,"message":"unit does not exist"}}`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorBody {
    pub error: ApiError,
}

impl From<ApiError> for ErrorBody {
    fn from(error: ApiError) -> ErrorBody {
        ErrorBody { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_body_is_that_of_fleet_1_unless_there_is_a_remedy() {
        let plain = ErrorBody::from(ApiError::new(404, "unit does not exist"));
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            r#"{"error":{"code":404,"message":"unit does not exist"}}"#
        );
        let helpful = ApiError::new(409, "on hold").with_remedy("run fleetctl cluster adopt");
        assert_eq!(helpful.to_string(), "on hold; run fleetctl cluster adopt");
        let read: ErrorBody =
            serde_json::from_str(&serde_json::to_string(&ErrorBody::from(helpful.clone())).unwrap()).unwrap();
        assert_eq!(read.error, helpful);
    }
}
