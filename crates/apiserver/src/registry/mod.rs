//! What the server knows about each resource beyond the table: one [`Strategy`] a resource, one line in [`STRATEGIES`];
//! and what can only be posted (reviews, bindings, tokens), one line in [`POSTED`].
//!
//! The generic operations are in [`crate::request`]; a resource without a strategy gets [`Strategy`]'s default bodies.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apps;
pub mod at;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod check;
pub mod claim_spec;
pub mod conditions;
pub mod coordination;
pub mod core;
pub mod diff;
pub mod discovery;
pub mod flowcontrol;
pub mod ip;
pub mod networking;
pub mod node;
pub mod node_labels;
pub mod node_selector;
pub mod pod_spec;
pub mod policy;
pub mod rbac;
pub mod resource_names;
pub mod scheduling;
pub mod storage;
pub mod tree;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use api::{ApiError, Key, Resource, resources};
use base::Random;
use futures::future::BoxFuture;
use jiff::Timestamp;
use machinery::apply::Versions;
use serde_json::Value;

use crate::authentication::{self, UserInfo, token_request};
use crate::authorization::review;
use crate::custom::Definitions;
use crate::custom::definition::ScalePaths;
use crate::invalid::FieldError;
use crate::request::notes::Notes;
use crate::request::{binding, eviction};
use crate::watch_cache::Caches;
use crate::{Access, Config, Server};

/// The resources with behaviour of their own.
pub const STRATEGIES: &[Descriptor] = &[
    // v1
    core::config_map::DESCRIPTOR,
    core::endpoints::DESCRIPTOR,
    core::event::DESCRIPTOR,
    core::limit_range::DESCRIPTOR,
    core::namespace::DESCRIPTOR,
    core::node::DESCRIPTOR,
    core::persistent_volume::DESCRIPTOR,
    core::persistent_volume_claim::DESCRIPTOR,
    core::pod::DESCRIPTOR,
    core::pod_template::DESCRIPTOR,
    core::replication_controller::DESCRIPTOR,
    core::resource_quota::DESCRIPTOR,
    core::secret::DESCRIPTOR,
    core::service::DESCRIPTOR,
    core::service_account::DESCRIPTOR,
    // admissionregistration.k8s.io/v1
    admissionregistration::BINDING,
    admissionregistration::MUTATING_BINDING,
    admissionregistration::MUTATING_POLICY,
    admissionregistration::MUTATING_WEBHOOKS,
    admissionregistration::POLICY,
    admissionregistration::VALIDATING_WEBHOOKS,
    // apiextensions.k8s.io/v1
    apiextensions::DESCRIPTOR,
    // apps/v1
    apps::controller_revision::DESCRIPTOR,
    apps::daemon_set::DESCRIPTOR,
    apps::deployment::DESCRIPTOR,
    apps::replica_set::DESCRIPTOR,
    apps::stateful_set::DESCRIPTOR,
    // autoscaling/v1 and v2
    autoscaling::horizontal_pod_autoscaler::DESCRIPTOR_V1,
    autoscaling::horizontal_pod_autoscaler::DESCRIPTOR,
    // batch/v1
    batch::cron_job::DESCRIPTOR,
    batch::job::DESCRIPTOR,
    // certificates.k8s.io/v1
    certificates::certificate_signing_request::DESCRIPTOR,
    // coordination.k8s.io/v1
    coordination::LEASE,
    // discovery.k8s.io/v1
    discovery::ENDPOINT_SLICE,
    // events.k8s.io/v1
    core::event::DESCRIPTOR_V1,
    // flowcontrol.apiserver.k8s.io/v1
    flowcontrol::FLOW_SCHEMA,
    flowcontrol::PRIORITY_LEVEL,
    // networking.k8s.io/v1
    networking::addresses::IP_ADDRESS,
    networking::addresses::SERVICE_CIDR,
    networking::ingress::DESCRIPTOR,
    networking::ingress_class::DESCRIPTOR,
    networking::network_policy::DESCRIPTOR,
    // node.k8s.io/v1
    node::RUNTIME_CLASS,
    // policy/v1
    policy::pod_disruption_budget::DESCRIPTOR,
    // rbac.authorization.k8s.io/v1
    rbac::CLUSTER_ROLE,
    rbac::CLUSTER_ROLE_BINDING,
    rbac::ROLE,
    rbac::ROLE_BINDING,
    // scheduling.k8s.io/v1
    scheduling::PRIORITY_CLASS,
    // storage.k8s.io/v1
    storage::csi::CSI_DRIVER,
    storage::csi::CSI_NODE,
    storage::csi::CSI_STORAGE_CAPACITY,
    storage::storage_class::STORAGE_CLASS,
    storage::storage_class::VOLUME_ATTRIBUTES_CLASS,
    storage::volume_attachment::DESCRIPTOR,
];

/// What is posted and answered, not stored.
pub const POSTED: &[Posted] = &[
    Posted { resource: resources::SERVICE_ACCOUNTS, subresource: "token", answer: token_request::token_request },
    Posted { resource: resources::TOKEN_REVIEWS, subresource: "", answer: authentication::review::token_review },
    Posted {
        resource: resources::SELF_SUBJECT_REVIEWS,
        subresource: "",
        answer: authentication::review::self_subject_review,
    },
    Posted { resource: resources::SUBJECT_ACCESS_REVIEWS, subresource: "", answer: review::subject },
    Posted { resource: resources::SELF_SUBJECT_ACCESS_REVIEWS, subresource: "", answer: review::self_subject },
    Posted { resource: resources::LOCAL_SUBJECT_ACCESS_REVIEWS, subresource: "", answer: review::local_subject },
    Posted { resource: resources::SELF_SUBJECT_RULES_REVIEWS, subresource: "", answer: review::self_rules },
    Posted {
        resource: resources::PODS,
        subresource: "binding",
        answer: |server, context, key, body| Box::pin(binding::bind(server, context, key, body)),
    },
    Posted {
        resource: resources::BINDINGS,
        subresource: "",
        answer: |server, context, key, body| Box::pin(binding::bind(server, context, key, body)),
    },
    Posted {
        resource: resources::PODS,
        subresource: "eviction",
        answer: |server, context, key, body| Box::pin(eviction::evict(server, context, key, body)),
    },
];

/// Resources that nobody should use any more, and what everybody who does is told.
pub const DEPRECATED: &[(&Resource, &str)] = &[
    (resources::COMPONENT_STATUSES, "v1 ComponentStatus is deprecated in v1.19+"),
    (resources::ENDPOINTS, "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
];

/// One resource's behaviour.
pub struct Descriptor {
    /// Which resource.
    pub resource: &'static Resource,
    /// Makes the strategy, once, when the server starts.
    pub strategy: fn(&Parts) -> Arc<dyn Strategy>,
}

/// What strategies and admission plugins may keep.
#[derive(Clone)]
pub struct Parts {
    /// The objects of all resources.
    pub caches: Arc<Caches>,
    /// How the server was started.
    pub config: Arc<Config>,
    /// Who may come in and what they may do there.
    pub access: Arc<Access>,
    /// The custom resources.
    pub definitions: Arc<Definitions>,
}

/// Who writes, when, and whether for real.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Who.
    pub user: &'a UserInfo,
    /// When.
    pub now: Timestamp,
    /// Generated names.
    pub random: &'a Random,
    /// Whether nothing is to be stored: then nothing may be reserved or sent either.
    pub dry_run: bool,
    /// What is to be said beside the answer.
    pub notes: &'a Notes,
}

/// Held while a write that reserved something is under way; dropped when it has been committed (the caches show it by then)
/// or has failed.
pub type Reservation = Box<dyn Send + Sync>;

/// How objects of one resource are defaulted, prepared and validated. Trees are JSON in the resource's own version.
///
/// The order of a create: [`default`](Self::default), mutating admission, [`prepare_for_create`](Self::prepare_for_create),
/// [`reserve`](Self::reserve), [`validate`](Self::validate), validating admission, store. An update likewise. Name,
/// namespace, uid, generation, timestamps and deletion marks are checked and kept by the generic code.
pub trait Strategy: Send + Sync + 'static {
    /// Sets what the object leaves out, before anyone else sees it. Must be idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Clears what users do not set, such as status, and sets what the server does.
    fn prepare_for_create(&self, _context: &Context<'_>, _object: &mut Value) {}

    /// All that is wrong with a new object.
    fn validate(&self, _context: &Context<'_>, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Keeps in `new` what an update may not change, such as status.
    fn prepare_for_update(&self, _context: &Context<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    /// All that is wrong with a changed object.
    fn validate_update(&self, context: &Context<'_>, new: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate(context, new)
    }

    /// Keeps in `new` what a write to `subresource` may not change: [`reset_fields`](Self::reset_fields).
    fn prepare_for_subresource_update(&self, _context: &Context<'_>, subresource: &str, new: &mut Value, old: &Value) {
        reset(new, old, self.reset_fields(subresource));
    }

    /// All that is wrong after a write to `subresource`.
    fn validate_subresource_update(
        &self,
        _context: &Context<'_>,
        _subresource: &str,
        _new: &Value,
        _old: &Value,
    ) -> Vec<FieldError> {
        Vec::new()
    }

    /// Takes what must be unique in the cluster, such as addresses and ports, and writes it into `new`.
    fn reserve<'a>(
        &'a self,
        _context: &'a Context<'a>,
        _new: &'a mut Value,
        _old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Option<Reservation>, ApiError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// All that is wrong with a name. Most resources take DNS subdomains.
    fn name_errors(&self, name: &str) -> Vec<String> {
        machinery::names::dns1123_subdomain(name)
    }

    /// What a write to `subresource` (empty: the object itself) cannot change, since [`prepare_for_update`](Self::prepare_for_update)
    /// and the like set it back: a field with all below it. Nobody comes to own it by such a write.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["status"]],
            _ => &[&["spec"]],
        }
    }

    /// The schemas by which fields are owned, one a version; `None` for built-in types, whose schemas are a table.
    fn versions(&self) -> Option<&dyn Versions> {
        None
    }

    /// Whether PUT of an absent name creates the object.
    fn allows_create_on_update(&self) -> bool {
        false
    }

    /// Whether PUT without a resource version is allowed.
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// Whether objects count changes of their spec in `metadata.generation`.
    fn has_generation(&self) -> bool {
        false
    }

    /// Whether status counts as something that the object wants: where it is written with the rest.
    fn counts_status(&self) -> bool {
        false
    }

    /// Whether a null means something else than an absent field.
    fn keeps_nulls(&self) -> bool {
        false
    }

    /// Where `/scale` finds its numbers, where it is not in `spec.replicas`, `status.replicas` and `spec.selector`.
    fn scale_paths(&self) -> Option<&ScalePaths> {
        None
    }

    /// How long a deleted object is given to end, when the request asks for `asked`; 0 removes it at once. Pods only.
    fn grace_seconds(&self, _object: &Value, _asked: Option<i64>) -> i64 {
        0
    }

    /// Whether a deleted object stays although it has no finalizers in its metadata (namespaces: `spec.finalizers`).
    fn stays_when_deleted(&self, _object: &Value) -> bool {
        false
    }

    /// What holds a deleted object back in any case, until the server has cleared up after it.
    fn deletion_finalizers(&self) -> &'static [&'static str] {
        &[]
    }

    /// Marks an object that was deleted and stays for now (namespaces: `status.phase`).
    fn prepare_for_deletion(&self, _object: &mut Value) {}

    /// Whether deletion orphans dependents when the request does not say.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Warnings for the writer, each sent as a `Warning` header.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
}

/// The strategy of resources that have none of their own.
pub struct Plain;

impl Strategy for Plain {}

/// Something that is posted, to a resource or a subresource, and answered without being stored as such.
pub struct Posted {
    /// Which resource.
    pub resource: &'static Resource,
    /// Which subresource; empty for the resource itself.
    pub subresource: &'static str,
    /// Answers. The key's name is empty for the resource itself.
    pub answer: Answer,
}

/// Answers what was posted, under the key of its path.
pub type Answer =
    for<'a> fn(&'a Arc<Server>, &'a Context<'a>, &'a Key, Value) -> BoxFuture<'a, Result<Value, ApiError>>;

/// What a write to the status cannot change where metadata is written with the object itself only.
pub const ALL_BUT_STATUS: &[&[&str]] = &[
    &["metadata", "labels"],
    &["metadata", "annotations"],
    &["metadata", "finalizers"],
    &["metadata", "ownerReferences"],
    &["spec"],
];

/// Puts the old object's status into the new one.
pub fn keep_status(new: &mut Value, old: &Value) {
    let Some(new) = new.as_object_mut() else { return };
    match old.get("status") {
        Some(status) => new.insert("status".to_owned(), status.clone()),
        None => new.remove("status"),
    };
}

/// Sets fields back to what they were: each with all below it.
pub fn reset(new: &mut Value, old: &Value, fields: &[&[&str]]) {
    for path in fields {
        let Some((last, parents)) = path.split_last() else { continue };
        let before = path.iter().try_fold(old, |value, name| value.get(name));
        let parent = parents.iter().try_fold(&mut *new, |value, name| value.get_mut(name));
        match (parent, before) {
            (Some(parent), Some(before)) => tree::set(parent, last, before.clone()),
            (Some(parent), None) => tree::remove(parent, last),
            // Metadata is always there, and nothing else has parents.
            (None, _) => {}
        }
    }
}
