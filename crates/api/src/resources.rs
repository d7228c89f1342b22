//! The built-in resources of Kubernetes 1.36: every group and version that is generally available, and so served by default.
//!
//! Names, short names, categories, verbs and subresources are those of upstream's discovery documents; selectable fields
//! those of its field label conversions. A resource is one static here and one line in [`RESOURCES`].

use std::borrow::Cow;

use crate::resource::{Resource, Scope, StoredAs, Subresource, Verb};

/// A list of names that lives as long as the program.
macro_rules! names {
    ($($name:literal),+) => { const { &[$(Cow::Borrowed($name)),+] } };
}

/// The resource of that name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    let same = |row: &&&Resource| row.plural == plural && row.group == group && row.version == version;
    RESOURCES.iter().find(same).copied()
}

/// The resource whose objects are of that kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    let same = |row: &&&Resource| row.kind == kind && row.group == group && row.version == version;
    RESOURCES.iter().find(same).copied()
}

/// The table of contents, in the order in which groups are preferred and discovery lists them.
pub static RESOURCES: &[&Resource] = &[
    // v1
    BINDINGS,
    COMPONENT_STATUSES,
    CONFIG_MAPS,
    ENDPOINTS,
    EVENTS,
    LIMIT_RANGES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    POD_TEMPLATES,
    REPLICATION_CONTROLLERS,
    RESOURCE_QUOTAS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    // apiregistration.k8s.io/v1
    API_SERVICES,
    // apps/v1
    CONTROLLER_REVISIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    REPLICA_SETS,
    STATEFUL_SETS,
    // events.k8s.io/v1
    EVENTS_V1,
    // authentication.k8s.io/v1
    SELF_SUBJECT_REVIEWS,
    TOKEN_REVIEWS,
    // authorization.k8s.io/v1
    LOCAL_SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_RULES_REVIEWS,
    SUBJECT_ACCESS_REVIEWS,
    // autoscaling/v2, autoscaling/v1
    HORIZONTAL_POD_AUTOSCALERS,
    HORIZONTAL_POD_AUTOSCALERS_V1,
    // batch/v1
    CRON_JOBS,
    JOBS,
    // certificates.k8s.io/v1
    CERTIFICATE_SIGNING_REQUESTS,
    // networking.k8s.io/v1
    INGRESS_CLASSES,
    INGRESSES,
    IP_ADDRESSES,
    NETWORK_POLICIES,
    SERVICE_CIDRS,
    // policy/v1
    POD_DISRUPTION_BUDGETS,
    // rbac.authorization.k8s.io/v1
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    ROLES,
    // storage.k8s.io/v1
    CSI_DRIVERS,
    CSI_NODES,
    CSI_STORAGE_CAPACITIES,
    STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
    VOLUME_ATTRIBUTES_CLASSES,
    // admissionregistration.k8s.io/v1
    MUTATING_ADMISSION_POLICIES,
    MUTATING_ADMISSION_POLICY_BINDINGS,
    MUTATING_WEBHOOK_CONFIGURATIONS,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    // apiextensions.k8s.io/v1
    CUSTOM_RESOURCE_DEFINITIONS,
    // scheduling.k8s.io/v1
    PRIORITY_CLASSES,
    // coordination.k8s.io/v1
    LEASES,
    // node.k8s.io/v1
    RUNTIME_CLASSES,
    // discovery.k8s.io/v1
    ENDPOINT_SLICES,
    // resource.k8s.io/v1
    DEVICE_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_SLICES,
    // flowcontrol.apiserver.k8s.io/v1
    FLOW_SCHEMAS,
    PRIORITY_LEVEL_CONFIGURATIONS,
];

const CORE: GroupVersion = ("", "v1");
const APIREGISTRATION: GroupVersion = ("apiregistration.k8s.io", "v1");
const APPS: GroupVersion = ("apps", "v1");
const EVENTS_GROUP: GroupVersion = ("events.k8s.io", "v1");
const AUTHENTICATION: GroupVersion = ("authentication.k8s.io", "v1");
const AUTHORIZATION: GroupVersion = ("authorization.k8s.io", "v1");
const AUTOSCALING_V1: GroupVersion = ("autoscaling", "v1");
const AUTOSCALING_V2: GroupVersion = ("autoscaling", "v2");
const BATCH: GroupVersion = ("batch", "v1");
const CERTIFICATES: GroupVersion = ("certificates.k8s.io", "v1");
const NETWORKING: GroupVersion = ("networking.k8s.io", "v1");
const POLICY: GroupVersion = ("policy", "v1");
const RBAC: GroupVersion = ("rbac.authorization.k8s.io", "v1");
const STORAGE: GroupVersion = ("storage.k8s.io", "v1");
const ADMISSION: GroupVersion = ("admissionregistration.k8s.io", "v1");
const APIEXTENSIONS: GroupVersion = ("apiextensions.k8s.io", "v1");
const SCHEDULING: GroupVersion = ("scheduling.k8s.io", "v1");
const COORDINATION: GroupVersion = ("coordination.k8s.io", "v1");
const NODE: GroupVersion = ("node.k8s.io", "v1");
const DISCOVERY: GroupVersion = ("discovery.k8s.io", "v1");
const RESOURCE: GroupVersion = ("resource.k8s.io", "v1");
const FLOWCONTROL: GroupVersion = ("flowcontrol.apiserver.k8s.io", "v1");

// v1

/// `v1` `bindings`
pub static BINDINGS: &Resource = &row(CORE, "Binding", "binding", "bindings").verbs(CREATE_ONLY).namespaced();
/// `v1` `componentstatuses`
pub static COMPONENT_STATUSES: &Resource = &row(CORE, "ComponentStatus", "componentstatus", "componentstatuses")
    .short(names!["cs"])
    .verbs(READ_ONLY)
    .cluster();
/// `v1` `configmaps`
pub static CONFIG_MAPS: &Resource = &row(CORE, "ConfigMap", "configmap", "configmaps").short(names!["cm"]).namespaced();
/// `v1` `endpoints`
pub static ENDPOINTS: &Resource = &row(CORE, "Endpoints", "endpoints", "endpoints").short(names!["ep"]).namespaced();
/// `v1` `events`; the stored form of events in both groups.
pub static EVENTS: &Resource = &row(CORE, "Event", "event", "events")
    .short(names!["ev"])
    .fields(names![
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type"
    ])
    .namespaced();
/// `v1` `limitranges`
pub static LIMIT_RANGES: &Resource =
    &row(CORE, "LimitRange", "limitrange", "limitranges").short(names!["limits"]).namespaced();
/// `v1` `namespaces`
pub static NAMESPACES: &Resource = &row(CORE, "Namespace", "namespace", "namespaces")
    .short(names!["ns"])
    .verbs(NO_DELETE_COLLECTION)
    .subresources(const { &[Subresource { name: name("finalize"), kind: None, verbs: verbs(UPDATE_ONLY) }, STATUS] })
    .fields(names!["status.phase"])
    .cluster();
/// `v1` `nodes`
pub static NODES: &Resource = &row(CORE, "Node", "node", "nodes")
    .short(names!["no"])
    .subresources(const { &[sub("proxy", CORE, "NodeProxyOptions", PROXY), STATUS] })
    .fields(names!["spec.unschedulable"])
    .cluster();
/// `v1` `persistentvolumeclaims`
pub static PERSISTENT_VOLUME_CLAIMS: &Resource =
    &row(CORE, "PersistentVolumeClaim", "persistentvolumeclaim", "persistentvolumeclaims")
        .short(names!["pvc"])
        .subresources(STATUS_ONLY)
        .namespaced();
/// `v1` `persistentvolumes`
pub static PERSISTENT_VOLUMES: &Resource = &row(CORE, "PersistentVolume", "persistentvolume", "persistentvolumes")
    .short(names!["pv"])
    .subresources(STATUS_ONLY)
    .cluster();
/// `v1` `pods`
pub static PODS: &Resource = &row(CORE, "Pod", "pod", "pods")
    .short(names!["po"])
    .categories(ALL)
    .subresources(
        const {
            &[
                sub("attach", CORE, "PodAttachOptions", STREAM),
                sub("binding", CORE, "Binding", CREATE_ONLY),
                Subresource { name: name("ephemeralcontainers"), kind: None, verbs: verbs(READ_WRITE) },
                sub("eviction", POLICY, "Eviction", CREATE_ONLY),
                sub("exec", CORE, "PodExecOptions", STREAM),
                Subresource { name: name("log"), kind: None, verbs: verbs(GET_ONLY) },
                sub("portforward", CORE, "PodPortForwardOptions", STREAM),
                sub("proxy", CORE, "PodProxyOptions", PROXY),
                Subresource { name: name("resize"), kind: None, verbs: verbs(READ_WRITE) },
                STATUS,
            ]
        },
    )
    .fields(names![
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName"
    ])
    .namespaced();
/// `v1` `podtemplates`
pub static POD_TEMPLATES: &Resource = &row(CORE, "PodTemplate", "podtemplate", "podtemplates").namespaced();
/// `v1` `replicationcontrollers`
pub static REPLICATION_CONTROLLERS: &Resource =
    &row(CORE, "ReplicationController", "replicationcontroller", "replicationcontrollers")
        .short(names!["rc"])
        .categories(ALL)
        .subresources(STATUS_AND_SCALE)
        .fields(names!["status.replicas"])
        .namespaced();
/// `v1` `resourcequotas`
pub static RESOURCE_QUOTAS: &Resource = &row(CORE, "ResourceQuota", "resourcequota", "resourcequotas")
    .short(names!["quota"])
    .subresources(STATUS_ONLY)
    .namespaced();
/// `v1` `secrets`
pub static SECRETS: &Resource = &row(CORE, "Secret", "secret", "secrets").fields(names!["type"]).namespaced();
/// `v1` `serviceaccounts`
pub static SERVICE_ACCOUNTS: &Resource = &row(CORE, "ServiceAccount", "serviceaccount", "serviceaccounts")
    .short(names!["sa"])
    .subresources(const { &[sub("token", AUTHENTICATION, "TokenRequest", CREATE_ONLY)] })
    .namespaced();
/// `v1` `services`
pub static SERVICES: &Resource = &row(CORE, "Service", "service", "services")
    .short(names!["svc"])
    .categories(ALL)
    .subresources(const { &[sub("proxy", CORE, "ServiceProxyOptions", PROXY), STATUS] })
    .fields(names!["spec.clusterIP", "spec.type"])
    .namespaced();

// apiregistration.k8s.io/v1

/// `apiregistration.k8s.io/v1` `apiservices`
pub static API_SERVICES: &Resource = &row(APIREGISTRATION, "APIService", "apiservice", "apiservices")
    .categories(API_EXTENSIONS)
    .subresources(STATUS_ONLY)
    .cluster();

// apps/v1

/// `apps/v1` `controllerrevisions`
pub static CONTROLLER_REVISIONS: &Resource =
    &row(APPS, "ControllerRevision", "controllerrevision", "controllerrevisions").namespaced();
/// `apps/v1` `daemonsets`
pub static DAEMON_SETS: &Resource = &row(APPS, "DaemonSet", "daemonset", "daemonsets")
    .short(names!["ds"])
    .categories(ALL)
    .subresources(STATUS_ONLY)
    .namespaced();
/// `apps/v1` `deployments`
pub static DEPLOYMENTS: &Resource = &row(APPS, "Deployment", "deployment", "deployments")
    .short(names!["deploy"])
    .categories(ALL)
    .subresources(STATUS_AND_SCALE)
    .namespaced();
/// `apps/v1` `replicasets`
pub static REPLICA_SETS: &Resource = &row(APPS, "ReplicaSet", "replicaset", "replicasets")
    .short(names!["rs"])
    .categories(ALL)
    .subresources(STATUS_AND_SCALE)
    .fields(names!["status.replicas"])
    .namespaced();
/// `apps/v1` `statefulsets`
pub static STATEFUL_SETS: &Resource = &row(APPS, "StatefulSet", "statefulset", "statefulsets")
    .short(names!["sts"])
    .categories(ALL)
    .subresources(STATUS_AND_SCALE)
    .namespaced();

// events.k8s.io/v1

/// `events.k8s.io/v1` `events`: another shape of the objects of [`EVENTS`].
pub static EVENTS_V1: &Resource = &row(EVENTS_GROUP, "Event", "event", "events")
    .short(names!["ev"])
    .fields(names![
        "reason",
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reportingController",
        "type"
    ])
    .stored_as(CORE, "Event")
    .namespaced();

// authentication.k8s.io/v1

/// `authentication.k8s.io/v1` `selfsubjectreviews`
pub static SELF_SUBJECT_REVIEWS: &Resource =
    &row(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreview", "selfsubjectreviews").verbs(CREATE_ONLY).cluster();
/// `authentication.k8s.io/v1` `tokenreviews`
pub static TOKEN_REVIEWS: &Resource =
    &row(AUTHENTICATION, "TokenReview", "tokenreview", "tokenreviews").verbs(CREATE_ONLY).cluster();

// authorization.k8s.io/v1

/// `authorization.k8s.io/v1` `localsubjectaccessreviews`
pub static LOCAL_SUBJECT_ACCESS_REVIEWS: &Resource =
    &row(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreview", "localsubjectaccessreviews")
        .verbs(CREATE_ONLY)
        .namespaced();
/// `authorization.k8s.io/v1` `selfsubjectaccessreviews`
pub static SELF_SUBJECT_ACCESS_REVIEWS: &Resource =
    &row(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreview", "selfsubjectaccessreviews")
        .verbs(CREATE_ONLY)
        .cluster();
/// `authorization.k8s.io/v1` `selfsubjectrulesreviews`
pub static SELF_SUBJECT_RULES_REVIEWS: &Resource =
    &row(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreview", "selfsubjectrulesreviews")
        .verbs(CREATE_ONLY)
        .cluster();
/// `authorization.k8s.io/v1` `subjectaccessreviews`
pub static SUBJECT_ACCESS_REVIEWS: &Resource =
    &row(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreview", "subjectaccessreviews")
        .verbs(CREATE_ONLY)
        .cluster();

// autoscaling/v2, autoscaling/v1

/// `autoscaling/v2` `horizontalpodautoscalers`; the stored form of both versions.
pub static HORIZONTAL_POD_AUTOSCALERS: &Resource =
    &row(AUTOSCALING_V2, "HorizontalPodAutoscaler", "horizontalpodautoscaler", "horizontalpodautoscalers")
        .short(names!["hpa"])
        .categories(ALL)
        .subresources(STATUS_ONLY)
        .namespaced();
/// `autoscaling/v1` `horizontalpodautoscalers`: another shape of the objects of [`HORIZONTAL_POD_AUTOSCALERS`].
pub static HORIZONTAL_POD_AUTOSCALERS_V1: &Resource =
    &row(AUTOSCALING_V1, "HorizontalPodAutoscaler", "horizontalpodautoscaler", "horizontalpodautoscalers")
        .short(names!["hpa"])
        .categories(ALL)
        .subresources(STATUS_ONLY)
        .stored_as(AUTOSCALING_V2, "HorizontalPodAutoscaler")
        .namespaced();

// batch/v1

/// `batch/v1` `cronjobs`
pub static CRON_JOBS: &Resource = &row(BATCH, "CronJob", "cronjob", "cronjobs")
    .short(names!["cj"])
    .categories(ALL)
    .subresources(STATUS_ONLY)
    .namespaced();
/// `batch/v1` `jobs`
pub static JOBS: &Resource = &row(BATCH, "Job", "job", "jobs")
    .categories(ALL)
    .subresources(STATUS_ONLY)
    .fields(names!["status.successful"])
    .namespaced();

// certificates.k8s.io/v1

/// `certificates.k8s.io/v1` `certificatesigningrequests`
pub static CERTIFICATE_SIGNING_REQUESTS: &Resource =
    &row(CERTIFICATES, "CertificateSigningRequest", "certificatesigningrequest", "certificatesigningrequests")
        .short(names!["csr"])
        .subresources(const { &[Subresource { name: name("approval"), kind: None, verbs: verbs(READ_WRITE) }, STATUS] })
        .fields(names!["spec.signerName"])
        .cluster();

// networking.k8s.io/v1

/// `networking.k8s.io/v1` `ingressclasses`
pub static INGRESS_CLASSES: &Resource = &row(NETWORKING, "IngressClass", "ingressclass", "ingressclasses").cluster();
/// `networking.k8s.io/v1` `ingresses`
pub static INGRESSES: &Resource =
    &row(NETWORKING, "Ingress", "ingress", "ingresses").short(names!["ing"]).subresources(STATUS_ONLY).namespaced();
/// `networking.k8s.io/v1` `ipaddresses`
pub static IP_ADDRESSES: &Resource =
    &row(NETWORKING, "IPAddress", "ipaddress", "ipaddresses").short(names!["ip"]).cluster();
/// `networking.k8s.io/v1` `networkpolicies`
pub static NETWORK_POLICIES: &Resource =
    &row(NETWORKING, "NetworkPolicy", "networkpolicy", "networkpolicies").short(names!["netpol"]).namespaced();
/// `networking.k8s.io/v1` `servicecidrs`
pub static SERVICE_CIDRS: &Resource =
    &row(NETWORKING, "ServiceCIDR", "servicecidr", "servicecidrs").subresources(STATUS_ONLY).cluster();

// policy/v1

/// `policy/v1` `poddisruptionbudgets`
pub static POD_DISRUPTION_BUDGETS: &Resource =
    &row(POLICY, "PodDisruptionBudget", "poddisruptionbudget", "poddisruptionbudgets")
        .short(names!["pdb"])
        .subresources(STATUS_ONLY)
        .namespaced();

// rbac.authorization.k8s.io/v1

/// `rbac.authorization.k8s.io/v1` `clusterrolebindings`
pub static CLUSTER_ROLE_BINDINGS: &Resource =
    &row(RBAC, "ClusterRoleBinding", "clusterrolebinding", "clusterrolebindings").cluster();
/// `rbac.authorization.k8s.io/v1` `clusterroles`
pub static CLUSTER_ROLES: &Resource = &row(RBAC, "ClusterRole", "clusterrole", "clusterroles").cluster();
/// `rbac.authorization.k8s.io/v1` `rolebindings`
pub static ROLE_BINDINGS: &Resource = &row(RBAC, "RoleBinding", "rolebinding", "rolebindings").namespaced();
/// `rbac.authorization.k8s.io/v1` `roles`
pub static ROLES: &Resource = &row(RBAC, "Role", "role", "roles").namespaced();

// storage.k8s.io/v1

/// `storage.k8s.io/v1` `csidrivers`
pub static CSI_DRIVERS: &Resource = &row(STORAGE, "CSIDriver", "csidriver", "csidrivers").cluster();
/// `storage.k8s.io/v1` `csinodes`
pub static CSI_NODES: &Resource = &row(STORAGE, "CSINode", "csinode", "csinodes").cluster();
/// `storage.k8s.io/v1` `csistoragecapacities`
pub static CSI_STORAGE_CAPACITIES: &Resource =
    &row(STORAGE, "CSIStorageCapacity", "csistoragecapacity", "csistoragecapacities").namespaced();
/// `storage.k8s.io/v1` `storageclasses`
pub static STORAGE_CLASSES: &Resource =
    &row(STORAGE, "StorageClass", "storageclass", "storageclasses").short(names!["sc"]).cluster();
/// `storage.k8s.io/v1` `volumeattachments`
pub static VOLUME_ATTACHMENTS: &Resource =
    &row(STORAGE, "VolumeAttachment", "volumeattachment", "volumeattachments").subresources(STATUS_ONLY).cluster();
/// `storage.k8s.io/v1` `volumeattributesclasses`
pub static VOLUME_ATTRIBUTES_CLASSES: &Resource =
    &row(STORAGE, "VolumeAttributesClass", "volumeattributesclass", "volumeattributesclasses")
        .short(names!["vac"])
        .cluster();

// admissionregistration.k8s.io/v1

/// `admissionregistration.k8s.io/v1` `mutatingadmissionpolicies`
pub static MUTATING_ADMISSION_POLICIES: &Resource =
    &row(ADMISSION, "MutatingAdmissionPolicy", "mutatingadmissionpolicy", "mutatingadmissionpolicies")
        .categories(API_EXTENSIONS)
        .cluster();
/// `admissionregistration.k8s.io/v1` `mutatingadmissionpolicybindings`
pub static MUTATING_ADMISSION_POLICY_BINDINGS: &Resource = &row(
    ADMISSION,
    "MutatingAdmissionPolicyBinding",
    "mutatingadmissionpolicybinding",
    "mutatingadmissionpolicybindings",
)
.categories(API_EXTENSIONS)
.cluster();
/// `admissionregistration.k8s.io/v1` `mutatingwebhookconfigurations`
pub static MUTATING_WEBHOOK_CONFIGURATIONS: &Resource =
    &row(ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfiguration", "mutatingwebhookconfigurations")
        .categories(API_EXTENSIONS)
        .cluster();
/// `admissionregistration.k8s.io/v1` `validatingadmissionpolicies`
pub static VALIDATING_ADMISSION_POLICIES: &Resource =
    &row(ADMISSION, "ValidatingAdmissionPolicy", "validatingadmissionpolicy", "validatingadmissionpolicies")
        .categories(API_EXTENSIONS)
        .subresources(STATUS_ONLY)
        .cluster();
/// `admissionregistration.k8s.io/v1` `validatingadmissionpolicybindings`
pub static VALIDATING_ADMISSION_POLICY_BINDINGS: &Resource = &row(
    ADMISSION,
    "ValidatingAdmissionPolicyBinding",
    "validatingadmissionpolicybinding",
    "validatingadmissionpolicybindings",
)
.categories(API_EXTENSIONS)
.cluster();
/// `admissionregistration.k8s.io/v1` `validatingwebhookconfigurations`
pub static VALIDATING_WEBHOOK_CONFIGURATIONS: &Resource = &row(
    ADMISSION,
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfiguration",
    "validatingwebhookconfigurations",
)
.categories(API_EXTENSIONS)
.cluster();

// apiextensions.k8s.io/v1

/// `apiextensions.k8s.io/v1` `customresourcedefinitions`
pub static CUSTOM_RESOURCE_DEFINITIONS: &Resource =
    &row(APIEXTENSIONS, "CustomResourceDefinition", "customresourcedefinition", "customresourcedefinitions")
        .short(names!["crd", "crds"])
        .categories(API_EXTENSIONS)
        .subresources(STATUS_ONLY)
        .cluster();

// scheduling.k8s.io/v1

/// `scheduling.k8s.io/v1` `priorityclasses`
pub static PRIORITY_CLASSES: &Resource =
    &row(SCHEDULING, "PriorityClass", "priorityclass", "priorityclasses").short(names!["pc"]).cluster();

// coordination.k8s.io/v1

/// `coordination.k8s.io/v1` `leases`
pub static LEASES: &Resource = &row(COORDINATION, "Lease", "lease", "leases").namespaced();

// node.k8s.io/v1

/// `node.k8s.io/v1` `runtimeclasses`
pub static RUNTIME_CLASSES: &Resource = &row(NODE, "RuntimeClass", "runtimeclass", "runtimeclasses").cluster();

// discovery.k8s.io/v1

/// `discovery.k8s.io/v1` `endpointslices`
pub static ENDPOINT_SLICES: &Resource =
    &row(DISCOVERY, "EndpointSlice", "endpointslice", "endpointslices").namespaced();

// resource.k8s.io/v1

/// `resource.k8s.io/v1` `deviceclasses`
pub static DEVICE_CLASSES: &Resource = &row(RESOURCE, "DeviceClass", "deviceclass", "deviceclasses").cluster();
/// `resource.k8s.io/v1` `resourceclaims`
pub static RESOURCE_CLAIMS: &Resource =
    &row(RESOURCE, "ResourceClaim", "resourceclaim", "resourceclaims").subresources(STATUS_ONLY).namespaced();
/// `resource.k8s.io/v1` `resourceclaimtemplates`
pub static RESOURCE_CLAIM_TEMPLATES: &Resource =
    &row(RESOURCE, "ResourceClaimTemplate", "resourceclaimtemplate", "resourceclaimtemplates").namespaced();
/// `resource.k8s.io/v1` `resourceslices`
pub static RESOURCE_SLICES: &Resource = &row(RESOURCE, "ResourceSlice", "resourceslice", "resourceslices")
    .fields(names!["spec.nodeName", "spec.driver"])
    .cluster();

// flowcontrol.apiserver.k8s.io/v1

/// `flowcontrol.apiserver.k8s.io/v1` `flowschemas`
pub static FLOW_SCHEMAS: &Resource =
    &row(FLOWCONTROL, "FlowSchema", "flowschema", "flowschemas").subresources(STATUS_ONLY).cluster();
/// `flowcontrol.apiserver.k8s.io/v1` `prioritylevelconfigurations`
pub static PRIORITY_LEVEL_CONFIGURATIONS: &Resource =
    &row(FLOWCONTROL, "PriorityLevelConfiguration", "prioritylevelconfiguration", "prioritylevelconfigurations")
        .subresources(STATUS_ONLY)
        .cluster();

type Name = Cow<'static, str>;
type GroupVersion = (&'static str, &'static str);

const EVERYTHING: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];
const NO_DELETE_COLLECTION: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
const CREATE_ONLY: &[Verb] = &[Verb::Create];
const UPDATE_ONLY: &[Verb] = &[Verb::Update];
const GET_ONLY: &[Verb] = &[Verb::Get];
const READ_ONLY: &[Verb] = &[Verb::Get, Verb::List];
const READ_WRITE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
const STREAM: &[Verb] = &[Verb::Create, Verb::Get];
const PROXY: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];

const ALL: &[Name] = names!["all"];
const API_EXTENSIONS: &[Name] = names!["api-extensions"];

const STATUS: Subresource = Subresource { name: name("status"), kind: None, verbs: verbs(READ_WRITE) };
const SCALE: Subresource = sub("scale", AUTOSCALING_V1, "Scale", READ_WRITE);
const STATUS_ONLY: &[Subresource] = &[STATUS];
const STATUS_AND_SCALE: &[Subresource] = &[SCALE, STATUS];

const fn name(text: &'static str) -> Name {
    Cow::Borrowed(text)
}

const fn verbs(verbs: &'static [Verb]) -> Cow<'static, [Verb]> {
    Cow::Borrowed(verbs)
}

const fn sub(
    path: &'static str,
    (group, version): GroupVersion,
    kind: &'static str,
    allowed: &'static [Verb],
) -> Subresource {
    Subresource { name: name(path), kind: Some((name(group), name(version), name(kind))), verbs: verbs(allowed) }
}

/// A resource while it is written down: references only, since a `Resource` cannot be changed at compile time.
#[derive(Clone, Copy)]
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    singular: &'static str,
    plural: &'static str,
    short_names: &'static [Name],
    categories: &'static [Name],
    verbs: &'static [Verb],
    subresources: &'static [Subresource],
    fields: &'static [Name],
    stored_as: Option<(GroupVersion, &'static str)>,
}

const fn row((group, version): GroupVersion, kind: &'static str, singular: &'static str, plural: &'static str) -> Row {
    let (short_names, categories, subresources, fields): (&[Name], &[Name], &[Subresource], &[Name]) =
        (&[], &[], &[], &[]);
    let verbs = EVERYTHING;
    Row {
        group,
        version,
        kind,
        singular,
        plural,
        short_names,
        categories,
        verbs,
        subresources,
        fields,
        stored_as: None,
    }
}

impl Row {
    const fn short(mut self, names: &'static [Name]) -> Self {
        self.short_names = names;
        self
    }

    const fn categories(mut self, names: &'static [Name]) -> Self {
        self.categories = names;
        self
    }

    const fn verbs(mut self, verbs: &'static [Verb]) -> Self {
        self.verbs = verbs;
        self
    }

    const fn subresources(mut self, subresources: &'static [Subresource]) -> Self {
        self.subresources = subresources;
        self
    }

    const fn fields(mut self, paths: &'static [Name]) -> Self {
        self.fields = paths;
        self
    }

    const fn stored_as(mut self, group_version: GroupVersion, kind: &'static str) -> Self {
        self.stored_as = Some((group_version, kind));
        self
    }

    const fn namespaced(self) -> Resource {
        self.build(Scope::Namespaced)
    }

    const fn cluster(self) -> Resource {
        self.build(Scope::Cluster)
    }

    const fn build(self, scope: Scope) -> Resource {
        let stored_as = match self.stored_as {
            Some(((group, version), kind)) => {
                Some(StoredAs { group: name(group), version: name(version), kind: name(kind) })
            }
            None => None,
        };
        Resource {
            group: name(self.group),
            version: name(self.version),
            kind: name(self.kind),
            plural: name(self.plural),
            singular: name(self.singular),
            short_names: Cow::Borrowed(self.short_names),
            categories: Cow::Borrowed(self.categories),
            scope,
            verbs: Cow::Borrowed(self.verbs),
            subresources: Cow::Borrowed(self.subresources),
            selectable_fields: Cow::Borrowed(self.fields),
            stored_as,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_is_found_by_its_names_alone() {
        let mut short = HashSet::new();
        for resource in RESOURCES {
            let (group, version) = (&*resource.group, &*resource.version);
            assert_eq!(find(group, version, &resource.plural), Some(*resource));
            assert_eq!(by_kind(group, version, &resource.kind), Some(*resource));
            assert_eq!(resource.singular, resource.kind.to_lowercase());
            for name in &*resource.short_names {
                assert!(short.insert((name.clone(), group, version)), "{name} twice");
            }
            let form = resource.stored_as.as_ref();
            let stored = form.map_or(Some(*resource), |form| by_kind(&form.group, &form.version, &form.kind));
            assert_eq!(stored.map(|stored| (&stored.plural, &stored.stored_as)), Some((&resource.plural, &None)));
        }
        assert_eq!(find("", "v1", "deployments"), None);
    }
}
