//! Open exchanges and changing policies: an exchange that is under way when its listener's policy changes, and that
//! the new one would not let in, is ended; no other is touched.
//!
//! Nearly all exchanges are over within a second and cost nothing here but two shared strings. One that lives for
//! [`limits::WATCH_AFTER`] is entered in the book of its worker with what authorization had seen of it. When a
//! snapshot is published, the control thread decides about the entries of listeners whose policy has changed, and
//! wakes only exchanges that must end: workers do no work for the others. An exchange that turned old around the
//! moment of the change looks at the published policy itself when it is entered.
//!
//! A policy may look at any header, also one that comes later than the exchange. So the whole head is kept as it was
//! admitted: the request's own, handed over when its response begins, with what filters changed set back.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use outrigger_config::model::{Access, Filter};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::attempt::TimeField;
use super::authorize;
use super::book::{Entered, Open};
use super::local::Caller;
use super::origin::Origin;
use super::prepare;
use crate::base::limits;
use crate::codec::RequestHead;
use crate::policy::authz::ClaimSource;
use crate::policy::path;
use crate::policy::route::RouteQuery;
use crate::snapshot::Listener;

/// An old exchange.
#[derive(Debug)]
pub(super) struct Entry {
    listener: Arc<str>,
    origin: Arc<Origin>,
    head: RequestHead,
    claims: Option<Arc<dyn ClaimSource>>,
    /// The rule that ends it.
    ended: OnceLock<Arc<str>>,
    waker: Mutex<Option<Waker>>,
}

/// The part of one exchange.
#[derive(Debug)]
pub(super) struct Watch {
    origin: Arc<Origin>,
    /// When the exchange is old; `None` once it is entered, or was never admitted.
    due: Option<Instant>,
    admitted: Option<Admitted>,
    entered: Option<Entered<Entry>>,
    /// The head, after the response has begun.
    kept: Option<Box<RequestHead>>,
}

/// What filters may change of a head, as it was admitted.
#[derive(Debug)]
struct Admitted {
    path: PathAndQuery,
    authority: Option<Authority>,
    edited: Vec<(HeaderName, Lines)>,
    /// Those of [`TimeField::ALL`] that it did not have, and that were added: a bit each.
    added: u8,
    claims: Option<Arc<dyn ClaimSource>>,
}

type Lines = SmallVec<[HeaderValue; 1]>;

impl Watch {
    /// Of a request that is not admitted yet.
    pub(super) fn new(origin: Arc<Origin>) -> Self {
        Self { origin, due: None, admitted: None, entered: None, kept: None }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The request was admitted with this head.
    pub(super) fn admit(&mut self, head: &RequestHead, claims: Option<Arc<dyn ClaimSource>>, started: Instant) {
        let (path, authority) = (head.path.clone(), head.authority.clone());
        self.admitted = Some(Admitted { path, authority, edited: Vec::new(), added: 0, claims });
        self.due = Some(started + limits::WATCH_AFTER);
    }

    /// These filters are about to change the headers of the admitted head.
    pub(super) fn before_filters(&mut self, filters: &[Filter], headers: &HeaderMap) {
        for filter in filters {
            let Filter::RequestHeaders(edit) = filter else { continue };
            let changed = edit.set.iter().chain(&edit.add).map(|(name, _)| name);
            for name in edit.remove.iter().chain(changed) {
                self.before_edit(name, headers);
            }
        }
    }

    /// This header of the admitted head is about to be changed.
    pub(super) fn before_edit(&mut self, name: &HeaderName, headers: &HeaderMap) {
        let Some(admitted) = &mut self.admitted else { return };
        if !admitted.knows(name) {
            admitted.edited.push((name.clone(), headers.get_all(name).iter().cloned().collect()));
        }
    }

    /// This field, which the head does not have, is about to be added.
    pub(super) fn before_adding(&mut self, field: TimeField) {
        if let Some(admitted) = &mut self.admitted {
            admitted.before_adding(field);
        }
    }

    /// These values of a field are about to be replaced.
    pub(super) fn before_replacing<'v>(&mut self, field: TimeField, lines: impl Iterator<Item = &'v HeaderValue>) {
        if let Some(admitted) = &mut self.admitted {
            admitted.before_replacing(field, lines);
        }
    }

    /// The response has begun, and the request's head is not needed any more.
    pub(super) fn keep(&mut self, head: RequestHead) {
        if self.entered.is_none() && self.admitted.is_some() {
            self.kept = Some(Box::new(head));
        }
    }

    /// When [`Watch::enter`] must be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The exchange is old. Without `head`, the kept one.
    pub(super) fn enter(&mut self, listener: &Arc<Listener>, head: Option<&RequestHead>) {
        self.due = None;
        let kept = self.kept.take();
        let (Some(admitted), Some(head)) = (self.admitted.take(), head.or(kept.as_deref())) else { return };
        let entry = Entry {
            listener: Arc::clone(&listener.config.name),
            origin: Arc::clone(&self.origin),
            head: admitted.head(head),
            claims: admitted.claims,
            ended: OnceLock::new(),
            waker: Mutex::default(),
        };
        let proxy = &self.origin.proxy;
        self.entered = Some(proxy.book.enter(entry, listener, &proxy.cell));
    }

    /// The rule that has ended the exchange. Otherwise the task is woken when one does.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> Option<&Arc<str>> {
        let entry = self.entered.as_ref()?.entry();
        {
            let mut waker = entry.waker.lock();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        entry.ended.get()
    }

    /// The same without being woken: one load.
    pub(super) fn ended(&self) -> Option<&Arc<str>> {
        self.entered.as_ref()?.entry().ended.get()
    }
}

impl Admitted {
    fn before_adding(&mut self, field: TimeField) {
        if self.edited.is_empty() || !self.knows(&field.name()) {
            self.added |= bit(field);
        }
    }

    fn before_replacing<'v>(&mut self, field: TimeField, lines: impl Iterator<Item = &'v HeaderValue>) {
        let name = field.name();
        if !self.knows(&name) {
            self.edited.push((name, lines.cloned().collect()));
        }
    }

    /// Whether it is remembered already how this field was.
    fn knows(&self, name: &HeaderName) -> bool {
        self.edited.iter().any(|(known, _)| known == name) || self.has_added(name)
    }

    fn has_added(&self, name: &HeaderName) -> bool {
        self.added != 0 && TimeField::ALL.iter().any(|field| self.added & bit(*field) != 0 && field.name() == *name)
    }

    /// A copy of the head as it was admitted. It shares no memory with the original, whose values are parts of read
    /// buffers that a long exchange must not hold.
    fn head(&self, head: &RequestHead) -> RequestHead {
        let Self { path, authority, edited, .. } = self;
        let mut headers = HeaderMap::with_capacity(head.headers.len());
        for (name, value) in &head.headers {
            if !self.knows(name) {
                headers.append(name, owned(value));
            }
        }
        for (name, lines) in edited {
            for value in lines {
                headers.append(name, owned(value));
            }
        }
        RequestHead {
            method: head.method.clone(),
            scheme: head.scheme.clone(),
            authority: authority.as_ref().and_then(|authority| authority.as_str().parse().ok()),
            path: path.as_str().parse().unwrap_or(PathAndQuery::from_static("/")),
            version: head.version,
            headers,
            upgrade: head.upgrade.clone(),
        }
    }
}

const fn bit(field: TimeField) -> u8 {
    1 << field as u8
}

fn owned(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

impl Open for Entry {
    fn listener(&self) -> &Arc<str> {
        &self.listener
    }

    fn decide(&self, listener: &Listener) {
        let Some(authorization) = &listener.authorization else { return };
        let head = &self.head;
        // It had a host that could be read when it was admitted.
        let Ok(authority) = prepare::host_of(head) else { return };
        let (path, query) = path::split(head.path.as_str());
        let route = RouteQuery {
            host: &authority.host,
            port: authority.port,
            path,
            query,
            method: &head.method,
            headers: &head.headers,
            is_grpc: Caller::of(&head.headers) == Caller::Grpc,
        };
        let claims = authorize::claims(self.claims.as_ref());
        let decision = authorize::decide(authorization, &route, &self.origin, claims);
        if decision.access == Access::Allow {
            return;
        }
        if self.ended.set(authorization.policy.name(decision.rule).into()).is_ok() {
            authorization.count_ended(decision.rule);
        }
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;
    use http::uri::Scheme;
    use http::{Method, Version};

    use super::*;

    #[test]
    fn what_attempts_say_of_time_is_set_back_to_what_was_admitted() {
        let path = PathAndQuery::from_static("/");
        let mut admitted = Admitted { path: path.clone(), authority: None, edited: Vec::new(), added: 0, claims: None };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.append(TimeField::Deadline.name(), HeaderValue::from_static("9000"));
        headers.append(TimeField::Deadline.name(), HeaderValue::from_static("soon"));
        let came = headers.clone();
        for attempt in ["500", "400"] {
            let value = HeaderValue::from_static(attempt);
            for field in [TimeField::Deadline, TimeField::Expected] {
                if headers.contains_key(field.name()) {
                    admitted.before_replacing(field, headers.get_all(field.name()).iter());
                } else {
                    admitted.before_adding(field);
                }
                headers.insert(field.name(), value.clone());
            }
        }
        let (method, scheme, version) = (Method::GET, Scheme::HTTP, Version::HTTP_11);
        let head = RequestHead { method, scheme, authority: None, path, version, headers, upgrade: None };
        assert_eq!(admitted.head(&head).headers, came);
    }
}
