//! JSON Web Tokens and key sets: nothing that was not signed is believed.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger::policy::jwt::{self, KeySet, Verifier};
use outrigger_config::model::{JwtAlgorithm, JwtProvider, KeySource, Place};

/// The first line is a token, what follows a key set. The token is also checked with keys whose owner signed only
/// `GENUINE` and is gone.
pub fn check(input: &[u8]) {
    let (token, document) = match input.iter().position(|&byte| byte == b'\n') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, input),
    };
    let keys = KeySet::parse(document).ok();
    if let Some((keys, _)) = &keys {
        assert!(!keys.is_empty());
    }
    let Ok(text) = std::str::from_utf8(token) else { return };
    let Ok(token) = jwt::parse(text) else { return };
    assert!(!format!("{token:?}").contains(text), "a token was shown");
    assert_eq!(text.split('.').count(), 3);
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')));
    let Own { verifier, keys: own } = &*OWN;
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if verifier.verify(&token, Some(own), now).is_ok() {
        let signed = |text: &str| text.trim_end().rsplit_once('.').map(|(signed, _)| signed.to_owned());
        assert!(GENUINE.iter().any(|genuine| signed(genuine) == signed(text)), "believed {text}");
    }
    for at in [UNIX_EPOCH, now, now + Duration::from_secs(1 << 40)] {
        check_foreign(verifier, &token, keys.as_ref().map(|(keys, _)| keys), at);
    }
}

/// With the input's own keys anything may be believed, but only while it is valid.
fn check_foreign(verifier: &Verifier, token: &jwt::Token<'_>, keys: Option<&KeySet>, now: SystemTime) {
    let result = verifier.verify(token, keys, now);
    assert!(keys.is_some() || result.is_err());
    if let Ok(verified) = result {
        assert!(verified.holds(now));
    }
}

/// The only tokens that these keys ever signed, one for each algorithm.
const GENUINE: [&str; 6] = [
    include_str!("genuine/rs256.txt"),
    include_str!("genuine/rs384.txt"),
    include_str!("genuine/rs512.txt"),
    include_str!("genuine/es256.txt"),
    include_str!("genuine/es384.txt"),
    include_str!("genuine/eddsa.txt"),
];

struct Own {
    verifier: Verifier,
    keys: KeySet,
}

static OWN: LazyLock<Own> = LazyLock::new(|| {
    let place = Place { file: "fuzz".into(), line: 1, column: 1 };
    let (keys, skipped) = KeySet::parse(include_bytes!("genuine/jwks.json")).expect("the keys can be read");
    assert_eq!((keys.len(), skipped.len()), (4, 0));
    let verifier = Verifier::new(JwtProvider {
        name: "corp".into(),
        issuer: "https://id.corp.example".into(),
        audiences: vec!["payments".into()],
        keys: KeySource::File("jwks.json".into()),
        algorithms: vec![
            JwtAlgorithm::Rs256,
            JwtAlgorithm::Rs384,
            JwtAlgorithm::Rs512,
            JwtAlgorithm::Es256,
            JwtAlgorithm::Es384,
            JwtAlgorithm::EdDsa,
        ],
        clock_skew: Duration::from_secs(60),
        from: vec![],
        forward: false,
        claims_to_headers: vec![],
        place,
    });
    for genuine in GENUINE {
        let token = jwt::parse(genuine.trim_end()).expect("a token");
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert!(verifier.verify(&token, Some(&keys), now).is_ok(), "{genuine}");
    }
    Own { verifier, keys }
});
