//! Which volume a claim gets. Pure.

use machinery::Selector;
use serde_json::Value;

use crate::volume_claims::{class, is_deleting, refers_to, size};

/// The best of these volumes for a claim: the one that was reserved for it, else the one with the fewest access modes beyond
/// those asked for, and of these the smallest. Where the scheduler binds, only a reserved one counts.
pub(super) fn best<'a>(claim: &Value, volumes: &'a [Value], scheduler_binds: bool) -> Option<&'a Value> {
    let selector = &claim["spec"]["selector"];
    let selector =
        if selector.is_object() { Selector::from_label_selector(selector).ok()? } else { Selector::everything() };
    let fitting = || volumes.iter().filter(|volume| fits(claim, volume));
    if let Some(reserved) = fitting().find(|volume| refers_to(volume, claim)) {
        return Some(reserved);
    }
    let free = fitting().filter(|volume| {
        volume["spec"]["claimRef"].is_null()
            && volume["status"]["phase"] == "Available"
            && class(volume) == class(claim)
            && selector.matches(|label| volume["metadata"]["labels"][label].as_str())
    });
    let cost = |volume: &&Value| {
        let modes = volume["spec"]["accessModes"].as_array().map_or(0, Vec::len);
        (modes, size(&volume["spec"]["capacity"]), volume["metadata"]["name"].to_string())
    };
    free.filter(|_| !scheduler_binds).min_by_key(cost)
}

/// What holds of every volume that a claim may get; one that was reserved for the claim need not be of its class.
fn fits(claim: &Value, volume: &Value) -> bool {
    !is_deleting(volume)
        && is_large_enough(claim, volume)
        && same_attributes(claim, volume)
        && same_mode(claim, volume)
        && has_modes(claim, volume)
}

/// Why a volume cannot serve a claim, in upstream's words.
pub(super) fn why_not(claim: &Value, volume: &Value) -> Option<&'static str> {
    if is_deleting(volume) {
        return Some("the volume is marked for deletion");
    }
    if !is_large_enough(claim, volume) {
        return Some("requested PV is too small");
    }
    if class(volume) != class(claim) {
        return Some("storageClassName does not match");
    }
    if !same_attributes(claim, volume) {
        return Some("volumeAttributesClassName does not match");
    }
    if !same_mode(claim, volume) {
        return Some("incompatible volumeMode");
    }
    (!has_modes(claim, volume)).then_some("incompatible accessMode")
}

fn is_large_enough(claim: &Value, volume: &Value) -> bool {
    size(&volume["spec"]["capacity"]) >= size(&claim["spec"]["resources"]["requests"])
}

fn same_attributes(claim: &Value, volume: &Value) -> bool {
    let attributes =
        |object: &Value| object["spec"]["volumeAttributesClassName"].as_str().unwrap_or_default().to_owned();
    attributes(claim) == attributes(volume)
}

/// Whether both are filesystems or both are devices.
pub(super) fn same_mode(claim: &Value, volume: &Value) -> bool {
    let mode = |object: &Value| object["spec"]["volumeMode"].as_str().unwrap_or("Filesystem").to_owned();
    mode(claim) == mode(volume)
}

fn has_modes(claim: &Value, volume: &Value) -> bool {
    let modes = |object: &Value| object["spec"]["accessModes"].as_array().cloned().unwrap_or_default();
    let offered = modes(volume);
    modes(claim).iter().all(|mode| offered.contains(mode))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "callers write the data in place")]
    fn volume(name: &str, over: Value) -> Value {
        let mut volume = json!({"metadata": {"name": name, "labels": {"disk": name}},
            "spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}});
        machinery::patch::merge(&mut volume, &over);
        volume
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers write the data in place")]
    fn check(over: Value, volumes: &[Value], scheduler_binds: bool, expected: &str) {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}});
        machinery::patch::merge(&mut claim, &over);
        let found = best(&claim, volumes, scheduler_binds)
            .map_or("none", |volume| volume["metadata"]["name"].as_str().unwrap());
        assert_eq!(found, expected, "{over}");
    }

    #[test]
    fn the_reserved_then_the_closest() {
        let reserved = json!({"spec": {"claimRef": {"name": "c", "namespace": "n"}}});
        let volumes = [
            volume("large", json!({"spec": {"capacity": {"storage": "20Gi"}}})),
            volume(
                "many",
                json!({"spec": {"capacity": {"storage": "6Gi"}, "accessModes": ["ReadWriteOnce", "ReadWriteMany"]}}),
            ),
            volume("fits", json!({})),
            volume("small", json!({"spec": {"capacity": {"storage": "1Gi"}}})),
            volume(
                "taken",
                json!({"spec": {"capacity": {"storage": "5Gi"}, "claimRef": {"name": "x", "namespace": "n"}}}),
            ),
            volume("released", json!({"spec": {"capacity": {"storage": "5Gi"}}, "status": {"phase": "Released"}})),
            volume("fast", json!({"spec": {"storageClassName": "fast"}})),
            volume("device", json!({"spec": {"volumeMode": "Block"}})),
        ];
        check(json!({}), &volumes, false, "fits");
        check(json!({}), &volumes, true, "none");
        check(json!({"spec": {"accessModes": ["ReadWriteMany"]}}), &volumes, false, "many");
        check(json!({"spec": {"accessModes": ["ReadOnlyMany"]}}), &volumes, false, "none");
        check(json!({"spec": {"resources": {"requests": {"storage": "11Gi"}}}}), &volumes, false, "large");
        check(json!({"spec": {"storageClassName": "fast"}}), &volumes, false, "fast");
        check(json!({"spec": {"volumeMode": "Block"}}), &volumes, false, "device");
        check(json!({"spec": {"selector": {"matchLabels": {"disk": "large"}}}}), &volumes, false, "large");
        check(json!({"spec": {"volumeAttributesClassName": "gold"}}), &volumes, false, "none");
        let with_reserved = [volume("fits", json!({})), volume("mine", reserved)];
        check(json!({}), &with_reserved, true, "mine");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        for (over, why) in [
            (json!({"metadata": {"deletionTimestamp": "t"}}), "the volume is marked for deletion"),
            (json!({"spec": {"capacity": {"storage": "1Mi"}}}), "requested PV is too small"),
            (json!({"spec": {"storageClassName": "x"}}), "storageClassName does not match"),
            (json!({"spec": {"volumeAttributesClassName": "x"}}), "volumeAttributesClassName does not match"),
            (json!({"spec": {"volumeMode": "Block"}}), "incompatible volumeMode"),
            (json!({}), "incompatible accessMode"),
        ] {
            assert_eq!(why_not(&claim, &volume("v", over)), Some(why));
        }
    }
}
