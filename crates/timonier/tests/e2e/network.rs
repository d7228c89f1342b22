//! The network of one node, with real pods: host ports, node ports and their health checks, load balancers, network
//! policies, DNS.

use crate::application;
use crate::machine::Machine;

/// A pod that serves its own name on 8080.
fn server(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  {more}\n  containers:\n  - name: c\n    image: example.test/web:1\n    \
         command: [sh, -c, \"echo {name} > /www/index.html; exec httpd -f -p 8080 -h /www\"]\n    \
         readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}\n    \
         ports: [{{name: http, containerPort: 8080"
    )
}

fn plain_server(name: &str) -> String {
    server(name, "enableServiceLinks: false") + "}]\n"
}

fn host_port_server(name: &str, mapping: &str) -> String {
    server(name, "enableServiceLinks: false") + &format!(", {mapping}}}]\n")
}

#[track_caller]
fn apply(machine: &Machine, text: &str) {
    machine.kubectl_args(&["apply", "-f", "-"], text);
}

fn wait_ready(machine: &Machine, pods: &[&str]) {
    for pod in pods {
        machine.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=60s"));
    }
}

/// What a web server answers, from the machine itself.
fn get(machine: &Machine, to: &str) -> Option<String> {
    let (host, port) = to.rsplit_once(':').unwrap();
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 2 {host} {port}");
    let output = machine.command("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned())
}

/// Rules follow objects in a moment.
#[track_caller]
fn eventually(machine: &Machine, to: &str, expected: Option<&str>) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let answer = get(machine, to);
        if answer.as_deref() == expected {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{to} answers {answer:?}\n{}", machine.evidence());
    }
}

/// Whether a pod gets an answer from another; it is asked until it is as expected, since rules follow objects in a moment.
#[track_caller]
fn reaches(machine: &Machine, pod: &str, to: &str, expected: bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {} | grep -q 200", to.replace(':', " "));
    loop {
        let output = machine.try_kubectl(&["exec", pod, "--", "sh", "-c", &script], "");
        if output.status.success() == expected {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{pod} to {to}: not {expected}\n{}", machine.evidence());
    }
}

fn ip(machine: &Machine, pod: &str) -> String {
    machine.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"))
}

#[test]
fn host_ports_lead_to_pods_and_survive_a_restart() {
    let machine = Machine::new();
    application::start(&machine);
    apply(&machine, &host_port_server("every", "hostPort: 8090"));
    apply(&machine, &host_port_server("one", "hostPort: 8091, hostIP: 127.0.0.1"));
    apply(&machine, &host_port_server("two", "hostPort: 8091, hostIP: 192.0.2.10"));
    wait_ready(&machine, &["every", "one", "two"]);
    let all = || {
        assert_eq!(get(&machine, "127.0.0.1:8090").as_deref(), Some("every"));
        assert_eq!(get(&machine, "192.0.2.10:8090").as_deref(), Some("every"));
        assert_eq!(get(&machine, "127.0.0.1:8091").as_deref(), Some("one"));
        assert_eq!(get(&machine, "192.0.2.10:8091").as_deref(), Some("two"));
    };
    all();
    reaches(&machine, "one", "192.0.2.10:8090", true);
    reaches(&machine, "every", "192.0.2.10:8090", true);
    machine.timonier("down");
    all();
    machine.timonier("up --detach");
    all();
    machine.kubectl("delete pod every --timeout=60s");
    // Its sandbox ends a moment later.
    eventually(&machine, "192.0.2.10:8090", None);
}

#[test]
fn load_balancers_are_answered_on_the_node_and_tell_their_health() {
    let machine = Machine::new();
    application::start(&machine);
    apply(&machine, &plain_server("web"));
    wait_ready(&machine, &["web"]);
    let service = |more: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: LoadBalancer, selector: {{app: web}}, \
             ports: [{{port: 8095, targetPort: http}}]{more}}}\n"
        )
    };
    apply(&machine, &service(", externalTrafficPolicy: Local"));
    machine.kubectl_until("get service web -o jsonpath={.status.loadBalancer.ingress}", |ingress| {
        ingress == r#"[{"ip":"192.0.2.10","ipMode":"VIP"}]"#
    });
    let eventually = |to: &str, expected: Option<&str>| eventually(&machine, to, expected);
    eventually("192.0.2.10:8095", Some("web"));
    let port = machine.kubectl("get service web -o jsonpath={.spec.healthCheckNodePort}");
    let health = |count| {
        format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\
             \"serviceProxyHealthy\": true\n}}"
        )
    };
    eventually(&format!("127.0.0.1:{port}"), Some(&health(1)));
    machine.kubectl("label pod web app=other --overwrite");
    eventually(&format!("127.0.0.1:{port}"), Some(&health(0)));
    machine.kubectl("label pod web app=web --overwrite");
    apply(&machine, &service(", externalTrafficPolicy: Cluster, loadBalancerSourceRanges: [203.0.113.0/24]"));
    eventually("192.0.2.10:8095", None);
    apply(&machine, &service(", loadBalancerSourceRanges: [192.0.2.0/24]"));
    eventually("192.0.2.10:8095", Some("web"));
    // A second one that wants the port waits, and says why.
    apply(&machine, &service("").replace("name: web}", "name: late}"));
    machine.kubectl_until("get events -o jsonpath={.items[*].message}", |messages| {
        messages.contains("port 8095/TCP of the nodes is Service default/web's")
    });
    machine.kubectl("delete service web");
    machine.kubectl_until("get service late -o jsonpath={.status.loadBalancer.ingress[0].ip}", |ip| ip == "192.0.2.10");
}

#[test]
fn network_policies_hold_for_pods_that_are_there_and_that_come() {
    let machine = Machine::new();
    application::start(&machine);
    for name in ["server", "friend", "stranger"] {
        apply(&machine, &plain_server(name));
    }
    wait_ready(&machine, &["server", "friend", "stranger"]);
    let to = ip(&machine, "server") + ":8080";
    reaches(&machine, "stranger", &to, true);
    let policy = |spec: &str| {
        format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}\n")
    };
    apply(&machine, &policy("{podSelector: {}, policyTypes: [Ingress]}"));
    reaches(&machine, "friend", &to, false);
    assert_eq!(get(&machine, &to).as_deref(), Some("server"), "the node is exempt");
    apply(
        &machine,
        &policy(
            "{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], \
             ports: [{port: http}]}]}",
        ),
    );
    reaches(&machine, "friend", &to, true);
    reaches(&machine, "stranger", &to, false);
    machine.kubectl("label pod stranger app=friend --overwrite");
    reaches(&machine, "stranger", &to, true);

    // A pod that comes under a policy is never open: its first packet already is not let through.
    apply(&machine, &policy("{podSelector: {matchLabels: {app: late}}, policyTypes: [Egress]}"));
    let late = plain_server("late").replace(
        "exec httpd",
        &format!(
            "for i in 1 2 3 4 5; do nc -w 1 {} </dev/null >/dev/null 2>&1 && echo open; done; echo tried; exec httpd",
            to.replace(':', " ")
        ),
    );
    apply(&machine, &late);
    wait_ready(&machine, &["late"]);
    assert_eq!(machine.kubectl("logs late"), "tried\n");
    machine.timonier("down");
    machine.timonier("up --detach");
    reaches(&machine, "late", &to, false);
    machine.kubectl("delete networkpolicy p");
    reaches(&machine, "late", &to, true);
}
