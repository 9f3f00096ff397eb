//! Token providers and authorizers outside.

use std::collections::HashSet;
use std::time::Duration;

use super::Subject;
use super::access::claim_path;
use crate::limits::{self, MAX_CLOCK_SKEW_SECONDS, MAX_NAME_BYTES, MAX_WORD_BYTES, MIN_JWKS_REFRESH_SECONDS};
use crate::model::{ClaimHeader, ClusterProtocol, ExternalAuthorizer, JwtProvider, KeySource, TokenPlace};
use crate::validate;

pub(super) fn provider(subject: &Subject<'_>, provider: &JwtProvider) {
    let JwtProvider {
        name: _,
        issuer,
        audiences,
        keys,
        algorithms,
        clock_skew,
        from,
        forward: _,
        claims_to_headers,
        place: _,
    } = provider;
    subject.held("issuer", validate::word(issuer, "issuer"));
    if audiences.is_empty() {
        let message = "it has no audiences: tokens that were issued for others would be believed";
        subject.say("audiences", message, "say what `aud` must have one of");
    }
    subject.at_most("audiences", audiences.len(), limits::MAX_AUDIENCES);
    for audience in audiences {
        subject.held("audiences", validate::word(audience, "audience"));
    }
    match keys {
        KeySource::File(path) => subject.file("keys", path),
        KeySource::Url { url, refresh, timeout, trust_bundle } => {
            subject.held("keys.url", validate::jwks_url(url));
            subject.duration("keys.refresh", *refresh);
            subject.duration("keys.timeout", *timeout);
            if *refresh < Duration::from_secs(MIN_JWKS_REFRESH_SECONDS) {
                let fix = format!("give at least {MIN_JWKS_REFRESH_SECONDS} s");
                subject.say("keys.refresh", "keys would be fetched too often", fix);
            }
            if let Some(path) = trust_bundle {
                subject.file("keys.trust_bundle", path);
                if url.starts_with("http://") {
                    let message = "this has no effect: the keys are fetched without TLS";
                    subject.say("keys.trust_bundle", message, "leave it out, or use https");
                }
            }
        }
    }
    if algorithms.is_empty() || algorithms.iter().collect::<HashSet<_>>().len() != algorithms.len() {
        subject.say("algorithms", "there is no algorithm, or one comes twice", "name each once");
    }
    if *clock_skew > Duration::from_secs(MAX_CLOCK_SKEW_SECONDS) {
        let fix = format!("give at most {MAX_CLOCK_SKEW_SECONDS} s");
        subject.say("clock_skew", "with a clock skew this long, expired tokens would be believed", fix);
    }
    if from.is_empty() {
        subject.say("from", "a token is looked for nowhere", "say where, such as in `authorization`");
    }
    subject.at_most("from", from.len(), limits::MAX_TOKEN_PLACES);
    for place in from {
        token_place(subject, place);
    }
    subject.at_most("claims_to_headers", claims_to_headers.len(), limits::MAX_CLAIM_HEADERS);
    let mut seen = HashSet::new();
    for ClaimHeader { path, header } in claims_to_headers {
        claim_path(subject, "claims_to_headers", path);
        subject.held("claims_to_headers", validate::claim_header(header.as_str()));
        let carries = |place: &TokenPlace| matches!(place, TokenPlace::Header { name, .. } if name == header);
        if from.iter().any(carries) || !seen.insert(header) {
            let message = format!("the header `{header}` carries the token or another claim already");
            subject.say("claims_to_headers", message, "give each claim a header of its own");
        }
    }
}

fn token_place(subject: &Subject<'_>, place: &TokenPlace) {
    match place {
        TokenPlace::Query(name) => {
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                subject.say("from", "this is not the name of a query parameter", "give its name, decoded");
            }
        }
        TokenPlace::Header { name, prefix } => {
            subject.held("from", validate::end_to_end(name.as_str()));
            if prefix.len() > MAX_NAME_BYTES || prefix.bytes().any(|b| !(b' '..0x7f).contains(&b)) {
                subject.say("from", "this cannot come before a token", "give what does, such as `Bearer `");
            }
        }
    }
}

pub(super) fn authorizer(subject: &Subject<'_>, authorizer: &ExternalAuthorizer) {
    let ExternalAuthorizer {
        name: _,
        cluster,
        timeout,
        fail_open: _,
        status_on_error,
        max_body_bytes,
        context,
        place: _,
    } = authorizer;
    subject.refers("cluster", cluster, &subject.config.clusters, "cluster");
    if subject.config.clusters.get(cluster).is_some_and(|cluster| cluster.protocol != ClusterProtocol::Http2) {
        let message = format!("the cluster `{cluster}` does not speak HTTP/2, and authorizers are asked over gRPC");
        subject.say("cluster", message, "give the cluster HTTP/2");
    }
    subject.duration("timeout", *timeout);
    subject.number("status_on_error", u64::from(status_on_error.as_u16()), limits::ERROR_STATUS);
    subject.number("max_body_bytes", u64::from(*max_body_bytes), limits::SHOWN_BODY_BYTES);
    subject.at_most("context", context.len(), limits::MAX_CONTEXT);
    let mut seen = HashSet::new();
    for (key, value) in context {
        subject.named("context", key);
        if value.len() > MAX_WORD_BYTES || !seen.insert(key) {
            subject.say("context", "this value is too long, or its name comes twice", "use a shorter one, once");
        }
    }
}
