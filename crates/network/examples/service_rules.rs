//! How long the kernel takes to have the rules of a large cluster, and those of one changed endpoint, in a network namespace
//! of its own. Needs root.
//!
//! `cargo run --release -p network --example service_rules [services] [endpoints of each]`
#![allow(clippy::print_stdout, reason = "a measurement for people")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Key;
use linux::net::{Kernel, namespace};
use network::proxy::Proxy;
use network::proxy::rules::Layout;
use network::proxy::services::{Endpoint, Port, Service, Slice};

const TCP: u8 = 6;
/// How many changes are measured.
const CHANGES: u32 = 100;
/// A slice has at most so many endpoints, as the controller makes them.
const SLICE: u32 = 100;

fn main() {
    let number =
        |at: usize, default: u32| std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (services, endpoints) = (number(1, 5000), number(2, 50));
    namespace::enter_new().expect("needs root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(services, endpoints));
}

fn address(service: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + (service * 64 + number) % 0x0040_0000)
}

fn slice(service: u32, numbers: impl Iterator<Item = u32>) -> Slice {
    let endpoint = |number| Endpoint {
        address: address(service, number),
        ready: true,
        ending: false,
        node: Some("node-2".to_owned()),
        for_nodes: None,
        for_zones: None,
    };
    Slice { ports: vec![("http".to_owned(), TCP, 8080)], endpoints: numbers.map(endpoint).collect() }
}

async fn measure(services: u32, endpoints: u32) {
    let net = Arc::new(Kernel::new().expect("netlink"));
    let layout = Layout {
        cluster_cidr: "10.0.0.0/9".parse().expect("valid"),
        service_cidr: "10.128.0.0/16".parse().expect("valid"),
        cluster_dns: None,
        node_port_addresses: vec![],
    };
    let mut proxy = Proxy::with(net, layout, "node-1");
    let set = |proxy: &mut Proxy, service: u32, part: u32, numbers: std::ops::Range<u32>| {
        let key = Key::new("default", format!("service-{service}"));
        let name = Key::new("default", format!("service-{service}-{part}"));
        proxy.set_slice(&name, Some((key, slice(service, numbers))));
    };
    for service in 0..services {
        let ports = vec![Port { name: "http".to_owned(), protocol: TCP, port: 80, node_port: None }];
        let cluster_ips = vec![Ipv4Addr::from_bits(0x0a80_0100 + service)];
        let wanted = Service { cluster_ips, ports, ..Service::default() };
        proxy.set_service(&Key::new("default", format!("service-{service}")), Some(wanted));
        for part in 0..endpoints.div_ceil(SLICE) {
            set(&mut proxy, service, part, part * SLICE..endpoints.min((part + 1) * SLICE));
        }
    }
    let begun = Instant::now();
    proxy.apply().await.expect("the kernel takes it");
    let full = begun.elapsed();
    let last = endpoints.div_ceil(SLICE) - 1;
    let mut times: Vec<Duration> = Vec::new();
    for change in 0..CHANGES {
        // One more, and then one less again, at services all over.
        let more = endpoints + 1 - change % 2;
        set(&mut proxy, change / 2 * services / CHANGES, last, last * SLICE..more);
        let begun = Instant::now();
        proxy.apply().await.expect("the kernel takes it");
        times.push(begun.elapsed());
    }
    times.sort();
    let middle = times[times.len() / 2];
    println!(
        "service_rules services={services} endpoints_each={endpoints} full_seconds={:.2} change_ms_p50={:.2} change_ms_max={:.2}",
        full.as_secs_f64(),
        middle.as_secs_f64() * 1000.0,
        times[times.len() - 1].as_secs_f64() * 1000.0
    );
}
