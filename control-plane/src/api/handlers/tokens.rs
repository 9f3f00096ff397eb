//! Tokens of the API, and join tokens of proxies.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::proxies;
use crate::api::access::Caller;
use crate::api::body::Body;
use crate::api::error::{ApiError, Code};
use crate::api::limits::{
    JOIN_TOKEN_LIFETIME, MAX_TOKEN_LIFETIME, MAX_TOKEN_NAME, MAX_TOKEN_NAMESPACES, TOKEN_LIFETIME,
};
use crate::api::token::{NewToken, make};
use crate::api::wire::{CreatedToken, ErrorBody, JoinTokenRequest, TokenBody, TokenRequest};
use crate::api::{Api, blocking};
use crate::ca::TokenError;
use crate::store::{ApiToken, JoinToken, Outcome, Role, StoreError, Timestamp, TokenId};

/// Makes a token. Its secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenRequest,
    responses((status = 200, body = CreatedToken), (status = 400, body = ErrorBody)))]
pub(in crate::api) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<TokenRequest>,
) -> Result<Json<CreatedToken>, ApiError> {
    let TokenRequest { name, role, namespaces, valid_for_seconds } = request;
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_TOKEN_NAME || !name.chars().all(plain) {
        let message = format!("the name of a token has 1 to {MAX_TOKEN_NAME} letters, digits, `-`, `_` and `.`");
        return Err(ApiError::malformed(message));
    }
    let role = read_role(&role, namespaces)?;
    let lifetime = valid_for_seconds.map_or(TOKEN_LIFETIME, Duration::from_secs);
    if lifetime.is_zero() || lifetime > MAX_TOKEN_LIFETIME {
        return Err(ApiError::malformed("a token is good for at least a second and at most a year"));
    }
    let at = Timestamp::now();
    let expires = at.after(lifetime);
    let detail = match &role {
        Role::Viewer | Role::Admin => format!("role {}, until {expires}", role.name()),
        Role::Pusher { namespaces } => format!("role pusher of {}, until {expires}", namespaces.join(", ")),
    };
    let new = NewToken { name: name.clone(), role, by: caller.who.clone(), at, expires: Some(expires) };
    let (token, text) = make(new).map_err(|_| ApiError::new(Code::Internal, "the system gave no random numbers"))?;
    let id = token.id.clone();
    let audit = caller.entry("token create", format!("{id} {name}"), detail);
    let store = Arc::clone(api.store());
    blocking(move || store.add_api_token(token, audit)).await??;
    Ok(Json(CreatedToken { id: id.to_string(), token: text, expires: Some(expires.to_string()) }))
}

fn read_role(role: &str, namespaces: Vec<String>) -> Result<Role, ApiError> {
    if role != "pusher" && !namespaces.is_empty() {
        return Err(ApiError::malformed("only a pusher has namespaces"));
    }
    match role {
        "viewer" => Ok(Role::Viewer),
        "admin" => Ok(Role::Admin),
        "pusher" if namespaces.is_empty() => Err(ApiError::malformed("a pusher needs namespaces; `*` is every one")),
        "pusher" if namespaces.len() > MAX_TOKEN_NAMESPACES => {
            Err(ApiError::malformed(format!("a pusher has at most {MAX_TOKEN_NAMESPACES} namespaces")))
        }
        "pusher" => Ok(Role::Pusher { namespaces }),
        other => Err(ApiError::malformed(format!("there is no role `{other}`: use viewer, pusher or admin"))),
    }
}

/// Every token, without secrets: those of the API, then join tokens.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses((status = 200, body = Vec<TokenBody>)))]
pub(in crate::api) async fn list(State(api): State<Api>) -> Result<Json<Vec<TokenBody>>, ApiError> {
    let store = Arc::clone(api.store());
    let (tokens, joins) = blocking(move || Ok::<_, StoreError>((store.api_tokens()?, store.join_tokens()?))).await??;
    let now = Timestamp::now();
    let bodies = tokens.into_iter().map(|token| api_token(token, now));
    Ok(Json(bodies.chain(joins.into_iter().map(|token| join_token(token, now))).collect()))
}

fn api_token(token: ApiToken, now: Timestamp) -> TokenBody {
    let state = match (token.revoked, token.expires) {
        (Some(_), _) => "revoked",
        (None, Some(expires)) if expires <= now => "expired",
        (None, _) => "active",
    };
    let role = token.role.name().to_owned();
    TokenBody {
        id: token.id.to_string(),
        role,
        name: token.name,
        namespaces: if let Role::Pusher { namespaces } = token.role { namespaces } else { Vec::new() },
        created_by: token.created_by,
        created: token.created.to_string(),
        expires: token.expires.map(|at| at.to_string()),
        state: state.to_owned(),
    }
}

fn join_token(token: JoinToken, now: Timestamp) -> TokenBody {
    let state = match (token.revoked, token.used) {
        (Some(_), _) => "revoked",
        (None, Some(_)) => "used",
        (None, None) if token.expires <= now => "expired",
        (None, None) => "active",
    };
    TokenBody {
        id: token.id.to_string(),
        role: "join".to_owned(),
        name: token.workload,
        namespaces: Vec::new(),
        created_by: token.created_by,
        created: token.created.to_string(),
        expires: Some(token.expires.to_string()),
        state: state.to_owned(),
    }
}

/// Revokes a token, of the API or a join token.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "It is revoked."), (status = 404, body = ErrorBody)))]
pub(in crate::api) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, ApiError> {
    if id.starts_with("outrigger-") {
        return Err(ApiError::malformed("this is a token, and its id is wanted: `token list` shows the ids"));
    }
    let id = TokenId(id.chars().take(64).collect());
    let missing = || ApiError::not_found(format!("there is no token {id} that is not revoked yet"));
    let store = Arc::clone(api.store());
    let wanted = id.clone();
    let revoked = blocking(move || {
        let known = store.api_token(&wanted)?.is_some() || store.join_token(&wanted)?.is_some();
        if !known {
            return Ok(false);
        }
        let mut audit = caller.entry("token revoke", wanted.to_string(), String::new());
        audit.outcome = Outcome::Done;
        store.revoke_token(&wanted, Timestamp::now(), audit)
    });
    if revoked.await?? { Ok(Json(serde_json::json!({ "revoked": id }))) } else { Err(missing()) }
}

/// Makes a join token for a registered workload. It is good once, and in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/join-tokens", tag = "tokens", request_body = JoinTokenRequest,
    responses((status = 200, body = CreatedToken), (status = 404, body = ErrorBody)))]
pub(in crate::api) async fn join(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<JoinTokenRequest>,
) -> Result<Json<CreatedToken>, ApiError> {
    let JoinTokenRequest { workload, valid_for_seconds } = request;
    let (namespace, name) = workload.split_once('/').unwrap_or_default();
    let workload = proxies::workload(namespace, name)?;
    let lifetime = valid_for_seconds.map_or(JOIN_TOKEN_LIFETIME, Duration::from_secs);
    let tokens = api.join_tokens().clone();
    let (token, record) =
        blocking(move || tokens.create(&workload, lifetime, &caller.who)).await?.map_err(|error| match &error {
            TokenError::Unregistered(_) => ApiError::not_found(error.to_string()),
            TokenError::Lifetime(_) => ApiError::malformed(error.to_string()),
            TokenError::Store(_) | TokenError::Random => {
                tracing::error!(%error, "no join token could be made");
                ApiError::new(Code::Internal, "no token could be made; the log of the control plane says why")
            }
        })?;
    Ok(Json(CreatedToken {
        id: record.digest.short(),
        token: token.reveal().to_owned(),
        expires: Some(Timestamp::from(record.expires).to_string()),
    }))
}
