//! Ingresses, as a client outside of the cluster sees them; and that nobody outside notices an update or a drained node.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};

use crate::application::{deploy, start};
use crate::machine::Machine;
use crate::nodes::Cluster;

/// The application's Service for one host, a path of another, and TLS for the first.
const INGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  tls: [{hosts: [secure.example.test], secretName: secure}]
  rules:
  - host: web.example.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
  - host: secure.example.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
  - host: part.example.test
    http: {paths: [{path: /index.html, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}]}
"#;

const REST: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: rest}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: others}
spec:
  ingressClassName: others
  rules: [{host: others.example.test, http: {paths: [{path: /x, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
"#;

/// What a `GET` over a connection answers.
fn get(mut connection: impl Read + Write, host: &str, path: &str) -> std::io::Result<String> {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask(machine: &Machine, host: &str, path: &str) -> String {
    machine.inside(|| get(TcpStream::connect("127.0.0.1:80").unwrap(), host, path).unwrap())
}

#[test]
fn an_application_is_reached_by_host_path_and_name_of_a_certificate() {
    let machine = Machine::new();
    start(&machine);
    deploy(&machine);
    assert!(machine.kubectl("get ingressclass").contains("timonier.io/ingress"));
    assert!(ask(&machine, "web.example.test", "/").starts_with("HTTP/1.1 404"));
    let made = rcgen::generate_simple_self_signed(vec!["secure.example.test".to_owned()]).unwrap();
    let folder = machine.folder();
    std::fs::write(folder.join("crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key"), made.signing_key.serialize_pem()).unwrap();
    let (crt, key) = (folder.join("crt"), folder.join("key"));
    machine.kubectl(&format!("create secret tls secure --cert {} --key {}", crt.display(), key.display()));
    machine.kubectl_args(&["apply", "-f", "-"], INGRESS);
    let address = "get ingress web -o jsonpath={.status.loadBalancer.ingress[0].ip}";
    machine.kubectl_until(address, |address| address == "192.0.2.10");
    assert_eq!(machine.kubectl("get ingress web -o jsonpath={.spec.ingressClassName}"), "timonier");
    machine.kubectl_until("get ingress", |_| ask(&machine, "web.example.test", "/").starts_with("HTTP/1.1 200"));
    let answer = ask(&machine, "web.example.test", "/");
    assert!(answer.contains("ahoy from web-"), "{answer}");
    assert!(ask(&machine, "part.example.test", "/index.html").contains("ahoy from web-"));
    assert!(ask(&machine, "part.example.test", "/").starts_with("HTTP/1.1 404"));
    assert!(ask(&machine, "none.example.test", "/").starts_with("HTTP/1.1 404"));
    let sent_on = ask(&machine, "secure.example.test", "/a?b=1");
    assert!(
        sent_on.starts_with("HTTP/1.1 308") && sent_on.contains("location: https://secure.example.test/a?b=1"),
        "{sent_on}"
    );
    let answer = machine.inside(|| over_tls(made.cert.der()));
    assert!(answer.contains("ahoy from web-"), "{answer}");

    machine.kubectl_args(&["apply", "-f", "-"], REST);
    machine.kubectl_until("get ingress", |_| ask(&machine, "none.example.test", "/").contains("ahoy from web-"));
    assert!(
        ask(&machine, "others.example.test", "/x").contains("404 Not Found"),
        "the web server's: the class is not ours"
    );
    assert_eq!(machine.kubectl("get ingress others -o jsonpath={.status.loadBalancer}"), "{}");
    machine.kubectl("scale deployment/web --replicas=0");
    machine.kubectl_until("get ingress", |_| ask(&machine, "web.example.test", "/").starts_with("HTTP/1.1 503"));
    machine.kubectl("delete ingress --all");
    machine.kubectl_until("get ingress", |_| ask(&machine, "web.example.test", "/").starts_with("HTTP/1.1 404"));
    machine.timonier("down");
}

/// A request over TLS from a client that trusts this certificate alone.
fn over_tls(certificate: &CertificateDer<'static>) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("secure.example.test").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect("127.0.0.1:443").unwrap();
    get(rustls::StreamOwned::new(connection, stream), "secure.example.test", "/").unwrap()
}

/// Web servers that go on for a moment when they are told to end, as every server behind a load balancer should.
fn servers(replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 2}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: example.test/web:1
        command: [sh, -c, "echo hello > /www/index.html; exec httpd -f -p 8080 -h /www"]
        lifecycle: {{preStop: {{sleep: {{seconds: 2}}}}}}
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: web}}
spec:
  rules: [{{host: web.example.test, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]
"#
    )
}

/// Sends requests one after the other, by two clients for each address, while `work` goes on. Every one is answered.
fn under_load(machine: &Machine, addresses: &[String], work: impl FnOnce()) {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for address in addresses.iter().chain(addresses) {
            let (stop, done, failures) = (&stop, &done, &failures);
            scope.spawn(move || {
                machine.inside(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let asked = connect(address).and_then(|stream| get(stream, "web.example.test", "/"));
                        done.fetch_add(1, Ordering::Relaxed);
                        match asked {
                            Ok(answer) if answer.starts_with("HTTP/1.") && answer.ends_with("hello\n") => {}
                            other => failures.lock().unwrap().push(format!("{address}: {other:?}")),
                        }
                    }
                });
            });
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let (done, failures) = (done.into_inner(), failures.into_inner().unwrap());
    assert!(
        failures.is_empty() && done > 100,
        "{} of {done} requests were lost: {:#?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Where the Ingress and the Service are.
fn addresses(machine: &Machine) -> [String; 2] {
    let service = machine.kubectl("get service web -o jsonpath={.spec.clusterIP}");
    ["127.0.0.1:80".to_owned(), format!("{service}:80")]
}

fn ready(machine: &Machine) {
    machine.kubectl("rollout status deployment/web --timeout=120s");
    machine.kubectl_until("get ingress web", |_| ask(machine, "web.example.test", "/").ends_with("hello\n"));
}

#[test]
fn an_update_loses_no_request() {
    let machine = Machine::new();
    start(&machine);
    machine.kubectl_args(&["apply", "-f", "-"], &servers(3));
    ready(&machine);
    under_load(&machine, &addresses(&machine), || {
        machine.kubectl("rollout restart deployment/web");
        machine.kubectl("rollout status deployment/web --timeout=120s");
        machine.kubectl("scale deployment/web --replicas=1");
        machine.kubectl_until("get pods -o name", |pods| pods.lines().count() == 1);
    });
    machine.timonier("down");
}

#[test]
fn a_drained_node_loses_no_request() {
    let cluster = Cluster::with_agents(1, "");
    let server = cluster.server();
    // They begin where they will be driven away from.
    server.kubectl("cordon n0");
    server.kubectl_args(&["apply", "-f", "-"], &servers(3));
    ready(server);
    server.kubectl("uncordon n0");
    let budget = "create poddisruptionbudget web --selector=app=web --min-available=2";
    server.kubectl(budget);
    under_load(server, &addresses(server), || {
        server.kubectl("drain n1 --ignore-daemonsets --timeout=120s");
        server.kubectl("rollout status deployment/web --timeout=60s");
    });
    let nodes = server.kubectl("get pods -o jsonpath={.items[*].spec.nodeName}");
    assert_eq!(nodes, "n0 n0 n0");
}
