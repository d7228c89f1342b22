//! Services as pods use them: names of all forms, types and ports that change, endpoints that come and go, the API server's
//! own way to pods.

use std::time::{Duration, Instant};

use crate::application;
use crate::machine::Machine;

/// A pod that serves its name on a port of each name.
fn pod(name: &str, more: &str, ports: &[(&str, u16)]) -> String {
    let serve: Vec<String> = ports.iter().map(|(_, port)| format!("httpd -p {port} -h /www")).collect();
    let named: Vec<String> =
        ports.iter().map(|(name, port)| format!("{{name: {name}, containerPort: {port}}}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}, all: pods}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  enableServiceLinks: false\n{more}  containers:\n  - name: c\n    \
         image: example.test/web:1\n    command: [sh, -c, \"echo {name} > /www/index.html; {}; exec sleep 3600\"]\n    \
         ports: [{}]\n",
        serve.join("; "),
        named.join(", ")
    )
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[track_caller]
fn apply(machine: &Machine, text: &str) {
    machine.kubectl_args(&["apply", "-f", "-"], text);
}

#[track_caller]
fn ready(machine: &Machine, pods: &str) {
    machine.kubectl(&format!("wait --for=condition=Ready {pods} --timeout=60s"));
}

/// Runs a script in the pod `client` until it prints what is wanted: rules and names follow objects in a moment.
#[track_caller]
fn prints(machine: &Machine, script: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let output = machine.try_kubectl(&["exec", "client", "--", "sh", "-c", script], "");
        let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if printed == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{script}: {printed:?} and not {wanted:?}\n{}", machine.evidence());
    }
}

/// The addresses of a name, in order, as a pod finds them: with each domain that it is told to search, as libraries do (the
/// image's program does not), until one knows the name.
fn addresses(name: &str) -> String {
    format!(
        "for domain in $(sed -n 's/^search //p' /etc/resolv.conf) ''; do \
         found=$(nslookup {name}${{domain:+.}}$domain 2>/dev/null | sed -n '/^Name:/,$s/^Address: *//p' | sort -u); \
         [ -n \"$found\" ] && echo $found && break; done"
    )
}

fn spec_ip(machine: &Machine, kind: &str, path: &str) -> String {
    machine.kubectl(&format!("get {kind} -o jsonpath={{{path}}}"))
}

/// A pod that answers every request with its method.
const ECHO: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 0
  enableServiceLinks: false
  containers:
  - name: c
    image: example.test/web:1
    ports: [{name: http, containerPort: 8083}]
    command: [sh, -c]
    args:
    - |
      cat > /tmp/answer.sh <<'END'
      read method path version
      length=0
      while read name value && [ "${#name}" -gt 1 ]; do
        case $name in [Cc]ontent-[Ll]ength:) length=$(echo $value | tr -d '\r');; esac
      done
      head -c $length > /dev/null
      printf 'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' ${#method} $method
      END
      exec nc -ll -p 8083 -e sh /tmp/answer.sh
"#;

/// Conformance: "DNS should provide DNS for ..." and "... /etc/hosts entries", "configurable pod DNS nameservers", "partial
/// qualified names".
#[test]
fn pods_find_names_in_every_form() {
    let machine = Machine::new();
    application::start(&machine);
    apply(&machine, &pod("client", "", &[("http", 8080)]));
    apply(&machine, &pod("one", "  hostname: querier\n  subdomain: sub\n", &[("http", 8080)]));
    apply(
        &machine,
        &pod(
            "own",
            "  dnsPolicy: None\n  dnsConfig: {nameservers: [192.0.2.53], searches: [one.test, two.test], options: [{name: ndots, value: \"2\"}]}\n",
            &[("http", 8080)],
        ),
    );
    apply(&machine, &service("web", "{selector: {app: one}, ports: [{name: http, port: 80, targetPort: http}]}"));
    apply(&machine, &service("sub", "{clusterIP: None, selector: {app: one}, ports: [{name: http, port: 8080}]}"));
    ready(&machine, "pod/client pod/one pod/own");
    let api = spec_ip(&machine, "service kubernetes", ".spec.clusterIP");
    // Endpoints and slices of the API server itself.
    let output =
        machine.try_kubectl(&["get", "endpoints", "kubernetes", "-o", "jsonpath={.subsets[*].addresses[*].ip}"], "");
    assert_eq!(crate::machine::text(&output.stdout), "192.0.2.10");
    assert_eq!(spec_ip(&machine, "endpointslice kubernetes", ".endpoints[*].addresses[*]"), "192.0.2.10");
    let web = spec_ip(&machine, "service web", ".spec.clusterIP");
    let one = spec_ip(&machine, "pod one", ".status.podIP");
    for (name, address) in [
        ("kubernetes.default", &api),
        ("kubernetes.default.svc", &api),
        ("kubernetes.default.svc.cluster.local", &api),
        ("web", &web),
        ("web.default", &web),
        ("WEB.default.svc", &web),
        ("sub", &one),
        ("querier.sub", &one),
        ("querier.sub.default.svc.cluster.local", &one),
        (&format!("{}.default.pod.cluster.local", one.replace('.', "-")), &one),
    ] {
        prints(&machine, &addresses(name), address);
    }
    for (service, answer) in [
        ("web.default.svc.cluster.local", "0 100 80 web.default.svc.cluster.local"),
        ("sub.default.svc.cluster.local", "0 100 8080 querier.sub.default.svc.cluster.local"),
    ] {
        let script = format!("nslookup -type=srv _http._tcp.{service} | sed -n 's/.*service = //p'");
        prints(&machine, &script, answer);
    }
    let reverse = format!("nslookup {web} | sed -n 's/.*name = //p'");
    prints(&machine, &reverse, "web.default.svc.cluster.local");
    let hosts = machine.kubectl("exec one -- cat /etc/hosts");
    assert!(hosts.contains(&format!("{one}\tquerier.sub.default.svc.cluster.local\tquerier")), "{hosts}");
    let resolver = machine.kubectl("exec own -- cat /etc/resolv.conf");
    let mut lines: Vec<&str> = resolver.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["nameserver 192.0.2.53", "options ndots:2", "search one.test two.test"]);
}

/// Conformance: "Services should be able to change the type from ... to ...".
#[test]
fn a_service_changes_its_type_and_is_found_and_reached_as_it_is() {
    let machine = Machine::new();
    application::start(&machine);
    apply(&machine, &pod("client", "", &[("http", 8080)]));
    apply(&machine, &pod("one", "", &[("http", 8080)]));
    apply(&machine, &service("target", "{selector: {app: one}, ports: [{port: 80, targetPort: http}]}"));
    ready(&machine, "pod/client pod/one");
    let target = spec_ip(&machine, "service target", ".spec.clusterIP");
    let external = "{type: ExternalName, externalName: target.default.svc.cluster.local}";
    let ports = "selector: {app: one}, ports: [{name: http, port: 8080, targetPort: http}]";
    let change = |spec: &str| {
        let text = service("web", spec);
        machine.kubectl_args(&["replace", "-f", "-"], &text);
    };
    let is_external = || {
        prints(&machine, &addresses("web.default.svc.cluster.local"), &target);
        let spec = machine.kubectl("get service web -o jsonpath={.spec.clusterIP}{.spec.ports[*].nodePort}");
        assert_eq!(spec, "");
    };
    let is_reached = || {
        let own = spec_ip(&machine, "service web", ".spec.clusterIP");
        assert_ne!(own, target);
        prints(&machine, &addresses("web.default.svc.cluster.local"), &own);
        prints(&machine, "get web.default.svc.cluster.local 8080", "one");
    };
    apply(&machine, &service("web", external));
    is_external();
    change(&format!("{{type: ClusterIP, {ports}}}"));
    is_reached();
    change(external);
    is_external();
    change(&format!("{{type: NodePort, {ports}}}"));
    is_reached();
    let port = spec_ip(&machine, "service web", ".spec.ports[0].nodePort");
    let own = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 192.0.2.10";
    prints(&machine, &format!("{own} {port} | sed '1,/^\\r$/d'"), "one");
    change(external);
    is_external();
    prints(&machine, &format!("{own} {port} >/dev/null 2>&1 && echo open || echo closed"), "closed");
}

/// Conformance: "Services should serve a basic endpoint from pods", "... multiport endpoints", "Service endpoints latency",
/// "Proxy version v1 ...".
#[test]
fn endpoints_follow_pods_and_the_api_server_leads_to_them() {
    let machine = Machine::new();
    application::start(&machine);
    apply(&machine, &pod("client", "", &[("http", 8080)]));
    apply(
        &machine,
        &service(
            "both",
            "{selector: {all: pods}, ports: [{name: a, port: 80, targetPort: first}, {name: b, port: 81, targetPort: second}]}",
        ),
    );
    let endpoints = |wanted: &[&str]| {
        let path = "{range .subsets[*]}{range .ports[*]}{.name}:{.port}{\" \"}{end}{.addresses[*].targetRef.name}{\"\\n\"}{end}";
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            // `kubectl` warns that endpoints are deprecated.
            let output = machine.try_kubectl(&["get", "endpoints", "both", "-o", &format!("jsonpath={path}")], "");
            let printed = crate::machine::text(&output.stdout);
            let mut lines: Vec<&str> = printed.lines().collect();
            lines.sort_unstable();
            if lines == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{lines:?} and not {wanted:?}");
        }
    };
    ready(&machine, "pod/client");
    machine.kubectl("label pod client all=none --overwrite");
    endpoints(&[]);
    apply(&machine, &pod("one", "", &[("first", 8081)]));
    endpoints(&["a:8081 one"]);
    prints(&machine, "get both.default.svc.cluster.local 80", "one");
    apply(&machine, &pod("two", "", &[("second", 8082)]));
    endpoints(&["a:8081 one", "b:8082 two"]);
    prints(&machine, "get both.default.svc.cluster.local 81", "two");
    // Through the API server, by the names of ports and by numbers.
    let default = "/api/v1/namespaces/default";
    for (path, answer) in [
        ("services/both:a/proxy/", "one\n"),
        ("services/http:both:b/proxy/index.html", "two\n"),
        ("services/both:80/proxy/", "one\n"),
        ("pods/one:8081/proxy/", "one\n"),
        ("pods/http:two:8082/proxy/index.html", "two\n"),
    ] {
        machine.kubectl_until(&format!("get --raw {default}/{path}"), |printed| printed == answer);
    }
    apply(&machine, ECHO);
    apply(&machine, &service("echo", "{selector: {app: echo}, ports: [{name: http, port: 80, targetPort: http}]}"));
    ready(&machine, "pod/echo");
    for place in ["services/echo:http", "services/echo:80", "pods/echo:8083"] {
        for path in ["", "some/path"] {
            let path = format!("{default}/{place}/proxy/{path}");
            machine.kubectl_until(&format!("get --raw {path}"), |printed| printed == "GET");
            for (verb, method) in [("create", "POST"), ("replace", "PUT"), ("delete", "DELETE")] {
                assert_eq!(machine.kubectl_args(&[verb, "--raw", &path, "-f", "-"], "{}"), method, "{path}");
            }
        }
    }
    machine.kubectl("delete pod one --timeout=60s");
    endpoints(&["b:8082 two"]);
    machine.kubectl("delete pod two --timeout=60s");
    endpoints(&[]);

    // How long a new Service takes to have its endpoints.
    machine.kubectl("label pod client all=pods --overwrite");
    let begun = Instant::now();
    let many: Vec<String> = (0..50)
        .map(|number| service(&format!("s-{number}"), "{selector: {app: client}, ports: [{port: 80}]}"))
        .collect();
    apply(&machine, &many.join("---\n"));
    machine.kubectl_until("get endpoints -o jsonpath={.items[*].subsets[*].addresses[*].targetRef.name}", |names| {
        names.split(' ').filter(|name| *name == "client").count() >= 50
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "50 Services took {:?}", begun.elapsed());
}
