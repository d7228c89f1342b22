//! On which day a token that a secret holds was last used: a label of the secret, so that tokens nobody uses are found.
//!
//! Since when that is watched stands in a config map. Both are upstream's, and so is what is read from them: see "Legacy
//! ServiceAccount token tracking" in the Kubernetes documentation.

use std::sync::{Arc, Mutex};

use api::{Key, resources};
use base::Stop;
use http::Method;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{Server, bootstrap};

/// The label that says the day.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The config map that says since when the label is kept, in `kube-system`.
pub const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Uses that wait to be written down. One that finds no room is written down the next time.
const WAITING_MAX: usize = 256;

const POISON: &str = "nothing panics while it takes the queue";

/// A use that is not written down yet.
#[derive(Debug)]
pub struct Use {
    secret: Key,
    uid: String,
    day: String,
}

/// Where uses are told of, and where they wait until the server writes them.
#[derive(Debug)]
pub struct Uses {
    tell: Sender<Use>,
    waiting: Mutex<Option<Receiver<Use>>>,
}

impl Default for Uses {
    fn default() -> Self {
        let (tell, waiting) = channel(WAITING_MAX);
        Self { tell, waiting: Mutex::new(Some(waiting)) }
    }
}

impl Uses {
    /// Tells of a use now, where the secret does not say it already.
    pub fn tell(&self, key: &Key, secret: &Value, now: Timestamp) {
        let Some(day) = due(secret, now) else { return };
        let uid = secret["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        // No room: many tokens are in use, and each will be used again.
        let _ = self.tell.try_send(Use { secret: key.clone(), uid, day });
    }
}

/// The day that the secret is to say; `None` where it says it. Tomorrow is as good: another server's clock may be ahead.
fn due(secret: &Value, now: Timestamp) -> Option<String> {
    let today = date(now);
    let said = secret["metadata"]["labels"][LAST_USED].as_str().unwrap_or_default();
    let known = [Some(today), today.tomorrow().ok()].iter().flatten().any(|day| day.to_string() == said);
    (!known).then(|| today.to_string())
}

fn date(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// The config map as it is when the watching begins.
pub fn tracking(now: Timestamp) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRACKING, "namespace": "kube-system"},
        "data": {"since": date(now).to_string()}})
}

/// Whether the config map says since when.
pub fn says_since(map: &Value) -> bool {
    map["data"]["since"].as_str().is_some_and(|since| since.len() == 10 && since.parse::<Date>().is_ok())
}

/// Writes uses down until `stop`.
pub(crate) async fn run(server: Arc<Server>, stop: Stop) {
    let waiting = server.access().authenticator.uses().waiting.lock().expect(POISON).take();
    let mut waiting = waiting.expect("the server is started once");
    while let Some(Some(used)) = stop.or_stopped(waiting.recv()).await {
        write(&server, &used).await;
    }
}

async fn write(server: &Arc<Server>, used: &Use) {
    let Ok(cache) = server.caches().of(resources::SECRETS).await else { return };
    let said = cache.get(&used.secret).map(|secret| secret.label(LAST_USED) == Some(&*used.day));
    // Told of twice before it was written once, or gone.
    if said != Some(false) {
        return;
    }
    let path = resources::SECRETS.path(Some(&used.secret.namespace), Some(&used.secret.name));
    let patch = json!({"metadata": {"uid": used.uid, "labels": {LAST_USED: used.day}}});
    let (status, _) = bootstrap::call(server, Method::PATCH, &path, patch.to_string().into()).await;
    if !status.is_success() {
        tracing::warn!(secret = %used.secret, %status, "cannot label a token's secret with the day of its last use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_written_once() {
        let now: Timestamp = "2030-01-31T23:30:00Z".parse().unwrap();
        let labelled = |day: &str| json!({"metadata": {"labels": {LAST_USED: day}}});
        assert_eq!(due(&json!({}), now).as_deref(), Some("2030-01-31"));
        assert_eq!(due(&labelled("2030-01-30"), now).as_deref(), Some("2030-01-31"));
        assert_eq!((due(&labelled("2030-01-31"), now), due(&labelled("2030-02-01"), now)), (None, None));
        assert_eq!(tracking(now)["data"]["since"], "2030-01-31");
        assert!(says_since(&tracking(now)) && !says_since(&json!({"data": {"since": "yesterday"}})));
    }
}
