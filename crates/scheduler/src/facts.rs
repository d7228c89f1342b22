//! What placement knows beside nodes, namespaces and pods: one line a resource. Nothing here makes a waiting pod fit.

use api::resources::{POD_DISRUPTION_BUDGETS, REPLICA_SETS, REPLICATION_CONTROLLERS, SERVICES, STATEFUL_SETS};
use api::{Key, Object, Resource};

use crate::companions::Controller::{ReplicaSet, ReplicationController, StatefulSet};
use crate::image::Image;

/// Why an object is passed over.
pub type FactError = Box<dyn std::error::Error + Send + Sync>;

/// How the image follows a resource.
pub struct Fact {
    /// Which resource.
    pub resource: &'static Resource,
    /// Takes in an object's state.
    pub apply: fn(&mut Image, &Object) -> Result<(), FactError>,
    /// Forgets an object.
    pub remove: fn(&mut Image, &Key),
}

/// All of them.
pub static FACTS: [Fact; 5] = [
    Fact {
        resource: POD_DISRUPTION_BUDGETS,
        apply: |image, object| Ok(image.budgets.apply(object)?),
        remove: |image, key| image.budgets.remove(key),
    },
    Fact {
        resource: SERVICES,
        apply: |image, object| Ok(image.companions.apply_service(object)?),
        remove: |image, key| image.companions.remove_service(key),
    },
    Fact {
        resource: REPLICATION_CONTROLLERS,
        apply: |image, object| Ok(image.companions.apply_controller(ReplicationController, object)?),
        remove: |image, key| image.companions.remove_controller(ReplicationController, key),
    },
    Fact {
        resource: REPLICA_SETS,
        apply: |image, object| Ok(image.companions.apply_controller(ReplicaSet, object)?),
        remove: |image, key| image.companions.remove_controller(ReplicaSet, key),
    },
    Fact {
        resource: STATEFUL_SETS,
        apply: |image, object| Ok(image.companions.apply_controller(StatefulSet, object)?),
        remove: |image, key| image.companions.remove_controller(StatefulSet, key),
    },
];
