//! What ties requests to endpoints: hashing and sessions.

use std::sync::Arc;
use std::time::Duration;

use super::{Check, claim_header, identity, names};
use crate::limits;
use crate::model::{HashKey, HashSource, SessionCarrier, SessionPersistence};
use crate::raw;
use crate::read::{Field, List};
use crate::source::Span;
use crate::text::{nearest, quoted};

pub(super) fn hash(check: &Check<'_, '_>, field: &Field<List<raw::HashKey>>) -> Vec<HashKey> {
    let mut out: Vec<HashKey> = Vec::new();
    let mut ended: Option<Span> = None;
    for (raw, span) in check.filled(field, "hash", limits::MAX_HASH_KEYS).iter().filter_map(Field::here) {
        let key = match raw {
            raw::HashKey::Text(text) => plain(check, text, span),
            raw::HashKey::Map(raw) => keyed(check, raw, span),
        };
        let Some(key) = key else { continue };
        if out.iter().any(|other| other.source == key.source) {
            check.error(span, "this key comes twice", "remove one of the two");
        }
        if let Some(end) = ended {
            let text = (
                "this key is never looked at: every request has the terminal one before it".to_owned(),
                "move it up, or remove it".to_owned(),
            );
            check.sink.warning_with(span, (end, "the terminal key is here"), text);
        }
        // What every request has, or is given.
        let always = match &key.source {
            HashSource::SourceAddress | HashSource::Path => true,
            HashSource::Cookie { name: _, ttl, path: _ } => ttl.is_some(),
            HashSource::Header(_) | HashSource::Query(_) => false,
        };
        if key.terminal && always {
            ended = ended.or(Some(span));
        }
        out.push(key);
    }
    out
}

fn plain(check: &Check<'_, '_>, text: &str, span: Span) -> Option<HashKey> {
    let source = match text {
        "sourceAddress" => HashSource::SourceAddress,
        "path" => HashSource::Path,
        other => {
            let fix = match nearest(other, ["sourceAddress", "path"]) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    "write sourceAddress, path, `{ header: NAME }`, `{ cookie: { name: NAME } }` or `{ query: NAME }`"
                        .to_owned()
                }
            };
            check.error(span, format!("`{}` is nothing that can be hashed", quoted(other)), fix);
            return None;
        }
    };
    Some(HashKey { source, terminal: false })
}

fn keyed(check: &Check<'_, '_>, raw: &raw::HashSource, span: Span) -> Option<HashKey> {
    let raw::HashSource { header, cookie, query, source_address, path, terminal } = raw;
    let written = [header.span(), cookie.span(), query.span(), source_address.span(), path.span()];
    match written.into_iter().flatten().collect::<Vec<_>>().as_slice() {
        [] => {
            let fix = "add one of `header`, `cookie`, `query`, `sourceAddress: true` and `path: true`";
            check.error(span, "this key does not say what is hashed", fix);
            return None;
        }
        [_] => {}
        [_, second, ..] => {
            let fix = "write two entries: `[{ header: x-user }, { query: user }]`";
            check.error(
                *second,
                "a key is exactly one of `header`, `cookie`, `query`, `sourceAddress` and `path`",
                fix,
            );
        }
    }
    for (name, field) in [("sourceAddress", source_address), ("path", path)] {
        if let Some((false, at)) = field.here() {
            check.error(at, format!("`{name}: false` hashes nothing"), "write true, or remove the entry");
        }
    }
    let source = if let Some((raw, at)) = cookie.here() {
        self::cookie(check, raw, at)
    } else if let Some((text, at)) = query.here() {
        check.parsed(names::parameter(text), at).map(HashSource::Query)
    } else if !source_address.is_absent() {
        Some(HashSource::SourceAddress)
    } else if !path.is_absent() {
        Some(HashSource::Path)
    } else {
        check.header(header).map(HashSource::Header)
    };
    Some(HashKey { source: source?, terminal: check.flag(terminal, false) })
}

fn cookie(check: &Check<'_, '_>, raw: &raw::HashCookie, span: Span) -> Option<HashSource> {
    let raw::HashCookie { name, ttl, path } = raw;
    let lack = ("this cookie has no `name`", "add its name: `name: session`");
    let name = check.required(name, span, lack).and_then(|(text, at)| check.parsed(names::cookie(text), at));
    let made = ttl.get().map(|_| check.duration_or_zero(ttl, Duration::ZERO));
    let path = path.here().and_then(|(text, at)| {
        if ttl.is_absent() {
            check.warning(at, "`path` has no effect: no cookie is made without `ttl`", "add `ttl`, or remove it");
        }
        check.parsed(names::cookie_path(text), at)
    });
    Some(HashSource::Cookie { name: name?, ttl: made, path: path.filter(|path| &**path != "/") })
}

pub(super) fn session(check: &Check<'_, '_>, field: &Field<raw::SessionPersistence>) -> Option<SessionPersistence> {
    let (raw, span) = field.here()?;
    let raw::SessionPersistence { cookie, header, absolute_timeout, idle_timeout, key_file, strict } = raw;
    let carrier = match (cookie.span(), header.span()) {
        (None, None) => {
            let fix = "add `cookie: { name: session }` or `header: x-session`";
            check.error(span, "this does not say where sessions are named", fix);
            None
        }
        (Some(_), Some(second)) => {
            check.error(second, "a session is named in exactly one of `cookie` and `header`", "keep one of the two");
            None
        }
        (Some(_), None) => cookie.here().and_then(|(raw, at)| carrier(check, (raw, at), absolute_timeout)),
        (None, Some(_)) => {
            header.here().and_then(|(text, at)| check.parsed(claim_header(text), at)).map(SessionCarrier::Header)
        }
    };
    let absolute = absolute_timeout.get().map(|_| check.duration(absolute_timeout, Duration::from_secs(3_600)));
    let idle = idle_timeout.get().map(|_| check.duration(idle_timeout, Duration::from_secs(3_600)));
    if let (Some(absolute), Some(idle), Some(at)) = (absolute, idle, idle_timeout.span())
        && idle > absolute
    {
        let message = "`idleTimeout` is longer than `absoluteTimeout`, which ends the session first";
        check.warning(at, message, "make it shorter, or remove it");
    }
    let lack = ("this session persistence has no `keyFile`", "add the file of the key that names are signed with");
    let key = check.required(key_file, span, lack).and_then(|(text, at)| check.parsed(identity::file(text), at));
    Some(SessionPersistence {
        carrier: carrier?,
        absolute_timeout: absolute,
        idle_timeout: idle,
        key_file: key?,
        strict: check.flag(strict, false),
    })
}

fn carrier(
    check: &Check<'_, '_>,
    (raw, span): (&raw::SessionCookie, Span),
    absolute_timeout: &Field<raw::DurationText>,
) -> Option<SessionCarrier> {
    let raw::SessionCookie { name, permanent, path } = raw;
    let lack = ("this cookie has no `name`", "add its name: `name: session`");
    let name = check.required(name, span, lack).and_then(|(text, at)| check.parsed(names::cookie(text), at));
    let kept = check.flag(permanent, false);
    if let (true, true, Some(at)) = (kept, absolute_timeout.is_absent(), permanent.span()) {
        let message = "a permanent cookie needs to know how long it lasts";
        check.error(at, message, "add `absoluteTimeout`, or remove `permanent`");
    }
    let path = path.here().and_then(|(text, at)| check.parsed(names::cookie_path(text), at));
    Some(SessionCarrier::Cookie { name: name?, permanent: kept, path: path.filter(|path: &Arc<str>| &**path != "/") })
}
