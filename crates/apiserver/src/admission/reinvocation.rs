//! Running mutating plugins a second time: what one changed may concern another that came before it.
//!
//! Each write has one of these. The plugins run once more where one wants it; who has been asked and wants to be asked again
//! is kept here by its key. Upstream's reinvocation context.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

const POISON: &str = "nothing panics while it takes notes of a write";

/// What is known of one write.
#[derive(Debug, Default)]
pub struct Reinvocation(Mutex<Run>);

#[derive(Debug, Default)]
struct Run {
    is_second: bool,
    wants_second: bool,
    /// Whether an object has been changed that is not settled yet.
    unsettled: bool,
    /// Who was asked and wants to hear of later changes.
    asked: BTreeSet<String>,
    /// Whom later changes concern.
    due: BTreeSet<String>,
    left: Option<Value>,
}

impl Run {
    fn changed(&mut self) {
        self.due.append(&mut self.asked);
    }
}

impl Reinvocation {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.0.lock().expect(POISON)
    }

    /// Policies begin. Whether others changed what they left is seen here.
    pub fn begin(&self, object: &Value) {
        let mut run = self.run();
        if run.is_second && run.left.as_ref() != Some(object) {
            run.changed();
        }
    }

    /// Policies leave this.
    pub fn end(&self, object: &Value) {
        self.run().left = Some(object.clone());
    }

    /// Whether somebody is to be asked: in the second run only whom a change concerns.
    pub fn asks(&self, key: &str) -> bool {
        let run = self.run();
        !run.is_second || run.due.contains(key)
    }

    /// Somebody was asked, and wants to hear of later changes.
    pub fn asked(&self, key: String) {
        self.run().asked.insert(key);
    }

    /// The object was changed.
    pub fn changed(&self) {
        let mut run = self.run();
        run.changed();
        run.wants_second = true;
        run.unsettled = true;
    }

    /// Whether the object was changed since the last time that this was asked.
    pub fn take_unsettled(&self) -> bool {
        std::mem::take(&mut self.run().unsettled)
    }

    /// Whether a second run begins now. There is no third.
    pub fn begins_second(&self) -> bool {
        let mut run = self.run();
        let begins = run.wants_second && !run.is_second;
        run.is_second |= begins;
        begins
    }
}
