//! Schemas of definitions, and the objects they are for: `{"schema": ..., "object": ...}`.
#![no_main]

use apiserver::custom::schema::Schema;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut case) = serde_json::from_slice::<Value>(bytes) else { return };
    let schema = Schema::compile(&case["schema"]);
    let mut object = case.get_mut("object").map(Value::take).unwrap_or_default();
    schema.prune(&mut object);
    assert!(schema.prune(&mut object).is_empty(), "what is pruned stays pruned");
    schema.set_defaults(&mut object);
    let before = object.clone();
    schema.set_defaults(&mut object);
    assert!(object == before, "defaults are set once");
    drop((schema.validate(&object, None, ""), schema.validate(&object, Some(&before), "")));
    drop((schema.duplicates(&object), schema.embedded_errors(&object)));
});
