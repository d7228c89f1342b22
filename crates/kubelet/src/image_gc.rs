//! Removes images that nobody uses when the disk fills up: those that were unused longest first, never one that a container uses,
//! that is pinned, or that has just come. Upstream's figures, names and messages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Stop, chain};
use control::EventType;
use tokio::time::Instant;

use crate::host::Host;
use crate::node::facts;

/// How often the disk is looked at, unless it runs short before.
const INTERVAL: Duration = Duration::from_secs(300);

/// When an image was seen first, and when it was last seen in use.
#[derive(Debug, Clone, Copy)]
struct Seen {
    first: Instant,
    used: Instant,
}

/// What is known of the node's images. Lost with the process: then all count as new.
#[derive(Default)]
pub(crate) struct ImageGc {
    seen: Mutex<BTreeMap<String, Seen>>,
}

/// An image that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    id: String,
    bytes: u64,
    used: Instant,
    first: Instant,
}

/// The images to remove so that `wanted` bytes become free, and what that amounts to.
fn choose(mut candidates: Vec<Candidate>, wanted: u64, now: Instant, age_min: Duration) -> (Vec<Candidate>, u64) {
    candidates.retain(|one| now.duration_since(one.first) >= age_min && one.used < now);
    candidates.sort_by(|a, b| (a.used, a.first, &a.id).cmp(&(b.used, b.first, &b.id)));
    let (mut chosen, mut bytes) = (Vec::new(), 0_u64);
    for candidate in candidates {
        if bytes >= wanted {
            break;
        }
        bytes = bytes.saturating_add(candidate.bytes);
        chosen.push(candidate);
    }
    (chosen, bytes)
}

/// Bytes to free of a disk, if it is over its limit.
fn excess(disk: facts::Disk, high_percent: u64, low_percent: u64) -> Option<u64> {
    let total = u64::try_from(disk.total_bytes).unwrap_or(0);
    let available = u64::try_from(disk.available_bytes).unwrap_or(0).min(total);
    let used_percent = 100 - (u128::from(available) * 100 / u128::from(total.max(1))) as u64;
    let keep_free = (u128::from(total) * u128::from(100 - low_percent.min(100)) / 100) as u64;
    (total > 0 && high_percent < 100 && used_percent >= high_percent).then(|| keep_free.saturating_sub(available))
}

impl ImageGc {
    /// Looks at the disk now and then until `stop`.
    pub(crate) async fn run(self: Arc<Self>, host: Arc<Host>, stop: Stop) {
        // The first look remembers what is there.
        self.candidates(&host).await;
        while stop.or_stopped(tokio::time::sleep(INTERVAL)).await.is_some() {
            let settings = host.settings.image_gc;
            let candidates = self.candidates(&host).await;
            let Some(disk) = image_disk(&host).await else { continue };
            let Some(wanted) = excess(disk, settings.high_percent, settings.low_percent).filter(|wanted| *wanted > 0)
            else {
                continue;
            };
            let (chosen, _) = choose(candidates, wanted, Instant::now(), settings.age_min);
            let freed = self.remove(&host, chosen).await;
            if freed < wanted {
                let message = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
                );
                host.node_event(EventType::Warning, "FreeDiskSpaceFailed", &message);
            }
        }
    }

    /// Removes every image that may go; whether any went.
    pub(crate) async fn delete_unused(&self, host: &Host) -> bool {
        let candidates = self.candidates(host).await;
        let (chosen, _) = choose(candidates, u64::MAX, Instant::now(), Duration::ZERO);
        !chosen.is_empty() && self.remove(host, chosen).await > 0
    }

    /// The images that nobody uses. Remembers what is there and what is in use.
    async fn candidates(&self, host: &Host) -> Vec<Candidate> {
        let listed_at = host.clock.now();
        let (images, containers) = match (host.runtime.list_images().await, host.runtime.list_containers(None).await) {
            (Ok(images), Ok(containers)) => (images, containers),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(error = chain(&error), "cannot list what uses images");
                return Vec::new();
            }
        };
        let present = images.iter().map(|image| image.id.clone()).collect();
        host.images.records.keep_only(&present, listed_at).await;
        let used: BTreeSet<_> = containers.into_iter().flat_map(|one| [one.image_id, one.image_ref]).collect();
        let now = Instant::now();
        let mut seen = self.seen.lock().expect("no holder of the list of images panics");
        seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        let mut candidates = Vec::new();
        for image in images {
            let in_use = used.contains(&image.id) || image.repo_digests.iter().any(|digest| used.contains(digest));
            // One that was never seen in use counts as unused since it came.
            let known =
                seen.entry(image.id.clone()).or_insert(Seen { first: now, used: now - Duration::from_nanos(1) });
            if in_use {
                known.used = now;
            } else if !image.pinned {
                candidates.push(Candidate { id: image.id, bytes: image.size, used: known.used, first: known.first });
            }
        }
        candidates
    }

    async fn remove(&self, host: &Host, chosen: Vec<Candidate>) -> u64 {
        let mut freed = 0_u64;
        for image in chosen {
            match host.runtime.remove_image(&image.id).await {
                Ok(()) => {
                    tracing::info!(image = image.id, bytes = image.bytes, "removed an image that nobody uses");
                    freed = freed.saturating_add(image.bytes);
                }
                // It is mounted as a volume, or was taken into use meanwhile.
                Err(error) => tracing::debug!(image = image.id, error = chain(&error), "an image stays"),
            }
        }
        if freed > 0 {
            host.images.changed.notify_one();
        }
        freed
    }
}

/// The disk that the images are on.
async fn image_disk(host: &Host) -> Option<facts::Disk> {
    let list = host.runtime.image_fs_info().await.ok()?;
    facts::disk(&PathBuf::from(&list.first()?.fs_id.as_ref()?.mountpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_until_enough_is_free() {
        let now = Instant::now() + Duration::from_secs(10_000);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let image = |id: &str, used, first| Candidate { id: id.into(), bytes: 10, used: ago(used), first: ago(first) };
        let list =
            vec![image("old", 900, 1000), image("older", 990, 1000), image("new", 50, 60), image("used", 0, 1000)];
        let chosen = |wanted, age| {
            let (list, bytes) = choose(list.clone(), wanted, now, Duration::from_secs(age));
            (list.into_iter().map(|one| one.id).collect::<Vec<_>>().join(" "), bytes)
        };
        assert_eq!(chosen(5, 120), ("older".into(), 10));
        assert_eq!(chosen(15, 120), ("older old".into(), 20));
        assert_eq!(chosen(u64::MAX, 120), ("older old".into(), 20));
        assert_eq!(chosen(u64::MAX, 0), ("older old new".into(), 30));
    }

    #[test]
    fn a_full_disk_is_emptied_to_the_lower_limit() {
        let disk = |available_bytes| facts::Disk { total_bytes: 1000, available_bytes, inodes: 0, inodes_free: 0 };
        assert_eq!(excess(disk(160), 85, 80), None);
        assert_eq!(excess(disk(150), 85, 80), Some(50));
        assert_eq!(excess(disk(0), 85, 80), Some(200));
        assert_eq!(excess(disk(0), 100, 80), None, "100 turns it off");
    }
}
