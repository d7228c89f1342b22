//! Counting, ends and repair of a Job, undisturbed and with every write failing.

use control::harness::{Api, Step, check_converges};

use super::*;
use crate::fixtures::{pod_template, settings, until, with_controller};

fn job(spec: &Value) -> Value {
    let mut template = pod_template("work", "i");
    template["spec"]["restartPolicy"] = "Never".into();
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work", "namespace": "n"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "selector": {"matchLabels": {"app": "work"}}, "template": template}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

fn status(api: &Api) -> Value {
    api.get(resources::JOBS, "n", "work").expect("the job")["status"].clone()
}

fn condition(api: &Api, kind: &str) -> Option<String> {
    let status = status(api);
    let found = conditions::find(&status, kind).filter(|found| found["status"] == "True")?;
    found["reason"].as_str().map(str::to_owned)
}

/// Ends every pod that runs, with that phase. False if there was none.
fn end_all(api: &Api, phase: &str) -> bool {
    api.change_each(resources::PODS, |pod| end(api, pod, phase))
}

fn end(api: &Api, pod: &mut Value, phase: &str) -> bool {
    let running = pod["status"]["phase"].is_null();
    if running {
        let now = machinery::time::seconds(base::Clock::now(&api.clock()));
        pod["status"] = json!({"phase": phase, "containerStatuses":
            [{"name": "c", "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": now}}}]});
    }
    running
}

fn change(api: &Api, change: impl Fn(&mut Value)) {
    api.change_each(resources::JOBS, |job| {
        change(&mut job["spec"]);
        true
    });
}

fn running(api: &Api) -> usize {
    api.list(resources::PODS).iter().filter(|pod| pod["status"]["phase"].is_null()).count()
}

fn tracked(api: &Api) -> usize {
    let pods = api.list(resources::PODS).into_iter();
    pods.filter(|pod| pod["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())).count()
}

/// Conformance: "should run a job to completion when tasks sometimes fail and are not locally restarted".
#[tokio::test(start_paused = true)]
async fn each_success_counts_once() {
    let steps = [
        Step::Do(&|api| assert_eq!((running(api), &status(api)["active"]), (2, &json!(2)))),
        Step::UntilUnchanged(&|api| end_all(api, "Succeeded")),
    ];
    let end =
        check_converges(&CONTROLLER, settings(), &[job(&json!({"completions": 3, "parallelism": 2}))], &steps).await;
    let status = status(&end);
    assert_eq!(
        (&status["succeeded"], &status["uncountedTerminatedPods"], &status["active"], &status["ready"]),
        (&json!(3), &json!({}), &Value::Null, &json!(0))
    );
    assert_eq!(condition(&end, "Complete").as_deref(), Some("CompletionsReached"));
    assert_eq!(condition(&end, "SuccessCriteriaMet").as_deref(), Some("CompletionsReached"));
    assert!(status["completionTime"].is_string() && status["startTime"].is_string());
    assert_eq!(tracked(&end), 0);
}

/// Conformance: "should fail to exceed backoffLimit".
#[tokio::test(start_paused = true)]
async fn failures_are_counted_and_waited_for() {
    let steps = [
        Step::Do(&|api| assert!(end_all(api, "Failed"))),
        Step::Do(&|api| assert_eq!(running(api), 0, "not before 10 seconds")),
        Step::Wait(Duration::from_secs(11)),
        Step::Do(&|api| assert_eq!((running(api), &status(api)["failed"]), (1, &json!(1)))),
        Step::Do(&|api| assert!(end_all(api, "Failed"))),
        Step::Wait(Duration::from_secs(1)),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[job(&json!({"backoffLimit": 1}))], &steps).await;
    assert_eq!(status(&end)["failed"], 2);
    assert_eq!(condition(&end, "Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!((tracked(&end), end.list(resources::PODS).len()), (0, 2));
}

/// Conformance: "should create pods for an Indexed job with completion indexes and specified hostname".
#[tokio::test(start_paused = true)]
async fn indexed_jobs_run_every_index() {
    let spec = json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"});
    let steps = [
        Step::Do(&|api| {
            let pods = api.list(resources::PODS);
            let pod = pods.iter().find(|pod| pod["metadata"]["labels"][pods::INDEX_LABEL] == "2").expect("index 2");
            assert_eq!(
                (&pod["spec"]["hostname"], &pod["metadata"]["generateName"]),
                (&json!("work-2"), &json!("work-2-"))
            );
            let variable = &pod["spec"]["containers"][0]["env"][0];
            assert_eq!(variable["name"], "JOB_COMPLETION_INDEX");
            api.change_each(resources::PODS, |pod| {
                pod["metadata"]["labels"][pods::INDEX_LABEL] != "1" && end(api, pod, "Succeeded")
            });
        }),
        Step::Do(&|api| {
            assert_eq!((&status(api)["completedIndexes"], &status(api)["succeeded"]), (&json!("0,2"), &json!(2)));
            assert_eq!(running(api), 2, "1 still, and now 3");
        }),
        Step::UntilUnchanged(&|api| end_all(api, "Succeeded")),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[job(&spec)], &steps).await;
    assert_eq!(status(&end)["completedIndexes"], "0-3");
    assert_eq!((condition(&end, "Complete").is_some(), tracked(&end)), (true, 0));
}

/// Conformance: "should execute all indexes despite some failing when using backoffLimitPerIndex", "should mark indexes as
/// failed when the FailIndex action is matched in podFailurePolicy".
#[tokio::test(start_paused = true)]
async fn indexes_fail_by_themselves() {
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
        "backoffLimit": i32::MAX});
    let fail = |api: &Api| {
        api.change_each(resources::PODS, |pod| {
            let phase = if pod["metadata"]["labels"][pods::INDEX_LABEL] == "0" { "Failed" } else { "Succeeded" };
            end(api, pod, phase)
        });
    };
    let steps = [
        Step::Do(&fail),
        Step::Wait(Duration::from_secs(11)),
        Step::Do(&|api| {
            let pods = api.list(resources::PODS);
            let again = pods.iter().find(|pod| pod["status"]["phase"].is_null()).expect("a second try");
            assert_eq!(again["metadata"]["annotations"][pods::INDEX_FAILURES], "1");
        }),
        Step::Do(&fail),
        Step::Wait(Duration::from_secs(1)),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[job(&spec)], &steps).await;
    let status = status(&end);
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"], &status["succeeded"], &status["failed"]),
        (&json!("1"), &json!("0"), &json!(1), &json!(2))
    );
    assert_eq!((condition(&end, "Failed").as_deref(), tracked(&end)), (Some("FailedIndexes"), 0));
}

/// Conformance: "should allow to use a pod failure policy to ignore failure matching on exit code", "should allow to use
/// the pod failure policy on exit code to fail the job early".
#[tokio::test(start_paused = true)]
async fn a_failure_policy_ignores_or_ends() {
    let spec = json!({"parallelism": 2, "completions": 2, "backoffLimit": 0, "podFailurePolicy": {"rules": [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]}});
    let exit = |code: u32| {
        move |api: &Api| {
            let name = api.list(resources::PODS).into_iter().find(|pod| pod["status"]["phase"].is_null());
            let mut pod = name.expect("a running pod");
            pod["status"] = json!({"phase": "Failed", "containerStatuses": [{"name": "c", "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": "2030-01-01T00:00:00Z"}}}]});
            api.put(pod);
        }
    };
    let (ignored, fatal) = (exit(7), exit(42));
    let steps = [
        Step::Do(&ignored),
        Step::Wait(Duration::from_secs(11)),
        Step::Do(&|api| assert_eq!((running(api), &status(api)["failed"]), (2, &Value::Null))),
        Step::Do(&fatal),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[job(&spec)], &steps).await;
    assert_eq!(condition(&end, "Failed").as_deref(), Some("PodFailurePolicy"));
    assert_eq!((running(&end), tracked(&end)), (0, 0));
}

/// Conformance: "with successPolicy should succeeded when all indexes succeeded", "with successPolicy succeededCount rule
/// should succeeded even when some indexes remain pending".
#[tokio::test(start_paused = true)]
async fn a_success_policy_ends_the_rest() {
    let spec = json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    let one = |api: &Api| {
        api.change_each(resources::PODS, |pod| {
            pod["metadata"]["labels"][pods::INDEX_LABEL] == "1" && end(api, pod, "Succeeded")
        });
    };
    let end = check_converges(&CONTROLLER, settings(), &[job(&spec)], &[Step::Do(&one)]).await;
    assert_eq!(condition(&end, "Complete").as_deref(), Some("SuccessPolicy"));
    assert_eq!((running(&end), tracked(&end), &status(&end)["completedIndexes"]), (0, 0, &json!("1")));
}

/// Conformance: "should not create pods when created in suspend state", "should delete pods when suspended".
#[tokio::test(start_paused = true)]
async fn suspended_jobs_have_no_pods_and_come_back() {
    let steps = [
        Step::Do(&|api| {
            assert_eq!((running(api), condition(api, "Suspended").as_deref()), (0, Some("JobSuspended")));
            assert!(status(api)["startTime"].is_null());
            change(api, |spec| spec["suspend"] = false.into());
        }),
        Step::Do(&|api| {
            assert_eq!((running(api), condition(api, "Suspended")), (2, None));
            assert!(status(api)["startTime"].is_string());
            change(api, |spec| spec["suspend"] = true.into());
        }),
        Step::Do(&|api| assert_eq!((running(api), &status(api)["failed"]), (0, &Value::Null), "none has failed")),
        Step::Do(&|api| change(api, |spec| spec["suspend"] = false.into())),
        Step::UntilUnchanged(&|api| end_all(api, "Succeeded")),
    ];
    let spec = json!({"suspend": true, "parallelism": 2, "completions": 2});
    let end = check_converges(&CONTROLLER, settings(), &[job(&spec)], &steps).await;
    assert_eq!(condition(&end, "Complete").as_deref(), Some("CompletionsReached"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_job() {
    let steps = [Step::Wait(Duration::from_secs(61))];
    let end = check_converges(&CONTROLLER, settings(), &[job(&json!({"activeDeadlineSeconds": 60}))], &steps).await;
    assert_eq!(condition(&end, "Failed").as_deref(), Some("DeadlineExceeded"));
    assert_eq!((end.list(resources::PODS).len(), &status(&end)["failed"]), (0, &json!(1)));
}

/// Conformance: "should adopt matching orphans and release non-matching pods", "should delete a job".
#[tokio::test(start_paused = true)]
async fn pods_are_adopted_released_and_let_go() {
    let orphan = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "orphan", "namespace": "n", "labels": {"app": "work"}}, "spec": {}});
    let steps = [
        Step::Do(&|api| {
            assert_eq!((running(api), tracked(api)), (1, 1), "the orphan is the one");
            let mut pod = api.get(resources::PODS, "n", "orphan").expect("the pod");
            pod["metadata"]["labels"] = json!({});
            api.put(pod);
        }),
        Step::Do(&|api| {
            let pod = api.get(resources::PODS, "n", "orphan").expect("the pod");
            assert_eq!(pod["metadata"]["ownerReferences"], json!([]));
            assert_eq!((running(api), tracked(api)), (2, 1));
        }),
        // The job goes, and leaves its pod to the garbage collector: nothing may hold it.
        Step::Do(&|api| api.delete(resources::JOBS, "n", "work")),
        Step::Do(&|api| assert_eq!(tracked(api), 0)),
    ];
    check_converges(&CONTROLLER, settings(), &[job(&json!({})), orphan], &steps).await;
}

/// A write for each pod that is made and one for each that is counted, a few for the status, and no read at all.
#[tokio::test(start_paused = true)]
async fn a_thousand_pods_cost_a_thousand_times_as_much_as_one() {
    const PODS: usize = 1000;
    let spec = json!({"completions": PODS, "parallelism": PODS, "completionMode": "Indexed"});
    with_controller(&CONTROLLER, [job(&spec)], async |api| {
        until(api, "all run", |api| running(api) == PODS).await;
        let started = api.writes();
        assert!(started <= PODS + 20, "{started} writes");
        end_all(api, "Succeeded");
        until(api, "the job is complete", |api| condition(api, "Complete").is_some()).await;
        let counted = api.writes() - started;
        assert!(counted <= PODS + 20, "{counted} writes");
        assert!(api.reads() <= 5, "{} reads: the caches' own, and nothing else", api.reads());
        assert_eq!((status(api)["succeeded"].as_u64(), tracked(api)), (Some(PODS as u64), 0));
    })
    .await;
}
