//! Proxies: where each stands, what it is given, what it said.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::convert;
use crate::api::body::Asked;
use crate::api::error::{ApiError, Code};
use crate::api::limits::MAX_WAIT;
use crate::api::wire::{AnswerBody, ConfigBody, ErrorBody, ProxyBody, ResourceBody, StatusBody, SyncBody};
use crate::api::{Api, blocking};
use crate::fleet::{Form, ProxyStatus};
use crate::peer::WorkloadKey;

/// How everything stands.
#[utoipa::path(get, path = "/v1/status", tag = "proxies", responses((status = 200, body = StatusBody)))]
pub(in crate::api) async fn overview(State(api): State<Api>) -> Json<StatusBody> {
    let view = api.engine().view();
    Json(StatusBody {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: view.number(),
        published: api.engine().publisher().generation(),
        objects: view.objects().len(),
        directory: api.engine().directory().map(convert::directory),
        proxies: rows(&api, api.fleet().status()),
    })
}

fn rows(api: &Api, rows: Vec<ProxyStatus>) -> Vec<ProxyBody> {
    let publisher = api.engine().publisher();
    rows.into_iter().map(|row| convert::proxy(row, |key, form| publisher.left_out(key, form))).collect()
}

/// Every proxy, connected or lately seen.
#[utoipa::path(get, path = "/v1/proxies", tag = "proxies", responses((status = 200, body = Vec<ProxyBody>)))]
pub(in crate::api) async fn list(State(api): State<Api>) -> Json<Vec<ProxyBody>> {
    Json(rows(&api, api.fleet().status()))
}

/// The streams of one workload.
#[utoipa::path(get, path = "/v1/proxies/{namespace}/{name}", tag = "proxies",
    params(("namespace" = String, Path, description = "Of the workload."), ("name" = String, Path, description = "Of the workload.")),
    responses((status = 200, body = Vec<ProxyBody>), (status = 404, body = ErrorBody)))]
pub(in crate::api) async fn one(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Vec<ProxyBody>>, ApiError> {
    let workload = workload(&namespace, &name)?;
    let rows = api.fleet().status_of(&workload);
    if rows.is_empty() && !api.engine().publisher().is_registered(&workload) {
        return Err(unknown(&workload));
    }
    Ok(Json(self::rows(&api, rows)))
}

/// Which form of a configuration.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct InForm {
    /// `outrigger` (default), `envoy` or `grpc`: who reads it.
    form: Option<String>,
}

/// The resources that a workload's proxy is given.
#[utoipa::path(get, path = "/v1/proxies/{namespace}/{name}/config", tag = "proxies",
    params(("namespace" = String, Path, description = "Of the workload."), ("name" = String, Path, description = "Of the workload."), InForm),
    responses((status = 200, body = ConfigBody), (status = 404, body = ErrorBody)))]
pub(in crate::api) async fn config(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    Asked(asked): Asked<InForm>,
) -> Result<Json<ConfigBody>, ApiError> {
    let workload = workload(&namespace, &name)?;
    let form = match asked.form.as_deref() {
        None | Some("outrigger") => Form::Outrigger,
        Some("envoy") => Form::Envoy,
        Some("grpc") => Form::Grpc,
        Some(other) => {
            return Err(ApiError::malformed(format!("there is no form `{other}`: use outrigger, envoy or grpc")));
        }
    };
    let (publisher, wanted) = (api.engine().publisher().clone(), workload.clone());
    let set = blocking(move || publisher.resources_of(&wanted, form)).await?.ok_or_else(|| unknown(&workload))?;
    let resources = outrigger_xds::Kind::ALL.into_iter().flat_map(|kind| {
        set.of(kind).by_name().values().map(move |resource| ResourceBody {
            kind: format!("{kind:?}"),
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            bytes: resource.body.len(),
        })
    });
    let resources = resources.collect();
    Ok(Json(ConfigBody { proxy: workload.to_string(), generation: set.generation, resources }))
}

/// Whose answers.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct Whose {
    /// Of this workload, `namespace/name`.
    proxy: Option<String>,
    /// How many (default 50, at most 1000).
    limit: Option<u32>,
}

/// What proxies answered, the newest first.
#[utoipa::path(get, path = "/v1/answers", tag = "proxies", params(Whose),
    responses((status = 200, body = Vec<AnswerBody>)))]
pub(in crate::api) async fn answers(
    State(api): State<Api>,
    Asked(whose): Asked<Whose>,
) -> Result<Json<Vec<AnswerBody>>, ApiError> {
    let store = Arc::clone(api.store());
    let found = blocking(move || store.answers(whose.proxy.as_deref(), whose.limit.unwrap_or(50))).await??;
    Ok(Json(found.into_iter().map(convert::answer).collect()))
}

/// What is waited for.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct Until {
    /// The generation.
    generation: u64,
    /// How long, in milliseconds (default 30000, at most 600000).
    timeout_ms: Option<u64>,
}

/// Waits until every connected proxy has answered a generation.
#[utoipa::path(get, path = "/v1/sync", tag = "proxies", params(Until),
    responses((status = 200, body = SyncBody), (status = 503, body = ErrorBody)))]
pub(in crate::api) async fn sync(
    State(api): State<Api>,
    Asked(until): Asked<Until>,
) -> Result<Json<SyncBody>, ApiError> {
    let busy = || ApiError::new(Code::Busy, "too many requests wait for proxies: try again");
    let _seat = api.0.waiting.try_acquire().map_err(|_| busy())?;
    let latest = api.engine().view().number();
    if until.generation > latest {
        return Err(ApiError::not_found(format!(
            "there is no generation {} yet; the latest is {latest}",
            until.generation
        )));
    }
    let limit = Duration::from_millis(until.timeout_ms.unwrap_or(30_000)).min(MAX_WAIT);
    let synced = api.fleet().await_synced(until.generation, limit).await;
    Ok(Json(SyncBody {
        generation: until.generation,
        synced: synced.synced,
        refused: rows(&api, synced.refused),
        waiting: rows(&api, synced.waiting),
    }))
}

pub(super) fn workload(namespace: &str, name: &str) -> Result<WorkloadKey, ApiError> {
    WorkloadKey::new(namespace, name)
        .ok_or_else(|| ApiError::malformed("a workload is named `namespace/name`, as Kubernetes names things"))
}

pub(super) fn unknown(workload: &WorkloadKey) -> ApiError {
    ApiError::not_found(format!("there is no workload {workload}; `get workloads` lists those there are"))
}
