//! The table is whole, and objects are read as upstream reads them.

use machinery::strategic;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::resources::{CUSTOM_RESOURCE_DEFINITIONS, DEPLOYMENTS, PODS, RESOURCES, SECRETS};

fn of(resource: &Resource) -> TypeRef {
    type_of(resource).unwrap()
}

/// An object of a type with every field set, down to where types contain themselves.
pub(crate) fn sample(of: TypeRef, depth: usize) -> Value {
    let deeper = |field: &&Field| depth > 0 || field.required || !matches!(field.kind(), Kind::Type(_));
    let fields = of.fields().iter().filter(deeper).map(|field| {
        let value = match field.kind() {
            Kind::String => json!("text"),
            Kind::Int32 | Kind::IntOrString => json!(7),
            Kind::Int64 => json!(i64::MAX),
            Kind::Double => json!(0.5),
            Kind::Bool => json!(true),
            Kind::Bytes => json!("AAE="),
            Kind::Quantity => json!("1500m"),
            Kind::Time => json!("2026-01-02T03:04:05Z"),
            Kind::MicroTime => json!("2026-01-02T03:04:05.000006Z"),
            Kind::Object | Kind::Any => json!({}),
            Kind::Type(inner) => sample(inner, depth.saturating_sub(1)),
        };
        let value = match field.shape {
            Shape::One => value,
            Shape::List => json!([value]),
            Shape::Map => json!({"key": value}),
            Shape::MapOfLists => json!({"key": [value]}),
        };
        (field.name.to_owned(), value)
    });
    let mut object: serde_json::Map<_, _> = fields.collect();
    if let Some((api_version, kind)) = of.kind() {
        object.extend([("apiVersion".to_owned(), api_version.into()), ("kind".to_owned(), kind.into())]);
    }
    Value::Object(object)
}

#[test]
fn an_object_with_every_field_is_stored_as_it_is() {
    for resource in RESOURCES {
        let object = sample(of(resource), 8);
        let stored = decode(object.to_string().as_bytes(), of(resource), Strictness::Strict);
        assert_eq!(stored.unwrap().value, object, "{}", resource.kind);
    }
}

#[test]
fn every_resource_and_its_list_have_a_type() {
    for resource in RESOURCES {
        let of = of(resource);
        assert_eq!(of.kind(), Some((&*resource.api_version(), &*resource.kind)));
        assert!(of.field("metadata").is_some());
        for subresource in &*resource.subresources {
            let Some((group, version, kind)) = &subresource.kind else { continue };
            // The options of streams are query parameters, not bodies.
            assert!(kind.ends_with("Options") || by_kind(group, version, kind).is_some(), "{kind}");
        }
        if resource.serves(crate::Verb::List) {
            let list = by_kind(&resource.group, &resource.version, &format!("{}List", resource.kind));
            let items = list.and_then(|list| list.field("items")).unwrap();
            assert_eq!((items.shape, items.kind()), (Shape::List, Kind::Type(of)));
        }
    }
}

#[test]
fn types_are_found_by_name_and_described() {
    let descriptions = descriptions();
    for of in types() {
        assert_eq!(by_name(of.name()), Some(of));
        assert_eq!(descriptions.of_fields(of).count(), of.fields().len());
        assert!(of.fields().is_sorted_by_key(|field| field.name), "{}", of.name());
        // What is on the wire has its own tag.
        let mut tags: Vec<Vec<u32>> = of.fields().iter().map(|field| field.tags().collect()).collect();
        tags.retain(|tags| !tags.is_empty());
        let count = tags.len();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), count, "{}", of.name());
    }
    let pod_spec = by_name("io.k8s.api.core.v1.PodSpec").unwrap();
    assert_eq!(descriptions.of_type(pod_spec), "PodSpec is a description of a pod.");
    let affinity = pod_spec.fields().iter().position(|field| field.name == "affinity").unwrap();
    let described = descriptions.of_fields(pod_spec).nth(affinity);
    assert_eq!(described, Some("If specified, the pod's scheduling constraints"));
}

#[test]
fn fields_know_how_they_merge_and_where_they_are_on_the_wire() {
    let ports = by_name("io.k8s.api.core.v1.ServiceSpec").unwrap().field("ports").unwrap();
    assert_eq!((ports.merge_key(), ports.list_type()), (Some("port"), Some(ListType::Map)));
    assert_eq!(ports.map_keys().collect::<Vec<_>>(), ["port", "protocol"]);
    let empty_dir = by_name("io.k8s.api.core.v1.Volume").unwrap().field("emptyDir").unwrap();
    assert_eq!(empty_dir.tags().collect::<Vec<_>>(), [2, 2], "the wire has a VolumeSource around it");
    let seccomp = by_name("io.k8s.api.core.v1.SeccompProfile").unwrap();
    let (discriminator, members) = seccomp.union().unwrap();
    assert_eq!((discriminator, members.collect::<Vec<_>>()), ("type", vec!["localhostProfile"]));
    assert!(by_name("io.k8s.api.core.v1.LocalObjectReference").unwrap().is_atomic());
}

/// What is stored of `object`, and what the client is warned of.
fn read(resource: &Resource, object: &str) -> Result<(Value, Vec<String>), String> {
    let decoded = decode(object.as_bytes(), of(resource), Strictness::Warn).map_err(|error| error.to_string())?;
    Ok((decoded.value, decoded.warnings))
}

#[test]
fn unknown_and_repeated_fields_are_named_by_their_path() {
    let cases = [
        (r#"{"foo":1}"#, "unknown field \"foo\""),
        (
            r#"{"spec":{"containers":[{"name":"a"},{"image":"x","imagePull":{}}]}}"#,
            "unknown field \"spec.containers[1].imagePull\"",
        ),
        (r#"{"metadata":{"labels":{"a":"1","a":"2"}}}"#, "duplicate field \"metadata.labels.a\""),
        (r#"{"spec":{"nodeName":null,"nodeName":"n"}}"#, "duplicate field \"spec.nodeName\""),
        (r#"{"Spec":{}}"#, "unknown field \"Spec\""),
    ];
    for (object, expected) in cases {
        assert_eq!(read(PODS, object).unwrap().1, [expected], "{object}");
        let strict = decode(object.as_bytes(), of(PODS), Strictness::Strict).unwrap_err();
        assert_eq!(strict.to_string(), format!("strict decoding error: {expected}"));
        assert_eq!(decode(object.as_bytes(), of(PODS), Strictness::Ignore).unwrap().warnings, [""; 0]);
    }
    let (stored, _) = read(PODS, r#"{"spec":{"nodeName":"a","nodeName":"b","x":{"deep":[1]}}}"#).unwrap();
    assert_eq!(stored, json!({"spec": {"nodeName": "b"}}));
}

#[test]
fn values_of_the_wrong_kind_are_refused_in_upstreams_words() {
    let cases = [
        (
            DEPLOYMENTS,
            r#"{"spec":{"replicas":"3"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENTS,
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENTS,
            r#"{"spec":{"replicas":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            PODS,
            r#"{"spec":{"containers":[{"image":1}]}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
        ),
        (
            PODS,
            r#"{"spec":{"containers":{}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            PODS,
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (PODS, r#"{"spec":[]}"#, "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        (PODS, r#"[]"#, "json: cannot unmarshal array into Go value of type v1.Pod"),
        (SECRETS, r#"{"data":{"a":"no!"}}"#, "illegal base64 data at input byte 2"),
        (
            PODS,
            r#"{"spec":{"overhead":{"cpu":"lots"}}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ];
    for (resource, object, expected) in cases {
        assert_eq!(read(resource, object).unwrap_err(), expected, "{object}");
    }
    assert!(matches!(decode(b"{\"spec\":", of(PODS), Strictness::Warn), Err(DecodeError::Syntax(_))));
    assert!(matches!(decode(b"{} x", of(PODS), Strictness::Warn), Err(DecodeError::Syntax(_))));
}

#[test]
fn what_is_stored_is_canonical() {
    let cases = [
        (
            r#"{"metadata":{"creationTimestamp":null,"labels":{},"annotations":{"a":null}}}"#,
            json!({"metadata": {"annotations": {"a": ""}}}),
        ),
        (
            r#"{"spec":{"overhead":{"cpu":1,"memory":"1024Mi"}}}"#,
            json!({"spec": {"overhead": {"cpu": "1", "memory": "1Gi"}}}),
        ),
        (
            r#"{"spec":{"containers":[],"volumes":[{"name":"v","emptyDir":{}}]}}"#,
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}}),
        ),
        (
            r#"{"metadata":{"deletionTimestamp":"2026-01-02T05:04:05.5+02:00"}}"#,
            json!({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}}),
        ),
    ];
    for (object, expected) in cases {
        assert_eq!(read(PODS, object).unwrap(), (expected.clone(), vec![]), "{object}");
        // A tree reads like text, and what is canonical stays as it is.
        assert_eq!(check(&expected, of(PODS), Strictness::Strict).unwrap().value, expected);
    }
    let anything =
        r#"{"spec":{"versions":[{"schema":{"openAPIV3Schema":{"default":{"a":null,"b":[]},"items":{"x":1}}}}]}}"#;
    let whole: Value = serde_json::from_str(anything).unwrap();
    assert_eq!(read(CUSTOM_RESOURCE_DEFINITIONS, anything).unwrap(), (whole, vec![]));
}

#[test]
fn strategic_merge_patch_follows_the_table() {
    let deployment = |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let original = deployment(json!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]));
    let patch = deployment(json!([{"name": "a", "image": "2", "args": ["y"]}, {"name": "b", "$patch": "delete"}]));
    let merged = strategic::merge(original, patch, &of(DEPLOYMENTS)).unwrap();
    assert_eq!(merged, deployment(json!([{"name": "a", "image": "2", "args": ["y"]}])));

    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    let merged = strategic::merge(finalizers(json!(["x"])), finalizers(json!(["y"])), &of(PODS)).unwrap();
    let mut merged: Vec<&str> =
        merged["metadata"]["finalizers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    merged.sort_unstable();
    assert_eq!(merged, ["x", "y"]);
}

/// Any JSON, with texts that are often near to a quantity or a time.
fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9]{1,4}[.]?[0-9]{0,3}(n|u|m|k|M|Ki|Gi|e3|E)?".prop_map(Value::from),
        "[0-9]{4}-0[1-9]-[012][1-8]T0[0-9]:00:00(.[0-9]{1,9})?(Z|[+]02:00)".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-c]", inner, 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// All places in a tree, as JSON pointers.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, inner)| pointers(inner, &format!("{at}/{name}"), all)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, inner)| pointers(inner, &format!("{at}/{i}"), all));
        }
        _ => {}
    }
}

proptest! {
    /// A pod with something else in some of its places.
    #[test]
    fn whatever_is_accepted_is_canonical(changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4)) {
        let mut pod = sample(of(PODS), 3);
        for (place, value) in changes {
            let mut places = Vec::new();
            pointers(&pod, "", &mut places);
            let place: &String = place.get(&places);
            *pod.pointer_mut(place).expect("the place was just found") = value;
        }
        if let Ok(read) = decode(pod.to_string().as_bytes(), of(PODS), Strictness::Warn) {
            let again = check(&read.value, of(PODS), Strictness::Strict);
            prop_assert_eq!(again.map(|it| it.value).map_err(|error| error.to_string()), Ok(read.value));
        }
    }
}
