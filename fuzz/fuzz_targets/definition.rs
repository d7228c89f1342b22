//! Definitions as they come: defaulted and validated, and where they are valid their schemas compile.
#![no_main]

use apiserver::custom::schema::{Pattern, Schema};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Ok(definition) = serde_json::from_slice::<Value>(bytes) else { return };
    for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
        let schema = Schema::compile(&version["schema"]["openAPIV3Schema"]);
        drop((schema.has_expressions(), schema.at(["spec", "replicas"]).map(Schema::list_map_keys)));
        if let Some(source) = version["schema"]["openAPIV3Schema"]["pattern"].as_str() {
            let broken = Pattern::check(source);
            Pattern::new(source).matches("a");
            drop(broken);
        }
    }
});
