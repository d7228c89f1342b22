//! Every `kubectl` that is installed takes a shorter walk: clients of other minor versions speak other dialects.
//!
//! They are looked for beside the `kubectl` on the path, and in the folder that `TIMONIER_TEST_KUBECTLS` names, under names
//! such as `kubectl.1.28`. The walk says with which it ran.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::application::{deploy, start};
use crate::machine::{Machine, text};

/// The minor versions that are looked for: as far back as there is something to be found installed.
const MINORS: std::ops::RangeInclusive<u32> = 27..=36;

#[test]
fn each_installed_kubectl_takes_a_walk() {
    let found = installed();
    let minors: Vec<String> = found.iter().map(|(minor, _)| format!("1.{minor}")).collect();
    eprintln!("kubectl of {}", if found.is_empty() { "no other version".to_owned() } else { minors.join(", ") });
    if found.is_empty() {
        return;
    }
    let machine = Machine::new();
    start(&machine);
    deploy(&machine);
    for (minor, program) in &found {
        walk(&Client { machine: &machine, program, minor: *minor });
    }
}

/// The versions that are installed beside the system's own.
pub(crate) fn installed() -> Vec<(u32, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file());
    let beside = on_path.and_then(|file| Some(file.canonicalize().ok()?.parent()?.to_owned()));
    let named = std::env::var_os("TIMONIER_TEST_KUBECTLS").map(PathBuf::from);
    let folders: Vec<PathBuf> = named.into_iter().chain(beside).collect();
    let find =
        |minor| folders.iter().map(|folder| folder.join(format!("kubectl.1.{minor}"))).find(|file| file.is_file());
    MINORS.filter_map(|minor| Some((minor, find(minor)?))).collect()
}

struct Client<'a> {
    machine: &'a Machine,
    program: &'a Path,
    minor: u32,
}

impl Client<'_> {
    fn run(&self, args: &[&str], input: &str) -> Output {
        self.machine.try_program(self.program.to_str().unwrap(), args, input)
    }

    /// Must succeed without a warning, and print all of `wanted`.
    #[track_caller]
    fn prints(&self, args: &[&str], input: &str, wanted: &[&str]) {
        let output = self.run(args, input);
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        let shown = format!("kubectl 1.{} {}", self.minor, args.join(" "));
        assert!(output.status.success() && !errors.contains("Warning"), "{shown}: {printed}{errors}");
        for text in wanted {
            assert!(printed.contains(text), "{shown}: no {text:?} in\n{printed}");
        }
    }

    #[track_caller]
    fn does(&self, args: &str, wanted: &[&str]) {
        self.prints(&args.split(' ').collect::<Vec<_>>(), "", wanted);
    }
}

fn walk(client: &Client<'_>) {
    looks(client);
    applies(client);
    changes(client);
}

/// `version`, `api-resources`, `explain`, `get` in its forms, `describe`, `auth`.
fn looks(client: &Client<'_>) {
    // Up to 1.27 the short form wanted a flag.
    client.does("version -o yaml", &["gitVersion: v1.36"]);
    client.does("api-resources", &["deployments", "apps/v1"]);
    client.does("explain pod.spec.containers.livenessProbe.httpGet.path", &["Path to access on the HTTP server"]);
    client.does("explain deployment.spec.strategy.rollingUpdate", &["maxSurge", "maxUnavailable"]);
    client.does("get pods -o wide", &["NOMINATED NODE", "Running"]);
    client.does("get deployments,services,nodes", &["UP-TO-DATE", "CLUSTER-IP", "VERSION"]);
    client.does("get all", &["deployment.apps/web"]);
    client.does("get deployment web -o yaml", &["kind: Deployment"]);
    client.does("get deployment web -o jsonpath={.metadata.name}", &["web"]);
    client.does("get pods --chunk-size=1 -A --sort-by=.metadata.name", &["web-"]);
    client.does("describe deployment web", &["RollingUpdateStrategy"]);
    client.does("describe node", &["Allocated resources"]);
    client.does("events", &["Scheduled"]);
    client.does("logs deployment/web --tail=1", &["serving"]);
    client.does("exec deployment/web -- echo ahoy", &["ahoy"]);
    client.does("auth can-i create pods", &["yes"]);
    // `auth whoami` came with 1.28.
    if client.minor >= 28 {
        client.does("auth whoami", &["ATTRIBUTE", "system:masters"]);
    }
}

/// `create`, `apply` from both sides, `diff`, `replace`, `delete`.
fn applies(client: &Client<'_>) {
    let settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: walk}\ndata: {one: \"1\"}\n";
    let more = settings.replace("one: \"1\"", "one: \"2\", two: \"2\"");
    let apply = ["apply", "-f", "-"];
    client.prints(&apply, settings, &["configmap/walk created"]);
    client.prints(&apply, settings, &["configmap/walk unchanged"]);
    assert_eq!(client.run(&["diff", "-f", "-"], &more).status.code(), Some(1), "kubectl 1.{} diff", client.minor);
    client.prints(&apply, &more, &["configmap/walk configured"]);
    client.prints(&["apply", "--server-side", "-f", "-"], settings, &["configmap/walk serverside-applied"]);
    client.does("get configmap walk -o jsonpath={.data}", &[r#"{"one":"1"}"#]);
    let unknown = client.run(&apply, &settings.replace("\ndata:", "\ndada:"));
    assert!(text(&unknown.stderr).contains("unknown field \"dada\""), "{}", text(&unknown.stderr));
    client.prints(&["replace", "-f", "-"], &more, &["configmap/walk replaced"]);
    client.does("delete configmap walk", &["configmap \"walk\" deleted"]);
    client.does("create namespace walk", &["namespace/walk created"]);
    client.does("create deployment walk -n walk --image=example.test/web:1 --replicas=0", &["created"]);
    client.does("create token default -n walk", &["."]);
    client.does("delete namespace walk --timeout=60s", &["deleted"]);
}

/// `patch`, `label`, `scale`, `rollout`.
fn changes(client: &Client<'_>) {
    let minor = client.minor;
    client.does(&format!("label deployment web minor=a{minor} --overwrite"), &["labeled"]);
    client.does(&format!("annotate deployment web minor=a{minor} --overwrite"), &["deployment.apps/web annotate"]);
    client
        .does(&format!("patch deployment web -p {{\"metadata\":{{\"labels\":{{\"p\":\"a{minor}\"}}}}}}"), &["patched"]);
    client.does("scale deployment web --replicas=1", &["scaled"]);
    client.does("rollout restart deployment web", &["restarted"]);
    client.does("rollout status deployment web --timeout=120s", &["successfully rolled out"]);
    client.does("rollout history deployment web", &["REVISION"]);
    client.does("wait --for=condition=Available deployment web --timeout=60s", &["condition met"]);
}
