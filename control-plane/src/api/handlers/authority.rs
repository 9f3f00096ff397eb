//! The certificate authority.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde_json::Value;

use crate::api::access::Caller;
use crate::api::body::Body;
use crate::api::error::{ApiError, Code};
use crate::api::wire::{ErrorBody, RotateRequest};
use crate::api::{Api, blocking};
use crate::ca::{AuthorityError, Force, Step};

/// Where the roots stand, and what comes next.
#[utoipa::path(get, path = "/v1/ca", tag = "ca", responses((status = 200, body = Object)))]
pub(in crate::api) async fn status(State(api): State<Api>) -> Json<Value> {
    Json(shown(&api))
}

fn shown(api: &Api) -> Value {
    let status = api.authority().status(&**api.confirmations());
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.insert("trustDomain".to_owned(), api.authority().trust_domain().as_str().into());
        map.insert("trustBundle".to_owned(), api.authority().bundle_pem().into());
    }
    value
}

/// Takes the next step of a rotation of roots: `introduce`, `sign`, `retire`; or `withdraw`.
#[utoipa::path(post, path = "/v1/ca/rotate", tag = "ca", request_body = RotateRequest,
    responses((status = 200, body = Object), (status = 409, body = ErrorBody, description = "It is not safe now.")))]
pub(in crate::api) async fn rotate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<RotateRequest>,
) -> Result<Json<Value>, ApiError> {
    let RotateRequest { force, step } = request;
    let next = api.authority().status(&**api.confirmations()).next;
    let step = match step.as_deref() {
        None => next,
        Some("introduce") => Step::Introduce,
        Some("sign") => Step::Sign,
        Some("retire") => Step::Retire,
        Some("withdraw") => Step::Withdraw,
        Some(other) => {
            let message = format!("there is no step `{other}`: use introduce, sign, retire or withdraw");
            return Err(ApiError::malformed(message));
        }
    };
    let force = if force { Force::Yes } else { Force::No };
    let (authority, confirmations) = (Arc::clone(api.authority()), Arc::clone(api.confirmations()));
    blocking(move || authority.rotate(step, force, &caller.who, &*confirmations)).await?.map_err(refused)?;
    Ok(Json(shown(&api)))
}

fn refused(error: AuthorityError) -> ApiError {
    match &error {
        AuthorityError::WrongPhase { .. } | AuthorityError::Unsafe { .. } | AuthorityError::SameMaterial => {
            ApiError::new(Code::Conflict, error.to_string())
        }
        _ => {
            tracing::error!(%error, "the rotation failed");
            ApiError::new(Code::Internal, "the rotation failed; the log of the control plane says why")
        }
    }
}
