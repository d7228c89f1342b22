//! Runtime classes: pods that an installed OCI runtime starts.

use std::path::Path;

use crate::application::start;
use crate::machine::Machine;

fn class_and_pod(handler: &str) -> String {
    format!(
        r#"
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {{name: {handler}}}
handler: {handler}
overhead: {{podFixed: {{memory: 16Mi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {handler}}}
spec:
  runtimeClassName: {handler}
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: example.test/web:1
    command: [sh, -c, "echo from {handler} | tee /www/index.html; exec httpd -f -p 8080 -h /www"]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
    resources: {{limits: {{memory: 64Mi, cpu: 200m}}}}
"#
    )
}

#[test]
fn a_class_chooses_the_runtime_of_its_pods() {
    let is_there = |name: &&&str| ["/usr/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(name).is_file());
    let installed: Vec<&str> = ["runc", "crun"].iter().filter(is_there).copied().collect();
    eprintln!(
        "installed OCI runtimes: {}",
        if installed.is_empty() { "none".to_owned() } else { installed.join(", ") }
    );
    let machine = Machine::new();
    let before = machine.traces();
    start(&machine);
    for handler in &installed {
        machine.kubectl_args(&["apply", "-f", "-"], &class_and_pod(handler));
        machine.kubectl(&format!("wait --for=condition=Ready pod/{handler} --timeout=60s"));
        assert_eq!(machine.kubectl(&format!("logs {handler}")), format!("from {handler}\n"));
        let said = machine.kubectl_args(&["exec", "-i", handler, "--", "cat"], "through and back");
        assert_eq!(said, "through and back");
        assert_eq!(machine.kubectl(&format!("get pod {handler} -o jsonpath={{.spec.overhead.memory}}")), "16Mi");
        machine.kubectl(&format!("delete pod {handler} --timeout=60s"));
    }
    // The class is there; its runtime is not.
    machine.kubectl_args(&["apply", "-f", "-"], &class_and_pod("special"));
    let events = "get events --field-selector involvedObject.name=special -o jsonpath={.items[*].message}";
    machine.kubectl_until(events, |events| events.contains(r#"no runtime for "special" is configured"#));
    machine.timonier("reset --yes");
    let left: Vec<_> = machine.traces().difference(&before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
}
