//! Signs tokens as an issuer does, and as somebody who would like to be one.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

/// A signing key.
#[derive(Debug)]
pub struct Signer {
    algorithm: &'static str,
    kid: Option<String>,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Rsa(Box<rsa::KeyPair>),
    Elliptic(Box<EcdsaKeyPair>),
    Edwards(Box<Ed25519KeyPair>),
}

impl Signer {
    /// A new key for an algorithm, named `kid`.
    pub fn new(algorithm: &'static str, kid: &str) -> Self {
        let pair = match algorithm {
            "RS256" | "RS384" | "RS512" => {
                Pair::Rsa(Box::new(rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key")))
            }
            "ES256" => Pair::Elliptic(Box::new(
                EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
            )),
            "ES384" => Pair::Elliptic(Box::new(
                EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key"),
            )),
            "EdDSA" => Pair::Edwards(Box::new(Ed25519KeyPair::generate().expect("a key"))),
            other => panic!("no key for {other}"),
        };
        Self { algorithm, kid: Some(kid.to_owned()), pair }
    }

    /// The same without a name.
    pub fn nameless(algorithm: &'static str) -> Self {
        Self { kid: None, ..Self::new(algorithm, "") }
    }

    /// The public half as a JSON Web Key.
    pub fn jwk(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Rsa(pair) => {
                let (n, e) = rsa_numbers(pair.public_key().as_ref());
                json!({ "kty": "RSA", "n": encode(&n), "e": encode(&e) })
            }
            Pair::Elliptic(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Pair::Edwards(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) })
            }
        };
        key["alg"] = self.algorithm.into();
        key["use"] = "sig".into();
        if let Some(kid) = &self.kid {
            key["kid"] = kid.as_str().into();
        }
        key
    }

    /// The header of this key's tokens.
    pub fn header(&self) -> Value {
        let mut header = json!({ "alg": self.algorithm, "typ": "JWT" });
        if let Some(kid) = &self.kid {
            header["kid"] = kid.as_str().into();
        }
        header
    }

    /// A token.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    /// A token with any header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.sign(&unsigned(header, claims))
    }

    /// Puts a signature behind any text.
    pub fn sign(&self, text: &str) -> String {
        let random = SystemRandom::new();
        let bytes = match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &'static dyn signature::RsaEncoding = match self.algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut bytes = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, text.as_bytes(), &mut bytes).expect("signed");
                bytes
            }
            Pair::Elliptic(pair) => pair.sign(&random, text.as_bytes()).expect("signed").as_ref().to_vec(),
            Pair::Edwards(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
        };
        format!("{text}.{}", encode(&bytes))
    }

    /// The public key as who confuses algorithms would use it for a secret.
    pub fn public_pem(&self) -> String {
        let Pair::Rsa(pair) = &self.pair else { panic!("an RSA key") };
        let der = pair.public_key().as_der().expect("its public half");
        let text = data_encoding::BASE64.encode(der.as_ref());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("plain text")).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }
}

/// A token signed with a shared secret.
pub fn hs256(secret: &[u8], header: &Value, claims: &Value) -> String {
    let text = unsigned(header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("{text}.{}", encode(tag.as_ref()))
}

/// Header and payload of a token.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

/// A key set.
pub fn jwks(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Base64url.
pub fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// Modulus and exponent of an RSAPublicKey (RFC 8017 appendix A.1.1).
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut rest = element(&mut &*der);
    let (n, e) = (element(&mut rest), element(&mut rest));
    let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    (number(n), number(e))
}

fn element<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (length, head) = match rest[1] {
        short @ ..0x80 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7f);
            (rest[2..2 + bytes].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + bytes)
        }
    };
    let content = &rest[head..head + length];
    *rest = &rest[head + length..];
    content
}
