//! What changes in identities, TLS, authorization, tokens and authorizers. Places do not count.

use crate::model::{
    AccessRule, Authorization, BackendRef, CertificateFiles, ClusterTls, ClusterTlsMode, ExternalAuthorizer, Identity,
    JwtProvider, ListenerTls, Passthrough,
};

use super::Parts;

pub(super) fn same_identity(old: Option<&Identity>, new: Option<&Identity>) -> bool {
    both(old, new, |old, new| {
        let Identity {
            certificate,
            trust_bundle,
            federated_bundles,
            revocation_lists,
            proposed_trust_bundle,
            place: _,
        } = new;
        same_files(&old.certificate, certificate)
            && old.trust_bundle == *trust_bundle
            && old.federated_bundles == *federated_bundles
            && old.revocation_lists == *revocation_lists
            && old.proposed_trust_bundle == *proposed_trust_bundle
    })
}

pub(super) fn same_listener_tls(old: Option<&ListenerTls>, new: Option<&ListenerTls>) -> bool {
    both(old, new, |old, new| {
        let ListenerTls {
            mode,
            proposed_mode,
            certificates,
            client_certificate,
            client_trust,
            min_version,
            handshake_timeout,
            max_handshakes,
            passthrough,
            place: _,
        } = new;
        old.mode == *mode
            && old.proposed_mode == *proposed_mode
            && each(&old.certificates, certificates, same_files)
            && old.client_certificate == *client_certificate
            && old.client_trust == *client_trust
            && old.min_version == *min_version
            && old.handshake_timeout == *handshake_timeout
            && old.max_handshakes == *max_handshakes
            && each(&old.passthrough, passthrough, same_passthrough)
    })
}

fn same_passthrough(old: &Passthrough, new: &Passthrough) -> bool {
    let Passthrough { hostnames, backends, place: _ } = new;
    old.hostnames == *hostnames && each(&old.backends, backends, BackendRef::eq)
}

pub(super) fn same_cluster_tls(old: Option<&ClusterTls>, new: Option<&ClusterTls>) -> bool {
    both(old, new, |old, new| {
        let ClusterTls { mode, sni, min_version, place: _ } = new;
        let same_mode = match (&old.mode, mode) {
            (ClusterTlsMode::Mutual { peer_identities: old }, ClusterTlsMode::Mutual { peer_identities: new }) => {
                old == new
            }
            (
                ClusterTlsMode::Simple { trust_bundle, subject_names, certificate },
                ClusterTlsMode::Simple { trust_bundle: bundle, subject_names: names, certificate: files },
            ) => {
                trust_bundle == bundle
                    && subject_names == names
                    && both(certificate.as_ref(), files.as_ref(), same_files)
            }
            (ClusterTlsMode::Mutual { .. } | ClusterTlsMode::Simple { .. }, _) => false,
        };
        same_mode && old.sni == *sni && old.min_version == *min_version
    })
}

fn same_files(old: &CertificateFiles, new: &CertificateFiles) -> bool {
    let CertificateFiles { certificate, private_key, place: _ } = new;
    old.certificate == *certificate && old.private_key == *private_key
}

pub(super) fn both<T>(old: Option<&T>, new: Option<&T>, same: impl Fn(&T, &T) -> bool) -> bool {
    match (old, new) {
        (None, None) => true,
        (Some(old), Some(new)) => same(old, new),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

pub(super) fn each<T>(old: &[T], new: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| same(old, new))
}

/// The parts of a policy itself. Its rules are compared one by one, and their order means nothing.
pub(super) fn policy(old: &Authorization, new: &Authorization) -> Vec<&'static str> {
    let Authorization { name: _, default, rules: _, place: _ } = new;
    Parts::default().add("default", old.default == *default).list
}

pub(super) fn access_rule(old: &AccessRule, new: &AccessRule) -> Vec<&'static str> {
    let AccessRule { name: _, action, shadow, from, to, claims, place: _ } = new;
    Parts::default()
        .add("action", old.action == *action)
        .add("shadow", old.shadow == *shadow)
        .add("from", old.from == *from)
        .add("to", old.to == *to)
        .add("claims", old.claims == *claims)
        .list
}

pub(super) fn jwt_provider(old: &JwtProvider, new: &JwtProvider) -> Vec<&'static str> {
    let JwtProvider {
        name: _,
        issuer,
        audiences,
        keys,
        algorithms,
        clock_skew,
        from,
        forward,
        claims_to_headers,
        place: _,
    } = new;
    Parts::default()
        .add("issuer", old.issuer == *issuer)
        .add("audiences", old.audiences == *audiences)
        .add("jwks", old.keys == *keys)
        .add("algorithms", old.algorithms == *algorithms)
        .add("clockSkew", old.clock_skew == *clock_skew)
        .add("from", old.from == *from)
        .add("forward", old.forward == *forward)
        .add("claimsToHeaders", old.claims_to_headers == *claims_to_headers)
        .list
}

pub(super) fn external_authorizer(old: &ExternalAuthorizer, new: &ExternalAuthorizer) -> Vec<&'static str> {
    let ExternalAuthorizer { name: _, cluster, timeout, fail_open, status_on_error, max_body_bytes, context, place: _ } =
        new;
    Parts::default()
        .add("cluster", old.cluster == *cluster)
        .add("timeout", old.timeout == *timeout)
        .add("failOpen", old.fail_open == *fail_open)
        .add("statusOnError", old.status_on_error == *status_on_error)
        .add("maxBodyBytes", old.max_body_bytes == *max_body_bytes)
        .add("context", old.context == *context)
        .list
}
