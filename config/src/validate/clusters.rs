//! Clusters and their endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{Check, balance, breakers, health, names, opaque, overload, small, tls};
use crate::limits;
use crate::model::{Cluster, ClusterProtocol, ConnectionOptions, DnsOptions, Endpoint, RetryBudget, Target};
use crate::raw;
use crate::read::{Entries, Field, Key, List};
use crate::source::Span;
use crate::text::quoted;

pub(super) fn clusters(check: &Check<'_, '_>, field: &Field<Entries<raw::Cluster>>) -> BTreeMap<Arc<str>, Cluster> {
    let Some((entries, span)) = field.here() else { return BTreeMap::new() };
    let mut out = BTreeMap::new();
    for (key, cluster) in check.within(&entries.pairs, limits::MAX_CLUSTERS, (Some(span), "clusters")) {
        let name = check.name(&key.text, key.span);
        if let Some(raw) = cluster.get() {
            out.insert(Arc::clone(&name), one(check, (key, name), raw));
        }
    }
    out
}

fn one(check: &Check<'_, '_>, (key, name): (&Key, Arc<str>), raw: &raw::Cluster) -> Cluster {
    let raw::Cluster {
        protocol,
        load_balancing,
        circuit_breaker,
        health_check,
        outlier_detection,
        queue,
        concurrency,
        retry_budget,
        connection,
        tls,
        dns,
        endpoints,
    } = raw;
    let breakers::Checked { ceilings, endpoint_ceilings, breakers } = breakers::of_cluster(check, circuit_breaker);
    Cluster {
        protocol: match protocol.get() {
            None | Some(raw::ClusterProtocol::Http1) => ClusterProtocol::Http1,
            Some(raw::ClusterProtocol::Http2) => ClusterProtocol::Http2,
            Some(raw::ClusterProtocol::Auto) => ClusterProtocol::Auto,
            Some(raw::ClusterProtocol::Tcp) => ClusterProtocol::Tcp,
            Some(raw::ClusterProtocol::Http3) => {
                if let (true, Some(at)) = (tls.is_absent(), protocol.span()) {
                    let message = "HTTP/3 is always encrypted, and this cluster has no TLS";
                    let fix =
                        "add `tls: { peerIdentities: [\"spiffe://…\"] }`, or `tls: { mode: simple, trustBundle: … }`";
                    check.error(at, message, fix);
                }
                ClusterProtocol::Http3
            }
        },
        balance: balance::balance(check, load_balancing),
        endpoints: self::endpoints(check, key, endpoints),
        ceilings,
        endpoint_ceilings,
        breakers,
        health_check: health::check(check, health_check, protocol),
        outlier_detection: health::outliers(check, outlier_detection),
        admission: overload::admission(check, queue, concurrency),
        retry_budget: budget(check, retry_budget),
        connection: connection_options(check, connection, protocol),
        tls: tls::of_cluster(check, tls),
        dns: dns_options(check, dns),
        place: check.place(key.span),
        name,
    }
}

fn endpoints(check: &Check<'_, '_>, key: &Key, field: &Field<List<raw::Endpoint>>) -> Vec<Endpoint> {
    let lack = format!("the cluster `{}` has no endpoints", quoted(&key.text));
    let fix = "add at least one: `endpoints: [10.0.0.7:8080]` or `endpoints: [\"name.example:8080\"]`";
    let Some((list, span)) = check.required(field, key.span, (&lack, fix)) else { return Vec::new() };
    if list.is_empty() {
        check.error(span, lack, fix);
    }
    let mut seen: HashMap<Target, Span> = HashMap::new();
    let mut out = Vec::with_capacity(list.len());
    let list = check.within(list, limits::MAX_ENDPOINTS, (Some(span), "endpoints"));
    for (raw, span) in list.iter().filter_map(Field::here) {
        let short = raw::EndpointFields::default();
        let (text, fields) = match raw {
            raw::Endpoint::Text(text) => (Some((text, span)), &short),
            raw::Endpoint::Map(fields) => {
                let lack = ("this endpoint has no `address`", "add `address: IP:PORT`");
                (check.required(&fields.address, span, lack), fields)
            }
        };
        let raw::EndpointFields { address: _, weight, zone, priority, labels, condition } = fields;
        let endpoint = |target: Target| Endpoint {
            target,
            weight: small(check.number(weight, 1, limits::ENDPOINT_WEIGHT)),
            zone: check.optional_name(zone),
            priority: small(check.number(priority, 0, limits::PRIORITY)),
            labels: balance::labels(check, labels),
            condition: balance::condition(condition),
        };
        let Some((text, at)) = text else { continue };
        let Some(target) = check.parsed(names::target(text), at) else { continue };
        if let Some(first) = seen.get(&target) {
            let message = format!("the endpoint `{}` comes twice", quoted(text));
            let fix = "remove one; use `weight` to give an endpoint a larger share".to_owned();
            check.sink.error_with(at, (*first, "the first one is here"), (message, fix));
            continue;
        }
        seen.insert(target.clone(), at);
        out.push(endpoint(target));
    }
    out
}

fn budget(check: &Check<'_, '_>, field: &Field<raw::RetryBudget>) -> RetryBudget {
    let empty = raw::RetryBudget::default();
    let raw::RetryBudget { percent, min_per_second } = field.get().unwrap_or(&empty);
    RetryBudget {
        percent: small(check.number(percent, 20, limits::PERCENT)),
        min_per_second: small(check.number(min_per_second, 3, limits::RETRIES_PER_SECOND)),
    }
}

/// `protocol`: what the cluster speaks.
fn connection_options(
    check: &Check<'_, '_>,
    field: &Field<raw::Connection>,
    protocol: &Field<raw::ClusterProtocol>,
) -> ConnectionOptions {
    let empty = raw::Connection::default();
    let raw::Connection {
        connect_timeout,
        idle_timeout,
        keepalive_interval,
        keepalive_timeout,
        max_streams,
        max_age,
        proxy_protocol,
    } = field.get().unwrap_or(&empty);
    ConnectionOptions {
        connect_timeout: check.duration(connect_timeout, Duration::from_secs(1)),
        idle_timeout: check.duration(idle_timeout, Duration::from_secs(55)),
        keepalive_interval: check.duration_or_zero(keepalive_interval, Duration::from_secs(10)),
        keepalive_timeout: check.duration(keepalive_timeout, Duration::from_secs(3)),
        max_streams: small(check.number(max_streams, 100, limits::STREAMS)),
        max_age: check.duration_or_zero(max_age, Duration::from_secs(3_600)),
        proxy_protocol: opaque::of_cluster(check, proxy_protocol, protocol),
    }
}

fn dns_options(check: &Check<'_, '_>, field: &Field<raw::Dns>) -> DnsOptions {
    let empty = raw::Dns::default();
    let raw::Dns { min_ttl, max_ttl } = field.get().unwrap_or(&empty);
    let (low, high) = (Duration::from_secs(1), Duration::from_secs(60));
    // One bound alone moves the other's default out of its way.
    let (low, high) = match (min_ttl.is_absent(), max_ttl.is_absent()) {
        (true, false) => {
            let high = check.duration(max_ttl, high);
            (low.min(high), high)
        }
        (false, true) => {
            let low = check.duration(min_ttl, low);
            (low, high.max(low))
        }
        _ => (check.duration(min_ttl, low), check.duration(max_ttl, high)),
    };
    if let (true, Some(span)) = (low > high, min_ttl.span()) {
        check.error(span, "`minTtl` is above `maxTtl`", "make it smaller, or `maxTtl` larger");
    }
    DnsOptions { min_ttl: low, max_ttl: high }
}
