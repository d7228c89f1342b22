//! What a node's agent may do: its own objects, the pods on it, and what those pods refer to.
//!
//! An index over the pods by node, kept with the watch cache, knows the secrets, config maps, claims and service accounts
//! of each node's pods. Behaviour: the Kubernetes documentation's "Using Node Authorization"; what a node may write into
//! its objects is checked by the `NodeRestriction` admission plugin.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use api::{ApiError, Key, Object, resources};
use serde_json::Value;

use super::{Attributes, Decision};
use crate::authentication::UserInfo;
use crate::watch_cache::{Caches, Observer, ResourceCache};

/// What every node may do with objects that are not its own: group, resource, verbs.
const SHARED: &[(&str, &str, &[&str])] = &[
    ("", "services", &["get", "list", "watch"]),
    ("", "nodes", &["get", "list", "watch", "create"]),
    ("", "pods", &["get", "list", "watch", "create"]),
    ("", "endpoints", &["get", "list", "watch"]),
    ("", "namespaces", &["get", "list", "watch"]),
    ("", "events", &["create", "patch", "update"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    ("authorization.k8s.io", "localsubjectaccessreviews", &["create"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["create", "get", "list", "watch"]),
    ("coordination.k8s.io", "leases", &["create"]),
    ("discovery.k8s.io", "endpointslices", &["get", "list", "watch"]),
    ("node.k8s.io", "runtimeclasses", &["get", "list", "watch"]),
    ("storage.k8s.io", "csidrivers", &["get", "list", "watch"]),
    ("storage.k8s.io", "csinodes", &["create"]),
    ("storage.k8s.io", "volumeattachments", &["get"]),
];

/// What a node may do with the object of its own name: group, resource, subresource, verbs.
const OWN: &[(&str, &str, &str, &[&str])] = &[
    ("", "nodes", "", &["update", "patch", "delete"]),
    ("", "nodes", "status", &["get", "update", "patch"]),
    ("coordination.k8s.io", "leases", "", &["get", "update", "patch", "delete"]),
    ("storage.k8s.io", "csinodes", "", &["get", "update", "patch", "delete"]),
];

/// What pods refer to, by resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Referred {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
}

type Reference = (Referred, Arc<str>);

#[derive(Debug)]
struct OnNode {
    uid: Box<str>,
    node: Arc<str>,
    references: Vec<Reference>,
}

#[derive(Debug, Default)]
struct Graph {
    pods: HashMap<Key, OnNode>,
    /// How many pods on a node refer to an object of a namespace.
    counts: HashMap<(Arc<str>, Arc<str>, Reference), u32>,
    by_node: HashMap<Arc<str>, Vec<Key>>,
}

/// Decides for nodes.
pub struct NodeAuthorizer {
    graph: Arc<RwLock<Graph>>,
    claims: Arc<ResourceCache>,
}

const POISON: &str = "nothing panics while it holds the pods' references";

impl NodeAuthorizer {
    /// Loads the pods and follows them.
    pub async fn start(caches: &Arc<Caches>) -> Result<Self, ApiError> {
        let graph = Arc::new(RwLock::new(Graph::default()));
        caches.of(resources::PODS).await?.observe(Arc::new(FollowPods(graph.clone())));
        Ok(Self { graph, claims: caches.of(resources::PERSISTENT_VOLUME_CLAIMS).await? })
    }

    /// The node whose agent the user is.
    pub fn node_of(user: &UserInfo) -> Option<&str> {
        user.name.strip_prefix("system:node:").filter(|name| !name.is_empty() && user.in_group("system:nodes"))
    }

    /// Decides; no opinion about anyone but nodes.
    pub fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let Some(node) = Self::node_of(user) else { return Decision::NoOpinion { reason: String::new() } };
        if attributes.is_resource() && self.may(node, attributes) {
            return Decision::Allow { reason: String::new() };
        }
        let reason = match self.related(node, attributes) {
            Some(false) => format!("no relationship found between node '{node}' and this object"),
            _ => String::new(),
        };
        Decision::NoOpinion { reason }
    }

    fn may(&self, node: &str, asked: &Attributes) -> bool {
        let (group, resource, verb) = (&*asked.group, &*asked.resource, &*asked.verb);
        let shared = |row: &&(&str, &str, &[&str])| row.0 == group && row.1 == resource && row.2.contains(&verb);
        let own = |row: &&(&str, &str, &str, &[&str])| {
            row.0 == group && row.1 == resource && row.2 == asked.subresource && row.3.contains(&verb)
        };
        if asked.subresource.is_empty() && SHARED.iter().any(|row| shared(&row)) {
            return group != "coordination.k8s.io" || asked.namespace == "kube-node-lease";
        }
        if asked.name == node && OWN.iter().any(|row| own(&row)) {
            return group != "coordination.k8s.io" || asked.namespace == "kube-node-lease";
        }
        self.related(node, asked) == Some(true)
    }

    /// Whether a pod on the node has to do with the object; `None` where that is not what counts.
    fn related(&self, node: &str, asked: &Attributes) -> Option<bool> {
        let verb = &*asked.verb;
        let reads = matches!(verb, "get" | "list" | "watch");
        let refers = |referred| self.refers(node, &asked.namespace, referred, &asked.name);
        match (&*asked.group, &*asked.resource, &*asked.subresource) {
            ("", "secrets", "") if reads => Some(refers(Referred::Secret)),
            ("", "configmaps", "") if reads => Some(refers(Referred::ConfigMap)),
            ("", "persistentvolumeclaims", "") if verb == "get" => Some(refers(Referred::Claim)),
            ("", "persistentvolumeclaims", "status") if matches!(verb, "get" | "update" | "patch") => {
                Some(refers(Referred::Claim))
            }
            ("", "persistentvolumes", "") if verb == "get" => Some(self.uses_volume(node, &asked.name)),
            ("", "serviceaccounts", "token") if verb == "create" => Some(refers(Referred::ServiceAccount)),
            ("", "serviceaccounts", "") if verb == "get" => Some(refers(Referred::ServiceAccount)),
            ("", "pods", "") if verb == "delete" => Some(self.hosts(node, asked)),
            ("", "pods", "status") if matches!(verb, "get" | "update" | "patch") => Some(self.hosts(node, asked)),
            ("", "pods", "eviction") if verb == "create" => Some(self.hosts(node, asked)),
            _ => None,
        }
    }

    fn refers(&self, node: &str, namespace: &str, referred: Referred, name: &str) -> bool {
        let key = (node.into(), namespace.into(), (referred, name.into()));
        !name.is_empty() && self.graph.read().expect(POISON).counts.contains_key(&key)
    }

    fn hosts(&self, node: &str, asked: &Attributes) -> bool {
        let key = Key::new(asked.namespace.as_str(), asked.name.as_str());
        // A pod that is gone is nobody's: the request then finds out that it is not there.
        self.graph.read().expect(POISON).pods.get(&key).is_none_or(|pod| *pod.node == *node)
    }

    fn uses_volume(&self, node: &str, volume: &str) -> bool {
        let claims: Vec<Key> = {
            let graph = self.graph.read().expect(POISON);
            let pods = graph.by_node.get(node).into_iter().flatten();
            let pods = pods.filter_map(|key| Some((key, graph.pods.get(key)?)));
            let of_pod = |(key, pod): (&Key, &OnNode)| -> Vec<Key> {
                let claims = pod.references.iter().filter(|(referred, _)| *referred == Referred::Claim);
                claims.map(|(_, name)| Key::new(key.namespace.clone(), name.clone())).collect()
            };
            pods.flat_map(of_pod).collect()
        };
        let bound = |key: &Key| self.claims.get(key).map(|claim| claim.to_value());
        claims.iter().filter_map(bound).any(|claim| claim["spec"]["volumeName"] == volume)
    }
}

struct FollowPods(Arc<RwLock<Graph>>);

impl Observer for FollowPods {
    fn changed(&self, old: Option<&Object>, new: Option<&Object>) {
        let Some(object) = new.or(old) else { return };
        let node = object.field(resources::PODS, "spec.nodeName").unwrap_or_default();
        let mut graph = self.0.write().expect(POISON);
        let Some(new) = new else { return graph.remove(object.key()) };
        // What a pod refers to does not change once it has a node, but for ephemeral containers, which cannot add volumes:
        // a pod that is known is not decoded again for each change of its status.
        if node.is_empty() || graph.pods.get(new.key()).is_some_and(|known| *known.uid == *new.uid()) {
            return;
        }
        graph.remove(new.key());
        graph.add(new, node);
    }
}

impl Graph {
    fn add(&mut self, pod: &Object, node: &str) {
        let (key, node): (_, Arc<str>) = (pod.key().clone(), node.into());
        let references = references(&pod.to_value());
        for reference in &references {
            *self.counts.entry((node.clone(), key.namespace.clone(), reference.clone())).or_default() += 1;
        }
        self.by_node.entry(node.clone()).or_default().push(key.clone());
        self.pods.insert(key, OnNode { uid: pod.uid().into(), node, references });
    }

    fn remove(&mut self, key: &Key) {
        let Some(pod) = self.pods.remove(key) else { return };
        for reference in pod.references {
            let count = (pod.node.clone(), key.namespace.clone(), reference);
            if let Some(left) = self.counts.get_mut(&count) {
                *left -= 1;
                if *left == 0 {
                    self.counts.remove(&count);
                }
            }
        }
        if let Some(keys) = self.by_node.get_mut(&pod.node) {
            keys.retain(|known| known != key);
            if keys.is_empty() {
                self.by_node.remove(&pod.node);
            }
        }
    }
}

/// Everything that the kubelet must read to run the pod, each once.
fn references(pod: &Value) -> Vec<Reference> {
    let mut found = Vec::new();
    let spec = &pod["spec"];
    let mut add = |referred, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            found.push((referred, Arc::from(name)));
        }
    };
    add(Referred::ServiceAccount, &spec["serviceAccountName"]);
    for secret in list(&spec["imagePullSecrets"]) {
        add(Referred::Secret, &secret["name"]);
    }
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(&spec[kind]) {
            for source in list(&container["envFrom"]) {
                add(Referred::ConfigMap, &source["configMapRef"]["name"]);
                add(Referred::Secret, &source["secretRef"]["name"]);
            }
            for variable in list(&container["env"]) {
                add(Referred::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
                add(Referred::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
            }
        }
    }
    for volume in list(&spec["volumes"]) {
        add(Referred::Secret, &volume["secret"]["secretName"]);
        add(Referred::ConfigMap, &volume["configMap"]["name"]);
        add(Referred::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        add(Referred::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
        if volume.get("ephemeral").is_some() {
            let name = format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]));
            add(Referred::Claim, &name.into());
        }
        for source in list(&volume["projected"]["sources"]) {
            add(Referred::Secret, &source["secret"]["name"]);
            add(Referred::ConfigMap, &source["configMap"]["name"]);
        }
    }
    found.sort();
    found.dedup();
    found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_reaches_what_its_pods_refer_to_while_they_are_there() {
        let graph = Arc::new(RwLock::new(Graph::default()));
        let follow = FollowPods(graph.clone());
        let pod = |node: &str| {
            let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "1"}, "spec": {
                "nodeName": node, "serviceAccountName": "bot",
                "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "env"}}]}],
                "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "root-ca"}}]}},
                    {"name": "e", "ephemeral": {}}]}});
            Object::parse(resources::PODS, pod.to_string().into()).unwrap()
        };
        let knows = |node: &str, referred, name: &str| {
            graph.read().unwrap().counts.contains_key(&(node.into(), "a".into(), (referred, name.into())))
        };
        follow.changed(None, Some(&pod("")));
        assert!(graph.read().unwrap().counts.is_empty(), "a pod without a node opens nothing");
        follow.changed(Some(&pod("")), Some(&pod("n1")));
        for (referred, name) in [
            (Referred::Secret, "env"),
            (Referred::ConfigMap, "root-ca"),
            (Referred::Claim, "p-e"),
            (Referred::ServiceAccount, "bot"),
        ] {
            assert!(knows("n1", referred, name), "{name}");
            assert!(!knows("n2", referred, name), "{name}");
        }
        follow.changed(Some(&pod("n1")), None);
        let graph = graph.read().unwrap();
        assert!(graph.counts.is_empty() && graph.pods.is_empty() && graph.by_node.is_empty());
    }
}
