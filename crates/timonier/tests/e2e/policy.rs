//! What bounds and scales workloads, through `kubectl`: disruption budgets, quotas, certificates, metrics, autoscaling.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::application;
use crate::machine::{Machine, text};

const BUDGET: &str = "
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
";

/// A worker that takes all the CPU that it may have, and an autoscaler that sees it.
const BUSY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: busy
        image: "example.test/web:1"
        command: [sh, -c, "while :; do :; done"]
        resources: {requests: {cpu: 50m}, limits: {cpu: 100m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
"#;

#[test]
fn a_drain_waits_for_the_budget_and_goes_on() {
    let machine = Machine::new();
    application::start(&machine);
    machine.kubectl("create deployment web --image=example.test/web:1 --replicas=2 -- sleep 3600");
    machine.kubectl("rollout status deployment/web --timeout=60s");
    machine.kubectl_args(&["apply", "-f", "-"], BUDGET);
    let allowed = "get poddisruptionbudget web -o jsonpath={.status.disruptionsAllowed}/{.status.expectedPods}";
    machine.kubectl_until(allowed, |printed| printed == "1/2");
    let listed = machine.kubectl("get poddisruptionbudget web");
    assert!(listed.contains("MIN AVAILABLE") && listed.contains("ALLOWED DISRUPTIONS"), "{listed}");
    let node = machine.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let drain = format!("drain {node} --ignore-daemonsets --delete-emptydir-data --force --grace-period=0");
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| {
            let output = machine.try_kubectl(&drain.split(' ').collect::<Vec<_>>(), "");
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stderr)
        });
        // One went and nothing takes its place on a node that takes nobody: the other must stay.
        machine.kubectl_until(allowed, |printed| printed == "0/2");
        machine.kubectl("delete poddisruptionbudget web");
        drained.join().unwrap();
    });
    let unschedulable = machine.kubectl("get nodes -o jsonpath={.items[0].spec.unschedulable}");
    assert_eq!(unschedulable, "true");
}

#[test]
fn a_quota_refuses_and_says_what_is_used() {
    let machine = Machine::new();
    application::start(&machine);
    machine.kubectl("create quota small --hard=pods=1,count/configmaps=9");
    let used = "get quota small -o jsonpath={.status.used.pods}";
    machine.kubectl_until(used, |printed| printed == "0");
    let run = |name: &str| format!("run {name} --image=example.test/web:1 --restart=Never --command -- sleep 3600");
    machine.kubectl(&run("first"));
    machine.kubectl_until(used, |printed| printed == "1");
    let refused = machine.try_kubectl(&run("second").split(' ').collect::<Vec<_>>(), "");
    let why = text(&refused.stderr);
    let expected =
        "pods \"second\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1";
    assert!(!refused.status.success() && why.contains(expected), "{why}");
    machine.kubectl("delete pod first --now");
    machine.kubectl_until(used, |printed| printed == "0");
    machine.kubectl(&run("second"));

    // A secret of an account's holds a token that lets its bearer in, until it goes.
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: token, annotations: {kubernetes.io/service-account.name: \
                  default}}\ntype: kubernetes.io/service-account-token\n";
    machine.kubectl_args(&["apply", "-f", "-"], secret);
    let held = machine.kubectl_until("get secret token -o jsonpath={.data.token}", |printed| !printed.is_empty());
    let token = String::from_utf8(STANDARD.decode(held).unwrap()).unwrap();
    let review = |token: &str| {
        let review = format!(
            "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nmetadata: {{name: x}}\nspec: {{token: {token}}}\n"
        );
        machine
            .kubectl_args(&["create", "--validate=false", "-f", "-", "-o", "jsonpath={.status.user.username}"], &review)
    };
    assert_eq!(review(&token), "system:serviceaccount:default:default");
    machine.kubectl("delete secret token");
    assert_eq!(review(&token), "");

    // A person asks for a certificate, and an administrator grants it.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    let request = STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap());
    let csr = |name: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec: {{request: \
             {request}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], expirationSeconds: 3600}}\n"
        )
    };
    machine.kubectl_args(&["apply", "-f", "-"], &csr("jane"));
    machine.kubectl_args(&["apply", "-f", "-"], &csr("john"));
    let approved = machine.kubectl("certificate approve jane");
    assert_eq!(approved, "certificatesigningrequest.certificates.k8s.io/jane approved\n");
    machine.kubectl("certificate deny john");
    let certificate =
        machine.kubectl_until("get csr jane -o jsonpath={.status.certificate}", |printed| !printed.is_empty());
    let pem = String::from_utf8(STANDARD.decode(certificate).unwrap()).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"), "{pem}");
    let listed = machine.kubectl("get csr");
    assert!(listed.contains("Approved,Issued") && listed.contains("Denied"), "{listed}");
}

#[test]
fn usage_is_shown_and_scaled_by() {
    let machine = Machine::new();
    application::start(&machine);
    machine.kubectl_args(&["apply", "-f", "-"], BUSY);
    machine.kubectl("rollout status deployment/busy --timeout=60s");
    let nodes = machine.kubectl_until("top nodes", |printed| printed.lines().count() == 2);
    assert!(nodes.starts_with("NAME") && nodes.contains("CPU(cores)") && nodes.contains('%'), "{nodes}");
    let pods = machine.kubectl_until("top pods --containers", |printed| printed.contains("busy"));
    assert!(pods.contains("Mi") && pods.contains('m'), "{pods}");
    let desired = "get hpa busy -o jsonpath={.status.desiredReplicas}";
    machine.kubectl_until(desired, |printed| printed == "2");
    machine.kubectl("rollout status deployment/busy --timeout=60s");
    let described = machine.kubectl("describe hpa busy");
    assert!(described.contains("SuccessfulRescale") && described.contains("above target"), "{described}");
}
