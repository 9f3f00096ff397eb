//! Listeners and the mesh identity.

use std::collections::HashSet;

use super::{Subject, opaque, overload};
use crate::limits;
use crate::model::{
    Admin, ClientCertHeader, ClientCertificate, ClientTrust, Cluster, ClusterProtocol, ClusterTls, ClusterTlsMode,
    HostPattern, Identity, Listener, ListenerJwt, ListenerLimits, ListenerProtocol, ListenerTls, Passthrough, TlsMode,
    Trust,
};
use crate::validate;
use crate::validate::binds::Binds;

pub(super) fn identity(subject: &Subject<'_>, identity: &Identity) {
    let Identity { certificate, trust_bundle, federated_bundles, revocation_lists, proposed_trust_bundle, place: _ } =
        identity;
    subject.certificate("certificate", certificate);
    subject.file("trust_bundle", trust_bundle);
    subject.at_most("federated_bundles", federated_bundles.len(), limits::MAX_FEDERATED_BUNDLES);
    federated_bundles.values().for_each(|path| subject.file("federated_bundles", path));
    subject.at_most("revocation_lists", revocation_lists.len(), limits::MAX_REVOCATION_LISTS);
    revocation_lists.iter().for_each(|path| subject.file("revocation_lists", path));
    if let Some(path) = proposed_trust_bundle {
        subject.file("proposed_trust_bundle", path);
    }
}

/// Whether two want the same socket.
pub(super) fn binds<'a>(listeners: &'a [Listener], admin: &Admin, of: impl Fn(&'a Listener) -> Subject<'a>) {
    // A port of TCP and the same port of UDP have nothing to do with each other.
    let (mut binds, mut datagrams): (Binds<String>, Binds<String>) = (Binds::default(), Binds::default());
    let Admin { address } = admin;
    if let Some(address) = address {
        // The first never overlaps.
        let _ = binds.take(*address, "the admin server".to_owned());
    }
    for listener in listeners {
        let who = format!("the listener `{}`", listener.name);
        let over_udp = listener.protocol == ListenerProtocol::Udp || listener.http3.is_some();
        let tcp = (listener.protocol != ListenerProtocol::Udp).then(|| binds.take(listener.bind, who.clone()));
        let udp = over_udp.then(|| datagrams.take(listener.bind, format!("{who}, over UDP,")));
        for (other, by) in [tcp, udp].into_iter().flatten().filter_map(Result::err) {
            let message = format!("{} is already taken: {by} listens on {other}", listener.bind);
            of(listener).say("bind", message, "use another port, or two addresses of which neither covers the other");
        }
    }
}

pub(super) fn listener(subject: &Subject<'_>, listener: &Listener) {
    let Listener {
        name,
        bind: _,
        protocol: _,
        routes,
        direction: _,
        trust,
        path: _,
        limits,
        tls,
        client_cert_header,
        authorization,
        jwt,
        external_authorization,
        rate_limits,
        // With the protocol, below.
        http3: _,
        upgrades: _,
        tcp: _,
        udp: _,
        proxy_protocol: _,
        interception: _,
        intercepts: _,
        place: _,
    } = listener;
    let config = subject.config;
    subject.named("name", name);
    let sees_requests = opaque::sees_requests(listener);
    match routes {
        Some(_) if matches!(listener.protocol, ListenerProtocol::Tcp | ListenerProtocol::Udp) => {
            subject.say("routes", "this has no effect: there is nothing to route by", "leave it out");
        }
        Some(routes) => subject.refers("routes", routes, &config.routes, "route table"),
        None if !sees_requests => {}
        None => subject.say("routes", "this listener has no routes", "name a route table"),
    }
    if let Trust::Hops(hops) = trust {
        subject.number("trust", u64::from(*hops), limits::HOPS);
    }
    self::limits(subject, limits);
    if let Some(tls) = tls {
        self::tls(subject, tls);
    }
    opaque::listener(subject, listener);
    if !sees_requests {
        // Who connects is known of connections too, unless their TLS is that of others.
        let sealed = tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
        let guarded = listener.protocol == ListenerProtocol::Tcp && !sealed;
        for (field, there) in [
            ("authorization", authorization.is_some() && !guarded),
            ("jwt", jwt.is_some()),
            ("external_authorization", external_authorization.is_some()),
            ("rate_limits", !rate_limits.is_empty()),
        ] {
            if there {
                let message = "this has no effect: no request is seen on this listener";
                subject.say(field, message, "leave it out, or terminate TLS and speak HTTP");
            }
        }
    }
    overload::rate_limits(subject, "rate_limits", rate_limits);
    let asked = tls.as_ref().is_some_and(|tls| tls.client_certificate != ClientCertificate::None);
    if !asked && *client_cert_header != ClientCertHeader::Sanitize {
        let message = "callers are not asked for a certificate, so anybody could write this header";
        subject.say("client_cert_header", message, "sanitize it, or ask for client certificates");
    }
    if let Some(policy) = authorization {
        subject.refers("authorization", policy, &config.authorization, "authorization policy");
        let rules = config.authorization.get(policy).filter(|_| listener.protocol == ListenerProtocol::Tcp);
        for rule in rules.iter().flat_map(|policy| &policy.rules) {
            if let Some(condition) = rule.looks_at_requests() {
                let message =
                    format!("the rule `{}` looks at `{condition}`, and no request is seen on this listener", rule.name);
                subject.say("authorization", message, "name a policy that looks at who connects and at ports alone");
            }
        }
    }
    if let Some(authorizer) = external_authorization {
        subject.refers("external_authorization", authorizer, &config.external_authorizers, "external authorizer");
    }
    if let Some(ListenerJwt { providers, required: _ }) = jwt {
        if providers.is_empty() {
            subject.say("jwt.providers", "no provider is believed", "name one");
        }
        subject.at_most("jwt.providers", providers.len(), limits::MAX_JWT_PROVIDERS);
        let mut seen = HashSet::new();
        for (at, provider) in providers.iter().enumerate() {
            let field = format!("jwt.providers[{at}]");
            subject.refers(&field, provider, &config.jwt_providers, "token provider");
            if !seen.insert(provider) {
                subject.say(field, format!("the token provider `{provider}` comes twice"), "keep one of the two");
            }
        }
    }
}

fn limits(subject: &Subject<'_>, limits: &ListenerLimits) {
    let ListenerLimits {
        max_connections,
        max_head_bytes,
        max_headers,
        max_concurrent_streams,
        header_timeout,
        idle_timeout,
        stream_idle_timeout,
        max_connection_age,
        detect_timeout,
    } = limits;
    subject.number("limits.max_connections", u64::from(*max_connections), limits::CONNECTIONS);
    subject.number("limits.max_head_bytes", u64::from(*max_head_bytes), limits::HEAD_BYTES);
    subject.number("limits.max_headers", u64::from(*max_headers), limits::HEADERS);
    subject.number("limits.max_concurrent_streams", u64::from(*max_concurrent_streams), limits::STREAMS);
    subject.duration("limits.header_timeout", *header_timeout);
    subject.duration("limits.idle_timeout", *idle_timeout);
    subject.duration_or_zero("limits.stream_idle_timeout", *stream_idle_timeout);
    subject.duration_or_zero("limits.max_connection_age", *max_connection_age);
    subject.duration("limits.detect_timeout", *detect_timeout);
}

fn tls(subject: &Subject<'_>, tls: &ListenerTls) {
    let ListenerTls {
        mode,
        proposed_mode,
        certificates,
        client_certificate,
        client_trust,
        min_version: _,
        handshake_timeout,
        max_handshakes,
        passthrough,
        place: _,
    } = tls;
    subject.duration("tls.handshake_timeout", *handshake_timeout);
    subject.number("tls.max_handshakes", u64::from(*max_handshakes), limits::HANDSHAKES);
    match (mode, proposed_mode) {
        (_, None) | (TlsMode::Permissive, Some(TlsMode::Strict)) => {}
        (_, Some(_)) => {
            let fix = "propose strict for a permissive listener, or nothing";
            subject.say("tls.proposed_mode", "the proposed mode is not stricter than the mode", fix);
        }
    }
    match mode {
        TlsMode::Off => subject.say("tls.mode", "this is no TLS", "leave `tls` out"),
        TlsMode::Passthrough => {
            if passthrough.is_empty() {
                subject.say("tls.passthrough", "no connection is taken", "say where server names lead");
            }
            if !certificates.is_empty() || *client_certificate != ClientCertificate::None {
                subject.say("tls.certificates", "these have no effect: nothing is decrypted", "leave them out");
            }
        }
        TlsMode::Permissive | TlsMode::Strict => {
            if certificates.is_empty() {
                subject.needs_identity("tls.mode", "TLS without certificates of its own shows the mesh identity");
            }
        }
    }
    subject.at_most("tls.certificates", certificates.len(), limits::MAX_CERTIFICATES);
    let mut seen = HashSet::new();
    for (at, files) in certificates.iter().enumerate() {
        let field = format!("tls.certificates[{at}]");
        subject.certificate(&field, files);
        if !seen.insert(&files.certificate) {
            subject.say(field, "this certificate comes twice", "keep one of the two");
        }
    }
    match (client_certificate, client_trust) {
        (ClientCertificate::None, ClientTrust::Roots(_)) => {
            let message = "this has no effect: callers are not asked for a certificate";
            subject.say("tls.client_trust", message, "ask for certificates, or leave it out");
        }
        (ClientCertificate::Optional | ClientCertificate::Required, ClientTrust::Mesh) => {
            subject.needs_identity("tls.client_trust", "client certificates are verified by the mesh's bundles");
        }
        (_, ClientTrust::Roots(path)) => subject.file("tls.client_trust", path),
        (ClientCertificate::None, ClientTrust::Mesh) => {}
    }
    handed_on(subject, passthrough);
}

fn handed_on(subject: &Subject<'_>, list: &[Passthrough]) {
    subject.at_most("tls.passthrough", list.len(), limits::MAX_PASSTHROUGH);
    let mut seen = HashSet::new();
    for (at, Passthrough { hostnames, backends, place: _ }) in list.iter().enumerate() {
        let here = format!("tls.passthrough[{at}]");
        if hostnames.is_empty() {
            subject.say(&here, "this entry has no hostnames", "give the server names");
        }
        subject.at_most(&format!("{here}.hostnames"), hostnames.len(), limits::MAX_HOSTNAMES);
        for pattern in hostnames {
            let field = format!("{here}.hostnames");
            let text = match pattern {
                HostPattern::Any => "*".to_owned(),
                HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
                HostPattern::Exact(host) => host.to_string(),
            };
            subject.same(&field, validate::server_pattern(&text), pattern);
            if !seen.insert(pattern) {
                subject.say(field, format!("the server name `{text}` comes twice"), "keep one of the two");
            }
        }
        super::routes::weighted(subject, &format!("{here}.backends"), backends);
        for (number, backend) in backends.iter().enumerate() {
            let field = format!("{here}.backends[{number}]");
            if !backend.filters.is_empty() {
                subject.say(&field, "filters cannot change what is not decrypted", "leave them out");
            }
            let inside = |cluster: &&Cluster| {
                let mutual = |tls: &ClusterTls| matches!(tls.mode, ClusterTlsMode::Mutual { .. });
                cluster.protocol == ClusterProtocol::Tcp && cluster.tls.as_ref().is_some_and(mutual)
            };
            let cluster = subject.config.clusters.get(&backend.cluster).filter(|cluster| !inside(cluster));
            if cluster.is_some_and(|cluster| cluster.tls.is_some()) {
                let message = format!("the cluster `{}` speaks TLS itself", backend.cluster);
                subject.say(field, message, "refer to a cluster without TLS, or to one of TCP with mutual TLS");
            }
        }
    }
}
