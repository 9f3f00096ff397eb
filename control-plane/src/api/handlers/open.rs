//! What anybody may ask.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::api::error::{ApiError, Code};
use crate::api::{Api, openapi as document};

/// Whether the process lives.
#[utoipa::path(get, path = "/v1/health", tag = "health", security(()),
    responses((status = 200, description = "It lives.")))]
pub(in crate::api) async fn health() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// Whether it can serve proxies: what is stored is loaded and compiled.
#[utoipa::path(get, path = "/v1/ready", tag = "health", security(()),
    responses((status = 200, description = "It is ready."), (status = 503, description = "Not yet.")))]
pub(in crate::api) async fn ready(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    if api.engine().is_ready() {
        Ok(Json(json!({ "status": "ready" })))
    } else {
        Err(ApiError::new(Code::Busy, "what is stored is being compiled"))
    }
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "health", security(()),
    responses((status = 200, description = "OpenAPI 3.1.")))]
pub(in crate::api) async fn openapi() -> Json<Value> {
    Json(document())
}
