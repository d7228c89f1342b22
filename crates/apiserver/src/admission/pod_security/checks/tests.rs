//! Each control by its words, and what older versions do not know.

use serde_json::json;

use super::*;

/// All that a spec does against a standard, as the error tells it.
fn check(level: Level, minor: Option<u32>, metadata: &Value, spec: &Value) -> String {
    let version = minor.map_or(Version::Latest, Version::Minor);
    let violations = evaluate(LevelVersion { level, version }, &Pod { metadata, spec });
    violations.iter().map(|found| format!("{} ({})", found.reason, found.detail)).collect::<Vec<_>>().join(", ")
}

/// A pod that keeps to the restricted standard, with fields of its spec and its first container changed.
fn hardened(spec: Value, container: Value) -> Value {
    let mut pod = json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
    });
    merge(&mut pod, spec);
    merge(&mut pod["containers"][0], container);
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

#[test]
fn the_baseline_speaks_upstreams_words() {
    let context = |field: &str, value: Value| json!({"securityContext": {field: value}});
    for (spec, container, expected) in [
        (json!({}), json!({}), ""),
        (json!({"hostNetwork": true, "hostIPC": true}), json!({}), "host namespaces (hostNetwork=true, hostIPC=true)"),
        (
            json!({}),
            context("privileged", json!(true)),
            r#"privileged (container "a" must not set securityContext.privileged=true)"#,
        ),
        (
            json!({}),
            context("capabilities", json!({"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]})),
            r#"non-default capabilities (container "a" must not include "NET_RAW", "SYS_ADMIN" in securityContext.capabilities.add)"#,
        ),
        (
            json!({"volumes": [{"name": "x", "hostPath": {}}, {"name": "y", "hostPath": {}}]}),
            json!({}),
            r#"hostPath volumes (volumes "x", "y")"#,
        ),
        (
            json!({}),
            json!({"ports": [{"hostPort": 80}, {"hostPort": 443}, {"containerPort": 1}]}),
            r#"hostPort (container "a" uses hostPorts 443, 80)"#,
        ),
        (
            json!({}),
            json!({"livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}),
            r#"probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1")"#,
        ),
        (
            context("appArmorProfile", json!({"type": "Unconfined"})),
            json!({}),
            r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#,
        ),
        (
            context("seLinuxOptions", json!({"type": "x", "user": "u"})),
            json!({}),
            r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "x"; user may not be set)"#,
        ),
        (
            json!({}),
            context("seccompProfile", json!({"type": "Unconfined"})),
            r#"seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            json!({}),
            context("procMount", json!("Unmasked")),
            r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (json!({"hostUsers": false}), context("procMount", json!("Unmasked")), ""),
        (
            context("sysctls", json!([{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.msgmax"}])),
            json!({}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            context("windowsOptions", json!({"hostProcess": true})),
            context("windowsOptions", json!({"hostProcess": true})),
            r#"hostProcess (pod and container "a" must not set securityContext.windowsOptions.hostProcess=true)"#,
        ),
    ] {
        let spec = hardened(spec, container);
        assert_eq!(check(Level::Baseline, None, &json!({}), &spec), expected, "{spec}");
        assert_eq!(check(Level::Privileged, None, &json!({}), &spec), "");
    }
}

#[test]
fn the_restricted_standard_adds_to_the_baseline_and_takes_its_place() {
    let bare = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let both = r#"containers "a", "b""#;
    let expected = [
        format!("allowPrivilegeEscalation != false ({both} must set securityContext.allowPrivilegeEscalation=false)"),
        format!(r#"unrestricted capabilities ({both} must set securityContext.capabilities.drop=["ALL"])"#),
        format!("runAsNonRoot != true (pod or {both} must set securityContext.runAsNonRoot=true)"),
        format!(
            r#"seccompProfile (pod or {both} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        ),
    ];
    assert_eq!(check(Level::Restricted, None, &json!({}), &bare), expected.join(", "));
    for (spec, container, expected) in [
        (json!({}), json!({}), ""),
        (
            json!({"volumes": [{"name": "x", "hostPath": {}}, {"name": "y", "nfs": {}}]}),
            json!({}),
            r#"restricted volume types (volumes "x", "y" use restricted volume types "hostPath", "nfs")"#,
        ),
        (
            json!({}),
            json!({"securityContext": {"capabilities": {"add": ["SYS_TIME", "NET_BIND_SERVICE"]}}}),
            r#"unrestricted capabilities (container "a" must not include "SYS_TIME" in securityContext.capabilities.add)"#,
        ),
        (
            json!({"securityContext": {"runAsUser": 0}}),
            json!({"securityContext": {"runAsUser": 0}}),
            r#"runAsUser=0 (pod and container "a" must not set runAsUser=0)"#,
        ),
        (json!({"hostUsers": false, "securityContext": {"runAsUser": 0, "runAsNonRoot": false}}), json!({}), ""),
    ] {
        let spec = hardened(spec, container);
        assert_eq!(check(Level::Restricted, None, &json!({}), &spec), expected, "{spec}");
    }
}

#[test]
fn older_versions_know_less() {
    let probe = hardened(json!({}), json!({"livenessProbe": {"tcpSocket": {"host": "10.0.0.1"}}}));
    assert_eq!(check(Level::Baseline, Some(33), &json!({}), &probe), "");
    assert_ne!(check(Level::Baseline, Some(34), &json!({}), &probe), "");
    let annotated = json!({"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}});
    let plain = hardened(json!({}), json!({}));
    let expected = r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#;
    assert_eq!(check(Level::Baseline, Some(18), &annotated, &plain), expected);
    assert_eq!(check(Level::Baseline, Some(19), &annotated, &plain), "");
    let windows =
        json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]});
    assert_eq!(check(Level::Restricted, Some(25), &json!({}), &windows), "");
    assert_ne!(check(Level::Restricted, Some(24), &json!({}), &windows), "");
}
