//! The tokens that a listener asks for, ready to be verified.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;
use outrigger_config::model::{JwtProvider, ListenerJwt};

use crate::policy::jwt::{Cache, Digest, Refusal, Verified, Verifier, parse};
use crate::upstream::{KeySlot, KeyStore};

/// What a listener asks of tokens.
#[derive(Debug)]
pub struct Tokens {
    required: bool,
    sources: Vec<Source>,
    claim_headers: Vec<HeaderName>,
    cache: Cache,
}

/// A provider and its keys.
#[derive(Debug)]
struct Source {
    verifier: Verifier,
    keys: Arc<KeySlot>,
}

impl Tokens {
    pub(super) fn compile(config: &ListenerJwt, providers: &BTreeMap<Arc<str>, JwtProvider>, keys: &KeyStore) -> Self {
        let ListenerJwt { providers: names, required } = config;
        let sources: Vec<Source> = names
            .iter()
            .map(|name| &providers[name])
            .map(|provider| Source { verifier: Verifier::new(provider.clone()), keys: keys.slot(provider) })
            .collect();
        let mut claim_headers: Vec<HeaderName> = sources
            .iter()
            .flat_map(|source| &source.verifier.provider().claims_to_headers)
            .map(|claim| claim.header.clone())
            .collect();
        claim_headers.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        claim_headers.dedup();
        Self { required: *required, sources, claim_headers, cache: Cache::default() }
    }

    /// Whether a request without a token is refused.
    #[must_use]
    pub fn required(&self) -> bool {
        self.required
    }

    /// The providers in the listener's order.
    pub fn providers(&self) -> impl Iterator<Item = &JwtProvider> {
        self.sources.iter().map(|source| source.verifier.provider())
    }

    /// A provider by its place in that order.
    #[must_use]
    pub fn provider(&self, index: usize) -> Option<&JwtProvider> {
        self.sources.get(index).map(|source| source.verifier.provider())
    }

    /// Headers that only the proxy may set.
    #[must_use]
    pub fn claim_headers(&self) -> &[HeaderName] {
        &self.claim_headers
    }

    /// Verifies a token that was where these providers (by their places) take tokens from. A token that was verified
    /// before costs a digest and a look-up, as long as its provider's keys are the same.
    ///
    /// # Errors
    /// See [`Refusal`]; of several providers with the token's issuer, the first one's.
    pub fn verify(&self, text: &str, candidates: &[usize], now: SystemTime) -> Result<(usize, Verified), Refusal> {
        let digest = Digest::of(text);
        if let Some((index, keys, verified)) = self.cache.find(&digest)
            && candidates.contains(&index)
            && verified.holds(now)
            && self.sources[index].keys.current().as_ref().is_some_and(|current| Arc::ptr_eq(current, &keys))
        {
            return Ok((index, verified));
        }
        let token = parse(text)?;
        let mut refusal = Refusal::UnknownIssuer;
        for &index in candidates {
            let Some(source) = self.sources.get(index).filter(|source| source.verifier.issued(&token)) else {
                continue;
            };
            let keys = source.keys.current();
            match source.verifier.verify(&token, keys.as_deref(), now) {
                Ok(verified) => {
                    if let Some(keys) = &*keys {
                        self.cache.insert(digest, index, Arc::clone(keys), verified.clone());
                    }
                    return Ok((index, verified));
                }
                Err(why) => {
                    if why == Refusal::UnknownKey {
                        source.keys.ask();
                    }
                    if refusal == Refusal::UnknownIssuer {
                        refusal = why;
                    }
                }
            }
        }
        Err(refusal)
    }
}
