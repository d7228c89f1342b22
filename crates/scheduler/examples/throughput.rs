//! How many pods a second the scheduler places without an API: image, queue and cycle alone.
//!
//! `cargo run --release -p scheduler --example throughput [nodes...]`

use std::sync::Arc;
use std::time::Instant;

use api::Object;
use scheduler::cycle::{Turn, place};
use scheduler::image::Image;
use scheduler::node::NodeInfo;
use scheduler::pod::PodInfo;
use scheduler::queue::Queue;

const PODS: usize = 30_000;

fn node(number: usize) -> NodeInfo {
    let json = format!(
        r#"{{"metadata":{{"name":"node-{number}","labels":{{"kubernetes.io/hostname":"node-{number}","zone":"z{}"}}}},
        "spec":{{}},"status":{{"allocatable":{{"cpu":"32","memory":"256Gi","pods":"110"}}}}}}"#,
        number % 3
    );
    let object = Object::parse(api::resources::NODES, json.into_bytes().into()).expect("valid");
    NodeInfo::read(&object).expect("valid")
}

fn pod(number: usize) -> Object {
    let json = format!(
        r#"{{"metadata":{{"name":"pod-{number}","namespace":"default","uid":"{number}","generation":1}},"spec":{{
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
        let mut image = Image::default();
        for number in 0..nodes {
            image.apply_node(node(number));
        }
        let objects: Vec<Object> = (0..PODS.min(nodes * 100)).map(pod).collect();
        let (mut queue, mut turn) = (Queue::default(), Turn::new(1));
        let start = Instant::now();
        for object in &objects {
            queue.upsert(Arc::new(PodInfo::read(object).expect("valid")), tokio::time::Instant::now());
        }
        let decoded = start.elapsed();
        let mut placed = 0;
        while let Some(pod) = queue.pop() {
            if let Ok(node) = place(&image, &pod, &mut turn) {
                image.assume(&pod, node);
                queue.finish(&pod);
                placed += 1;
            }
        }
        let all = start.elapsed();
        let rate = placed as f64 / (all - decoded).as_secs_f64();
        let with_decoding = placed as f64 / all.as_secs_f64();
        println!("{nodes} nodes: {placed} pods placed, {rate:.0}/s, with decoding {with_decoding:.0}/s");
    }
}
