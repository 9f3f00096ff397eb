//! Tokens (`outrigger-jwt`) as the data path meets them: [`Verified`] ones are remembered by their digest ([`Cache`]), so
//! that a caller's signature is checked once and not for every request, and their claims are a source for authorization.

mod cache;

use std::sync::Arc;

pub use cache::{Cache, Digest};
pub use outrigger_jwt::{Claims, KeySet, KeySetError, Refusal, Skipped, Token, Value, Verified, Verifier, parse};

use super::authz::ClaimSource;

impl ClaimSource for Claims {
    fn provider(&self) -> &str {
        Self::provider(self)
    }

    fn get(&self, path: &[Arc<str>]) -> Option<&Value> {
        Self::get(self, path)
    }
}

#[cfg(test)]
mod tests;
