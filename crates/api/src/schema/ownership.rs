//! The schema as `machinery::apply` asks for it: how lists and maps are owned.

use std::sync::LazyLock;

use machinery::apply::schema::{ANY, ANY_ATOMIC, Entry, Key, List, ListKind, Place, Scalar, Shape as Owned};
use serde_json::Value;

use super::table::{Row, TABLE};
use super::{Field, Kind, ListType, Shape, TypeRef};

impl TypeRef {
    /// The root of its objects.
    pub fn place(self) -> &'static dyn Place {
        of_kind(Kind::Type(self))
    }
}

impl Place for Row {
    fn shape(&self) -> Owned<'_> {
        match (self.scalar, self.fields.is_empty()) {
            (Some(kind), _) => of_kind(kind).shape(),
            // An object of which no field is known may have any.
            (None, true) => Owned::Any,
            (None, false) => Owned::Map { atomic: super::table::mark(self.rest, "map") == Some("atomic") },
        }
    }

    fn entry(&self, name: &str) -> Entry<'_> {
        if self.fields.is_empty() {
            return Entry::Additional(ANY);
        }
        let fields = &TABLE.fields[self.fields.clone()];
        match fields.binary_search_by(|field| field.name.cmp(name)) {
            Ok(at) => Entry::Field(&fields[at]),
            Err(_) => Entry::Unknown,
        }
    }

    fn always_has(&self, name: &str) -> bool {
        let fields = &TABLE.fields[self.fields.clone()];
        let Ok(at) = fields.binary_search_by(|field| field.name.cmp(name)) else { return false };
        let field = &fields[at];
        match field.shape {
            Shape::One => match field.kind() {
                Kind::Type(_) => is_in_place(self.name, name),
                _ => field.required,
            },
            _ => field.required,
        }
    }
}

/// Whether upstream's type holds the struct itself, not a pointer to one, so that it is there in every object. Of those that
/// lie within others that are; below lists and maps it makes no difference.
fn is_in_place(owner: &str, name: &str) -> bool {
    const NAMES: &[&str] = &[
        "backend",
        "daemonEndpoints",
        "deprecatedSource",
        "devices",
        "involvedObject",
        "jobTemplate",
        "kubeletEndpoint",
        "loadBalancer",
        "metadata",
        "nodeInfo",
        "podSelector",
        "pool",
        "priorityLevelConfiguration",
        "regarding",
        "resources",
        "roleRef",
        "scaleTargetRef",
        "source",
        "spec",
        "status",
        "strategy",
        "target",
        "template",
        "updateStrategy",
    ];
    NAMES.binary_search(&name).is_ok() && !owner.ends_with(".v1.ReplicationControllerSpec")
}

impl Place for Field {
    fn shape(&self) -> Owned<'_> {
        let map_type = || self.map_type();
        match self.shape {
            Shape::List => Owned::List(List { kind: self.list_kind(), element: of_kind(self.kind()) }),
            Shape::Map | Shape::MapOfLists => Owned::Map { atomic: map_type() == Some("atomic") },
            // A field may say otherwise than the type that it refers to.
            Shape::One => match (of_kind(self.kind()).shape(), map_type()) {
                (Owned::Map { .. }, Some(map_type)) => Owned::Map { atomic: map_type == "atomic" },
                (shape, _) => shape,
            },
        }
    }

    fn entry(&self, name: &str) -> Entry<'_> {
        match self.shape {
            Shape::One => of_kind(self.kind()).entry(name),
            Shape::MapOfLists => Entry::Additional(&AtomicList),
            Shape::Map | Shape::List => Entry::Additional(of_kind(self.kind())),
        }
    }

    fn always_has(&self, name: &str) -> bool {
        self.shape == Shape::One && of_kind(self.kind()).always_has(name)
    }
}

impl Field {
    fn list_kind(&self) -> ListKind<'static> {
        match self.list_type() {
            Some(ListType::Set) => ListKind::Set,
            Some(ListType::Map) => ListKind::Map(keys(self)),
            Some(ListType::Atomic) | None => ListKind::Atomic,
        }
    }
}

/// A list of strings that is owned whole: the values of the few maps of lists.
struct AtomicList;

impl Place for AtomicList {
    fn shape(&self) -> Owned<'_> {
        Owned::List(List { kind: ListKind::Atomic, element: &Scalar::String })
    }
}

fn of_kind(kind: Kind) -> &'static dyn Place {
    match kind {
        Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime => &Scalar::String,
        Kind::Int32 | Kind::Int64 | Kind::Double => &Scalar::Number,
        Kind::Bool => &Scalar::Bool,
        Kind::Quantity | Kind::IntOrString => &Scalar::Any,
        // RawExtension; FieldsV1 is not looked into either, since managed fields have no owners.
        Kind::Object => ANY_ATOMIC,
        Kind::Any => ANY,
        Kind::Type(of) => of.row(),
    }
}

/// The keys of a list, by the type of its elements and their names in the table.
type Keys = Vec<((TypeRef, &'static str), Box<[Key]>)>;

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let keyed = TABLE.fields.iter().filter(|field| field.list_type() == Some(ListType::Map));
    let mut all: Keys = keyed.filter_map(|field| Some((id(field)?, read_keys(field)))).collect();
    all.sort_by_key(|(id, _)| *id);
    all.dedup_by_key(|(id, _)| *id);
    all
});

fn keys(field: &Field) -> &'static [Key] {
    let found = id(field).and_then(|id| KEYS.binary_search_by_key(&id, |(id, _)| *id).ok());
    found.map_or(&[], |at| &KEYS[at].1)
}

fn id(field: &Field) -> Option<(TypeRef, &'static str)> {
    Some((field.type_ref()?, field.mark("keys")?))
}

fn read_keys(field: &Field) -> Box<[Key]> {
    let element = field.type_ref();
    let key = |name: &'static str| Key {
        name: name.into(),
        default: element.and_then(|element| default_of(element, element.field(name)?)),
    };
    field.map_keys().map(key).collect()
}

/// What stands for a key that an element leaves out: what upstream's schema declares. Fields that are always written have
/// the zero value of their kind there.
fn default_of(element: TypeRef, key: &Field) -> Option<Value> {
    match (element.short_name(), key.name) {
        ("ContainerPort" | "ServicePort", "protocol") => Some("TCP".into()),
        ("LocalObjectReference", "name") => Some("".into()),
        _ if !key.required => None,
        _ => match key.kind() {
            Kind::String => Some("".into()),
            Kind::Int32 | Kind::Int64 => Some(0.into()),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the value at a path is owned, in words; `[]` goes into a list.
    fn owned(kind: &str, path: &str) -> String {
        let mut place = super::super::by_name(kind).unwrap().place();
        for name in path.split('.').filter(|name| !name.is_empty()) {
            place = match (name, place.shape()) {
                ("[]", Owned::List(list)) => list.element,
                _ => match place.entry(name).place() {
                    Some(place) => place,
                    None => return "unknown".to_owned(),
                },
            };
        }
        match place.shape() {
            Owned::Scalar(scalar) => format!("{scalar:?}"),
            Owned::List(List { kind: ListKind::Map(keys), .. }) => {
                let keys = keys.iter().map(|key| match &key.default {
                    Some(default) => format!("{}={default}", key.name),
                    None => key.name.to_string(),
                });
                format!("by {}", keys.collect::<Vec<_>>().join(","))
            }
            Owned::List(List { kind, .. }) => format!("{kind:?}"),
            Owned::Map { atomic } => (if atomic { "atomic map" } else { "map" }).to_owned(),
            Owned::Any => "any".to_owned(),
            Owned::AnyAtomic => "any atomic".to_owned(),
        }
    }

    #[test]
    fn places_are_owned_as_upstream_says() {
        let pod = "io.k8s.api.core.v1.Pod";
        for (kind, path, expected) in [
            (pod, "", "map"),
            (pod, "kind", "String"),
            (pod, "metadata.finalizers", "Set"),
            (pod, "metadata.labels", "map"),
            (pod, "metadata.labels.x", "String"),
            (pod, "metadata.ownerReferences", "by uid=\"\""),
            (pod, "metadata.ownerReferences.[]", "atomic map"),
            (pod, "spec.containers", "by name=\"\""),
            (pod, "spec.containers.[].args", "Atomic"),
            (pod, "spec.containers.[].ports", "by containerPort=0,protocol=\"TCP\""),
            (pod, "spec.containers.[].resources.limits.cpu", "Any"),
            (pod, "spec.containers.[].env.[].valueFrom.secretKeyRef", "atomic map"),
            (pod, "spec.imagePullSecrets", "by name=\"\""),
            (pod, "spec.nodeSelector", "atomic map"),
            (pod, "spec.nope", "unknown"),
            ("io.k8s.api.core.v1.PersistentVolume", "spec.claimRef", "map"),
            ("io.k8s.api.core.v1.ObjectReference", "", "atomic map"),
            ("io.k8s.api.core.v1.ServiceSpec", "ports", "by port=0,protocol=\"TCP\""),
            ("io.k8s.api.core.v1.ServiceSpec", "ports.[].targetPort", "Any"),
            ("io.k8s.api.apps.v1.ControllerRevision", "data", "any atomic"),
            ("io.k8s.api.authentication.v1.UserInfo", "extra", "map"),
            ("io.k8s.api.authentication.v1.UserInfo", "extra.x", "Atomic"),
            ("io.k8s.api.core.v1.ServiceAccount", "secrets", "by name"),
        ] {
            assert_eq!(owned(kind, path), expected, "{kind} {path}");
        }
    }

    #[test]
    fn who_creates_owns_the_parts_of_what_is_always_there() {
        let deployment = super::super::by_name("io.k8s.api.apps.v1.Deployment").unwrap().place();
        let new = serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"labels": {"a": "b"}},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "containers": [{"name": "c", "resources": {}}], "securityContext": {}}}}, "status": {}});
        let mut written = Vec::new();
        machinery::apply::compare::compare(None, &new, deployment).added.write(&mut written);
        let expected = r#"{"f:apiVersion":{},"f:kind":{},"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:replicas":{},
            "f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{}},"f:type":{}},"f:template":{"f:metadata":{"f:labels":{".":{},"f:a":{}}},
            "f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},"f:resources":{}}},"f:securityContext":{}}}}}"#;
        assert_eq!(String::from_utf8(written).unwrap(), expected.replace("\n            ", ""));
    }

    #[test]
    fn every_list_by_key_has_its_keys() {
        for field in TABLE.fields.iter().filter(|field| field.list_type() == Some(ListType::Map)) {
            assert_eq!(keys(field).len(), field.map_keys().count(), "{}", field.name);
        }
    }
}
