//! Named tasks with an owner that awaits them, and supervision of components.
//!
//! A panic in a task is logged and counted, never lost; a component that fails or panics is started again with back-off
//! while the others go on.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio_util::task::TaskTracker;

use crate::{Backoff, Stop};

/// The tasks that one component started. [`Tasks::join`] returns when all have ended.
#[derive(Debug, Clone)]
pub struct Tasks {
    owner: String,
    tracker: TaskTracker,
}

impl Tasks {
    /// An empty set, whose owner's name appears in the log beside each task's.
    pub fn new(owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), tracker: TaskTracker::new() }
    }

    /// Starts a task. A panic is logged with both names.
    pub fn spawn(&self, name: impl Into<String>, future: impl Future<Output = ()> + Send + 'static) {
        let (owner, name) = (self.owner.clone(), name.into());
        self.tracker.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                tracing::error!(%owner, task = %name, panic = panic_message(panic.as_ref()), "task panicked");
            }
        });
    }

    /// Starts a component that runs until `stop`: when it fails, panics or ends early it is started again, first after
    /// 100 ms and at most every 30 s.
    pub fn supervise<F, Fut, E>(&self, name: impl Into<String>, stop: Stop, start: F)
    where
        F: Fn(Stop) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let name = name.into();
        self.spawn(name.clone(), async move {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
            while !stop.is_stopped() {
                let started = tokio::time::Instant::now();
                match AssertUnwindSafe(async { start(stop.child()).await }).catch_unwind().await {
                    Ok(Ok(())) if stop.is_stopped() => break,
                    Ok(Ok(())) => tracing::warn!(component = %name, "component ended early; starting it again"),
                    Ok(Err(error)) => {
                        tracing::error!(component = %name, error = crate::chain(&error), "component failed; starting it again");
                    }
                    Err(panic) => {
                        tracing::error!(component = %name, panic = panic_message(panic.as_ref()), "component panicked; starting it again");
                    }
                }
                // A component that ran for a while earned a fresh start.
                if started.elapsed() > Duration::from_secs(60) {
                    backoff.reset();
                }
                let _ = stop.or_stopped(tokio::time::sleep(backoff.next_delay())).await;
            }
        });
    }

    /// How many tasks are running.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until every task has ended. Give the stop signal first.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_component_that_panics_or_fails_is_started_again() {
        let (tasks, stop, starts) = (Tasks::new("test"), Stop::new(), Arc::new(AtomicU32::new(0)));
        let (counter, root) = (starts.clone(), stop.clone());
        tasks.supervise("flaky", stop.clone(), move |stop| {
            let (counter, root) = (counter.clone(), root.clone());
            async move {
                match counter.fetch_add(1, Ordering::SeqCst) {
                    0 => panic!("first"),
                    1 => Err(std::io::Error::other("second")),
                    _ => {
                        root.stop();
                        stop.stopped().await;
                        Ok(())
                    }
                }
            }
        });
        tasks.join().await;
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }
}
