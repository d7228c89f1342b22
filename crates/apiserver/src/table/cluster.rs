//! Columns of the kinds that the cluster itself is made of: nodes, namespaces, leases, events, priorities.

use serde_json::Value;

use super::About::{Field, Text};
use super::cells::{condition, count, joined_or_none, list, or, or_none, plain, since, string, truth};
use super::{AGE, Column, NAME, boolean, number, text, wide};

pub(super) const NODE: &[Column] = &[
    NAME,
    text("Status", Text("The status of the node"), |node, _| node_status(node)),
    text("Roles", Text("The roles of the node"), |node, _| node_roles(node)),
    AGE,
    text("Version", Field("api.core.v1.NodeSystemInfo.kubeletVersion"), |node, _| {
        plain(node, "/status/nodeInfo/kubeletVersion")
    }),
    wide("Internal-IP", Field("api.core.v1.NodeStatus.addresses"), |node, _| node_address(node, "InternalIP")),
    wide("External-IP", Field("api.core.v1.NodeStatus.addresses"), |node, _| node_address(node, "ExternalIP")),
    wide("OS-Image", Field("api.core.v1.NodeSystemInfo.osImage"), |node, _| {
        or(node, "/status/nodeInfo/osImage", "<unknown>")
    }),
    wide("Kernel-Version", Field("api.core.v1.NodeSystemInfo.kernelVersion"), |node, _| {
        let kernel = or(node, "/status/nodeInfo/kernelVersion", "<unknown>");
        match (kernel.as_str(), string(node, "/status/nodeInfo/architecture")) {
            (Some(kernel), architecture) if !architecture.is_empty() => format!("{kernel} ({architecture})").into(),
            _ => kernel,
        }
    }),
    wide("Container-Runtime", Field("api.core.v1.NodeSystemInfo.containerRuntimeVersion"), |node, _| {
        or(node, "/status/nodeInfo/containerRuntimeVersion", "<unknown>")
    }),
];

pub(super) const NAMESPACE: &[Column] =
    &[NAME, text("Status", Text("The status of the namespace"), |namespace, _| plain(namespace, "/status/phase")), AGE];

pub(super) const COMPONENT_STATUS: &[Column] = &[
    NAME,
    text("Status", Text("Status of the component conditions"), |component, _| match health(component) {
        Some(health) if health["status"] == "True" => "Healthy".into(),
        Some(_) => "Unhealthy".into(),
        None => "Unknown".into(),
    }),
    text("Message", Text("Message of the component conditions"), |component, _| {
        health(component).map_or("", |health| string(health, "/message")).into()
    }),
    text("Error", Text("Error of the component conditions"), |component, _| {
        health(component).map_or("", |health| string(health, "/error")).into()
    }),
];

pub(super) const EVENT: &[Column] = &[
    text("Last Seen", Field("api.core.v1.Event.lastTimestamp"), |event, now| {
        let series = &event["series"];
        let at = match series.is_object() {
            true => series["lastObservedTime"].as_str(),
            false => event["lastTimestamp"].as_str().or_else(|| first_seen(event)),
        };
        since(at, now).into()
    }),
    text("Type", Field("api.core.v1.Event.type"), |event, _| plain(event, "/type")),
    text("Reason", Field("api.core.v1.Event.reason"), |event, _| plain(event, "/reason")),
    text("Object", Field("api.core.v1.Event.involvedObject"), |event, _| {
        let kind = string(event, "/involvedObject/kind").to_lowercase();
        match string(event, "/involvedObject/name") {
            "" => kind.into(),
            name => format!("{kind}/{name}").into(),
        }
    }),
    wide("Subobject", Field("api.core.v1.ObjectReference.fieldPath"), |event, _| {
        plain(event, "/involvedObject/fieldPath")
    }),
    wide("Source", Field("api.core.v1.Event.source"), |event, _| event_source(event)),
    text("Message", Field("api.core.v1.Event.message"), |event, _| string(event, "/message").trim().into()),
    wide("First Seen", Field("api.core.v1.Event.firstTimestamp"), |event, now| since(first_seen(event), now).into()),
    wide("Count", Field("api.core.v1.Event.count"), |event, _| {
        let series = event["series"]["count"].as_i64();
        series.or_else(|| event["count"].as_i64().filter(|count| *count > 0)).unwrap_or(1).into()
    }),
    Column { priority: 1, ..NAME },
];

pub(super) const API_SERVICE: &[Column] = &[
    NAME,
    text("Service", Text("The reference to the service that hosts this API endpoint."), |service, _| {
        match service["spec"]["service"].is_object() {
            true => {
                let part = |pointer: &str| string(&service["spec"]["service"], pointer).to_owned();
                format!("{}/{}", part("/namespace"), part("/name")).into()
            }
            false => "Local".into(),
        }
    }),
    text("Available", Text("Whether this service is available."), |service, _| match condition(service, "Available") {
        Some(available) if available["status"] == "True" => "True".into(),
        Some(available) => format!("{} ({})", string(available, "/status"), string(available, "/reason")).into(),
        None => "Unknown".into(),
    }),
    AGE,
];

pub(super) const LEASE: &[Column] = &[
    NAME,
    text("Holder", Field("api.coordination.v1.LeaseSpec.holderIdentity"), |lease, _| {
        plain(lease, "/spec/holderIdentity")
    }),
    AGE,
];

pub(super) const RUNTIME_CLASS: &[Column] =
    &[NAME, text("Handler", Text(""), |class, _| plain(class, "/handler")), AGE];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    number("Value", Field("api.scheduling.v1.PriorityClass.value"), |class, _| count(class, "/value")),
    boolean("Global-Default", Field("api.scheduling.v1.PriorityClass.globalDefault"), |class, _| {
        truth(class, "/globalDefault", false)
    }),
    AGE,
    text("PreemptionPolicy", Field("api.scheduling.v1.PriorityClass.preemptionPolicy"), |class, _| {
        plain(class, "/preemptionPolicy")
    }),
];

pub(super) const FLOW_SCHEMA: &[Column] = &[
    NAME,
    text("PriorityLevel", Field("api.flowcontrol.v1.PriorityLevelConfigurationReference.name"), |schema, _| {
        plain(schema, "/spec/priorityLevelConfiguration/name")
    }),
    text("MatchingPrecedence", Field("api.flowcontrol.v1.FlowSchemaSpec.matchingPrecedence"), |schema, _| {
        count(schema, "/spec/matchingPrecedence")
    }),
    text("DistinguisherMethod", Field("api.flowcontrol.v1.FlowSchemaSpec.distinguisherMethod"), |schema, _| {
        or_none(schema, "/spec/distinguisherMethod/type")
    }),
    AGE,
    text("MissingPL", Text("references a broken or non-existent PriorityLevelConfiguration"), |schema, _| {
        condition(schema, "Dangling").map_or("?", |dangling| string(dangling, "/status")).into()
    }),
];

pub(super) const PRIORITY_LEVEL_CONFIGURATION: &[Column] = &[
    NAME,
    text("Type", Field("api.flowcontrol.v1.PriorityLevelConfigurationSpec.type"), |level, _| {
        plain(level, "/spec/type")
    }),
    text(
        "NominalConcurrencyShares",
        Field("api.flowcontrol.v1.LimitedPriorityLevelConfiguration.nominalConcurrencyShares"),
        |level, _| of_limited(level, "/spec/limited", "/nominalConcurrencyShares"),
    ),
    text("Queues", Field("api.flowcontrol.v1.QueuingConfiguration.queues"), |level, _| {
        of_limited(level, QUEUING, "/queues")
    }),
    text("HandSize", Field("api.flowcontrol.v1.QueuingConfiguration.handSize"), |level, _| {
        of_limited(level, QUEUING, "/handSize")
    }),
    text("QueueLengthLimit", Field("api.flowcontrol.v1.QueuingConfiguration.queueLengthLimit"), |level, _| {
        of_limited(level, QUEUING, "/queueLengthLimit")
    }),
    AGE,
];

const QUEUING: &str = "/spec/limited/limitResponse/queuing";

/// A number of a part that may not be there.
fn of_limited(level: &Value, part: &str, pointer: &str) -> Value {
    level.pointer(part).map_or_else(|| "<none>".into(), |part| count(part, pointer))
}

fn node_status(node: &Value) -> Value {
    let mut status = match condition(node, "Ready").map(|ready| ready["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

fn node_roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object();
    let role = |(label, value): (&'_ String, &'_ Value)| match label.strip_prefix("node-role.kubernetes.io/") {
        Some("") => None,
        Some(role) => Some(role.to_owned()),
        None if label == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()).map(str::to_owned),
        None => None,
    };
    let mut roles: Vec<String> = labels.into_iter().flatten().filter_map(role).collect();
    roles.sort();
    roles.dedup();
    joined_or_none(roles.iter().map(String::as_str))
}

fn node_address(node: &Value, kind: &str) -> Value {
    let address = list(node, "/status/addresses").iter().find(|address| address["type"] == kind);
    address.map_or("<none>", |address| string(address, "/address")).into()
}

fn health(component: &Value) -> Option<&Value> {
    list(component, "/conditions").iter().find(|condition| condition["type"] == "Healthy")
}

fn first_seen(event: &Value) -> Option<&str> {
    event["firstTimestamp"].as_str().or_else(|| event["eventTime"].as_str())
}

fn event_source(event: &Value) -> Value {
    let either = |first: &str, second: &str| match string(event, first) {
        "" => string(event, second).to_owned(),
        first => first.to_owned(),
    };
    let component = either("/source/component", "/reportingComponent");
    match &*either("/source/host", "/reportingInstance") {
        "" => component.into(),
        host => format!("{component}, {host}").into(),
    }
}
