//! How calls are made: TrafficPolicies and the defaults of MeshPolicies.

use std::time::Duration;

use outrigger_config::language::raw::{
    Backoff, CircuitBreaker, ClusterProtocol as RawProtocol, Concurrency, Connection, Criticality, DurationText, Fault,
    GlobalRateLimit, HashKey, HealthCheck, Hedge, LoadBalancing, OutlierDetection, Policy, Queue, RateLimit, Retry,
    RetryBudget, SessionPersistence, Timeouts,
};
use outrigger_config::language::{Field, List, Span};
use outrigger_config::limits::{self, Bounds};
use outrigger_config::model::{BalancePolicy, ClusterProtocol};

use super::Context;
use crate::manifest::object::{Set, Spec, Traffic, TrafficPolicy};
use crate::manifest::raw;

pub(in crate::manifest) fn traffic_policy(
    context: &Context<'_, '_>,
    spec: &raw::TrafficPolicySpec,
    span: Span,
) -> Option<Spec> {
    let raw::TrafficPolicySpec {
        target_ref,
        protocol,
        load_balancing,
        circuit_breaker,
        health_check,
        outlier_detection,
        queue,
        concurrency,
        retry_budget,
        connection,
        timeouts,
        retry,
        hedge,
        hash,
        session_persistence,
        rate_limits,
        global_rate_limits,
        criticality,
        faults,
    } = spec;
    let lack =
        ("this policy has no `targetRef`", "add the Service: `targetRef: { group: \"\", kind: Service, name: … }`");
    let target = context.check.required(target_ref, span, lack);
    let target = target.and_then(|(raw, at)| context.service_reference(raw, at));
    let written = [
        protocol.span(),
        load_balancing.span(),
        circuit_breaker.span(),
        retry_budget.span(),
        connection.span(),
        timeouts.span(),
        retry.span(),
        health_check.span(),
        outlier_detection.span(),
        queue.span(),
        concurrency.span(),
        hedge.span(),
        hash.span(),
        session_persistence.span(),
        rate_limits.span(),
        global_rate_limits.span(),
        criticality.span(),
        faults.span(),
    ];
    if written.iter().all(Option::is_none) {
        context.error(span, "this policy sets nothing", "add `circuitBreaker`, `retry` or another of its fields");
    }
    let mut traffic =
        traffic(context, (protocol, load_balancing), (circuit_breaker, retry_budget, connection), (timeouts, retry));
    fitness(context, (health_check, outlier_detection), (queue, concurrency), &mut traffic);
    self::hedge(context, (hedge, retry), &mut traffic);
    requests(
        context,
        (hash, session_persistence),
        (rate_limits, global_rate_limits),
        (criticality, faults),
        &mut traffic,
    );
    let (service, section) = target?;
    Some(Spec::Traffic(TrafficPolicy { service, section, traffic }))
}

/// The defaults of a MeshPolicy.
pub(super) fn defaults(context: &Context<'_, '_>, spec: &raw::TrafficSpec) -> Traffic {
    let raw::TrafficSpec {
        protocol,
        load_balancing,
        circuit_breaker,
        health_check,
        outlier_detection,
        queue,
        concurrency,
        retry_budget,
        connection,
        timeouts,
        retry,
        hedge,
        hash,
        session_persistence,
        rate_limits,
        global_rate_limits,
        criticality,
        faults,
    } = spec;
    let mut traffic =
        traffic(context, (protocol, load_balancing), (circuit_breaker, retry_budget, connection), (timeouts, retry));
    fitness(context, (health_check, outlier_detection), (queue, concurrency), &mut traffic);
    self::hedge(context, (hedge, retry), &mut traffic);
    requests(
        context,
        (hash, session_persistence),
        (rate_limits, global_rate_limits),
        (criticality, faults),
        &mut traffic,
    );
    traffic
}

/// What is done with requests, each block one setting.
fn requests(
    context: &Context<'_, '_>,
    (hash, session): (&Field<List<HashKey>>, &Field<SessionPersistence>),
    (rates, global): (&Field<List<RateLimit>>, &Field<List<GlobalRateLimit>>),
    (criticality, faults): (&Field<Criticality>, &Field<List<Fault>>),
    out: &mut Traffic,
) {
    let at = |span: Option<Span>| span.map(|span| context.place(span));
    out.hash = at(hash.span()).map(|place| Set { value: context.check.hash(hash), place });
    let checked = context.check.session(session).zip(at(session.span()));
    out.session = checked.map(|(value, place)| Set { value, place });
    out.rate_limits = at(rates.span()).map(|place| Set { value: context.check.rate_limits(rates), place });
    let asked = at(global.span()).map(|place| Set { value: context.check.global_rate_limits(global), place });
    out.global_rate_limits = asked;
    let class = context.check.criticality(criticality).zip(at(criticality.span()));
    out.criticality = class.map(|(value, place)| Set { value, place });
    let list = context.check.within(faults.entries(), limits::MAX_FILTERS, (faults.span(), "faults"));
    if let (Some(span), Some(true)) = (faults.span(), faults.get().map(Vec::is_empty)) {
        context.error(span, "`faults` has no entries", "add one, or remove it");
    }
    let list: Vec<_> = list.iter().filter_map(|fault| context.check.fault(fault)).collect();
    out.faults = at(faults.span()).map(|place| Set { value: list, place });
}

/// How endpoints are judged and what is let in. Each block is one setting: the nearer one counts as a whole.
fn fitness(
    context: &Context<'_, '_>,
    (health_check, outliers): (&Field<HealthCheck>, &Field<OutlierDetection>),
    (queue, concurrency): (&Field<Queue>, &Field<Concurrency>),
    out: &mut Traffic,
) {
    let place = |span: Option<Span>| span.map(|span| context.place(span));
    let check = context.check.health_check(health_check).zip(place(health_check.span()));
    out.health_check = check.map(|(value, place)| Set { value, place });
    let outlier = context.check.outlier_detection(outliers).zip(place(outliers.span()));
    out.outlier_detection = outlier.map(|(value, place)| Set { value, place });
    let admission = context.check.admission(queue, concurrency);
    out.queue = admission.queue.zip(place(queue.span())).map(|(value, place)| Set { value, place });
    out.concurrency = place(concurrency.span()).map(|place| Set { value: admission.concurrency, place });
}

fn hedge(context: &Context<'_, '_>, (hedge, retry): (&Field<Hedge>, &Field<Retry>), out: &mut Traffic) {
    let Some(span) = hedge.span() else { return };
    let retry = context.check.retry(retry);
    let value = context.check.hedge(hedge, &retry);
    out.hedge = value.map(|value| Set { value, place: context.place(span) });
}

pub(super) fn protocol(raw: RawProtocol) -> ClusterProtocol {
    match raw {
        RawProtocol::Http1 => ClusterProtocol::Http1,
        RawProtocol::Http2 => ClusterProtocol::Http2,
        RawProtocol::Auto => ClusterProtocol::Auto,
        RawProtocol::Http3 => ClusterProtocol::Http3,
        RawProtocol::Tcp => ClusterProtocol::Tcp,
    }
}

fn traffic(
    context: &Context<'_, '_>,
    (protocol, balancing): (&Field<RawProtocol>, &Field<LoadBalancing>),
    (breaker, budget, connection): (&Field<CircuitBreaker>, &Field<RetryBudget>, &Field<Connection>),
    (timeouts, retry): (&Field<Timeouts>, &Field<Retry>),
) -> Traffic {
    if let Some((RawProtocol::Http3 | RawProtocol::Tcp, at)) = protocol.here() {
        let fix = "write http1, http2 or auto; of a port of TCP the Service says `appProtocol: tcp`, and between proxies \
                   of the mesh HTTP/3 is `http3: true` of a MeshPolicy";
        context.error(at, "this is not spoken to endpoints outside the mesh", fix);
    }
    let mut out = Traffic { protocol: set(context, protocol, |raw| self::protocol(*raw)), ..Traffic::default() };
    if let Some(raw) = balancing.get() {
        let LoadBalancing {
            policy,
            bounded_load,
            slow_start,
            locality,
            panic_threshold,
            overprovisioning,
            subset_fallback,
        } = raw;
        let written = [
            bounded_load.span(),
            slow_start.span(),
            locality.span(),
            panic_threshold.span(),
            overprovisioning.span(),
            subset_fallback.span(),
        ];
        out.spread = written
            .into_iter()
            .flatten()
            .next()
            .map(|span| Set { value: context.check.balance(balancing), place: context.place(span) });
        out.balance = set(context, policy, |policy| match policy {
            Policy::RingHash => BalancePolicy::RingHash,
            Policy::Maglev => BalancePolicy::Maglev,
            Policy::RoundRobin => BalancePolicy::RoundRobin,
            Policy::LeastRequest => BalancePolicy::LeastRequest,
            Policy::PeakEwma => BalancePolicy::PeakEwma,
            Policy::Random => BalancePolicy::Random,
        });
    }
    if let Some(raw) = breaker.get() {
        let CircuitBreaker {
            max_requests,
            max_pending,
            max_retries,
            max_connections,
            failure_threshold,
            failure_ratio,
            latency,
            reset_timeout,
            max_reset_timeout,
            ramp,
            cluster,
            per_endpoint,
        } = raw;
        let written = [
            failure_threshold.span(),
            failure_ratio.span(),
            latency.span(),
            reset_timeout.span(),
            max_reset_timeout.span(),
            ramp.span(),
            cluster.span(),
        ];
        let (each, breakers) = context.check.breakers(breaker);
        let first = written.into_iter().flatten().next();
        out.breakers = first.map(|span| Set { value: breakers, place: context.place(span) });
        out.endpoint_ceilings = per_endpoint.span().map(|span| Set { value: each, place: context.place(span) });
        out.max_requests = number(context, max_requests, limits::MAX_REQUESTS);
        out.max_pending = number(context, max_pending, limits::MAX_PENDING);
        out.max_retries = number(context, max_retries, limits::MAX_RETRIES);
        out.max_connections = number(context, max_connections, limits::CONNECTIONS);
    }
    if let Some(RetryBudget { percent, min_per_second }) = budget.get() {
        out.budget_percent = number(context, percent, limits::PERCENT);
        out.budget_min_per_second = number(context, min_per_second, limits::RETRIES_PER_SECOND);
    }
    if let Some(raw) = connection.get() {
        let Connection {
            connect_timeout,
            idle_timeout,
            keepalive_interval,
            keepalive_timeout,
            max_streams,
            max_age,
            proxy_protocol,
        } = raw;
        if let Some(at) = proxy_protocol.span() {
            let message = "between proxies of the mesh no PROXY header is sent: certificates say who calls";
            context.error(at, message, "remove it");
        }
        out.connect_timeout = time(context, connect_timeout);
        out.idle_timeout = time(context, idle_timeout);
        out.keepalive_interval = time_or_zero(context, keepalive_interval);
        out.keepalive_timeout = time(context, keepalive_timeout);
        out.max_streams = number(context, max_streams, limits::STREAMS);
        out.max_age = time_or_zero(context, max_age);
    }
    if let Some(Timeouts { request, backend_request, idle }) = timeouts.get() {
        out.request = time_or_zero(context, request);
        out.backend_request = time_or_zero(context, backend_request);
        out.idle = time_or_zero(context, idle);
        if let (Some(whole), Some(one), Some(at)) = (&out.request, &out.backend_request, backend_request.span())
            && whole.value != Duration::ZERO
            && one.value > whole.value
        {
            context.error(at, "`backendRequest` is longer than `request`", "make it shorter, or `request` longer");
        }
    }
    self::retry(context, retry, &mut out);
    out
}

fn retry(context: &Context<'_, '_>, field: &Field<Retry>, out: &mut Traffic) {
    let Some((raw, span)) = field.here() else { return };
    let Retry { attempts, on, backoff, non_idempotent, headers, idempotency_key, max_pushback, other_locality, buffer } =
        raw;
    let written = [headers.span(), idempotency_key.span(), max_pushback.span(), other_locality.span(), buffer.span()];
    out.retry_more = written
        .into_iter()
        .flatten()
        .next()
        .map(|span| Set { value: context.check.retry(field), place: context.place(span) });
    out.attempts = number(context, attempts, limits::RETRY_ATTEMPTS)
        .or_else(|| Some(Set { value: 1, place: context.place(span) }));
    let conditions = context.check.retry_conditions(on);
    out.retry_on = Some(Set { value: conditions, place: context.place(on.span().unwrap_or(span)) });
    out.non_idempotent = set(context, non_idempotent, |value| *value);
    if let Some((Backoff { base, max }, at)) = backoff.here() {
        out.backoff_base = time(context, base);
        out.backoff_max = time(context, max);
        if let (Some(base), Some(max)) = (&out.backoff_base, &out.backoff_max)
            && base.value > max.value
        {
            context.error(at, "`base` is above `max`", "make it smaller, or `max` larger");
        }
    }
}

fn set<T, U>(context: &Context<'_, '_>, field: &Field<T>, change: impl FnOnce(&T) -> U) -> Option<Set<U>> {
    field.here().map(|(value, span)| Set { value: change(value), place: context.place(span) })
}

fn number<T: TryFrom<u64>>(context: &Context<'_, '_>, field: &Field<u64>, bounds: Bounds) -> Option<Set<T>> {
    let value = T::try_from(context.check.number(field, bounds)?).ok()?;
    Some(Set { value, place: context.place(field.span()?) })
}

fn time(context: &Context<'_, '_>, field: &Field<DurationText>) -> Option<Set<Duration>> {
    Some(Set { value: context.check.duration(field)?, place: context.place(field.span()?) })
}

fn time_or_zero(context: &Context<'_, '_>, field: &Field<DurationText>) -> Option<Set<Duration>> {
    Some(Set { value: context.check.duration_or_zero(field)?, place: context.place(field.span()?) })
}
