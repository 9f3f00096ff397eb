use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_config::model::{JwtAlgorithm, JwtProvider, KeySource, Place, TokenPlace};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[path = "../../tests/it/support/signer.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "shared with the black-box tests, which use more of it")]
mod signer;

use signer::{Signer, encode, hs256, jwks, unsigned};

const NOW: u64 = 1_800_000_000;
const ALL: [JwtAlgorithm; 6] = [
    JwtAlgorithm::Rs256,
    JwtAlgorithm::Rs384,
    JwtAlgorithm::Rs512,
    JwtAlgorithm::Es256,
    JwtAlgorithm::Es384,
    JwtAlgorithm::EdDsa,
];

/// Making an RSA key takes a moment; the tests share one.
static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::new("RS256", "rsa"));
static EC: LazyLock<Signer> = LazyLock::new(|| Signer::new("ES256", "ec"));

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn verifier(algorithms: &[JwtAlgorithm]) -> Verifier {
    Verifier::new(JwtProvider {
        name: "corp".into(),
        issuer: "https://id.corp.example".into(),
        audiences: vec!["payments".into(), "refunds".into()],
        keys: KeySource::File("/jwks.json".into()),
        algorithms: algorithms.to_vec(),
        clock_skew: Duration::from_secs(60),
        from: vec![TokenPlace::Query("t".into())],
        forward: false,
        claims_to_headers: Vec::new(),
        place: Place { file: "x".into(), line: 1, column: 1 },
    })
}

fn claims() -> Value {
    json!({ "iss": "https://id.corp.example", "aud": "payments", "exp": NOW + 600, "sub": "ann" })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn set(signers: &[&Signer]) -> KeySet {
    let (keys, skipped) = KeySet::parse(jwks(signers).as_bytes()).expect("a key set");
    assert_eq!(skipped, []);
    keys
}

fn verify_at(token: &str, keys: &KeySet, now: u64) -> Result<Verified, Refusal> {
    verifier(&ALL).verify(&parse(token)?, Some(keys), at(now))
}

fn refused(token: &str, keys: &KeySet) -> Refusal {
    verify_at(token, keys, NOW).map(|_| "believed").expect_err("refused")
}

#[test]
fn every_algorithm_is_verified_by_its_own_key_and_by_no_other() {
    let names = ["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"];
    let signers: Vec<Signer> = names.iter().map(|name| Signer::nameless(name)).collect();
    for (at, signer) in signers.iter().enumerate() {
        let token = signer.token(&claims());
        let verified = verify_at(&token, &set(&[signer]), NOW).expect("believed");
        assert_eq!(verified.claims.get(&["sub".into()]), Some(&json!("ann")));
        let others: Vec<&Signer> = signers.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, s)| s).collect();
        let why = refused(&token, &set(&others));
        assert_eq!(why, Refusal::UnknownKey, "{}", names[at]);
    }
}

#[test]
fn a_signature_that_was_stripped_or_changed_is_refused() {
    let keys = set(&[&RSA, &EC]);
    for signer in [&*RSA, &*EC] {
        let token = signer.token(&claims());
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        assert_eq!(refused(&format!("{signed}."), &keys), Refusal::BadSignature);
        assert_eq!(refused(signed, &keys), Refusal::Malformed);
        let other = unsigned(&signer.header(), &with("sub", json!("eve")));
        assert_eq!(refused(&format!("{other}.{signature}"), &keys), Refusal::BadSignature);
        let again = format!("{signed}.{}", encode(b"x"));
        assert_eq!(refused(&again, &keys), Refusal::BadSignature);
    }
    // RFC 7518 section 3.4: not the DER form, and (CVE-2022-21449) not a signature of zeros.
    let zeros = format!("{}.{}", unsigned(&EC.header(), &claims()), encode(&[0; 64]));
    assert_eq!(refused(&zeros, &keys), Refusal::BadSignature);
}

#[test]
fn algorithms_cannot_be_confused() {
    let keys = set(&[&RSA, &EC]);
    let header = |alg: &str| json!({ "alg": alg, "kid": "rsa" });
    for secret in [RSA.public_pem(), RSA.jwk()["n"].to_string(), String::new()] {
        let token = hs256(secret.as_bytes(), &header("HS256"), &claims());
        assert_eq!(refused(&token, &keys), Refusal::Algorithm, "a public key is no secret");
    }
    for alg in ["none", "None", "NONE", "", "HS256", "HS512", "PS256", "rs256", "RS1", "ES256K", "dir"] {
        let token = format!("{}.", unsigned(&header(alg), &claims()));
        assert_eq!(refused(&token, &keys), Refusal::Algorithm, "{alg:?}");
        assert_eq!(refused(&RSA.token_with(&header(alg), &claims()), &keys), Refusal::Algorithm, "{alg:?}");
    }
    // The key is for RS256: neither another hash nor another family.
    for alg in ["RS384", "RS512", "ES256", "EdDSA"] {
        assert_eq!(refused(&RSA.token_with(&header(alg), &claims()), &keys), Refusal::Algorithm, "{alg}");
    }
    let only = verifier(&[JwtAlgorithm::Es256]);
    let token = RSA.token(&claims());
    let why = only.verify(&parse(&token).expect("well formed"), Some(&keys), at(NOW)).err();
    assert_eq!(why, Some(Refusal::Algorithm), "the provider does not believe it");
}

#[test]
fn keys_that_a_token_brings_along_are_not_used() {
    let stranger = Signer::new("RS256", "rsa");
    let mut header = stranger.header();
    header["jwk"] = stranger.jwk();
    header["jku"] = "http://127.0.0.1:1/jwks".into();
    header["x5u"] = "http://127.0.0.1:1/x5u".into();
    assert_eq!(refused(&stranger.token_with(&header, &claims()), &set(&[&RSA])), Refusal::BadSignature);
}

#[test]
fn the_name_of_a_key_chooses_it() {
    let second = Signer::new("ES256", "second");
    let keys = set(&[&EC, &second]);
    assert!(verify_at(&second.token(&claims()), &keys, NOW).is_ok());
    let named = |kid: Value| second.token_with(&json!({ "alg": "ES256", "kid": kid }), &claims());
    assert_eq!(refused(&named(json!("ec")), &keys), Refusal::BadSignature);
    assert_eq!(refused(&named(json!("third")), &keys), Refusal::UnknownKey);
    assert_eq!(refused(&named(json!(7)), &keys), Refusal::Malformed);
    let nameless = second.token_with(&json!({ "alg": "ES256" }), &claims());
    assert!(verify_at(&nameless, &keys, NOW).is_ok(), "every key that fits is tried");
}

#[test]
fn few_keys_are_tried_with_one_token() {
    let signers: Vec<Signer> = (0..limits::JWT_KEYS_TRIED + 1).map(|_| Signer::nameless("EdDSA")).collect();
    let keys = set(&signers.iter().collect::<Vec<_>>());
    let (last, before) = signers.split_last().expect("some");
    assert!(verify_at(&before.last().expect("some").token(&claims()), &keys, NOW).is_ok());
    assert_eq!(refused(&last.token(&claims()), &keys), Refusal::BadSignature);
}

#[test]
fn times_count_with_the_skew() {
    let keys = set(&[&EC]);
    let ends = EC.token(&with("exp", json!(NOW)));
    assert!(verify_at(&ends, &keys, NOW + 59).is_ok());
    assert_eq!(verify_at(&ends, &keys, NOW + 60).err(), Some(Refusal::Expired));
    for name in ["nbf", "iat"] {
        let begins = EC.token(&with(name, json!(NOW)));
        assert_eq!(verify_at(&begins, &keys, NOW - 61).err(), Some(Refusal::NotYetValid), "{name}");
        let verified = verify_at(&begins, &keys, NOW - 60).expect("believed");
        assert_eq!((verified.from, verified.until), (at(NOW - 60), at(NOW + 660)), "{name}");
        assert!(verified.holds(at(NOW)) && !verified.holds(at(NOW + 660)) && !verified.holds(at(NOW - 61)));
    }
    for value in [json!("soon"), json!(null), json!([1]), json!(true)] {
        assert_eq!(refused(&EC.token(&with("exp", value.clone())), &keys), Refusal::Malformed, "{value}");
    }
    assert_eq!(refused(&EC.token(&without("exp")), &keys), Refusal::Malformed);
    for value in [json!(-5), json!(-1e300), json!(0)] {
        assert_eq!(refused(&EC.token(&with("exp", value)), &keys), Refusal::Expired);
    }
    for value in [json!(1e300), json!(u64::MAX), json!(NOW as f64 + 0.5)] {
        assert!(verify_at(&EC.token(&with("exp", value)), &keys, NOW).is_ok());
    }
}

#[test]
fn issuer_and_audience_must_be_ours() {
    let keys = set(&[&EC]);
    for value in
        [json!("https://id.corp.example/"), json!("https://ID.corp.example"), json!(["https://id.corp.example"])]
    {
        assert_eq!(refused(&EC.token(&with("iss", value)), &keys), Refusal::UnknownIssuer);
    }
    assert_eq!(refused(&EC.token(&without("iss")), &keys), Refusal::UnknownIssuer);
    for value in [json!("other"), json!("Payments"), json!([]), json!(["x", 1]), json!({ "payments": 1 }), json!(null)]
    {
        assert_eq!(refused(&EC.token(&with("aud", value.clone())), &keys), Refusal::Audience, "{value}");
    }
    assert_eq!(refused(&EC.token(&without("aud")), &keys), Refusal::Audience);
    assert!(verify_at(&EC.token(&with("aud", json!(["x", "refunds"]))), &keys, NOW).is_ok());
}

#[test]
fn a_forged_token_is_told_of_its_signature_only() {
    let stranger = Signer::new("ES256", "ec");
    for claims in [with("exp", json!(1)), with("aud", json!("other")), without("exp")] {
        assert_eq!(refused(&stranger.token(&claims), &set(&[&EC])), Refusal::BadSignature);
    }
}

#[test]
fn without_keys_nothing_is_believed() {
    let token = EC.token(&claims());
    let parsed = parse(&token).expect("well formed");
    assert_eq!(verifier(&ALL).verify(&parsed, None, at(NOW)).err(), Some(Refusal::NoKeys));
}

#[test]
fn headers_that_ask_for_more_are_refused() {
    let keys = set(&[&EC]);
    let header = |name: &str, value: Value| {
        let mut header = EC.header();
        header[name] = value;
        EC.token_with(&header, &claims())
    };
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("typ", json!("logout+jwt")),
        ("typ", json!("")),
        ("typ", json!(1)),
        ("alg", json!(1)),
        ("kid", json!(null)),
    ] {
        assert_eq!(refused(&header(name, value.clone()), &keys), Refusal::Malformed, "{name}: {value}");
    }
    for kind in ["jwt", "JWT", "at+jwt", "application/at+JWT", "Application/jwt"] {
        assert!(verify_at(&header("typ", json!(kind)), &keys, NOW).is_ok(), "{kind}");
    }
}

#[test]
fn what_is_not_exactly_a_token_is_malformed() {
    let good = EC.token(&claims());
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let (header, payload) = signed.split_once('.').expect("two parts");
    let twice = EC.sign(&format!(
        "{header}.{}",
        encode(br#"{"iss":"x","iss":"https://id.corp.example","aud":"payments","exp":9999999999}"#)
    ));
    let double_alg = format!("{}.{payload}.{signature}", encode(br#"{"alg":"ES256","alg":"none"}"#));
    let list = EC.sign(&format!("{header}.{}", encode(b"[]")));
    let garbage = EC.sign(&format!("{header}.{}", encode(b"\xff\xfe")));
    let padded = format!("{header}=.{payload}.{signature}");
    let large = EC.token(&with("x", json!("y".repeat(limits::JWT_BYTES))));
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        signed,
        &format!("{good}."),
        &format!("{good}.x"),
        &format!(" {good}"),
        &format!("{good}\n"),
        &format!("{good}+"),
        &good.replace('.', ".."),
        &padded,
        &twice,
        &double_alg,
        &list,
        &garbage,
        &large,
    ] {
        assert_eq!(parse(token).err(), Some(Refusal::Malformed), "{token}");
    }
    // Bits that decode to nothing would give one signature several texts.
    let stray = format!("{signed}.{}B", &signature[..signature.len() - 1]);
    assert_eq!(parse(&stray).err(), Some(Refusal::Malformed));
}

#[test]
fn nothing_shows_a_token() {
    let token = EC.token(&claims());
    let parsed = parse(&token).expect("well formed");
    let verified = verify_at(&token, &set(&[&EC]), NOW).expect("believed");
    let shown = format!("{parsed:?} {verified:?} {:?}", set(&[&EC]));
    for part in token.split('.').chain(["ann", "payments", "id.corp"]) {
        assert!(!shown.contains(part), "{shown}");
    }
}

#[test]
fn keys_that_must_not_be_used_are_left_out() {
    let but = |key: &Signer, name: &str, value: Value| {
        let mut key = key.jwk();
        key[name] = value;
        key
    };
    let mut halved = RSA.jwk();
    let n = data_encoding::BASE64URL_NOPAD.decode(halved["n"].as_str().expect("text").as_bytes()).expect("base64url");
    halved["n"] = encode(&n[128..]).into();
    let mut short = n.clone();
    short[0] = 0x7f;
    let bad = [
        (halved, "it has fewer than 2048 bits"),
        (but(&RSA, "n", encode(&short).into()), "it has fewer than 2048 bits"),
        (but(&RSA, "n", encode(&[0xff; 1025]).into()), "it has more than 8192 bits"),
        (but(&RSA, "e", "AQ".into()), "its exponent is not usable (`e`)"),
        (but(&RSA, "e", "Ag".into()), "its exponent is not usable (`e`)"),
        (but(&RSA, "e", "AQAB=".into()), "a part of it is not base64url"),
        (but(&RSA, "n", json!(null)), "a part of it is missing"),
        (but(&RSA, "use", "enc".into()), "it is not for signatures (`use`)"),
        (but(&RSA, "key_ops", json!(["sign"])), "it is not for verifying (`key_ops`)"),
        (but(&RSA, "alg", "RSA-OAEP".into()), "its algorithm is not supported (`alg`)"),
        (but(&RSA, "alg", "HS256".into()), "its algorithm is not supported (`alg`)"),
        (but(&RSA, "alg", "ES256".into()), "its type does not go with its algorithm (`alg`)"),
        (but(&EC, "alg", "ES384".into()), "its type does not go with its algorithm (`alg`)"),
        (but(&EC, "crv", "secp256k1".into()), "its curve is not supported (`crv`)"),
        (but(&EC, "crv", "P-384".into()), "a coordinate has another length than its curve"),
        (but(&EC, "x", encode(&[1; 32]).into()), "it is not a point of its curve"),
        (json!({ "kty": "oct", "k": "AAAA" }), "it is symmetric: who can verify could sign"),
        (json!({ "kty": "OKP", "crv": "X25519", "x": encode(&[1; 32]) }), "its curve is not supported (`crv`)"),
        (json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA" }), "a coordinate has another length than its curve"),
        (json!({}), "its type is not supported (`kty`)"),
    ];
    for (key, why) in bad {
        let alone = json!({ "keys": [key] }).to_string();
        assert_eq!(KeySet::parse(alone.as_bytes()).err(), Some(KeySetError::NothingUsable), "{key}");
        let beside = json!({ "keys": [key, EC.jwk()] }).to_string();
        let (keys, skipped) = KeySet::parse(beside.as_bytes()).expect("one is good");
        assert_eq!((keys.len(), skipped.len(), skipped[0].index), (1, 1, 0));
        assert_eq!(skipped[0].why, why);
        assert!(verify_at(&EC.token(&claims()), &keys, NOW).is_ok());
    }
}

#[test]
fn a_key_without_an_algorithm_serves_its_family_and_leading_zeros_are_forgiven() {
    let mut key = RSA.jwk();
    key.as_object_mut().expect("an object").remove("alg");
    let n = data_encoding::BASE64URL_NOPAD.decode(key["n"].as_str().expect("text").as_bytes()).expect("base64url");
    key["n"] = encode(&[&[0], &*n].concat()).into();
    let (keys, _) = KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).expect("a key set");
    assert!(verify_at(&RSA.token(&claims()), &keys, NOW).is_ok());
}

#[test]
fn what_is_no_key_set_is_refused() {
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, r#"{"keys":[],"keys":[]}"#, "<html>"] {
        assert_eq!(KeySet::parse(text.as_bytes()).err(), Some(KeySetError::NotASet), "{text}");
    }
    assert_eq!(KeySet::parse(br#"{"keys":[]}"#).err(), Some(KeySetError::NothingUsable));
    let many = json!({ "keys": vec![json!({}); limits::JWKS_KEYS + 1] }).to_string();
    assert_eq!(KeySet::parse(many.as_bytes()).err(), Some(KeySetError::TooMany));
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_json_in_a_token_is_answered(header in "[ -~]{0,80}", payload in "\\PC{0,120}", tail in any::<Vec<u8>>()) {
        let token = format!("{}.{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()), encode(&tail));
        let _ = parse(&token);
    }

    #[test]
    fn one_changed_byte_is_noticed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9._-]") {
        let token = EC.token(&claims());
        let at = at.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(verify_at(&changed, &set(&[&EC]), NOW).is_err());
    }
}
