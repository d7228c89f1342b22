//! Load with a figure at its end. Each measurement is one line: `name key=value ...`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use api::resources::{CONFIG_MAPS, CUSTOM_RESOURCE_DEFINITIONS, DEPLOYMENTS, NAMESPACES, PODS, SERVICE_ACCOUNTS};
use api::{Key, Resource};
use bytes::Bytes;
use control::{Change, Client, ClientError, DeleteOptions, Informers, PatchType, Propagation, WatchScope};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

/// Calls in flight at a time.
const CONCURRENCY: usize = 32;

/// Creates `count` ConfigMaps of 1 KiB, reads, patches, lists and deletes them: calls a second and latencies of each.
pub async fn api(clients: &[Client], namespace: &str, count: usize) -> Result<Vec<String>> {
    make_namespace(&clients[0], namespace).await?;
    let clients: Arc<[Client]> = clients.into();
    let payload = "x".repeat(1000);
    let object = |number: usize| {
        let labels = json!({"shard": (number % 10).to_string()});
        encode(
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{number}"), "labels": labels}, "data": {"k": payload}}),
        )
    };
    let key = |number: usize| Key::new(namespace, format!("c{number}"));
    let mut lines = Vec::new();
    lines.push(
        measure("create", &clients, count, |client, number| {
            let body = object(number);
            async move { client.create(CONFIG_MAPS, namespace, body).await.map(drop) }
        })
        .await?,
    );
    lines.push(
        measure("get", &clients, count, |client, number| {
            let key = key(number);
            async move { client.get(CONFIG_MAPS, &key).await.map(drop) }
        })
        .await?,
    );
    lines.push(
        measure("patch", &clients, count, |client, number| {
            let key = key(number);
            let patch = json!({"data": {"v": number.to_string()}});
            async move { client.patch(CONFIG_MAPS, &key, None, PatchType::Merge, &patch).await.map(drop) }
        })
        .await?,
    );
    lines.push(lists(&clients[0], namespace, count).await?);
    lines.push(
        measure("delete", &clients, count, |client, number| {
            let key = key(number);
            async move { client.delete(CONFIG_MAPS, &key, &DeleteOptions::default()).await }
        })
        .await?,
    );
    clients[0].delete(NAMESPACES, &Key::new("", namespace), &DeleteOptions::default()).await?;
    Ok(lines)
}

/// Runs a Deployment of one pod, then of `count`: time until all are ready, then until all are gone.
pub async fn pods(client: &Client, namespace: &str, image: &str, count: usize) -> Result<Vec<String>> {
    make_namespace(client, namespace).await?;
    let (tasks, stop) = (base::Tasks::new("workload"), base::Stop::new());
    let informers = Informers::new(client.clone(), tasks.clone(), stop.clone());
    let scope = WatchScope { namespace: Some(namespace.to_owned()), ..WatchScope::default() };
    let (deployments, pods) = (informers.cache(DEPLOYMENTS, scope.clone()), informers.cache(PODS, scope));
    informers.synced().await;
    let key = Key::new(namespace, "load");
    let mut lines = Vec::new();

    let started = Instant::now();
    client.create(DEPLOYMENTS, namespace, encode(&deployment(image))).await?;
    until(&deployments, || ready(&deployments, &key) == 1).await?;
    lines.push(format!("first_pod seconds={:.3}", started.elapsed().as_secs_f64()));

    let started = Instant::now();
    client.patch(DEPLOYMENTS, &key, None, PatchType::Merge, &json!({"spec": {"replicas": count}})).await?;
    until(&deployments, || ready(&deployments, &key) == count as u64).await?;
    let seconds = started.elapsed().as_secs_f64();
    lines.push(format!(
        "scale_up pods={} seconds={seconds:.2} pods_per_s={:.1}",
        count - 1,
        (count - 1) as f64 / seconds
    ));

    let started = Instant::now();
    let background = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    client.delete(DEPLOYMENTS, &key, &background).await?;
    until(&pods, || pods.all().is_empty()).await?;
    lines.push(format!("tear_down pods={count} seconds={:.2}", started.elapsed().as_secs_f64()));
    client.delete(NAMESPACES, &Key::new("", namespace), &DeleteOptions::default()).await?;
    stop.stop();
    tasks.join().await;
    Ok(lines)
}

/// Fills the API with `count` pods that no node runs: for what an object costs in memory, everywhere that it is kept.
pub async fn pods_at_rest(clients: &[Client], namespace: &str, count: usize) -> Result<Vec<String>> {
    make_namespace(&clients[0], namespace).await?;
    let container = json!({"name": "c", "image": "registry.example/app:1.0", "ports": [{"containerPort": 8080}],
        "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}});
    // A scheduler that does not exist leaves them alone.
    let spec = json!({"schedulerName": "nobody", "containers": [container]});
    let clients: Arc<[Client]> = clients.into();
    let measured = measure("create_pods", &clients, count, |client, number| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": format!("p{number}"), "labels": {"app": "load", "shard": (number % 10).to_string()}}});
        async move { client.create(PODS, namespace, encode(&pod)).await.map(drop) }
    });
    Ok(vec![measured.await?])
}

/// Makes `count` custom resource definitions: for what one costs in memory.
pub async fn definitions(clients: &[Client], count: usize) -> Result<Vec<String>> {
    let clients: Arc<[Client]> = clients.into();
    let measured = measure("create_definitions", &clients, count, |client, number| {
        let definition = definition(number);
        async move { client.create(CUSTOM_RESOURCE_DEFINITIONS, "", encode(&definition)).await.map(drop) }
    });
    Ok(vec![measured.await?])
}

/// A definition of ordinary size: 40 fields in three levels, described.
fn definition(number: usize) -> Value {
    let text = |of: &str| json!({"type": "string", "maxLength": 253, "description": format!("The {of} of what is run, as its owner wants it.")});
    let group = |level: &str| {
        let fields = (0..10).map(|field| (format!("{level}{field}"), text(level)));
        json!({"type": "object", "description": "What belongs together.", "properties": fields.collect::<serde_json::Map<_, _>>()})
    };
    let (plural, kind) = (format!("things{number}"), format!("Thing{number}"));
    let spec = json!({"type": "object", "properties": {"size": {"type": "integer", "minimum": 0},
        "image": group("image"), "storage": group("storage"), "network": group("network")}});
    let status =
        json!({"type": "object", "properties": {"conditions": {"type": "array", "items": group("condition")}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.load.example.com")},
        "spec": {"group": "load.example.com", "scope": "Namespaced",
            "names": {"plural": plural, "singular": plural.trim_end_matches('s'), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}}}]}})
}

fn deployment(image: &str) -> Value {
    let container =
        json!({"name": "c", "image": image, "command": ["sleep", "3600"], "imagePullPolicy": "IfNotPresent"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "load"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "load"}},
        "template": {"metadata": {"labels": {"app": "load"}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}})
}

fn ready(deployments: &control::Cache, key: &Key) -> u64 {
    deployments.get(key).and_then(|object| object.to_value()["status"]["readyReplicas"].as_u64()).unwrap_or(0)
}

/// Waits for changes of a cache until `done`, at most five minutes.
async fn until(cache: &control::Cache, done: impl Fn() -> bool) -> Result<()> {
    let mut changes = cache.changes();
    let wait = async {
        while !done() {
            let _: Change = changes.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), wait).await.context("not there after 300 s")
}

/// A namespace, with the service account that admission needs.
async fn make_namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    client.create(NAMESPACES, "", encode(&namespace)).await?;
    let (tasks, stop) = (base::Tasks::new("workload"), base::Stop::new());
    let informers = Informers::new(client.clone(), tasks.clone(), stop.clone());
    let accounts =
        informers.cache(SERVICE_ACCOUNTS, WatchScope { namespace: Some(name.to_owned()), ..WatchScope::default() });
    let key = Key::new(name, "default");
    until(&accounts, || accounts.get(&key).is_some()).await?;
    stop.stop();
    tasks.join().await;
    Ok(())
}

async fn lists(client: &Client, namespace: &str, count: usize) -> Result<String> {
    let path = Resource::path(CONFIG_MAPS, Some(namespace), None);
    let mut latencies = Vec::new();
    let started = Instant::now();
    for _ in 0..20 {
        let called = Instant::now();
        let body = client.request(http::Method::GET, &path, None, Bytes::new()).await?;
        latencies.push(called.elapsed());
        if body.len() < count * 1000 {
            bail!("the list is short: {} bytes", body.len());
        }
    }
    Ok(line(&format!("list_{count}"), latencies, started.elapsed()))
}

async fn measure<F, Fut>(name: &str, clients: &Arc<[Client]>, count: usize, call: F) -> Result<String>
where
    F: Fn(Client, usize) -> Fut,
    Fut: Future<Output = Result<(), ClientError>>,
{
    let started = Instant::now();
    let calls = stream::iter(0..count).map(|number| {
        let call = call(clients[number % clients.len()].clone(), number);
        async move {
            let called = Instant::now();
            call.await.map(|()| called.elapsed())
        }
    });
    let latencies =
        calls.buffer_unordered(CONCURRENCY).try_collect().await.with_context(|| format!("{name} failed"))?;
    Ok(line(name, latencies, started.elapsed()))
}

fn line(name: &str, mut latencies: Vec<Duration>, whole: Duration) -> String {
    latencies.sort();
    let at = |quantile: f64| latencies[((latencies.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e3;
    let rate = latencies.len() as f64 / whole.as_secs_f64();
    format!(
        "{name} n={} per_s={rate:.0} p50_ms={:.2} p99_ms={:.2} max_ms={:.2}",
        latencies.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

fn encode(object: &Value) -> Bytes {
    object.to_string().into()
}
