//! Who may do what: authentication and roles before a handler runs, and the audit of what was refused behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;

use super::error::{ApiError, Code, Refused};
use super::limits::{REFUSAL_BURST, REFUSALS_PER_SECOND};
use super::token::Presented;
use super::{Api, blocking};
use crate::peer::Peer;
use crate::store::{AuditEntry, Outcome, Role, Store, StoreError, Timestamp};

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
pub(super) async fn guard(
    State((api, level)): State<(Api, Level)>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match authenticate(&api, &request).await {
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

async fn authenticate(api: &Api, request: &Request) -> Result<Caller, ApiError> {
    let peer = peer(request);
    let from = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
    let Some(presented) = bearer(request.headers())? else {
        let id = peer.and_then(|peer| peer.id.as_ref()).ok_or_else(|| {
            ApiError::new(Code::Unauthenticated, "this needs a token: `authorization: Bearer …`")
        })?;
        let role = api.roles().get(id.as_str()).ok_or_else(|| {
            let message = format!("{id} has no role here: give it one under `roles` in the configuration of the server");
            ApiError::new(Code::Unauthenticated, message)
        })?;
        return Ok(Caller { who: id.to_string(), role: role.clone(), from });
    };
    let store = Arc::clone(api.store());
    let found = blocking(move || {
        let token = store.api_token(&presented.id)?;
        // A token that is not there is compared as well, so that the time of the answer tells nothing of ids.
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
        action: format!("{} {}", request.method(), request.uri().path()),
        changes: *request.method() != Method::GET,
    };
    let response = next.run(request).await;
    if let Some(refused) = response.extensions().get::<Refused>() {
        let who = response.extensions().get::<Who>().map_or("anonymous", |Who(who)| who);
        asked.put_down(&api, who, refused).await;
    }
    response
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
        let mut detail = format!("{}: {message}", code.word());
        if skipped > 0 {
            detail.push_str(&format!(" ({skipped} refusals before this one were only counted)"));
        }
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

/// How many refusals are put down: a token bucket, so that nobody fills the disk by asking.
#[derive(Debug)]
pub(super) struct Refusals(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    level: f64,
    at: Instant,
    skipped: u64,
}

impl Refusals {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Bucket { level: f64::from(REFUSAL_BURST), at: now, skipped: 0 }))
    }

    /// Whether this one is put down, and how many before it were not.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock();
        let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * f64::from(REFUSALS_PER_SECOND);
        bucket.level = (bucket.level + gained).min(f64::from(REFUSAL_BURST));
        bucket.at = now;
        if bucket.level < 1.0 {
            bucket.skipped += 1;
            return None;
        }
        bucket.level -= 1.0;
        Some(std::mem::take(&mut bucket.skipped))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refusals_beyond_the_burst_are_counted_and_told_with_the_next() {
        let start = Instant::now();
        let refusals = Refusals::new(start);
        for _ in 0..REFUSAL_BURST {
            assert_eq!(refusals.take(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(refusals.take(start), None);
        }
        assert_eq!(refusals.take(start + Duration::from_secs(1)), Some(7));
    }
}
