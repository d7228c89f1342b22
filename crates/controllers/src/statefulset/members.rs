//! A StatefulSet's pods as a plan sees them, and the pods that it makes.

use api::{Object, resources};
use control::Next;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::claims;
use crate::history::Revision;
use crate::pods::PodView;

use super::claim;

pub(super) const REVISION_LABEL: &str = "controller-revision-hash";
pub(super) const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// Whose pod that is, by its name, and which.
pub(super) fn parent_and_ordinal(name: &str) -> Option<(&str, i64)> {
    let (parent, digits) = name.rsplit_once('-')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten().map(|ordinal: i32| (parent, i64::from(ordinal)))
}

/// A pod that is there.
pub(super) struct Member<'a> {
    pub(super) object: &'a Object,
    pub(super) ordinal: i64,
    pub(super) pending: bool,
    /// Ended for good, with success or without.
    pub(super) ended: bool,
    pub(super) ready: bool,
    pub(super) available: bool,
    /// When a ready pod becomes available by the passing of time alone.
    pub(super) next: Next,
}

impl<'a> Member<'a> {
    pub(super) fn of(object: &'a Object, set: &Value, now: Timestamp) -> Self {
        let view = PodView::of(object);
        let min_ready = SignedDuration::from_secs(set["spec"]["minReadySeconds"].as_i64().unwrap_or(0));
        let ready = view.is_ready();
        let rest = if ready { view.time_to_available(min_ready, now) } else { None };
        Self {
            object,
            ordinal: parent_and_ordinal(&object.key().name).map_or(-1, |(_, ordinal)| ordinal),
            pending: view.status.phase.is_empty() || view.status.phase == "Pending",
            ended: view.is_terminal(),
            ready: ready && view.status.phase == "Running",
            available: ready && rest.is_none(),
            next: rest.map_or(Next::OnChange, Next::After),
        }
    }

    pub(super) fn revision(&self) -> &str {
        self.object.label(REVISION_LABEL).unwrap_or_default()
    }

    /// Whether it must not be relied on.
    pub(super) fn is_unavailable(&self) -> bool {
        !self.available || self.object.is_deleting()
    }
}

/// The pod of that number, as the revision says.
pub(super) fn new_pod(object: &Object, set: &Value, revision: &Revision, ordinal: i64) -> Value {
    let set_name = &object.key().name;
    let (name, template) = (format!("{set_name}-{ordinal}"), &revision.template);
    let mut meta = json!({"name": name, "generateName": format!("{set_name}-"), "namespace": &*object.key().namespace});
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field).filter(|value| !value.is_null()) {
            meta[field] = value.clone();
        }
    }
    meta["labels"][NAME_LABEL] = name.as_str().into();
    meta["labels"][INDEX_LABEL] = ordinal.to_string().into();
    meta["labels"][REVISION_LABEL] = revision.name().into();
    meta["ownerReferences"] = json!([claims::owner_reference(resources::STATEFUL_SETS, object)]);
    let mut spec = template["spec"].clone();
    spec["hostname"] = name.into();
    if let Some(service) = set["spec"]["serviceName"].as_str().filter(|service| !service.is_empty()) {
        spec["subdomain"] = service.into();
    }
    let volumes = claim::volumes(set, set_name, ordinal, &spec["volumes"]);
    if !volumes.is_empty() {
        spec["volumes"] = volumes.into();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_pod_it_is() {
        for (name, what) in [
            ("web-0", Some(("web", 0))),
            ("my-web-12", Some(("my-web", 12))),
            ("web", None),
            ("web-", None),
            ("web-x", None),
            ("web-+1", None),
            ("web-99999999999", None),
        ] {
            assert_eq!(parent_and_ordinal(name), what, "{name}");
        }
    }
}
