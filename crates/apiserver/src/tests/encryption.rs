//! Secrets on disk.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;
use store::{EmbeddedStore, Options};

use super::Cluster;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test]
async fn the_datastores_file_holds_no_secret_in_plain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("datastore.redb");
    let store = Arc::new(EmbeddedStore::open(&path, Options::default()).unwrap());
    let cluster = Cluster::over(store).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "correct horse battery staple"}});
    cluster.post(SECRETS, secret).await;
    let changed = json!({"stringData": {"password": "another horse battery staple"}});
    let (status, answer) = cluster.call(Method::PATCH, &format!("{SECRETS}/s"), &changed).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let map = json!({"metadata": {"name": "c"}, "data": {"known": "everybody may read this"}});
    cluster.post("/api/v1/namespaces/default/configmaps", map).await;
    let read = cluster.get(&format!("{SECRETS}/s")).await;
    assert_eq!(read["data"]["password"], "YW5vdGhlciBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==");
    let bytes = std::fs::read(&path).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("everybody may read this"), "the test looks into the right file");
    for part in ["horse", "aG9yc2", "Y29ycmVjdCBob3JzZ", "YW5vdGhlciBob3JzZ", "\"password\""] {
        assert!(!holds(part), "{part}");
    }
}
