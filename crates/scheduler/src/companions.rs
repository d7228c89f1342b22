//! Which pods belong together although nobody says so: those behind a Service, and those of one controller.
//!
//! For `PodTopologySpread`: pods without constraints of their own are spread over hosts and zones among their companions,
//! where that costs nothing else. Kept by events; a pod's selector is put together when its turn comes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{Key, Object, OwnerReference};
use machinery::Selector;
use machinery::labels::SelectorError;
use serde::Deserialize;
use serde_json::Value;

use crate::pod::PodInfo;
use crate::wire;

/// A selector cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CompanionError {
    /// The object has another shape.
    #[error("its selector has another shape")]
    Shape(#[from] serde_json::Error),
    /// The selector is none.
    #[error("its label selector is wrong")]
    Selector(#[from] SelectorError),
}

/// A controller whose pods belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Controller {
    ReplicationController,
    ReplicaSet,
    StatefulSet,
}

impl Controller {
    /// The controller that an owner reference names, if it is one of these.
    pub fn of(owner: &OwnerReference) -> Option<Self> {
        match (&*owner.api_version, &*owner.kind) {
            ("v1", "ReplicationController") => Some(Self::ReplicationController),
            ("apps/v1", "ReplicaSet") => Some(Self::ReplicaSet),
            ("apps/v1", "StatefulSet") => Some(Self::StatefulSet),
            _ => None,
        }
    }
}

/// The selectors of Services and controllers.
#[derive(Debug, Default)]
pub struct Companions {
    services: HashMap<Arc<str>, HashMap<Arc<str>, Selector>>,
    controllers: HashMap<(Controller, Key), Selector>,
}

impl Companions {
    /// Takes in a Service. One without a selector, or that selects by nothing, has no pods.
    pub fn apply_service(&mut self, object: &Object) -> Result<(), CompanionError> {
        let Wire { spec } = wire::decode(object)?;
        let labels: BTreeMap<String, String> = serde_json::from_value(or_empty(spec.selector))?;
        if labels.is_empty() {
            self.remove_service(object.key());
            return Ok(());
        }
        let selector = Selector::from_pairs(labels.iter().map(|(key, value)| (&**key, &**value)))?;
        let Key { namespace, name } = object.key().clone();
        self.services.entry(namespace).or_default().insert(name, selector);
        Ok(())
    }

    /// Forgets a Service.
    pub fn remove_service(&mut self, key: &Key) {
        let Some(of_namespace) = self.services.get_mut(&key.namespace) else { return };
        of_namespace.remove(&key.name);
        if of_namespace.is_empty() {
            self.services.remove(&key.namespace);
        }
    }

    /// Takes in a controller.
    pub fn apply_controller(&mut self, controller: Controller, object: &Object) -> Result<(), CompanionError> {
        let Wire { spec } = wire::decode(object)?;
        let selector = match controller {
            Controller::ReplicationController => {
                let labels: BTreeMap<String, String> = serde_json::from_value(or_empty(spec.selector))?;
                Selector::from_pairs(labels.iter().map(|(key, value)| (&**key, &**value)))?
            }
            Controller::ReplicaSet | Controller::StatefulSet => Selector::from_label_selector(&spec.selector)?,
        };
        self.controllers.insert((controller, object.key().clone()), selector);
        Ok(())
    }

    /// Forgets a controller.
    pub fn remove_controller(&mut self, controller: Controller, key: &Key) {
        self.controllers.remove(&(controller, key.clone()));
    }

    /// Selects a pod's companions. `None`: it has none.
    pub fn of(&self, pod: &PodInfo) -> Option<Selector> {
        let services = self.services.get(&pod.key.namespace).into_iter().flat_map(HashMap::values);
        let services = services.filter(|selector| selector.matches_pairs(&pod.needs.labels));
        let controller = pod.controller.as_ref().and_then(|(controller, name)| {
            self.controllers.get(&(*controller, Key::new(pod.key.namespace.clone(), name.clone())))
        });
        let requirements = services.chain(controller).flat_map(Selector::requirements);
        let all = requirements.fold(Selector::everything(), |all, one| all.and(one.clone()));
        (!all.is_everything()).then_some(all)
    }
}

fn or_empty(selector: Value) -> Value {
    if selector.is_null() { Value::Object(serde_json::Map::new()) } else { selector }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Wire {
    spec: Spec,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    selector: Value,
}
