//! Times, concurrency and history of a CronJob, undisturbed and with every write failing.

use control::harness::{Api, Step, check_converges};

use super::*;
use crate::fixtures::{pod_template, settings};

const HOUR: Step<'static> = Step::Wait(Duration::from_secs(3600));

fn cron_job(spec: &Value) -> Value {
    let mut cron_job = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "report", "namespace": "n"},
        "spec": {"schedule": "@hourly", "concurrencyPolicy": "Allow", "suspend": false,
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"of": "report"}}, "spec": {"template": pod_template("report", "i")}}}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        cron_job["spec"][field] = value.clone();
    }
    cron_job
}

fn status(api: &Api) -> Value {
    api.get(resources::CRON_JOBS, "n", "report").expect("the cron job")["status"].clone()
}

fn names(api: &Api) -> Vec<String> {
    let jobs = api.list(resources::JOBS).into_iter();
    jobs.map(|job| job["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn complete(api: &Api) {
    api.change_each(resources::JOBS, |job| {
        let runs = ended(job).is_none();
        if runs {
            let at = job["metadata"]["annotations"][DUE_ANNOTATION].clone();
            job["status"] = json!({"startTime": at, "completionTime": at,
                "conditions": [{"type": "Complete", "status": "True"}]});
        }
        runs
    });
}

fn active(api: &Api) -> usize {
    status(api)["active"].as_array().map_or(0, Vec::len)
}

/// Conformance: "should schedule multiple jobs concurrently".
#[tokio::test(start_paused = true)]
async fn jobs_come_by_the_hour_and_old_ones_go() {
    let steps = [
        Step::Do(&|api| assert!(names(api).is_empty())),
        HOUR,
        Step::Do(&|api| assert_eq!((names(api), active(api)), (vec!["report-31557660".to_owned()], 1))),
        HOUR,
        Step::Do(&|api| assert_eq!(active(api), 2)),
        Step::Do(&complete),
        Step::Do(&|api| {
            assert_eq!((names(api), active(api)), (vec!["report-31557720".to_owned()], 0));
            assert_eq!(status(api)["lastSuccessfulTime"], "2030-01-01T02:00:00Z");
        }),
    ];
    let end = check_converges(&CONTROLLER, settings(), &[cron_job(&json!({}))], &steps).await;
    assert_eq!(status(&end)["lastScheduleTime"], "2030-01-01T02:00:00Z");
    let job = end.list(resources::JOBS).remove(0);
    assert_eq!(job["metadata"]["labels"], json!({"of": "report"}));
    assert_eq!(job["metadata"]["annotations"][DUE_ANNOTATION], "2030-01-01T02:00:00Z");
}

/// Conformance: "should not schedule new jobs when ForbidConcurrent".
#[tokio::test(start_paused = true)]
async fn forbid_waits_for_the_running_job() {
    let steps = [HOUR, HOUR, Step::Do(&|api| assert_eq!(names(api), ["report-31557660"])), Step::Do(&complete)];
    let spec = json!({"concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 3});
    let end = check_converges(&CONTROLLER, settings(), &[cron_job(&spec)], &steps).await;
    assert_eq!(names(&end), ["report-31557660", "report-31557720"], "the missed one is made up for");
}

/// Conformance: "should replace jobs when ReplaceConcurrent".
#[tokio::test(start_paused = true)]
async fn replace_ends_the_running_job() {
    let spec = json!({"concurrencyPolicy": "Replace", "timeZone": "Asia/Tokyo"});
    let end = check_converges(&CONTROLLER, settings(), &[cron_job(&spec)], &[HOUR, HOUR]).await;
    assert_eq!((names(&end), active(&end)), (vec!["report-31557720".to_owned()], 1));
    let job = end.list(resources::JOBS).remove(0);
    assert_eq!(job["metadata"]["annotations"][DUE_ANNOTATION], "2030-01-01T11:00:00+09:00");
}

/// Conformance: "should not schedule jobs when suspended".
#[tokio::test(start_paused = true)]
async fn suspended_ones_make_none_and_forget_what_is_too_late() {
    let resume = |api: &Api| {
        api.change_each(resources::CRON_JOBS, |cron_job| {
            cron_job["spec"]["suspend"] = false.into();
            true
        });
    };
    let steps = [
        HOUR,
        Step::Wait(Duration::from_secs(1800)),
        Step::Do(&resume),
        Step::Do(&|api| assert!(names(api).is_empty(), "too late")),
        Step::Wait(Duration::from_secs(1800)),
    ];
    let spec = json!({"suspend": true, "startingDeadlineSeconds": 600});
    let end = check_converges(&CONTROLLER, settings(), &[cron_job(&spec)], &steps).await;
    assert_eq!(names(&end), ["report-31557720"]);
}
