//! `kubectl proxy`, on a port of its own choice and on a socket; and what a cluster says of its components.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use crate::machine::Machine;

/// A `kubectl proxy`, ended with the test.
struct Proxy(Child);

impl Proxy {
    /// Starts one, and says where it serves.
    fn start(machine: &Machine, args: &[&str]) -> (Self, String) {
        let mut child = machine.command("kubectl").arg("proxy").args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let place = line.trim().strip_prefix("Starting to serve on ").expect("it says where it serves").to_owned();
        (Self(child), place)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a `GET` over a connection answers.
fn get(mut connection: impl Read + Write, path: &str) -> String {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_proxy_leads_to_the_api_over_a_port_and_a_socket() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    let (over_port, place) = Proxy::start(&machine, &["--port=0"]);
    let answer = machine.inside(|| get(TcpStream::connect(&place).unwrap(), "/api/"));
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(r#""versions":["v1"]"#), "{answer}");
    // It answers nobody who comes from another site.
    let answer = machine.inside(|| {
        let mut connection = TcpStream::connect(&place).unwrap();
        write!(connection, "GET /api/ HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    drop(over_port);
    let socket = machine.folder().join("proxy.sock");
    let (_over_socket, place) = Proxy::start(&machine, &[&format!("--unix-socket={}", socket.display())]);
    assert_eq!(place, socket.display().to_string());
    let answer = get(UnixStream::connect(&socket).unwrap(), "/api/");
    assert!(answer.contains(r#""versions":["v1"]"#), "{answer}");
    let answer = get(UnixStream::connect(&socket).unwrap(), "/api/v1/namespaces/default");
    assert!(answer.contains(r#""phase":"Active""#), "{answer}");
    let statuses = get(UnixStream::connect(&socket).unwrap(), "/api/v1/componentstatuses");
    for component in ["controller-manager", "etcd-0", "scheduler"] {
        assert!(statuses.contains(&format!(r#""name":"{component}""#)), "{statuses}");
    }
    assert_eq!(statuses.matches(r#""status":"True""#).count(), 3, "{statuses}");
    machine.timonier("down");
}
