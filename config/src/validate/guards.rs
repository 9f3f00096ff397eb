//! Guards that cannot do what they seem to: a listener's TLS, authorization, tokens and authorizer looked at together.
//!
//! A guard that is certainly never looked at is an error. A condition that can never hold is a warning, and given only
//! where it is certain.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Check, good};
use crate::model::{
    AccessAction, AccessRule, AccessSource, Authorization, ClientCertificate, ClientTrust, Listener, ListenerProtocol,
    ProxyHeader, RateKey, TlsMode,
};
use crate::raw;
use crate::read::{Field, List};
use crate::source::Span;
use crate::text::quoted;

/// What only makes sense where requests are seen, on a listener that hands on what comes: by its protocol, or because
/// nothing is decrypted.
pub(super) fn no_requests(check: &Check<'_, '_>, raw: &raw::Listener, protocol: ListenerProtocol) {
    let sealed = raw.tls.get().and_then(|tls| tls.mode.get()).is_some_and(|mode| *mode == raw::TlsMode::Passthrough);
    let (why, fix) = match protocol {
        ListenerProtocol::Tcp => ("protocol: tcp", "remove it, or write `protocol: auto`"),
        ListenerProtocol::Udp => ("protocol: udp", "remove it"),
        ListenerProtocol::Auto | ListenerProtocol::Http1 | ListenerProtocol::Http2 => {
            ("mode: passthrough", "remove it, or write `mode: strict`")
        }
    };
    for (name, span) in [
        // Who connects is known of connections too, unless their TLS is that of others.
        ("authorization", raw.authorization.span().filter(|_| protocol != ListenerProtocol::Tcp || sealed)),
        ("jwt", raw.jwt.span()),
        ("externalAuthorization", raw.external_authorization.span()),
        ("clientCertHeader", raw.client_cert_header.span()),
        ("rateLimits", raw.rate_limits.span()),
        ("http3", raw.http3.span()),
        ("upgrades", raw.upgrades.span()),
    ] {
        if let Some(span) = span {
            let message = format!("`{name}` has no effect: with `{why}` no request is seen on this listener");
            check.error(span, message, fix);
        }
    }
    match (raw.routes.span(), protocol) {
        (None, _) => {}
        (Some(span), ListenerProtocol::Tcp | ListenerProtocol::Udp) => {
            check.error(span, format!("`routes` has no effect: with `{why}` there is nothing to route by"), fix);
        }
        (Some(span), ListenerProtocol::Auto | ListenerProtocol::Http1 | ListenerProtocol::Http2) => {
            let message = "`routes` has no effect: with `mode: passthrough` connections go by `passthrough` alone";
            check.warning(span, message, "remove it");
        }
    }
}

/// Looks at every listener together with what it refers to. `raw` and `listeners` are the same ones, in order.
pub(super) fn look(
    check: &Check<'_, '_>,
    (raw, listeners): (&Field<List<raw::Listener>>, &[Listener]),
    policies: &BTreeMap<Arc<str>, Authorization>,
) {
    // Where something was wrong, a condition may be missing from the model.
    if check.sink.has_errors() {
        return;
    }
    for ((raw, _), listener) in good(raw).zip(listeners) {
        claimed(check, (raw, listener), policies);
        if let (Some(at), Some(policy)) =
            (raw.authorization.span(), listener.authorization.as_ref().and_then(|name| policies.get(name)))
        {
            callers(check, (listener, at), policy);
            connections(check, (listener, at), policy);
            tokens(check, (listener, at), policy);
        }
    }
}

/// What goes by the caller's address, where every caller may say which it has.
fn claimed(
    check: &Check<'_, '_>,
    (raw, listener): (&raw::Listener, &Listener),
    policies: &BTreeMap<Arc<str>, Authorization>,
) {
    let (Some(at), Some(headers)) = (raw.proxy_protocol.span(), &listener.proxy_protocol) else { return };
    if !headers.from.is_empty() {
        return;
    }
    let policy = listener.authorization.as_ref().and_then(|name| policies.get(name));
    let looks = |rule: &&AccessRule| {
        rule.from.iter().any(|source| !(source.addresses.is_empty() && source.not_addresses.is_empty()))
    };
    let rule = policy.and_then(|policy| policy.rules.iter().find(looks)).map(|rule| &rule.name);
    let limit = listener.rate_limits.iter().find(|limit| limit.by.contains(&RateKey::Address)).map(|limit| &limit.name);
    let what = match (rule, limit) {
        (Some(rule), _) => format!("the rule `{}` goes by addresses", quoted(rule)),
        (None, Some(limit)) => format!("the rate limit `{}` goes by addresses", quoted(limit)),
        (None, None) => return,
    };
    let message = format!(
        "{what}, and whoever can connect to the listener `{}` says in a PROXY header which one it has",
        quoted(&listener.name)
    );
    let mode = match headers.mode {
        ProxyHeader::Strict => "strict",
        ProxyHeader::Optional => "optional",
    };
    let fix = format!("name the proxies before this one: `proxyProtocol: {{ mode: {mode}, from: [10.0.0.0/8] }}`");
    check.warning(at, message, fix);
}

/// Conditions on requests, where only connections are seen.
fn connections(check: &Check<'_, '_>, (listener, at): (&Listener, Span), policy: &Authorization) {
    if listener.protocol != ListenerProtocol::Tcp {
        return;
    }
    for rule in &policy.rules {
        let Some(condition) = rule.looks_at_requests() else { continue };
        let message = format!(
            "the rule `{}` looks at `{condition}`, and with `protocol: tcp` no request is seen on this listener",
            quoted(&rule.name)
        );
        check.error(at, message, "name a policy whose rules look only at who connects (`from`) and at `ports`");
    }
}

/// Conditions on who calls.
fn callers(check: &Check<'_, '_>, (listener, at): (&Listener, Span), policy: &Authorization) {
    // Certificates below roots of the listener's own are believed, but say nothing about workloads of the mesh.
    let mesh = listener.tls.as_ref().filter(|tls| tls.client_trust == ClientTrust::Mesh);
    let asked = mesh.is_some_and(|tls| tls.client_certificate != ClientCertificate::None);
    let certain =
        mesh.is_some_and(|tls| tls.mode == TlsMode::Strict && tls.client_certificate == ClientCertificate::Required);
    if !asked {
        let never = |rule: &&AccessRule| !rule.from.is_empty() && rule.from.iter().all(names_an_identity);
        if let Some(rule) = policy.rules.iter().find(never) {
            let message = format!(
                "the rule `{}` can never match on the listener `{}`, where no caller has an identity of the mesh",
                quoted(&rule.name),
                quoted(&listener.name)
            );
            let fix =
                "add `tls: { mode: strict, clientCertificate: required }` to the listener, without `clientTrustBundle`";
            check.warning(at, message, fix);
        }
    }
    if !certain {
        let open = |rule: &&AccessRule| rule.action == AccessAction::Allow && rule.from.iter().any(only_excludes);
        if let Some(rule) = policy.rules.iter().find(open) {
            let message = format!(
                "the rule `{}` also allows callers without an identity, which the listener `{}` takes",
                quoted(&rule.name),
                quoted(&listener.name)
            );
            let fix = "add who is allowed beside who is not, such as `trustDomains: [mesh.local]`, or take only callers \
                       with certificates";
            check.warning(at, message, fix);
        }
    }
}

fn names_an_identity(source: &AccessSource) -> bool {
    !(source.identities.is_empty() && source.namespaces.is_empty() && source.trust_domains.is_empty())
}

/// Everybody who is not one of some identities, which is also everybody who has none.
fn only_excludes(source: &AccessSource) -> bool {
    let excludes =
        !(source.not_identities.is_empty() && source.not_namespaces.is_empty() && source.not_trust_domains.is_empty());
    excludes && !names_an_identity(source) && source.addresses.is_empty()
}

/// Conditions on what a token says.
fn tokens(check: &Check<'_, '_>, (listener, at): (&Listener, Span), policy: &Authorization) {
    let believed = listener.jwt.as_ref().map_or(&[][..], |jwt| &jwt.providers);
    let never = |rule: &&AccessRule| {
        let unmet =
            |provider: &Option<Arc<str>>| provider.as_ref().map_or(believed.is_empty(), |p| !believed.contains(p));
        rule.claims.iter().any(|claim| unmet(&claim.provider))
    };
    if let Some(rule) = policy.rules.iter().find(never) {
        let message = format!(
            "the rule `{}` can never match on the listener `{}`, which does not verify the tokens that it asks for",
            quoted(&rule.name),
            quoted(&listener.name)
        );
        check.warning(at, message, "add `jwt: { providers: [NAME] }` to the listener");
    }
}
