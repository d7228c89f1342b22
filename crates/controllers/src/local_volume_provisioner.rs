//! The cluster's own provisioner: a volume is a directory on the disk of one node, made for the claim that asks for it and
//! removed with its data when the claim is gone.
//!
//! Nobody but its node can make or remove a directory, and a node may neither make volumes nor change them. So they agree over
//! the node's own object, which it may write: in an annotation each node says where it keeps volumes ([`VOLUMES_DIRECTORY`]); a
//! volume that is to go is named in another ([`REMOVAL_PREFIX`] and the volume's name: [`REMOVE`]), which the node answers
//! ([`REMOVED`]) once nothing of it is left. The directory is made by the node when the first pod uses the volume.
//!
//! Two rows: [`provision`] makes volumes, [`remove`] ends them. What this is to other components is what an external
//! provisioner is: "Dynamic Volume Provisioning" in the Kubernetes documentation.

pub mod provision;
pub mod remove;

#[cfg(test)]
mod tests;

/// The provisioner's name in storage classes.
pub const PROVISIONER: &str = "timonier.io/local";

/// The service account of both rows.
pub(crate) const IDENTITY: &str = "local-volume-provisioner";

/// Keeps a volume until its data is gone: the name is the one that external provisioners share.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// On nodes: the directory that holds the volumes of a node.
pub const VOLUMES_DIRECTORY: &str = "timonier.io/volumes-directory";

/// On nodes: before the name of a volume that is to be removed, or was.
pub const REMOVAL_PREFIX: &str = "removal.timonier.io/";

/// The node is to remove it.
pub const REMOVE: &str = "remove";

/// The node has nothing of it any more.
pub const REMOVED: &str = "removed";
