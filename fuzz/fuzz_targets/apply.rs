//! Configurations applied on the server: `{"live": ..., "config": ..., "managedFields": ...}` as a pod's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery::apply::schema::Place;
use machinery::apply::{Managers, Set, Tracker, Versions, Writer};
use serde_json::Value;

struct Pods;

impl Versions for Pods {
    fn root(&self, api_version: &str) -> Option<&dyn Place> {
        if api_version == "v1" { api::schema::by_kind("", "v1", "Pod").map(|pod| pod.place()) } else { None }
    }

    fn convert(&self, _: &Value, _: &str, _: &str) -> Option<Value> {
        None
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(case) = serde_json::from_slice::<Value>(bytes) else { return };
    let managers = Managers::from_value(&case["managedFields"]).unwrap_or_default();
    let reset = Set::default();
    let tracker = Tracker { versions: &Pods, api_version: "v1", subresource: "", reset: &reset };
    let live = Some(&case["live"]).filter(|live| live.is_object());
    let writer = Writer { name: "one", now: "2030-01-01T00:00:00Z" };
    let Ok(applied) = tracker.apply(live, &case["config"], managers, writer, true) else { return };
    let object = applied.object.as_ref().or(live);
    // Applied again it changes nothing, whoever applied in between.
    let again = tracker.apply(object, &case["config"], applied.managers, writer, false);
    assert!(again.is_ok_and(|again| again.object.is_none()), "{case}");
});
