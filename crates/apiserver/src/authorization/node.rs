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
    ("", "endpoints", &["get", "list", "watch"]),
    ("", "namespaces", &["get", "list", "watch"]),
    ("", "events", &["create", "patch", "update"]),
    ("events.k8s.io", "events", &["create", "patch", "update"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    ("authorization.k8s.io", "localsubjectaccessreviews", &["create"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["create", "get", "list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["get", "list", "watch"]),
    ("node.k8s.io", "runtimeclasses", &["get", "list", "watch"]),
    ("storage.k8s.io", "csidrivers", &["get", "list", "watch"]),
];

/// What pods refer to, by resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Referred {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
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
    volumes: Arc<ResourceCache>,
    attachments: Arc<ResourceCache>,
    slices: Arc<ResourceCache>,
}

const POISON: &str = "nothing panics while it holds the pods' references";

impl NodeAuthorizer {
    /// Loads the pods and follows them.
    pub async fn start(caches: &Arc<Caches>) -> Result<Self, ApiError> {
        let graph = Arc::new(RwLock::new(Graph::default()));
        caches.of(resources::PODS).await?.observe(Arc::new(FollowPods(graph.clone())));
        Ok(Self {
            graph,
            claims: caches.of(resources::PERSISTENT_VOLUME_CLAIMS).await?,
            volumes: caches.of(resources::PERSISTENT_VOLUMES).await?,
            attachments: caches.of(resources::VOLUME_ATTACHMENTS).await?,
            slices: caches.of(resources::RESOURCE_SLICES).await?,
        })
    }

    /// The node whose agent the user is.
    pub fn node_of(user: &UserInfo) -> Option<&str> {
        user.name.strip_prefix("system:node:").filter(|name| !name.is_empty() && user.in_group("system:nodes"))
    }

    /// Decides; no opinion about anyone but nodes.
    pub fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let Some(node) = Self::node_of(user) else { return Decision::NoOpinion { reason: String::new() } };
        if !attributes.is_resource() {
            return Decision::NoOpinion { reason: String::new() };
        }
        match self.permit(node, attributes) {
            Ok(()) => Decision::Allow { reason: String::new() },
            Err(reason) => Decision::NoOpinion { reason },
        }
    }

    /// `Ok`, or why not.
    fn permit(&self, node: &str, asked: &Attributes) -> Result<(), String> {
        let verb = &*asked.verb;
        let related = |yes: bool| {
            let why = || format!("no relationship found between node '{node}' and this object");
            if asked.name.is_empty() {
                Err("No Object name found".to_owned())
            } else {
                yes.then_some(()).ok_or_else(why)
            }
        };
        let refers = |referred| self.refers(node, &asked.namespace, referred, &asked.name);
        match (&*asked.group, &*asked.resource, &*asked.subresource) {
            ("", "secrets", _) => {
                readable(asked)?;
                related(refers(Referred::Secret) || self.uses_secret(node, asked))
            }
            ("", "configmaps", _) => readable(asked).and_then(|()| related(refers(Referred::ConfigMap))),
            ("", "persistentvolumeclaims", "status") => match verb {
                "update" | "patch" => related(refers(Referred::Claim)),
                _ => Err("can only get/update/patch this type".to_owned()),
            },
            ("", "persistentvolumeclaims", _) => gettable(asked).and_then(|()| related(refers(Referred::Claim))),
            ("", "persistentvolumes", _) => gettable(asked).and_then(|()| related(self.uses_volume(node, &asked.name))),
            ("resource.k8s.io", "resourceclaims", _) => {
                gettable(asked).and_then(|()| related(refers(Referred::ResourceClaim)))
            }
            ("storage.k8s.io", "volumeattachments", _) => {
                gettable(asked).and_then(|()| related(names_node(&self.attachments, &asked.name, node)))
            }
            ("", "serviceaccounts", "") if verb == "get" => related(refers(Referred::ServiceAccount)),
            ("", "serviceaccounts", "token") if verb == "create" => related(refers(Referred::ServiceAccount)),
            ("", "serviceaccounts", _) => Err("can only create tokens for individual service accounts".to_owned()),
            ("coordination.k8s.io", "leases", _) => own_lease(node, asked),
            ("storage.k8s.io", "csinodes", _) => own_csi_node(node, asked),
            ("resource.k8s.io", "resourceslices", _) => self.slices(node, asked, related),
            ("", "nodes", _) => own_node(node, asked),
            ("", "pods", _) => self.pods(node, asked, related),
            (group, resource, subresource) => {
                let shared =
                    |row: &&(&str, &str, &[&str])| row.0 == group && row.1 == resource && row.2.contains(&verb);
                let may = subresource.is_empty() && SHARED.iter().any(|row| shared(&row));
                may.then_some(()).ok_or_else(String::new)
            }
        }
    }

    fn pods(&self, node: &str, asked: &Attributes, related: impl Fn(bool) -> Result<(), String>) -> Result<(), String> {
        match (&*asked.subresource, &*asked.verb) {
            ("", "get") => related(self.hosts(node, asked)),
            ("", "list" | "watch") if asked.selects("spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !asked.name.is_empty() => related(self.hosts(node, asked)),
            ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".to_owned()),
            // Which pods is checked where the object is known: by `NodeRestriction`.
            ("", "create") => Ok(()),
            ("", "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                related(self.hosts(node, asked))
            }
            _ => Err(String::new()),
        }
    }

    fn slices(
        &self,
        node: &str,
        asked: &Attributes,
        related: impl Fn(bool) -> Result<(), String>,
    ) -> Result<(), String> {
        match (&*asked.subresource, &*asked.verb) {
            ("", "create") => Ok(()),
            ("", "get" | "update" | "patch" | "delete") => related(names_node(&self.slices, &asked.name, node)),
            ("", "list" | "watch" | "deletecollection") if asked.selects("spec.nodeName", node) => Ok(()),
            ("", "list" | "watch" | "deletecollection") => {
                Err("can only list/watch/deletecollection resourceslices with nodeName field selector".to_owned())
            }
            ("", _) => {
                let why = "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                           delete, deletecollection";
                Err(why.to_owned())
            }
            _ => Err("cannot authorize ResourceSlice subresources".to_owned()),
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

    /// The volumes that claims of the node's pods are bound to.
    fn volumes(&self, node: &str) -> Vec<String> {
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
        let claims = claims.iter().filter_map(|key| self.claims.get(key)).map(|claim| claim.to_value());
        claims.map(|claim| text(&claim["spec"]["volumeName"]).to_owned()).filter(|name| !name.is_empty()).collect()
    }

    fn uses_volume(&self, node: &str, volume: &str) -> bool {
        self.volumes(node).iter().any(|name| name == volume)
    }

    /// Whether a volume of the node's pods is mounted with the secret.
    fn uses_secret(&self, node: &str, asked: &Attributes) -> bool {
        let volumes = self.volumes(node);
        let volumes = volumes.iter().filter_map(|name| self.volumes.get(&Key::new("", name.as_str())));
        let mut sources = volumes.map(|volume| volume.to_value()["spec"]["csi"].take());
        sources.any(|source| {
            ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"].iter().any(|field| {
                let secret = &source[*field];
                text(&secret["name"]) == asked.name && text(&secret["namespace"]) == asked.namespace
            })
        })
    }
}

/// Objects of a namespace that are read one by one.
fn readable(asked: &Attributes) -> Result<(), String> {
    let why = match (&*asked.verb, &*asked.subresource, &*asked.namespace) {
        ("get" | "list" | "watch", "", "") => "can only read namespaced object of this type",
        ("get" | "list" | "watch", "", _) => return Ok(()),
        ("get" | "list" | "watch", ..) => "cannot read subresource",
        _ => "can only read resources of this type",
    };
    Err(why.to_owned())
}

fn gettable(asked: &Attributes) -> Result<(), String> {
    let why = match (&*asked.verb, &*asked.subresource) {
        ("get", "") => return Ok(()),
        ("get", _) => "cannot get subresource",
        _ => "can only get individual resources of this type",
    };
    Err(why.to_owned())
}

/// Whether the object's spec names the node.
fn names_node(cache: &ResourceCache, name: &str, node: &str) -> bool {
    let object = cache.get(&Key::new("", name)).map(|object| object.to_value());
    object.is_some_and(|object| text(&object["spec"]["nodeName"]) == node)
}

fn own_lease(node: &str, asked: &Attributes) -> Result<(), String> {
    let why = match &*asked.verb {
        "get" | "create" | "update" | "patch" | "delete" if asked.namespace != "kube-node-lease" => {
            "can only access leases in the \"kube-node-lease\" system namespace"
        }
        "create" => return Ok(()),
        "get" | "update" | "patch" | "delete" if asked.name == node => return Ok(()),
        "get" | "update" | "patch" | "delete" => "can only access node lease with the same name as the requesting node",
        _ => "can only get, create, update, patch, or delete a node lease",
    };
    Err(why.to_owned())
}

fn own_csi_node(node: &str, asked: &Attributes) -> Result<(), String> {
    let why = match (&*asked.verb, &*asked.subresource) {
        ("create", "") => return Ok(()),
        ("get" | "update" | "patch" | "delete", "") if asked.name == node => return Ok(()),
        ("get" | "update" | "patch" | "delete", "") => {
            "can only access CSINode with the same name as the requesting node"
        }
        ("get" | "create" | "update" | "patch" | "delete", _) => "cannot authorize CSINode subresources",
        _ => "can only get, create, update, patch, or delete a CSINode",
    };
    Err(why.to_owned())
}

fn own_node(node: &str, asked: &Attributes) -> Result<(), String> {
    match (&*asked.subresource, &*asked.verb) {
        // Which node is checked by `NodeRestriction`.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if asked.name == node => Ok(()),
        ("", "get" | "list" | "watch") if asked.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", asked.name))
        }
        _ => Err(String::new()),
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
    let claims = list(&spec["resourceClaims"]).iter().chain(list(&pod["status"]["resourceClaimStatuses"]));
    for claim in claims.chain([&pod["status"]["extendedResourceClaimStatus"]]) {
        add(Referred::ResourceClaim, &claim["resourceClaimName"]);
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
