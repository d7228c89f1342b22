//! The roles and bindings that every cluster begins with, as data, and how they are brought back at each start.
//!
//! Names, rules and subjects are upstream's (the Kubernetes documentation's "Default roles and role bindings"). An object
//! annotated `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone; others get what they lack, and keep what
//! administrators added.

use api::{Resource, resources};
use serde_json::{Map, Value, json};

/// Rules in short: verbs, API groups and resources, each separated by spaces; `-` is the core group. A last element of
/// names follows a `=`.
type Rules = &'static [(&'static str, &'static str, &'static str)];

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";

const CLUSTER_ADMIN: Rules = &[("*", "*", "*")];

const VIEW: Rules = &[
    (
        READ,
        "-",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
         replicationcontrollers/scale serviceaccounts services services/status",
    ),
    (
        READ,
        "-",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status \
         resourcequotas resourcequotas/status",
    ),
    (READ, "-", "namespaces"),
    (READ, "discovery.k8s.io", "endpointslices"),
    (
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
         replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    (READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    (READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    (READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    (READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    (READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
    (READ, "events.k8s.io", "events"),
    (
        READ,
        "extensions",
        "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status \
         networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
    ),
];

const EDIT: Rules = &[
    (READ, "-", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    ("impersonate", "-", "serviceaccounts"),
    (WRITE, "-", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    ("create", "-", "pods/eviction"),
    (
        WRITE,
        "-",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
         serviceaccounts services services/proxy",
    ),
    ("create", "-", "serviceaccounts/token"),
    (
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
    ),
    (WRITE, "autoscaling", "horizontalpodautoscalers"),
    (WRITE, "batch", "cronjobs jobs"),
    (WRITE, "policy", "poddisruptionbudgets"),
    (WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    (WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
    ("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leases"),
    (WRITE, "events.k8s.io", "events"),
    (
        WRITE,
        "extensions",
        "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets \
         replicasets/scale replicationcontrollers/scale",
    ),
];

const ADMIN: Rules = &[
    ("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    ("create delete deletecollection get list patch update watch", "rbac.authorization.k8s.io", "rolebindings roles"),
];

const BASIC_USER: Rules = &[
    ("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
    ("create", "authentication.k8s.io", "selfsubjectreviews"),
];

const NODE: Rules = &[
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    (READ, "-", "services"),
    ("create get list watch", "-", "nodes"),
    ("patch update", "-", "nodes nodes/status"),
    ("create patch update", "- events.k8s.io", "events"),
    (READ, "-", "pods"),
    ("create delete", "-", "pods"),
    ("patch update", "-", "pods/status"),
    ("create", "-", "pods/eviction"),
    (READ, "-", "configmaps secrets"),
    ("get", "-", "persistentvolumeclaims persistentvolumes"),
    ("get", "-", "endpoints"),
    ("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    ("create delete get patch update", "coordination.k8s.io", "leases"),
    ("get", "storage.k8s.io", "volumeattachments"),
    ("create", "-", "serviceaccounts/token"),
    ("get", "-", "serviceaccounts"),
    ("get patch update", "-", "persistentvolumeclaims/status"),
    (READ, "storage.k8s.io", "csidrivers"),
    ("create delete get patch update", "storage.k8s.io", "csinodes"),
    (READ, "node.k8s.io", "runtimeclasses"),
    ("get", "resource.k8s.io", "resourceclaims"),
    ("deletecollection", "resource.k8s.io", "resourceslices"),
];

const NODE_PROXIER: Rules = &[
    ("list watch", "-", "endpoints services"),
    (READ, "-", "nodes"),
    ("create patch update", "- events.k8s.io", "events"),
    ("list watch", "discovery.k8s.io", "endpointslices"),
    ("list watch", "networking.k8s.io", "servicecidrs"),
];

const SCHEDULER: Rules = &[
    ("create patch update", "- events.k8s.io", "events"),
    ("create list watch", "coordination.k8s.io", "leases"),
    ("get update", "coordination.k8s.io", "leases =kube-scheduler"),
    (READ, "-", "nodes"),
    ("delete get list watch", "-", "pods"),
    ("create", "-", "bindings pods/binding"),
    ("patch update", "-", "pods/status"),
    (READ, "-", "replicationcontrollers services"),
    (READ, "apps", "replicasets statefulsets"),
    (READ, "policy", "poddisruptionbudgets"),
    ("get list patch update watch", "-", "persistentvolumeclaims persistentvolumes"),
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "subjectaccessreviews"),
    (READ, "storage.k8s.io", "csidrivers csinodes csistoragecapacities storageclasses volumeattachments"),
    (READ, "-", "namespaces"),
    (READ, "resource.k8s.io", "deviceclasses resourceslices"),
    ("get list patch update watch", "resource.k8s.io", "resourceclaims"),
    ("patch update", "resource.k8s.io", "resourceclaims/status"),
    ("get list watch", "resource.k8s.io", "resourceclaims/status"),
    ("patch update", "resource.k8s.io", "resourceclaims/binding"),
    ("create delete", "resource.k8s.io", "resourceclaims"),
    ("update", "-", "pods/finalizers"),
    (READ, "extensions", "replicasets"),
    ("list watch", "coordination.k8s.io", "leases =kube-scheduler"),
    ("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leasecandidates"),
];

const CONTROLLER_MANAGER: Rules = &[
    ("create patch update", "- events.k8s.io", "events"),
    ("create list watch", "coordination.k8s.io", "leases"),
    ("get update", "coordination.k8s.io", "leases =kube-controller-manager"),
    ("create", "-", "secrets serviceaccounts"),
    ("delete", "-", "secrets"),
    ("get", "-", "configmaps namespaces secrets serviceaccounts"),
    ("update", "-", "secrets serviceaccounts"),
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "subjectaccessreviews"),
    ("list watch", "*", "*"),
    ("create", "-", "serviceaccounts/token"),
];

const EVENTS: (&str, &str, &str) = ("create patch update", "- events.k8s.io", "events");

/// The controllers' own roles, `system:controller:NAME`, each bound to the service account NAME in `kube-system`.
const CONTROLLERS: &[(&str, Rules)] = &[
    (
        "attachdetach-controller",
        &[
            ("list watch", "-", "persistentvolumeclaims persistentvolumes"),
            (READ, "-", "nodes"),
            ("patch update", "-", "nodes/status"),
            ("list watch", "-", "pods"),
            ("create delete get list patch watch", "storage.k8s.io", "volumeattachments"),
            (READ, "storage.k8s.io", "csidrivers csinodes"),
            EVENTS,
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    (
        "cronjob-controller",
        &[
            ("get list update watch", "batch", "cronjobs"),
            ("create delete get list patch update watch", "batch", "jobs"),
            ("update", "batch", "cronjobs/status cronjobs/finalizers"),
            ("delete list watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            (READ, "apps", "daemonsets"),
            ("update", "apps", "daemonsets/status daemonsets/finalizers"),
            ("list watch", "-", "nodes"),
            ("create delete list patch watch", "-", "pods"),
            ("create", "-", "pods/binding"),
            ("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            ("get list update watch", "apps", "deployments"),
            ("update", "apps", "deployments/status deployments/finalizers"),
            ("create delete get list patch update watch", "apps", "replicasets"),
            ("get list update watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            (READ, "apps", "deployments replicasets statefulsets"),
            (READ, "-", "replicationcontrollers"),
            (READ, "policy", "poddisruptionbudgets"),
            ("update", "policy", "poddisruptionbudgets/status"),
            ("list watch", "-", "pods"),
            ("patch update", "-", "pods/status"),
            ("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            (READ, "-", "pods services"),
            ("create delete get list update watch", "-", "endpoints"),
            ("create", "-", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            (READ, "-", "nodes pods services"),
            ("update", "-", "services/finalizers"),
            ("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            ("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            (READ, "-", "endpoints services"),
            ("update", "-", "services/finalizers endpoints/finalizers"),
            ("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            ("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            ("update", "-", "pods/finalizers"),
            (READ, "-", "pods"),
            ("create get list watch", "-", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            ("get list patch update watch", "-", "persistentvolumes"),
            ("patch update", "-", "persistentvolumeclaims/status"),
            (READ, "-", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[("delete get list patch update watch", "*", "*"), EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            (READ, "autoscaling", "horizontalpodautoscalers"),
            ("update", "autoscaling", "horizontalpodautoscalers/status"),
            ("get update", "*", "*/scale"),
            ("list watch", "-", "pods"),
            ("list watch", "metrics.k8s.io", "pods"),
            ("get list watch", "custom.metrics.k8s.io external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            ("get list patch update watch", "batch", "jobs"),
            ("update", "batch", "jobs/status jobs/finalizers"),
            ("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[
            ("get", "-", "configmaps =kube-apiserver-legacy-service-account-token-tracking"),
            ("delete patch", "-", "secrets"),
        ],
    ),
    (
        // Ours alone: upstream has no provisioner of its own.
        "local-volume-provisioner",
        &[
            ("create delete get list patch update watch", "-", "persistentvolumes"),
            ("get list update watch", "-", "persistentvolumeclaims"),
            (READ, "storage.k8s.io", "storageclasses"),
            ("get list patch watch", "-", "nodes"),
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            ("delete get list watch", "-", "namespaces"),
            ("update", "-", "namespaces/finalize namespaces/status"),
            ("delete deletecollection get list watch", "*", "*"),
        ],
    ),
    (
        "node-controller",
        &[
            ("delete get list patch update watch", "-", "nodes"),
            ("patch update", "-", "nodes/status"),
            ("patch update", "-", "pods/status"),
            ("delete get list watch", "-", "pods"),
            (READ, "coordination.k8s.io", "leases"),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            ("create delete get list update watch", "-", "persistentvolumes"),
            ("update", "-", "persistentvolumes/status"),
            ("get list update watch", "-", "persistentvolumeclaims"),
            ("update", "-", "persistentvolumeclaims/status"),
            ("create delete get list watch", "-", "pods"),
            (READ, "storage.k8s.io", "storageclasses"),
            (READ, "-", "nodes"),
            ("watch", "-", "events"),
            EVENTS,
        ],
    ),
    (
        "pod-garbage-collector",
        &[
            ("delete list watch", "-", "pods"),
            ("get list watch", "-", "nodes"),
            ("patch update", "-", "pods/status"),
            EVENTS,
        ],
    ),
    ("pv-protection-controller", &[("get list update watch", "-", "persistentvolumes"), EVENTS]),
    (
        "pvc-protection-controller",
        &[
            ("get list update watch", "-", "persistentvolumeclaims"),
            ("update", "-", "persistentvolumeclaims/status"),
            (READ, "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "replicaset-controller",
        &[
            ("get list update watch", "apps", "replicasets"),
            ("update", "apps", "replicasets/status replicasets/finalizers"),
            ("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            ("get list update watch", "-", "replicationcontrollers"),
            ("update", "-", "replicationcontrollers/status replicationcontrollers/finalizers"),
            ("create delete list patch watch", "-", "pods"),
            EVENTS,
        ],
    ),
    ("resourcequota-controller", &[("list watch", "*", "*"), ("update", "-", "resourcequotas/status"), EVENTS]),
    (
        "resource-claim-controller",
        &[
            (READ, "-", "pods"),
            ("update", "-", "pods/finalizers"),
            ("create delete get list watch", "resource.k8s.io", "resourceclaims"),
            ("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaims/binding"),
            ("patch update", "-", "pods/status"),
            EVENTS,
        ],
    ),
    (
        "device-taint-eviction-controller",
        &[
            ("delete get list watch", "-", "pods"),
            ("patch update", "-", "pods/status"),
            (READ, "resource.k8s.io", "deviceclasses resourceclaims resourceslices"),
            EVENTS,
        ],
    ),
    ("route-controller", &[("list watch", "-", "nodes"), ("patch", "-", "nodes/status"), EVENTS]),
    (
        "selinux-warning-controller",
        &[(READ, "-", "persistentvolumeclaims persistentvolumes pods"), (READ, "storage.k8s.io", "csidrivers"), EVENTS],
    ),
    (
        "service-controller",
        &[(READ, "-", "services"), ("patch update", "-", "services/status"), ("list watch", "-", "nodes"), EVENTS],
    ),
    ("root-ca-cert-publisher", &[("create update", "-", "configmaps"), EVENTS]),
    ("service-account-controller", &[("create", "-", "serviceaccounts"), EVENTS]),
    (
        "service-cidrs-controller",
        &[
            ("get list patch update watch", "networking.k8s.io", "servicecidrs"),
            ("patch update", "networking.k8s.io", "servicecidrs/finalizers servicecidrs/status"),
            (READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            ("list watch", "-", "pods"),
            (READ, "apps", "statefulsets"),
            ("update", "apps", "statefulsets/status statefulsets/finalizers"),
            ("create delete get patch update", "-", "pods"),
            ("create delete get list patch update watch", "apps", "controllerrevisions"),
            ("create delete get list update watch", "-", "persistentvolumeclaims"),
            ("update", "-", "pods/finalizers"),
            EVENTS,
        ],
    ),
    (
        "taint-eviction-controller",
        &[
            ("get list watch", "-", "nodes"),
            ("delete get list watch", "-", "pods"),
            ("patch update", "-", "pods/status"),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[("delete get list watch", "batch", "jobs"), EVENTS]),
    ("ttl-controller", &[("list patch update watch", "-", "nodes"), EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            (READ, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
            ("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
            EVENTS,
        ],
    ),
    (
        "volumeattributesclass-protection-controller",
        &[
            ("get list update watch", "storage.k8s.io", "volumeattributesclasses"),
            (READ, "-", "persistentvolumeclaims persistentvolumes"),
            EVENTS,
        ],
    ),
    // Not upstream's: nodes' serving certificates are approved by a controller of ours.
    (
        "kubelet-serving-approver",
        &[
            ("update", "certificates.k8s.io", "certificatesigningrequests/approval"),
            ("approve", "certificates.k8s.io", "signers =kubernetes.io/kubelet-serving"),
        ],
    ),
    (
        "certificate-controller",
        &[
            ("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            ("update", "certificates.k8s.io", "certificatesigningrequests/approval certificatesigningrequests/status"),
            ("approve", "certificates.k8s.io", "signers =kubernetes.io/kube-apiserver-client-kubelet"),
            (
                "sign",
                "certificates.k8s.io",
                "signers =kubernetes.io/kube-apiserver-client =kubernetes.io/kube-apiserver-client-kubelet \
             =kubernetes.io/kubelet-serving =kubernetes.io/legacy-unknown",
            ),
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
];

/// Roles that are not for one controller.
const ROLES: &[(&str, Rules)] = &[
    ("cluster-admin", CLUSTER_ADMIN),
    ("system:basic-user", BASIC_USER),
    ("system:node", NODE),
    ("system:node-proxier", NODE_PROXIER),
    ("system:kube-scheduler", SCHEDULER),
    // Not upstream's, where each network has its own: what a node's network policies are planned from.
    (
        "timonier:network-policies",
        &[("list watch", "-", "namespaces pods"), ("list watch", "networking.k8s.io", "networkpolicies")],
    ),
    (
        "system:volume-scheduler",
        &[
            ("get list patch update watch", "-", "persistentvolumes"),
            (READ, "storage.k8s.io", "storageclasses"),
            ("get list patch update watch", "-", "persistentvolumeclaims"),
        ],
    ),
    ("system:kube-aggregator", &[(READ, "-", "endpoints services")]),
    ("system:monitoring", &[("get", "-", "nodes/metrics")]),
    ("system:kube-controller-manager", CONTROLLER_MANAGER),
    (
        "system:kube-dns",
        &[("list watch", "-", "endpoints services"), ("list watch", "discovery.k8s.io", "endpointslices")],
    ),
    (
        "system:auth-delegator",
        &[
            ("create", "authentication.k8s.io", "tokenreviews"),
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    (
        "system:kubelet-api-admin",
        &[
            (READ, "-", "nodes"),
            ("proxy", "-", "nodes"),
            ("*", "-", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats"),
        ],
    ),
    ("system:node-bootstrapper", &[("create get list watch", "certificates.k8s.io", "certificatesigningrequests")]),
    ("timonier:node-network", NODE_NETWORK),
    ("system:node-problem-detector", &[("get", "-", "nodes"), ("patch", "-", "nodes/status"), EVENTS]),
    ("system:heapster", &[(READ, "-", "events namespaces nodes pods"), (READ, "extensions", "deployments")]),
    (
        "system:persistent-volume-provisioner",
        &[
            ("create delete get list watch", "-", "persistentvolumes"),
            ("get list update watch", "-", "persistentvolumeclaims"),
            (READ, "storage.k8s.io", "storageclasses"),
            ("watch", "-", "events"),
            EVENTS,
        ],
    ),
    ("system:service-account-issuer-discovery", &[]),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[("approve", "certificates.k8s.io", "signers =kubernetes.io/kube-apiserver-client")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[("approve", "certificates.k8s.io", "signers =kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[("approve", "certificates.k8s.io", "signers =kubernetes.io/kubelet-serving")],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[("approve", "certificates.k8s.io", "signers =kubernetes.io/legacy-unknown")],
    ),
];

/// What a node's proxy, DNS and ways to other nodes read, with the node's own identity: see docs/decisions/0006. What the
/// node authorizer allows them already is here for API servers whose node authorizer allows less.
const NODE_NETWORK: Rules =
    &[("get list watch", "-", "namespaces nodes services"), ("list watch", "discovery.k8s.io", "endpointslices")];

/// Paths that are no resource's, which cluster roles open for `get`.
const PATHS: &[(&str, &[&str])] = &[
    (
        "system:discovery",
        &[
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
            "/version/",
        ],
    ),
    ("system:public-info-viewer", &["/healthz", "/livez", "/readyz", "/version", "/version/"]),
    (
        "system:monitoring",
        &[
            "/healthz",
            "/healthz/*",
            "/livez",
            "/livez/*",
            "/metrics",
            "/metrics/slis",
            "/readyz",
            "/readyz/*",
            "/statusz",
            "/flagz",
        ],
    ),
    (
        "system:service-account-issuer-discovery",
        &[
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ],
    ),
];

/// Cluster role bindings: the role, which is also the binding's name, and the subjects: `g:` group, `u:` user, `s:`
/// service account in `kube-system`.
const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["g:system:masters"]),
    ("system:monitoring", &["g:system:monitoring"]),
    ("system:discovery", &["g:system:authenticated"]),
    ("system:basic-user", &["g:system:authenticated"]),
    ("system:public-info-viewer", &["g:system:authenticated", "g:system:unauthenticated"]),
    ("system:node-proxier", &["u:system:kube-proxy"]),
    ("timonier:network-policies", &["g:system:nodes"]),
    ("system:kube-controller-manager", &["u:system:kube-controller-manager"]),
    ("system:kube-dns", &["s:kube-dns"]),
    ("system:kube-scheduler", &["u:system:kube-scheduler"]),
    ("system:volume-scheduler", &["u:system:kube-scheduler"]),
    ("system:service-account-issuer-discovery", &["g:system:serviceaccounts"]),
    // Nodes get their rights from the node authorizer: nobody is bound to their role.
    ("system:node", &[]),
];

/// Cluster role bindings whose name is not their role's: name, role, subjects. They let machines with a bootstrap token ask
/// for a node's certificate, and nodes renew theirs and run their part of the network.
const NODE_BINDINGS: &[(&str, &str, &[&str])] = &[
    ("timonier:node-bootstrapper", "system:node-bootstrapper", &["g:system:bootstrappers"]),
    (
        "timonier:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["g:system:bootstrappers"],
    ),
    (
        "timonier:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["g:system:nodes"],
    ),
    ("timonier:node-network", "timonier:node-network", &["g:system:nodes"]),
];

const LEADER_ELECTION: Rules = &[("create get list update watch", "coordination.k8s.io", "leasecandidates leases")];

/// Roles in namespaces: namespace, name, rules.
const NAMESPACED: &[(&str, &str, Rules)] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &[(READ, "-", "configmaps =extension-apiserver-authentication")],
    ),
    ("kube-system", "system:controller:bootstrap-signer", &[(READ, "-", "secrets")]),
    ("kube-system", "system:controller:cloud-provider", &[("create get list watch", "-", "configmaps")]),
    ("kube-system", "system:controller:token-cleaner", &[("delete get list watch", "-", "secrets"), EVENTS]),
    ("kube-system", "system::leader-locking-kube-controller-manager", LEADER_ELECTION),
    ("kube-system", "system::leader-locking-kube-scheduler", LEADER_ELECTION),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[(READ, "-", "configmaps"), ("update", "-", "configmaps =cluster-info"), EVENTS],
    ),
    // Machines that join read this before they have credentials. Upstream's installer makes the role and its binding.
    ("kube-public", "kubeadm:bootstrap-signer-clusterinfo", &[("get", "-", "configmaps =cluster-info")]),
    // What nodes must agree on.
    ("kube-system", "timonier:nodes", &[("get", "-", "configmaps =timonier-nodes")]),
];

/// Role bindings: namespace, name, role, subjects.
const NAMESPACED_BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["u:system:kube-controller-manager", "u:system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["s:bootstrap-signer"],
    ),
    ("kube-system", "system:controller:token-cleaner", "system:controller:token-cleaner", &["s:token-cleaner"]),
    ("kube-system", "system:controller:cloud-provider", "system:controller:cloud-provider", &["s:cloud-provider"]),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["u:system:kube-controller-manager", "s:kube-controller-manager", "s:leader-election-controller"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["u:system:kube-scheduler", "s:kube-scheduler"],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["s:bootstrap-signer"],
    ),
    (
        "kube-public",
        "kubeadm:bootstrap-signer-clusterinfo",
        "kubeadm:bootstrap-signer-clusterinfo",
        &["u:system:anonymous"],
    ),
    ("kube-system", "timonier:nodes", "timonier:nodes", &["g:system:nodes"]),
];

/// Every role and binding, in an order in which they can be written. The namespaces `kube-system` and `kube-public` must
/// exist.
pub fn objects() -> Vec<(&'static Resource, Value)> {
    let roles = cluster_roles().into_iter().map(|role| (resources::CLUSTER_ROLES, role));
    let bindings = cluster_role_bindings().into_iter().map(|binding| (resources::CLUSTER_ROLE_BINDINGS, binding));
    let local = NAMESPACED.iter().map(|(namespace, name, rules)| {
        let mut role = object("Role", name, Some(namespace));
        role["rules"] = expand(rules);
        (resources::ROLES, role)
    });
    let local_bindings = NAMESPACED_BINDINGS.iter().map(|(namespace, name, role, subjects)| {
        let mut binding = object("RoleBinding", name, Some(namespace));
        binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role});
        binding["subjects"] = subjects_of(subjects);
        (resources::ROLE_BINDINGS, binding)
    });
    roles.chain(bindings).chain(local).chain(local_bindings).collect()
}

/// What to write so that `existing` is at least `wanted`; `None` when it is.
pub fn reconcile(existing: Option<&Value>, wanted: &Value) -> Option<Value> {
    let Some(existing) = existing else { return Some(wanted.clone()) };
    if existing["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    // A binding's role cannot be changed: it is made anew by whoever deletes it.
    if existing.get("roleRef") != wanted.get("roleRef") {
        return None;
    }
    let mut next = existing.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if next["metadata"][field].get(key).is_none() {
                next["metadata"][field][key] = value.clone();
            }
        }
    }
    let aggregated = wanted.get("aggregationRule").is_some();
    if aggregated && existing.get("aggregationRule") != wanted.get("aggregationRule") {
        next["aggregationRule"] = wanted["aggregationRule"].clone();
    }
    for field in ["rules", "subjects"] {
        let own = wanted[field].as_array().into_iter().flatten();
        // The rules of an aggregated role are their controller's.
        let missing: Vec<Value> = own
            .filter(|item| (!aggregated || field != "rules") && !contains(&existing[field], item))
            .cloned()
            .collect();
        if !missing.is_empty() {
            let mut all = existing[field].as_array().cloned().unwrap_or_default();
            all.extend(missing);
            next[field] = all.into();
        }
    }
    (next != *existing).then_some(next)
}

fn contains(list: &Value, item: &Value) -> bool {
    // Order within a rule and fields that a client left empty do not matter.
    let normal = |value: &Value| {
        let fields = value.as_object().into_iter().flatten();
        let fields = fields.filter(|(_, value)| !value.is_null() && !value.as_array().is_some_and(Vec::is_empty));
        let sorted = fields.map(|(key, value)| {
            let mut value = value.clone();
            if let Some(items) = value.as_array_mut() {
                items.sort_by_key(|item| item.to_string());
            }
            (key.clone(), value)
        });
        let mut sorted: Vec<_> = sorted.collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        sorted
    };
    list.as_array().into_iter().flatten().any(|own| normal(own) == normal(item))
}

fn cluster_roles() -> Vec<Value> {
    let mut roles: Vec<Value> = ROLES
        .iter()
        .map(|(name, rules)| {
            let mut role = object("ClusterRole", name, None);
            role["rules"] = expand(rules);
            role
        })
        .collect();
    roles.extend(CONTROLLERS.iter().map(|(name, rules)| {
        let mut role = object("ClusterRole", &format!("system:controller:{name}"), None);
        role["rules"] = expand(rules);
        role
    }));
    for (name, paths) in PATHS {
        let rule = json!({"verbs": ["get"], "nonResourceURLs": paths});
        match roles.iter_mut().find(|role| role["metadata"]["name"] == *name) {
            Some(role) => {
                let mut rules = role["rules"].as_array().cloned().unwrap_or_default();
                rules.push(rule);
                role["rules"] = rules.into();
            }
            None => {
                let mut role = object("ClusterRole", name, None);
                role["rules"] = json!([rule]);
                roles.push(role);
            }
        }
    }
    // `cluster-admin` opens all paths too.
    if let Some(rules) = roles[0]["rules"].as_array_mut() {
        rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    roles.extend(aggregated_roles());
    roles
}

/// `admin`, `edit` and `view`, which are put together from labelled parts. Their rules are written out from the beginning,
/// so that they count before the aggregation controller runs.
fn aggregated_roles() -> Vec<Value> {
    let all = [("admin", ADMIN), ("edit", EDIT), ("view", VIEW)];
    let mut roles = Vec::new();
    for (at, (name, rules)) in all.iter().enumerate() {
        let mut role = object("ClusterRole", name, None);
        role["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {format!("{AGGREGATE}{name}"): "true"}}]});
        let parts = all[at..].iter().flat_map(|(_, rules)| expand(rules).as_array().cloned().unwrap_or_default());
        role["rules"] = parts.collect();
        // Whoever may edit may view, whoever administers may edit.
        if at > 0 {
            role["metadata"]["labels"][format!("{AGGREGATE}{}", all[at - 1].0)] = "true".into();
        }
        roles.push(role);
        let mut part = object("ClusterRole", &format!("system:aggregate-to-{name}"), None);
        part["metadata"]["labels"][format!("{AGGREGATE}{name}")] = "true".into();
        part["rules"] = expand(rules);
        roles.push(part);
    }
    roles
}

fn cluster_role_bindings() -> Vec<Value> {
    let bind = |name: &str, role: &str, subjects: &[&str]| {
        let mut binding = object("ClusterRoleBinding", name, None);
        binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        binding["subjects"] = subjects_of(subjects);
        binding
    };
    let named = BINDINGS.iter().map(|(role, subjects)| bind(role, role, subjects));
    let of_controllers = CONTROLLERS.iter().map(|(name, _)| {
        let role = format!("system:controller:{name}");
        bind(&role, &role, &[&format!("s:{name}")])
    });
    let of_nodes = NODE_BINDINGS.iter().map(|(name, role, subjects)| bind(name, role, subjects));
    named.chain(of_controllers).chain(of_nodes).collect()
}

fn object(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata})
}

fn expand(rules: Rules) -> Value {
    let words = |text: &str| -> Vec<Value> {
        text.split_whitespace().map(|word| if word == "-" { "" } else { word }.into()).collect()
    };
    let expanded = rules.iter().map(|(verbs, groups, resources)| {
        let (names, resources): (Vec<&str>, Vec<&str>) =
            resources.split_whitespace().partition(|word| word.starts_with('='));
        let mut rule = Map::new();
        rule.insert("apiGroups".to_owned(), words(groups).into());
        if !names.is_empty() {
            rule.insert("resourceNames".to_owned(), names.iter().map(|name| Value::from(&name[1..])).collect());
        }
        rule.insert("resources".to_owned(), resources.into());
        rule.insert("verbs".to_owned(), words(verbs).into());
        Value::Object(rule)
    });
    expanded.collect()
}

fn subjects_of(subjects: &[&str]) -> Value {
    let subject = |subject: &&str| {
        let (kind, name) = subject.split_once(':')?;
        Some(match kind {
            "s" => json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}),
            "u" => json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}),
            _ => json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name}),
        })
    };
    subjects.iter().filter_map(subject).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Compared with the policy of 1.36 right by right when it was written: a row that changes by accident shows here.
    #[test]
    fn every_role_holds_as_many_rights_as_written_down() {
        let mut lines: Vec<String> = objects().iter().map(|(_, object)| line(object)).collect();
        lines.sort();
        let written: Vec<&str> = include_str!("policy_rights.txt").lines().collect();
        let differs: Vec<_> = lines.iter().filter(|line| !written.contains(&line.as_str())).collect();
        assert!(differs.is_empty() && lines.len() == written.len(), "{differs:#?}");
    }

    fn line(object: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let metadata = &object["metadata"];
        let count = match object.get("roleRef") {
            Some(_) => format!("{} subjects", object["subjects"].as_array().map_or(0, Vec::len)),
            None => format!("{} rights", rights(&object["rules"]).len()),
        };
        format!("{} {} {}: {count}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
    }

    fn rights(rules: &Value) -> BTreeSet<String> {
        let list = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
        };
        let mut rights = BTreeSet::new();
        for rule in rules.as_array().into_iter().flatten() {
            let names = list(&rule["resourceNames"]);
            let names = if names.is_empty() { vec!["*".to_owned()] } else { names };
            for verb in list(&rule["verbs"]) {
                rights.extend(list(&rule["nonResourceURLs"]).iter().map(|url| format!("{verb} {url}")));
                for group in list(&rule["apiGroups"]) {
                    for resource in list(&rule["resources"]) {
                        rights.extend(names.iter().map(|name| format!("{verb} {group}/{resource} {name}")));
                    }
                }
            }
        }
        rights
    }

    #[test]
    fn names_are_unique_and_every_binding_has_its_role() {
        let objects = objects();
        let id = |value: &Value| {
            let meta = &value["metadata"];
            format!("{} {}/{}", value["kind"].as_str().unwrap(), meta["namespace"], meta["name"])
        };
        let ids: BTreeSet<String> = objects.iter().map(|(_, value)| id(value)).collect();
        assert_eq!(ids.len(), objects.len());
        for (_, binding) in objects.iter().filter(|(_, value)| value.get("roleRef").is_some()) {
            let kind = binding["roleRef"]["kind"].as_str().unwrap();
            let namespace = if kind == "Role" { binding["metadata"]["namespace"].clone() } else { Value::Null };
            let role = format!("{kind} {namespace}/{}", binding["roleRef"]["name"]);
            assert!(ids.contains(&role), "{role}");
        }
        let admin = objects.iter().find(|(_, value)| value["metadata"]["name"] == "admin").unwrap();
        let total = [ADMIN, EDIT, VIEW].iter().map(|rules| rules.len()).sum::<usize>();
        assert_eq!(admin.1["rules"].as_array().unwrap().len(), total);
    }

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        let wanted = objects().into_iter().find(|(_, value)| value["metadata"]["name"] == "system:kube-dns").unwrap().1;
        assert_eq!(reconcile(None, &wanted).as_ref(), Some(&wanted));
        assert_eq!(reconcile(Some(&wanted), &wanted), None);
        let mut changed = wanted.clone();
        let extra = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        changed["rules"] = json!([extra]);
        let next = reconcile(Some(&changed), &wanted).unwrap();
        assert_eq!(next["rules"].as_array().unwrap().len(), 3);
        assert_eq!(reconcile(Some(&next), &wanted), None, "once is enough");
        changed["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(reconcile(Some(&changed), &wanted), None);
    }
}
