//! `/livez`, `/readyz`, `/healthz`: whether the server works, for probes and load balancers.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::Server;
use crate::request::query::Query;
use crate::request::respond::{self, Answer};

/// How far the caches may be behind the store before the server counts as broken.
const LAG_MAX: Duration = Duration::from_secs(5);

/// Answers a health path; `None` for other paths.
pub(crate) async fn answer(server: &Arc<Server>, path: &str, query: &Query) -> Option<Answer> {
    let (endpoint, one) = split(path)?;
    let mut checks = checks(server, endpoint).await;
    if let Some(one) = one {
        checks.retain(|check| check.name == one);
        if checks.is_empty() {
            return None;
        }
    }
    checks.retain(|check| !query.all("exclude").any(|excluded| excluded == check.name));
    let failed = checks.iter().any(|check| check.failure.is_some());
    let status = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    let short = !failed && query.all("verbose").next().is_none();
    let text = if short { "ok".to_owned() } else { report(endpoint, &checks, failed) };
    Some(respond::text(status, text))
}

fn split(path: &str) -> Option<(&str, Option<&str>)> {
    let path = path.strip_prefix('/')?;
    let (endpoint, one) = path.split_once('/').map_or((path, None), |(endpoint, one)| (endpoint, Some(one)));
    ["livez", "readyz", "healthz"].contains(&endpoint).then_some((endpoint, one.filter(|one| !one.is_empty())))
}

struct Check {
    name: &'static str,
    failure: Option<String>,
}

async fn checks(server: &Arc<Server>, endpoint: &str) -> Vec<Check> {
    let caught_up = tokio::time::timeout(LAG_MAX, server.caches.fresh()).await;
    let lag = caught_up.err().map(|_| "the watch cache does not follow the datastore".to_owned());
    let mut checks = vec![Check { name: "ping", failure: None }, Check { name: "etcd", failure: lag }];
    if endpoint == "readyz" {
        let failure = server.stop.is_stopped().then(|| "the server is shutting down".to_owned());
        checks.push(Check { name: "shutdown", failure });
    }
    checks
}

fn report(endpoint: &str, checks: &[Check], failed: bool) -> String {
    let mut text = String::new();
    for Check { name, failure } in checks {
        let _ = match failure {
            None => writeln!(text, "[+]{name} ok"),
            Some(why) => writeln!(text, "[-]{name} failed: {why}"),
        };
    }
    let _ = writeln!(text, "{endpoint} check {}", if failed { "failed" } else { "passed" });
    text
}
