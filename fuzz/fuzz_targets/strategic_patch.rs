//! A strategic merge patch on a pod: applied or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(patch) = serde_json::from_slice::<Value>(bytes) else { return };
    let Some(pod) = api::schema::by_kind("", "v1", "Pod") else { return };
    let target = json!({"metadata": {"name": "a", "labels": {"a": "b"}, "finalizers": ["x"]},
        "spec": {"containers": [{"name": "one", "ports": [{"containerPort": 1}]}, {"name": "two"}], "volumes": []}});
    drop(machinery::strategic::merge(target, patch, &pod));
});
