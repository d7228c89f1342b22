//! Images of containers and volumes, with pull secrets and names that are none.

use super::*;

#[tokio::test]
async fn pull_secrets_are_tried_until_one_is_let_in_and_a_missing_one_is_told_of() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let config = |user: &str| {
        use base64::Engine;
        let json = json!({"auths": {"private.example": {"username": user, "password": "p"}}}).to_string();
        json!({".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(json)})
    };
    for (name, user) in [("one", "wrong"), ("two", "right")] {
        cluster
            .api
            .put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"},
            "type": "kubernetes.io/dockerconfigjson", "data": config(user)}));
    }
    cluster.pod(
        "web",
        json!({"imagePullSecrets": [{"name": "one"}, {"name": "two"}, {"name": "absent"}],
            "containers": [{"name": "c", "image": "private.example/app:1", "imagePullPolicy": "Always"}]}),
    );
    cluster.phase("web", "Running").await;
    let pulled = |user: &str| ("private.example/app:1".to_owned(), user.to_owned());
    assert_eq!(cluster.runtime.pulled(), [pulled("wrong"), pulled("right")]);
    let messages = |reason: &str| -> Vec<String> {
        let events = cluster.api.all().into_iter().filter(|event| event["reason"] == reason);
        events.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    };
    until("the pull is told of", || !messages("Pulled").is_empty()).await;
    let pulled = messages("Pulled").remove(0);
    assert!(pulled.starts_with("Successfully pulled image \"private.example/app:1\" in "), "{pulled}");
    assert!(pulled.ends_with(" including waiting). Image size: 7 bytes."), "{pulled}");
    until("the missing secret is told of", || !messages("FailedToRetrieveImagePullSecret").is_empty()).await;
    let missing = messages("FailedToRetrieveImagePullSecret").remove(0);
    assert!(missing.contains("(absent)"), "{missing}");
    kubelet.end().await;
}

/// Images of one tenant were another's for the asking, once they were on the node.
#[tokio::test]
async fn a_private_image_is_for_those_who_could_pull_it_also_after_a_restart() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let config = |user: &str| {
        use base64::Engine;
        let json = json!({"auths": {"private.example": {"username": user, "password": "p"}}}).to_string();
        json!({".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(json)})
    };
    for (name, user) in [("right", "right"), ("same", "right"), ("wrong", "wrong")] {
        let metadata = json!({"name": name, "namespace": "default", "uid": name});
        cluster.api.put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata,
            "type": "kubernetes.io/dockerconfigjson", "data": config(user)}));
    }
    let spec = |policy: &str, secret: &[&str]| {
        let secrets: Vec<_> = secret.iter().map(|name| json!({"name": name})).collect();
        json!({"imagePullSecrets": secrets,
            "containers": [{"name": "c", "image": "private.example/app:1", "imagePullPolicy": policy}]})
    };
    let waiting = |name: &str| cluster.get(name).unwrap()["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    cluster.pod("imported", spec("IfNotPresent", &[]));
    cluster.phase("imported", "Running").await;
    assert_eq!(cluster.runtime.pulled(), [], "it is there, and nobody pulled it");
    cluster.pod("pulls", spec("Always", &["right"]));
    cluster.phase("pulls", "Running").await;
    for (name, secret) in [("own", "right"), ("alike", "same")] {
        cluster.pod(name, spec("Never", &[secret]));
        cluster.phase(name, "Running").await;
    }
    assert_eq!(cluster.runtime.pulled().len(), 1);
    kubelet.end().await;
    let kubelet = cluster.start().await;
    cluster.pod("later", spec("IfNotPresent", &["same"]));
    cluster.phase("later", "Running").await;
    assert_eq!(cluster.runtime.pulled().len(), 1);
    cluster.pod("nobody", spec("IfNotPresent", &[]));
    cluster.pod("stranger", spec("IfNotPresent", &["wrong"]));
    cluster.pod("quiet", spec("Never", &[]));
    for name in ["nobody", "stranger"] {
        until("its pull fails", || waiting(name)["reason"] == "ImagePullBackOff").await;
    }
    until("it is not told that the image is there", || waiting("quiet")["reason"] == "ErrImageNeverPull").await;
    let message = "Container image \"private.example/app:1\" is not present with pull policy of Never";
    assert_eq!(waiting("quiet")["message"], message);
    let tried: Vec<String> = cluster.runtime.pulled().into_iter().skip(1).map(|(_, user)| user).collect();
    assert!(tried.contains(&String::new()) && tried.contains(&"wrong".to_owned()), "{tried:?}");
    kubelet.end().await;
}

#[tokio::test]
async fn a_name_that_is_none_and_a_policy_of_never_are_named() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    let spec =
        |image: &str, policy: &str| json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": policy}]});
    cluster.pod("invalid", spec("Not/An:Image!", "Always"));
    cluster.pod("never", spec("missing:1", "Never"));
    let waiting = |name: &str| cluster.get(name).unwrap()["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    until("the name is refused", || waiting("invalid")["reason"] == "InvalidImageName").await;
    let message = waiting("invalid")["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Failed to apply default image tag \"Not/An:Image!\""), "{message}");
    until("it is never pulled", || waiting("never")["reason"] == "ErrImageNeverPull").await;
    assert_eq!(waiting("never")["message"], "Container image \"missing:1\" is not present with pull policy of Never");
    assert_eq!(cluster.runtime.pulled(), []);
    kubelet.end().await;
}

#[tokio::test]
async fn an_image_is_a_volume_of_the_containers_that_mount_it() {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    cluster.pod(
        "web",
        json!({"containers": [
                {"name": "a", "image": "busybox:1", "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "inner"}]},
                {"name": "b", "image": "busybox:1"}],
            "volumes": [{"name": "data", "image": {"reference": "data.example/kitten:1", "pullPolicy": "Always"}}]}),
    );
    until("both containers are made", || cluster.runtime.configs().len() == 2).await;
    let configs = cluster.runtime.configs();
    let mounts = |name: &str| {
        let config = configs.iter().find(|config| config.metadata.as_ref().unwrap().name == name).unwrap();
        config.mounts.iter().filter(|mount| mount.image.is_some()).cloned().collect::<Vec<_>>()
    };
    let [mount] = mounts("a").try_into().unwrap();
    assert_eq!((mount.container_path.as_str(), mount.image_sub_path.as_str()), ("/data", "inner"));
    assert_eq!(mount.image.unwrap().user_specified_image, "data.example/kitten:1");
    assert!(mounts("b").is_empty());
    assert_eq!(cluster.runtime.pulled().len(), 1);
    // One that is not there keeps its container waiting, with the image's own reason.
    cluster.pod(
        "waits",
        json!({"containers": [{"name": "a", "image": "busybox:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "image": {"reference": "missing:1"}}]}),
    );
    let waiting =
        || cluster.get("waits").unwrap()["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    until("the pull backs off", || waiting() == "ImagePullBackOff").await;
    kubelet.end().await;
}
