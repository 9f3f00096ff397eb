//! What ties a request to an endpoint: its session, or what it is hashed by. And what its answer says, so that the next
//! request is tied to the same.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use http::uri::Scheme;
use outrigger_config::model::{SessionCarrier, SessionPersistence, Trust};
use smallvec::SmallVec;

use super::limiting::{self, Asking};
use super::origin::Origin;
use super::with_random;
use crate::codec::RequestHead;
use crate::policy::cookie::{self, Keep};
use crate::policy::hash::{self, Subject};
use crate::policy::path;
use crate::policy::rng::Rng;
use crate::policy::session::{Namer, Session};
use crate::snapshot::{Action, Backend, Rule};
use crate::upstream::{Permit, PickHint};

/// What ties one request.
#[derive(Debug)]
pub(super) struct Affinity<'a> {
    hash: Option<u64>,
    session: Option<Bond<'a>>,
    /// Cookies that the answer sets.
    made: SmallVec<[HeaderValue; 1]>,
    secure: bool,
}

/// A session, kept or to begin.
#[derive(Debug)]
struct Bond<'a> {
    settings: &'a SessionPersistence,
    namer: &'a Namer,
    /// As the caller names it, where that is believed.
    kept: Option<Session>,
    /// In seconds of the Unix era.
    now: u64,
}

impl<'a> Affinity<'a> {
    /// `None` where the rule ties nothing. Before filters change what is hashed.
    pub(super) fn of(rule: &'a Rule, head: &RequestHead, trust: Trust, origin: &Origin) -> Option<Box<Self>> {
        if rule.config.hash.is_empty() && rule.session.is_none() {
            return None;
        }
        let secure = head.scheme == Scheme::HTTPS;
        let (path, query) = path::split(head.path.as_str());
        let client = limiting::client(Asking { head, origin, trust });
        let subject = Subject { headers: &head.headers, path, query, client };
        let hashed = hash::hash(&rule.config.hash, &subject, || with_random(Rng::next_u64));
        let set = |made: hash::MadeCookie<'_>| {
            let max_age = Some(made.ttl).filter(|ttl| !ttl.is_zero());
            cookie::set(made.name, &made.value, Keep { max_age, path: made.path, secure })
        };
        let made = hashed.made.into_iter().filter_map(set).collect();
        let session = rule.config.session.as_ref().zip(rule.session.as_deref());
        let session = session.map(|(settings, namer)| Bond::of(settings, namer, &head.headers, SystemTime::now()));
        Some(Box::new(Self { hash: hashed.hash, session, made, secure }))
    }

    /// The backend that the session belongs to, if it is still one of these.
    pub(super) fn backend<'b>(&self, action: &'b Action) -> Option<&'b Backend> {
        let Session { backend, .. } = self.session.as_ref()?.kept?;
        match action {
            Action::Forward(backends) => backends.all().iter().find(|known| known.mark == backend),
            Action::Redirect(_) | Action::Direct(_) => None,
        }
    }

    /// What bears on the choice of an endpoint of this backend.
    pub(super) fn hint(&self, backend: &Backend) -> PickHint<'static> {
        let bond = self.session.as_ref();
        let kept = bond.and_then(|bond| bond.kept).filter(|session| session.backend == backend.mark);
        PickHint {
            hash: self.hash,
            bound: kept.map(|session| session.endpoint),
            strict: kept.is_some() && bond.is_some_and(|bond| bond.settings.strict),
            ..PickHint::default()
        }
    }

    /// Tells the caller who answered, so that it can come back.
    pub(super) fn tell(&self, permit: &Permit, backend: &Backend, headers: &mut HeaderMap) {
        for made in &self.made {
            headers.append(SET_COOKIE, made.clone());
        }
        if let Some(bond) = &self.session {
            bond.tell(permit, backend, self.secure, headers);
        }
    }
}

impl<'a> Bond<'a> {
    fn of(settings: &'a SessionPersistence, namer: &'a Namer, headers: &HeaderMap, now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // A forged or foreign name before ours must not end the session.
        let believed = |name: &[u8]| namer.read(name, carrier(settings)).filter(|session| session.holds(settings, now));
        let kept = match &settings.carrier {
            SessionCarrier::Cookie { name, .. } => cookie::values(headers, name).take(NAMES).find_map(believed),
            SessionCarrier::Header(name) => {
                headers.get_all(name).iter().take(NAMES).find_map(|value| believed(value.as_bytes()))
            }
        };
        Self { settings, namer, kept, now }
    }

    fn tell(&self, permit: &Permit, backend: &Backend, secure: bool, headers: &mut HeaderMap) {
        let Self { settings, namer, kept, now } = *self;
        let endpoint = permit.member().state.address;
        let same = |session: &Session| session.endpoint == endpoint && session.backend == backend.mark;
        let began = kept.map_or(now, |session| session.began);
        let fresh = kept.is_some_and(|session| same(&session) && !session.is_stale(settings, now));
        let is_cookie = matches!(settings.carrier, SessionCarrier::Cookie { .. });
        // A browser keeps its cookie; who repeats a header may forget what the last answer did not say.
        if fresh && is_cookie {
            return;
        }
        let session = Session { endpoint, backend: backend.mark, began, used: now };
        let name = namer.name(&session, carrier(settings), nonce());
        match &settings.carrier {
            SessionCarrier::Cookie { name: cookie, permanent, path } => {
                let left = |whole: Duration| whole.saturating_sub(Duration::from_secs(now.saturating_sub(began)));
                let max_age = settings.absolute_timeout.filter(|_| *permanent).map(left);
                let keep = Keep { max_age, path: path.as_deref(), secure };
                if let Some(value) = cookie::set(cookie, &name, keep) {
                    headers.append(SET_COOKIE, value);
                }
            }
            SessionCarrier::Header(field) => {
                if let Ok(mut value) = HeaderValue::try_from(name) {
                    value.set_sensitive(true);
                    headers.insert(field, value);
                }
            }
        }
    }
}

fn carrier(settings: &SessionPersistence) -> &str {
    match &settings.carrier {
        SessionCarrier::Cookie { name, .. } => name,
        SessionCarrier::Header(name) => name.as_str(),
    }
}

fn nonce() -> [u8; 12] {
    let (low, high) = with_random(|random| (random.next_u64(), random.next_u64()));
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&low.to_be_bytes());
    nonce[8..].copy_from_slice(&high.to_be_bytes()[..4]);
    nonce
}

/// Names of one request that are looked at: each costs a microsecond.
const NAMES: usize = 4;
