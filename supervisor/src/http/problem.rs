//! Errors as `application/problem+json` (RFC 9457).

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use menagerie_protocol::{Failure, LoaderError, RuntimeError};
use serde_json::{Value, json};

/// An error on its way out. `error` is the typed one: the variant's name, and
/// its fields.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    error: Value,
}

impl Problem {
    pub(super) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, title, detail: detail.into(), error: Value::Null }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad request", detail)
    }

    /// A result whose JSON has so many bytes.
    pub(super) fn answer_too_large(size: u64, limit: u64) -> Self {
        let detail = format!(
            "the result takes {size} bytes as JSON, over the limit of {limit} bytes, which is \
             four times max_payload; return less, or lists of numbers as bytes"
        );
        Self { detail, ..Failure::PayloadTooLarge { size, limit }.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "error": self.error,
        });
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, kind, body.to_string()).into_response()
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let (status, title) = match &failure {
            Failure::Guest(_) => (StatusCode::UNPROCESSABLE_ENTITY, "the plugin's own error"),
            Failure::BadArguments { .. } | Failure::BadValue { .. } => {
                (StatusCode::BAD_REQUEST, "bad arguments")
            }
            Failure::NoSuchContract { .. } | Failure::NoSuchFunction { .. } => {
                (StatusCode::NOT_FOUND, "not found")
            }
            Failure::StaleHandle { .. } => (StatusCode::GONE, "unloaded"),
            Failure::DeadlineExceeded { .. } => (StatusCode::GATEWAY_TIMEOUT, "deadline exceeded"),
            Failure::WorkerCrashed { .. } => (StatusCode::BAD_GATEWAY, "worker crashed"),
            Failure::Overloaded { .. } => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            Failure::PayloadTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "payload too large"),
            Failure::CycleDetected { .. } => (StatusCode::LOOP_DETECTED, "cycle detected"),
            Failure::UndeclaredDependency { .. } => {
                (StatusCode::FORBIDDEN, "undeclared dependency")
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "not available"),
        };
        let error = serde_json::to_value(&failure).unwrap_or_default();
        Self { status, title, detail: failure.to_string(), error }
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Self {
        let (status, title) = match &error {
            RuntimeError::BundleNotFound { .. }
            | RuntimeError::Loader(LoaderError::ManifestNotFound { .. }) => {
                (StatusCode::NOT_FOUND, "not found")
            }
            RuntimeError::AlreadyLoaded { .. } | RuntimeError::DependencyInUse { .. } => {
                (StatusCode::CONFLICT, "conflict")
            }
            RuntimeError::Loader(
                LoaderError::Io { .. }
                | LoaderError::RuntimeMissing { .. }
                | LoaderError::TrustStoreUnusable { .. },
            )
            | RuntimeError::WorkerNotFound { .. }
            | RuntimeError::WorkerUnavailable { .. }
            | RuntimeError::BundleQuarantined { .. }
            | RuntimeError::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "not available"),
            RuntimeError::Panicked { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "panicked"),
            RuntimeError::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "timed out"),
            RuntimeError::HotReloadDisabled { .. } => (StatusCode::FORBIDDEN, "disabled"),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "the bundle was refused"),
        };
        let value = serde_json::to_value(&error).unwrap_or_default();
        Self { status, title, detail: error.to_string(), error: value }
    }
}
