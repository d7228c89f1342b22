//! Sessions as every installed `kubectl` has them, over SPDY and over WebSocket: exec, attach, run, cp, debug, port-forward.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use crate::application::{deploy, start};
use crate::kubectls::installed;
use crate::machine::{Machine, text};

/// A pod with two servers: one serves files on its loopback alone, one counts what it hears to its end.
const LOCAL: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: local, labels: {app: local}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: example.test/web:1
    command: [sh, -c]
    args:
    - |
      echo ahoy > /www/index.html
      httpd -p 127.0.0.1:8080 -h /www
      nc -ll -p 9000 -e sh -c 'wc -c; echo done' &
      exec sleep 3600
    ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {selector: {app: local}, ports: [{port: 80, targetPort: http}]}
"#;

#[test]
fn each_installed_kubectl_has_its_sessions() {
    let machine = Machine::new();
    start(&machine);
    deploy(&machine);
    machine.kubectl_args(&["apply", "-f", "-"], LOCAL);
    machine.kubectl("wait --for=condition=Ready pod/local --timeout=60s");
    let mut programs: Vec<String> =
        installed().into_iter().map(|(_, program)| program.to_str().unwrap().to_owned()).collect();
    // What the system calls kubectl, first: it is there always.
    programs.insert(0, "kubectl".to_owned());
    let last = programs.len() - 1;
    for (index, program) in programs.iter().enumerate() {
        let client = Client { machine: &machine, program, number: index };
        client.runs_processes();
        client.forwards_ports();
        // The others speak as their neighbours do.
        if index <= 1 || index == last {
            client.fails();
            client.copies();
            client.attaches();
            client.forwards_other_ports();
        }
    }
    // A session that nobody reads any more is over.
    machine.kubectl("delete pod local --grace-period=0 --timeout=60s");
}

struct Client<'a> {
    machine: &'a Machine,
    program: &'a str,
    number: usize,
}

impl Client<'_> {
    fn run(&self, args: &[&str], input: &str) -> Output {
        self.machine.try_program(self.program, args, input)
    }

    #[track_caller]
    fn says(&self, args: &[&str], input: &str, expected: &str) {
        let output = self.run(args, input);
        let (said, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && said == expected, "{} {args:?}: {said}{errors}", self.program);
    }

    fn runs_processes(&self) {
        self.says(&["exec", "client", "--", "echo", "ahoy"], "", "ahoy\n");
        self.says(&["exec", "-i", "deployment/web", "--", "cat"], "through and back", "through and back");
        // More than every queue on the way holds.
        let long = "0123456789abcde\n".repeat(64 << 10);
        self.says(&["exec", "-i", "client", "--", "wc", "-c"], &long, &format!("{}\n", long.len()));
        let failed = self.run(&["exec", "client", "--", "sh", "-c", "echo oops >&2; exit 7"], "");
        let errors = text(&failed.stderr);
        assert!(failed.status.code() == Some(7) && errors.contains("oops"), "{}: {errors}", self.program);
    }

    fn fails(&self) {
        let absent = self.run(&["exec", "client", "--", "/absent"], "");
        assert!(!absent.status.success() && text(&absent.stderr).contains("/absent"), "{}", text(&absent.stderr));
        let unknown = self.run(&["exec", "client", "-c", "other", "--", "true"], "");
        assert!(text(&unknown.stderr).contains("container other is not valid for pod client"), "{}", self.program);
    }

    fn copies(&self) {
        let here = self.machine.folder().join(format!("sent-{}", self.number));
        let back = self.machine.folder().join(format!("back-{}", self.number));
        std::fs::write(&here, vec![b'x'; 300_000]).unwrap();
        let there = format!("client:/tmp/sent-{}", self.number);
        self.says(&["cp", here.to_str().unwrap(), &there], "", "");
        let output = self.run(&["cp", &there, back.to_str().unwrap()], "");
        assert!(output.status.success(), "{}: {}", self.program, text(&output.stderr));
        assert_eq!(std::fs::read(&back).unwrap().len(), 300_000, "{}", self.program);
    }

    fn attaches(&self) {
        let name = format!("once-{}", self.number);
        let run = ["run", &name, "-i", "--rm", "--restart=Never", "--image=example.test/web:1", "--quiet", "--", "cat"];
        let output = self.run(&run, "said and heard\n");
        assert!(text(&output.stdout).contains("said and heard"), "{}: {}", self.program, text(&output.stderr));
        let container = format!("look-{}", self.number);
        let debug = ["debug", "client", "--image=example.test/web:1", "-c", &container, "--quiet", "-i", "--", "cat"];
        let output = self.run(&debug, "looking in\n");
        assert!(text(&output.stdout).contains("looking in"), "{}: {}", self.program, text(&output.stderr));
    }

    /// Two ports of a pod.
    fn forwards_ports(&self) {
        let mut forwarded = Forwarded::start(self, &["pod/local", ":8080", ":9000"]);
        let heard = forwarded.get(0);
        assert!(heard.contains("ahoy"), "{}: {heard:?} {}", self.program, forwarded.end());
        // The pod hears the end of what is sent, and goes on to answer.
        assert_eq!(forwarded.ask(1, &vec![b'x'; 200_000]), "200000\ndone\n", "{}", self.program);
        assert!(forwarded.get(0).contains("ahoy"), "{}: again", self.program);
        forwarded.end();
    }

    /// A Service's, a Deployment's, and one that nobody listens on.
    fn forwards_other_ports(&self) {
        for target in ["service/local", "deployment/web"] {
            let port = if target == "service/local" { ":80" } else { ":8080" };
            let mut forwarded = Forwarded::start(self, &[target, port]);
            assert!(forwarded.get(0).contains("ahoy"), "{}: {target}", self.program);
            forwarded.end();
        }
        let mut refused = Forwarded::start(self, &["pod/local", ":81"]);
        assert_eq!(refused.get(0), "", "{}", self.program);
        let errors = refused.end();
        assert!(errors.contains("error forwarding port 81 to pod"), "{}: {errors}", self.program);
    }
}

/// A `kubectl port-forward` that runs.
struct Forwarded<'a> {
    machine: &'a Machine,
    child: Child,
    ports: Vec<u16>,
}

impl<'a> Forwarded<'a> {
    fn start(client: &Client<'a>, args: &[&str]) -> Self {
        let mut command = client.machine.command(client.program);
        command.arg("port-forward").arg("--address=127.0.0.1").args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ports = Vec::new();
        while ports.len() < args.len() - 1 {
            // `Forwarding from 127.0.0.1:40123 -> 8080`
            let Some(Ok(line)) = lines.next() else {
                let errors = text(&child.wait_with_output().unwrap().stderr);
                panic!("{} port-forward {args:?}: {errors}", client.program);
            };
            ports.extend(line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok()));
        }
        // It goes on to tell of connections.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { machine: client.machine, child, ports }
    }

    /// Sends, says that it was all, and reads all; what is refused is empty.
    fn ask(&mut self, index: usize, sent: &[u8]) -> String {
        let port = self.ports[index];
        self.machine.inside(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut heard = Vec::new();
            let _ = stream.write_all(sent);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut heard);
            text(&heard)
        })
    }

    fn get(&mut self, index: usize) -> String {
        self.ask(index, b"GET / HTTP/1.0\r\n\r\n")
    }

    /// Ends it; what it complained of.
    fn end(mut self) -> String {
        let _ = self.child.kill();
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        self.child.wait().unwrap();
        errors
    }
}
