//! Which path goes where, and what it asks for.

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::Router;
use tokio::time::timeout;

use super::access::{self, Level};
use super::error::{ApiError, Code};
use super::handlers::{authority, changes, explain, history, objects, open, proxies, tokens};
use super::limits::{MAX_BODY, MAX_MANIFEST_BODY, REQUEST_TIMEOUT};
use super::{Api, metrics};

/// The API as a service.
pub fn router(api: &Api) -> Router {
    let routes = Router::new()
        .route("/v1/health", get(open::health))
        .route("/v1/ready", get(open::ready))
        .route("/v1/openapi.json", get(open::openapi))
        .merge(at(api, Level::Viewer, "/v1/status", get(proxies::overview)))
        .merge(at(api, Level::Viewer, "/v1/objects", get(objects::list)))
        .merge(at(api, Level::Viewer, "/v1/generations", get(history::list)))
        .merge(at(api, Level::Viewer, "/v1/generations/{number}", get(history::one)))
        .merge(at(api, Level::Viewer, "/v1/proxies", get(proxies::list)))
        .merge(at(api, Level::Viewer, "/v1/proxies/{namespace}/{name}", get(proxies::one)))
        .merge(at(api, Level::Viewer, "/v1/proxies/{namespace}/{name}/config", get(proxies::config)))
        .merge(at(api, Level::Viewer, "/v1/proxies/{namespace}/{name}/explain", post(explain::explain)))
        .merge(at(api, Level::Viewer, "/v1/answers", get(proxies::answers)))
        .merge(at(api, Level::Viewer, "/v1/metrics", get(metrics::show)))
        .merge(at(api, Level::Viewer, "/v1/ca", get(authority::status)))
        .merge(at(api, Level::Pusher, "/v1/apply", manifests(post(changes::apply))))
        .merge(at(api, Level::Pusher, "/v1/delete", manifests(post(changes::delete))))
        .merge(at(api, Level::Admin, "/v1/generations/{number}/rollback", post(changes::rollback)))
        .merge(at(api, Level::Admin, "/v1/tokens", get(tokens::list).post(tokens::create)))
        .merge(at(api, Level::Admin, "/v1/tokens/{id}", delete(tokens::revoke)))
        .merge(at(api, Level::Admin, "/v1/join-tokens", post(tokens::join)))
        .merge(at(api, Level::Admin, "/v1/ca/rotate", post(authority::rotate)))
        .merge(at(api, Level::Admin, "/v1/audit", get(history::audit)))
        .layer(middleware::from_fn_with_state(api.clone(), limited))
        .merge(at(api, Level::Viewer, "/v1/sync", get(proxies::sync)));
    routes
        .fallback(async || ApiError::not_found("there is nothing here; see /v1/openapi.json for what there is"))
        .method_not_allowed_fallback(async || {
            ApiError::new(Code::MethodNotAllowed, "this path takes another method; see /v1/openapi.json")
        })
        .layer(middleware::from_fn_with_state(api.clone(), access::audit))
        .layer(middleware::from_fn_with_state(api.clone(), dressed))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api.clone())
}

/// A route for callers of at least this level.
fn at(api: &Api, level: Level, path: &str, methods: MethodRouter<Api>) -> Router<Api> {
    let guard = middleware::from_fn_with_state((api.clone(), level), access::guard);
    Router::new().route(path, methods.layer(guard))
}

fn manifests(methods: MethodRouter<Api>) -> MethodRouter<Api> {
    methods.layer(DefaultBodyLimit::max(MAX_MANIFEST_BODY))
}

/// Bounds how much is done at once, and for how long.
async fn limited(State(api): State<Api>, request: Request, next: Next) -> Response {
    let Ok(_seat) = api.0.working.try_acquire() else {
        return ApiError::new(Code::Busy, "too many requests at once: try again").into_response();
    };
    match timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        // What was begun goes on: a change that was asked for may yet be made.
        Err(_) => ApiError::new(Code::Timeout, "it took too long; see the history for whether it was done").into_response(),
    }
}

/// Counts, and sets what every answer has.
async fn dressed(State(api): State<Api>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    api.metrics().answered(response.status());
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
