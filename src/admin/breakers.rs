//! `/breakers`: circuit breakers, and orders to them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::{Subject, json, sentence};

/// Which breaker is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BreakerName {
    /// That of a cluster.
    Cluster(String),
    /// That of an endpoint of a cluster.
    Endpoint(String, SocketAddr),
    /// That of a rule; `None`: of whichever route table has it.
    Rule(Option<String>, String),
}

/// What it is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Let nothing through.
    Open,
    /// Let everything through.
    Closed,
    /// Follow what comes of requests.
    Auto,
}

#[derive(Debug, Deserialize)]
pub(super) struct OrderQuery {
    cluster: Option<String>,
    endpoint: Option<String>,
    routes: Option<String>,
    rule: Option<String>,
    state: Option<String>,
}

impl OrderQuery {
    fn parse(self) -> Result<(BreakerName, BreakerState), &'static str> {
        let Self { cluster, endpoint, routes, rule, state } = self;
        let state = match state.as_deref() {
            Some("open") => BreakerState::Open,
            Some("closed") => BreakerState::Closed,
            Some("auto") => BreakerState::Auto,
            _ => return Err("Say what it is to be: &state=open, closed or auto."),
        };
        let name = match (cluster, endpoint, rule) {
            (Some(cluster), None, None) => BreakerName::Cluster(cluster),
            (Some(cluster), Some(endpoint), None) => {
                let address =
                    endpoint.parse().map_err(|_| "The endpoint is an address with a port, as in /clusters.")?;
                BreakerName::Endpoint(cluster, address)
            }
            (None, None, Some(rule)) => BreakerName::Rule(routes, rule),
            _ => return Err("Say whose: ?cluster=…, ?cluster=…&endpoint=… or ?rule=…[&routes=…]."),
        };
        Ok((name, state))
    }
}

pub(super) async fn order<S: Subject>(State(subject): State<Arc<S>>, Query(query): Query<OrderQuery>) -> Response {
    match query.parse() {
        Ok((name, state)) => match subject.order_breaker(&name, state) {
            Ok(status) => json(&status),
            Err(problem) => sentence(StatusCode::NOT_FOUND, &problem),
        },
        Err(problem) => sentence(StatusCode::BAD_REQUEST, problem),
    }
}
