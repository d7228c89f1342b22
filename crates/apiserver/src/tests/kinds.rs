//! Every operation on an object of every kind that clients keep: what conformance asks for kind by kind, asked of all.

use api::{Resource, Verb, resources};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Cluster;

/// Whose metadata cannot be written with the status.
const METADATA_APART: &[&str] =
    &["FlowSchema", "PriorityLevelConfiguration", "ServiceCIDR", "ValidatingAdmissionPolicy", "VolumeAttachment"];

/// The least valid object of each kind that has a collection of its own. Names are given by the test.
fn objects() -> Vec<(&'static str, &'static str, Value)> {
    let template = || {
        json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Always"}})
    };
    let once = || {
        json!({"template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}})
    };
    let selector = || json!({"matchLabels": {"a": "b"}});
    let workload = || json!({"spec": {"selector": selector(), "template": template()}});
    let webhook = |more: Value| {
        let mut hook = json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://example.com/x"}});
        hook.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        json!({"webhooks": [hook]})
    };
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]);
    vec![
        ("v1", "ConfigMap", json!({"data": {"a": "b"}})),
        ("v1", "Endpoints", json!({})),
        (
            "v1",
            "Event",
            json!({"metadata": {"namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}}),
        ),
        ("v1", "LimitRange", json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}})),
        (
            "v1",
            "PersistentVolume",
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/x"}}}),
        ),
        (
            "v1",
            "PersistentVolumeClaim",
            json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}),
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i"}]}}),
        ),
        ("v1", "PodTemplate", json!({"template": template()})),
        ("v1", "ReplicationController", json!({"spec": {"selector": {"a": "b"}, "template": template()}})),
        ("v1", "ResourceQuota", json!({"spec": {"hard": {"count/widgets.example.com": "1"}}})),
        ("v1", "Secret", json!({"stringData": {"a": "b"}})),
        ("v1", "Service", json!({"spec": {"ports": [{"port": 80}]}})),
        ("v1", "ServiceAccount", json!({})),
        ("apps/v1", "ControllerRevision", json!({"revision": 1, "data": {"a": 1}})),
        ("apps/v1", "DaemonSet", workload()),
        ("apps/v1", "Deployment", workload()),
        ("apps/v1", "ReplicaSet", workload()),
        ("apps/v1", "StatefulSet", workload()),
        ("batch/v1", "CronJob", json!({"spec": {"schedule": "@yearly", "jobTemplate": {"spec": once()}}})),
        ("batch/v1", "Job", json!({"spec": once()})),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({"spec": {"maxReplicas": 2,
            "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}}),
        ),
        ("policy/v1", "PodDisruptionBudget", json!({"spec": {"selector": selector(), "minAvailable": 1}})),
        (
            "networking.k8s.io/v1",
            "Ingress",
            json!({"spec": {"defaultBackend":
            {"service": {"name": "s", "port": {"number": 80}}}}}),
        ),
        ("networking.k8s.io/v1", "ServiceCIDR", json!({"spec": {"cidrs": ["10.99.0.0/24"]}})),
        ("networking.k8s.io/v1", "IngressClass", json!({"spec": {"controller": "example.com/c"}})),
        ("networking.k8s.io/v1", "NetworkPolicy", json!({"spec": {"podSelector": {}}})),
        ("discovery.k8s.io/v1", "EndpointSlice", json!({"addressType": "IPv4", "endpoints": [], "ports": []})),
        ("coordination.k8s.io/v1", "Lease", json!({"spec": {"holderIdentity": "h"}})),
        (
            "events.k8s.io/v1",
            "Event",
            json!({"eventTime": "2030-01-01T00:00:00.000000Z", "action": "a", "reason": "r",
            "reportingController": "example.com/c", "reportingInstance": "i", "type": "Normal",
            "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}}),
        ),
        ("rbac.authorization.k8s.io/v1", "ClusterRole", json!({"rules": []})),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            json!({"roleRef":
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}}),
        ),
        ("rbac.authorization.k8s.io/v1", "Role", json!({"rules": []})),
        (
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({"roleRef":
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}}),
        ),
        ("scheduling.k8s.io/v1", "PriorityClass", json!({"value": 1})),
        ("node.k8s.io/v1", "RuntimeClass", json!({"handler": "h"})),
        ("storage.k8s.io/v1", "CSIDriver", json!({"spec": {}})),
        ("storage.k8s.io/v1", "CSINode", json!({"spec": {"drivers": []}})),
        ("storage.k8s.io/v1", "CSIStorageCapacity", json!({"storageClassName": "s"})),
        ("storage.k8s.io/v1", "StorageClass", json!({"provisioner": "example.com/p"})),
        (
            "storage.k8s.io/v1",
            "VolumeAttachment",
            json!({"spec": {"attacher": "a.example.com", "nodeName": "n",
            "source": {"persistentVolumeName": "v"}}}),
        ),
        ("certificates.k8s.io/v1", "CertificateSigningRequest", csr()),
        (
            "flowcontrol.apiserver.k8s.io/v1",
            "FlowSchema",
            json!({"spec": {"matchingPrecedence": 9000,
            "priorityLevelConfiguration": {"name": "exempt"}}}),
        ),
        (
            "flowcontrol.apiserver.k8s.io/v1",
            "PriorityLevelConfiguration",
            json!({"spec": {"type": "Limited",
            "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}}),
        ),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", webhook(json!({"rules": rules}))),
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", webhook(json!({"rules": rules}))),
        (
            "admissionregistration.k8s.io/v1",
            "MutatingAdmissionPolicy",
            json!({"spec": {"reinvocationPolicy": "Never",
                "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                    "resources": ["deployments"], "operations": ["CREATE"]}]},
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration":
                    {"expression": "Object{spec: Object.spec{replicas: 100}}"}}]}}),
        ),
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding", json!({"spec": {"policyName": "p"}})),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicy",
            json!({"spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                "resources": ["deployments"], "operations": ["CREATE"]}]},
            "validations": [{"expression": "object.spec.replicas <= 5"}]}}),
        ),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p",
            "validationActions": ["Deny"]}}),
        ),
    ]
}

fn csr() -> Value {
    use base64::Engine;
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
    let pem = request.serialize_request(&key).unwrap().pem().unwrap();
    json!({"spec": {"request": base64::engine::general_purpose::STANDARD.encode(pem),
        "signerName": "example.com/s", "usages": ["client auth"]}})
}

/// Conformance: "should support ... API operations", "should run through the lifecycle of ...", "should list and delete a
/// collection of ...", "should manage the lifecycle of ...", "... endpoints can be operated with different HTTP methods".
#[tokio::test]
async fn every_kind_takes_every_operation() {
    let cluster = Cluster::start().await;
    for (api_version, kind, object) in objects() {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = resources::by_kind(group, version, kind).unwrap_or_else(|| panic!("{api_version} {kind}"));
        let client = OfKind { cluster: &cluster, resource, shown: format!("{api_version} {kind}") };
        client.lives(object).await;
    }
}

/// Conformance: "ServiceCIDR and IPAddress API should support IPAddress API operations". Their names are addresses.
#[tokio::test]
async fn addresses_take_every_operation() {
    let cluster = Cluster::start().await;
    let client = OfKind { cluster: &cluster, resource: resources::IP_ADDRESSES, shown: "IPAddress".to_owned() };
    let address = json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}});
    client.lives_as(address, ["192.0.2.41", "192.0.2.42", "2001:db8::43"]).await;
}

/// Conformance: "CSIInlineVolumes should support CSIVolumeSource in Pod API".
#[tokio::test]
async fn a_pod_with_a_volume_of_a_storage_driver_takes_every_operation() {
    let cluster = Cluster::start().await;
    let client = OfKind { cluster: &cluster, resource: resources::PODS, shown: "a pod with a csi volume".to_owned() };
    let pod = json!({"spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "csi": {"driver": "csi.example.com", "readOnly": true,
            "volumeAttributes": {"a": "b"}}}]}});
    client.lives(pod).await;
}

/// Conformance: "ConfigMap should be immutable if `immutable` field is set", and the same of Secrets.
#[tokio::test]
async fn what_is_immutable_changes_no_more_but_for_its_metadata() {
    let cluster = Cluster::start().await;
    for (plural, kind) in [("configmaps", "ConfigMap"), ("secrets", "Secret")] {
        let all = format!("/api/v1/namespaces/default/{plural}");
        let one = format!("{all}/one");
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "one"}, "data": {"a": "YQ=="}});
        let put = async |change: &dyn Fn(&mut Value)| {
            let (_, mut object) = cluster.call(Method::GET, &one, &Value::Null).await;
            change(&mut object);
            cluster.call(Method::PUT, &one, &object).await
        };
        assert_eq!(cluster.call(Method::POST, &all, &object).await.0, StatusCode::CREATED);
        assert_eq!(put(&|object| object["data"]["a"] = "Yg==".into()).await.0, StatusCode::OK);
        assert_eq!(put(&|object| object["immutable"] = true.into()).await.0, StatusCode::OK);
        for refused in [
            put(&|object| object["data"]["a"] = "Yw==".into()).await,
            put(&|object| object["immutable"] = false.into()).await,
        ] {
            assert_eq!(refused.0, StatusCode::UNPROCESSABLE_ENTITY, "{kind}: {}", refused.1);
            let message = refused.1["message"].as_str().unwrap();
            assert!(message.contains("field is immutable when `immutable` is set"), "{message}");
        }
        assert_eq!(put(&|object| object["metadata"]["labels"] = json!({"a": "b"})).await.0, StatusCode::OK);
        assert_eq!(cluster.call(Method::DELETE, &one, &Value::Null).await.0, StatusCode::OK);
    }
}

/// Conformance: "should validate ... Status endpoints", "should apply changes to a ... status", "should verify changes to a
/// daemon set status", "should update/patch PodDisruptionBudget status".
#[tokio::test]
async fn every_status_is_read_patched_and_replaced_by_itself() {
    let cluster = Cluster::start().await;
    for (api_version, kind, object) in objects() {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = resources::by_kind(group, version, kind).unwrap_or_else(|| panic!("{api_version} {kind}"));
        if resource.subresource("status").is_some() {
            let client = OfKind { cluster: &cluster, resource, shown: format!("{api_version} {kind}") };
            client.has_a_status(object).await;
        }
    }
}

struct OfKind<'a> {
    cluster: &'a Cluster,
    resource: &'static Resource,
    shown: String,
}

impl OfKind<'_> {
    fn path(&self, name: Option<&str>) -> String {
        self.resource.path(Some("default"), name)
    }

    fn named(&self, mut object: Value, name: &str) -> Value {
        object["apiVersion"] = self.resource.api_version().into();
        object["kind"] = (&*self.resource.kind).into();
        object["metadata"]["name"] = name.into();
        object["metadata"]["labels"] = json!({"test": "kinds"});
        object
    }

    #[track_caller]
    fn expect(&self, what: &str, wanted: StatusCode, (status, answer): (StatusCode, Value)) -> Value {
        assert_eq!(status, wanted, "{} {what}: {answer}", self.shown);
        answer
    }

    async fn lives(&self, object: Value) {
        self.lives_as(object, ["one", "two", "three"]).await;
    }

    async fn lives_as(&self, object: Value, [first, second, third]: [&str; 3]) {
        let (all, one) = (self.path(None), self.path(Some(first)));
        let chosen = format!("{all}?labelSelector=test%3Dkinds");
        let call = async |method, path: &str, body: &Value| self.cluster.call(method, path, body).await;
        let created = call(Method::POST, &all, &self.named(object.clone(), first)).await;
        self.expect("create", StatusCode::CREATED, created);
        let list = self.expect("list", StatusCode::OK, call(Method::GET, &chosen, &Value::Null).await);
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{}: {list}", self.shown);
        if self.resource.namespaced() {
            let every = self.resource.path(None, None);
            let every = call(Method::GET, &format!("{every}?labelSelector=test%3Dkinds"), &Value::Null).await;
            assert_eq!(every.1["items"].as_array().map(Vec::len), Some(1), "{}: in all namespaces", self.shown);
        }
        let since = list["metadata"]["resourceVersion"].as_str().unwrap();
        let mut events = self.cluster.watch(&format!("{chosen}&watch=1&resourceVersion={since}")).await;
        let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
        self.expect("patch", StatusCode::OK, call(Method::PATCH, &one, &patch).await);
        let mut got = self.expect("get", StatusCode::OK, call(Method::GET, &one, &Value::Null).await);
        assert_eq!(got["metadata"]["annotations"]["patched"], "true", "{}: {got}", self.shown);
        got["metadata"]["annotations"]["updated"] = "true".into();
        let updated = self.expect("update", StatusCode::OK, call(Method::PUT, &one, &got).await);
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true", "{}: {updated}", self.shown);
        self.expect("delete", StatusCode::OK, call(Method::DELETE, &one, &self.at_once()).await);
        self.let_go(first).await;
        let gone = call(Method::GET, &one, &Value::Null).await;
        self.expect("get after delete", StatusCode::NOT_FOUND, gone);
        for _ in 0..2 {
            assert_eq!(events.short().await, format!("MODIFIED {first}"), "{}", self.shown);
        }
        while events.short().await != format!("DELETED {first}") {}
        for name in [second, third] {
            let created = call(Method::POST, &all, &self.named(object.clone(), name)).await;
            self.expect("create again", StatusCode::CREATED, created);
        }
        if self.resource.serves(Verb::DeleteCollection) {
            let deleted = call(Method::DELETE, &chosen, &self.at_once()).await;
            self.expect("delete collection", StatusCode::OK, deleted);
            self.let_go(second).await;
            self.let_go(third).await;
            let left = self.cluster.get(&chosen).await;
            assert_eq!(left["items"], json!([]), "{}", self.shown);
        } else {
            for name in [second, third] {
                call(Method::DELETE, &self.path(Some(name)), &self.at_once()).await;
            }
        }
    }

    /// Nobody is here who would end pods.
    fn at_once(&self) -> Value {
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    }

    /// Nor anybody who takes the finalizers off that protect volumes.
    async fn let_go(&self, name: &str) {
        let free = json!({"metadata": {"finalizers": null}});
        let (status, _) = self.cluster.call(Method::PATCH, &self.path(Some(name)), &free).await;
        assert!(matches!(status, StatusCode::OK | StatusCode::NOT_FOUND), "{}: {status}", self.shown);
    }

    async fn has_a_status(&self, object: Value) {
        let (all, status) = (self.path(None), format!("{}/status", self.path(Some("one"))));
        let call = async |method, path: &str, body: &Value| self.cluster.call(method, path, body).await;
        let created = call(Method::POST, &all, &self.named(object, "one")).await;
        let created = self.expect("create", StatusCode::CREATED, created);
        let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "spec": null});
        let patched = self.expect("patch", StatusCode::OK, call(Method::PATCH, &status, &patch).await);
        let kept = METADATA_APART.contains(&&*self.resource.kind);
        let annotation = if kept { Value::Null } else { json!("true") };
        assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], annotation, "{}: {patched}", self.shown);
        assert_eq!(patched["spec"], created["spec"], "{}: the spec is not the status", self.shown);
        let read = self.expect("get", StatusCode::OK, call(Method::GET, &status, &Value::Null).await);
        assert_eq!(read["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"], "{}", self.shown);
        self.expect("update", StatusCode::OK, call(Method::PUT, &status, &read).await);
        self.expect("delete", StatusCode::OK, call(Method::DELETE, &self.path(Some("one")), &self.at_once()).await);
        self.let_go("one").await;
    }
}

/// A definition, served or published in these versions.
fn boats(versions: &[(&str, bool, Value)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(at, (name, served, schema))| {
            json!({"name": name, "served": served, "storage": at == 0, "schema": {"openAPIV3Schema": schema}})
        })
        .collect();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com", "labels": {"test": "kinds"}},
        "spec": {"group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": versions}})
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Writes a definition and waits until what is published shows it.
async fn publish(cluster: &Cluster, method: Method, definition: &Value, shows: impl Fn(&Value) -> bool) {
    let name = definition["metadata"]["name"].as_str().unwrap();
    let mut events = cluster.watch(&format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name%3D{name}")).await;
    let path = if method == Method::POST { DEFINITIONS.to_owned() } else { format!("{DEFINITIONS}/{name}") };
    let (status, answer) = cluster.call(method, &path, definition).await;
    assert!(status.is_success(), "{answer}");
    while !shows(&cluster.get("/openapi/v2").await["definitions"]) {
        events.next().await.expect("the definition is established");
    }
}

/// Conformance: "getting/updating/patching custom resource definition status sub-resource works".
#[tokio::test]
async fn the_status_of_a_definition_is_read_patched_and_replaced() {
    let cluster = Cluster::start().await;
    let client =
        OfKind { cluster: &cluster, resource: resources::CUSTOM_RESOURCE_DEFINITIONS, shown: "definition".to_owned() };
    let definition = boats(&[("v1", true, json!({"type": "object"}))]);
    publish(&cluster, Method::POST, &definition, |all| !all["com.example.sea.v1.Boat"].is_null()).await;
    let status = format!("{DEFINITIONS}/boats.sea.example.com/status");
    let mut read = client.expect("get", StatusCode::OK, cluster.call(Method::GET, &status, &Value::Null).await);
    read["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "StatusUpdate", "status": "True",
        "reason": "E2E", "message": "Set from an e2e test", "lastTransitionTime": "2030-01-01T00:00:00Z"}));
    let updated = client.expect("update", StatusCode::OK, cluster.call(Method::PUT, &status, &read).await);
    let kinds = updated["status"]["conditions"].as_array().unwrap().iter().map(|one| one["type"].clone());
    assert!(kinds.into_iter().any(|kind| kind == "StatusUpdate"), "{updated}");
    let patch = json!({"metadata": {"labels": {"e2e-test": "patched"}}, "status": {"conditions": []}});
    client.expect("patch", StatusCode::OK, cluster.call(Method::PATCH, &status, &patch).await);
}

/// Conformance: "listing custom resource definition objects works".
#[tokio::test]
async fn definitions_are_listed_and_deleted_by_label() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        let mut definition = boats(&[("v1", true, json!({"type": "object"}))]);
        definition["metadata"]["name"] = format!("{name}s.sea.example.com").into();
        definition["spec"]["names"] = json!({"plural": format!("{name}s"), "singular": name,
            "kind": name.to_uppercase(), "listKind": format!("{}List", name.to_uppercase())});
        cluster.post(DEFINITIONS, definition).await;
    }
    let chosen = format!("{DEFINITIONS}?labelSelector=test%3Dkinds");
    let list = cluster.get(&chosen).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(3));
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = cluster.watch(&format!("{chosen}&watch=1&resourceVersion={since}")).await;
    let (status, answer) = cluster.call(Method::DELETE, &chosen, &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let mut left = 3;
    while left > 0 {
        left -= usize::from(events.short().await.starts_with("DELETED"));
    }
    assert_eq!(cluster.get(&chosen).await["items"], json!([]));
}

/// Conformance: "works for CRD preserving unknown fields ...", "updates the published spec when one version gets renamed",
/// "removes definition from spec when one version gets changed to not be served".
#[tokio::test]
async fn what_is_published_follows_each_version() {
    let cluster = Cluster::start().await;
    let preserving = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let embedded = json!({"type": "object", "properties": {"spec": {"type": "object", "description": "Kept.",
        "x-kubernetes-preserve-unknown-fields": true}}});
    let versions =
        |second: &str, served: bool| boats(&[("v1", true, preserving.clone()), (second, served, embedded.clone())]);
    let name = |version: &str| format!("com.example.sea.{version}.Boat");
    publish(&cluster, Method::POST, &versions("v2", true), |all| {
        !all[name("v1")].is_null() && all[name("v2")]["properties"]["spec"]["description"] == "Kept."
    })
    .await;
    let mut renamed = versions("v3", true);
    let revision = |cluster: &Value| cluster["metadata"]["resourceVersion"].clone();
    renamed["metadata"]["resourceVersion"] =
        revision(&cluster.get(&format!("{DEFINITIONS}/boats.sea.example.com")).await);
    publish(&cluster, Method::PUT, &renamed, |all| !all[name("v3")].is_null() && all[name("v2")].is_null()).await;
    let mut ended = versions("v3", false);
    ended["metadata"]["resourceVersion"] =
        revision(&cluster.get(&format!("{DEFINITIONS}/boats.sea.example.com")).await);
    publish(&cluster, Method::PUT, &ended, |all| !all[name("v1")].is_null() && all[name("v3")].is_null()).await;
    let path = "/apis/sea.example.com/v1/namespaces/default/boats";
    let free = json!({"apiVersion": "sea.example.com/v1", "kind": "Boat", "metadata": {"name": "a"}, "x": {"y": [1]}});
    assert_eq!(cluster.post(path, free).await["x"], json!({"y": [1]}));
}

/// Conformance: "should apply an update to a Namespace", "should patch a Namespace", "should apply changes to a namespace
/// status".
#[tokio::test]
async fn namespaces_are_patched_replaced_and_have_a_status() {
    let cluster = Cluster::start().await;
    let client = OfKind { cluster: &cluster, resource: resources::NAMESPACES, shown: "namespace".to_owned() };
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "one"}})).await;
    let path = "/api/v1/namespaces/one";
    let patch = json!({"metadata": {"labels": {"testLabel": "testValue"}}});
    let patched = client.expect("patch", StatusCode::OK, cluster.call(Method::PATCH, path, &patch).await);
    assert_eq!(patched["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "one", "testLabel": "testValue"}));
    let mut next = patched;
    next["metadata"]["labels"]["updated"] = "true".into();
    client.expect("update", StatusCode::OK, cluster.call(Method::PUT, path, &next).await);
    let status = format!("{path}/status");
    let condition =
        json!({"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched by an e2e test"});
    let patch = json!({"metadata": {"annotations": {"e2e": "patched"}}, "status": {"conditions": [condition]}});
    let patched = client.expect("patch status", StatusCode::OK, cluster.call(Method::PATCH, &status, &patch).await);
    assert_eq!(patched["status"]["conditions"][0]["reason"], "E2E");
    let mut next = client.expect("get status", StatusCode::OK, cluster.call(Method::GET, &status, &Value::Null).await);
    next["status"]["conditions"][0]["type"] = "StatusUpdate".into();
    let updated = client.expect("update status", StatusCode::OK, cluster.call(Method::PUT, &status, &next).await);
    assert_eq!(updated["status"]["conditions"][0]["type"], "StatusUpdate");
}

/// Conformance: "ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer".
#[tokio::test]
async fn the_issuer_of_tokens_is_discovered() {
    let cluster = Cluster::start().await;
    let about = cluster.get("/.well-known/openid-configuration").await;
    let keys = cluster.get("/openid/v1/jwks").await;
    assert!(about["jwks_uri"].as_str().unwrap().ends_with("/openid/v1/jwks"), "{about}");
    assert_eq!(
        (&about["response_types_supported"], &about["subject_types_supported"]),
        (&json!(["id_token"]), &json!(["public"]))
    );
    let algorithms = about["id_token_signing_alg_values_supported"].as_array().unwrap();
    assert!(algorithms.contains(&keys["keys"][0]["alg"]), "{about} {keys}");
    let path = "/api/v1/namespaces/default/serviceaccounts";
    cluster.post(path, json!({"metadata": {"name": "one"}})).await;
    let token = cluster.post(&format!("{path}/one/token"), json!({"spec": {}})).await["status"]["token"].clone();
    let claims = token.as_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], about["issuer"]);
}

/// Machines that join read where the cluster is without credentials, and nothing else.
#[tokio::test]
async fn cluster_info_is_there_for_everybody_and_nothing_beside_it() {
    use crate::authentication::UserInfo;
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/kube-public/configmaps";
    let nobody = UserInfo::anonymous();
    let (status, map) = cluster.as_user(&nobody, Method::GET, &format!("{maps}/cluster-info"), Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{map}");
    let kubeconfig = map["data"]["kubeconfig"].as_str().unwrap();
    assert!(kubeconfig.contains("server: https://") && kubeconfig.contains("certificate-authority-data: "));
    let (status, _) = cluster.as_user(&nobody, Method::GET, &format!("{maps}/kube-root-ca.crt"), Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = cluster.as_user(&nobody, Method::GET, maps, Value::Null).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

/// Conformance: "should support continue listing from the last key if the original version has been compacted away, though
/// the list is inconsistent".
#[tokio::test]
async fn a_list_whose_moment_is_over_goes_on_with_what_there_is_now() {
    let store = std::sync::Arc::new(store::memory::MemoryStore::default());
    let before = Cluster::over(store.clone()).await;
    let maps = "/api/v1/namespaces/kube-node-lease/configmaps";
    for name in ["a", "b", "c"] {
        before.post(maps, super::config_map(name, json!({}))).await;
    }
    let first = before.get(&format!("{maps}?limit=2")).await;
    let revision = |list: &Value| list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    before.post(maps, super::config_map("d", json!({}))).await;
    before.forget(revision(&first).parse().unwrap()).await;
    before.stop.stop();
    let cluster = Cluster::over(store).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (status, answer) = cluster.call(Method::GET, &format!("{maps}?limit=2&continue={token}"), &Value::Null).await;
    assert_eq!((status, &answer["reason"]), (StatusCode::GONE, &json!("Expired")), "{answer}");
    let token = answer["metadata"]["continue"].as_str().unwrap();
    let rest = cluster.get(&format!("{maps}?limit=9&continue={token}")).await;
    let names: Vec<&Value> = rest["items"].as_array().unwrap().iter().map(|map| &map["metadata"]["name"]).collect();
    assert_eq!(names, ["c", "d"], "{rest}");
    assert_ne!(revision(&rest), revision(&first));
}

/// Conformance: "should return a 406 for a backend which does not implement metadata".
#[tokio::test]
async fn what_is_not_stored_has_no_table() {
    let cluster = Cluster::start().await;
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .header("content-type", "application/json")
        .body(bytes::Bytes::from(review.to_string()))
        .unwrap();
    assert_eq!(cluster.send(request).await.status(), StatusCode::NOT_ACCEPTABLE);
}
