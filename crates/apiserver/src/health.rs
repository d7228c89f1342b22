//! `/livez`, `/readyz`, `/healthz`: whether the server works, for probes and load balancers. As the Kubernetes
//! documentation's "API health endpoints" has it: `?verbose`, `?exclude=`, and a path for each check.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderValue, StatusCode};

use crate::Server;
use crate::request::query::Query;
use crate::request::respond::{self, Answer};

/// How far the caches may be behind the store before the server counts as broken.
const LAG_MAX: Duration = Duration::from_secs(5);

/// One check. A failure's reason is logged, and withheld from strangers.
struct Check {
    name: &'static str,
    endpoints: &'static [&'static str],
    failure: for<'a> fn(&'a Arc<Server>) -> BoxFuture<'a, Option<String>>,
}

const EVERYWHERE: &[&str] = &["livez", "readyz", "healthz"];

const CHECKS: &[Check] = &[
    Check { name: "ping", endpoints: EVERYWHERE, failure: |_| std::future::ready(None).boxed() },
    Check { name: "etcd", endpoints: EVERYWHERE, failure: |server| datastore(server).boxed() },
    Check { name: "informer-sync", endpoints: &["readyz"], failure: |server| caches(server).boxed() },
    Check { name: "shutdown", endpoints: &["readyz"], failure: |server| std::future::ready(stopping(server)).boxed() },
];

/// Answers a health path; `None` for other paths.
pub(crate) async fn answer(server: &Arc<Server>, path: &str, query: &Query) -> Option<Answer> {
    let (endpoint, one) = split(path)?;
    let checks = CHECKS.iter().filter(|check| check.endpoints.contains(&endpoint));
    if let Some(one) = one {
        let check = checks.into_iter().find(|check| check.name == one)?;
        let answer = match (check.failure)(server).await {
            None => (StatusCode::OK, "ok".to_owned()),
            Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
        };
        return Some(text(answer.0, answer.1));
    }
    let mut report = String::new();
    let mut failed = Vec::new();
    for check in checks {
        let excluded = query.all("exclude").any(|excluded| excluded == check.name);
        // Writing to a string cannot fail.
        let _ = match excluded {
            true => writeln!(report, "[+]{} excluded: ok", check.name),
            false => match (check.failure)(server).await {
                None => writeln!(report, "[+]{} ok", check.name),
                Some(why) => {
                    tracing::warn!(check = check.name, endpoint, why, "a health check failed");
                    failed.push(check.name);
                    writeln!(report, "[-]{} failed: reason withheld", check.name)
                }
            },
        };
    }
    let unknown: Vec<_> = query.all("exclude").filter(|name| !is_check(endpoint, name)).collect();
    if !unknown.is_empty() {
        let _ = writeln!(report, "warn: some health checks cannot be excluded: no matches for {}", quoted(&unknown));
    }
    if !failed.is_empty() {
        let _ = writeln!(report, "{endpoint} check failed");
        return Some(text(StatusCode::INTERNAL_SERVER_ERROR, report));
    }
    let _ = writeln!(report, "{endpoint} check passed");
    let verbose = query.all("verbose").next().is_some();
    Some(text(StatusCode::OK, if verbose { report } else { "ok".to_owned() }))
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = respond::text(status, body);
    answer.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(",")
}

fn is_check(endpoint: &str, name: &str) -> bool {
    CHECKS.iter().any(|check| check.name == name && check.endpoints.contains(&endpoint))
}

fn split(path: &str) -> Option<(&str, Option<&str>)> {
    let path = path.strip_prefix('/')?;
    let (endpoint, one) = path.split_once('/').map_or((path, None), |(endpoint, one)| (endpoint, Some(one)));
    EVERYWHERE.contains(&endpoint).then_some((endpoint, one.filter(|one| !one.is_empty())))
}

async fn datastore(server: &Arc<Server>) -> Option<String> {
    server.config.store.failure()
}

async fn caches(server: &Arc<Server>) -> Option<String> {
    let caught_up = tokio::time::timeout(LAG_MAX, server.caches.fresh()).await;
    caught_up.err().map(|_| "the watch cache does not follow the datastore".to_owned())
}

fn stopping(server: &Arc<Server>) -> Option<String> {
    server.stop.is_stopped().then(|| "process is shutting down".to_owned())
}
