//! What is not done, and why, as a JSON answer.

use axum::Json;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::wire::{ErrorBody, Problem};
use crate::store::StoreError;

/// An answer that says what was not done and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// What kind of refusal.
    pub code: Code,
    /// Why, and what to do, in a sentence.
    pub message: String,
    /// What is wrong in manifests.
    pub problems: Vec<Problem>,
    /// Problems that are not listed.
    pub left_out: usize,
}

/// Kinds of refusals. Each has one status and one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// No token, or one that is not good (any more).
    Unauthenticated,
    /// The role does not allow it.
    Forbidden,
    /// The manifests are wrong.
    Invalid,
    /// The request is wrong.
    Malformed,
    /// The body is too large.
    TooLarge,
    /// There is no such thing.
    NotFound,
    /// The path takes another method.
    MethodNotAllowed,
    /// The state of things does not allow it now.
    Conflict,
    /// Too much at once.
    Busy,
    /// It took too long.
    Timeout,
    /// It went wrong here.
    Internal,
}

impl Code {
    /// The word in the body.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.parts().0
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.parts().1
    }

    fn parts(self) -> (&'static str, StatusCode) {
        match self {
            Self::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN),
            Self::Invalid => ("invalid", StatusCode::UNPROCESSABLE_ENTITY),
            Self::Malformed => ("malformed", StatusCode::BAD_REQUEST),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::Conflict => ("conflict", StatusCode::CONFLICT),
            Self::Busy => ("busy", StatusCode::SERVICE_UNAVAILABLE),
            Self::Timeout => ("timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl ApiError {
    /// A refusal without problems in manifests.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), problems: Vec::new(), left_out: 0 }
    }

    /// Something that is wrong with the request itself.
    #[must_use]
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Code::Malformed, message)
    }

    /// Something that is not there.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Conflict { .. } | StoreError::Full { .. } => Code::Conflict,
            StoreError::NotFound(_) => Code::NotFound,
            StoreError::Busy => Code::Busy,
            StoreError::Closed | StoreError::Corrupt(_) | StoreError::File(_) | StoreError::Database(_) => {
                // What a database says may name paths: it is for the log.
                tracing::error!(%error, "the store failed");
                return Self::new(Code::Internal, "the store failed; the log of the control plane says why");
            }
        };
        Self::new(code, error.to_string())
    }
}

/// What the audit log says of a refusal; in the extensions of the answer.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) code: Code,
    pub(super) message: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { code, message, problems, left_out } = self;
        let refused = Refused { code, message: message.clone() };
        let body = ErrorBody { code: code.word().to_owned(), message, problems, left_out };
        let mut response = (code.status(), Json(body)).into_response();
        if code == Code::Unauthenticated {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(refused);
        response
    }
}
