//! What placement knows beside nodes, namespaces and pods: one line a resource, with whom a change may help.

use api::resources::{
    CSI_DRIVERS, CSI_NODES, CSI_STORAGE_CAPACITIES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES,
    POD_DISRUPTION_BUDGETS, REPLICA_SETS, REPLICATION_CONTROLLERS, SERVICES, STATEFUL_SETS, STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
};
use api::{Key, Object, Resource};

use crate::companions::Controller::{ReplicaSet, ReplicationController, StatefulSet};
use crate::image::Image;

/// Why an object is passed over.
pub type FactError = Box<dyn std::error::Error + Send + Sync>;

/// Which of the waiting pods a change may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helps {
    /// None.
    Nobody,
    /// Those that wait for volumes and use this claim.
    ItsUsers,
    /// All that wait for volumes.
    WhoWaitsForVolumes,
}

/// How the image follows a resource.
pub struct Fact {
    /// Which resource.
    pub resource: &'static Resource,
    /// Whom a change helps.
    pub helps: Helps,
    /// Takes in an object's state.
    pub apply: fn(&mut Image, &Object) -> Result<(), FactError>,
    /// Forgets an object.
    pub remove: fn(&mut Image, &Key),
}

/// All of them.
pub static FACTS: [Fact; 12] = [
    Fact {
        resource: POD_DISRUPTION_BUDGETS,
        helps: Helps::Nobody,
        apply: |image, object| Ok(image.budgets.apply(object)?),
        remove: |image, key| image.budgets.remove(key),
    },
    Fact {
        resource: SERVICES,
        helps: Helps::Nobody,
        apply: |image, object| Ok(image.companions.apply_service(object)?),
        remove: |image, key| image.companions.remove_service(key),
    },
    Fact {
        resource: REPLICATION_CONTROLLERS,
        helps: Helps::Nobody,
        apply: |image, object| Ok(image.companions.apply_controller(ReplicationController, object)?),
        remove: |image, key| image.companions.remove_controller(ReplicationController, key),
    },
    Fact {
        resource: REPLICA_SETS,
        helps: Helps::Nobody,
        apply: |image, object| Ok(image.companions.apply_controller(ReplicaSet, object)?),
        remove: |image, key| image.companions.remove_controller(ReplicaSet, key),
    },
    Fact {
        resource: STATEFUL_SETS,
        helps: Helps::Nobody,
        apply: |image, object| Ok(image.companions.apply_controller(StatefulSet, object)?),
        remove: |image, key| image.companions.remove_controller(StatefulSet, key),
    },
    Fact {
        resource: PERSISTENT_VOLUME_CLAIMS,
        helps: Helps::ItsUsers,
        apply: |image, object| Ok(image.storage.apply_claim(object)?),
        remove: |image, key| image.storage.remove_claim(key),
    },
    Fact {
        resource: PERSISTENT_VOLUMES,
        helps: Helps::WhoWaitsForVolumes,
        apply: |image, object| Ok(image.storage.apply_volume(object)?),
        remove: |image, key| image.storage.remove_volume(key),
    },
    Fact {
        resource: STORAGE_CLASSES,
        helps: Helps::WhoWaitsForVolumes,
        apply: |image, object| Ok(image.storage.apply_class(object)?),
        remove: |image, key| image.storage.remove_class(key),
    },
    Fact {
        resource: CSI_NODES,
        helps: Helps::WhoWaitsForVolumes,
        apply: |image, object| Ok(image.storage.apply_csi_node(object)?),
        remove: |image, key| image.storage.remove_csi_node(key),
    },
    Fact {
        resource: CSI_DRIVERS,
        helps: Helps::WhoWaitsForVolumes,
        apply: |image, object| Ok(image.storage.apply_csi_driver(object)?),
        remove: |image, key| image.storage.remove_csi_driver(key),
    },
    Fact {
        resource: CSI_STORAGE_CAPACITIES,
        helps: Helps::WhoWaitsForVolumes,
        apply: |image, object| Ok(image.storage.apply_capacity(object)?),
        remove: |image, key| image.storage.remove_capacity(key),
    },
    Fact {
        resource: VOLUME_ATTACHMENTS,
        helps: Helps::WhoWaitsForVolumes,
        apply: |image, object| Ok(image.storage.apply_attachment(object)?),
        remove: |image, key| image.storage.remove_attachment(key),
    },
];
