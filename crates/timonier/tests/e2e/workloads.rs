//! Workloads through `kubectl`: rollouts and their history, ordered sets, daemons, jobs and schedules, with real pods.

use crate::application;
use crate::machine::Machine;

fn pod_spec(command: &str) -> String {
    format!(
        "{{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: \"example.test/web:1\", \
         command: [sh, -c, \"{command}\"]}}]}}"
    )
}

fn workload(kind: &str, name: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
         {more}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {}\n",
        pod_spec("exec sleep 3600")
    )
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).collect()
}

#[test]
fn rollouts_are_followed_undone_and_restarted() {
    let machine = Machine::new();
    application::start(&machine);
    machine.kubectl("create deployment web --image=example.test/web:1 --replicas=2 -- sleep 3600");
    machine.kubectl("rollout status deployment/web --timeout=60s");
    machine.kubectl("set env deployment/web COLOUR=blue");
    let status = machine.kubectl("rollout status deployment/web --timeout=60s");
    assert!(status.ends_with("deployment \"web\" successfully rolled out\n"), "{status}");
    let history = machine.kubectl("rollout history deployment/web");
    assert!(history.contains("REVISION  CHANGE-CAUSE\n1         <none>\n2         <none>\n"), "{history}");
    let undone = machine.kubectl("rollout undo deployment/web");
    assert_eq!(undone, "deployment.apps/web rolled back\n");
    machine.kubectl("rollout status deployment/web --timeout=60s");
    let history = machine.kubectl("rollout history deployment/web");
    assert!(history.contains("2         <none>\n3         <none>\n"), "{history}");
    machine.kubectl("rollout pause deployment/web");
    machine.kubectl("set env deployment/web COLOUR=red");
    let replicas = machine.kubectl("get replicasets -o name");
    assert_eq!(lines(&replicas).len(), 2, "nothing rolls while it is paused: {replicas}");
    machine.kubectl("rollout resume deployment/web");
    machine.kubectl("rollout status deployment/web --timeout=60s");
    machine.kubectl("rollout restart deployment/web");
    machine.kubectl("rollout status deployment/web --timeout=60s");
    machine.kubectl("scale deployment/web --replicas=1");
    machine.kubectl_until("get deployment web -o jsonpath={.status.replicas}", |replicas| replicas == "1");

    // Left behind by their owners, pods and sets stay, and are taken up again.
    machine.kubectl("delete deployment web --cascade=orphan");
    let kept = machine.kubectl_until("get pods -l app=web -o name", |pods| pods.lines().count() == 1);
    machine.kubectl("create deployment web --image=example.test/web:1 -- sleep 3600");
    machine.kubectl("rollout status deployment/web --timeout=60s");
    assert!(kept.starts_with("pod/web-"), "{kept}");
}

#[test]
fn stateful_sets_keep_their_order_and_daemons_their_nodes() {
    let machine = Machine::new();
    application::start(&machine);
    machine.kubectl_args(
        &["apply", "-f", "-"],
        &workload("StatefulSet", "db", "{serviceName: db, replicas: 2}")
            .replace("  {serviceName: db, replicas: 2}\n", "  serviceName: db\n  replicas: 2\n"),
    );
    let status = machine.kubectl("rollout status statefulset/db --timeout=60s");
    assert!(
        status.contains("partitioned roll out complete: 2 new pods") || status.contains("rolling update complete"),
        "{status}"
    );
    assert_eq!(lines(&machine.kubectl("get pods -l app=db -o name")), ["pod/db-0", "pod/db-1"]);
    let uid = machine.kubectl("get pod db-0 -o jsonpath={.metadata.uid}");
    machine.kubectl("set env statefulset/db COLOUR=blue");
    machine.kubectl("rollout status statefulset/db --timeout=60s");
    assert_ne!(machine.kubectl("get pod db-0 -o jsonpath={.metadata.uid}"), uid);
    let history = machine.kubectl("rollout history statefulset/db");
    assert!(history.contains("1         <none>\n2         <none>\n"), "{history}");
    machine.kubectl("rollout undo statefulset/db");
    machine.kubectl("rollout status statefulset/db --timeout=60s");
    let env = machine.kubectl("get pod db-0 -o jsonpath={.spec.containers[0].env}");
    assert_eq!(env, "");
    machine.kubectl("scale statefulset/db --replicas=0");
    machine.kubectl_until("get pods -l app=db -o name", str::is_empty);

    machine.kubectl_args(&["apply", "-f", "-"], &workload("DaemonSet", "agent", "minReadySeconds: 0"));
    machine.kubectl("rollout status daemonset/agent --timeout=60s");
    let row = machine.kubectl("get daemonset agent --no-headers");
    let columns: Vec<_> = row.split_whitespace().take(7).collect();
    assert_eq!(columns, ["agent", "1", "1", "1", "1", "1", "<none>"]);
    machine.kubectl("set env daemonset/agent COLOUR=blue");
    machine.kubectl("rollout status daemonset/agent --timeout=60s");
    machine.kubectl("rollout undo daemonset/agent");
    machine.kubectl("rollout status daemonset/agent --timeout=60s");
    let revisions = machine.kubectl("rollout history daemonset/agent");
    assert!(revisions.contains("2         <none>\n3         <none>\n"), "{revisions}");
}

#[test]
fn jobs_complete_and_cron_jobs_make_them() {
    let machine = Machine::new();
    application::start(&machine);
    machine.kubectl("create job once --image=example.test/web:1 -- true");
    machine.kubectl("wait --for=condition=Complete job/once --timeout=60s");
    let row = machine.kubectl("get job once --no-headers");
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["once", "Complete", "1/1"]);
    let indexed = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: parts}}\nspec:\n  completions: 3\n  parallelism: 2\n  \
         completionMode: Indexed\n  template:\n    spec: {}\n",
        pod_spec("echo part $JOB_COMPLETION_INDEX").replace("{term", "{restartPolicy: Never, term")
    );
    machine.kubectl_args(&["apply", "-f", "-"], &indexed);
    machine.kubectl("wait --for=condition=Complete job/parts --timeout=60s");
    assert_eq!(machine.kubectl("get job parts -o jsonpath={.status.completedIndexes}"), "0-2");
    let mut said = machine.kubectl("logs -l job-name=parts --tail=1");
    said = lines(&said)
        .iter()
        .map(|line| (*line).to_owned())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    assert_eq!(said, "part 0part 1part 2");
    machine.kubectl("create job fails --image=example.test/web:1 -- false");
    machine.kubectl_args(&["patch", "job", "fails", "-p", r#"{"spec": {"backoffLimit": 0}}"#], "");
    machine.kubectl("wait --for=condition=Failed job/fails --timeout=60s");

    let schedule = ["create", "cronjob", "report", "--image=example.test/web:1", "--schedule=0 0 1 1 *", "--", "true"];
    machine.kubectl_args(&schedule, "");
    machine.kubectl("create job report-now --from=cronjob/report");
    machine.kubectl("wait --for=condition=Complete job/report-now --timeout=60s");
    let row = machine.kubectl("get cronjob report --no-headers");
    assert!(row.split_whitespace().take(2).eq(["report", "0"]), "{row}");
    let refused = machine.try_kubectl(&["create", "cronjob", "bad", "--image=i", "--schedule=often"], "");
    let refused = crate::machine::text(&refused.stderr);
    assert!(
        refused.contains("spec.schedule: Invalid value: \"often\": expected exactly 5 fields, found 1: [often]"),
        "{refused}"
    );

    machine.kubectl("delete job once parts fails");
    machine.kubectl_until("get pods -l job-name -o name", |pods| pods.lines().count() == 1);
}
