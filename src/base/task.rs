//! Named, tracked task spawning. Everything that runs beside a request is started here.

use std::future::Future;

use tokio::task::JoinHandle;

/// Spawns a task on the current worker. `name` is a constant that says what runs, for debuggers and logs.
///
/// # Panics
/// Outside a runtime.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(task = name, "spawn");
    tokio::spawn(future)
}
