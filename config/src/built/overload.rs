//! What is let in: queues, concurrency, rates, faults, and what is done when the process runs short.

use std::collections::HashSet;
use std::sync::Arc;

use super::Subject;
use crate::limits;
use crate::model::{
    Abort, AdaptiveConcurrency, Admission, ClusterProtocol, DescriptorEntry, DescriptorValue, Fault, FaultAbort,
    FaultDelay, GlobalRateLimit, Hedge, HedgeAfter, Mirror, Overload, Queue, RateLimit, RateLimitService, Share,
};
use crate::validate;

pub(super) fn admission(subject: &Subject<'_>, admission: &Admission) {
    let Admission { queue, concurrency } = admission;
    if let Some(Queue { timeout, max }) = queue {
        subject.duration("admission.queue.timeout", *timeout);
        subject.number("admission.queue.max", u64::from(*max), limits::QUEUE);
    }
    if let Some(AdaptiveConcurrency { min, max, tolerance }) = concurrency {
        subject.number("admission.concurrency.min", u64::from(*min), limits::CONCURRENCY);
        subject.number("admission.concurrency.max", u64::from(*max), limits::CONCURRENCY);
        subject.number("admission.concurrency.tolerance", u64::from(*tolerance), limits::TOLERANCE);
        if min > max {
            subject.say("admission.concurrency.min", "it is above `max`", "make it smaller");
        }
    }
}

pub(super) fn overload(subject: &Subject<'_>, overload: &Overload) {
    let Overload { memory_limit, shrink_at, refuse_at, stop_accepting_at, max_connections } = overload;
    if let Some(bytes) = memory_limit {
        subject.number("overload.memory_limit", *bytes, limits::MEMORY);
    }
    for (name, level) in [("shrink_at", shrink_at), ("refuse_at", refuse_at), ("stop_accepting_at", stop_accepting_at)]
    {
        subject.number(&format!("overload.{name}"), u64::from(*level), limits::SHARE);
    }
    if shrink_at > refuse_at || refuse_at > stop_accepting_at {
        let fix = "the levels go up: `shrink_at`, `refuse_at`, `stop_accepting_at`";
        subject.say("overload", "one level is below the one before it", fix);
    }
    subject.number("overload.max_connections", u64::from(*max_connections), limits::ALL_CONNECTIONS);
}

pub(super) fn rate_limits(subject: &Subject<'_>, here: &str, list: &[RateLimit]) {
    subject.at_most(here, list.len(), limits::MAX_RATE_LIMITS);
    for (at, RateLimit { name, by, requests, per, burst, shadow: _ }) in list.iter().enumerate() {
        let here = format!("{here}[{at}]");
        subject.named(&format!("{here}.name"), name);
        subject.at_most(&format!("{here}.by"), by.len(), limits::MAX_RATE_KEYS);
        if by.iter().enumerate().any(|(at, key)| by[..at].contains(key)) {
            subject.say(format!("{here}.by"), "a key comes twice", "leave one out");
        }
        subject.number(&format!("{here}.requests"), u64::from(*requests), limits::RATE);
        subject.time(&format!("{here}.per"), *per, validate::PERIODS);
        subject.number(&format!("{here}.burst"), u64::from(*burst), limits::RATE);
    }
}

/// Names of rate limits: their counts are kept under them, so each is there once.
pub(super) fn unique<'c>(
    subject: &Subject<'_>,
    here: &str,
    (list, seen): (&'c [RateLimit], &mut HashSet<&'c Arc<str>>),
) {
    for limit in list {
        if !seen.insert(&limit.name) {
            let message = format!("a second rate limit is named `{}`", limit.name);
            subject.say(here, message, "give it another name: the name is what its counts are kept under");
        }
    }
}

pub(super) fn global(subject: &Subject<'_>, here: &str, list: &[GlobalRateLimit]) {
    subject.at_most(here, list.len(), limits::MAX_RATE_LIMITS);
    for (at, GlobalRateLimit { service, descriptor }) in list.iter().enumerate() {
        let here = format!("{here}[{at}]");
        let known = &subject.config.rate_limit_services;
        subject.refers(&format!("{here}.service"), service, known, "rate limit service");
        if descriptor.is_empty() {
            subject.say(format!("{here}.descriptor"), "the descriptor has no entries", "give at least one");
        }
        subject.at_most(&format!("{here}.descriptor"), descriptor.len(), limits::MAX_DESCRIPTOR_ENTRIES);
        for (number, DescriptorEntry { key, value }) in descriptor.iter().enumerate() {
            let field = format!("{here}.descriptor[{number}]");
            subject.held(&field, validate::compared(key));
            match value {
                DescriptorValue::Text(text) => drop(subject.held(&field, validate::compared(text))),
                DescriptorValue::Header(_)
                | DescriptorValue::Identity
                | DescriptorValue::Address
                | DescriptorValue::Path
                | DescriptorValue::Method
                | DescriptorValue::Cluster => {}
            }
        }
    }
}

pub(super) fn service(subject: &Subject<'_>, service: &RateLimitService) {
    let RateLimitService { cluster, domain, timeout, allow_on_failure: _ } = service;
    subject.refers("cluster", cluster, &subject.config.clusters, "cluster");
    if subject.config.clusters.get(cluster).is_some_and(|cluster| cluster.protocol != ClusterProtocol::Http2) {
        let message =
            format!("the cluster `{cluster}` does not speak HTTP/2, and rate limit services are asked over gRPC");
        subject.say("cluster", message, "give the cluster HTTP/2");
    }
    subject.held("domain", validate::compared(domain));
    subject.duration("timeout", *timeout);
}

pub(super) fn fault(subject: &Subject<'_>, here: &str, fault: &Fault) {
    let Fault { headers, delay, abort, until: _ } = fault;
    subject.header_conditions(&format!("{here}.headers"), headers);
    if delay.is_none() && abort.is_none() {
        subject.say(here, "this fault does nothing", "give a delay or an abort");
    }
    if let Some(FaultDelay { share, by }) = delay {
        self::share(subject, &format!("{here}.delay.share"), *share);
        subject.time(&format!("{here}.delay.by"), *by, validate::DELAYS);
    }
    if let Some(FaultAbort { share, with }) = abort {
        self::share(subject, &format!("{here}.abort.share"), *share);
        match with {
            Abort::Status(status) => {
                subject.number(&format!("{here}.abort"), u64::from(status.as_u16()), limits::DIRECT_STATUS);
            }
            Abort::Grpc(code) => {
                if !(1..=16).contains(code) {
                    let message = format!("{code} is not the code of a gRPC failure");
                    subject.say(format!("{here}.abort"), message, "give one from 1 to 16");
                }
            }
        }
    }
}

fn share(subject: &Subject<'_>, field: &str, Share(millionths): Share) {
    subject.number(field, u64::from(millionths), limits::MILLIONTHS);
}

pub(super) fn mirror(subject: &Subject<'_>, here: &str, mirror: &Mirror) {
    let Mirror { cluster, share } = mirror;
    subject.refers(&format!("{here}.cluster"), cluster, &subject.config.clusters, "cluster");
    self::share(subject, &format!("{here}.share"), *share);
}

pub(super) fn hedge(subject: &Subject<'_>, here: &str, hedge: &Hedge) {
    let Hedge { after, max, budget_percent } = hedge;
    match after {
        HedgeAfter::Delay(delay) => subject.duration(&format!("{here}.after"), *delay),
        HedgeAfter::Percentile { percent, min } => {
            subject.number(&format!("{here}.percentile"), u64::from(*percent), limits::HEDGE_PERCENTILE);
            subject.duration(&format!("{here}.min"), *min);
        }
    }
    subject.number(&format!("{here}.max"), u64::from(*max), limits::HEDGES);
    subject.number(&format!("{here}.budget_percent"), u64::from(*budget_percent), limits::SHARE);
}
