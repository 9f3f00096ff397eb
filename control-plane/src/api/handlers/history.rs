//! What was: generations and the audit log.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::convert;
use crate::api::body::Asked;
use crate::api::error::ApiError;
use crate::api::wire::{AuditBody, ErrorBody, GenerationBody, GenerationDetail};
use crate::api::{Api, blocking};
use crate::store::StoreError;

/// A page of something that is listed the newest first.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct Page {
    /// Only what is before this number.
    before: Option<u64>,
    /// How many (default 50, at most 1000).
    limit: Option<u32>,
}

impl Page {
    fn limit(self) -> u32 {
        self.limit.unwrap_or(50)
    }
}

/// Accepted generations, the newest first.
#[utoipa::path(get, path = "/v1/generations", tag = "history", params(Page),
    responses((status = 200, body = Vec<GenerationBody>)))]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    Asked(page): Asked<Page>,
) -> Result<Json<Vec<GenerationBody>>, ApiError> {
    let store = Arc::clone(api.store());
    let found = blocking(move || store.history(page.before, page.limit())).await??;
    Ok(Json(found.into_iter().map(convert::generation).collect()))
}

/// A generation and what it changed.
#[utoipa::path(get, path = "/v1/generations/{number}", tag = "history",
    params(("number" = u64, Path, description = "Its number.")),
    responses((status = 200, body = GenerationDetail), (status = 404, body = ErrorBody)))]
pub(in crate::api) async fn one(
    State(api): State<Api>,
    Path(number): Path<u64>,
) -> Result<Json<GenerationDetail>, ApiError> {
    let store = Arc::clone(api.store());
    let (generation, changes) = blocking(move || {
        let generation = store.generation(number)?.ok_or(StoreError::NotFound(number))?;
        Ok::<_, StoreError>((generation, store.changes(number)?))
    })
    .await??;
    let changes = changes.iter().map(convert::change).collect();
    Ok(Json(GenerationDetail { generation: convert::generation(generation), changes }))
}

/// The audit log, the newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "history", params(Page),
    responses((status = 200, body = Vec<AuditBody>), (status = 403, body = ErrorBody)))]
pub(in crate::api) async fn audit(
    State(api): State<Api>,
    Asked(page): Asked<Page>,
) -> Result<Json<Vec<AuditBody>>, ApiError> {
    let store = Arc::clone(api.store());
    let found = blocking(move || store.audit_log(page.before, page.limit())).await??;
    Ok(Json(found.into_iter().map(convert::audit).collect()))
}
