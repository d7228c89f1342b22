//! Where an object lies in the store: `/registry/<group or "core">/<plural>/[<namespace>/]<name>`.
//!
//! The version is not in the key: all versions of a resource share their objects. A resource that is stored in another
//! group's form ([`Resource::stored_as`]) lies where that form does: both groups' events are `/registry/core/events/...`.

use crate::{Key, Resource};

/// The prefix of all keys.
pub const ROOT: &str = "/registry/";

/// The prefix of all objects of a resource, or of those in one namespace. Ends with a slash.
pub fn prefix(resource: &Resource, namespace: Option<&str>) -> String {
    let group = resource.stored_as.as_ref().map_or(&resource.group, |form| &form.group);
    let group = if group.is_empty() { "core" } else { group };
    let mut key = format!("{ROOT}{group}/{}/", resource.plural);
    if let Some(namespace) = namespace.filter(|_| resource.namespaced()) {
        key.push_str(namespace);
        key.push('/');
    }
    key
}

/// The key of one object.
pub fn of(resource: &Resource, key: &Key) -> String {
    let mut text = prefix(resource, Some(&key.namespace).filter(|namespace| !namespace.is_empty()).map(|n| &**n));
    text.push_str(&key.name);
    text
}

/// Splits a key's part behind the resource's prefix into namespace (empty for cluster scope) and name.
pub fn split(resource: &Resource, rest: &str) -> Option<Key> {
    if resource.namespaced() {
        let (namespace, name) = rest.split_once('/')?;
        Some(Key::new(namespace, name))
    } else {
        Some(Key::new("", rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{EVENTS, EVENTS_V1, HORIZONTAL_POD_AUTOSCALERS_V1, NODES, PODS, RESOURCES};

    #[test]
    fn keys_lie_where_the_stored_form_does() {
        let key = Key::new("ns", "x");
        let cases = [
            (PODS, "/registry/core/pods/ns/x"),
            (EVENTS, "/registry/core/events/ns/x"),
            (EVENTS_V1, "/registry/core/events/ns/x"),
            (HORIZONTAL_POD_AUTOSCALERS_V1, "/registry/autoscaling/horizontalpodautoscalers/ns/x"),
        ];
        for (resource, expected) in cases {
            assert_eq!(of(resource, &key), expected);
        }
        assert_eq!(of(NODES, &Key::new("", "n")), "/registry/core/nodes/n");
    }

    #[test]
    fn a_key_is_found_below_its_prefix_and_split_again() {
        for resource in RESOURCES {
            let key = Key::new(if resource.namespaced() { "ns" } else { "" }, "x");
            let text = of(resource, &key);
            let rest = text.strip_prefix(&prefix(resource, None)).unwrap();
            assert_eq!(split(resource, rest), Some(key.clone()), "{}", resource.plural);
            assert!(text.starts_with(&prefix(resource, Some(&key.namespace))), "{}", resource.plural);
        }
        assert_eq!(split(PODS, "no-namespace"), None);
    }
}
