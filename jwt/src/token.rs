//! A token taken apart, not yet believed.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use outrigger_config::model::JwtAlgorithm;
use serde_json::{Map, Value};

use super::{Refusal, json, limits};

/// A token in compact form (RFC 7515 section 7.1) whose parts are what they must be. Its signature is not checked.
pub struct Token<'a> {
    /// Header and payload as they were signed.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    pub(super) algorithm: JwtAlgorithm,
    /// The name of the key, where it has one.
    pub(super) key: Option<String>,
    pub(super) claims: Map<String, Value>,
}

impl Token<'_> {
    /// Who claims to have issued it.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }
}

/// Says nothing of the content.
impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Takes a token apart. Exactly three parts of base64url without padding and without stray bits; header and payload
/// are JSON objects without repeated members.
///
/// # Errors
/// [`Refusal::Malformed`], and [`Refusal::Algorithm`] for an algorithm that is never believed.
pub fn parse(text: &str) -> Result<Token<'_>, Refusal> {
    if text.len() > limits::JWT_BYTES {
        return Err(Refusal::Malformed);
    }
    let mut parts = text.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::Malformed);
    };
    let signed = &text.as_bytes()[..header.len() + 1 + payload.len()];
    let header = decode_object(header)?;
    let algorithm = read_header(&header)?;
    let key = match header.get("kid") {
        None => None,
        Some(Value::String(key)) => Some(key.clone()),
        Some(_) => return Err(Refusal::Malformed),
    };
    let claims = decode_object(payload)?;
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| Refusal::Malformed)?;
    Ok(Token { signed, signature, algorithm, key, claims })
}

fn decode_object(part: &str) -> Result<Map<String, Value>, Refusal> {
    let bytes = BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| Refusal::Malformed)?;
    json::object(&bytes).ok_or(Refusal::Malformed)
}

/// The algorithm, if the header asks for nothing that is not understood. Keys and places of keys that a header names
/// (`jwk`, `jku`, `x5c`, `x5u`) are not looked at.
fn read_header(header: &Map<String, Value>) -> Result<JwtAlgorithm, Refusal> {
    // RFC 7515 section 4.1.11: no extension is understood here, so any that must be is a refusal. `b64` (RFC 7797)
    // would change what was signed.
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(Refusal::Malformed);
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(kind)) if is_jwt(kind) => {}
        Some(_) => return Err(Refusal::Malformed),
    }
    match header.get("alg") {
        Some(Value::String(name)) => algorithm(name).ok_or(Refusal::Algorithm),
        _ => Err(Refusal::Malformed),
    }
}

/// RFC 7519 section 5.1 and RFC 9068 section 2.1; the prefix is optional and case does not matter (RFC 7515 section
/// 4.1.9). Anything else is a token for another purpose (RFC 8725 section 3.11).
fn is_jwt(kind: &str) -> bool {
    let kind = match kind.get(..12) {
        Some(prefix) if prefix.eq_ignore_ascii_case("application/") => &kind[12..],
        _ => kind,
    };
    kind.eq_ignore_ascii_case("jwt") || kind.eq_ignore_ascii_case("at+jwt")
}

/// The algorithms that are ever believed. `Ed25519` is the newer name of what was `EdDSA` with that curve (RFC 9864).
pub(super) fn algorithm(name: &str) -> Option<JwtAlgorithm> {
    Some(match name {
        "RS256" => JwtAlgorithm::Rs256,
        "RS384" => JwtAlgorithm::Rs384,
        "RS512" => JwtAlgorithm::Rs512,
        "ES256" => JwtAlgorithm::Es256,
        "ES384" => JwtAlgorithm::Es384,
        "EdDSA" | "Ed25519" => JwtAlgorithm::EdDsa,
        _ => return None,
    })
}
