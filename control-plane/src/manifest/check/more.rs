//! Copies of requests and sessions of a rule.

use std::path::PathBuf;

use outrigger_config::language::raw as config;
use outrigger_config::language::{Field, List, Span};
use outrigger_config::limits::Bounds;
use outrigger_config::model::{SessionPersistence, Share};

use super::Context;
use super::route::backend;
use crate::manifest::object::{MirrorTo, Set};
use crate::manifest::raw;

/// The filter that sends copies.
pub(super) const MIRROR: &str = "RequestMirror";

/// The first filter that sends copies.
pub(super) fn mirror_span(filters: &Field<List<raw::RouteFilter>>) -> Option<Span> {
    let mut all = filters.entries().iter().filter_map(Field::here);
    all.find(|(filter, _)| filter.kind.get().is_some_and(|kind| kind == MIRROR)).map(|(_, span)| span)
}

/// Who gets copies. What else is wrong with these filters is looked at with the others.
pub(super) fn mirrors(context: &Context<'_, '_>, filters: &Field<List<raw::RouteFilter>>) -> Vec<MirrorTo> {
    let all = filters.entries().iter().filter_map(Field::here);
    let ours = all.filter(|(filter, _)| filter.kind.get().is_some_and(|kind| kind == MIRROR));
    ours.filter_map(|(filter, _)| mirror(context, filter.request_mirror.here()?)).collect()
}

fn mirror(context: &Context<'_, '_>, (raw, span): (&raw::RequestMirror, Span)) -> Option<MirrorTo> {
    let raw::RequestMirror { backend_ref, percent, fraction } = raw;
    let share = share(context, percent, fraction);
    let lack = ("this mirror has no `backendRef`", "add who gets the copies: `backendRef: { name: …, port: … }`");
    let (to, at) = context.check.required(backend_ref, span, lack)?;
    for (name, field) in [("weight", to.weight.span()), ("filters", to.filters.span())] {
        if let Some(at) = field {
            let fix = "remove it; `percent` or `fraction` says how many requests are copied";
            context.error(at, format!("who gets copies has no `{name}`"), fix);
        }
    }
    Some(MirrorTo { backend: backend(context, (to, at))?, share: share? })
}

fn share(context: &Context<'_, '_>, percent: &Field<u64>, fraction: &Field<raw::Fraction>) -> Option<Share> {
    let millionths = |numerator: u64, denominator: u64| {
        let share = u128::from(numerator) * 1_000_000 / u128::from(denominator.max(1));
        u32::try_from(share).map(Share).ok()
    };
    match (percent.span(), fraction.here()) {
        (Some(_), Some((_, at))) => {
            context.error(at, "the share of a mirror is one of `percent` and `fraction`", "keep one of the two");
            None
        }
        (Some(_), None) => millionths(context.check.number(percent, Bounds { min: 0, max: 100 })?, 100),
        (None, Some((raw::Fraction { numerator, denominator }, at))) => {
            context.check.required(numerator, at, ("this fraction has no `numerator`", "add it"));
            let most = Bounds { min: 1, max: 2_147_483_647 };
            let denominator = if denominator.is_absent() { 100 } else { context.check.number(denominator, most)? };
            millionths(context.check.number(numerator, Bounds { min: 0, max: denominator })?, denominator)
        }
        (None, None) if fraction.is_bad() => None,
        (None, None) => Some(Share(1_000_000)),
    }
}

/// Sessions of a rule, checked as those of a proxy's file are. Their key is said elsewhere.
pub(super) fn session(context: &Context<'_, '_>, field: &Field<raw::RouteSession>) -> Option<Set<SessionPersistence>> {
    let (raw::RouteSession { session_name, absolute_timeout, idle_timeout, kind, cookie_config }, span) =
        field.here()?;
    let lack = ("these sessions have no `sessionName`", "add the name of the cookie or header: `sessionName: session`");
    context.check.required(session_name, span, lack);
    let lifetime = cookie_config.get().map(|config| &config.lifetime_type);
    let permanent = lifetime.is_some_and(|field| context.word(field, &["Session", "Permanent"]) == Some("Permanent"));
    let mut out = config::SessionPersistence {
        absolute_timeout: absolute_timeout.clone(),
        idle_timeout: idle_timeout.clone(),
        key_file: Field::Here("/key".to_owned(), span),
        ..config::SessionPersistence::default()
    };
    match context.word(kind, &["Cookie", "Header"])? {
        "Header" => {
            if let Some(at) = cookie_config.span() {
                context.error(at, "`cookieConfig` does not belong to sessions of type Header", "remove it");
            }
            out.header = session_name.clone();
        }
        _ => {
            let permanent = if permanent { Field::Here(true, span) } else { Field::Absent };
            let cookie = config::SessionCookie { name: session_name.clone(), permanent, path: Field::Absent };
            out.cookie = Field::Here(cookie, span);
        }
    }
    session_name.get()?;
    let checked = context.check.session(&Field::Here(out, span))?;
    Some(Set { value: SessionPersistence { key_file: PathBuf::new(), ..checked }, place: context.place(span) })
}
