//! Defaults and complaints of jobs and cron jobs, by table.

use api::resources::{CRON_JOBS, JOBS};
use serde_json::{Value, json};

use crate::registry::tests::Bench;

/// A job as the server stores it.
fn job(bench: &Bench, spec: &Value) -> Value {
    let labels = json!({"controller-uid": "u", "batch.kubernetes.io/controller-uid": "u", "job-name": "work",
        "batch.kubernetes.io/job-name": "work"});
    let mut job = json!({"metadata": {"name": "work", "namespace": "n", "uid": "u"},
        "spec": {"selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}},
            "template": {"metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    bench.defaulted(JOBS, job)
}

#[tokio::test]
async fn defaults_are_upstreams() {
    let bench = Bench::new().await;
    let spec = job(&bench, &json!({}))["spec"].clone();
    let fields = ["completions", "parallelism", "backoffLimit", "completionMode", "suspend", "podReplacementPolicy"];
    assert_eq!(
        json!(fields.map(|field| spec[field].clone())),
        json!([1, 1, 6, "NonIndexed", false, "TerminatingOrFailed"])
    );
    let queue = job(&bench, &json!({"parallelism": 3}));
    assert_eq!(queue["spec"]["completions"], Value::Null);
    assert_eq!(queue["metadata"]["labels"]["job-name"], "work", "the template's labels are the job's");
}

#[tokio::test]
async fn complaints_about_jobs_are_upstreams() {
    let bench = Bench::new().await;
    assert_eq!(bench.complaints(JOBS, &job(&bench, &json!({}))), Vec::<String>::new());
    let rule = |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}});
    let table = [
        (
            json!({"completionMode": "Indexed", "parallelism": 1}),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            json!({"backoffLimitPerIndex": 1}),
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ),
        (
            json!({"completionMode": "Indexed", "completions": 2, "maxFailedIndexes": 1}),
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        ),
        (
            json!({"managedBy": "me"}),
            r#"spec.managedBy: Invalid value: "me": must be a domain-prefixed path (such as "acme.io/foo")"#,
        ),
        (
            rule(json!({"action": "Ignore"})),
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            rule(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 1]}})),
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered",
        ),
        (
            rule(json!({"action": "FailIndex", "onPodConditions": [{"type": "Ready", "status": "True"}]})),
            r#"spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set"#,
        ),
        (
            json!({"completionMode": "Indexed", "completions": 2, "successPolicy": {"rules": [{"succeededIndexes": "2"}]}}),
            "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"2\": error parsing succeededIndexes: too \
             large index: \"2\"",
        ),
    ];
    for (spec, complaint) in table {
        assert_eq!(bench.complaints(JOBS, &job(&bench, &spec)), [complaint]);
    }
    let mut foreign = job(&bench, &json!({}));
    foreign["spec"]["template"]["metadata"]["labels"]["job-name"] = "other".into();
    assert!(bench.complaints(JOBS, &foreign)[0].ends_with("must be 'work'"));
    let mut always = job(&bench, &json!({}));
    always["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    let complaint = r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#;
    assert_eq!(bench.complaints(JOBS, &always), [complaint]);
}

#[tokio::test]
async fn jobs_change_little() {
    let bench = Bench::new().await;
    let old = job(&bench, &json!({}));
    let update = |old: &Value, change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        bench.complaints_of_update(JOBS, &new, old)
    };
    assert!(update(&old, &|job| job["spec"]["parallelism"] = 2.into()).is_empty());
    let completions = update(&old, &|job| job["spec"]["completions"] = 2.into());
    assert_eq!(completions, ["spec.completions: Invalid value: 2: field is immutable"]);
    let place = |job: &mut Value| {
        job["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
        job["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    };
    assert_eq!(update(&old, &place).len(), 1, "not while it runs");
    let suspended = job(&bench, &json!({"suspend": true}));
    assert_eq!(update(&suspended, &place), Vec::<String>::new(), "while it is suspended");
    let image = update(&suspended, &|job| job["spec"]["template"]["spec"]["containers"][0]["image"] = "j".into());
    assert_eq!(image.len(), 1, "never another program");
    let elastic = job(&bench, &json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2}));
    let both = |job: &mut Value| {
        job["spec"]["completions"] = 3.into();
        job["spec"]["parallelism"] = 3.into();
    };
    assert!(update(&elastic, &both).is_empty());
    let alone = update(&elastic, &|job| job["spec"]["completions"] = 3.into());
    assert_eq!(alone, ["spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"]);
}

#[tokio::test]
async fn the_status_of_a_job_is_consistent() {
    let bench = Bench::new().await;
    let with = |status: Value| {
        let mut job = job(&bench, &json!({}));
        job["status"] = status;
        job
    };
    let is = |kind: &str| json!({"type": kind, "status": "True"});
    let running = with(json!({"failed": 1}));
    let at = "2030-01-01T00:00:00Z";
    let table = [
        (json!({"failed": 0}), vec!["status.failed: Invalid value: 0: cannot decrease the failed counter"]),
        (
            json!({"failed": 1, "startTime": at, "conditions": [is("Failed")]}),
            vec![
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
            ],
        ),
        (
            json!({"failed": 1, "ready": 1}),
            vec!["status.ready: Invalid value: 1: cannot set more ready pods than active"],
        ),
        (
            json!({"failed": 1, "startTime": at, "completionTime": at, "conditions": [is("SuccessCriteriaMet"), is("Complete")]}),
            vec![],
        ),
    ];
    for (status, complaints) in table {
        assert_eq!(bench.complaints_of_status(JOBS, &with(status), &running), complaints);
    }
}

#[tokio::test]
async fn complaints_about_cron_jobs_are_upstreams() {
    let bench = Bench::new().await;
    let cron_job = |spec: Value| {
        let mut cron_job = json!({"metadata": {"name": "report"}, "spec": {"schedule": "@hourly",
            "jobTemplate": {"spec": {"template": {"spec":
                {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
        for (field, value) in spec.as_object().into_iter().flatten() {
            cron_job["spec"][field] = value.clone();
        }
        bench.defaulted(CRON_JOBS, cron_job)
    };
    let check = |spec: Value| bench.complaints(CRON_JOBS, &cron_job(spec));
    assert_eq!(check(json!({"timeZone": "Europe/Paris"})), Vec::<String>::new());
    for (spec, complaint) in [
        (
            json!({"schedule": "* * *"}),
            r#"spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]"#,
        ),
        (
            json!({"schedule": "TZ=UTC 0 * * * *"}),
            r#"spec.schedule: Invalid value: "TZ=UTC 0 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"#,
        ),
        (json!({"timeZone": "Mars"}), r#"spec.timeZone: Invalid value: "Mars": unknown time zone Mars"#),
        (
            json!({"concurrencyPolicy": "Never"}),
            r#"spec.concurrencyPolicy: Unsupported value: "Never": supported values: "Allow", "Forbid", "Replace""#,
        ),
    ] {
        assert_eq!(check(spec), [complaint]);
    }
}
