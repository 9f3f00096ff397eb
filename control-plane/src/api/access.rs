//! Who may do what: authentication and roles before a handler runs, and the audit of what was refused behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::error::{ApiError, Code, Refused};
use super::token::Presented;
use super::{Api, blocking};
use crate::peer::Peer;
use crate::store::{AuditEntry, Outcome, Role, StoreError, Timestamp};
use crate::throttle;

/// Who calls, proven. In the extensions of every request that needs it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// `token:NAME`, or the SPIFFE ID of a client certificate.
    pub who: String,
    /// What they may do.
    pub role: Role,
    /// Where they connect from.
    pub from: String,
}

impl Caller {
    /// An entry for the audit log.
    #[must_use]
    pub fn entry(&self, action: &str, subject: String, detail: String) -> AuditEntry {
        AuditEntry {
            at: Timestamp::now(),
            who: self.who.clone(),
            from: self.from.clone(),
            action: action.to_owned(),
            subject,
            outcome: Outcome::Done,
            detail,
        }
    }
}

/// The least that a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Viewer,
    Pusher,
    Admin,
}

impl Level {
    fn of(role: &Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Pusher { .. } => Self::Pusher,
            Role::Admin => Self::Admin,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Pusher => "pusher",
            Self::Admin => "admin",
        }
    }
}

/// Roles of client certificates, by SPIFFE ID.
pub type Roles = BTreeMap<String, Role>;

/// Lets only those through who may.
pub(super) async fn guard(State((api, level)): State<(Api, Level)>, mut request: Request, next: Next) -> Response {
    let shown = Shown { peer: peer(&request).cloned(), bearer: bearer(request.headers()) };
    let caller = match authenticate(&api, shown).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let who = Who(caller.who.clone());
    let mut response = if Level::of(&caller.role) < level {
        let message = format!("{} has the role {}, and this needs {}", caller.who, caller.role.name(), level.name());
        ApiError::new(Code::Forbidden, message).into_response()
    } else {
        request.extensions_mut().insert(caller);
        next.run(request).await
    };
    response.extensions_mut().insert(who);
    response
}

/// What a caller shows of itself.
struct Shown {
    peer: Option<Peer>,
    bearer: Result<Option<Presented>, ApiError>,
}

async fn authenticate(api: &Api, shown: Shown) -> Result<Caller, ApiError> {
    let Shown { peer, bearer } = shown;
    let from = peer.as_ref().map(|peer| peer.address.to_string()).unwrap_or_default();
    let Some(presented) = bearer? else {
        let id = peer
            .and_then(|peer| peer.id)
            .ok_or_else(|| ApiError::new(Code::Unauthenticated, "this needs a token: `authorization: Bearer …`"))?;
        let role = api.roles().get(id.as_str()).ok_or_else(|| {
            let message =
                format!("{id} has no role here: give it one under `roles` in the configuration of the server");
            ApiError::new(Code::Unauthenticated, message)
        })?;
        return Ok(Caller { who: id.to_string(), role: role.clone(), from });
    };
    let store = Arc::clone(api.store());
    let found = blocking(move || {
        let token = store.api_token(&presented.id)?;
        // Ids are public: that one is not there is no secret.
        Ok::<_, StoreError>(token.filter(|token| presented.is(token, Timestamp::now())))
    });
    match found.await?? {
        Some(token) => Ok(Caller { who: format!("token:{}", token.name), role: token.role, from }),
        None => Err(ApiError::new(Code::Unauthenticated, "the token is unknown, revoked, or over its time")),
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<Presented>, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    let token = text.and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") { Presented::read(token.trim()) } else { None }
    });
    let wrong = || ApiError::new(Code::Unauthenticated, "`authorization` holds no token of this control plane");
    token.map(Some).ok_or_else(wrong)
}

fn peer(request: &Request) -> Option<&Peer> {
    request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| peer)
}

/// Who was found to call; in the extensions of the answer.
#[derive(Debug, Clone)]
struct Who(String);

/// Puts every refusal down in the audit log. What was done is put down with what was done, in one step.
pub(super) async fn audit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let asked = Asked {
        from: peer(&request).map(|peer| peer.address.to_string()).unwrap_or_default(),
        action: format!("{} {}", request.method(), without_secrets(request.uri().path())),
        changes: *request.method() != Method::GET,
    };
    let response = next.run(request).await;
    if let Some(refused) = response.extensions().get::<Refused>() {
        let who = response.extensions().get::<Who>().map_or("anonymous", |Who(who)| who);
        asked.put_down(&api, who, refused).await;
    }
    response
}

/// A path without what somebody took for an id and is a token.
fn without_secrets(path: &str) -> &str {
    let ends =
        ["outrigger-api-", "outrigger-join-"].iter().filter_map(|prefix| path.find(prefix).map(|at| at + prefix.len()));
    ends.min().map_or(path, |end| &path[..end])
}

/// What was asked for.
struct Asked {
    from: String,
    action: String,
    changes: bool,
}

impl Asked {
    async fn put_down(self, api: &Api, who: &str, refused: &Refused) {
        let Refused { code, message } = refused;
        let outcome = match code {
            Code::Internal | Code::Timeout | Code::Busy => Outcome::Failed,
            Code::NotFound | Code::MethodNotAllowed | Code::Malformed if !self.changes => return,
            _ => Outcome::Refused,
        };
        let Some(skipped) = api.refusals().take(Instant::now()) else { return };
        let detail = throttle::told(format!("{}: {message}", code.word()), skipped);
        let entry = AuditEntry {
            at: Timestamp::now(),
            who: who.to_owned(),
            from: self.from,
            action: self.action.chars().take(MAX_ACTION).collect(),
            subject: String::new(),
            outcome,
            detail,
        };
        tracing::info!(who = entry.who, from = entry.from, action = entry.action, code = code.word(), "refused");
        let store = Arc::clone(api.store());
        if let Ok(Err(error)) = blocking(move || store.audit(entry)).await {
            tracing::error!(%error, "a refusal could not be put down in the audit log");
        }
    }
}

/// Characters of a method and path that are put down.
const MAX_ACTION: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_a_path_is_not_put_down() {
        assert_eq!(without_secrets("/v1/tokens/0a1b"), "/v1/tokens/0a1b");
        assert_eq!(without_secrets("/v1/tokens/outrigger-api-0a1b-5ec4e7"), "/v1/tokens/outrigger-api-");
        assert_eq!(without_secrets("/v1/tokens/outrigger-join-5ec4e7"), "/v1/tokens/outrigger-join-");
    }
}
