//! Pods from files, and the mirror pods that show them.

use super::*;

const FILE: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: 'busybox:1'}]\n";

impl Cluster {
    fn with_manifests() -> Self {
        let mut cluster = Self::new();
        let folder = cluster.dir.path().join("manifests");
        std::fs::create_dir(&folder).unwrap();
        cluster.settings.manifests = Some(folder);
        cluster
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("manifests").join(name)
    }

    async fn mirrored(&self, name: &str, hash_of: &str) -> String {
        let hash = || self.get(name).map(|pod| pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].clone());
        until("the mirror pod shows the file", || {
            hash().is_some_and(|hash| hash != *hash_of)
                && self.get(name).is_some_and(|pod| pod["status"]["phase"] == "Running")
        })
        .await;
        hash().unwrap().as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_file_runs_as_a_pod_and_its_mirror_comes_and_goes_with_it() {
    let cluster = Cluster::with_manifests();
    std::fs::write(cluster.file("web.yaml"), FILE).unwrap();
    let kubelet = cluster.start().await;
    let first = cluster.mirrored("web-node-1", "").await;
    let pod = cluster.get("web-node-1").unwrap();
    assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    let container = pod["status"]["containerStatuses"][0]["containerID"].clone();
    // Whoever deletes the mirror pod deletes nothing but what he sees.
    cluster.api.delete(Pod::resource(), "default", "web-node-1");
    let other = || cluster.get("web-node-1").is_some_and(|new| new["metadata"]["uid"] != pod["metadata"]["uid"]);
    until("the mirror pod is made anew", other).await;
    cluster.mirrored("web-node-1", "").await;
    assert_eq!(cluster.get("web-node-1").unwrap()["status"]["containerStatuses"][0]["containerID"], container);
    // A changed file is another pod.
    std::fs::write(cluster.file("web.yaml"), FILE.replace("busybox:1", "busybox:2")).unwrap();
    cluster.mirrored("web-node-1", &first).await;
    until("the old one has gone", || cluster.runtime.counts() == (1, 1)).await;
    assert_eq!(cluster.get("web-node-1").unwrap()["status"]["containerStatuses"][0]["image"], "busybox:2");
    std::fs::remove_file(cluster.file("web.yaml")).unwrap();
    until("everything goes with the file", || {
        cluster.get("web-node-1").is_none() && cluster.runtime.counts() == (0, 0)
    })
    .await;
    kubelet.end().await;
}

#[tokio::test]
async fn a_static_pod_starts_without_an_api_server_and_outlives_the_kubelet() {
    let cluster = Cluster::with_manifests();
    std::fs::write(cluster.file("web.yaml"), FILE).unwrap();
    let kubelet = cluster.start_with(Arc::new(Unreachable)).await;
    until("it runs", || cluster.runtime.running().len() == 1).await;
    kubelet.end().await;
    let running = cluster.runtime.running();
    // The next kubelet has an API server: it takes the container over and shows it.
    let kubelet = cluster.start().await;
    cluster.mirrored("web-node-1", "").await;
    assert_eq!(cluster.runtime.running(), running);
    kubelet.end().await;
    // The file goes while no kubelet runs: the next one cleans up.
    std::fs::remove_file(cluster.file("web.yaml")).unwrap();
    let kubelet = cluster.start().await;
    until("what is left goes", || cluster.runtime.counts() == (0, 0) && cluster.get("web-node-1").is_none()).await;
    kubelet.end().await;
}

/// An API server that nobody reaches.
struct Unreachable;

impl Transport for Unreachable {
    fn send(&self, _: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        async move { Err(TransportError { server: "nowhere".into(), source: refused.into() }) }.boxed()
    }
}
