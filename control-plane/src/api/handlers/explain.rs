//! Where a request would go.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};

use super::proxies;
use crate::api::body::Body;
use crate::api::error::{ApiError, Code};
use crate::api::wire::{ErrorBody, ExplainRequest, Story};
use crate::api::{Api, blocking};
use crate::engine::{Asked, Unexplained};

/// Explains where a request of a workload would go, and which manifest set each value. Nothing is sent.
#[utoipa::path(post, path = "/v1/proxies/{namespace}/{name}/explain", tag = "proxies", request_body = ExplainRequest,
    params(("namespace" = String, Path, description = "Of the workload."), ("name" = String, Path, description = "Of the workload.")),
    responses((status = 200, body = Story), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(in crate::api) async fn explain(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    Body(request): Body<ExplainRequest>,
) -> Result<Json<Story>, ApiError> {
    let workload = proxies::workload(&namespace, &name)?;
    let ExplainRequest { method, url, headers, listener } = request;
    let asked = Asked { method, url, headers, listener };
    let engine = Arc::clone(api.engine());
    let wanted = workload.clone();
    let story = blocking(move || engine.publisher().explain(&wanted, &asked)).await?;
    story.map(Json).map_err(|error| match error {
        Unexplained::Unknown => proxies::unknown(&workload),
        Unexplained::Question(message) => ApiError::malformed(message),
        Unexplained::NotYet => ApiError::new(Code::Busy, "the configuration is being compiled: try again"),
    })
}
