//! Sessions that stay with one endpoint: the endpoint is named in what the caller sends back, so that every proxy with
//! the key knows it and none has to remember anything.
//!
//! A name is sealed with AES-256-GCM-SIV (RFC 8452) under a key derived from the file's contents. That signs it (who has
//! no key can make or change none; the comparison takes the same time wherever they differ), and it hides it too: a
//! plain signature would tell every browser the addresses inside the cluster. This mode forgives a nonce that comes
//! twice, so nonces need no more than a worker's ordinary random numbers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use data_encoding::BASE64URL_NOPAD;
use outrigger_config::model::SessionPersistence;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// What a name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Which backend of the rule it belongs to.
    pub backend: u64,
    /// When the session began, in seconds of the Unix era.
    pub began: u64,
    /// When it was last used, in seconds of the Unix era, to within a tenth of the idle timeout.
    pub used: u64,
}

/// Makes and reads names.
pub struct Namer {
    current: Arc<Key>,
    /// The one before: what it named is still known.
    before: Option<Arc<Key>>,
}

struct Key {
    sealing: LessSafeKey,
    /// Of the contents, to know them again.
    fingerprint: [u8; 32],
}

/// The key is too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it holds {0} bytes, and a key has at least {KEY_BYTES}")]
pub struct TooShort(usize);

impl Namer {
    /// With the contents of a key file; white space at their end does not count. Where they are others than `previous`
    /// had, its names are still read.
    ///
    /// # Errors
    /// When they are too short.
    pub fn new(contents: &[u8], previous: Option<&Self>) -> Result<Self, TooShort> {
        let secret = contents.trim_ascii_end();
        if secret.len() < KEY_BYTES {
            return Err(TooShort(secret.len()));
        }
        let fingerprint = fingerprint(secret);
        if let Some(Self { current, before }) = previous.filter(|previous| previous.current.fingerprint == fingerprint)
        {
            return Ok(Self { current: Arc::clone(current), before: before.clone() });
        }
        let current = Arc::new(Key { sealing: derive(secret), fingerprint });
        Ok(Self { current, before: previous.map(|previous| Arc::clone(&previous.current)) })
    }

    /// Whether the other has the same key.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.current.fingerprint == other.current.fingerprint
    }

    /// A name that can stand in a cookie or header. `carrier` is what carries it: elsewhere it is not believed.
    #[must_use]
    pub fn name(&self, session: &Session, carrier: &str, nonce: [u8; NONCE_LEN]) -> String {
        let mut sealed = session.encode();
        let sealing = &self.current.sealing;
        let tag =
            sealing.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(carrier), &mut sealed);
        // Sealing fails for lengths only that no name has.
        let tag = tag.expect("a name is short");
        let mut all = Vec::with_capacity(nonce.len() + sealed.len() + tag.as_ref().len());
        all.extend_from_slice(&nonce);
        all.extend_from_slice(&sealed);
        all.extend_from_slice(tag.as_ref());
        BASE64URL_NOPAD.encode(&all)
    }

    /// What a name says; `None` for what was not named with this key for this carrier. The session may have ended.
    #[must_use]
    pub fn read(&self, name: &[u8], carrier: &str) -> Option<Session> {
        if name.len() > NAME_BYTES {
            return None;
        }
        let all = BASE64URL_NOPAD.decode(name).ok()?;
        let (nonce, sealed) = all.split_first_chunk::<NONCE_LEN>()?;
        [Some(&self.current), self.before.as_ref()].into_iter().flatten().find_map(|key| {
            let mut sealed = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key.sealing.open_in_place(nonce, Aad::from(carrier), &mut sealed).ok()?;
            Session::decode(opened)
        })
    }
}

impl fmt::Debug for Namer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namer").finish_non_exhaustive()
    }
}

impl Session {
    /// Whether it has not ended `now`, in seconds of the Unix era.
    #[must_use]
    pub fn holds(&self, settings: &SessionPersistence, now: u64) -> bool {
        let within = |limit: Option<Duration>, since: u64| {
            limit.is_none_or(|limit| Duration::from_secs(now.saturating_sub(since)) < limit)
        };
        within(settings.absolute_timeout, self.began) && within(settings.idle_timeout, self.used)
    }

    /// Whether it must be named anew so that it is known that it was used.
    #[must_use]
    pub fn is_stale(&self, settings: &SessionPersistence, now: u64) -> bool {
        settings.idle_timeout.is_some_and(|idle| {
            let unused = now.saturating_sub(self.used);
            unused >= 1 && Duration::from_secs(unused) >= idle / 10
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(48);
        bytes.push(VERSION);
        for word in [self.backend, self.began, self.used] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&self.endpoint.port().to_be_bytes());
        match self.endpoint.ip() {
            IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let ([VERSION], bytes) = bytes.split_first_chunk()? else { return None };
        let (backend, bytes) = bytes.split_first_chunk()?;
        let (began, bytes) = bytes.split_first_chunk()?;
        let (used, bytes) = bytes.split_first_chunk()?;
        let (port, bytes) = bytes.split_first_chunk()?;
        let ip = match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        };
        Some(Self {
            endpoint: SocketAddr::new(ip, u16::from_be_bytes(*port)),
            backend: u64::from_be_bytes(*backend),
            began: u64::from_be_bytes(*began),
            used: u64::from_be_bytes(*used),
        })
    }
}

fn fingerprint(secret: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(secret).into()
}

/// The file's contents are a password as often as a key: extracted first, as RFC 5869 says.
fn derive(secret: &[u8]) -> LessSafeKey {
    let extracted = Salt::new(HKDF_SHA256, b"outrigger").extract(secret);
    let expanded = extracted.expand(&[b"session names"], &AES_256_GCM_SIV);
    LessSafeKey::new(UnboundKey::from(expanded.expect("a key of this length can be derived")))
}

/// The least of a key.
const KEY_BYTES: usize = 32;
/// Longer names are not looked at.
const NAME_BYTES: usize = 128;
const VERSION: u8 = 1;

#[cfg(test)]
mod tests;
