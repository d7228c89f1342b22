//! What is to be said about a request beside its answer: warnings for the client, annotations for the audit log. Admission
//! plugins and strategies write here while they decide.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::audit::Trail;

/// Warnings of one request; more are left out, since all of them travel in the answer's headers.
const WARNINGS_MAX: usize = 64;
/// Annotations of one request. Plugins write a handful each.
const ANNOTATIONS_MAX: usize = 64;

const POISON: &str = "nothing panics while it writes a note";

/// The notes of one request.
#[derive(Debug, Default)]
pub struct Notes {
    inner: Mutex<Inner>,
    trail: Option<Box<Trail>>,
}

#[derive(Debug, Default)]
struct Inner {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
}

impl Notes {
    /// The notes of a request that the audit log may be told of.
    pub(crate) fn with(trail: Option<Box<Trail>>) -> Self {
        Self { trail, ..Self::default() }
    }

    /// What the audit log is told of the request, where there is a log.
    pub(crate) fn trail(&self) -> Option<&Trail> {
        self.trail.as_deref()
    }

    /// Tells the client, once however often it is said: a write may be tried again.
    pub fn warn(&self, warning: impl Into<String>) {
        let (mut inner, warning) = (self.inner.lock().expect(POISON), warning.into());
        if inner.warnings.len() < WARNINGS_MAX && !inner.warnings.contains(&warning) {
            inner.warnings.push(warning);
        }
    }

    /// Tells the audit log; what is said last about a key stands.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut inner = self.inner.lock().expect(POISON);
        if inner.annotations.len() < ANNOTATIONS_MAX {
            inner.annotations.insert(key.into(), value.into());
        }
    }

    /// What the client is to be told.
    pub fn warnings(&self) -> Vec<String> {
        self.inner.lock().expect(POISON).warnings.clone()
    }

    /// What the audit log is to be told.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.inner.lock().expect(POISON).annotations.clone()
    }
}
