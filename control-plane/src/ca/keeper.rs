//! Goes on with rotations by itself.

use std::sync::Arc;
use std::time::Duration;

use super::authority::Authority;
use super::rotation::Confirmations;

/// Looks every minute whether a rotation can go on, for ever. A step that fails is tried again. Cancel safe: a step that
/// has begun is brought to its end.
pub async fn keep(authority: Arc<Authority>, confirmations: Arc<dyn Confirmations>) {
    loop {
        let (stepping, asked) = (Arc::clone(&authority), Arc::clone(&confirmations));
        match tokio::task::spawn_blocking(move || stepping.advance(&*asked)).await {
            Ok(Ok(Some(step))) => tracing::info!(step = step.name(), "the rotation of roots went on"),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::error!(%error, "the rotation of roots could not go on"),
            Err(error) => tracing::error!(%error, "the rotation of roots could not be looked at"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

const EVERY: Duration = Duration::from_secs(60);
