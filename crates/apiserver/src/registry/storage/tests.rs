//! What is not in the recorded judgements: volumes written out where they are attached, warnings, times of phases.

use api::resources::{CSI_DRIVERS, PERSISTENT_VOLUMES, VOLUME_ATTACHMENTS};
use serde_json::{Value, json};

use crate::registry::tests::Bench;

fn attachment(inline: &Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"attacher": "d.example.com", "nodeName": "n",
        "source": {"inlineVolumeSpec": inline}}})
}

#[tokio::test]
async fn an_inline_volume_has_no_claim_class_or_place() {
    let bench = Bench::new().await;
    let csi = json!({"driver": "d.example.com", "volumeHandle": "h"});
    let sound = attachment(&json!({"csi": csi, "accessModes": ["ReadWriteOnce"]}));
    assert_eq!(bench.complaints(VOLUME_ATTACHMENTS, &bench.defaulted(VOLUME_ATTACHMENTS, sound)), [""; 0]);
    let at = "spec.source.inlineVolumeSpec";
    let wrong = attachment(&json!({"csi": csi, "accessModes": ["ReadWriteOnce"], "claimRef": {"name": "c"},
        "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "fast",
        "nodeAffinity": {"required": {"nodeSelectorTerms": []}}, "volumeMode": "Block"}));
    let not_here =
        |field: &str| format!("{at}.{field}: Forbidden: may not be specified in the context of inline volumes");
    assert_eq!(
        bench.complaints(VOLUME_ATTACHMENTS, &wrong),
        [
            not_here("claimRef"),
            not_here("capacity"),
            format!(
                "{at}.persistentVolumeReclaimPolicy: Forbidden: may only be Retain in the context of inline volumes"
            ),
            not_here("nodeAffinity"),
            not_here("storageClassName"),
            format!(
                "{at}.volumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline \
                 volumes"
            ),
        ]
    );
    let other = attachment(&json!({"hostPath": {"path": "/x"}, "accessModes": []}));
    assert_eq!(
        bench.complaints(VOLUME_ATTACHMENTS, &other),
        [
            format!("{at}.csi: Required value: has to be specified in the context of inline volumes"),
            format!("{at}.accessModes: Required value"),
        ]
    );
}

#[tokio::test]
async fn tokens_among_attributes_are_warned_of() {
    let bench = Bench::new().await;
    let driver = json!({"spec": {"tokenRequests": [{"audience": "a"}]}});
    assert_eq!(bench.warnings(CSI_DRIVERS, &driver, None).len(), 1);
    assert_eq!(bench.warnings(CSI_DRIVERS, &driver, Some(&driver)), [""; 0]);
    let safe = json!({"spec": {"tokenRequests": [{"audience": "a"}], "serviceAccountTokenInSecrets": true}});
    assert_eq!(bench.warnings(CSI_DRIVERS, &safe, None), [""; 0]);
}

#[tokio::test]
async fn a_volume_knows_since_when_it_is_in_its_phase() {
    let bench = Bench::new().await;
    let volume = |status: Value| json!({"metadata": {"name": "v"}, "spec": {}, "status": status});
    let then = "2020-01-01T00:00:00Z";
    let old = volume(json!({"phase": "Pending", "lastPhaseTransitionTime": then}));
    let since = |status: Value| {
        bench.with_status(PERSISTENT_VOLUMES, &volume(status), &old)["status"]["lastPhaseTransitionTime"].take()
    };
    assert_eq!(since(json!({"phase": "Pending"})), then);
    for same in [json!({"phase": "Available"}), json!({"phase": "Available", "lastPhaseTransitionTime": then})] {
        let changed = since(same);
        assert!(changed.is_string() && changed != then, "{changed}");
    }
    let given = "2021-01-01T00:00:00Z";
    assert_eq!(since(json!({"phase": "Available", "lastPhaseTransitionTime": given})), given);
}
