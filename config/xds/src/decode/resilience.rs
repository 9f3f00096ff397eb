//! Balancing, health, breakers, admission, limits and faults out of our own messages.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_config::grammar;
use outrigger_config::model::{
    Abort, AdaptiveConcurrency, Admission, Balance, BalancePolicy, Breaker, Breakers, Criticality, DescriptorEntry,
    DescriptorValue, EndpointCeilings, FailureRatio, Fault, FaultAbort, FaultDelay, GlobalRateLimit, HashKey,
    HashSource, HeaderMatch, HealthCheck, Hedge, HedgeAfter, Labels, LatencyTrip, Locality, Mirror, OutlierDetection,
    Probe, Queue, RateKey, RateLimit, RateLimitService, Retry, SessionCarrier, SessionPersistence, Setting, Share,
    SlowStart, SubsetFallback,
};

use super::access;
use super::reader::At;
use crate::extensions::{
    self, BalanceExtension, BreakerExtension, CeilingsExtension, ClusterResilience, FaultExtension,
    GlobalRateLimitExtension, HashKeyExtension, HealthCheckExtension, HedgeExtension, LabelsExtension, MirrorExtension,
    OutlierExtension, RateLimitExtension, RateLimitServiceExtension, RouteResilience, SessionExtension,
    balance_extension, descriptor_entry_extension, fault_abort_extension, hash_key_extension, health_check_extension,
    hedge_extension, rate_key_extension, session_extension,
};
use crate::wire;

/// What a cluster says of balancing, health and admission.
#[derive(Default)]
pub(super) struct Resilience {
    pub(super) balance: Balance,
    pub(super) endpoint_ceilings: EndpointCeilings,
    pub(super) breakers: Breakers,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) admission: Admission,
}

pub(super) fn cluster(at: &At<'_>, message: &ClusterResilience) -> Resilience {
    let at = &at.field("metadata").field("resilience");
    let ClusterResilience {
        balance,
        endpoint_ceilings,
        endpoint_breaker,
        cluster_breaker,
        health_check,
        outlier_detection,
        queue,
        concurrency,
    } = message;
    let CeilingsExtension { max_requests, max_pending, max_retries, max_connections } =
        endpoint_ceilings.unwrap_or_default();
    Resilience {
        balance: balance.as_ref().map_or_else(Balance::default, |message| self::balance(at, message)),
        endpoint_ceilings: EndpointCeilings { max_requests, max_pending, max_retries, max_connections },
        breakers: Breakers {
            endpoint: endpoint_breaker.as_ref().map_or_else(Breaker::default, |message| breaker(at, message)),
            cluster: cluster_breaker.as_ref().map(|message| breaker(at, message)),
        },
        health_check: health_check.as_ref().and_then(|message| check(at, message)),
        outlier_detection: outlier_detection.as_ref().map(|message| outliers(at, message)),
        admission: Admission {
            queue: queue
                .as_ref()
                .map(|queue| Queue { timeout: at.time("queue.timeout", queue.timeout.as_ref()), max: queue.max }),
            concurrency: concurrency.map(|limit| AdaptiveConcurrency {
                min: limit.min,
                max: limit.max,
                tolerance: at.narrow("concurrency.tolerance", limit.tolerance),
            }),
        },
    }
}

fn balance(at: &At<'_>, message: &BalanceExtension) -> Balance {
    use balance_extension::Policy;
    let BalanceExtension {
        policy,
        bounded_load,
        slow_start,
        prefer_zone,
        panic_threshold,
        overprovisioning,
        any_subset,
    } = message;
    Balance {
        policy: match Policy::try_from(*policy) {
            Ok(Policy::LeastRequest) => BalancePolicy::LeastRequest,
            Ok(Policy::RoundRobin) => BalancePolicy::RoundRobin,
            Ok(Policy::PeakEwma) => BalancePolicy::PeakEwma,
            Ok(Policy::Random) => BalancePolicy::Random,
            Ok(Policy::RingHash) => BalancePolicy::RingHash,
            Ok(Policy::Maglev) => BalancePolicy::Maglev,
            Err(_) => {
                at.field("balance.policy").refuse("this policy is not known");
                BalancePolicy::LeastRequest
            }
        },
        bounded_load: bounded_load.map(|percent| at.narrow("balance.bounded_load", percent)),
        slow_start: slow_start.as_ref().map(|message| SlowStart {
            window: at.time("balance.slow_start.window", message.window.as_ref()),
            min_weight: at.narrow("balance.slow_start.min_weight", message.min_weight),
            aggression: message.aggression,
        }),
        locality: if *prefer_zone { Locality::PreferZone } else { Locality::Any },
        panic_threshold: at.narrow("balance.panic_threshold", *panic_threshold),
        overprovisioning: at.narrow("balance.overprovisioning", *overprovisioning),
        subset_fallback: if *any_subset { SubsetFallback::Any } else { SubsetFallback::None },
    }
}

fn breaker(at: &At<'_>, message: &BreakerExtension) -> Breaker {
    let at = &at.field("breaker");
    let BreakerExtension { failure_threshold, written, failure_ratio, latency, reset_timeout, max_reset_timeout, ramp } =
        message;
    Breaker {
        failure_threshold: Setting { value: *failure_threshold, place: written.as_ref().map(wire::read_place) },
        failure_ratio: failure_ratio.as_ref().map(|ratio| FailureRatio {
            percent: at.narrow("failure_ratio.percent", ratio.percent),
            window: at.time("failure_ratio.window", ratio.window.as_ref()),
            min_requests: ratio.min_requests,
        }),
        latency: latency.as_ref().map(|trip| LatencyTrip {
            quantile: at.narrow("latency.quantile", trip.quantile),
            above: at.time("latency.above", trip.above.as_ref()),
            window: at.time("latency.window", trip.window.as_ref()),
            min_requests: trip.min_requests,
        }),
        reset_timeout: at.time("reset_timeout", reset_timeout.as_ref()),
        max_reset_timeout: at.time("max_reset_timeout", max_reset_timeout.as_ref()),
        ramp: at.time("ramp", ramp.as_ref()),
    }
}

fn check(at: &At<'_>, message: &HealthCheckExtension) -> Option<HealthCheck> {
    use health_check_extension::Probe as Message;
    let at = &at.field("health_check");
    let HealthCheckExtension {
        probe,
        interval,
        jitter,
        timeout,
        healthy_threshold,
        unhealthy_threshold,
        no_traffic_interval,
        port,
    } = message;
    let probe = match probe {
        Some(Message::Http(http)) => {
            let headers = http.headers.iter().filter_map(|pair| {
                let value = at.held(HeaderValue::from_str(&pair.value).map_err(|_| "not a header value".to_owned()));
                Some((at.header(&pair.key)?, value?))
            });
            let status = |value: u32| at.narrow::<u16>("http.expected", value);
            Probe::Http {
                path: http.path.as_str().into(),
                host: http.host.as_deref().map(Arc::from),
                method: at.held(Method::from_bytes(http.method.as_bytes()).map_err(|_| "no method".to_owned()))?,
                headers: headers.collect(),
                expected: http.expected.iter().map(|range| status(range.first)..=status(range.last)).collect(),
            }
        }
        Some(Message::Tcp(_)) => Probe::Tcp,
        Some(Message::Grpc(grpc)) => {
            Probe::Grpc { service: grpc.service.as_str().into(), authority: grpc.authority.as_deref().map(Arc::from) }
        }
        None => {
            at.refuse("this does not say what is asked");
            return None;
        }
    };
    Some(HealthCheck {
        probe,
        interval: at.time("interval", interval.as_ref()),
        jitter: at.narrow("jitter", *jitter),
        timeout: at.time("timeout", timeout.as_ref()),
        healthy_threshold: *healthy_threshold,
        unhealthy_threshold: *unhealthy_threshold,
        no_traffic_interval: at.time("no_traffic_interval", no_traffic_interval.as_ref()),
        port: port.map(|port| at.narrow("port", port)),
    })
}

fn outliers(at: &At<'_>, message: &OutlierExtension) -> OutlierDetection {
    let at = &at.field("outlier_detection");
    let OutlierExtension {
        consecutive_errors,
        consecutive_gateway_errors,
        consecutive_local_errors,
        split_local_origin,
        success_rate_stdev_factor,
        success_rate_min_hosts,
        success_rate_min_requests,
        interval,
        base_ejection,
        max_ejection,
        max_ejection_percent,
    } = message;
    OutlierDetection {
        consecutive_errors: *consecutive_errors,
        consecutive_gateway_errors: *consecutive_gateway_errors,
        consecutive_local_errors: *consecutive_local_errors,
        split_local_origin: *split_local_origin,
        success_rate_stdev_factor: *success_rate_stdev_factor,
        success_rate_min_hosts: *success_rate_min_hosts,
        success_rate_min_requests: *success_rate_min_requests,
        interval: at.time("interval", interval.as_ref()),
        base_ejection: at.time("base_ejection", base_ejection.as_ref()),
        max_ejection: at.time("max_ejection", max_ejection.as_ref()),
        max_ejection_percent: at.narrow("max_ejection_percent", *max_ejection_percent),
    }
}

/// What a rule says beside where requests go and how long they take.
pub(super) struct RuleResilience {
    pub(super) retry: Retry,
    pub(super) hedge: Option<Hedge>,
    pub(super) breaker: Option<Breaker>,
    pub(super) hash: Vec<HashKey>,
    pub(super) session: Option<SessionPersistence>,
    pub(super) rate_limits: Vec<RateLimit>,
    pub(super) global_rate_limits: Vec<GlobalRateLimit>,
    pub(super) criticality: Option<Criticality>,
    pub(super) faults: Vec<Fault>,
    pub(super) mirrors: Vec<Mirror>,
}

impl RuleResilience {
    /// Of a rule that only Envoy's fields say.
    pub(super) fn envoy(retry: Retry, (hedge, hash, mirrors): (Option<Hedge>, Vec<HashKey>, Vec<Mirror>)) -> Self {
        Self {
            retry,
            hedge,
            breaker: None,
            hash,
            session: None,
            rate_limits: Vec::new(),
            global_rate_limits: Vec::new(),
            criticality: None,
            faults: Vec::new(),
            mirrors,
        }
    }
}

/// `retry` is what Envoy's fields say of it.
pub(super) fn rule(at: &At<'_>, message: &RouteResilience, retry: Retry) -> RuleResilience {
    let at = &at.field("metadata").field("resilience");
    let RouteResilience {
        retry_headers,
        idempotency_key,
        max_pushback,
        other_locality,
        buffer,
        hedge,
        breaker,
        hash,
        session,
        rate_limits,
        global_rate_limits,
        criticality,
        faults,
        mirrors,
        subsets: _,
    } = message;
    RuleResilience {
        retry: Retry {
            on_headers: conditions(at, retry_headers),
            idempotency_key: *idempotency_key,
            max_pushback: at.time("max_pushback", max_pushback.as_ref()),
            other_locality: *other_locality,
            buffer: *buffer,
            ..retry
        },
        hedge: hedge.as_ref().and_then(|message| self::hedge(at, message)),
        breaker: breaker.as_ref().map(|message| self::breaker(at, message)),
        hash: hash.iter().filter_map(|message| hash_key(at, message)).collect(),
        session: session.as_ref().and_then(|message| self::session(at, message)),
        rate_limits: rate_limits.iter().filter_map(|message| rate_limit(at, message)).collect(),
        global_rate_limits: global_rate_limits.iter().filter_map(|message| global(at, message)).collect(),
        criticality: match extensions::Criticality::try_from(*criticality) {
            Ok(extensions::Criticality::Unsaid) => None,
            Ok(extensions::Criticality::Sheddable) => Some(Criticality::Sheddable),
            Ok(extensions::Criticality::Default) => Some(Criticality::Default),
            Ok(extensions::Criticality::Critical) => Some(Criticality::Critical),
            Err(_) => {
                at.field("criticality").refuse("this class is not known");
                None
            }
        },
        faults: faults.iter().filter_map(|message| fault(at, message)).collect(),
        mirrors: mirrors.iter().filter_map(|message| mirror(at, message)).collect(),
    }
}

fn conditions(at: &At<'_>, list: &[extensions::Condition]) -> Vec<HeaderMatch> {
    let read: Vec<HeaderMatch> = list
        .iter()
        .filter_map(|message| {
            let value = message.value.as_ref().and_then(|value| access::value(at, value));
            Some(HeaderMatch { name: at.header(&message.name)?, value: value? })
        })
        .collect();
    if read.len() != list.len() {
        at.refuse("a condition on a header says nothing");
    }
    read
}

fn hedge(at: &At<'_>, HedgeExtension { after, max, budget_percent }: &HedgeExtension) -> Option<Hedge> {
    use hedge_extension::After;
    let at = &at.field("hedge");
    let after = match after {
        Some(After::Delay(delay)) => HedgeAfter::Delay(at.time("delay", Some(delay))),
        Some(After::Percentile(message)) => HedgeAfter::Percentile {
            percent: at.narrow("percentile", message.percent),
            min: at.time("min", message.min.as_ref()),
        },
        None => {
            at.refuse("this does not say when a second attempt is started");
            return None;
        }
    };
    Some(Hedge { after, max: at.narrow("max", *max), budget_percent: at.narrow("budget_percent", *budget_percent) })
}

fn hash_key(at: &At<'_>, HashKeyExtension { source, terminal }: &HashKeyExtension) -> Option<HashKey> {
    use hash_key_extension::Source;
    let at = &at.field("hash");
    let source = match source {
        Some(Source::Header(name)) => HashSource::Header(at.header(name)?),
        Some(Source::Cookie(cookie)) => HashSource::Cookie {
            name: cookie.name.as_str().into(),
            ttl: cookie.ttl.as_ref().map(|ttl| at.time("ttl", Some(ttl))),
            path: cookie.path.as_deref().map(Arc::from),
        },
        Some(Source::SourceAddress(_)) => HashSource::SourceAddress,
        Some(Source::Query(name)) => HashSource::Query(name.as_str().into()),
        Some(Source::Path(_)) => HashSource::Path,
        None => {
            at.refuse("this key does not say what is hashed");
            return None;
        }
    };
    Some(HashKey { source, terminal: *terminal })
}

fn session(at: &At<'_>, message: &SessionExtension) -> Option<SessionPersistence> {
    use session_extension::Carrier;
    let at = &at.field("session");
    let SessionExtension { carrier, absolute_timeout, idle_timeout, key_file, strict } = message;
    let carrier = match carrier {
        Some(Carrier::Cookie(cookie)) => SessionCarrier::Cookie {
            name: cookie.name.as_str().into(),
            permanent: cookie.permanent,
            path: cookie.path.as_deref().map(Arc::from),
        },
        Some(Carrier::Header(name)) => SessionCarrier::Header(at.header(name)?),
        None => {
            at.refuse("this does not say where sessions are named");
            return None;
        }
    };
    Some(SessionPersistence {
        carrier,
        absolute_timeout: absolute_timeout.as_ref().map(|limit| at.time("absolute_timeout", Some(limit))),
        idle_timeout: idle_timeout.as_ref().map(|limit| at.time("idle_timeout", Some(limit))),
        key_file: key_file.into(),
        strict: *strict,
    })
}

pub(super) fn rate_limit(at: &At<'_>, message: &RateLimitExtension) -> Option<RateLimit> {
    use rate_key_extension::Key;
    let at = &at.field("rate_limits");
    let RateLimitExtension { name, by, requests, per, burst, shadow } = message;
    let mut keys = Vec::with_capacity(by.len().min(16));
    for message in by {
        keys.push(match &message.key {
            Some(Key::Header(name)) => RateKey::Header(at.header(name)?),
            Some(Key::Identity(_)) => RateKey::Identity,
            Some(Key::Address(_)) => RateKey::Address,
            None => {
                // A key that is passed over would put callers together.
                at.refuse("a key of a rate limit says nothing");
                return None;
            }
        });
    }
    Some(RateLimit {
        name: at.held(grammar::name(name))?,
        by: keys,
        requests: *requests,
        per: at.time("per", per.as_ref()),
        burst: *burst,
        shadow: *shadow,
    })
}

fn global(at: &At<'_>, message: &GlobalRateLimitExtension) -> Option<GlobalRateLimit> {
    use descriptor_entry_extension::Value;
    let at = &at.field("global_rate_limits");
    let GlobalRateLimitExtension { service, descriptor } = message;
    let mut entries = Vec::with_capacity(descriptor.len().min(16));
    for message in descriptor {
        let value = match &message.value {
            Some(Value::Text(text)) => DescriptorValue::Text(text.as_str().into()),
            Some(Value::Header(name)) => DescriptorValue::Header(at.header(name)?),
            Some(Value::Identity(_)) => DescriptorValue::Identity,
            Some(Value::Address(_)) => DescriptorValue::Address,
            Some(Value::Path(_)) => DescriptorValue::Path,
            Some(Value::Method(_)) => DescriptorValue::Method,
            Some(Value::Cluster(_)) => DescriptorValue::Cluster,
            None => {
                at.refuse("an entry of a descriptor has no value");
                return None;
            }
        };
        entries.push(DescriptorEntry { key: message.key.as_str().into(), value });
    }
    Some(GlobalRateLimit { service: service.as_str().into(), descriptor: entries })
}

pub(super) fn service(at: &At<'_>, message: &RateLimitServiceExtension) -> Option<(Arc<str>, RateLimitService)> {
    let at = &at.field("metadata").field("rate_limit_services");
    let RateLimitServiceExtension { name, cluster, domain, timeout, allow_on_failure } = message;
    let service = RateLimitService {
        cluster: cluster.as_str().into(),
        domain: domain.as_str().into(),
        timeout: at.time("timeout", timeout.as_ref()),
        allow_on_failure: *allow_on_failure,
    };
    Some((at.held(grammar::name(name))?, service))
}

fn fault(at: &At<'_>, message: &FaultExtension) -> Option<Fault> {
    use fault_abort_extension::With;
    let at = &at.field("faults");
    let FaultExtension { headers, delay, abort, until } = message;
    let abort = match abort.as_ref().map(|abort| (abort.millionths, &abort.with)) {
        None => None,
        Some((millionths, Some(with))) => {
            let with = match with {
                With::Status(status) => {
                    let code = at.narrow("abort.status", *status);
                    Abort::Status(at.held(StatusCode::from_u16(code).map_err(|_| format!("{code} is no status")))?)
                }
                With::Grpc(code) => Abort::Grpc(at.narrow("abort.grpc", *code)),
            };
            Some(FaultAbort { share: Share(millionths), with })
        }
        Some((_, None)) => {
            at.field("abort").refuse("this abort does not say what is answered");
            None
        }
    };
    let until = SystemTime::UNIX_EPOCH.checked_add(at.time("until", until.as_ref()));
    Some(Fault {
        headers: conditions(at, headers),
        delay: delay
            .as_ref()
            .map(|delay| FaultDelay { share: Share(delay.millionths), by: at.time("delay.by", delay.by.as_ref()) }),
        abort,
        until: at.held(until.ok_or_else(|| "this moment is too far away".to_owned()))?,
    })
}

fn mirror(at: &At<'_>, MirrorExtension { cluster, millionths }: &MirrorExtension) -> Option<Mirror> {
    let cluster = at.field("mirrors").held(grammar::name(cluster))?;
    Some(Mirror { cluster, share: Share(*millionths) })
}

pub(super) fn labels(LabelsExtension { labels }: &LabelsExtension) -> Labels {
    labels.iter().map(|pair| (Arc::from(pair.key.as_str()), Arc::from(pair.value.as_str()))).collect()
}

impl At<'_> {
    /// A duration of ours, which is always there.
    pub(super) fn time(&self, field: &str, value: Option<&prost_types::Duration>) -> Duration {
        let read = value.and_then(wire::read_own_duration);
        read.unwrap_or_else(|| {
            self.field(field).refuse("this is not a duration");
            Duration::ZERO
        })
    }

    /// A number of ours, in the type of the model.
    fn narrow<T: TryFrom<u32> + Default>(&self, field: &str, value: u32) -> T {
        T::try_from(value).unwrap_or_else(|_| {
            self.field(field).refuse(format!("{value} is out of range"));
            T::default()
        })
    }

    /// The name of a header.
    pub(super) fn header(&self, text: &str) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(text.as_bytes());
        self.held(name.map_err(|_| format!("`{}` is not the name of a header", text.escape_debug())))
    }
}
