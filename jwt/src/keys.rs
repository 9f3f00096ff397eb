//! What a provider publishes: a JSON Web Key Set (RFC 7517), with whatever must not be used left out.

use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use data_encoding::BASE64URL_NOPAD;
use outrigger_config::model::JwtAlgorithm;
use serde_json::{Map, Value};
use smallvec::SmallVec;
use thiserror::Error;

use super::{Refusal, json, limits, token};

/// The keys of a provider. Only public halves are kept.
pub struct KeySet {
    keys: Vec<Key>,
}

/// A document that gives no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// It is not a key set.
    #[error("it is not a JSON Web Key Set (an object with a list `keys`, no member twice)")]
    NotASet,
    /// More keys than anybody needs.
    #[error("it has more than {} keys", limits::JWKS_KEYS)]
    TooMany,
    /// It is one, but there is nothing in it that could be used.
    #[error("none of its keys can be used to verify tokens")]
    NothingUsable,
}

/// A key that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its place in the list, from 0.
    pub index: usize,
    /// Its name.
    pub kid: Option<String>,
    /// Why.
    pub why: &'static str,
}

/// A key. It serves the algorithms that it was made for and no other, whatever a token asks for.
struct Key {
    kid: Option<String>,
    verifiers: SmallVec<[(JwtAlgorithm, ParsedPublicKey); 3]>,
}

impl KeySet {
    /// Reads a key set. Keys that are not for verifying tokens, or too weak for it, are left out and told of.
    ///
    /// # Errors
    /// See [`KeySetError`].
    pub fn parse(document: &[u8]) -> Result<(Self, Vec<Skipped>), KeySetError> {
        let set = json::object(document).ok_or(KeySetError::NotASet)?;
        let Some(Value::Array(list)) = set.get("keys") else { return Err(KeySetError::NotASet) };
        if list.len() > limits::JWKS_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut keys = Vec::with_capacity(list.len());
        let mut skipped = Vec::new();
        for (index, entry) in list.iter().enumerate() {
            let Value::Object(entry) = entry else { return Err(KeySetError::NotASet) };
            let kid = text(entry, "kid").map(str::to_owned);
            match read_key(entry) {
                Ok(verifiers) => keys.push(Key { kid, verifiers }),
                Err(why) => skipped.push(Skipped { index, kid, why }),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NothingUsable);
        }
        Ok((Self { keys }, skipped))
    }

    /// How many keys can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none. A set that was read has some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks a signature. A token that names its key is tried with the keys of that name and with those that have
    /// none; one that names none with every key that fits its algorithm. Few are tried in any case: each try costs
    /// what a handshake costs.
    pub(super) fn check(
        &self,
        kid: Option<&str>,
        algorithm: JwtAlgorithm,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Refusal> {
        let named = |key: &&Key| match (kid, &key.kid) {
            (Some(wanted), Some(name)) => name == wanted,
            _ => true,
        };
        let mut known = false;
        let mut tries = 0;
        for key in self.keys.iter().filter(named) {
            known = true;
            let Some((_, verifier)) = key.verifiers.iter().find(|(fits, _)| *fits == algorithm) else { continue };
            tries += 1;
            if tries > limits::JWT_KEYS_TRIED {
                break;
            }
            if verifier.verify_sig(signed, signature).is_ok() {
                return Ok(());
            }
        }
        Err(match (tries, known && kid.is_some()) {
            (0, true) => Refusal::Algorithm,
            (0, false) => Refusal::UnknownKey,
            _ => Refusal::BadSignature,
        })
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

type Verifiers = SmallVec<[(JwtAlgorithm, ParsedPublicKey); 3]>;

fn read_key(key: &Map<String, Value>) -> Result<Verifiers, &'static str> {
    // RFC 7517 sections 4.2 and 4.3: what a key says of its purpose is binding.
    match key.get("use") {
        None => {}
        Some(Value::String(purpose)) if purpose == "sig" => {}
        Some(_) => return Err("it is not for signatures (`use`)"),
    }
    match key.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|op| op == "verify") => {}
        Some(_) => return Err("it is not for verifying (`key_ops`)"),
    }
    let only = match key.get("alg") {
        None => None,
        Some(name) => Some(name.as_str().and_then(token::algorithm).ok_or("its algorithm is not supported (`alg`)")?),
    };
    let mut verifiers = match text(key, "kty") {
        Some("RSA") => rsa(key)?,
        Some("EC") => elliptic(key)?,
        Some("OKP") => edwards(key)?,
        Some("oct") => return Err("it is symmetric: who can verify could sign"),
        _ => return Err("its type is not supported (`kty`)"),
    };
    if let Some(only) = only {
        verifiers.retain(|(algorithm, _)| *algorithm == only);
    }
    if verifiers.is_empty() { Err("its type does not go with its algorithm (`alg`)") } else { Ok(verifiers) }
}

const RSA: [(JwtAlgorithm, &RsaParameters); 3] = [
    (JwtAlgorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (JwtAlgorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (JwtAlgorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
];

fn rsa(key: &Map<String, Value>) -> Result<Verifiers, &'static str> {
    let (modulus, exponent) = (unsigned(key, "n")?, unsigned(key, "e")?);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    match bits {
        ..2048 => return Err("it has fewer than 2048 bits"),
        2048..=8192 => {}
        _ => return Err("it has more than 8192 bits"),
    }
    // An exponent of 1 would make every message its own signature; a long one is work that a caller can ask for.
    let odd = exponent.last().is_some_and(|byte| byte & 1 == 1);
    if !odd || exponent == [1] || exponent.len() > 5 {
        return Err("its exponent is not usable (`e`)");
    }
    let components = RsaPublicKeyComponents { n: &modulus, e: &exponent };
    RSA.iter()
        .map(|&(algorithm, parameters)| {
            let parsed = components.to_parsed_public_key(parameters).map_err(|_| "it is not a valid RSA key")?;
            Ok((algorithm, parsed))
        })
        .collect()
}

fn elliptic(key: &Map<String, Value>) -> Result<Verifiers, &'static str> {
    let (algorithm, verification, width): (_, &'static dyn VerificationAlgorithm, usize) = match text(key, "crv") {
        Some("P-256") => (JwtAlgorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
        Some("P-384") => (JwtAlgorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
        _ => return Err("its curve is not supported (`crv`)"),
    };
    let mut point = vec![UNCOMPRESSED];
    for coordinate in ["x", "y"] {
        let bytes = binary(key, coordinate)?;
        if bytes.len() != width {
            return Err("a coordinate has another length than its curve");
        }
        point.extend_from_slice(&bytes);
    }
    let parsed = ParsedPublicKey::new(verification, point).map_err(|_| "it is not a point of its curve")?;
    Ok(std::iter::once((algorithm, parsed)).collect())
}

fn edwards(key: &Map<String, Value>) -> Result<Verifiers, &'static str> {
    if text(key, "crv") != Some("Ed25519") {
        return Err("its curve is not supported (`crv`)");
    }
    let bytes = binary(key, "x")?;
    if bytes.len() != 32 {
        return Err("a coordinate has another length than its curve");
    }
    let parsed = ParsedPublicKey::new(&signature::ED25519, bytes).map_err(|_| "it is not a point of its curve")?;
    Ok(std::iter::once((JwtAlgorithm::EdDsa, parsed)).collect())
}

/// SEC 1 section 2.3.3: both coordinates follow.
const UNCOMPRESSED: u8 = 4;

fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    key.get(name).and_then(Value::as_str)
}

fn binary(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = text(key, name).ok_or("a part of it is missing")?;
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| "a part of it is not base64url")
}

/// A number. RFC 7518 section 6.3.1 forbids leading zero bytes, and some issuers write one all the same.
fn unsigned(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = binary(key, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    Ok(bytes)
}
