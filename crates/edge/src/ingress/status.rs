//! Where an Ingress is reached, in its status: written when it is not what it should be, and not otherwise.

use std::net::IpAddr;
use std::time::Duration;

use api::resources::INGRESSES;
use api::{Key, Object};
use base::{Backoff, Stop};
use control::{Cache, Client, PatchType};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// How long to wait after a write that failed, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Ingresses whose status may have to be written; the readers wait where it is full.
pub(super) const WAITING_MAX: usize = 256;

/// What the status of an Ingress becomes; `None` where nothing is to be written.
fn plan(ingress: &Value, ours: bool, addresses: &[IpAddr]) -> Option<Value> {
    let wanted: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let current = ingress["status"]["loadBalancer"]["ingress"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_there = current.iter().map(|entry| &entry["ip"]).eq(wanted.iter().map(|entry| &entry["ip"]));
    match (ours, is_there) {
        (true, false) => Some(json!({"status": {"loadBalancer": {"ingress": wanted}}})),
        // Another controller's now: what we wrote goes, what others wrote stays.
        (false, true) if !wanted.is_empty() => Some(json!({"status": {"loadBalancer": {"ingress": null}}})),
        _ => None,
    }
}

/// Writes the status of the Ingresses that are named, until `stop`.
pub(super) async fn keep(
    client: Client,
    ingresses: Cache,
    addresses: Vec<IpAddr>,
    is_ours: impl Fn(&Object) -> bool,
    mut named: mpsc::Receiver<Key>,
    stop: Stop,
) {
    let work = async {
        while let Some(key) = named.recv().await {
            let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
            // The newest state each time: what failed may be in vain by now.
            while let Some(object) = ingresses.get(&key) {
                let Some(patch) = plan(&object.to_value(), is_ours(&object), &addresses) else { break };
                match client.patch(INGRESSES, &key, Some("status"), PatchType::Merge, &patch).await {
                    Ok(_) => break,
                    Err(error) if error.is_not_found() => break,
                    Err(error) => {
                        tracing::warn!(ingress = %key, error = base::chain(&error), "cannot write where an Ingress is reached");
                        tokio::time::sleep(backoff.next_delay()).await;
                    }
                }
            }
        }
    };
    let _ = stop.or_stopped(work).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_is_written() {
        let addresses = [IpAddr::from([192, 0, 2, 1])];
        let with = |status: Value| json!({"status": {"loadBalancer": {"ingress": status}}});
        let (ours, others) = (with(json!([{"ip": "192.0.2.1"}])), with(json!([{"ip": "192.0.2.9"}])));
        assert_eq!(plan(&json!({}), true, &addresses), Some(ours.clone()));
        assert_eq!(plan(&others, true, &addresses), Some(ours.clone()));
        assert_eq!(plan(&ours, true, &addresses), None);
        assert_eq!(plan(&ours, false, &addresses), Some(with(Value::Null)));
        assert_eq!(plan(&others, false, &addresses), None);
        assert_eq!(plan(&json!({}), false, &addresses), None);
    }
}
