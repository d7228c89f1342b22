//! Typed objects: k8s-openapi's structs, with codecs that are instantiated here and nowhere else.
//!
//! A kind that has a row in the resource table is [`Typed`]; the few bodies that have none (`Scale`, `Eviction`,
//! `DeleteOptions`) are [`Body`]. Decoding accepts JSON without `apiVersion` and `kind`, such as the items of a list, and
//! refuses JSON whose own say that it is another kind.

use bytes::Bytes;

use crate::{Resource, resources};

pub use k8s_openapi::ByteString;
pub use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates, coordination, core,
    discovery, events, flowcontrol, networking, node, policy, rbac, resource, scheduling, storage,
};
pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
pub use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;

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

/// A body that is no resource of its own. The same contract as [`Typed`], without a row in the table.
pub trait Body: Sized {
    /// Reads JSON. Unknown fields are ignored.
    fn decode(json: &[u8]) -> Result<Self, serde_json::Error>;
    /// Writes JSON, with `apiVersion` and `kind` where the kind has them.
    fn encode(&self) -> Bytes;
}

/// The table of typed kinds: each line gives a kind its row, and instantiates its codec in this crate.
macro_rules! typed {
    ($($($kind:ident)::+ => $row:ident,)+) => {
        #[cfg(test)]
        const CHECKS: &[fn()] = &[$(tests::check::<$($kind)::+>),+];
    $(
        impl Typed for $($kind)::+ {
            fn resource() -> &'static Resource {
                resources::$row
            }
            fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
                serde_json::from_slice(json)
            }
            fn encode(&self) -> Bytes {
                write(self)
            }
            fn metadata(&self) -> &meta::ObjectMeta {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut meta::ObjectMeta {
                &mut self.metadata
            }
        }
    )+};
}

/// The table of bodies.
macro_rules! bodies {
    ($($($kind:ident)::+,)+) => {$(
        impl Body for $($kind)::+ {
            fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
                serde_json::from_slice(json)
            }
            fn encode(&self) -> Bytes {
                write(self)
            }
        }
    )+};
}

fn write(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("the API's structs have string keys only, and memory takes all bytes").into()
}

typed! {
    core::v1::Binding => BINDINGS,
    core::v1::ConfigMap => CONFIG_MAPS,
    core::v1::Endpoints => ENDPOINTS,
    core::v1::Event => EVENTS,
    core::v1::LimitRange => LIMIT_RANGES,
    core::v1::Namespace => NAMESPACES,
    core::v1::Node => NODES,
    core::v1::PersistentVolume => PERSISTENT_VOLUMES,
    core::v1::PersistentVolumeClaim => PERSISTENT_VOLUME_CLAIMS,
    core::v1::Pod => PODS,
    core::v1::PodTemplate => POD_TEMPLATES,
    core::v1::ReplicationController => REPLICATION_CONTROLLERS,
    core::v1::ResourceQuota => RESOURCE_QUOTAS,
    core::v1::Secret => SECRETS,
    core::v1::Service => SERVICES,
    core::v1::ServiceAccount => SERVICE_ACCOUNTS,
    admissionregistration::v1::MutatingAdmissionPolicy => MUTATING_ADMISSION_POLICIES,
    admissionregistration::v1::MutatingAdmissionPolicyBinding => MUTATING_ADMISSION_POLICY_BINDINGS,
    admissionregistration::v1::MutatingWebhookConfiguration => MUTATING_WEBHOOK_CONFIGURATIONS,
    admissionregistration::v1::ValidatingAdmissionPolicy => VALIDATING_ADMISSION_POLICIES,
    admissionregistration::v1::ValidatingAdmissionPolicyBinding => VALIDATING_ADMISSION_POLICY_BINDINGS,
    admissionregistration::v1::ValidatingWebhookConfiguration => VALIDATING_WEBHOOK_CONFIGURATIONS,
    apiextensions::v1::CustomResourceDefinition => CUSTOM_RESOURCE_DEFINITIONS,
    apiregistration::v1::APIService => API_SERVICES,
    apps::v1::ControllerRevision => CONTROLLER_REVISIONS,
    apps::v1::DaemonSet => DAEMON_SETS,
    apps::v1::Deployment => DEPLOYMENTS,
    apps::v1::ReplicaSet => REPLICA_SETS,
    apps::v1::StatefulSet => STATEFUL_SETS,
    authentication::v1::SelfSubjectReview => SELF_SUBJECT_REVIEWS,
    authentication::v1::TokenReview => TOKEN_REVIEWS,
    authorization::v1::LocalSubjectAccessReview => LOCAL_SUBJECT_ACCESS_REVIEWS,
    authorization::v1::SelfSubjectAccessReview => SELF_SUBJECT_ACCESS_REVIEWS,
    authorization::v1::SelfSubjectRulesReview => SELF_SUBJECT_RULES_REVIEWS,
    authorization::v1::SubjectAccessReview => SUBJECT_ACCESS_REVIEWS,
    autoscaling::v1::HorizontalPodAutoscaler => HORIZONTAL_POD_AUTOSCALERS_V1,
    autoscaling::v2::HorizontalPodAutoscaler => HORIZONTAL_POD_AUTOSCALERS,
    batch::v1::CronJob => CRON_JOBS,
    batch::v1::Job => JOBS,
    certificates::v1::CertificateSigningRequest => CERTIFICATE_SIGNING_REQUESTS,
    coordination::v1::Lease => LEASES,
    discovery::v1::EndpointSlice => ENDPOINT_SLICES,
    events::v1::Event => EVENTS_V1,
    flowcontrol::v1::FlowSchema => FLOW_SCHEMAS,
    flowcontrol::v1::PriorityLevelConfiguration => PRIORITY_LEVEL_CONFIGURATIONS,
    networking::v1::IPAddress => IP_ADDRESSES,
    networking::v1::Ingress => INGRESSES,
    networking::v1::IngressClass => INGRESS_CLASSES,
    networking::v1::NetworkPolicy => NETWORK_POLICIES,
    networking::v1::ServiceCIDR => SERVICE_CIDRS,
    node::v1::RuntimeClass => RUNTIME_CLASSES,
    policy::v1::PodDisruptionBudget => POD_DISRUPTION_BUDGETS,
    rbac::v1::ClusterRole => CLUSTER_ROLES,
    rbac::v1::ClusterRoleBinding => CLUSTER_ROLE_BINDINGS,
    rbac::v1::Role => ROLES,
    rbac::v1::RoleBinding => ROLE_BINDINGS,
    resource::v1::DeviceClass => DEVICE_CLASSES,
    resource::v1::ResourceClaim => RESOURCE_CLAIMS,
    resource::v1::ResourceClaimTemplate => RESOURCE_CLAIM_TEMPLATES,
    resource::v1::ResourceSlice => RESOURCE_SLICES,
    scheduling::v1::PriorityClass => PRIORITY_CLASSES,
    storage::v1::CSIDriver => CSI_DRIVERS,
    storage::v1::CSINode => CSI_NODES,
    storage::v1::CSIStorageCapacity => CSI_STORAGE_CAPACITIES,
    storage::v1::StorageClass => STORAGE_CLASSES,
    storage::v1::VolumeAttachment => VOLUME_ATTACHMENTS,
    storage::v1::VolumeAttributesClass => VOLUME_ATTRIBUTES_CLASSES,
}

bodies! {
    authentication::v1::TokenRequest,
    autoscaling::v1::Scale,
    meta::DeleteOptions,
    meta::LabelSelector,
    meta::Status,
    policy::v1::Eviction,
}

#[cfg(test)]
mod tests {
    use k8s_openapi::Resource as Named;

    use super::*;
    use crate::schema;

    /// The table names the row beside the kind: they must mean the same.
    pub(super) fn check<T: Typed + Named>() {
        let resource = T::resource();
        assert_eq!((&*resource.kind, &*resource.api_version()), (T::KIND, T::API_VERSION));
        assert!(T::decode(br#"{"kind":"Other"}"#).is_err(), "{} decodes another kind", T::KIND);
        // The schema and the codec were derived apart: each field of the one is a field of the other.
        let of = schema::type_of(resource).unwrap();
        let object = schema::tests::sample(of, 8);
        let decoded = T::decode(object.to_string().as_bytes()).unwrap();
        assert_eq!(decoded.metadata().name.as_deref(), Some("text"));
        let encoded: serde_json::Value = serde_json::from_slice(&decoded.encode()).unwrap();
        assert_eq!(encoded, object, "{}", T::KIND);
    }

    #[test]
    fn every_kind_has_its_row_and_all_fields_of_its_schema() {
        CHECKS.iter().for_each(|check| check());
    }

    #[test]
    fn a_pod_survives_decoding_and_encoding() {
        let json = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"image":"i","name":"c"}]}}"#;
        let pod = core::v1::Pod::decode(json).unwrap();
        assert_eq!(pod.encode(), &json[..]);
    }
}
