//! Claims get volumes: one that was made before, or one that a provisioner makes when it is told to. A volume whose claim is
//! gone is released, and what becomes of it its reclaim policy says.
//!
//! Two rows: [`claim`] binds, and alone writes bindings; [`volume`] follows with phases. The behaviour, annotations, events and
//! messages are upstream's persistentvolume-binder-controller's, but that every retry there has an event here.

pub mod claim;
mod matching;
pub mod volume;

#[cfg(test)]
mod tests;

use control::{EventType, ObjectReference};

use crate::Ctx;

/// The name of the service account; events come from [`EVENT_SOURCE`].
pub(crate) const IDENTITY: &str = "persistent-volume-binder";

/// What events name as their source.
pub(crate) const EVENT_SOURCE: &str = "persistentvolume-controller";

/// Something to tell about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    kind: EventType,
    reason: &'static str,
    message: String,
}

impl Report {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: EventType::Normal, reason, message: message.into() }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind: EventType::Warning, reason, message: message.into() }
    }

    fn send(&self, ctx: &Ctx, about: &ObjectReference) {
        ctx.recorder.event(about, self.kind, self.reason, &self.message);
    }
}
