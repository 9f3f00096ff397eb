//! What is let in: queues, concurrency, rates, and what is done when the process runs short.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Check, Names, References, matches, names, small};
use crate::limits::{self, MAX_RATE_HOURS};
use crate::model::{
    AdaptiveConcurrency, Admission, Criticality, DescriptorEntry, DescriptorValue, GlobalRateLimit, Overload, Queue,
    RateKey, RateLimit, RateLimitService,
};
use crate::raw;
use crate::read::{Entries, Field, Key, List};
use crate::source::Span;
use crate::text::quoted;

pub(super) fn admission(
    check: &Check<'_, '_>,
    queue: &Field<raw::Queue>,
    concurrency: &Field<raw::Concurrency>,
) -> Admission {
    let queue = queue.get().map(|raw::Queue { timeout, max }| Queue {
        timeout: check.duration(timeout, Duration::from_millis(100)),
        max: small(check.number(max, 256, limits::QUEUE)),
    });
    Admission { queue, concurrency: self::concurrency(check, concurrency) }
}

fn concurrency(check: &Check<'_, '_>, field: &Field<raw::Concurrency>) -> Option<AdaptiveConcurrency> {
    let default = AdaptiveConcurrency::default();
    match field.here()? {
        (raw::Concurrency::Text(text), span) => match text.as_str() {
            "adaptive" => Some(default),
            "off" | "false" => None,
            other => {
                let message = format!("`{}` is not a concurrency", quoted(other));
                check.error(span, message, "write adaptive, off, or `{ min: 3, max: 1000, tolerance: 50 }`");
                None
            }
        },
        (raw::Concurrency::Map(raw::AdaptiveConcurrency { min, max, tolerance }), _) => {
            let low = check.number(min, default.min.into(), limits::CONCURRENCY);
            let high = check.number(max, default.max.into(), limits::CONCURRENCY);
            let (low, high) = match (min.span(), max.span()) {
                (Some(at), Some(_)) if low > high => {
                    check.error(at, "`min` is above `max`", "make it smaller, or `max` larger");
                    (low, low)
                }
                // One alone moves the other's default out of its way.
                (Some(_), None) => (low, high.max(low)),
                (None, Some(_)) => (low.min(high), high),
                _ => (low, high),
            };
            let tolerance = check.number(tolerance, default.tolerance.into(), limits::TOLERANCE);
            Some(AdaptiveConcurrency { min: small(low), max: small(high), tolerance: small(tolerance) })
        }
    }
}

pub(super) fn criticality(field: &Field<raw::Criticality>) -> Option<Criticality> {
    field.get().map(|class| match class {
        raw::Criticality::Critical => Criticality::Critical,
        raw::Criticality::Default => Criticality::Default,
        raw::Criticality::Sheddable => Criticality::Sheddable,
    })
}

/// Rate limits of a listener or a rule.
pub(super) fn rate_limits(check: &Check<'_, '_>, field: &Field<List<raw::RateLimit>>) -> Vec<RateLimit> {
    let list = check.filled(field, "rateLimits", limits::MAX_RATE_LIMITS);
    list.iter().filter_map(Field::here).filter_map(|(raw, span)| rate_limit(check, raw, span)).collect()
}

fn rate_limit(check: &Check<'_, '_>, raw: &raw::RateLimit, span: Span) -> Option<RateLimit> {
    let raw::RateLimit { name, by, requests, per, burst, shadow } = raw;
    let lack = ("this rate limit has no `name`", "add a name for answers, metrics and logs: `name: per-caller`");
    let name = check.required(name, span, lack).map(|(text, at)| {
        let name = check.name(text, at);
        let first = check.rates.borrow_mut().insert(Arc::clone(&name), at);
        if let Some(first) = first {
            let message = format!("a second rate limit is named `{}`", quoted(&name));
            let fix = "give it another name: the name is what its counts are kept under".to_owned();
            check.sink.error_with(at, (first, "the first one is here"), (message, fix));
            check.rates.borrow_mut().insert(Arc::clone(&name), first);
        }
        name
    });
    let mut keys: Vec<RateKey> = Vec::new();
    let list = check.filled(by, "by", limits::MAX_RATE_KEYS);
    for (raw, at) in list.iter().filter_map(Field::here) {
        let key = match raw {
            raw::RateKey::Identity => Some(RateKey::Identity),
            raw::RateKey::Address => Some(RateKey::Address),
            raw::RateKey::Header(field) => check.header(field).map(RateKey::Header),
        };
        if key.as_ref().is_some_and(|key| keys.contains(key)) {
            check.error(at, "this key comes twice", "remove one of the two");
        }
        keys.extend(key);
    }
    let lack = ("this rate limit has no `requests`", "add how many may come in the time: `requests: 100`");
    check.required(requests, span, lack);
    check.required(per, span, ("this rate limit has no `per`", "add the time: `per: 1s`"));
    let requests = check.number(requests, 1, limits::RATE);
    let per = check.time(per, Duration::from_secs(1), PERIODS);
    let burst = check.number(burst, requests, limits::RATE);
    Some(RateLimit {
        name: name?,
        by: keys,
        requests: small(requests),
        per,
        burst: small(burst),
        shadow: check.flag(shadow, false),
    })
}

/// Times in which the requests of a rate limit are counted.
pub(crate) const PERIODS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(MAX_RATE_HOURS * 3600));

pub(super) fn global(
    check: &Check<'_, '_>,
    field: &Field<List<raw::GlobalRateLimit>>,
    services: &Names<'_>,
) -> Vec<GlobalRateLimit> {
    let list = check.filled(field, "globalRateLimits", limits::MAX_RATE_LIMITS);
    let mut out: Vec<GlobalRateLimit> = Vec::new();
    for (raw::GlobalRateLimit { service, descriptor }, span) in list.iter().filter_map(Field::here) {
        let lack = ("this rate limit has no `service`", "add the name of a rate limit service: `service: NAME`");
        let service = check.required(service, span, lack);
        if let Some((name, at)) = service {
            services.refer(check, name, at);
        }
        let lack = ("this rate limit has no `descriptor`", "add `descriptor: [{ key: tenant, header: x-tenant }]`");
        let entries = check.required_list(descriptor, (span, lack), ("descriptor", limits::MAX_DESCRIPTOR_ENTRIES));
        let entries = entries.iter().filter_map(Field::here);
        let descriptor: Vec<DescriptorEntry> = entries.filter_map(|(raw, at)| entry(check, raw, at)).collect();
        let Some((service, _)) = service else { continue };
        let limit = GlobalRateLimit { service: Arc::from(service.as_str()), descriptor };
        if out.contains(&limit) {
            check.error(span, "this descriptor is asked about twice", "remove one of the two");
        }
        out.push(limit);
    }
    out
}

fn entry(check: &Check<'_, '_>, raw: &raw::DescriptorEntry, span: Span) -> Option<DescriptorEntry> {
    let raw::DescriptorEntry { key, text, header, from } = raw;
    let lack = ("this entry has no `key`", "add the key that the service knows: `key: tenant`");
    let key = check.required(key, span, lack).and_then(|(text, at)| check.parsed(names::word(text), at));
    match [text.span(), header.span(), from.span()].into_iter().flatten().collect::<Vec<_>>().as_slice() {
        [] => check.error(span, "this entry has no value", "add `text: …`, `header: NAME` or `from: identity`"),
        [_] => {}
        [_, second, ..] => {
            check.error(*second, "the value of an entry is exactly one of `text`, `header` and `from`", "keep one");
        }
    }
    let value = match (text.here(), from.get()) {
        (Some((text, at)), _) => check.parsed(names::word(text), at).map(DescriptorValue::Text),
        (None, Some(source)) => Some(match source {
            raw::DescriptorSource::Identity => DescriptorValue::Identity,
            raw::DescriptorSource::Address => DescriptorValue::Address,
            raw::DescriptorSource::Path => DescriptorValue::Path,
            raw::DescriptorSource::Method => DescriptorValue::Method,
            raw::DescriptorSource::Cluster => DescriptorValue::Cluster,
        }),
        (None, None) => check.header(header).map(DescriptorValue::Header),
    };
    Some(DescriptorEntry { key: key?, value: value? })
}

pub(super) fn services(
    check: &Check<'_, '_>,
    field: &Field<Entries<raw::RateLimitService>>,
    references: &References<'_>,
) -> BTreeMap<Arc<str>, RateLimitService> {
    let Some((entries, span)) = field.here() else { return BTreeMap::new() };
    let max = limits::MAX_RATE_LIMIT_SERVICES;
    let mut out = BTreeMap::new();
    for (key, raw) in check.within(&entries.pairs, max, (Some(span), "rate limit services")) {
        let name = check.name(&key.text, key.span);
        if let Some(raw) = raw.get()
            && let Some(service) = service(check, key, (raw, references))
        {
            out.insert(name, service);
        }
    }
    out
}

fn service(
    check: &Check<'_, '_>,
    key: &Key,
    (raw, references): (&raw::RateLimitService, &References<'_>),
) -> Option<RateLimitService> {
    let raw::RateLimitService { cluster, domain, timeout, on_failure } = raw;
    let who = format!("the rate limit service `{}`", quoted(&key.text));
    let lack = format!("{who} has no `cluster`");
    let cluster = check.required(cluster, key.span, (&lack, "add the name of a cluster: `cluster: NAME`"));
    if let Some((cluster, at)) = cluster {
        references.clusters.refer(check, cluster, at);
        if let Some(group) = references.groups.get(cluster.as_str())
            && !matches!(group.protocol.get(), Some(raw::ClusterProtocol::Http2))
            && !group.protocol.is_bad()
        {
            let message = format!(
                "the cluster `{}` does not speak HTTP/2, and rate limit services are asked over gRPC",
                quoted(cluster)
            );
            check.error(at, message, "add `protocol: http2` to the cluster");
        }
    }
    let asked = asked(check, (&who, key.span), (domain, timeout, on_failure));
    let cluster = Arc::from(cluster?.0.as_str());
    asked.map(|service| RateLimitService { cluster, ..service })
}

/// How a service is asked, wherever it is: its cluster has no name here.
pub(super) fn asked(
    check: &Check<'_, '_>,
    (who, span): (&str, Span),
    (domain, timeout, on_failure): (&Field<String>, &Field<raw::DurationText>, &Field<raw::OnFailure>),
) -> Option<RateLimitService> {
    let lack = format!("{who} has no `domain`");
    let domain = check
        .required(domain, span, (&lack, "add the domain that its limits are configured under: `domain: mesh`"))
        .and_then(|(text, at)| check.parsed(names::word(text), at));
    let lack = format!("{who} does not say what happens when it cannot be asked");
    let on_failure = check.required(on_failure, span, (&lack, "add `onFailure: allow` or `onFailure: deny`"));
    Some(RateLimitService {
        cluster: "".into(),
        domain: domain?,
        timeout: check.duration(timeout, Duration::from_millis(20)),
        allow_on_failure: *on_failure?.0 == raw::OnFailure::Allow,
    })
}

pub(super) fn overload(check: &Check<'_, '_>, field: &Field<raw::Overload>) -> Overload {
    let default = Overload::default();
    let Some(raw) = field.get() else { return default };
    let raw::Overload { memory_limit, shrink_at, refuse_at, stop_accepting_at, max_connections } = raw;
    let level = |field: &Field<u64>, default: u8| small::<u8>(check.number(field, default.into(), limits::SHARE));
    let (mut shrink, mut refuse, mut stop) = (
        level(shrink_at, default.shrink_at),
        level(refuse_at, default.refuse_at),
        level(stop_accepting_at, default.stop_accepting_at),
    );
    // A level that is not written gets out of the way of those that are.
    if shrink_at.is_absent() {
        let lowest =
            [(refuse_at, refuse), (stop_accepting_at, stop)].into_iter().filter(|(field, _)| !field.is_absent());
        shrink = lowest.map(|(_, level)| level).fold(shrink, u8::min);
    }
    if refuse_at.is_absent() {
        refuse = refuse.max(shrink);
        if !stop_accepting_at.is_absent() {
            refuse = refuse.min(stop);
        }
    }
    if stop_accepting_at.is_absent() {
        stop = stop.max(refuse).max(shrink);
    }
    let fix = "the levels go up: `shrinkAt`, `refuseAt`, `stopAcceptingAt`";
    if shrink > refuse {
        let at = refuse_at.span().or(shrink_at.span()).unwrap_or(Span::START);
        check.error(at, "`refuseAt` is below `shrinkAt`", fix);
    }
    if refuse > stop {
        let at = stop_accepting_at.span().or(refuse_at.span()).unwrap_or(Span::START);
        check.error(at, "`stopAcceptingAt` is below `refuseAt`", fix);
    }
    Overload {
        memory_limit: memory_limit.get().map(|_| check.size(memory_limit, limits::MEMORY.max, limits::MEMORY)),
        shrink_at: shrink,
        refuse_at: refuse,
        stop_accepting_at: stop,
        max_connections: small(check.number(max_connections, 0, limits::ALL_CONNECTIONS)),
    }
}

impl Check<'_, '_> {
    /// The name of a header that is read.
    pub(super) fn header(&self, field: &Field<String>) -> Option<http::HeaderName> {
        let (text, at) = field.here()?;
        matches::header_name(self, text, at)
    }
}
