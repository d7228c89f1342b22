//! Wire bytes made by hand, and what they decode to; bytes at random never panic.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A field that is a varint.
fn int(tag: u64, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    for mut number in [tag << 3, value.cast_unsigned()] {
        while number >= 0x80 {
            out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        out.push(u8::try_from(number).unwrap());
    }
    out
}

/// A field that is a string, bytes or a message.
fn data(tag: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut out = int(tag, i64::try_from(value.len()).unwrap());
    // Tags from 16 have two bytes; the wire type is in the first.
    out[0] |= 2;
    out.extend_from_slice(value);
    out
}

fn double(tag: u8, value: f64) -> Vec<u8> {
    [&[tag << 3 | 1][..], &value.to_le_bytes()].concat()
}

/// An object in its envelope.
fn object(version: &str, kind: &str, raw: &[Vec<u8>]) -> Vec<u8> {
    let meta = [data(1, version), data(2, kind)].concat();
    [MAGIC.to_vec(), data(1, meta), data(2, raw.concat()), data(3, ""), data(4, "")].concat()
}

fn check(version: &str, kind: &str, raw: &[Vec<u8>], mut expected: Value) {
    let (seen_version, seen_kind, mut value) = decode(&object(version, kind, raw)).unwrap();
    assert_eq!((&*seen_version, &*seen_kind), (version, kind));
    assert_eq!((value["apiVersion"].take(), value["kind"].take()), (version.into(), kind.into()));
    expected["apiVersion"] = Value::Null;
    expected["kind"] = Value::Null;
    assert_eq!(value, expected);
}

/// `metadata` as a Go client writes it.
fn metadata(name: &str) -> Vec<u8> {
    let fields =
        [data(1, name), data(2, ""), data(3, ""), data(4, ""), data(5, ""), data(6, ""), int(7, 0), data(8, "")];
    data(1, fields.concat())
}

fn map_entry(key: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    [data(1, key), data(2, value)].concat()
}

#[test]
fn reads_maps_and_bytes() {
    let raw =
        [metadata("x"), data(2, map_entry("k", "v")), data(2, map_entry("empty", "")), data(3, map_entry("b", [0xff]))];
    let expected = json!({"metadata": {"name": "x"}, "data": {"k": "v", "empty": ""}, "binaryData": {"b": "/w=="}});
    check("v1", "ConfigMap", &raw, expected);
}

#[test]
fn keeps_the_zeros_that_are_meant_and_drops_the_others() {
    let template =
        data(3, [data(1, data(8, "")), data(2, [data(2, data(1, "c")), int(11, 0), int(4, 0)].concat())].concat());
    let spec = [int(1, 0), template, data(4, ""), int(5, 0), int(7, 0)].concat();
    let expected = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 0,
            "template": {
                "metadata": {},
                "spec": {"containers": [{"name": "c"}], "terminationGracePeriodSeconds": 0},
            },
            "strategy": {},
        },
        "status": {},
    });
    check("apps/v1", "Deployment", &[metadata("d"), data(2, spec), data(3, [int(1, 0), int(2, 0)].concat())], expected);
    let claim = json!({"metadata": {"name": "p"}, "spec": {"storageClassName": ""}});
    check("v1", "PersistentVolumeClaim", &[metadata("p"), data(2, [data(3, ""), data(5, "")].concat())], claim);
    check(
        "v1",
        "DeleteOptions",
        &[int(1, 0), int(3, 0), data(4, "")],
        json!({"gracePeriodSeconds": 0, "orphanDependents": false}),
    );
}

#[test]
fn reads_numbers_times_quantities_and_ports() {
    let port = |inner: &[Vec<u8>]| data(4, inner.concat());
    let service = [
        data(
            1,
            [data(1, ""), data(2, "TCP"), int(3, 80), port(&[int(1, 0), int(2, 8080), data(3, "")]), int(5, 0)]
                .concat(),
        ),
        data(1, [data(1, "n"), int(3, -1), port(&[int(1, 1), int(2, 0), data(3, "http")])].concat()),
    ];
    let expected = json!({"metadata": {"name": "s"}, "spec": {"ports": [
        {"protocol": "TCP", "port": 80, "targetPort": 8080}, {"name": "n", "port": -1, "targetPort": "http"}]}});
    check("v1", "Service", &[metadata("s"), data(2, service.concat())], expected);

    let stamp = [int(1, 1_893_456_000), int(2, 5_000)].concat();
    let lease = [data(1, "me"), int(2, 0), data(3, &stamp)].concat();
    let expected = json!({"metadata": {"creationTimestamp": "2030-01-01T00:00:00Z"}, "spec": {"holderIdentity": "me",
        "leaseDurationSeconds": 0, "acquireTime": "2030-01-01T00:00:00.000005Z"}});
    check("coordination.k8s.io/v1", "Lease", &[data(1, data(8, &stamp)), data(2, lease)], expected);

    let quota = data(1, map_entry("cpu", data(1, "100m")));
    check("v1", "ResourceQuota", &[data(2, quota)], json!({"spec": {"hard": {"cpu": "100m"}}}));
}

#[test]
fn reads_what_json_has_in_line() {
    let source = data(2, data(2, data(1, "Memory")));
    let probe =
        [data(1, data(2, [data(1, "/"), data(2, [int(1, 0), int(2, 80)].concat())].concat())), int(2, 0), int(3, 5)];
    let container = [data(1, "c"), data(10, probe.concat())].concat();
    let ephemeral = data(34, [data(1, data(1, "e")), data(2, "c")].concat());
    let spec = [data(1, [data(1, "v"), source].concat()), data(2, container), ephemeral].concat();
    let expected = json!({"spec": {
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
        "containers": [{"name": "c", "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "timeoutSeconds": 5}}],
        "ephemeralContainers": [{"name": "e", "targetContainerName": "c"}],
    }});
    check("v1", "Pod", &[data(2, spec)], expected);
}

#[test]
fn reads_maps_of_lists_and_what_is_json_inside() {
    let extra = data(5, map_entry("scopes", [data(1, "a"), data(1, "b")].concat()));
    let expected = json!({"spec": {"user": "u", "extra": {"scopes": ["a", "b"]}}});
    check("authorization.k8s.io/v1", "SubjectAccessReview", &[data(2, [data(3, "u"), extra].concat())], expected);

    let revision = [data(2, data(1, br#"{"spec":null}"#)), int(3, 0)];
    check("apps/v1", "ControllerRevision", &revision, json!({"data": {"spec": null}, "revision": 0}));

    let leaf = data(5, "string");
    let schema = [
        data(5, "object"),
        double(9, 5.0),
        double(11, 0.5),
        data(20, data(1, "1")),
        data(20, data(1, "null")),
        data(24, data(1, &leaf)),
        data(29, map_entry("p", [data(24, [data(2, &leaf), data(2, &leaf)].concat()), int(37, 0)].concat())),
        data(30, int(1, 1)),
        data(32, map_entry("d", data(2, "x"))),
        data(33, [int(1, 1), data(2, &leaf)].concat()),
        data(8, data(1, r#"{"a":[]}"#)),
    ];
    let version = data(7, [data(1, "v1"), int(2, 1), int(3, 0), data(4, data(1, schema.concat()))].concat());
    let text = json!({"type": "string"});
    let expected = json!({"spec": {"group": "g", "versions": [{"name": "v1", "served": true, "storage": false,
    "schema": {"openAPIV3Schema": {
        "type": "object", "maximum": 5, "minimum": 0.5, "enum": [1, null], "items": text,
        "properties": {"p": {"items": [text, text]}}, "additionalProperties": true, "dependencies": {"d": ["x"]},
        "additionalItems": text, "default": {"a": []},
    }}}]}});
    let raw = data(2, [data(1, "g"), version].concat());
    check("apiextensions.k8s.io/v1", "CustomResourceDefinition", &[raw], expected);
}

#[test]
fn joins_parts_skips_the_unknown_and_takes_packed_numbers() {
    let raw = [data(2, map_entry("a", "b")), data(500, "x"), int(501, 1), data(3, "")];
    check("v1", "Secret", &raw, json!({"data": {"a": "Yg=="}}));
    // A pod's `securityContext` is 14, its `supplementalGroups` 4: 1000 and 1.
    let pod = [data(2, data(14, int(2, 5))), data(2, data(14, data(4, [0xe8, 0x07, 0x01])))];
    let expected = json!({"spec": {"securityContext": {"runAsUser": 5, "supplementalGroups": [1000, 1]}}});
    check("v1", "Pod", &pod, expected);
}

#[test]
fn takes_json_in_the_envelope() {
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap"}"#;
    let meta = [data(1, "v1"), data(2, "ConfigMap")].concat();
    let bytes = [MAGIC.to_vec(), data(1, meta), data(2, body), data(4, "application/json")].concat();
    assert_eq!(decode(&bytes).unwrap().2.to_string(), body);
}

#[test]
fn says_what_is_wrong_and_where() {
    let table = [
        (b"{}".to_vec(), "cannot decode protobuf: the body does not begin with the magic bytes \"k8s\\0\""),
        (object("v1", "", &[]), "cannot decode protobuf: apiVersion or kind is missing"),
        (
            object("example.com/v1", "Foo", &[]),
            "cannot decode protobuf: no kind \"Foo\" of version \"example.com/v1\" has a protobuf form here: send JSON",
        ),
        (
            object("apps/v1", "Deployment", &[data(2, data(1, "x"))]),
            "cannot decode protobuf at spec.replicas: the field has wire type length-delimited, which does not hold an integer",
        ),
        (
            object("apps/v1", "Deployment", &[data(2, int(1, 1 << 40))]),
            "cannot decode protobuf at spec.replicas: 1099511627776 does not fit the field",
        ),
        (object("v1", "Pod", &[vec![0x12, 5, 1]]), "cannot decode protobuf: the bytes end in the middle of a field"),
        (object("v1", "Pod", &[vec![0x0b]]), "cannot decode protobuf: wire type 3 is not supported"),
        (object("v1", "Pod", &[vec![0x00, 0x00]]), "cannot decode protobuf: 0 is not a field number"),
        (
            object("v1", "Pod", &[data(1, data(1, [0xff]))]),
            "cannot decode protobuf at metadata.name: a string is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0",
        ),
    ];
    for (bytes, expected) in table {
        assert_eq!(base::chain(&decode(&bytes).unwrap_err()), expected);
    }
}

/// Deeper JSON could be stored and never be read again.
#[test]
fn what_is_too_deep_is_refused() {
    let of_depth = |levels: usize| {
        let wrap = |inner: Vec<u8>, _| data(29, map_entry("p", inner));
        let version = data(7, data(4, data(1, (0..levels).fold(Vec::new(), wrap))));
        decode(&object("apiextensions.k8s.io/v1", "CustomResourceDefinition", &[data(2, version)]))
    };
    let refused = |levels: usize| base::chain(&of_depth(levels).unwrap_err());
    let (_, _, value) = of_depth(57).unwrap();
    assert!(serde_json::from_str::<Value>(&json!({"items": [value]}).to_string()).is_ok());
    assert!(refused(60).ends_with("lists and objects lie more than 120 deep in each other"));
    assert!(refused(1000).ends_with("messages lie more than 100 deep in each other"));
}

#[test]
fn the_lists_of_exceptions_name_fields_that_there_are() {
    assert!(ZERO_IS_ABSENT.is_sorted_by_key(|(name, _)| name));
    let has = |short: Option<&str>, name: &str| {
        schema::types().any(|of| short.is_none_or(|short| of.short_name() == short) && of.field(name).is_some())
    };
    for (name, types) in ZERO_IS_ABSENT {
        assert!(has(None, name), "{name}");
        assert!(types.iter().all(|short| has(Some(short), name)), "{name}");
    }
    for (short, name) in EMPTY_IS_MEANT.iter().filter_map(|entry| entry.split_once('.')) {
        assert!(has(Some(short), name), "{short}.{name}");
    }
}

/// Makes a message of any type with something in every field, so that each field of the table is read once.
#[test]
fn every_field_that_is_on_the_wire_is_found() {
    for of in schema::types() {
        for field in of.fields().iter().filter(|field| field.tags().next().is_some()) {
            let at = field.tags().fold(0, |at, tag| path(at, tag).unwrap());
            let found = field_at(of, at).flatten();
            assert_eq!(found.map(|found| found.name), Some(field.name), "{}", of.name());
        }
    }
}

#[test]
fn every_field_of_every_type_survives_the_wire() {
    for of in schema::types().filter(|of| of.scalar().is_none()) {
        // Each type is the outermost once: deeper samples say nothing more, and take minutes.
        let mut sample = schema::tests::sample(of, 3);
        drop_what_is_not_on_the_wire(&mut sample, of);
        let bytes = encode::message(of, sample.to_string().as_bytes()).unwrap();
        let mut seen = Map::new();
        message(&bytes, of, 0, 0, &mut seen).unwrap();
        assert_eq!(Value::Object(seen), sample, "{}", of.name());
    }
}

/// `apiVersion` and `kind` of an object within another one.
fn drop_what_is_not_on_the_wire(object: &mut Value, of: TypeRef) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.retain(|name, _| of.field(name).unwrap().tags().next().is_some());
    for (name, value) in fields {
        let field = of.field(name).unwrap();
        let Kind::Type(inner) = field.kind() else { continue };
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| drop_what_is_not_on_the_wire(item, inner)),
            Value::Object(entries) if field.shape == Shape::Map => {
                entries.values_mut().for_each(|entry| drop_what_is_not_on_the_wire(entry, inner));
            }
            other => drop_what_is_not_on_the_wire(other, inner),
        }
    }
}

#[test]
fn what_is_written_is_what_the_wire_wants() {
    let json =
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"binaryData":{"b":"/w=="},"unknown":[1],
        "data":null,"immutable":false}"#;
    let of = type_of("v1", "ConfigMap").unwrap();
    let raw = [data(1, data(1, "x")), data(3, map_entry("b", [0xff])), int(4, 0)].concat();
    assert_eq!(encode::message(of, json).unwrap(), raw);
    assert_eq!(
        encode::object(of, "v1", "ConfigMap", json).unwrap(),
        object("v1", "ConfigMap", std::slice::from_ref(&raw))
    );
    assert_eq!(encode::metadata_message(json).unwrap(), data(1, data(1, "x")));
    let event = [data(1, "ADDED"), data(2, data(1, &raw))].concat();
    let length = u32::try_from(event.len()).unwrap().to_be_bytes();
    assert_eq!(encode::watch_frame("ADDED", &raw), [&length[..], &event].concat());
    let list = [data(1, data(2, "7")), data(2, &raw)].concat();
    let mut made = encode::list_head(br#"{"resourceVersion":"7"}"#).unwrap();
    encode::item_head(raw.len(), &mut made);
    made.extend_from_slice(&raw);
    assert_eq!(made, list);
}

/// Fields of an enclosed message share one message where they stand together, long ones have long lengths, and unions of
/// schemas are written as upstream's.
#[test]
fn writes_what_json_has_in_line() {
    let long = "x".repeat(300);
    let table = [
        (
            "v1",
            "Volume",
            json!({"name": "v", "emptyDir": {"medium": "Memory"}}),
            vec![data(1, "v"), data(2, data(2, data(1, "Memory")))],
        ),
        (
            "v1",
            "EphemeralContainer",
            json!({"name": "e", "image": long, "targetContainerName": "c"}),
            vec![data(1, [data(1, "e"), data(2, &long)].concat()), data(2, "c")],
        ),
        (
            "v1",
            "EphemeralContainer",
            json!({"name": "e", "targetContainerName": "c", "image": "i"}),
            vec![data(1, data(1, "e")), data(2, "c"), data(1, data(2, "i"))],
        ),
    ];
    for (version, short, json, expected) in table {
        let of = schema::by_name(&format!("io.k8s.api.core.{version}.{short}")).unwrap();
        assert_eq!(encode::message(of, json.to_string().as_bytes()).unwrap(), expected.concat(), "{json}");
    }
    let props = schema::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let text = json!({"type": "string"});
    let schema = json!({"items": text, "additionalProperties": false, "additionalItems": text, "enum": [1, "a"],
        "dependencies": {"a": ["b"], "c": text}, "default": null, "maximum": 3});
    let bytes = encode::message(props, schema.to_string().as_bytes()).unwrap();
    let mut seen = Map::new();
    message(&bytes, props, 0, 0, &mut seen).unwrap();
    let mut expected = schema;
    expected.as_object_mut().unwrap().shift_remove("default");
    assert_eq!(Value::Object(seen), expected);
    let list = encode::message(props, br#"{"items":[{"type":"string"},{"type":"string"}]}"#).unwrap();
    let leaf = data(5, "string");
    assert_eq!(list, data(24, [data(2, &leaf), data(2, &leaf)].concat()));
}

/// Go clients could not read a list of resources: its verbs are a message of their own, for Go's sake.
#[test]
fn the_verbs_of_a_resource_are_a_message() {
    let verbs = [data(1, "get"), data(1, "list")].concat();
    let resource = [data(1, "pods"), int(2, 1), data(3, "Pod"), data(4, verbs), data(6, "pod")].concat();
    let document = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [
        {"name": "pods", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"], "singularName": "pod"}]});
    let written = encode::document(document.to_string().as_bytes()).unwrap().unwrap();
    assert_eq!(written, object("v1", "APIResourceList", &[data(1, "v1"), data(2, resource)]));
    assert_eq!(decode(&written).unwrap().2, document);
}

#[test]
fn says_which_value_does_not_fit() {
    let of = type_of("apps/v1", "Deployment").unwrap();
    let refused = |json: &str| base::chain(&encode::message(of, json.as_bytes()).unwrap_err());
    assert!(refused(r#"{"spec":{"replicas":"two"}}"#).contains("expected Int32 in replicas"));
    assert!(refused(r#"{"spec":[]}"#).contains("spec"));
    assert!(refused("{").starts_with("cannot write the object as protobuf: EOF"));
}

fn kinds() -> Vec<(&'static str, &'static str)> {
    schema::types().filter_map(TypeRef::kind).collect()
}

proptest! {
    /// Any bytes give an object or an error, and what is an object passes the schema's reader without unknown fields.
    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
        let _ = decode(&bytes);
        let _ = decode(&[&MAGIC[..], &bytes].concat());
        let kinds = kinds();
        let (version, kind) = kinds[at.index(kinds.len())];
        let _ = decode(&object(version, kind, &[bytes]));
    }

    /// Bytes that are fields go further in.
    #[test]
    fn random_fields_do_no_harm(
        fields in prop::collection::vec((1u64..30, prop::collection::vec((1u64..30, any::<i64>(), any::<bool>()), 0..8)), 0..8),
        at in any::<prop::sample::Index>(),
    ) {
        let kinds = kinds();
        let (version, kind) = kinds[at.index(kinds.len())];
        let raw: Vec<Vec<u8>> = fields
            .iter()
            .map(|(tag, inner)| {
                let inner = inner.iter().map(|(tag, value, number)| {
                    if *number { int(*tag, *value) } else { data(*tag, int(1, *value)) }
                });
                data(*tag, inner.collect::<Vec<_>>().concat())
            })
            .collect();
        if let Ok((_, _, value)) = decode(&object(version, kind, &raw)) {
            let of = type_of(version, kind).unwrap();
            // What it holds may be refused, as a quantity or JSON of the wrong kind; where it is taken, every field is known.
            if let Ok(seen) = schema::check(&value, of, schema::Strictness::Warn) {
                prop_assert!(seen.warnings.is_empty(), "{:?}", seen.warnings);
            }
        }
    }
}
