//! Custom resources through `kubectl`, from their definition to their end.

use crate::kubectl::{prints, refused, says};
use crate::machine::{Machine, text};

/// With one of everything: two versions, a schema with defaults, columns, `/status` and `/scale`, short names, a category.
const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all, clocks]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Image, type: string, jsonPath: .spec.image, priority: 1}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema: &schema
      openAPIV3Schema:
        type: object
        description: CronTab runs something again and again.
        required: [spec]
        properties:
          spec:
            type: object
            description: What is run, and when.
            required: [cronSpec]
            properties:
              cronSpec: {type: string, pattern: '^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$', description: When it is run.}
              image: {type: string}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1, description: How many run at a time.}
              policy: {type: string, enum: [Allow, Forbid], default: Allow}
              steps:
                type: array
                description: What is done.
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties:
                    name: {type: string, description: Names the step.}
                    command: {type: string}
          status:
            type: object
            properties:
              replicas: {type: integer}
              selector: {type: string}
              conditions:
                type: array
                items:
                  type: object
                  properties: {type: {type: string}, status: {type: string}}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: *schema
"#;

const TAB: &str = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: nightly, labels: {app: clock}}
spec:
  cronSpec: "0 3 * * *"
  image: example.test/run:1
  steps: [{name: one, command: a}, {name: two, command: b}]
"#;

#[test]
fn custom_resources_from_their_definition_to_their_end() {
    let machine = Machine::new();
    machine.timonier("up --detach");
    says(
        &machine,
        &["apply", "-f", "-"],
        DEFINITION,
        &["customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created"],
    );
    prints(&machine, "wait --for=condition=Established crd/crontabs.stable.example.com --timeout=30s", &["met"]);
    explains(&machine);
    looks(&machine);
    applies(&machine);
    changes(&machine);
    refuses(&machine);
    ends(&machine);
}

/// `api-resources` and `explain`, down to the leaves, in both versions.
fn explains(machine: &Machine) {
    // Until it is published: the document follows its definition a moment later.
    machine.kubectl_until("explain crontab.spec.cronSpec", |printed| printed.contains("When it is run."));
    prints(machine, "api-resources --api-group=stable.example.com", &["crontabs", "ct", "stable.example.com/v1"]);
    prints(machine, "api-resources --categories=clocks -o name", &["crontabs.stable.example.com"]);
    prints(machine, "explain crontabs", &["GROUP:      stable.example.com", "KIND:       CronTab", "VERSION:    v1"]);
    prints(machine, "explain ct", &["CronTab runs something again and again.", "<ObjectMeta>", "-required-"]);
    prints(machine, "explain crontab.spec.replicas", &["FIELD: replicas <integer>", "How many run at a time."]);
    prints(machine, "explain crontab.spec.steps.name", &["FIELD: name <string>", "Names the step."]);
    prints(machine, "explain crontab.spec.policy", &["ENUM:", "Allow", "Forbid"]);
    prints(machine, "explain crontab --recursive", &["cronSpec", "command", "conditions", "managedFields"]);
    prints(machine, "explain crontab.metadata.labels", &["Map of string keys and values"]);
    prints(machine, "explain crontab --api-version=stable.example.com/v1beta1", &["VERSION:    v1beta1"]);
    refused(machine, &["explain", "crontab.spec.nothing"], "", &["field \"nothing\" does not exist"]);
}

/// `create` and `get` in every form.
fn looks(machine: &Machine) {
    says(machine, &["create", "-f", "-"], TAB, &["crontab.stable.example.com/nightly created"]);
    let shown = prints(machine, "get crontabs", &["NAME", "SPEC", "REPLICAS", "AGE", "nightly", "0 3 * * *"]);
    assert!(!shown.contains("IMAGE"), "columns of priority 1 are for the wide form: {shown}");
    prints(machine, "get ct -o wide", &["IMAGE", "example.test/run:1"]);
    prints(machine, "get crontab nightly -o jsonpath={.spec.replicas}{.spec.policy}", &["1Allow"]);
    prints(machine, "get all", &["crontab.stable.example.com/nightly"]);
    prints(machine, "get clocks -A", &["nightly"]);
    prints(machine, "get ct -l app=clock --show-labels", &["app=clock"]);
    prints(machine, "get ct -o name", &["crontab.stable.example.com/nightly"]);
    prints(
        machine,
        "get ct.v1.stable.example.com nightly -o yaml",
        &["apiVersion: stable.example.com/v1", "policy: Allow"],
    );
    prints(machine, "describe ct nightly", &["Cron Spec:", "0 3 * * *", "Kind:         CronTab"]);
    let old = machine.try_kubectl(&["get", "crontabs.v1beta1.stable.example.com", "nightly", "-o", "yaml"], "");
    assert!(text(&old.stdout).contains("apiVersion: stable.example.com/v1beta1"), "{}", text(&old.stdout));
    let warned = "Warning: stable.example.com/v1beta1 CronTab is deprecated";
    assert!(text(&old.stderr).contains(warned), "{}", text(&old.stderr));
    prints(machine, "delete ct nightly", &["crontab.stable.example.com \"nightly\" deleted"]);
}

/// `apply` from both sides, `diff`, `replace`.
fn applies(machine: &Machine) {
    let apply = |input: &str, more: &[&str], wanted: &str| {
        says(machine, &[&["apply", "-f", "-"], more].concat(), input, &[wanted]);
    };
    apply(TAB, &[], "crontab.stable.example.com/nightly created");
    apply(TAB, &[], "crontab.stable.example.com/nightly unchanged");
    let less = TAB.replace("  image: example.test/run:1\n", "");
    let diff = machine.try_kubectl(&["diff", "-f", "-"], &less);
    assert_eq!(diff.status.code(), Some(1), "{}", text(&diff.stderr));
    assert!(text(&diff.stdout).contains("-  image: example.test/run:1"), "{}", text(&diff.stdout));
    apply(&less, &["--dry-run=server"], "configured (server dry run)");
    apply(&less, &[], "crontab.stable.example.com/nightly configured");
    assert_eq!(machine.kubectl("get ct nightly -o jsonpath={.spec.image}"), "");
    apply(&less, &["--server-side"], "crontab.stable.example.com/nightly serverside-applied");
    // A list with keys is merged item by item; what somebody else holds is told by its path.
    let other =
        TAB.replace("{name: one, command: a}, {name: two, command: b}", "{name: two, command: c}, {name: three}");
    let asked = ["apply", "-f", "-", "--server-side", "--field-manager=other"];
    refused(
        machine,
        &asked,
        &other,
        &["Apply failed with 1 conflict", "conflict with \"kubectl\"", ".spec.steps[name=\"two\"].command"],
    );
    says(machine, &[&asked[..], &["--force-conflicts"]].concat(), &other, &["serverside-applied"]);
    prints(machine, "get ct nightly -o jsonpath={.spec.steps[*].name}", &["one two three"]);
    says(machine, &["replace", "-f", "-"], TAB, &["crontab.stable.example.com/nightly replaced"]);
    prints(machine, "get ct nightly -o jsonpath={.spec.steps[*].command}", &["a b"]);
}

/// `patch` in its ways, `edit`, `label`, `scale`, `wait`, `/status`.
fn changes(machine: &Machine) {
    says(
        machine,
        &["patch", "ct", "nightly", "--type=merge", "-p", r#"{"spec":{"image":"i"}}"#],
        "",
        &["crontab.stable.example.com/nightly patched"],
    );
    says(
        machine,
        &[
            "patch",
            "ct",
            "nightly",
            "--type=json",
            "-p",
            r#"[{"op":"replace","path":"/spec/policy","value":"Forbid"}]"#,
        ],
        "",
        &["patched"],
    );
    refused(
        machine,
        &["patch", "ct", "nightly", "-p", r#"{"spec":{"image":"j"}}"#],
        "",
        &["application/strategic-merge-patch+json is not supported by stable.example.com/v1, Kind=CronTab"],
    );
    prints(machine, "get ct nightly -o jsonpath={.spec.image}{.spec.policy}", &["iForbid"]);
    let mut edit = machine.command("kubectl");
    let edited = edit.args(["edit", "ct", "nightly"]).env("KUBE_EDITOR", "true").output().unwrap();
    assert!(text(&edited.stderr).contains("Edit cancelled, no changes made"), "{}", text(&edited.stderr));
    prints(machine, "label ct nightly tier=night", &["labeled"]);
    prints(machine, "annotate ct nightly note=x", &["annotated"]);
    prints(machine, "scale ct nightly --replicas=3", &["crontab.stable.example.com/nightly scaled"]);
    prints(machine, "get ct nightly -o jsonpath={.spec.replicas}", &["3"]);
    refused(machine, &["scale", "ct", "nightly", "--replicas=11"], "", &["spec.replicas", "less than or equal to 10"]);
    let ready = r#"{"status":{"replicas":3,"selector":"app=clock","conditions":[{"type":"Ready","status":"True"}]}}"#;
    says(machine, &["patch", "ct", "nightly", "--type=merge", "-p", ready], "", &["no change"]);
    says(machine, &["patch", "ct", "nightly", "--subresource=status", "--type=merge", "-p", ready], "", &["patched"]);
    prints(machine, "wait --for=condition=Ready ct/nightly --timeout=30s", &["condition met"]);
    prints(machine, "wait --for=jsonpath={.status.replicas}=3 ct/nightly --timeout=30s", &["condition met"]);
    let path = "/apis/stable.example.com/v1/namespaces/default/crontabs/nightly/scale";
    prints(machine, &format!("get --raw {path}"), &["\"selector\":\"app=clock\"", "\"replicas\":3"]);
    prints(machine, "get ct nightly --subresource=scale", &["DESIRED", "AVAILABLE", "3"]);
    prints(machine, "get ct nightly -o jsonpath={.metadata.generation}", &[""]);
}

/// Bad objects, and fields that the schema does not know.
fn refuses(machine: &Machine) {
    let create = ["create", "-f", "-"];
    let bad = TAB.replace("nightly", "bad").replace("\"0 3 * * *\"", "often");
    let invalid =
        "The CronTab \"bad\" is invalid: spec.cronSpec: Invalid value: \"often\": spec.cronSpec in body should match";
    refused(machine, &create, &bad, &[invalid]);
    refused(
        machine,
        &create,
        "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: bad}\n",
        &["spec", "Required value"],
    );
    let policy = TAB.replace("nightly", "bad").replace("\nspec:", "\nspec:\n  policy: Perhaps");
    refused(
        machine,
        &create,
        &policy,
        &["spec.policy: Unsupported value: \"Perhaps\": supported values: \"Allow\", \"Forbid\""],
    );
    let unknown = TAB.replace("nightly", "odd").replace("\nspec:", "\nspec:\n  imagge: x");
    refused(machine, &create, &unknown, &["unknown field \"spec.imagge\""]);
    let warned = machine.try_kubectl(&["create", "--validate=warn", "-f", "-"], &unknown);
    assert!(warned.status.success() && text(&warned.stderr).contains("unknown field \"spec.imagge\""), "{warned:?}");
    let odd = machine.kubectl("get ct odd -o yaml");
    assert!(!odd.contains("imagge"), "what is not known is pruned: {odd}");
    let said = machine.try_kubectl(&["replace", "--validate=ignore", "-f", "-"], &unknown);
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    refused(machine, &["apply", "--server-side", "-f", "-"], &unknown, &[".spec.imagge: field not declared in schema"]);
    refused(
        machine,
        &create,
        &DEFINITION.replace("crontabs.stable", "others.stable"),
        &["metadata.name: Invalid value: \"others.stable.example.com\": must be spec.names.plural+\".\"+spec.group"],
    );
}

/// A namespace takes its custom resources with it, an owner its dependents, and a definition all of its objects.
fn ends(machine: &Machine) {
    prints(machine, "create namespace short", &["created"]);
    says(machine, &["create", "-n", "short", "-f", "-"], TAB, &["created"]);
    prints(machine, "delete namespace short --timeout=60s", &["deleted"]);
    assert_eq!(machine.kubectl("get ct -A -o name --field-selector metadata.namespace=short"), "");
    owns(machine);
    prints(machine, "delete crd crontabs.stable.example.com --timeout=60s", &["deleted"]);
    refused(machine, &["get", "--raw", "/apis/stable.example.com/v1/crontabs"], "", &["NotFound"]);
    says(machine, &["create", "-f", "-"], DEFINITION, &["created"]);
    prints(machine, "wait --for=condition=Established crd/crontabs.stable.example.com --timeout=30s", &["met"]);
    assert_eq!(machine.kubectl("get ct -A -o name"), "", "the objects went with the first definition");
}

fn owns(machine: &Machine) {
    let uid = machine.kubectl("get ct nightly -o jsonpath={.metadata.uid}");
    let owner = format!("{{apiVersion: stable.example.com/v1, kind: CronTab, name: nightly, uid: {uid}}}");
    let owned = |head: &str| format!("{head}metadata: {{name: owned, ownerReferences: [{owner}]}}\n");
    says(machine, &["create", "-f", "-"], &owned("apiVersion: v1\nkind: ConfigMap\n"), &["created"]);
    let tab = owned("apiVersion: stable.example.com/v1\nkind: CronTab\n") + "spec: {cronSpec: \"* * * * *\"}\n";
    says(machine, &["create", "-f", "-"], &tab, &["created"]);
    prints(machine, "delete ct nightly --cascade=foreground --timeout=60s", &["deleted"]);
    refused(machine, &["get", "configmap/owned"], "", &["NotFound"]);
    refused(machine, &["get", "ct/owned"], "", &["NotFound"]);
}
