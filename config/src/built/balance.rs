//! How requests are spread over endpoints, and what ties them to one.

use std::sync::Arc;

use super::Subject;
use crate::limits;
use crate::model::{Balance, HashKey, HashSource, Labels, SessionCarrier, SessionPersistence, SlowStart};
use crate::validate;

pub(super) fn balance(subject: &Subject<'_>, balance: &Balance) {
    let Balance {
        policy: _,
        bounded_load,
        slow_start,
        locality: _,
        panic_threshold,
        overprovisioning,
        subset_fallback: _,
    } = balance;
    if let Some(percent) = bounded_load {
        subject.number("balance.bounded_load", u64::from(*percent), limits::BOUNDED_LOAD);
    }
    if let Some(SlowStart { window, min_weight, aggression }) = slow_start {
        subject.duration("balance.slow_start.window", *window);
        subject.number("balance.slow_start.min_weight", u64::from(*min_weight), limits::SHARE);
        let (min, max) = (0.1, 10.0);
        if !(min..=max).contains(aggression) {
            let fix = format!("give a number from {min} to {max}");
            subject.say("balance.slow_start.aggression", format!("{aggression} is out of range"), fix);
        }
    }
    subject.number("balance.panic_threshold", u64::from(*panic_threshold), limits::PERCENT);
    subject.number("balance.overprovisioning", u64::from(*overprovisioning), limits::OVERPROVISIONING);
}

pub(super) fn labels(subject: &Subject<'_>, field: &str, labels: &Labels) {
    subject.at_most(field, labels.len(), limits::MAX_LABELS);
    for (name, value) in labels {
        subject.named(field, name);
        subject.held(field, validate::label_value(value));
    }
}

pub(super) fn hash(subject: &Subject<'_>, here: &str, keys: &[HashKey]) {
    subject.at_most(here, keys.len(), limits::MAX_HASH_KEYS);
    for (at, HashKey { source, terminal: _ }) in keys.iter().enumerate() {
        let here = format!("{here}[{at}]");
        match source {
            HashSource::Header(_) | HashSource::SourceAddress | HashSource::Path => {}
            HashSource::Cookie { name, ttl, path } => {
                cookie(subject, &here, (name, path.as_ref()));
                if let Some(ttl) = ttl {
                    subject.duration_or_zero(&here, *ttl);
                }
            }
            HashSource::Query(name) => drop(subject.held(&here, validate::parameter(name))),
        }
        if keys[..at].iter().any(|other| other.source == *source) {
            subject.say(here, "this key comes twice", "leave one out");
        }
    }
}

fn cookie(subject: &Subject<'_>, here: &str, (name, path): (&Arc<str>, Option<&Arc<str>>)) {
    subject.held(here, validate::cookie(name));
    if let Some(path) = path {
        subject.held(here, validate::cookie_path(path));
    }
}

pub(super) fn session(subject: &Subject<'_>, here: &str, session: &SessionPersistence) {
    let SessionPersistence { carrier, absolute_timeout, idle_timeout, key_file, strict: _ } = session;
    match carrier {
        SessionCarrier::Cookie { name, permanent, path } => {
            cookie(subject, &format!("{here}.cookie"), (name, path.as_ref()));
            if *permanent && absolute_timeout.is_none() {
                let message = "a permanent cookie needs to know how long it lasts";
                subject.say(format!("{here}.cookie"), message, "give an absolute timeout");
            }
        }
        SessionCarrier::Header(name) => {
            subject.held(&format!("{here}.header"), validate::claim_header(name.as_str()));
        }
    }
    for (name, timeout) in [("absolute_timeout", absolute_timeout), ("idle_timeout", idle_timeout)] {
        if let Some(timeout) = timeout {
            subject.duration(&format!("{here}.{name}"), *timeout);
        }
    }
    subject.file(&format!("{here}.key_file"), key_file);
}
