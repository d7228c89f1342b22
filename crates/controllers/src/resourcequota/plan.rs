//! What a quota's status should say, given what was counted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use machinery::pod_resources::{Amounts, amounts};
use machinery::{Quantity, time};
use serde_json::Value;

/// A status that says more than was counted is believed for this long: what admission let in may be on its way. Longer
/// than a request may take to be stored, in all but a stuck server; a status that is too high refuses too much meanwhile.
const QUIET: Duration = Duration::from_secs(5);

/// What was counted for one quota.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Every name that can be counted, with its sum.
    pub(super) used: Amounts,
    /// What went since the status was last written.
    pub(super) released: Amounts,
    /// When a pod that is being deleted stops to count.
    pub(super) look_again: Option<Duration>,
}

impl Counted {
    /// Remembers to look again when a pod's time is over.
    pub(super) fn look_again_for(&mut self, pod: &Value, now: Timestamp) {
        let meta = &pod["metadata"];
        let at = meta["deletionTimestamp"].as_str().and_then(|at| time::parse(at).ok());
        let (Some(at), Some(grace)) = (at, meta["deletionGracePeriodSeconds"].as_i64()) else { return };
        let left = SignedDuration::from_secs(grace.saturating_add(1)) - now.duration_since(at);
        let left = Duration::try_from(left).unwrap_or_default();
        if !left.is_zero() {
            self.look_again = Some(self.look_again.map_or(left, |first| first.min(left)));
        }
    }
}

/// What to do.
#[derive(Debug)]
pub(super) struct Plan {
    /// The new status, where it is another.
    pub(super) status: Option<Value>,
    /// When to look again though nothing changes.
    pub(super) next: Option<Duration>,
}

/// `stood`: how long the status has been as it is.
pub(super) fn plan(quota: &Value, counted: &Counted, stood: Duration) -> Plan {
    let (hard, status) = (&quota["spec"]["hard"], &quota["status"]);
    let before = amounts(&status["used"]);
    let mut used = Amounts::new();
    let mut next = counted.look_again;
    for name in hard.as_object().into_iter().flatten().map(|(name, _)| name) {
        let said = before.get(name).copied();
        let Some(sum) = counted.used.get(name).copied() else {
            // Nobody here can count it: what is said stays.
            used.extend(said.map(|said| (name.clone(), said)));
            continue;
        };
        let says_more = said.filter(|said| *said > sum && stood < QUIET);
        let shown = says_more.map_or(sum, |said| {
            let released = counted.released.get(name).copied().unwrap_or(Quantity::ZERO);
            sum.max(said - released)
        });
        if shown > sum {
            let left = QUIET - stood.min(QUIET) + Duration::from_millis(1);
            next = Some(next.map_or(left, |first| first.min(left)));
        }
        used.insert(name.clone(), shown);
    }
    let complete = status["hard"].is_object() && status["used"].is_object();
    let same = complete && amounts(hard) == amounts(&status["hard"]) && before == used;
    let hard = if hard.is_object() { hard.clone() } else { Value::Object(serde_json::Map::new()) };
    Plan { status: (!same).then(|| super::status(&hard, &used)), next }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(said: &Value, counted: i64, released: i64, stood: u64) -> (Value, bool) {
        let one = |value: i64| Amounts::from([("pods".to_owned(), Quantity::from_milli(value * 1000))]);
        let counted = Counted { used: one(counted), released: one(released), look_again: None };
        let hard = json!({"pods": "10"});
        let quota = json!({"spec": {"hard": hard}, "status": {"hard": hard, "used": said}});
        let plan = plan(&quota, &counted, Duration::from_secs(stood));
        let used = plan.status.map_or_else(|| said["pods"].clone(), |status| status["used"]["pods"].clone());
        (used, plan.next.is_some())
    }

    #[test]
    fn what_was_let_in_is_believed_for_a_while() {
        for (said, counted, released, stood, expected) in [
            // As counted, where the status says less or the same.
            ("3", 3, 0, 0, ("3", false)),
            ("2", 3, 0, 0, ("3", false)),
            // Admission let two in that have not arrived.
            ("5", 3, 0, 0, ("5", true)),
            // One went: lowered by that at once.
            ("5", 3, 1, 0, ("4", true)),
            // Never below what was counted, though something is released twice.
            ("5", 3, 9, 0, ("3", false)),
            // What has not arrived by now never will.
            ("5", 3, 0, 5, ("3", false)),
        ] {
            let seen = shown(&json!({"pods": said}), counted, released, stood);
            assert_eq!((&seen.0, seen.1), (&json!(expected.0), expected.1), "{said} {counted} {released} {stood}");
        }
    }

    #[test]
    fn what_nobody_can_count_is_left_as_it_is_said() {
        let hard = json!({"pods": "1", "example.com/x": "2"});
        let quota = json!({"spec": {"hard": hard}});
        let counted = Counted { used: Amounts::from([("pods".to_owned(), Quantity::ZERO)]), ..Counted::default() };
        let status = plan(&quota, &counted, QUIET).status.expect("the first status");
        assert_eq!(status, json!({"hard": hard, "used": {"pods": "0"}}));
    }
}
