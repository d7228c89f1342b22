//! Columns of the kinds that are no workloads' controllers.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Column, count, joined, list, number, or_none, since, text, wide};

pub(super) const POD: &[Column] = &[
    text("Ready", |pod, _| pod_ready(pod)),
    text("Status", |pod, _| pod_status(pod).into()),
    text("Restarts", pod_restarts),
    AGE,
    wide("IP", |pod, _| or_none(pod, "/status/podIP")),
    wide("Node", |pod, _| or_none(pod, "/spec/nodeName")),
    wide("Nominated Node", |pod, _| or_none(pod, "/status/nominatedNodeName")),
    wide("Readiness Gates", |pod, _| readiness_gates(pod)),
];

pub(super) const SERVICE: &[Column] = &[
    text("Type", |service, _| or_none(service, "/spec/type")),
    text("Cluster-IP", |service, _| or_none(service, "/spec/clusterIP")),
    text("External-IP", |service, _| external_ip(service)),
    text("Port(s)", |service, _| service_ports(service)),
    AGE,
    wide("Selector", |service, _| super::selector(service, "/spec/selector")),
];

pub(super) const NODE: &[Column] = &[
    text("Status", |node, _| node_status(node)),
    text("Roles", |node, _| node_roles(node)),
    AGE,
    text("Version", |node, _| or_none(node, "/status/nodeInfo/kubeletVersion")),
    wide("Internal-IP", |node, _| node_address(node, "InternalIP")),
    wide("External-IP", |node, _| node_address(node, "ExternalIP")),
    wide("OS-Image", |node, _| or_none(node, "/status/nodeInfo/osImage")),
    wide("Kernel-Version", |node, _| or_none(node, "/status/nodeInfo/kernelVersion")),
    wide("Container-Runtime", |node, _| or_none(node, "/status/nodeInfo/containerRuntimeVersion")),
];

pub(super) const NAMESPACE: &[Column] = &[text("Status", |namespace, _| or_none(namespace, "/status/phase")), AGE];

pub(super) const CONFIG_MAP: &[Column] =
    &[number("Data", |map, _| (size(map, "/data") + size(map, "/binaryData")).into()), AGE];

pub(super) const SECRET: &[Column] = &[
    text("Type", |secret, _| or_none(secret, "/type")),
    number("Data", |secret, _| size(secret, "/data").into()),
    AGE,
];

pub(super) const SERVICE_ACCOUNT: &[Column] =
    &[number("Secrets", |account, _| list(account, "/secrets").len().into()), AGE];

pub(super) const EVENT: &[Column] = &[
    text("Last Seen", event_last_seen),
    text("Type", |event, _| or_none(event, "/type")),
    text("Reason", |event, _| or_none(event, "/reason")),
    text("Object", |event, _| event_object(event)),
    wide("Subobject", |event, _| either(event, "/involvedObject/fieldPath", "/regarding/fieldPath")),
    wide("Source", |event, _| event_source(event)),
    text("Message", |event, _| either(event, "/message", "/note")),
    wide("First Seen", |event, now| seen(event, &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"], now)),
    wide("Count", |event, _| count(event, "/count")),
    wide("Name", |event, _| or_none(event, "/metadata/name")),
];

pub(super) const ENDPOINTS: &[Column] = &[text("Endpoints", |endpoints, _| endpoint_addresses(endpoints)), AGE];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    text("AddressType", |slice, _| or_none(slice, "/addressType")),
    text("Ports", |slice, _| slice_ports(slice)),
    text("Endpoints", |slice, _| slice_endpoints(slice)),
    AGE,
];

pub(super) const PERSISTENT_VOLUME: &[Column] = &[
    text("Capacity", |volume, _| or_none(volume, "/spec/capacity/storage")),
    text("Access Modes", |volume, _| access_modes(volume, "/spec/accessModes")),
    text("Reclaim Policy", |volume, _| or_none(volume, "/spec/persistentVolumeReclaimPolicy")),
    text("Status", |volume, _| phase(volume)),
    text("Claim", |volume, _| volume_claim(volume)),
    text("StorageClass", |volume, _| empty(volume, "/spec/storageClassName")),
    text("VolumeAttributesClass", |volume, _| unset(volume, "/spec/volumeAttributesClassName")),
    text("Reason", |volume, _| empty(volume, "/status/reason")),
    AGE,
    wide("VolumeMode", |volume, _| unset(volume, "/spec/volumeMode")),
];

pub(super) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    text("Status", |claim, _| phase(claim)),
    text("Volume", |claim, _| empty(claim, "/spec/volumeName")),
    text("Capacity", |claim, _| empty(claim, "/status/capacity/storage")),
    text("Access Modes", |claim, _| access_modes(claim, "/status/accessModes")),
    text("StorageClass", |claim, _| empty(claim, "/spec/storageClassName")),
    text("VolumeAttributesClass", |claim, _| unset(claim, "/spec/volumeAttributesClassName")),
    AGE,
    wide("VolumeMode", |claim, _| unset(claim, "/spec/volumeMode")),
];

pub(super) const LEASE: &[Column] = &[text("Holder", |lease, _| empty(lease, "/spec/holderIdentity")), AGE];

pub(super) const INGRESS: &[Column] = &[
    text("Class", |ingress, _| or_none(ingress, "/spec/ingressClassName")),
    text("Hosts", |ingress, _| ingress_hosts(ingress)),
    text("Address", |ingress, _| {
        let addresses = list(ingress, "/status/loadBalancer/ingress");
        let address = |one: &&Value| one["ip"].as_str().or(one["hostname"].as_str()).unwrap_or_default().to_owned();
        addresses.iter().map(address).collect::<Vec<_>>().join(",").into()
    }),
    text("Ports", |ingress, _| if list(ingress, "/spec/tls").is_empty() { "80".into() } else { "80, 443".into() }),
    AGE,
];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    number("Value", |class, _| count(class, "/value")),
    Column {
        name: "Global-Default",
        kind: "boolean",
        priority: 0,
        cell: |class, _| (class["globalDefault"] == true).into(),
    },
    AGE,
    text("PreemptionPolicy", |class, _| unset(class, "/preemptionPolicy")),
];

pub(super) const STORAGE_CLASS: &[Column] = &[
    text("Provisioner", |class, _| or_none(class, "/provisioner")),
    text("ReclaimPolicy", |class, _| class["reclaimPolicy"].as_str().unwrap_or("Delete").into()),
    text("VolumeBindingMode", |class, _| class["volumeBindingMode"].as_str().unwrap_or("Immediate").into()),
    Column {
        name: "AllowVolumeExpansion",
        kind: "string",
        priority: 0,
        cell: |class, _| (class["allowVolumeExpansion"] == true).into(),
    },
    AGE,
];

pub(super) const ROLE: &[Column] = &[Column {
    name: "Created At",
    kind: "date",
    priority: 0,
    cell: |role, _| role["metadata"]["creationTimestamp"].clone(),
}];

pub(super) const BINDING: &[Column] = &[
    text("Role", |binding, _| {
        let role = &binding["roleRef"];
        let name = |field: &str| role[field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", name("kind"), name("name")).into()
    }),
    AGE,
    wide("Users", |binding, _| subjects(binding, "User")),
    wide("Groups", |binding, _| subjects(binding, "Group")),
    wide("ServiceAccounts", |binding, _| subjects(binding, "ServiceAccount")),
];

fn size(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

fn empty(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).cloned().unwrap_or_else(|| "".into())
}

fn unset(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).filter(|value| *value != "").cloned().unwrap_or_else(|| "<unset>".into())
}

fn either(object: &Value, first: &str, second: &str) -> Value {
    object.pointer(first).or_else(|| object.pointer(second)).cloned().unwrap_or_else(|| "".into())
}

fn phase(object: &Value) -> Value {
    if object["metadata"]["deletionTimestamp"].is_null() {
        empty(object, "/status/phase")
    } else {
        "Terminating".into()
    }
}

/// Sidecars (init containers that are always restarted) count as containers.
fn is_sidecar(pod: &Value, name: &Value) -> bool {
    list(pod, "/spec/initContainers")
        .iter()
        .any(|container| container["name"] == *name && container["restartPolicy"] == "Always")
}

fn counted_statuses(pod: &Value) -> Vec<&Value> {
    let sidecars =
        list(pod, "/status/initContainerStatuses").into_iter().filter(|status| is_sidecar(pod, &status["name"]));
    sidecars.chain(list(pod, "/status/containerStatuses")).collect()
}

fn pod_ready(pod: &Value) -> Value {
    let ready = counted_statuses(pod).iter().filter(|status| status["ready"] == true).count();
    let sidecars =
        list(pod, "/spec/initContainers").iter().filter(|container| container["restartPolicy"] == "Always").count();
    format!("{ready}/{}", list(pod, "/spec/containers").len() + sidecars).into()
}

/// The one word that says how a pod is, as `printPod` finds it.
fn pod_status(pod: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut reason = word(&pod["status"]["phase"]);
    let own = word(&pod["status"]["reason"]);
    if !own.is_empty() {
        reason = own;
    }
    let condition =
        |kind: &str| list(pod, "/status/conditions").into_iter().find(|condition| condition["type"] == kind);
    if condition("PodScheduled").is_some_and(|scheduled| scheduled["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut reason);
    }
    let initializing = init_reason(pod);
    if let Some(init) = &initializing {
        reason.clone_from(init);
    }
    let initialized = condition("Initialized").is_some_and(|condition| condition["status"] == "True");
    if initializing.is_none() || initialized {
        reason = container_reason(pod, reason);
    }
    let terminal = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    match (pod["metadata"]["deletionTimestamp"].is_null(), pod["status"]["reason"] == "NodeLost") {
        (false, true) => "Unknown".to_owned(),
        (false, false) if !terminal => "Terminating".to_owned(),
        _ => reason,
    }
}

/// `Init:1/2` and the like, while an init container has not done its part.
fn init_reason(pod: &Value) -> Option<String> {
    let total = list(pod, "/spec/initContainers").len();
    for (at, status) in list(pod, "/status/initContainerStatuses").into_iter().enumerate() {
        let state = &status["state"];
        let terminated = &state["terminated"];
        if terminated["exitCode"] == 0 || is_sidecar(pod, &status["name"]) && status["started"] == true {
            continue;
        }
        if !terminated.is_null() {
            return Some(match (terminated["reason"].as_str(), terminated["signal"].as_i64().unwrap_or(0)) {
                (Some(reason), _) if !reason.is_empty() => format!("Init:{reason}"),
                (_, 0) => format!("Init:ExitCode:{}", terminated["exitCode"]),
                (_, signal) => format!("Init:Signal:{signal}"),
            });
        }
        let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{at}/{total}"));
    }
    None
}

fn container_reason(pod: &Value, mut reason: String) -> String {
    let mut running = false;
    for status in list(pod, "/status/containerStatuses").into_iter().rev() {
        let state = &status["state"];
        let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
        let terminated = &state["terminated"];
        if !waiting.is_empty() {
            waiting.clone_into(&mut reason);
        } else if !terminated.is_null() {
            reason =
                match (terminated["reason"].as_str().unwrap_or_default(), terminated["signal"].as_i64().unwrap_or(0)) {
                    ("", 0) => format!("ExitCode:{}", terminated["exitCode"]),
                    ("", signal) => format!("Signal:{signal}"),
                    (own, _) => own.to_owned(),
                };
        } else if status["ready"] == true && !state["running"].is_null() {
            running = true;
        }
    }
    if reason == "Completed" && running {
        let ready = list(pod, "/status/conditions").iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        return if ready { "Running".to_owned() } else { "NotReady".to_owned() };
    }
    reason
}

fn pod_restarts(pod: &Value, now: Timestamp) -> Value {
    let statuses = counted_statuses(pod);
    let restarts: i64 = statuses.iter().filter_map(|status| status["restartCount"].as_i64()).sum();
    let last = statuses.iter().filter_map(|status| status["lastState"]["terminated"]["finishedAt"].as_str()).max();
    match last.filter(|_| restarts > 0) {
        Some(last) => format!("{restarts} ({} ago)", since(Some(last), now)).into(),
        None => restarts.to_string().into(),
    }
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let conditions = list(pod, "/status/conditions");
    let met = |gate: &&&Value| {
        conditions.iter().any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(met).count(), gates.len()).into()
}

fn external_ip(service: &Value) -> Value {
    let own = list(service, "/spec/externalIPs");
    let own = own.iter().filter_map(|ip| ip.as_str());
    let balancer = list(service, "/status/loadBalancer/ingress");
    let balanced = balancer.iter().filter_map(|one| one["ip"].as_str().or(one["hostname"].as_str()));
    match service["spec"]["type"].as_str() {
        Some("ExternalName") => service["spec"]["externalName"].clone(),
        Some("LoadBalancer") if balancer.is_empty() && own.clone().next().is_none() => "<pending>".into(),
        Some("LoadBalancer") => joined(balanced.chain(own)),
        _ => joined(own),
    }
}

fn service_ports(service: &Value) -> Value {
    let ports = list(service, "/spec/ports");
    let text = |port: &&Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match port["nodePort"].as_u64().filter(|node_port| *node_port > 0) {
            Some(node_port) => format!("{}:{node_port}/{protocol}", port["port"]),
            None => format!("{}/{protocol}", port["port"]),
        }
    };
    let texts: Vec<String> = ports.iter().map(text).collect();
    joined(texts.iter().map(String::as_str))
}

fn node_status(node: &Value) -> Value {
    let ready = list(node, "/status/conditions").into_iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|ready| ready["status"] == "True") {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

fn node_roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object();
    let role = |(label, value): (&String, &Value)| match label.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        _ if label == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        _ => None,
    };
    let mut roles: Vec<String> = labels.into_iter().flatten().filter_map(role).collect();
    roles.sort();
    joined(roles.iter().map(String::as_str))
}

fn node_address(node: &Value, kind: &str) -> Value {
    let address = list(node, "/status/addresses").into_iter().find(|address| address["type"] == kind);
    address.map_or_else(|| "<none>".into(), |address| address["address"].clone())
}

fn seen(event: &Value, pointers: &[&str], now: Timestamp) -> Value {
    let at = pointers.iter().find_map(|pointer| event.pointer(pointer)?.as_str());
    since(at, now).into()
}

fn event_last_seen(event: &Value, now: Timestamp) -> Value {
    seen(event, &["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp", "/eventTime"], now)
}

fn event_object(event: &Value) -> Value {
    let object = event.get("involvedObject").or_else(|| event.get("regarding")).unwrap_or(&Value::Null);
    let field = |name: &str| object[name].as_str().unwrap_or_default();
    format!("{}/{}", field("kind").to_lowercase(), field("name")).into()
}

fn event_source(event: &Value) -> Value {
    let source = event.get("source").or_else(|| event.get("deprecatedSource")).unwrap_or(&Value::Null);
    let component = source["component"].as_str().unwrap_or_default();
    let component =
        if component.is_empty() { event["reportingComponent"].as_str().unwrap_or_default() } else { component };
    match source["host"].as_str() {
        Some(host) if !host.is_empty() => format!("{component}, {host}").into(),
        _ => component.into(),
    }
}

/// At most three, then how many more.
fn shortened(mut texts: Vec<String>) -> Value {
    const SHOWN_MAX: usize = 3;
    let more = texts.len().saturating_sub(SHOWN_MAX);
    texts.truncate(SHOWN_MAX);
    match (texts.is_empty(), more) {
        (true, _) => "<none>".into(),
        (_, 0) => texts.join(",").into(),
        (_, more) => format!("{} + {more} more...", texts.join(",")).into(),
    }
}

fn endpoint_addresses(endpoints: &Value) -> Value {
    let mut texts = Vec::new();
    for subset in list(endpoints, "/subsets") {
        let ips = list(subset, "/addresses");
        let ips = ips.iter().filter_map(|address| address["ip"].as_str());
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            texts.extend(ips.clone().map(str::to_owned));
        }
        for port in ports {
            texts.extend(ips.clone().map(|ip| format!("{ip}:{}", port["port"])));
        }
    }
    shortened(texts)
}

fn slice_ports(slice: &Value) -> Value {
    let ports = list(slice, "/ports");
    if ports.is_empty() {
        return "<unset>".into();
    }
    shortened(
        ports
            .iter()
            .map(|port| port["port"].as_u64().map_or_else(|| "*".to_owned(), |port| port.to_string()))
            .collect(),
    )
}

fn slice_endpoints(slice: &Value) -> Value {
    let endpoints = list(slice, "/endpoints");
    if endpoints.is_empty() {
        return "<unset>".into();
    }
    let addresses = endpoints.into_iter().flat_map(|endpoint| list(endpoint, "/addresses"));
    shortened(addresses.filter_map(|address| address.as_str().map(str::to_owned)).collect())
}

fn access_modes(object: &Value, pointer: &str) -> Value {
    let short = |mode: &&Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    list(object, pointer).iter().map(short).collect::<Vec<_>>().join(",").into()
}

fn volume_claim(volume: &Value) -> Value {
    let claim = &volume["spec"]["claimRef"];
    match (claim["namespace"].as_str(), claim["name"].as_str()) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}").into(),
        _ => "".into(),
    }
}

fn ingress_hosts(ingress: &Value) -> Value {
    let hosts: Vec<String> =
        list(ingress, "/spec/rules").iter().filter_map(|rule| rule["host"].as_str().map(str::to_owned)).collect();
    if hosts.is_empty() { "*".into() } else { shortened(hosts) }
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let of_kind = list(binding, "/subjects").into_iter().filter(|subject| subject["kind"] == kind);
    let text = |subject: &Value| match subject["namespace"].as_str() {
        Some(namespace) if kind == "ServiceAccount" => {
            format!("{namespace}/{}", subject["name"].as_str().unwrap_or_default())
        }
        _ => subject["name"].as_str().unwrap_or_default().to_owned(),
    };
    of_kind.map(text).collect::<Vec<_>>().join(", ").into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_described_in_one_word() {
        let pod = |status: Value| json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}, "status": status});
        let done = json!([{"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]);
        let table = [
            (json!({"phase": "Pending"}), "Pending"),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                "Init:0/1",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": done,
                    "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
                "ImagePullBackOff",
            ),
            (
                json!({"phase": "Failed", "initContainerStatuses": done,
                    "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
                "ExitCode:3",
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        ];
        for (status, word) in table {
            assert_eq!(pod_status(&pod(status)), word);
        }
    }
}
