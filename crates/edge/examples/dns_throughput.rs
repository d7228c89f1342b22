//! How many answers a second one core gives: the whole of cluster DNS on a thread of its own, over a loopback socket, with
//! an API in memory. The client has the other cores.
//!
//! `cargo run --release -p edge --example dns_throughput [seconds] [questions in flight]`
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement for people")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base::{Random, Stop, Tasks};
use control::harness::Api;
use control::{Client, Informers};
use edge::dns::{Config, run};
use linux::datagrams::{BATCH_MAX, Batch};
use serde_json::json;

const SERVICES: usize = 1000;
/// How many questions are under way at a time.
const IN_FLIGHT: usize = 64;

fn main() {
    let argument = |at: usize| std::env::args().nth(at).and_then(|text| text.parse().ok());
    let (seconds, in_flight) = (argument(1).unwrap_or(5), argument(2).map_or(IN_FLIGHT, |number| number as usize));
    let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("loopback");
    let (tell, told) = mpsc::channel();
    let stop = Stop::new();
    let stopped = stop.clone();
    let server = std::thread::spawn(move || {
        tell.send(std::fs::read_link("/proc/thread-self").expect("proc")).expect("somebody waits");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(address, stopped));
    });
    let stat = std::path::Path::new("/proc").join(told.recv().expect("it starts")).join("stat");
    for (story, names) in [
        ("services", (0..SERVICES).map(|number| format!("web-{number}.ns.svc.cluster.local")).collect()),
        (
            "names that a search list makes",
            (0..SERVICES).map(|number| format!("web-{number}.ns.svc.cluster.local.ns.svc.cluster.local")).collect(),
        ),
        (
            "never asked before",
            (0..4_000_000).map(|number| format!("none-{number}.ns.svc.cluster.local")).collect::<Vec<_>>(),
        ),
    ] {
        let client = Asking { server: address, stat: &stat, in_flight };
        client.measure(story, &names, Duration::from_secs(seconds));
    }
    stop.stop();
    server.join().expect("it ends");
}

async fn serve(address: SocketAddr, stop: Stop) {
    let api = Api::new(Random::from_seed(1));
    for number in 0..SERVICES {
        let ip = format!("10.43.{}.{}", number / 250, number % 250 + 1);
        api.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("web-{number}"), "namespace": "ns"},
            "spec": {"clusterIP": ip, "clusterIPs": [ip]}}));
    }
    let tasks = Tasks::new("measure");
    let informers = Informers::new(Client::new(api.transport(), "dns"), tasks.clone(), stop.clone());
    let (listeners, domain) = (vec![address], "cluster.local".to_owned());
    let config = Config { listeners, domain, informers, resolv_conf: "/nonexistent".into() };
    run(config, stop).await.expect("it listens");
    tasks.join().await;
}

fn question(name: &str, id: u16) -> Vec<u8> {
    let mut message = vec![0; 12];
    message[..2].copy_from_slice(&id.to_be_bytes());
    (message[2], message[5]) = (1, 1);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// Who asks, and where the server's times are.
struct Asking<'a> {
    server: SocketAddr,
    stat: &'a std::path::Path,
    in_flight: usize,
}

impl Asking<'_> {
    fn measure(&self, story: &str, names: &[String], time: Duration) {
        let (server, stat) = (self.server, self.stat);
        let mut names = names.iter().cycle();
        let mut next = || question(names.next().expect("it goes round"), 7);
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        // Once round, until the server knows all.
        loop {
            client.send_to(&next(), server).expect("loopback");
            let mut answer = [0; 512];
            let length = client.recv(&mut answer).expect("an answer");
            if length > 12 && answer[3] & 0xf != 2 {
                break;
            }
        }
        for _ in 0..self.in_flight {
            client.send_to(&next(), server).expect("loopback");
        }
        let (mut batch, mut answers, begun, before) = (Batch::new(512), 0u64, Instant::now(), cpu(stat));
        let mut bytes = Vec::new();
        while begun.elapsed() < time {
            let Ok(count) = batch.receive(client.as_fd()) else {
                std::thread::yield_now();
                continue;
            };
            answers += count as u64;
            bytes.clear();
            let replies: Vec<_> = (0..count.min(BATCH_MAX))
                .map(|at| {
                    let start = bytes.len();
                    bytes.extend(next());
                    (at, start..bytes.len())
                })
                .collect();
            batch.reply(client.as_fd(), &replies, &bytes).expect("loopback");
        }
        let (elapsed, used) = (begun.elapsed().as_secs_f64(), cpu(stat) - before);
        println!(
            "dns {story}, {} in flight: answers_per_second={:.0} server_core_percent={:.0} microseconds_of_processor_per_answer={:.2}",
            self.in_flight,
            answers as f64 / elapsed,
            used / elapsed * 100.0,
            used * 1e6 / answers as f64
        );
    }
}

/// The processor time of a thread, in seconds.
fn cpu(stat: &std::path::Path) -> f64 {
    let stat = std::fs::read_to_string(stat).expect("the thread runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a line").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}
