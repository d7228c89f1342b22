//! Every verb of `kubectl`, as in a day's work: none may warn, each prints what one expects.

use crate::application::{deploy, start};
use crate::machine::{Machine, text};

/// Asserts that `kubectl ARGS` succeeds without a warning and prints all of `wanted`.
#[track_caller]
pub(crate) fn prints(machine: &Machine, args: &str, wanted: &[&str]) -> String {
    says(machine, &args.split(' ').collect::<Vec<_>>(), "", wanted)
}

/// The same with arguments that hold spaces, and with input.
#[track_caller]
pub(crate) fn says(machine: &Machine, args: &[&str], input: &str, wanted: &[&str]) -> String {
    let printed = machine.kubectl_args(args, input);
    for text in wanted {
        assert!(printed.contains(text), "kubectl {}: no {text:?} in\n{printed}", args.join(" "));
    }
    printed
}

/// Asserts that `kubectl ARGS` fails and says all of `wanted`.
#[track_caller]
pub(crate) fn refused(machine: &Machine, args: &[&str], input: &str, wanted: &[&str]) {
    let output = machine.try_kubectl(args, input);
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(!output.status.success(), "kubectl {} succeeded: {said}", args.join(" "));
    for text in wanted {
        assert!(said.contains(text), "kubectl {}: no {text:?} in\n{said}", args.join(" "));
    }
}

#[test]
fn every_verb_does_what_it_should() {
    let machine = Machine::new();
    start(&machine);
    deploy(&machine);
    looks(&machine);
    explains(&machine);
    creates(&machine);
    applies(&machine);
    changes(&machine);
    runs_and_exposes(&machine);
    debugs(&machine);
    asks_who_may(&machine);
    keeps_nodes(&machine);
    configures(&machine);
}

/// `get` in every form, `describe`, `events`, `logs`, `wait`.
fn looks(machine: &Machine) {
    prints(machine, "get pods", &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "1/1", "Running"]);
    prints(machine, "get pods -o wide", &["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
    prints(
        machine,
        "get deployments,services,nodes,namespaces",
        &["UP-TO-DATE", "CLUSTER-IP", "VERSION", "kube-system"],
    );
    prints(machine, "get all", &["pod/client", "service/web", "deployment.apps/web", "replicaset.apps/web-"]);
    prints(machine, "get deployment web -o json", &["\"kind\": \"Deployment\"", "\"readyReplicas\": 3"]);
    prints(machine, "get deployment web -o yaml", &["kind: Deployment", "readyReplicas: 3"]);
    prints(machine, "get deployment web -o name", &["deployment.apps/web"]);
    prints(machine, "get deployment web -o jsonpath={.spec.replicas}", &["3"]);
    prints(machine, "get deployment web -o go-template={{.metadata.name}}", &["web"]);
    prints(machine, "get pods -o custom-columns=A:.metadata.name,B:.status.phase", &["client", "Running"]);
    prints(machine, "get pods --sort-by=.metadata.name --show-labels", &["app=web"]);
    prints(machine, "get pods -l app=web -L app --no-headers", &["web"]);
    prints(machine, "get pods --field-selector=metadata.name=client", &["client"]);
    prints(machine, "get pods --chunk-size=1 -A", &["client", "web-"]);
    prints(
        machine,
        "get deployment web --show-managed-fields -o yaml",
        &["manager: kubectl-client-side-apply", "f:replicas"],
    );
    prints(machine, "get --raw /apis/apps/v1/namespaces/default/deployments/web/scale", &["\"kind\":\"Scale\""]);
    prints(machine, "describe deployment web", &["RollingUpdateStrategy", "ScalingReplicaSet"]);
    prints(machine, "describe pod client", &["Scheduled", "Successfully assigned default/client", "Started"]);
    prints(machine, "describe service web", &["Endpoints:", ":8080"]);
    prints(machine, "describe node", &["Allocated resources", "Non-terminated Pods"]);
    prints(machine, "describe configmap web", &["greeting", "ahoy"]);
    prints(machine, "events --for pod/client", &["Scheduled", "Pulled", "Started"]);
    prints(machine, "get events --field-selector involvedObject.name=client", &["Scheduled"]);
    prints(machine, "logs deployment/web --tail=1", &["serving"]);
    prints(machine, "logs -l app=web --prefix", &["serving"]);
    prints(machine, "wait --for=jsonpath={.status.phase}=Running pod/client --timeout=30s", &["condition met"]);
    refused(machine, &["get", "pods", "nothing"], "", &["Error from server (NotFound): pods \"nothing\" not found"]);
    refused(machine, &["get", "nonsense"], "", &["the server doesn't have a resource type \"nonsense\""]);
}

/// `explain`, `api-resources`, `api-versions`, `cluster-info`, `version`.
fn explains(machine: &Machine) {
    prints(machine, "explain pod.spec.containers.livenessProbe.httpGet.path", &["Path to access on the HTTP server"]);
    prints(
        machine,
        "explain deployment.spec.strategy.rollingUpdate.maxSurge",
        &["GROUP:      apps", "The maximum number of pods"],
    );
    prints(machine, "explain --recursive networkpolicy.spec", &["ipBlock", "podSelector"]);
    prints(machine, "api-resources", &["deployments", "deploy", "apps/v1", "customresourcedefinitions"]);
    prints(machine, "api-resources --namespaced=false --verbs=list -o wide", &["nodes", "CATEGORIES"]);
    prints(machine, "api-versions", &["apps/v1", "batch/v1", "rbac.authorization.k8s.io/v1"]);
    prints(machine, "cluster-info", &["Kubernetes control plane"]);
    prints(machine, "version", &["Server Version: v1.36"]);
}

/// `create` of everything that it has a verb for, and `delete`.
fn creates(machine: &Machine) {
    for (args, made) in [
        ("namespace made", "namespace/made created"),
        ("configmap made -n made --from-literal=a=b", "configmap/made created"),
        ("secret generic made -n made --from-literal=a=b", "secret/made created"),
        (
            "secret docker-registry pull -n made --docker-server=r.test --docker-username=u --docker-password=p",
            "secret/pull created",
        ),
        ("serviceaccount made -n made", "serviceaccount/made created"),
        ("deployment made -n made --image=example.test/web:1 --replicas=0", "deployment.apps/made created"),
        ("service clusterip made -n made --tcp=80:8080", "service/made created"),
        ("service nodeport port -n made --tcp=80:8080", "service/port created"),
        ("service externalname name -n made --external-name=example.test", "service/name created"),
        ("ingress made -n made --rule=a.test/*=made:80", "ingress.networking.k8s.io/made created"),
        ("role made -n made --verb=get --resource=pods", "role.rbac.authorization.k8s.io/made created"),
        (
            "rolebinding made -n made --role=made --serviceaccount=made:made",
            "rolebinding.rbac.authorization.k8s.io/made created",
        ),
        ("clusterrole made --verb=get --resource=nodes", "clusterrole.rbac.authorization.k8s.io/made created"),
        (
            "clusterrolebinding made --clusterrole=made --user=u",
            "clusterrolebinding.rbac.authorization.k8s.io/made created",
        ),
        ("priorityclass made --value=10", "priorityclass.scheduling.k8s.io/made created"),
        ("quota made -n made --hard=configmaps=50,pods=10", "resourcequota/made created"),
        (
            "poddisruptionbudget made -n made --selector=a=b --min-available=1",
            "poddisruptionbudget.policy/made created",
        ),
        ("cronjob made -n made --image=example.test/web:1 --schedule=@yearly -- true", "cronjob.batch/made created"),
        ("job made -n made --from=cronjob/made", "job.batch/made created"),
    ] {
        prints(machine, &format!("create {args}"), &[made]);
    }
    prints(machine, "create token made -n made --duration=10m", &["."]);
    prints(machine, "wait --for=condition=Complete job/made -n made --timeout=60s", &["condition met"]);
    refused(machine, &["create", "namespace", "made"], "", &["(AlreadyExists): namespaces \"made\" already exists"]);
    refused(machine, &["create", "-f", "-"], "a: [", &["error"]);
    prints(machine, "delete namespace made --timeout=60s", &["namespace \"made\" deleted"]);
    prints(machine, "delete clusterrole/made clusterrolebinding/made priorityclass/made", &["deleted"]);
    refused(machine, &["get", "configmap", "made", "-n", "made"], "", &["NotFound"]);
}

const SETTINGS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {a: b}}
data: {one: "1", two: "2"}
"#;

/// `apply` from the client and on the server, `diff`, `create --save-config`, `replace`, `kustomize`.
fn applies(machine: &Machine) {
    let apply = |input: &str, more: &[&str], wanted: &str| {
        says(machine, &[&["apply", "-f", "-"], more].concat(), input, &[wanted]);
    };
    apply(SETTINGS, &[], "configmap/settings created");
    apply(SETTINGS, &[], "configmap/settings unchanged");
    let changed = SETTINGS.replace("two: \"2\"", "two: \"3\"").replace("{a: b}", "{}");
    let diff = machine.try_kubectl(&["diff", "-f", "-"], &changed);
    assert_eq!(diff.status.code(), Some(1), "{}", text(&diff.stderr));
    let shown = text(&diff.stdout);
    assert!(shown.contains("-  two: \"2\"") && shown.contains("+  two: \"3\""), "{shown}");
    apply(&changed, &["--dry-run=server"], "configmap/settings configured (server dry run)");
    apply(&changed, &[], "configmap/settings configured");
    prints(machine, "get configmap settings -o jsonpath={.data.two}{.metadata.labels}", &["3"]);
    // Now the server merges, and knows whose each field is.
    apply(&changed, &["--server-side"], "configmap/settings serverside-applied");
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {two: \"4\", three: \"3\"}\n";
    let asked = ["apply", "-f", "-", "--server-side", "--field-manager=other"];
    refused(machine, &asked, other, &["Apply failed with 1 conflict", "conflict with \"kubectl\"", ".data.two"]);
    says(machine, &[&asked[..], &["--force-conflicts"]].concat(), other, &["serverside-applied"]);
    prints(machine, "get configmap settings -o jsonpath={.data}", &[r#"{"one":"1","three":"3","two":"4"}"#]);
    let without_three = other.replace(", three: \"3\"", "");
    says(machine, &asked, &without_three, &["serverside-applied"]);
    prints(machine, "get configmap settings -o jsonpath={.data}", &[r#"{"one":"1","two":"4"}"#]);
    says(machine, &["replace", "-f", "-"], SETTINGS, &["configmap/settings replaced"]);
    says(
        machine,
        &["replace", "--force", "-f", "-"],
        SETTINGS,
        &["configmap \"settings\" deleted", "configmap/settings replaced"],
    );
    refused(machine, &["apply", "-f", "-"], &SETTINGS.replace("\ndata:", "\ndada:"), &["unknown field \"dada\""]);
    prints(machine, "delete configmap settings", &["deleted"]);
}

/// `patch`, `label`, `annotate`, `set`, `edit`, `scale`, `autoscale`, `rollout`.
fn changes(machine: &Machine) {
    let deployment = "deployment/web";
    for (kind, patch) in [
        ("strategic", r#"{"metadata":{"annotations":{"p":"1"}}}"#),
        ("merge", r#"{"metadata":{"annotations":{"p":"2"}}}"#),
        ("json", r#"[{"op":"replace","path":"/metadata/annotations/p","value":"3"}]"#),
    ] {
        says(machine, &["patch", deployment, "--type", kind, "-p", patch], "", &["deployment.apps/web patched"]);
    }
    says(
        machine,
        &["patch", deployment, "--subresource=scale", "--type=merge", "-p", r#"{"spec":{"replicas":3}}"#],
        "",
        &["patched"],
    );
    prints(machine, "label deployment/web tier=front", &["labeled"]);
    prints(machine, "label deployment/web tier=back --overwrite", &["labeled"]);
    prints(machine, "label deployment/web tier-", &["unlabeled"]);
    prints(machine, "annotate deployment/web note=x", &["annotated"]);
    prints(machine, "set env deployment/web EXTRA=1", &["deployment.apps/web env updated"]);
    prints(machine, "set resources deployment/web --requests=cpu=1m", &["resource requirements updated"]);
    prints(machine, "rollout status deployment/web --timeout=120s", &["successfully rolled out"]);
    prints(machine, "set image deployment/web web=example.test/missing:1", &["image updated"]);
    prints(machine, "rollout history deployment/web", &["REVISION", "4"]);
    prints(machine, "rollout undo deployment/web", &["rolled back"]);
    prints(machine, "rollout status deployment/web --timeout=120s", &["successfully rolled out"]);
    prints(machine, "rollout pause deployment/web", &["paused"]);
    prints(machine, "rollout resume deployment/web", &["resumed"]);
    prints(machine, "rollout restart deployment/web", &["restarted"]);
    prints(machine, "rollout status deployment/web --timeout=120s", &["successfully rolled out"]);
    prints(machine, "scale deployment/web --replicas=2 --current-replicas=3", &["scaled"]);
    machine.kubectl_until("get deployment web -o jsonpath={.status.readyReplicas}", |ready| ready == "2");
    prints(machine, "autoscale deployment/web --min=2 --max=3", &["autoscaled"]);
    prints(machine, "get hpa web", &["REFERENCE", "Deployment/web", "MINPODS"]);
    prints(machine, "delete hpa web", &["deleted"]);
    let mut edit = machine.command("kubectl");
    let edited = edit.args(["edit", "configmap", "web"]).env("KUBE_EDITOR", "sed -i s/ahoy/avast/").output().unwrap();
    assert!(
        edited.status.success() && text(&edited.stdout).contains("configmap/web edited"),
        "{}",
        text(&edited.stderr)
    );
    prints(machine, "get configmap web -o jsonpath={.data.greeting}", &["avast"]);
}

/// `run`, `expose`, `attach`, `cp`, `delete` in its ways.
fn runs_and_exposes(machine: &Machine) {
    prints(
        machine,
        "run one --image=example.test/web:1 --port=8080 --labels=run=one -- sleep 3600",
        &["pod/one created"],
    );
    prints(machine, "expose pod one --port=80 --target-port=8080 --name=one", &["service/one exposed"]);
    prints(machine, "expose deployment web --type=NodePort --port=80 --target-port=http --name=web-port", &["exposed"]);
    says(
        machine,
        &["run", "once", "-i", "--rm", "--restart=Never", "--image=example.test/web:1", "--quiet", "--", "cat"],
        "said and heard\n",
        &["said and heard"],
    );
    prints(machine, "wait --for=condition=Ready pod/one --timeout=60s", &["condition met"]);
    let here = machine.folder().join("sent");
    std::fs::write(&here, "carried").unwrap();
    let there = "one:/tmp/sent";
    says(machine, &["cp", here.to_str().unwrap(), there], "", &[]);
    prints(machine, "exec one -- cat /tmp/sent", &["carried"]);
    prints(machine, "delete pod one --grace-period=0 --force=false --now=false", &["deleted"]);
    prints(machine, "delete service one web-port --wait=false", &["deleted"]);
    prints(machine, "delete deployment web --cascade=orphan", &["deleted"]);
    prints(machine, "get replicasets -l app=web", &["web-"]);
    prints(machine, "delete replicasets -l app=web --cascade=foreground --timeout=60s", &["deleted"]);
    machine.kubectl_until("get pods -l app=web -o name", str::is_empty);
}

/// `debug` in a running pod, as a copy, and of a node.
fn debugs(machine: &Machine) {
    let into = [
        "debug",
        "client",
        "--image=example.test/web:1",
        "--profile=general",
        "-c",
        "look",
        "--target=client",
        "--quiet",
        "-i",
    ];
    let seen = says(machine, &[&into[..], &["--", "sh", "-c", "cat; ps"]].concat(), "looking in\n", &["looking in"]);
    assert!(seen.contains("sleep 3600"), "it sees the processes of its target: {seen}");
    prints(
        machine,
        "get pod client -o jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.reason}",
        &["Completed"],
    );
    prints(machine, "logs client -c look", &["looking in"]);
    prints(machine, "describe pod client", &["Ephemeral Containers:", "look:"]);
    let copy = [
        "debug",
        "client",
        "--copy-to=copied",
        "--image=example.test/web:1",
        "--profile=general",
        "--share-processes",
        "--quiet",
        "-i",
        "--",
        "cat",
    ];
    says(machine, &copy, "beside\n", &["beside"]);
    prints(machine, "delete pod client copied --now", &["deleted"]);
}

/// `auth`, `certificate` is among the policy tests.
fn asks_who_may(machine: &Machine) {
    prints(machine, "auth whoami", &["Username", "system:masters"]);
    prints(machine, "auth can-i create pods", &["yes"]);
    prints(machine, "auth can-i --list --as=someone", &["selfsubjectaccessreviews"]);
    refused(machine, &["auth", "can-i", "get", "secrets", "--as=someone"], "", &["no"]);
    let who = ["get", "secrets", "--as=someone", "--as-group=people"];
    let why = "secrets is forbidden: User \"someone\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"";
    refused(machine, &who, "", &["(Forbidden)", why]);
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\n\
        rules: [{apiGroups: [\"\"], resources: [pods], verbs: [get, list]}]\n";
    says(machine, &["auth", "reconcile", "-f", "-"], role, &["role.rbac.authorization.k8s.io/reader reconciled"]);
    prints(machine, "delete role reader", &["deleted"]);
}

/// `cordon`, `drain`, `taint`, `top` is among the policy tests.
fn keeps_nodes(machine: &Machine) {
    let node = machine.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    prints(machine, &format!("cordon {node}"), &["cordoned"]);
    prints(machine, "get nodes", &["Ready,SchedulingDisabled"]);
    prints(machine, &format!("drain {node} --ignore-daemonsets --force --timeout=60s"), &["drained"]);
    prints(machine, &format!("uncordon {node}"), &["uncordoned"]);
    prints(machine, &format!("taint nodes {node} a=b:NoSchedule"), &["tainted"]);
    prints(machine, &format!("taint nodes {node} a-"), &["untainted"]);
    prints(machine, &format!("label node {node} a=b"), &["labeled"]);
}

/// `config`, and what asks the API nothing.
fn configures(machine: &Machine) {
    prints(machine, "config view", &["current-context", "DATA+OMITTED"]);
    prints(machine, "config get-contexts", &["CURRENT"]);
    let context = machine.kubectl("config current-context");
    prints(machine, &format!("config set-context {} --namespace=kube-system", context.trim()), &["modified"]);
    prints(machine, "get configmaps", &["extension-apiserver-authentication"]);
    prints(machine, &format!("config set-context {} --namespace=default", context.trim()), &["modified"]);
}
