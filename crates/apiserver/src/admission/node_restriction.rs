//! `NodeRestriction`: what the node authorizer cannot see, because it is in the object. A node makes only mirror pods, bound
//! to itself, asks for tokens of its own pods only, and changes neither its taints nor the labels that administrators
//! reserve.
//!
//! Public behaviour: the Kubernetes documentation's "Admission Controllers", `NodeRestriction`.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{ApiError, resources};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::certificates::subject_of;
use super::service_account::MIRROR;
use super::{Attempt, Descriptor, Operation, Plugin, find, forbidden};
use crate::authorization::node::NodeAuthorizer;
use crate::authorization::{Attributes, Authorization, Decision};
use crate::registry::tree::{entries, is_set, list, text};
use crate::watch_cache::Caches;

/// The plugin's line in the list.
pub const DESCRIPTOR: Descriptor = Descriptor {
    name: "NodeRestriction",
    plugin: |parts| {
        Arc::new(NodeRestriction { caches: parts.caches.clone(), authorization: parts.access.authorization.clone() })
    },
};

struct NodeRestriction {
    caches: Arc<Caches>,
    authorization: Arc<Authorization>,
}

impl Plugin for NodeRestriction {
    fn validate<'a>(&'a self, attempt: &'a Attempt<'a>, object: &'a Value) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            let Some(node) = NodeAuthorizer::node_of(attempt.context.user) else { return Ok(()) };
            let (group, plural) = (&*attempt.resource.group, &*attempt.resource.plural);
            let checked = match (group, plural, attempt.subresource) {
                ("", "pods", "") => self.pod(node, attempt, object).await?,
                ("", "pods", "eviction") => self.eviction(node, attempt).await?,
                ("", "serviceaccounts", "token") => self.token(node, attempt, object).await?,
                _ => check(node, attempt, object),
            };
            checked.map_err(|why| forbidden(attempt, &why))
        }
        .boxed()
    }
}

/// What is seen from the attempt alone.
fn check(node: &str, attempt: &Attempt<'_>, object: &Value) -> Result<(), String> {
    let old = attempt.old.unwrap_or(&Value::Null);
    let name = &*attempt.key.name;
    match (&*attempt.resource.group, &*attempt.resource.plural, attempt.subresource) {
        ("", "pods", "status") => check_pod_status(node, object, old),
        ("", "pods", subresource) => {
            Err(format!("unexpected pod subresource {subresource:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => check_node(node, attempt, object, old),
        ("", "persistentvolumeclaims", "status") => check_claim_status(node, object, old),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
        ("coordination.k8s.io", "leases", _) if &*attempt.key.namespace != "kube-node-lease" => {
            Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned())
        }
        ("coordination.k8s.io", "leases", _) if name != node => {
            Err("can only access node lease with the same name as the requesting node".to_owned())
        }
        ("storage.k8s.io", "csinodes", _) if name != node => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
        ("resource.k8s.io", "resourceslices", _) => check_slice(node, attempt, object, old),
        ("certificates.k8s.io", "certificatesigningrequests", "") if attempt.operation == Operation::Create => {
            check_request(node, &object["spec"])
        }
        _ => Ok(()),
    }
}

type Checked = Result<Result<(), String>, ApiError>;

impl NodeRestriction {
    async fn pod(&self, node: &str, attempt: &Attempt<'_>, pod: &Value) -> Checked {
        match attempt.operation {
            Operation::Create => match check_new_pod(node, pod) {
                Ok(()) => self.owner(node, pod).await,
                refused => Ok(refused),
            },
            Operation::Delete => {
                let bound = attempt.old.is_some_and(|old| text(&old["spec"]["nodeName"]) == node);
                let why = || format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                Ok(bound.then_some(()).ok_or_else(why))
            }
            Operation::Update => Ok(Err(format!(
                "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
            ))),
            Operation::Connect => Ok(Ok(())),
        }
    }

    /// A mirror pod belongs to its node.
    async fn owner(&self, node: &str, pod: &Value) -> Checked {
        let own = find(&self.caches, resources::NODES, "", node).await?;
        let own = own.ok_or_else(|| ApiError::not_found("", "nodes", node))?;
        let given = text(&pod["metadata"]["ownerReferences"][0]["uid"]);
        if given == own.uid() {
            return Ok(Ok(()));
        }
        Ok(Err(format!("node {node} UID mismatch: expected {given} got {}", own.uid())))
    }

    async fn eviction(&self, node: &str, attempt: &Attempt<'_>) -> Checked {
        let (namespace, name) = (&*attempt.key.namespace, &*attempt.key.name);
        let pod = find(&self.caches, resources::PODS, namespace, name).await?;
        let pod = pod.ok_or_else(|| ApiError::not_found("", "pods", name))?;
        let bound = pod.field(resources::PODS, "spec.nodeName") == Some(node);
        Ok(bound
            .then_some(())
            .ok_or_else(|| format!("node {node} can only evict pods with spec.nodeName set to itself")))
    }

    async fn token(&self, node: &str, attempt: &Attempt<'_>, request: &Value) -> Checked {
        let bound = &request["spec"]["boundObjectRef"];
        let (name, uid) = (text(&bound["name"]), text(&bound["uid"]));
        if bound["apiVersion"] != "v1" || bound["kind"] != "Pod" || name.is_empty() {
            return Ok(Err("node requested token not bound to a pod".to_owned()));
        }
        if uid.is_empty() {
            return Ok(Err("node requested token with a pod binding without a uid".to_owned()));
        }
        let pod = find(&self.caches, resources::PODS, &attempt.key.namespace, name).await?;
        let pod = pod.ok_or_else(|| ApiError::not_found("", "pods", name))?;
        if pod.uid() != uid {
            return Ok(Err(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
                 deleted and then recreated"
            )));
        }
        if pod.field(resources::PODS, "spec.nodeName") != Some(node) {
            return Ok(Err("node requested token bound to a pod scheduled on a different node".to_owned()));
        }
        self.audience(attempt, request, &pod.to_value()).await
    }

    /// A node gets tokens for those audiences only that its pod asks for.
    async fn audience(&self, attempt: &Attempt<'_>, request: &Value, pod: &Value) -> Checked {
        let audiences = list(&request["spec"]["audiences"]);
        if audiences.len() > 1 {
            return Ok(Err("node may only request 0 or 1 audiences".to_owned()));
        }
        let audience = audiences.first().map_or("", text);
        for volume in list(&pod["spec"]["volumes"]) {
            let sources = list(&volume["projected"]["sources"]).iter();
            let mut tokens = sources.map(|source| &source["serviceAccountToken"]).filter(|token| token.is_object());
            if tokens.any(|token| text(&token["audience"]) == audience) {
                return Ok(Ok(()));
            }
            let driver = self.driver(pod, volume).await?;
            if !driver.is_empty() && self.driver_wants(&driver, audience).await? {
                return Ok(Ok(()));
            }
        }
        let user = attempt.context.user;
        let attributes = Attributes {
            verb: "request-serviceaccounts-token-audience".to_owned(),
            version: "v1".to_owned(),
            resource: audience.to_owned(),
            namespace: attempt.key.namespace.to_string(),
            name: attempt.key.name.to_string(),
            ..Attributes::default()
        };
        if matches!(self.authorization.decide(user, &attributes), Decision::Allow { .. }) {
            return Ok(Ok(()));
        }
        Ok(Err(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            user.name
        )))
    }

    /// The CSI driver of a volume; empty where it has none.
    async fn driver(&self, pod: &Value, volume: &Value) -> Result<String, ApiError> {
        let name = text(&volume["name"]);
        let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(claim) => claim.to_owned(),
            None if is_set(volume, "ephemeral") => format!("{}-{name}", text(&pod["metadata"]["name"])),
            None => return Ok(text(&volume["csi"]["driver"]).to_owned()),
        };
        let namespace = text(&pod["metadata"]["namespace"]);
        let claim = find(&self.caches, resources::PERSISTENT_VOLUME_CLAIMS, namespace, &claim).await?;
        let claim = claim.map(|claim| claim.to_value()).unwrap_or_default();
        let volume = find(&self.caches, resources::PERSISTENT_VOLUMES, "", text(&claim["spec"]["volumeName"])).await?;
        Ok(volume.map(|volume| text(&volume.to_value()["spec"]["csi"]["driver"]).to_owned()).unwrap_or_default())
    }

    async fn driver_wants(&self, driver: &str, audience: &str) -> Result<bool, ApiError> {
        let driver = find(&self.caches, resources::CSI_DRIVERS, "", driver).await?;
        let driver = driver.map(|driver| driver.to_value()).unwrap_or_default();
        Ok(list(&driver["spec"]["tokenRequests"]).iter().any(|request| text(&request["audience"]) == audience))
    }
}

fn check_new_pod(node: &str, pod: &Value) -> Result<(), String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if text(&pod["spec"]["nodeName"]) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let only = |what: &str| Err(format!("node {node:?} can only create pods with {what} set to itself"));
    match list(&pod["metadata"]["ownerReferences"]) {
        [] => only("an owner reference")?,
        [owner] if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node => {
            only("an owner reference")?;
        }
        [owner] if owner["controller"] != true => only("a controller owner reference")?,
        [owner] if owner["blockOwnerDeletion"] == true => {
            return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        [_] => {}
        _ => only("a single owner reference")?,
    }
    match referenced(&pod["spec"]) {
        Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// The first kind of API object that a pod refers to. A pod from a file knows none of them.
fn referenced(spec: &Value) -> Option<&'static str> {
    if !text(&spec["serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    if !list(&spec["imagePullSecrets"]).is_empty() {
        return Some("secrets");
    }
    if !list(&spec["resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    let containers =
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|kind| list(&spec[kind]));
    for container in containers {
        let values = list(&container["env"]).iter().map(|variable| &variable["valueFrom"]);
        for source in values.chain(list(&container["envFrom"])) {
            if is_set(source, "secretKeyRef") || is_set(source, "secretRef") {
                return Some("secrets");
            }
            if is_set(source, "configMapKeyRef") || is_set(source, "configMapRef") {
                return Some("configmaps");
            }
        }
    }
    list(&spec["volumes"]).iter().find_map(|volume| {
        let kinds = [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims"),
            ("csi", "csidrivers"),
        ];
        let direct = kinds.iter().find(|(kind, _)| is_set(volume, kind)).map(|(_, what)| *what);
        let projected = || {
            list(&volume["projected"]["sources"]).iter().find_map(|source| match source {
                source if is_set(source, "secret") => Some("secrets"),
                source if is_set(source, "configMap") => Some("configmaps"),
                source if is_set(source, "serviceAccountToken") => Some("serviceaccounts"),
                source if is_set(source, "clusterTrustBundle") => Some("clustertrustbundles"),
                _ => None,
            })
        };
        direct.or_else(projected)
    })
}

fn check_pod_status(node: &str, pod: &Value, old: &Value) -> Result<(), String> {
    if text(&old["spec"]["nodeName"]) != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if pod["metadata"]["labels"] != old["metadata"]["labels"] {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if pod["status"]["resourceClaimStatuses"] != old["status"]["resourceClaimStatuses"] {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    if pod["status"]["extendedResourceClaimStatus"] != old["status"]["extendedResourceClaimStatus"] {
        return Err(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

fn check_claim_status(node: &str, claim: &Value, old: &Value) -> Result<(), String> {
    let fixed = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, field) in [
            ("metadata", "resourceVersion"),
            ("metadata", "managedFields"),
            ("status", "capacity"),
            ("status", "conditions"),
            ("status", "allocatedResources"),
            ("status", "allocatedResourceStatuses"),
        ] {
            if let Some(fields) = claim[part].as_object_mut() {
                fields.shift_remove(field);
            }
        }
        claim
    };
    if fixed(claim) == fixed(old) {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions"))
}

fn check_slice(node: &str, attempt: &Attempt<'_>, slice: &Value, old: &Value) -> Result<(), String> {
    let (verb, slice) = match attempt.operation {
        Operation::Create => ("create", slice),
        Operation::Delete => ("delete", old),
        _ => return Ok(()),
    };
    if slice["spec"]["nodeName"] == node {
        return Ok(());
    }
    Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}

fn check_request(node: &str, spec: &Value) -> Result<(), String> {
    let signer = text(&spec["signerName"]);
    if !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet") {
        return Ok(());
    }
    let Some((name, _)) = subject_of(text(&spec["request"])) else {
        return Err("unable to parse csr: PEM block type must be CERTIFICATE REQUEST".to_owned());
    };
    if name.strip_prefix("system:node:") == Some(node) {
        return Ok(());
    }
    Err(format!("can only create a node CSR with CN=system:node:{node}"))
}

fn check_node(node: &str, attempt: &Attempt<'_>, object: &Value, old: &Value) -> Result<(), String> {
    if *attempt.key.name != *node {
        return Err(format!("node {node:?} is not allowed to modify node {:?}", attempt.key.name));
    }
    let spec = &object["spec"];
    let labels = forbidden_labels(&object["metadata"]["labels"], &old["metadata"]["labels"]).join(", ");
    match attempt.operation {
        Operation::Create if is_set(spec, "configSource") => {
            Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"))
        }
        Operation::Create if !labels.is_empty() => {
            Err(format!("node {node:?} is not allowed to set the following labels: {labels}"))
        }
        Operation::Update if is_set(spec, "configSource") && spec["configSource"] != old["spec"]["configSource"] => {
            Err(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"))
        }
        Operation::Update if spec["taints"] != old["spec"]["taints"] => {
            Err(format!("node {node:?} is not allowed to modify taints"))
        }
        Operation::Update if object["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] => {
            Err(format!("node {node:?} is not allowed to modify ownerReferences"))
        }
        Operation::Update if !labels.is_empty() => Err(format!("is not allowed to modify labels: {labels}")),
        _ => Ok(()),
    }
}

/// What a kubelet says of its own machine.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Labels that differ and that a node may not set on itself.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let keys: BTreeSet<&String> = entries(new).chain(entries(old)).map(|(key, _)| key).collect();
    let changed = keys.into_iter().filter(|key| new[key.as_str()] != old[key.as_str()]);
    changed.filter(|key| is_reserved(key)).cloned().collect()
}

fn is_reserved(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    let kubelets =
        || KUBELET_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    within("node-restriction.kubernetes.io") || ((within("kubernetes.io") || within("k8s.io")) && !kubelets())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_labels_itself_only_with_what_a_kubelet_knows() {
        for (label, reserved) in [
            ("kubernetes.io/hostname", false),
            ("disk", false),
            ("example.com/rack", false),
            ("x.node.kubernetes.io/y", false),
            ("kubelet.kubernetes.io/y", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/pci", true),
            ("a.node-restriction.kubernetes.io/pci", true),
            ("foo.k8s.io/x", true),
            ("notkubernetes.io/x", false),
        ] {
            assert_eq!(is_reserved(label), reserved, "{label}");
        }
        let labels = json!({"kubernetes.io/os": "linux", "node-role.kubernetes.io/x": ""});
        assert_eq!(forbidden_labels(&labels, &labels), Vec::<String>::new());
        assert_eq!(forbidden_labels(&labels, &json!({})), ["node-role.kubernetes.io/x"]);
    }

    #[test]
    fn a_new_pod_is_a_mirror_of_a_file_on_the_node() {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1", "controller": true});
        let pod = |owners: Value, spec: Value| {
            let mut pod = json!({"metadata": {"annotations": {MIRROR: "x"}, "ownerReferences": owners}, "spec": {"nodeName": "n"}});
            pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            pod
        };
        let mut blocking = owner.clone();
        blocking["blockOwnerDeletion"] = true.into();
        for (pod, expected) in [
            (pod(json!([owner]), json!({})), ""),
            (
                json!({"spec": {"nodeName": "n"}}),
                r#"pod does not have "kubernetes.io/config.mirror" annotation, node "n" can only create mirror pods"#,
            ),
            (
                pod(json!([owner]), json!({"nodeName": "m"})),
                r#"node "n" can only create pods with spec.nodeName set to itself"#,
            ),
            (pod(json!([]), json!({})), r#"node "n" can only create pods with an owner reference set to itself"#),
            (
                pod(json!([owner, owner]), json!({})),
                r#"node "n" can only create pods with a single owner reference set to itself"#,
            ),
            (pod(json!([blocking]), json!({})), r#"node "n" must not set blockOwnerDeletion on an owner reference"#),
            (
                pod(json!([owner]), json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]})),
                r#"node "n" can not create pods that reference secrets"#,
            ),
            (
                pod(json!([owner]), json!({"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]})),
                r#"node "n" can not create pods that reference configmaps"#,
            ),
        ] {
            assert_eq!(check_new_pod("n", &pod).err().unwrap_or_default(), expected, "{pod}");
        }
    }
}
