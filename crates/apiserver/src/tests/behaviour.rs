//! Reads and writes: what upstream answers, by table where that is shorter.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, PODS, config_map, read};
use crate::authentication::UserInfo;

#[tokio::test]
async fn a_cluster_begins_with_what_every_cluster_has() {
    let cluster = Cluster::start().await;
    for path in [
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/default/services/kubernetes",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:basic-user",
    ] {
        assert_eq!(cluster.call(Method::GET, path, &Value::Null).await.0, StatusCode::OK, "{path}");
    }
    let slice = cluster.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.1");
    assert_eq!(cluster.get("/api/v1/namespaces/default/services/kubernetes").await["spec"]["clusterIP"], "10.43.0.1");
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let cluster = Cluster::start().await;
    let created = cluster.post(CONFIG_MAPS, config_map("a", json!({"k": "1"}))).await;
    let metadata = &created["metadata"];
    assert_eq!(metadata["creationTimestamp"], "2030-01-01T00:00:00Z");
    assert_eq!((metadata["namespace"].as_str(), metadata["uid"].as_str().map(str::len)), (Some("default"), Some(36)));
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(cluster.get(&path).await, created);

    let mut changed = created.clone();
    changed["data"]["k"] = "2".into();
    let (status, second) = cluster.call(Method::PUT, &path, &changed).await;
    assert_eq!((status, &second["data"]["k"]), (StatusCode::OK, &json!("2")));
    assert_ne!(second["metadata"]["resourceVersion"], metadata["resourceVersion"]);
    // The same change again is made from an old version.
    let (status, conflict) = cluster.call(Method::PUT, &path, &changed).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        conflict["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    // A change that changes nothing writes nothing.
    assert_eq!(cluster.call(Method::PUT, &path, &second).await.1, second);

    let (status, deleted) = cluster.call(Method::DELETE, &path, &Value::Null).await;
    assert_eq!(
        (status, &deleted["status"], &deleted["details"]["uid"]),
        (StatusCode::OK, &json!("Success"), &metadata["uid"])
    );
    let (status, missing) = cluster.call(Method::GET, &path, &Value::Null).await;
    assert_eq!((status, &missing["message"]), (StatusCode::NOT_FOUND, &json!("configmaps \"a\" not found")));
    assert_eq!(missing["details"], json!({"name": "a", "kind": "configmaps"}));
}

#[tokio::test]
async fn refusals_are_upstreams() {
    let cluster = Cluster::start().await;
    cluster.forget(2).await;
    cluster.post(CONFIG_MAPS, config_map("taken", json!({}))).await;
    let big = "x".repeat(4 << 20);
    let table = [
        (
            Method::POST,
            CONFIG_MAPS.to_owned(),
            config_map("taken", json!({})),
            409,
            "configmaps \"taken\" already exists",
        ),
        (
            Method::POST,
            CONFIG_MAPS.to_owned(),
            json!({"metadata": {}}),
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            Method::POST,
            CONFIG_MAPS.to_owned(),
            json!({"kind": "Secret", "metadata": {"name": "a"}}),
            400,
            "the kind in the data (Secret) does not match the expected kind (ConfigMap)",
        ),
        (
            Method::POST,
            CONFIG_MAPS.to_owned(),
            json!({"metadata": {"name": "a", "namespace": "other"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            Method::POST,
            CONFIG_MAPS.to_owned(),
            config_map("a", json!({"k": big})),
            413,
            "Request entity too large: limit is 3145728",
        ),
        (
            Method::PUT,
            format!("{CONFIG_MAPS}/none"),
            config_map("none", json!({})),
            404,
            "configmaps \"none\" not found",
        ),
        (
            Method::PUT,
            format!("{CONFIG_MAPS}/taken"),
            config_map("other", json!({})),
            400,
            "the name of the object (other) does not match the name on the URL (taken)",
        ),
        (
            Method::GET,
            "/api/v1/nonsense".to_owned(),
            Value::Null,
            404,
            "the server could not find the requested resource",
        ),
        (
            Method::POST,
            format!("{CONFIG_MAPS}/taken"),
            config_map("taken", json!({})),
            405,
            "the server does not allow this method on the requested resource",
        ),
        (
            Method::GET,
            format!("{CONFIG_MAPS}?fieldSelector=data%3D1"),
            Value::Null,
            400,
            "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            Method::GET,
            format!("{CONFIG_MAPS}?resourceVersion=1&resourceVersionMatch=Exact"),
            Value::Null,
            410,
            "The resourceVersion for the provided list is too old.",
        ),
    ];
    for (method, uri, body, code, message) in table {
        let (status, answer) = cluster.call(method, &uri, &body).await;
        assert_eq!((status.as_u16(), answer["message"].as_str()), (code, Some(message)), "{uri}");
        assert_eq!((&answer["kind"], answer["code"].as_u64()), (&json!("Status"), Some(u64::from(code))));
    }
}

#[tokio::test]
async fn names_are_generated() {
    let cluster = Cluster::start().await;
    let first = cluster.post(CONFIG_MAPS, json!({"metadata": {"generateName": "job-"}})).await;
    let second = cluster.post(CONFIG_MAPS, json!({"metadata": {"generateName": "job-"}})).await;
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("job-") && name.len() == 9, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[tokio::test]
async fn patches_of_all_kinds_apply() {
    let cluster = Cluster::start().await;
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "1"}}, "spec": {"containers": [
        {"name": "x", "image": "one"}, {"name": "y", "image": "two"}]}});
    cluster.post(PODS, pod).await;
    let path = format!("{PODS}/p");
    let table = [
        (
            "application/merge-patch+json",
            json!({"metadata": {"labels": {"a": null, "b": "2"}}}),
            "/metadata/labels",
            json!({"b": "2"}),
        ),
        (
            "application/json-patch+json",
            json!([{"op": "replace", "path": "/metadata/labels/b", "value": "3"}]),
            "/metadata/labels",
            json!({"b": "3"}),
        ),
        (
            "application/strategic-merge-patch+json",
            json!({"spec": {"containers": [{"name": "y", "image": "new"}]}}),
            "/spec/containers/0/image",
            json!("one"),
        ),
    ];
    for (kind, patch, pointer, expected) in table {
        let (status, changed) = cluster.call_as(Method::PATCH, &path, kind, &patch).await;
        assert_eq!((status, changed.pointer(pointer)), (StatusCode::OK, Some(&expected)), "{kind}: {changed}");
    }
    assert_eq!(cluster.get(&path).await["spec"]["containers"][1]["image"], "new");
    let (status, _) = cluster.call_as(Method::PATCH, &path, "application/odd-patch", &json!({})).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    // A patch that names a version is for that one only.
    let patch = json!({"metadata": {"resourceVersion": "1", "labels": {"c": "1"}}});
    assert_eq!(cluster.call(Method::PATCH, &path, &patch).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn concurrent_patches_all_apply() {
    let cluster = Cluster::start().await;
    cluster.post(CONFIG_MAPS, config_map("a", json!({}))).await;
    let path = format!("{CONFIG_MAPS}/a");
    let patches = (0..40).map(|at| {
        let (cluster, path) = (&cluster, &path);
        async move { cluster.call(Method::PATCH, path, &json!({"data": {format!("k{at}"): "v"}})).await.0 }
    });
    let statuses = futures::future::join_all(patches).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    assert_eq!(cluster.get(&path).await["data"].as_object().unwrap().len(), 40);
}

#[tokio::test]
async fn pages_show_one_moment() {
    let cluster = Cluster::start().await;
    let collection = "/api/v1/namespaces/kube-node-lease/configmaps";
    for at in 0..5 {
        cluster.post(collection, config_map(&format!("c{at}"), json!({}))).await;
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = cluster.get(&format!("{collection}?limit=2")).await;
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["c0".to_owned(), "c1".to_owned()], &json!(3))
    );
    // What happens between the pages is not in them.
    cluster.call(Method::DELETE, &format!("{collection}/c2"), &Value::Null).await;
    cluster.post(collection, config_map("c2x", json!({}))).await;
    cluster.call(Method::PATCH, &format!("{collection}/c3"), &json!({"data": {"changed": "yes"}})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = cluster.get(&format!("{collection}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["c2", "c3"]);
    assert_eq!(
        (&second["items"][1]["data"], &second["metadata"]["resourceVersion"]),
        (&Value::Null, &first["metadata"]["resourceVersion"])
    );
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = cluster.get(&format!("{collection}?limit=2&continue={token}")).await;
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["c4".to_owned()], None));
    let now = cluster.get(collection).await;
    assert_eq!(names(&now), ["c0", "c1", "c2x", "c3", "c4"]);
}

#[tokio::test]
async fn selectors_choose() {
    let cluster = Cluster::start().await;
    let collection = "/api/v1/namespaces/kube-public/pods";
    for (name, tier, node) in [("a", "web", "n1"), ("b", "web", "n2"), ("c", "db", "n1")] {
        let spec = json!({"nodeName": node, "containers": [{"name": "x", "image": "i"}]});
        cluster.post(collection, json!({"metadata": {"name": name, "labels": {"tier": tier}}, "spec": spec})).await;
    }
    let table = [
        ("labelSelector=tier%3Dweb", "a b"),
        ("labelSelector=tier+notin+(web)", "c"),
        ("fieldSelector=spec.nodeName%3Dn1", "a c"),
        ("fieldSelector=spec.nodeName!%3Dn1", "b"),
        ("fieldSelector=metadata.name%3Db", "b"),
        ("fieldSelector=spec.nodeName%3Dn1&labelSelector=tier%3Ddb", "c"),
    ];
    for (query, expected) in table {
        let list = cluster.get(&format!("{collection}?{query}")).await;
        let names: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names.join(" "), expected, "{query}");
    }
}

#[tokio::test]
async fn finalizers_and_grace_hold_back_deletion() {
    let cluster = Cluster::start().await;
    let mut map = config_map("held", json!({}));
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(CONFIG_MAPS, map).await;
    let path = format!("{CONFIG_MAPS}/held");
    let (status, marked) = cluster.call(Method::DELETE, &path, &Value::Null).await;
    assert_eq!((status, &marked["metadata"]["deletionTimestamp"]), (StatusCode::OK, &json!("2030-01-01T00:00:00Z")));
    let (status, refused) = cluster
        .call(Method::PATCH, &path, &json!({"metadata": {"finalizers": ["example.com/hold", "x.io/new"]}}))
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    cluster.call(Method::PATCH, &path, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(cluster.call(Method::GET, &path, &Value::Null).await.0, StatusCode::NOT_FOUND);

    // Dependents are to go first.
    cluster.post(CONFIG_MAPS, config_map("owner", json!({}))).await;
    let path = format!("{CONFIG_MAPS}/owner?propagationPolicy=Foreground");
    let (_, marked) = cluster.call(Method::DELETE, &path, &Value::Null).await;
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    // A deletion may be for one object of that name only.
    let options = json!({"preconditions": {"uid": "another"}});
    assert_eq!(cluster.call(Method::DELETE, &format!("{CONFIG_MAPS}/owner"), &options).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn pods_are_bound_once_and_given_time_to_end() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "x", "image": "i"}]}})).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let path = format!("{PODS}/p");
    assert_eq!(cluster.call(Method::POST, &format!("{path}/binding"), &binding).await.0, StatusCode::CREATED);
    let pod = cluster.get(&path).await;
    assert_eq!(
        (&pod["spec"]["nodeName"], &pod["status"]["conditions"][0]["type"]),
        (&json!("n1"), &json!("PodScheduled"))
    );
    let (status, conflict) = cluster.call(Method::POST, &format!("{path}/binding"), &binding).await;
    assert_eq!(
        (status, &conflict["message"]),
        (
            StatusCode::CONFLICT,
            &json!("Operation cannot be fulfilled on pods \"p\": pod p is already assigned to node \"n1\"")
        )
    );

    let (_, going) = cluster.call(Method::DELETE, &path, &Value::Null).await;
    assert_eq!(
        (&going["metadata"]["deletionTimestamp"], &going["metadata"]["deletionGracePeriodSeconds"]),
        (&json!("2030-01-01T00:00:30Z"), &json!(30))
    );
    cluster.call(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), &Value::Null).await;
    assert_eq!(cluster.call(Method::GET, &path, &Value::Null).await.0, StatusCode::NOT_FOUND);
    // Nothing runs of a pod without a node.
    cluster.post(PODS, json!({"metadata": {"name": "q"}, "spec": {"containers": [{"name": "x", "image": "i"}]}})).await;
    cluster.call(Method::DELETE, &format!("{PODS}/q"), &Value::Null).await;
    assert_eq!(cluster.call(Method::GET, &format!("{PODS}/q"), &Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "short"}})).await;
    let path = "/api/v1/namespaces/short";
    cluster.call(Method::DELETE, path, &Value::Null).await;
    let mut ending = cluster.get(path).await;
    assert_eq!(ending["status"]["phase"], "Terminating");
    let (status, refused) =
        cluster.call(Method::POST, &format!("{path}/configmaps"), &config_map("late", json!({}))).await;
    assert_eq!((status, &refused["reason"]), (StatusCode::FORBIDDEN, &json!("Forbidden")));
    ending["spec"]["finalizers"] = json!([]);
    let (status, answer) = cluster.call(Method::PUT, &format!("{path}/finalize"), &ending).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(cluster.call(Method::GET, path, &Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn status_and_scale_are_apart_from_the_spec() {
    let cluster = Cluster::start().await;
    let collection = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "web"});
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.post(collection, deployment).await;
    let path = format!("{collection}/web");
    let status = json!({"status": {"replicas": 2, "observedGeneration": 1}, "spec": {"replicas": 9}});
    cluster.call(Method::PATCH, &format!("{path}/status"), &status).await;
    let seen = cluster.get(&path).await;
    assert_eq!((&seen["status"]["replicas"], &seen["spec"]["replicas"]), (&json!(2), &json!(2)));
    cluster.call(Method::PATCH, &path, &json!({"status": {"replicas": 7}})).await;
    assert_eq!(cluster.get(&path).await["status"]["replicas"], 2);

    let scale = cluster.get(&format!("{path}/scale")).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!(2), &json!("app=web"))
    );
    let (_, scaled) = cluster.call(Method::PATCH, &format!("{path}/scale"), &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(scaled["spec"]["replicas"], 5);
    assert_eq!(cluster.get(&path).await["spec"]["replicas"], 5);
}

#[tokio::test]
async fn dry_runs_store_nothing_and_unknown_fields_are_told() {
    let cluster = Cluster::start().await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    cluster.post(&dry, config_map("a", json!({}))).await;
    assert_eq!(cluster.call(Method::GET, &format!("{CONFIG_MAPS}/a"), &Value::Null).await.0, StatusCode::NOT_FOUND);
    let mut odd = config_map("b", json!({}));
    odd["colour"] = "blue".into();
    let (status, error) = cluster.call(Method::POST, &format!("{CONFIG_MAPS}?fieldValidation=Strict"), &odd).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error["message"].as_str().unwrap().contains("unknown field \"colour\""), "{error}");
    let request = Request::post(CONFIG_MAPS).body(Bytes::from(odd.to_string())).unwrap();
    let response = cluster.send(request).await;
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"colour\\\"\"");
    let stored: Value = serde_json::from_slice(&read(response.into_body()).await).unwrap();
    assert_eq!(stored.get("colour"), None);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let cluster = Cluster::start().await;
    for (name, keep) in [("a", "no"), ("b", "no"), ("c", "yes")] {
        let mut map = config_map(name, json!({}));
        map["metadata"]["labels"] = json!({"keep": keep});
        cluster.post("/api/v1/namespaces/kube-node-lease/configmaps", map).await;
    }
    let uri = "/api/v1/namespaces/kube-node-lease/configmaps";
    let (status, deleted) = cluster.call(Method::DELETE, &format!("{uri}?labelSelector=keep%3Dno"), &Value::Null).await;
    assert_eq!((status, deleted["items"].as_array().unwrap().len()), (StatusCode::OK, 2));
    assert_eq!(cluster.get(uri).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn answers_come_in_the_form_that_is_asked_for() {
    let cluster = Cluster::start().await;
    let ask = async |uri: &str, accept: &str| {
        let response = cluster.send(Request::get(uri).header("accept", accept).body(Bytes::new()).unwrap()).await;
        String::from_utf8(read(response.into_body()).await.to_vec()).unwrap()
    };
    let table: Value =
        serde_json::from_str(&ask("/api/v1/namespaces", "application/json;as=Table;v=v1;g=meta.k8s.io").await).unwrap();
    assert_eq!((&table["kind"], &table["columnDefinitions"][1]["name"]), (&json!("Table"), &json!("Status")));
    assert_eq!(table["rows"][0]["cells"][0], "default");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    // `kubectl get --sort-by` found no fields to sort by, and so printed nothing, while rows held metadata only.
    for (include, kind) in [("Object", json!("Namespace")), ("None", Value::Null)] {
        let uri = format!("/api/v1/namespaces?includeObject={include}");
        let table: Value =
            serde_json::from_str(&ask(&uri, "application/json;as=Table;v=v1;g=meta.k8s.io").await).unwrap();
        assert_eq!(table["rows"][0]["object"]["kind"], kind, "{include}");
    }
    let partial: Value = serde_json::from_str(
        &ask("/api/v1/namespaces/default", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await,
    )
    .unwrap();
    assert_eq!((&partial["kind"], partial.get("spec")), (&json!("PartialObjectMetadata"), None));
    assert!(ask("/api/v1/namespaces/default", "application/yaml").await.contains("kind: Namespace\n"));
}

/// Typed clients, `kubectl create` among them, send nothing else.
#[tokio::test]
async fn bodies_come_as_protobuf_too() {
    fn field(tag: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let bytes = bytes.as_ref();
        [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }
    fn body(version: &str, kind: &str, raw: Vec<u8>) -> Bytes {
        let meta = [field(1, version), field(2, kind)].concat();
        [&b"k8s\0"[..], &field(1, meta), &field(2, raw), &field(3, ""), &field(4, "")].concat().into()
    }
    let cluster = Cluster::start().await;
    let send = async |method: Method, uri: &str, body: Bytes| {
        let protobuf = "application/vnd.kubernetes.protobuf";
        let request = Request::builder().method(method).uri(uri).header("content-type", protobuf);
        let request = request.header("accept", format!("{protobuf},application/json")).body(body).unwrap();
        let response = cluster.send(request).await;
        let status = response.status();
        (status, api::protobuf::decode(&read(response.into_body()).await).unwrap().2)
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| {
        [field(1, [field(1, name), field(8, "")].concat()), field(2, [field(1, "k"), field(2, "v")].concat())]
    };
    let (status, made) = send(Method::POST, maps, body("v1", "ConfigMap", map("x").concat())).await;
    assert_eq!((status, &made["data"]), (StatusCode::CREATED, &json!({"k": "v"})), "{made}");
    let (status, error) = send(Method::POST, maps, body("v1", "Secret", map("y").concat())).await;
    assert_eq!((status, &error["reason"]), (StatusCode::BAD_REQUEST, &json!("BadRequest")), "{error}");
    let (status, error) = send(Method::POST, maps, Bytes::from_static(b"{}")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
    let (status, token) = send(
        Method::POST,
        "/api/v1/namespaces/default/serviceaccounts/default/token",
        body(
            "authentication.k8s.io/v1",
            "TokenRequest",
            field(2, [&field(1, "aud")[..], &[4 << 3, 0x90, 0x1c]].concat()),
        ),
    )
    .await;
    assert_eq!((status, &token["spec"]["expirationSeconds"]), (StatusCode::CREATED, &json!(3600)), "{token}");
    let other_uid = body("v1", "DeleteOptions", field(2, field(1, "another")));
    let (status, error) = send(Method::DELETE, &format!("{maps}/x"), other_uid).await;
    assert_eq!(status, StatusCode::CONFLICT, "{error}");
    let (status, _) =
        send(Method::DELETE, &format!("{maps}/x"), body("v1", "DeleteOptions", field(4, "Background"))).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn discovery_names_what_is_served() {
    let cluster = Cluster::start().await;
    let groups = cluster.get("/apis").await;
    let names: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"apps") && names.contains(&"rbac.authorization.k8s.io"), "{names:?}");
    let core = cluster.get("/api/v1").await;
    let pods = core["resources"].as_array().unwrap().iter().find(|row| row["name"] == "pods").unwrap();
    assert_eq!((&pods["kind"], &pods["shortNames"]), (&json!("Pod"), &json!(["po"])));
    assert_eq!(cluster.get("/version").await["minor"], "36");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let request = |etag: &str| {
        let builder = Request::get("/apis").header("accept", accept).header("if-none-match", etag);
        builder.body(Bytes::new()).unwrap()
    };
    let response = cluster.send(request("none")).await;
    let etag = response.headers()["etag"].to_str().unwrap().to_owned();
    let aggregated: Value = serde_json::from_slice(&read(response.into_body()).await).unwrap();
    assert_eq!(aggregated["kind"], "APIGroupDiscoveryList");
    assert_eq!(cluster.send(request(&etag)).await.status(), StatusCode::NOT_MODIFIED);
    let v3 = cluster.get("/openapi/v3").await;
    assert!(v3["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().contains("hash="));
    assert_eq!(cluster.get("/openapi/v2").await["swagger"], "2.0");
}

#[tokio::test]
async fn nobody_does_what_they_may_not() {
    let cluster = Cluster::start().await;
    let other = cluster.server.transport(UserInfo::new("mallory", &[]));
    let response =
        other.send(Request::get("/api/v1/namespaces/default/secrets").body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let status: Value = serde_json::from_slice(&read(response.into_body()).await).unwrap();
    assert_eq!(
        status["message"],
        "secrets is forbidden: User \"mallory\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    // An administrator who acts as somebody may do only what that one may.
    let request = Request::get("/api/v1/nodes").header("impersonate-user", "mallory").body(Bytes::new()).unwrap();
    assert_eq!(cluster.send(request).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn both_groups_show_the_same_events() {
    let cluster = Cluster::start().await;
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "hello",
        "reason": "Why", "type": "Normal", "reportingController": "c", "reportingInstance": "i", "action": "a", "eventTime": "2030-01-01T00:00:00.000000Z"});
    cluster.post("/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let old = cluster.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp").await;
    assert_eq!((&old["items"][0]["message"], &old["apiVersion"]), (&json!("hello"), &json!("v1")));
    let new = cluster.get("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp").await;
    assert_eq!((&new["items"][0]["note"], &new["kind"]), (&json!("hello"), &json!("EventList")));
}

#[tokio::test]
async fn a_list_says_the_kind_of_its_items_once() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.post(CONFIG_MAPS, config_map(name, json!({"k": name}))).await;
    }
    let uri = format!("{CONFIG_MAPS}?labelSelector=!other");
    for list in [cluster.get(&uri).await, cluster.get(&format!("{uri}&pretty=true")).await] {
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
        for (item, name) in list["items"].as_array().expect("items").iter().zip(["a", "b"]) {
            assert!(item.get("kind").is_none() && item.get("apiVersion").is_none(), "{item}");
            assert_eq!((&item["metadata"]["name"], &item["data"]["k"]), (&json!(name), &json!(name)));
        }
    }
}

#[tokio::test]
async fn component_statuses_are_found_out_and_deprecated() {
    let cluster = Cluster::start().await;
    let uri = "/api/v1/componentstatuses";
    let list = cluster.get(uri).await;
    assert_eq!((&list["kind"], &list["metadata"]), (&json!("ComponentStatusList"), &json!({})));
    let of = |index: usize| (&list["items"][index]["metadata"]["name"], &list["items"][index]["conditions"]);
    let healthy = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
    assert_eq!(of(0), (&json!("etcd-0"), &healthy));
    let stopped = json!([{"type": "Healthy", "status": "False", "message": "the component does not run"}]);
    assert_eq!(of(1), (&json!("scheduler"), &stopped));
    assert_eq!(cluster.get(&format!("{uri}/etcd-0")).await["conditions"], healthy);
    let selected = cluster.get(&format!("{uri}?fieldSelector=metadata.name%3Dscheduler")).await;
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(1));
    let (code, status) = cluster.call(Method::GET, &format!("{uri}/dns"), &Value::Null).await;
    assert_eq!((code.as_u16(), &status["message"]), (404, &json!(r#"componentstatus "dns" not found"#)));
    let (code, _) = cluster.call(Method::DELETE, &format!("{uri}/etcd-0"), &Value::Null).await;
    assert_eq!(code.as_u16(), 405);
    for (uri, warning) in [
        (uri, "v1 ComponentStatus is deprecated in v1.19+"),
        ("/api/v1/endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ] {
        let request = Request::get(uri).body(Bytes::new()).unwrap();
        assert_eq!(cluster.send(request).await.headers()["warning"], format!("299 - \"{warning}\""));
    }
}

/// A malformed address was told of as one that could not be given, under the path of the list.
#[tokio::test]
async fn malformed_addresses_are_refused_before_any_is_given() {
    let cluster = Cluster::start().await;
    type Row = (Value, &'static str);
    let table: [Row; 6] = [
        (
            json!({"clusterIP": "10.0"}),
            r#"spec.clusterIPs[0]: Invalid value: "10.0": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
        ),
        (
            json!({"clusterIPs": ["None", "10.43.0.5"], "clusterIP": "None"}),
            r#"spec.clusterIPs: Invalid value: ["None","10.43.0.5"]: 'None' must be the first and only value"#,
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            r#"spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster"#,
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#,
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"#,
        ),
    ];
    for (mut spec, complaint) in table {
        spec["ports"] = json!([{"port": 80}]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec});
        let (code, status) = cluster.call(Method::POST, "/api/v1/namespaces/default/services", &service).await;
        let message = format!(r#"Service "s" is invalid: {complaint}"#);
        assert_eq!((code.as_u16(), &status["message"]), (422, &json!(message)));
    }
    let own = json!({"metadata": {"name": "own"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    let made = cluster.post("/api/v1/namespaces/default/services", own).await;
    assert_eq!(made["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

/// Addresses, families and policy of a service.
fn addresses_of(service: &Value) -> (Vec<&str>, Vec<&str>, &str) {
    let texts =
        |field: &str| service["spec"][field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    (texts("clusterIPs"), texts("ipFamilies"), service["spec"]["ipFamilyPolicy"].as_str().unwrap())
}

#[tokio::test]
async fn services_have_addresses_of_the_families_that_they_ask_for() {
    let cluster = Cluster::of_two_families().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, mut spec: Value| {
        spec["ports"] = json!([{"port": 80}]);
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    };
    type Row = (&'static str, Value, &'static [&'static str], &'static [&'static str], &'static str);
    let table: [Row; 7] = [
        ("plain", json!({}), &["10.43."], &["IPv4"], "SingleStack"),
        ("six", json!({"ipFamilies": ["IPv6"]}), &["fd43::"], &["IPv6"], "SingleStack"),
        (
            "both",
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            &["10.43.", "fd43::"],
            &["IPv4", "IPv6"],
            "PreferDualStack",
        ),
        (
            "six-first",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
            &["fd43::", "10.43."],
            &["IPv6", "IPv4"],
            "RequireDualStack",
        ),
        (
            "named",
            json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.43.0.50", "fd43::50"]}),
            &["10.43.0.50", "fd43::50"],
            &["IPv4", "IPv6"],
            "RequireDualStack",
        ),
        (
            "half-named",
            json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "fd43::51"}),
            &["fd43::51", "10.43."],
            &["IPv6", "IPv4"],
            "PreferDualStack",
        ),
        (
            "headless",
            json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "None", "selector": {"a": "b"}}),
            &["None"],
            &["IPv4", "IPv6"],
            "PreferDualStack",
        ),
    ];
    for (name, spec, addresses, families, policy) in table {
        let made = cluster.post(services, service(name, spec)).await;
        let seen = addresses_of(&made);
        assert_eq!((&*seen.1, seen.2), (families, policy), "{name}");
        assert!(seen.0.len() == addresses.len(), "{name}: {seen:?}");
        assert!(seen.0.iter().zip(addresses).all(|(ip, prefix)| ip.starts_with(prefix)), "{name}: {seen:?}");
        assert_eq!(made["spec"]["clusterIP"], seen.0[0], "{name}");
    }
    let taken = json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.43.0.60", "fd43::50"]});
    let (code, status) = cluster.call(Method::POST, services, &service("taken", taken)).await;
    let message = r#"Service "taken" is invalid: spec.clusterIPs: Invalid value: ["fd43::50"]: failed to allocate IP fd43::50: provided IP is already allocated"#;
    assert_eq!((code.as_u16(), &status["message"]), (422, &json!(message)));
    // What was taken before the refusal is given back.
    cluster.post(services, service("again", json!({"clusterIP": "10.43.0.60"}))).await;

    // A service becomes one of two families, keeps its first address, and gives the second back.
    let plain = format!("{services}/plain");
    let first = addresses_of(&cluster.get(&plain).await).0[0].to_owned();
    let two = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let (code, now) = cluster.call(Method::PATCH, &plain, &two).await;
    let seen = addresses_of(&now);
    assert_eq!((code, seen.0[0], &*seen.1), (StatusCode::OK, &*first, &["IPv4", "IPv6"][..]));
    let second = seen.0[1].to_owned();
    let one = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    let (code, now) = cluster.call(Method::PATCH, &plain, &one).await;
    assert_eq!((code, addresses_of(&now)), (StatusCode::OK, (vec![&*first], vec!["IPv4"], "SingleStack")));
    let other = cluster.post(services, service("other", json!({"clusterIP": second}))).await;
    assert_eq!(other["spec"]["clusterIPs"], json!([second]));
}
