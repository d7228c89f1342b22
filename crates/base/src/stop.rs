//! The signal to stop: one root in the binary, a child for every component.

use tokio_util::sync::CancellationToken;

/// Tells a component to end. Cloning shares the signal; [`Stop::child`] makes one that its parent also stops.
#[derive(Debug, Clone, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// A signal that nobody has given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A signal that is given with this one, or alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Gives the signal. It stays given.
    pub fn stop(&self) {
        self.0.cancel();
    }

    /// Whether the signal was given.
    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits for the signal.
    pub async fn stopped(&self) {
        self.0.cancelled().await;
    }

    /// Runs `future` until the signal is given: `None` when that came first. `future` is dropped at its next `.await`.
    pub async fn or_stopped<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }
}
