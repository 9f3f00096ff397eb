use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_config::model::{JwtAlgorithm, JwtProvider, KeySource, Place};
use serde_json::json;

use super::*;
use crate::base::limits;

#[path = "../../../tests/it/support/signer.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the black-box tests, which use more of it")]
mod signer;

use signer::{Signer, jwks};

/// A token that is believed, with what it was verified against.
fn verified() -> (String, Arc<KeySet>, Verified) {
    let now = 1_800_000_000;
    let verifier = Verifier::new(JwtProvider {
        name: "corp".into(),
        issuer: "https://id.corp.example".into(),
        audiences: vec!["payments".into()],
        keys: KeySource::File("/jwks.json".into()),
        algorithms: vec![JwtAlgorithm::Es256],
        clock_skew: Duration::ZERO,
        from: Vec::new(),
        forward: false,
        claims_to_headers: Vec::new(),
        place: Place { file: "x".into(), line: 1, column: 1 },
    });
    let signer = Signer::new("ES256", "ec");
    let claims = json!({ "iss": "https://id.corp.example", "aud": "payments", "exp": now + 600, "sub": "ann" });
    let token = signer.token(&claims);
    let (keys, _) = KeySet::parse(jwks(&[&signer]).as_bytes()).expect("a key set");
    let now: SystemTime = UNIX_EPOCH + Duration::from_secs(now);
    let verified = verifier.verify(&parse(&token).expect("well formed"), Some(&keys), now).expect("believed");
    (token, Arc::new(keys), verified)
}

#[test]
fn the_cache_remembers_and_is_bounded() {
    let (token, keys, verified) = verified();
    let cache = Cache::default();
    let digest = Digest::of(&token);
    assert!(cache.find(&digest).is_none());
    cache.insert(digest, 1, Arc::clone(&keys), verified.clone());
    for n in 0..3 * limits::JWT_CACHE {
        cache.insert(Digest::of(&n.to_string()), 0, Arc::clone(&keys), verified.clone());
        let (provider, found, _) = cache.find(&digest).expect("what is used stays");
        assert!(provider == 1 && Arc::ptr_eq(&found, &keys));
        assert!(cache.len() <= limits::JWT_CACHE);
    }
    assert!(cache.find(&Digest::of("0")).is_none(), "what is not used goes");
}

#[test]
fn neither_a_digest_nor_the_cache_shows_a_token() {
    let (token, keys, verified) = verified();
    let cache = Cache::default();
    cache.insert(Digest::of(&token), 0, keys, verified);
    let shown = format!("{:?} {cache:?}", Digest::of(&token));
    for part in token.split('.').chain(["ann", "id.corp"]) {
        assert!(!shown.contains(part), "{shown}");
    }
}

#[test]
fn claims_are_a_source_for_authorization() {
    let (_, _, verified) = verified();
    let source: &dyn ClaimSource = &*verified.claims;
    assert_eq!((source.provider(), source.get(&["sub".into()])), ("corp", Some(&json!("ann"))));
}
