//! Every kind that can be listed has upstream's columns, each of which says what it is.

use expect_test::expect;

use super::*;

fn listed() -> impl Iterator<Item = &'static Resource> {
    resources::RESOURCES.iter().copied().filter(|row| row.serves(api::Verb::List))
}

#[test]
fn every_kind_has_upstreams_columns() {
    let mut seen = String::new();
    for row in listed() {
        let served = Served::plain(row);
        let table = of_object(&served, RowObject::Nothing, &json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH);
        let columns = table["columnDefinitions"].as_array().unwrap();
        assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns.len(), "{}", row.plural);
        let name = |column: &Value| column["name"].as_str().unwrap().to_owned();
        let (always, wide): (Vec<&Value>, Vec<&Value>) = columns.iter().partition(|column| column["priority"] == 0);
        let names = |columns: Vec<&Value>| columns.into_iter().map(name).collect::<Vec<_>>().join(", ");
        let wide = if wide.is_empty() { String::new() } else { format!(" | {}", names(wide)) };
        seen.push_str(&format!("{} {}: {}{wide}\n", row.api_version(), row.plural, names(always)));
    }
    expect![[r#"
        v1 componentstatuses: Name, Status, Message, Error
        v1 configmaps: Name, Data, Age
        v1 endpoints: Name, Endpoints, Age
        v1 events: Last Seen, Type, Reason, Object, Message | Subobject, Source, First Seen, Count, Name
        v1 limitranges: Name, Created At
        v1 namespaces: Name, Status, Age
        v1 nodes: Name, Status, Roles, Age, Version | Internal-IP, External-IP, OS-Image, Kernel-Version, Container-Runtime
        v1 persistentvolumeclaims: Name, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age | VolumeMode
        v1 persistentvolumes: Name, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, Age | VolumeMode
        v1 pods: Name, Ready, Status, Restarts, Age | IP, Node, Nominated Node, Readiness Gates
        v1 podtemplates: Name, Containers, Images, Pod Labels
        v1 replicationcontrollers: Name, Desired, Current, Ready, Age | Containers, Images, Selector
        v1 resourcequotas: Name, Request, Limit, Age
        v1 secrets: Name, Type, Data, Age
        v1 serviceaccounts: Name, Age
        v1 services: Name, Type, Cluster-IP, External-IP, Port(s), Age | Selector
        apiregistration.k8s.io/v1 apiservices: Name, Service, Available, Age
        apps/v1 controllerrevisions: Name, Controller, Revision, Age
        apps/v1 daemonsets: Name, Desired, Current, Ready, Up-to-date, Available, Node Selector, Age | Containers, Images, Selector
        apps/v1 deployments: Name, Ready, Up-to-date, Available, Age | Containers, Images, Selector
        apps/v1 replicasets: Name, Desired, Current, Ready, Age | Containers, Images, Selector
        apps/v1 statefulsets: Name, Ready, Age | Containers, Images
        events.k8s.io/v1 events: Last Seen, Type, Reason, Object, Message | Subobject, Source, First Seen, Count, Name
        autoscaling/v2 horizontalpodautoscalers: Name, Reference, Targets, MinPods, MaxPods, Replicas, Age
        autoscaling/v1 horizontalpodautoscalers: Name, Reference, Targets, MinPods, MaxPods, Replicas, Age
        batch/v1 cronjobs: Name, Schedule, Timezone, Suspend, Active, Last Schedule, Age | Containers, Images, Selector
        batch/v1 jobs: Name, Status, Completions, Duration, Age | Containers, Images, Selector
        certificates.k8s.io/v1 certificatesigningrequests: Name, Age, SignerName, Requestor, RequestedDuration, Condition
        networking.k8s.io/v1 ingressclasses: Name, Controller, Parameters, Age
        networking.k8s.io/v1 ingresses: Name, Class, Hosts, Address, Ports, Age
        networking.k8s.io/v1 ipaddresses: Name, ParentRef
        networking.k8s.io/v1 networkpolicies: Name, Pod-Selector, Age
        networking.k8s.io/v1 servicecidrs: Name, CIDRs, Age
        policy/v1 poddisruptionbudgets: Name, Min Available, Max Unavailable, Allowed Disruptions, Age
        rbac.authorization.k8s.io/v1 clusterrolebindings: Name, Role, Age | Users, Groups, ServiceAccounts
        rbac.authorization.k8s.io/v1 clusterroles: Name, Created At
        rbac.authorization.k8s.io/v1 rolebindings: Name, Role, Age | Users, Groups, ServiceAccounts
        rbac.authorization.k8s.io/v1 roles: Name, Created At
        storage.k8s.io/v1 csidrivers: Name, AttachRequired, PodInfoOnMount, StorageCapacity, TokenRequests, RequiresRepublish, Modes, Age
        storage.k8s.io/v1 csinodes: Name, Drivers, Age
        storage.k8s.io/v1 csistoragecapacities: Name, StorageClassName, Capacity
        storage.k8s.io/v1 storageclasses: Name, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age
        storage.k8s.io/v1 volumeattachments: Name, Attacher, PV, Node, Attached, Age
        storage.k8s.io/v1 volumeattributesclasses: Name, DriverName, Age
        admissionregistration.k8s.io/v1 mutatingadmissionpolicies: Name, Mutations, ParamKind, Age
        admissionregistration.k8s.io/v1 mutatingadmissionpolicybindings: Name, PolicyName, ParamRef, Age
        admissionregistration.k8s.io/v1 mutatingwebhookconfigurations: Name, Webhooks, Age
        admissionregistration.k8s.io/v1 validatingadmissionpolicies: Name, Validations, ParamKind, Age
        admissionregistration.k8s.io/v1 validatingadmissionpolicybindings: Name, PolicyName, ParamRef, Age
        admissionregistration.k8s.io/v1 validatingwebhookconfigurations: Name, Webhooks, Age
        apiextensions.k8s.io/v1 customresourcedefinitions: Name, Created At
        scheduling.k8s.io/v1 priorityclasses: Name, Value, Global-Default, Age, PreemptionPolicy
        coordination.k8s.io/v1 leases: Name, Holder, Age
        node.k8s.io/v1 runtimeclasses: Name, Handler, Age
        discovery.k8s.io/v1 endpointslices: Name, AddressType, Ports, Endpoints, Age
        resource.k8s.io/v1 deviceclasses: Name, Age
        resource.k8s.io/v1 resourceclaims: Name, State, Age
        resource.k8s.io/v1 resourceclaimtemplates: Name, Age
        resource.k8s.io/v1 resourceslices: Name, Node, Driver, Pool, Age
        flowcontrol.apiserver.k8s.io/v1 flowschemas: Name, PriorityLevel, MatchingPrecedence, DistinguisherMethod, Age, MissingPL
        flowcontrol.apiserver.k8s.io/v1 prioritylevelconfigurations: Name, Type, NominalConcurrencyShares, Queues, HandSize, QueueLengthLimit, Age
    "#]].assert_eq(&seen);
}

#[test]
fn every_column_says_what_it_is() {
    for row in listed() {
        let served = Served::plain(row);
        for definition in definitions(&served.stored, columns(&served.stored)) {
            // Upstream says nothing of this one.
            let silent = definition["name"] == "Handler";
            assert_eq!(definition["description"] == "", silent, "{} {definition}", row.plural);
        }
    }
}

#[test]
fn other_forms_show_the_same_cells() {
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 3, "metrics": [metric]}});
    let now = Timestamp::UNIX_EPOCH;
    let cells = |resource: &'static Resource, object: &Value| {
        of_object(&Served::plain(resource), RowObject::Nothing, object, now)["rows"][0]["cells"].clone()
    };
    let served = Served::plain(resources::HORIZONTAL_POD_AUTOSCALERS_V1);
    let first = conversion::from_stored(&served, scaler.clone());
    let expected = cells(resources::HORIZONTAL_POD_AUTOSCALERS, &scaler);
    assert_eq!(expected, json!(["x", "Deployment/web", "cpu: <unknown>/50%", "<unset>", 3, 0, "<unknown>"]));
    assert_eq!(cells(resources::HORIZONTAL_POD_AUTOSCALERS_V1, &first), expected);
}

#[test]
fn a_row_holds_what_is_asked_for() {
    let pod = json!({"metadata": {"name": "x"}, "spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"}});
    let row = |rows: RowObject| {
        of_object(&Served::plain(resources::PODS), rows, &pod, Timestamp::UNIX_EPOCH)["rows"][0].clone()
    };
    assert_eq!(row(RowObject::Whole)["object"], pod);
    assert_eq!(row(RowObject::Metadata)["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row(RowObject::Nothing)["object"], Value::Null);
    assert_eq!(row(RowObject::Nothing)["conditions"][0]["reason"], "Succeeded");
}
