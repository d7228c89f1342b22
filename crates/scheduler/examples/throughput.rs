//! How many pods a second the scheduler places without an API: image, queue and cycle alone.
//!
//! `cargo run --release -p scheduler --example throughput [nodes...]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Object;
use scheduler::cycle::{Turn, place};
use scheduler::image::Image;
use scheduler::node::NodeInfo;
use scheduler::pod::PodInfo;
use scheduler::queue::Queue;

fn node(number: usize) -> NodeInfo {
    let json = format!(
        r#"{{"metadata":{{"name":"node-{number}","labels":{{"kubernetes.io/hostname":"node-{number}","zone":"z{}"}}}},
        "spec":{{}},"status":{{"allocatable":{{"cpu":"32","memory":"256Gi","pods":"110"}}}}}}"#,
        number % 3
    );
    let object = Object::parse(api::resources::NODES, json.into_bytes().into()).expect("valid");
    NodeInfo::read(&object).expect("valid")
}

/// Extra fields of a pod's spec.
const SORTS: &[(&str, &str)] = &[
    ("plain", ""),
    (
        "anti-affinity by host name",
        r#""affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname",
        "labelSelector":{"matchLabels":{"app":"GROUP"}}}]}},"#,
    ),
    (
        "spread over zones",
        r#""topologySpreadConstraints":[{"topologyKey":"zone","maxSkew":1,"whenUnsatisfiable":"DoNotSchedule",
        "labelSelector":{"matchLabels":{"app":"GROUP"}}}],"#,
    ),
];

/// Pods come in groups, as from deployments.
const GROUP_SIZE: usize = 100;

fn pod(number: usize, extra: &str) -> Object {
    let group = format!("g{}", number / GROUP_SIZE);
    let extra = extra.replace("GROUP", &group);
    let json = format!(
        r#"{{"metadata":{{"name":"pod-{number}","namespace":"default","uid":"{number}","generation":1,"labels":{{"app":"{group}"}}}},
        "spec":{{{extra}
        "schedulerName":"default-scheduler","containers":[{{"name":"c","image":"pause","resources":{{"requests":{{"cpu":"100m","memory":"200Mi"}}}}}}],
        "tolerations":[{{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}},
        {{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}}]}},"status":{{"phase":"Pending"}}}}"#
    );
    Object::parse(api::resources::PODS, json.into_bytes().into()).expect("valid")
}

#[expect(clippy::print_stdout, reason = "this is what the example is for")]
fn main() {
    let mut sizes: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![100, 1_000, 5_000];
    }
    for nodes in sizes {
        for (sort, extra) in SORTS {
            // Constrained pods look at those that are there: measured with few thousand, as in such a cluster.
            let pods = if extra.is_empty() { 30_000 } else { 5_000 }.min(nodes * 50);
            let (placed, decoding, placing) = measure(nodes, pods, extra);
            let rate = placed as f64 / placing.as_secs_f64();
            let decoded = pods as f64 / decoding.as_secs_f64();
            println!("{nodes} nodes, {sort}: {placed} of {pods} pods placed, {rate:.0}/s; decoded {decoded:.0}/s");
        }
    }
}

/// How many pods were placed, how long decoding them took, and placing.
fn measure(nodes: usize, pods: usize, extra: &str) -> (usize, Duration, Duration) {
    let mut image = Image::default();
    for number in 0..nodes {
        image.apply_node(node(number));
    }
    let objects: Vec<Object> = (0..pods).map(|number| pod(number, extra)).collect();
    let (mut queue, mut turn) = (Queue::default(), Turn::new(1));
    let start = Instant::now();
    for object in &objects {
        queue.upsert(Arc::new(PodInfo::read(object).expect("valid")), tokio::time::Instant::now());
    }
    let decoding = start.elapsed();
    let mut placed = 0;
    while let Some(pod) = queue.pop() {
        if let Ok(node) = place(&image, &pod, &mut turn) {
            image.assume(&pod, node);
            queue.finish(&pod);
            placed += 1;
        }
    }
    (placed, decoding, start.elapsed() - decoding)
}
