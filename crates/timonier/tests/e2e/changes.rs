//! Every way in which `kubectl` changes an object, without a warning.

use serde_json::Value;

use crate::machine::{Machine, text};

/// Nothing runs: what is tested is how objects change.
const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  labels: {app: web}\nspec:\n  replicas: 0\n  \
     selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - \
     {name: web, image: nginx, env: [{name: A, value: \"1\"}]}\n";

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: \"1\", b: \"2\"}\n";

fn managers(machine: &Machine, object: &str) -> Vec<String> {
    let object: Value =
        serde_json::from_str(&machine.kubectl(&format!("get {object} -o json --show-managed-fields"))).unwrap();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| {
        let field = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", field("manager"), field("operation"), field("subresource")).trim_end().to_owned()
    };
    entries.iter().map(name).collect()
}

#[test]
fn server_side_apply_from_a_terminal() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    let apply = ["apply", "--server-side", "-f", "-"];
    assert_eq!(machine.kubectl_args(&apply, CONFIG_MAP), "configmap/settings serverside-applied\n");
    assert_eq!(managers(&machine, "cm/settings"), ["kubectl Apply"]);
    // Another manager sees who owns what, and takes it when told to.
    let other = CONFIG_MAP.replace("a: \"1\", b: \"2\"", "a: \"3\"");
    let by_other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let refused = machine.try_kubectl(&by_other, &other);
    let message = text(&refused.stderr);
    assert!(
        !refused.status.success()
            && message.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .data.a"),
        "{message}"
    );
    let diff = machine
        .try_kubectl(&["diff", "--server-side", "--force-conflicts", "--field-manager=other", "-f", "-"], &other);
    assert_eq!(diff.status.code(), Some(1), "{}", text(&diff.stderr));
    assert!(text(&diff.stdout).contains("+  a: \"3\""), "{}", text(&diff.stdout));
    let forced = ["apply", "--server-side", "--force-conflicts", "--field-manager=other", "-f", "-"];
    let dry: Vec<&str> = forced.iter().copied().chain(["--dry-run=server"]).collect();
    assert_eq!(machine.kubectl_args(&dry, &other), "configmap/settings serverside-applied (server dry run)\n");
    assert_eq!(machine.kubectl("get cm settings -o jsonpath={.data.a}"), "1");
    machine.kubectl_args(&forced, &other);
    assert_eq!(machine.kubectl("get cm settings -o jsonpath={.data.a}"), "3");
    // What kubectl leaves out now is the other's, and stays; what is its own goes.
    let less = CONFIG_MAP.replace("a: \"1\", b: \"2\"", "c: \"4\"");
    machine.kubectl_args(&apply, &less);
    assert_eq!(machine.kubectl("get cm settings -o jsonpath={.data}"), r#"{"a":"3","c":"4"}"#);
    // Fields of the server's are not in the way.
    let unknown = machine.try_kubectl(&apply, &CONFIG_MAP.replace("\ndata:", "\ndate:"));
    assert!(text(&unknown.stderr).contains(".date: field not declared in schema"), "{}", text(&unknown.stderr));
    assert!(!machine.kubectl("get cm settings -o yaml").contains("managedFields"));
}

#[test]
fn from_client_side_to_server_side_apply() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    machine.kubectl_args(&["apply", "-f", "-"], DEPLOYMENT);
    let first = managers(&machine, "deploy/web");
    assert!(first.contains(&"kubectl-client-side-apply Update".to_owned()), "{first:?}");
    assert_eq!(machine.kubectl_args(&["apply", "-f", "-"], DEPLOYMENT), "deployment.apps/web unchanged\n");
    // kubectl takes over what it applied itself: no conflict, and nothing is left to the old way.
    let changed = DEPLOYMENT.replace("image: nginx", "image: caddy");
    assert_eq!(
        machine.kubectl_args(&["apply", "--server-side", "-f", "-"], &changed),
        "deployment.apps/web serverside-applied\n"
    );
    let now = managers(&machine, "deploy/web");
    assert!(now.contains(&"kubectl Apply".to_owned()), "{now:?}");
    assert!(!now.contains(&"kubectl-client-side-apply Update".to_owned()), "{now:?}");
    let less = changed.replace(", env: [{name: A, value: \"1\"}]", "");
    machine.kubectl_args(&["apply", "--server-side", "-f", "-"], &less);
    assert_eq!(machine.kubectl("get deploy web -o jsonpath={.spec.template.spec.containers[0].env}"), "");
    // And back again.
    machine.kubectl_args(&["apply", "-f", "-"], DEPLOYMENT);
    assert_eq!(machine.kubectl("get deploy web -o jsonpath={.spec.template.spec.containers[0].image}"), "nginx");
    assert_eq!(machine.kubectl("scale deploy web --replicas=0"), "deployment.apps/web scaled\n");
}

#[test]
fn every_other_change() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    machine.kubectl_args(&["create", "-f", "-"], DEPLOYMENT);
    let table = [
        ("label deploy web tier=front", "deployment.apps/web labeled\n"),
        ("label deploy web tier=back --overwrite", "deployment.apps/web labeled\n"),
        ("label deploy web tier-", "deployment.apps/web unlabeled\n"),
        ("annotate deploy web note=x", "deployment.apps/web annotated\n"),
        ("annotate deploy web note-", "deployment.apps/web annotated\n"),
        ("set image deploy/web web=httpd", "deployment.apps/web image updated\n"),
        ("set env deploy/web B=2", "deployment.apps/web env updated\n"),
        ("set resources deploy/web --limits=cpu=1", "deployment.apps/web resource requirements updated\n"),
        ("set serviceaccount deploy/web default", "deployment.apps/web serviceaccount updated\n"),
        ("patch deploy web -p {\"spec\":{\"paused\":true}}", "deployment.apps/web patched\n"),
        ("patch deploy web --type=merge -p {\"spec\":{\"paused\":null}}", "deployment.apps/web patched\n"),
        (
            "patch deploy web --type=json -p [{\"op\":\"add\",\"path\":\"/spec/minReadySeconds\",\"value\":1}]",
            "deployment.apps/web patched\n",
        ),
        ("scale deploy web --replicas=0 --current-replicas=0", "deployment.apps/web scaled\n"),
    ];
    for (command, expected) in table {
        assert_eq!(machine.kubectl(command), expected, "{command}");
    }
    // kubectl tells by the revision, which the controller's own writes move until the deployment is at rest.
    let unchanged = |answer: &str| answer.ends_with(" patched (no change)\n");
    machine
        .kubectl_until("patch deploy web --subresource=scale --type=merge -p {\"spec\":{\"replicas\":0}}", unchanged);
    machine.kubectl_until("patch deploy web --type=merge -p {}", unchanged);
    let dry = machine.kubectl("delete deploy web --dry-run=server");
    assert!(dry.starts_with("deployment.apps \"web\" deleted") && dry.ends_with("(server dry run)\n"), "{dry}");
    let containers = machine.kubectl("get deploy web -o jsonpath={.spec.template.spec.containers[0].env[*].name}");
    assert_eq!(containers, "A B");
    replaced_and_edited(&machine);
    // What is named after a prefix gets a name of its own.
    let generated = CONFIG_MAP.replace("name: settings", "generateName: settings-");
    for _ in 0..2 {
        machine.kubectl_args(&["create", "-f", "-"], &generated);
    }
    assert_eq!(machine.kubectl("get cm -o name").matches("configmap/settings-").count(), 2);
    assert!(machine.kubectl("delete cm --all").matches("deleted").count() >= 2);
}

fn replaced_and_edited(machine: &Machine) {
    let whole = machine.kubectl("get deploy web -o yaml");
    let uid = || machine.kubectl("get deploy web -o jsonpath={.metadata.uid}");
    let before = uid();
    assert_eq!(machine.kubectl_args(&["replace", "-f", "-"], &whole), "deployment.apps/web replaced\n");
    // The version in the file is the one that was there before.
    machine.kubectl("label deploy web moved=on");
    let refused = machine.try_kubectl(&["replace", "-f", "-"], &whole);
    assert!(
        text(&refused.stderr).contains("the object has been modified; please apply your changes to the latest version")
    );
    assert_eq!(uid(), before);
    let forced = machine.kubectl_args(&["replace", "--force", "-f", "-"], DEPLOYMENT);
    assert!(forced.ends_with("deployment.apps/web replaced\n"), "{forced}");
    assert_ne!(uid(), before);
    // An editor that changes one line; what is invalid, kubectl would bring back to it for ever.
    let editor = machine.folder().join("editor.sh");
    std::fs::write(&editor, "exec sed -i 's/^  replicas: 0/&\\n  minReadySeconds: 7/' \"$1\"\n").unwrap();
    let mut command = machine.command("kubectl");
    command.env("KUBE_EDITOR", format!("sh {}", editor.display()));
    let output = command.args(["edit", "deploy", "web"]).output().unwrap();
    assert_eq!(text(&output.stdout), "deployment.apps/web edited\n", "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    assert_eq!(machine.kubectl("get deploy web -o jsonpath={.spec.minReadySeconds}"), "7");
}
