//! Whether a token is believed.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_config::model;
use serde_json::{Map, Value};

use super::{Claims, KeySet, Refusal, Token};

/// What one provider asks of tokens.
#[derive(Debug)]
pub struct Verifier {
    provider: model::JwtProvider,
}

/// A token that was verified.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What it says.
    pub claims: Arc<Claims>,
    /// From when it is valid, clock skew included.
    pub from: SystemTime,
    /// Until when.
    pub until: SystemTime,
}

impl Verified {
    /// Whether it is valid at a moment.
    #[must_use]
    pub fn holds(&self, now: SystemTime) -> bool {
        self.from <= now && now < self.until
    }
}

impl Verifier {
    /// For a provider as configured.
    #[must_use]
    pub fn new(provider: model::JwtProvider) -> Self {
        Self { provider }
    }

    /// As configured.
    #[must_use]
    pub fn provider(&self) -> &model::JwtProvider {
        &self.provider
    }

    /// Whether a token says that it is this provider's.
    #[must_use]
    pub fn issued(&self, token: &Token<'_>) -> bool {
        token.issuer() == Some(&*self.provider.issuer)
    }

    /// Verifies a token. What a token says is judged only once its signature holds, so that nobody learns from
    /// refusals what a forged one should say.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn verify(&self, token: &Token<'_>, keys: Option<&KeySet>, now: SystemTime) -> Result<Verified, Refusal> {
        if !self.issued(token) {
            return Err(Refusal::UnknownIssuer);
        }
        if !self.provider.algorithms.contains(&token.algorithm) {
            return Err(Refusal::Algorithm);
        }
        let keys = keys.ok_or(Refusal::NoKeys)?;
        keys.check(token.key.as_deref(), token.algorithm, token.signed, &token.signature)?;
        let (from, until) = self.validity(&token.claims, now)?;
        if !self.is_for_us(&token.claims) {
            return Err(Refusal::Audience);
        }
        let claims = Claims { provider: Arc::clone(&self.provider.name), members: token.claims.clone() };
        Ok(Verified { claims: Arc::new(claims), from, until })
    }

    /// RFC 7519 sections 4.1.4 to 4.1.6. An end is required: a token without one could never be taken back.
    fn validity(&self, claims: &Map<String, Value>, now: SystemTime) -> Result<(SystemTime, SystemTime), Refusal> {
        let skew = self.provider.clock_skew;
        let end = moment(claims, "exp")?.ok_or(Refusal::Malformed)?;
        let until = end.checked_add(skew).unwrap_or(end);
        let mut from = UNIX_EPOCH;
        for name in ["nbf", "iat"] {
            if let Some(begin) = moment(claims, name)? {
                from = from.max(begin.checked_sub(skew).unwrap_or(UNIX_EPOCH));
            }
        }
        if until <= now {
            return Err(Refusal::Expired);
        }
        if now < from {
            return Err(Refusal::NotYetValid);
        }
        Ok((from, until))
    }

    /// RFC 7519 section 4.1.3: a name, or a list of names.
    fn is_for_us(&self, claims: &Map<String, Value>) -> bool {
        let ours =
            |name: &Value| name.as_str().is_some_and(|name| self.provider.audiences.iter().any(|a| **a == *name));
        match claims.get("aud") {
            Some(Value::Array(names)) => names.iter().any(ours),
            Some(name) => ours(name),
            None => false,
        }
    }
}

/// A NumericDate (RFC 7519 section 2): seconds since 1970, with or without a fraction. What lies before that is taken
/// as its beginning, what lies beyond a thousand years as that.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_f64().ok_or(Refusal::Malformed)?;
            let since = Duration::from_secs_f64(seconds.clamp(0.0, FARTHEST));
            Ok(Some(UNIX_EPOCH + since))
        }
    }
}

/// Seconds of a thousand years: later moments need not be told apart.
const FARTHEST: f64 = 1000.0 * 365.25 * 86_400.0;
