//! Writes to one object, one after the other, and who owns what after each.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::schema::{ANY, Entry, Key, List, ListKind, Place, Scalar, Shape};
use super::tracker::{Tracker, Versions, Writer};
use super::typed::{check, fields};
use super::{ApplyError, Managers, Set};

/// A type, as a CRD would write it: `type`, `properties`, `additionalProperties`, `items` and the `x-kubernetes` marks.
struct Type {
    schema: Value,
    fields: BTreeMap<String, Type>,
    inner: Option<Box<Type>>,
    keys: Vec<Key>,
}

impl Type {
    fn of(schema: &Value) -> Self {
        let fields = schema["properties"].as_object().into_iter().flatten();
        let inner = schema.get("items").or(schema.get("additionalProperties"));
        let inner = inner.map(|inner| Box::new(Self::of(inner)));
        let defaults = |name: &str| schema["items"]["properties"][name].get("default").cloned();
        let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let keys = keys.map(|name| Key { name: name.to_owned().into(), default: defaults(name) }).collect();
        Self {
            schema: schema.clone(),
            fields: fields.map(|(name, schema)| (name.clone(), Self::of(schema))).collect(),
            inner,
            keys,
        }
    }
}

impl Place for Type {
    fn shape(&self) -> Shape<'_> {
        match self.schema["type"].as_str().unwrap_or_default() {
            "string" => Shape::Scalar(Scalar::String),
            "integer" => Shape::Scalar(Scalar::Number),
            "boolean" => Shape::Scalar(Scalar::Bool),
            "object" => Shape::Map { atomic: self.schema["x-kubernetes-map-type"] == "atomic" },
            "array" => {
                let kind = match self.schema["x-kubernetes-list-type"].as_str() {
                    Some("set") => ListKind::Set,
                    Some("map") => ListKind::Map(&self.keys),
                    _ => ListKind::Atomic,
                };
                Shape::List(List { kind, element: self.inner.as_deref().map_or(ANY, |inner| inner as &dyn Place) })
            }
            _ => Shape::Any,
        }
    }

    fn entry(&self, name: &str) -> Entry<'_> {
        match (self.fields.get(name), &self.inner) {
            (Some(field), _) => Entry::Field(field),
            (None, Some(inner)) => Entry::Additional(&**inner),
            (None, None) if self.schema["type"].is_null() => Entry::Additional(ANY),
            (None, None) => Entry::Unknown,
        }
    }

    fn always_has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|field| field.schema["always"] == true)
    }
}

fn schema() -> Type {
    let port = json!({"type": "object", "properties": {"port": {"type": "integer"},
        "protocol": {"type": "string", "default": "TCP"}, "name": {"type": "string"}}});
    Type::of(&json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"},
        "metadata": {"type": "object", "always": true, "properties": {"name": {"type": "string"}, "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
            "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}},
        "spec": {"type": "object", "always": true, "properties": {
            "replicas": {"type": "integer"}, "paused": {"type": "boolean"},
            "selector": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
            "args": {"type": "array", "items": {"type": "string"}},
            "strategy": {"type": "object", "properties": {"type": {"type": "string"}, "max": {"type": "integer"}}},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
                "items": port},
            "containers": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "image": {"type": "string"},
                    "env": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "string"}}}}}}},
            "free": {}}},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}))
}

struct OneVersion(Type);

impl Versions for OneVersion {
    fn root(&self, api_version: &str) -> Option<&dyn Place> {
        (api_version == "v1").then_some(&self.0)
    }
    fn convert(&self, _: &Value, _: &str, _: &str) -> Option<Value> {
        None
    }
}

/// An object that is written to.
struct World {
    versions: OneVersion,
    reset: Set,
    object: Option<Value>,
    managers: Managers,
    clock: u32,
}

impl World {
    fn new() -> Self {
        let reset = Set::of(&[&["status"]]);
        Self { versions: OneVersion(schema()), reset, object: None, managers: Managers::default(), clock: 0 }
    }

    fn now(&mut self) -> String {
        self.clock += 1;
        format!("2026-01-01T00:{:02}:{:02}Z", self.clock / 60, self.clock % 60)
    }

    fn apply(&mut self, name: &str, spec: Value, force: bool) -> Result<(), ApplyError> {
        let now = self.now();
        let tracker = Tracker { versions: &self.versions, api_version: "v1", subresource: "", reset: &self.reset };
        let writer = Writer { name, now: &now };
        let applied =
            tracker.apply_for_users(self.object.as_ref(), &object(spec), self.managers.clone(), writer, force)?;
        self.object = applied.object.or(self.object.take());
        self.managers = applied.managers;
        Ok(())
    }

    fn update(&mut self, name: &str, new: Value) {
        let now = self.now();
        let tracker = Tracker { versions: &self.versions, api_version: "v1", subresource: "", reset: &self.reset };
        let (new, managers) = (object(new), std::mem::take(&mut self.managers));
        self.managers = tracker.update(self.object.as_ref(), &new, managers, Writer { name, now: &now });
        self.object = Some(new);
    }

    fn spec(&self) -> Value {
        self.object.as_ref().map(|object| object["spec"].clone()).unwrap_or_default()
    }

    /// `manager: fields`, by name.
    fn owned(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .managers
            .0
            .iter()
            .map(|manager| {
                let mut out = Vec::new();
                manager.fields.write(&mut out);
                format!("{}: {}", manager.name, String::from_utf8(out).unwrap())
            })
            .collect();
        all.sort();
        all
    }
}

/// An object with that spec, or that object where it has one.
fn object(given: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}});
    match given.get("spec").or(given.get("metadata")) {
        Some(_) => given.as_object().unwrap().iter().for_each(|(name, value)| object[name] = value.clone()),
        None => object["spec"] = given,
    }
    object
}

#[test]
fn who_applies_owns_what_it_set() {
    let table = [
        (json!({"replicas": 1}), r#"{"f:spec":{"f:replicas":{}}}"#),
        (json!({"selector": {"a": "b"}, "args": ["x"]}), r#"{"f:spec":{"f:args":{},"f:selector":{}}}"#),
        (json!({"selector": {}, "args": []}), r#"{"f:spec":{"f:args":{},"f:selector":{}}}"#),
        (json!({"strategy": {}}), r#"{"f:spec":{"f:strategy":{}}}"#),
        (json!({"strategy": null, "replicas": null}), r#"{"f:spec":{"f:replicas":{},"f:strategy":{}}}"#),
        (json!({"containers": []}), r#"{}"#),
        (
            json!({"containers": [{"name": "b", "env": [{"name": "E", "value": "1"}]}, {"name": "a"}]}),
            r#"{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:name":{}},"k:{\"name\":\"b\"}":{".":{},"f:env":{"k:{\"name\":\"E\"}":{".":{},"f:name":{},"f:value":{}}},"f:name":{}}}}}"#,
        ),
        (
            json!({"ports": [{"port": 80, "name": "web"}]}),
            r#"{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{}}}}}"#,
        ),
        (
            json!({"free": {"a": {"b": [1]}, "c": 1}}),
            r#"{"f:spec":{"f:free":{"f:a":{".":{},"f:b":{".":{}}},"f:c":{}}}}"#,
        ),
        (
            json!({"metadata": {"name": "x", "labels": {"a": "b"}, "finalizers": ["z", "y"]}}),
            r#"{"f:metadata":{"f:finalizers":{"v:\"y\"":{},"v:\"z\"":{}},"f:labels":{"f:a":{}}}}"#,
        ),
        // What the server sets back, nobody owns.
        (json!({"spec": {"replicas": 1}, "status": {"ready": true}}), r#"{"f:spec":{"f:replicas":{}}}"#),
    ];
    for (spec, expected) in table {
        let mut world = World::new();
        world.apply("one", spec.clone(), false).unwrap();
        let expected = expected.replace(r#"{".":{}}"#, "{}");
        let owned = if expected == "{}" { vec![] } else { vec![format!("one: {expected}")] };
        assert_eq!(world.owned(), owned, "{spec}");
    }
}

#[test]
fn who_creates_owns_what_was_not_there() {
    let mut world = World::new();
    world.update(
        "maker",
        json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"replicas": 1, "strategy": {"type": "t"},
            "containers": [{"name": "a", "image": "i"}], "selector": {"a": "b"}}}),
    );
    assert_eq!(
        world.owned(),
        [
            r#"maker: {"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{".":{},"k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:name":{}}},"f:replicas":{},"f:selector":{},"f:strategy":{".":{},"f:type":{}}}}"#
        ]
    );
    // A change takes only what it changes.
    world.update(
        "other",
        json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"replicas": 2, "strategy": {"type": "t"},
            "containers": [{"name": "a", "image": "j"}], "selector": {"a": "c"}}}),
    );
    assert_eq!(
        world.owned(),
        [
            r#"maker: {"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{".":{},"k:{\"name\":\"a\"}":{".":{},"f:name":{}}},"f:strategy":{".":{},"f:type":{}}}}"#,
            r#"other: {"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{"f:image":{}}},"f:replicas":{},"f:selector":{}}}"#,
        ]
    );
}

#[test]
fn what_is_no_longer_applied_goes_unless_others_own_it() {
    let mut world = World::new();
    let both =
        json!({"replicas": 1, "containers": [{"name": "a", "image": "i"}, {"name": "b"}], "strategy": {"type": "t"}});
    world.apply("one", both, false).unwrap();
    world.apply("two", json!({"containers": [{"name": "b"}]}), false).unwrap();
    world.apply("one", json!({"strategy": {"max": 1}}), false).unwrap();
    // The container that two also owns stays; that one's replicas, container and type go.
    assert_eq!(world.spec(), json!({"containers": [{"name": "b"}], "strategy": {"max": 1}}));
    // A field that another updated is his: it stays when the applier leaves it out.
    world.apply("one", json!({"replicas": 1, "paused": true}), false).unwrap();
    world.update("other", json!({"containers": [{"name": "b"}], "replicas": 3, "paused": true}));
    world.apply("one", json!({"args": ["x"]}), false).unwrap();
    assert_eq!(world.spec(), json!({"containers": [{"name": "b"}], "replicas": 3, "args": ["x"]}));
}

#[test]
fn conflicts_name_who_and_what() {
    let mut world = World::new();
    world.update("maker", json!({"replicas": 1, "paused": true, "args": ["a"]}));
    world.apply("one", json!({"replicas": 1}), false).unwrap();
    let error = world.apply("two", json!({"replicas": 2}), false).unwrap_err().to_string();
    let by_maker = "\"maker\" using v1 at 2026-01-01T00:00:01Z";
    assert_eq!(
        error,
        format!(
            "Apply failed with 2 conflicts: conflicts with {by_maker}:\n- .spec.replicas\nconflicts with \"one\":\n- .spec.replicas"
        )
    );
    let error = world.apply("two", json!({"args": ["b"]}), false).unwrap_err().to_string();
    assert_eq!(error, format!("Apply failed with 1 conflict: conflict with {by_maker}: .spec.args"));
    // The same value is shared, and nothing of it is taken by force.
    world.apply("two", json!({"replicas": 1}), true).unwrap();
    assert_eq!(world.owned()[2], r#"two: {"f:spec":{"f:replicas":{}}}"#);
    world.apply("two", json!({"replicas": 2}), true).unwrap();
    assert_eq!(
        world.owned(),
        [r#"maker: {"f:spec":{"f:args":{},"f:paused":{}}}"#, r#"two: {"f:spec":{"f:replicas":{}}}"#]
    );
}

#[test]
fn lists_merge_in_the_configurations_order() {
    let names = |names: &str| json!({"containers": names.chars().map(|name| json!({"name": name.to_string()})).collect::<Vec<_>>()});
    for (live, config, merged) in [
        ("ab", "ab", "ab"),
        ("ab", "ba", "ba"),
        ("abc", "c", "abc"),
        ("abc", "ca", "bca"),
        ("ab", "xb", "axb"),
        ("a", "xa", "xa"),
        ("xay", "ba", "xbay"),
        ("", "ab", "ab"),
    ] {
        let mut world = World::new();
        world.update("maker", names(live));
        world.apply("one", names(config), false).unwrap();
        assert_eq!(world.spec(), names(merged), "{live} {config}");
    }
}

#[test]
fn elements_that_are_alike_are_one_field() {
    let twice = json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "protocol": "TCP", "name": "b"}]});
    let mut world = World::new();
    let error = world.apply("one", twice.clone(), false).unwrap_err().to_string();
    assert_eq!(
        error,
        "failed to create typed patch object (/x; /v1, Kind=Thing): .spec.ports: duplicate entries for key \
         [port=80,protocol=\"TCP\"]"
    );
    world.update("maker", twice);
    let owned = r#"maker: {"f:spec":{"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{}}}}"#;
    assert_eq!(world.owned(), [owned]);
    // Another element beside them can be applied; they stay.
    world.apply("one", json!({"ports": [{"port": 81}]}), false).unwrap();
    assert_eq!(world.spec()["ports"].as_array().unwrap().len(), 3);
}

#[test]
fn a_configuration_must_fit() {
    let table = [
        (json!({"nope": 1}), ".spec.nope: field not declared in schema"),
        (json!({"replicas": "1"}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"args": [1]}), ".spec.args[0]: expected string, got &value.valueUnstructured{Value:1}"),
        (json!({"paused": "x"}), ".spec.paused: expected boolean, got &{x}"),
        (json!({"strategy": [1]}), ".spec.strategy: expected map, got &{[1]}"),
        (json!({"args": {"a": 1}}), ".spec.args: expected list, got &{map[a:1]}"),
        (
            json!({"containers": [{"image": "i"}]}),
            ".spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] \
             (and doesn't have default values for any key fields)",
        ),
        (
            json!({"containers": [{"name": "a", "image": 1, "x": 1}]}),
            "errors:\n  .spec.containers[name=\"a\"].image: expected string, got \
             &value.valueUnstructured{Value:1}\n  .spec.containers[name=\"a\"].x: field not declared in schema",
        ),
    ];
    for (spec, why) in table {
        let error = World::new().apply("one", spec.clone(), false).unwrap_err().to_string();
        assert_eq!(error, format!("failed to create typed patch object (/x; /v1, Kind=Thing): {why}"), "{spec}");
    }
    let mut world = World::new();
    let error = world.apply("one", json!({"metadata": {"managedFields": []}}), false).unwrap_err();
    assert_eq!(error, ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
}

#[test]
fn an_object_that_nobody_kept_count_of_has_one_owner_first() {
    let mut world = World::new();
    world.object = Some(object(json!({"replicas": 1, "paused": true})));
    world.update("maker", json!({"replicas": 2, "paused": true}));
    assert!(world.managers.is_empty(), "tracking begins with the first apply");
    let error = world.apply("one", json!({"replicas": 3}), false).unwrap_err().to_string();
    assert!(error.contains("\"before-first-apply\" using v1 at"), "{error}");
    world.apply("one", json!({"replicas": 3}), true).unwrap();
    assert_eq!(
        world.owned(),
        [r#"before-first-apply: {"f:spec":{"f:paused":{}}}"#, r#"one: {"f:spec":{"f:replicas":{}}}"#]
    );
}

#[test]
fn kubectl_takes_over_what_it_applied_client_side() {
    let mut world = World::new();
    let mut config = object(json!({"replicas": 1, "paused": true}));
    let last = format!("{config}\n");
    config["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    world.update("kubectl-client-side-apply", config);
    // What it applied and nobody changed is its own.
    world.apply("kubectl", json!({"replicas": 2, "paused": true}), false).unwrap();
    assert_eq!(world.spec(), json!({"replicas": 2, "paused": true}));
    let annotation = &world.object.as_ref().unwrap()["metadata"]["annotations"];
    let expected = "{\"apiVersion\":\"v1\",\"kind\":\"Thing\",\"metadata\":{\"name\":\"x\"},\"spec\":{\"paused\":true,\"replicas\":2}}\n";
    assert_eq!(annotation["kubectl.kubernetes.io/last-applied-configuration"], expected);
    // Another name gets no such help, nor does kubectl for what others changed.
    let mut changed = world.object.clone().unwrap();
    changed["spec"]["paused"] = false.into();
    world.update("other", changed);
    let error = world.apply("kubectl", json!({"replicas": 3, "paused": true}), false).unwrap_err().to_string();
    assert!(error.starts_with("Apply failed with 1 conflict: conflict with \"other\""), "{error}");
}

#[test]
fn updaters_beyond_the_limit_become_one() {
    let mut world = World::new();
    for n in 0..15 {
        let mut object = world.object.clone().unwrap_or_else(|| object(json!({"replicas": 0})));
        object["metadata"]["labels"][format!("l{n}")] = "x".into();
        world.update(&format!("m{n:02}"), object);
    }
    world.apply("applier", json!({"paused": true}), false).unwrap();
    let names: Vec<_> = world.managers.0.iter().map(|manager| &*manager.name).collect();
    assert_eq!(names.len(), 11, "ten updaters and the applier: {names:?}");
    let ancient = world.owned().remove(0);
    assert!(
        ancient.starts_with("ancient-changes: ") && ancient.contains("f:l5") && !ancient.contains("f:l6"),
        "{ancient}"
    );
}

#[test]
fn nothing_changes_where_nothing_changed() {
    let mut world = World::new();
    world.apply("one", json!({"replicas": 1}), false).unwrap();
    let before = world.managers.clone();
    world.apply("one", json!({"replicas": 1}), false).unwrap();
    world.update("other", json!({"replicas": 1}));
    assert_eq!(world.managers, before, "times and all");
}

/// Specs that overlap in part.
fn any_spec() -> impl Strategy<Value = Value> {
    let containers = proptest::sample::subsequence(vec!["a", "b", "c"], 0..=3).prop_shuffle().prop_map(|names| {
        json!(names.into_iter().map(|name| json!({"name": name, "image": name})).collect::<Vec<_>>())
    });
    let env = proptest::sample::subsequence(vec!["E", "F"], 0..=2)
        .prop_map(|names| json!(names.into_iter().map(|name| json!({"name": name, "value": "v"})).collect::<Vec<_>>()));
    (proptest::option::of(0..3i64), containers, env, proptest::option::of("[ab]"), any::<bool>()).prop_map(
        |(replicas, mut containers, env, text, strategy)| {
            if let Some(first) = containers.get_mut(0) {
                first["env"] = env;
            }
            let mut spec = json!({"containers": containers});
            if let Some(replicas) = replicas {
                spec["replicas"] = replicas.into();
            }
            if let Some(text) = text {
                spec["selector"] = json!({"a": text});
                spec["free"] = json!({text: 1});
            }
            if strategy {
                spec["strategy"] = json!({"type": "t"});
            }
            spec
        },
    )
}

proptest! {
    #[test]
    fn to_apply_again_changes_nothing(first in any_spec(), second in any_spec(), third in any_spec()) {
        let mut world = World::new();
        world.update("maker", first);
        world.apply("one", second, true).unwrap();
        world.apply("two", third.clone(), true).unwrap();
        let (object, managers) = (world.object.clone(), world.managers.clone());
        world.apply("two", third, false).unwrap();
        prop_assert_eq!((&world.object, &world.managers), (&object, &managers));
    }

    #[test]
    fn an_applier_owns_just_what_it_set_and_it_is_there(first in any_spec(), second in any_spec()) {
        let mut world = World::new();
        world.apply("one", first, true).unwrap();
        world.update("other", second.clone());
        world.apply("one", second.clone(), true).unwrap();
        let own = world.managers.0.iter().find(|manager| manager.name == "one");
        let own = own.map(|manager| manager.fields.clone()).unwrap_or_default();
        let root = &world.versions.0;
        let set = fields(&json!({"spec": second}), root);
        prop_assert_eq!(&own, &set);
        let there = fields(&json!({"spec": world.spec()}), root);
        prop_assert!(own.difference(&there).is_empty());
        prop_assert!(check(world.object.as_ref().unwrap(), root).is_ok());
    }

    #[test]
    fn what_one_applier_set_goes_with_it(spec in any_spec()) {
        let mut world = World::new();
        world.apply("keeper", json!({"paused": true}), false).unwrap();
        world.apply("one", spec, true).unwrap();
        world.apply("one", json!({}), true).unwrap();
        let mut left = world.spec();
        // What held parts stays, with nothing in it.
        left.as_object_mut().unwrap().retain(|_, value| *value != json!([]) && *value != json!({}));
        prop_assert_eq!(left, json!({"paused": true}));
        prop_assert_eq!(world.owned(), [r#"keeper: {"f:spec":{"f:paused":{}}}"#, r#"one: {"f:spec":{}}"#]);
    }
}
