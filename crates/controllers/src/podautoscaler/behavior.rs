//! How fast a proposal may be reached: the windows and policies of an autoscaler's behaviour.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How long the highest recommendation holds before fewer replicas are taken, unless the autoscaler says otherwise.
/// Upstream's figure.
const SCALE_DOWN_WINDOW_SECONDS: i64 = 300;
/// The longest window or period that an autoscaler may have: what is older is forgotten, so that memory is bounded.
const REMEMBERED: SignedDuration = SignedDuration::from_secs(3600);

/// What was recommended and done lately.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    recommendations: Vec<(Timestamp, i64)>,
    /// Changes of the scale: more is positive.
    changes: Vec<(Timestamp, i64)>,
}

impl History {
    /// The first recommendation is what there is.
    pub(super) fn begin(&mut self, current: i64, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// The scale was changed.
    pub(super) fn scaled(&mut self, from: i64, to: i64, now: Timestamp) {
        self.changes.push((now, to - from));
    }

    fn recommend(&mut self, replicas: i64, now: Timestamp) {
        self.recommendations.retain(|(at, _)| now.duration_since(*at) <= REMEMBERED);
        self.changes.retain(|(at, _)| now.duration_since(*at) <= REMEMBERED);
        self.recommendations.push((now, replicas));
    }

    fn within(&self, seconds: i64, now: Timestamp) -> impl Iterator<Item = i64> {
        let window = SignedDuration::from_secs(seconds);
        self.recommendations
            .iter()
            .filter(move |(at, _)| now.duration_since(*at) < window)
            .map(|(_, replicas)| *replicas)
    }

    /// How many there were when a period began.
    fn at_start_of(&self, seconds: i64, current: i64, now: Timestamp) -> i64 {
        let period = SignedDuration::from_secs(seconds);
        let changed = self.changes.iter().filter(|(at, _)| now.duration_since(*at) < period).map(|(_, by)| by);
        current - changed.sum::<i64>()
    }
}

/// Where the target is and may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) least: i64,
    pub(super) most: i64,
    pub(super) current: i64,
}

/// A reason and a message.
type Words = (&'static str, &'static str);

/// A proposal within its limits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Limited {
    pub(super) replicas: i64,
    /// Of the condition `AbleToScale`.
    pub(super) able: Words,
    pub(super) is_limited: bool,
    /// Of the condition `ScalingLimited`.
    pub(super) why: Words,
}

const READY: Words = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Words = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Words = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: Words = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: Words = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: Words = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FAST_UP: Words =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Words =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

/// Brings a proposal within what windows, policies and bounds allow, and remembers it.
pub(super) fn limit(behavior: &Value, history: &mut History, bounds: Bounds, proposed: i64, now: Timestamp) -> Limited {
    let stable = stabilized(behavior, history, bounds.current, proposed, now);
    let able = match () {
        () if stable == proposed => READY,
        () if !behavior.is_null() && proposed >= bounds.current => UP_STABILIZED,
        () => DOWN_STABILIZED,
    };
    history.recommend(proposed, now);
    let (replicas, why) = match behavior.is_null() {
        true => by_default(bounds, stable),
        false => by_rate(behavior, history, bounds, stable, now),
    };
    Limited { replicas, able, is_limited: replicas != stable, why }
}

fn stabilized(behavior: &Value, history: &History, current: i64, proposed: i64, now: Timestamp) -> i64 {
    let window = |direction: &str| behavior[direction]["stabilizationWindowSeconds"].as_i64();
    let down = window("scaleDown").unwrap_or(SCALE_DOWN_WINDOW_SECONDS);
    let highest = history.within(down, now).fold(proposed, i64::max);
    if behavior.is_null() {
        return highest;
    }
    let lowest = history.within(window("scaleUp").unwrap_or(0), now).fold(proposed, i64::min);
    current.max(lowest).min(highest)
}

/// At most to the double, or to four.
fn by_default(bounds: Bounds, stable: i64) -> (i64, Words) {
    let fastest = (bounds.current * 2).max(4);
    let (most, why) = if bounds.most > fastest { (fastest, TOO_FAST_UP) } else { (bounds.most, TOO_MANY) };
    match () {
        () if stable < bounds.least => (bounds.least, TOO_FEW),
        () if stable > most => (most, why),
        () => (stable, WITHIN),
    }
}

fn by_rate(behavior: &Value, history: &History, bounds: Bounds, stable: i64, now: Timestamp) -> (i64, Words) {
    let current = bounds.current;
    if stable > current {
        let fastest = rate_limit(&behavior["scaleUp"], history, current, now, Direction::Up).max(current);
        let (most, why) = if bounds.most > fastest { (fastest, TOO_FAST_UP) } else { (bounds.most, TOO_MANY) };
        if stable > most {
            return (most, why);
        }
    } else if stable < current {
        let fastest = rate_limit(&behavior["scaleDown"], history, current, now, Direction::Down).min(current);
        let (least, why) = if bounds.least < fastest { (fastest, TOO_FAST_DOWN) } else { (bounds.least, TOO_FEW) };
        if stable < least {
            return (least, why);
        }
    }
    (stable, WITHIN)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// How far the policies of one direction let the scale go.
fn rate_limit(rules: &Value, history: &History, current: i64, now: Timestamp, direction: Direction) -> i64 {
    let select = rules["selectPolicy"].as_str().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let limits = rules["policies"].as_array().into_iter().flatten().map(|policy| {
        let number = |field: &str| policy[field].as_i64().unwrap_or(0);
        let start = history.at_start_of(number("periodSeconds"), current, now);
        let value = number("value");
        match (policy["type"].as_str() == Some("Percent"), direction) {
            (false, Direction::Up) => start + value,
            (false, Direction::Down) => start - value,
            // Rounded up: a small target would never grow otherwise.
            (true, Direction::Up) => (start * (100 + value) + 99).div_euclid(100),
            (true, Direction::Down) => start * (100 - value) / 100,
        }
    });
    // The most change is the highest limit upwards and the lowest downwards.
    let highest = (direction == Direction::Up) == (select != "Min");
    if highest { limits.max().unwrap_or(i64::MIN) } else { limits.min().unwrap_or(i64::MAX) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + seconds).expect("a time")
    }

    fn history(recommendations: &[(i64, i64)], changes: &[(i64, i64)]) -> History {
        let rows = |rows: &[(i64, i64)]| rows.iter().map(|(second, value)| (at(*second), *value)).collect();
        History { recommendations: rows(recommendations), changes: rows(changes) }
    }

    fn limited(behavior: &Value, history: &History, current: i64, proposed: i64) -> (i64, &'static str, &'static str) {
        let bounds = Bounds { least: 2, most: 100, current };
        let found = limit(behavior, &mut history.clone(), bounds, proposed, at(1000));
        (found.replicas, found.able.0, found.why.0)
    }

    #[test]
    fn without_a_behaviour_it_doubles_at_most_and_falls_after_five_minutes() {
        let none = Value::Null;
        let fresh = history(&[], &[]);
        assert_eq!(limited(&none, &fresh, 3, 5), (5, "ReadyForNewScale", "DesiredWithinRange"));
        assert_eq!(limited(&none, &fresh, 10, 50), (20, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(limited(&none, &fresh, 90, 150), (100, "ReadyForNewScale", "TooManyReplicas"));
        assert_eq!(limited(&none, &fresh, 5, 1), (2, "ReadyForNewScale", "TooFewReplicas"));
        assert_eq!(limited(&none, &history(&[(800, 9)], &[]), 9, 3), (9, "ScaleDownStabilized", "DesiredWithinRange"));
        assert_eq!(limited(&none, &history(&[(699, 9)], &[]), 9, 3), (3, "ReadyForNewScale", "DesiredWithinRange"));
    }

    #[test]
    fn policies_bound_the_change_in_each_period() {
        let behavior = |select: &str| {
            let policies = json!([{"type": "Pods", "value": 4, "periodSeconds": 60},
                {"type": "Percent", "value": 50, "periodSeconds": 60}]);
            let rules = json!({"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": policies});
            json!({"scaleUp": rules, "scaleDown": rules})
        };
        let fresh = history(&[], &[]);
        assert_eq!(limited(&behavior("Max"), &fresh, 10, 50).0, 15);
        assert_eq!(limited(&behavior("Min"), &fresh, 10, 50).0, 14);
        assert_eq!(limited(&behavior("Disabled"), &fresh, 10, 50), (10, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(limited(&behavior("Max"), &fresh, 10, 1), (5, "ReadyForNewScale", "ScaleDownLimit"));
        assert_eq!(limited(&behavior("Min"), &fresh, 10, 1).0, 6);
        // What was added in this period is part of it.
        assert_eq!(limited(&behavior("Min"), &history(&[], &[(970, 3)]), 10, 50).0, 11);
        assert_eq!(limited(&behavior("Min"), &history(&[], &[(900, 3)]), 10, 50).0, 14);
    }

    #[test]
    fn windows_hold_back_both_ways() {
        let behavior = json!({"scaleUp": {"stabilizationWindowSeconds": 60,
            "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]},
            "scaleDown": {"stabilizationWindowSeconds": 60,
                "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]}});
        let low = history(&[(950, 4)], &[]);
        assert_eq!(limited(&behavior, &low, 3, 9), (4, "ScaleUpStabilized", "DesiredWithinRange"));
        let high = history(&[(950, 8)], &[]);
        assert_eq!(limited(&behavior, &high, 9, 3), (8, "ScaleDownStabilized", "DesiredWithinRange"));
    }
}
