//! Clusters.

use std::collections::HashSet;

use super::{Subject, balance, health, opaque, overload};
use crate::limits;
use crate::model::{
    Ceilings, Cluster, ClusterTls, ClusterTlsMode, ConnectionOptions, DnsOptions, Endpoint, RetryBudget, Target,
};
use crate::validate::{self, Wrong};

pub(super) fn cluster(subject: &Subject<'_>, cluster: &Cluster) {
    let Cluster {
        name: _,
        protocol,
        balance,
        endpoints,
        ceilings,
        endpoint_ceilings,
        breakers,
        health_check,
        outlier_detection,
        admission,
        retry_budget,
        connection,
        tls,
        dns,
        place: _,
    } = cluster;
    self::endpoints(subject, endpoints);
    opaque::cluster(subject, *protocol, (tls.is_some(), connection));
    balance::balance(subject, balance);
    health::ceilings(subject, endpoint_ceilings);
    health::breakers(subject, breakers);
    if let Some(check) = health_check {
        health::check(subject, check, *protocol);
    }
    if let Some(outliers) = outlier_detection {
        health::outliers(subject, outliers);
    }
    overload::admission(subject, admission);
    let Ceilings { max_requests, max_pending, max_retries, max_connections } = ceilings;
    subject.number("ceilings.max_requests", u64::from(*max_requests), limits::MAX_REQUESTS);
    subject.number("ceilings.max_pending", u64::from(*max_pending), limits::MAX_PENDING);
    subject.number("ceilings.max_retries", u64::from(*max_retries), limits::MAX_RETRIES);
    subject.number("ceilings.max_connections", u64::from(*max_connections), limits::CONNECTIONS);
    let RetryBudget { percent, min_per_second } = retry_budget;
    subject.number("retry_budget.percent", u64::from(*percent), limits::PERCENT);
    subject.number("retry_budget.min_per_second", u64::from(*min_per_second), limits::RETRIES_PER_SECOND);
    let ConnectionOptions {
        connect_timeout,
        idle_timeout,
        keepalive_interval,
        keepalive_timeout,
        max_streams,
        max_age,
        // With the protocol, above.
        proxy_protocol: _,
    } = connection;
    subject.duration("connection.connect_timeout", *connect_timeout);
    subject.duration("connection.idle_timeout", *idle_timeout);
    subject.duration_or_zero("connection.keepalive_interval", *keepalive_interval);
    subject.duration("connection.keepalive_timeout", *keepalive_timeout);
    subject.number("connection.max_streams", u64::from(*max_streams), limits::STREAMS);
    subject.duration_or_zero("connection.max_age", *max_age);
    let DnsOptions { min_ttl, max_ttl } = dns;
    subject.duration("dns.min_ttl", *min_ttl);
    subject.duration("dns.max_ttl", *max_ttl);
    if min_ttl > max_ttl {
        subject.say("dns.min_ttl", "it is above `dns.max_ttl`", "make it smaller");
    }
    if let Some(tls) = tls {
        self::tls(subject, tls);
    }
}

fn endpoints(subject: &Subject<'_>, list: &[Endpoint]) {
    subject.at_most("endpoints", list.len(), limits::MAX_ENDPOINTS);
    let mut seen = HashSet::with_capacity(list.len());
    for (at, Endpoint { target, weight, zone, priority, labels, condition: _ }) in list.iter().enumerate() {
        let field = || format!("endpoints[{at}]");
        let text = match target {
            Target::Address(address) => address.to_string(),
            Target::Name { host, port } => format!("{host}:{port}"),
        };
        subject.same(&field(), validate::target(&text), target);
        if !seen.insert(target) {
            subject.say(field(), format!("the endpoint `{text}` comes twice"), "give it once, with a larger weight");
        }
        subject.number(&field(), u64::from(*weight), limits::ENDPOINT_WEIGHT);
        if let Some(zone) = zone {
            subject.named(&field(), zone);
        }
        subject.number(&field(), u64::from(*priority), limits::PRIORITY);
        balance::labels(subject, &field(), labels);
    }
}

fn tls(subject: &Subject<'_>, tls: &ClusterTls) {
    let ClusterTls { mode, sni, min_version: _, place: _ } = tls;
    if let Some(sni) = sni {
        subject.same("tls.sni", validate::server_name(sni), sni);
    }
    match mode {
        ClusterTlsMode::Mutual { peer_identities } => {
            subject.needs_identity("tls.mode", "mutual TLS shows the mesh identity");
            if peer_identities.is_empty() {
                let message = "nobody is expected: any workload of the mesh could stand in";
                subject.say("tls.peer_identities", message, "say who answers");
            }
            subject.at_most("tls.peer_identities", peer_identities.len(), limits::MAX_PEER_NAMES);
            for (at, pattern) in peer_identities.iter().enumerate() {
                let held = validate::identity_pattern(&pattern.to_string());
                subject.same(&format!("tls.peer_identities[{at}]"), held, pattern);
            }
        }
        ClusterTlsMode::Simple { trust_bundle, subject_names, certificate } => {
            subject.file("tls.trust_bundle", trust_bundle);
            subject.at_most("tls.subject_names", subject_names.len(), limits::MAX_PEER_NAMES);
            for (at, name) in subject_names.iter().enumerate() {
                // A certificate has addresses without brackets.
                let held = validate::subject_name(name);
                subject.same(&format!("tls.subject_names[{at}]"), held, name);
            }
            if let Some(files) = certificate {
                subject.certificate("tls.certificate", files);
            }
        }
    }
}

impl Subject<'_> {
    pub(super) fn file(&self, field: &str, path: &std::path::Path) {
        let text = path.to_str().ok_or_else(|| Wrong::new("this path is not UTF-8", "give another"));
        self.held(field, text.and_then(|text| validate::file(text).map(drop)));
    }

    pub(super) fn certificate(&self, field: &str, files: &crate::model::CertificateFiles) {
        let crate::model::CertificateFiles { certificate, private_key, place: _ } = files;
        self.file(field, certificate);
        self.file(field, private_key);
    }
}
