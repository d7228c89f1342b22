//! Which components of the process run now, for whoever asks the API for their status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apiserver::registry::core::component_status::Component;

/// The components that have a status.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) controllers: Switch,
    pub(super) scheduler: Switch,
}

/// Whether one component runs.
#[derive(Debug, Default)]
pub(super) struct Switch(Arc<AtomicBool>);

impl Switch {
    /// What the API server is told of it.
    pub(super) fn component(&self, name: &'static str) -> Component {
        Component { name, running: self.0.clone() }
    }

    /// It runs until what this gives is dropped, whatever ends it.
    pub(super) fn begin(&self) -> Turn {
        self.0.store(true, Ordering::Relaxed);
        Turn(self.0.clone())
    }
}

/// A component's time.
#[derive(Debug)]
pub(super) struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
