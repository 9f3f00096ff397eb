//! Whether a request may be made. It is decided before anything is done for it: no route is counted, no filter
//! applied, no redirect, fixed answer or 404 given to who may not ask.

use std::sync::Arc;

use http::Method;
use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use outrigger_config::model::Access;

use super::origin::Origin;
use super::reason::Reason;
use super::record::Record;
use crate::policy::authz::{ClaimSource, Claims, Decision, Request};
use crate::policy::route::RouteQuery;
use crate::snapshot::{Authorization, Listener};

/// Decides, counts and remembers. `route` is what the rule was found with.
///
/// # Errors
/// [`Reason::Denied`].
pub(super) fn authorize(
    listener: &Listener,
    route: &RouteQuery<'_>,
    origin: &Origin,
    claims: Claims<'_>,
    record: &mut Record,
) -> Result<(), Reason> {
    let Some(authorization) = &listener.authorization else { return Ok(()) };
    let decision = decide(authorization, route, origin, claims);
    authorization.count(&decision);
    let access = decision.access;
    record.note_decision(decision);
    match access {
        Access::Allow => Ok(()),
        Access::Deny => Err(Reason::Denied),
    }
}

/// A CORS preflight is allowed if the request that it announces may be: it is asked about that request's method,
/// and a token that browsers never send with it is not held against it.
pub(super) fn authorize_preflight(
    listener: &Listener,
    route: &RouteQuery<'_>,
    origin: &Origin,
    record: &mut Record,
) -> Result<(), Reason> {
    let announced = route.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    let method = announced.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let method = method.as_ref().unwrap_or(route.method);
    authorize(listener, &RouteQuery { method, ..*route }, origin, Claims::Announced, record)
}

/// The decision alone.
pub(super) fn decide(
    authorization: &Authorization,
    route: &RouteQuery<'_>,
    origin: &Origin,
    claims: Claims<'_>,
) -> Decision {
    let (identity, address, port) = (origin.identity(), origin.peer, origin.info.local.port());
    let request = Request { route, identity, address, port, claims };
    authorization.policy.decide(&request)
}

/// The claims of a verified token, if there is one.
pub(super) fn claims(token: Option<&Arc<dyn ClaimSource>>) -> Claims<'_> {
    token.map_or(Claims::None, |token| Claims::Verified(&**token))
}
