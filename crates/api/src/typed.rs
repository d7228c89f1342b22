//! Typed objects: k8s-openapi's structs, with codecs that are instantiated here and nowhere else.

use bytes::Bytes;

use crate::Resource;

pub use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates, coordination, core,
    discovery, events, networking, node, policy, rbac, scheduling, storage,
};
pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A built-in kind as a Rust struct. `decode` and `encode` are plain functions of this crate: calling them from another
/// crate does not instantiate the codec there.
pub trait Typed: Sized + Clone + Send + Sync + 'static {
    /// Its row in the resource table.
    fn resource() -> &'static Resource;
    /// Reads JSON. Unknown fields are ignored.
    fn decode(json: &[u8]) -> Result<Self, serde_json::Error>;
    /// Writes JSON, with `apiVersion` and `kind`.
    fn encode(&self) -> Bytes;
    /// The object's metadata.
    fn metadata(&self) -> &meta::ObjectMeta;
    /// The object's metadata, to change.
    fn metadata_mut(&mut self) -> &mut meta::ObjectMeta;
}
