//! The pod spec, which pods and everything that makes pods share: upstream's defaults and checks.

use machinery::names;
use serde_json::{Value, json};

use super::tree::{
    child, entries, is_set, list, list_mut, named, not_negative, one_of, present, quantity, set, set_default, text,
};
use crate::invalid::FieldError;

/// The fields of a spec that list containers.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// The mode of files in volumes that the cluster fills: 0644.
const FILE_MODE: i64 = 420;

/// Sets what a template in `spec.template` leaves out.
pub fn default_template(spec: &mut Value) {
    if let Some(template) = child(spec, "template") {
        child(template, "metadata");
        if let Some(spec) = child(template, "spec") {
            default(spec);
        }
    }
}

/// Sets what a pod spec leaves out.
pub fn default(spec: &mut Value) {
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    child(spec, "securityContext");
    default_account(spec);
    let host_network = spec["hostNetwork"] == true;
    for kind in CONTAINER_LISTS {
        for container in list_mut(spec, kind) {
            default_container(container, host_network);
        }
    }
    for volume in list_mut(spec, "volumes") {
        default_volume(volume);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are shown.
pub fn default_account(spec: &mut Value) {
    let old = text(&spec["serviceAccount"]).to_owned();
    if !old.is_empty() {
        set_default(spec, "serviceAccountName", old);
    }
    let name = text(&spec["serviceAccountName"]).to_owned();
    if !name.is_empty() {
        set(spec, "serviceAccount", name);
    }
}

fn default_container(container: &mut Value, host_network: bool) {
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text(&container["image"]));
    set_default(container, "imagePullPolicy", policy);
    child(container, "resources");
    for port in list_mut(container, "ports") {
        set_default(port, "protocol", "TCP");
        if host_network && port["hostPort"].as_i64().unwrap_or(0) == 0 {
            let number = port["containerPort"].clone();
            set(port, "hostPort", number);
        }
    }
    for variable in list_mut(container, "env") {
        if let Some(reference) = present(variable, "valueFrom").and_then(|from| present(from, "fieldRef")) {
            set_default(reference, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = present(container, probe) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = present(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = present(lifecycle, hook) {
                default_http(hook);
            }
        }
    }
}

/// `Always` for the tag `latest` and for none, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    if image.contains('@') {
        return "IfNotPresent";
    }
    match name.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn default_probe(probe: &mut Value) {
    for (field, default) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[field].as_i64().unwrap_or(0) == 0 {
            set(probe, field, default);
        }
    }
    default_http(probe);
    if let Some(grpc) = present(probe, "grpc")
        && !is_set(grpc, "service")
    {
        set(grpc, "service", "");
    }
}

fn default_http(handler: &mut Value) {
    if let Some(http) = present(handler, "httpGet") {
        set_default(http, "path", "/");
        set_default(http, "scheme", "HTTP");
    }
}

fn default_volume(volume: &mut Value) {
    let has_source =
        volume.as_object().is_some_and(|fields| fields.iter().any(|(name, v)| name != "name" && !v.is_null()));
    if !has_source {
        set(volume, "emptyDir", json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = present(volume, kind) {
            set_default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(host_path) = present(volume, "hostPath")
        && !is_set(host_path, "type")
    {
        set(host_path, "type", "");
    }
    if let Some(source) = present(volume, "downwardAPI") {
        default_downward(source);
    }
    if let Some(projected) = present(volume, "projected") {
        for source in list_mut(projected, "sources") {
            if let Some(token) = present(source, "serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = present(source, "downwardAPI") {
                default_downward(downward);
            }
        }
    }
    let claim = present(volume, "ephemeral").and_then(|source| present(source, "volumeClaimTemplate"));
    if let Some(spec) = claim.and_then(|template| present(template, "spec")) {
        set_default(spec, "volumeMode", "Filesystem");
    }
}

fn default_downward(source: &mut Value) {
    for item in list_mut(source, "items") {
        if let Some(reference) = present(item, "fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
    }
}

/// Sets requests that only have limits. Pods only: a template is shown as it was written.
pub fn default_requests(spec: &mut Value) {
    for kind in CONTAINER_LISTS {
        for container in list_mut(spec, kind) {
            let Some(resources) = present(container, "resources") else { continue };
            let limits = resources["limits"].clone();
            if entries(&limits).next().is_none() {
                continue;
            }
            if let Some(requests) = child(resources, "requests") {
                for (name, limit) in entries(&limits) {
                    set_default(requests, name, limit.clone());
                }
            }
        }
    }
}

/// How the node may treat a pod when memory is short.
pub fn quality_of_service(spec: &Value) -> &'static str {
    let containers = CONTAINER_LISTS[..2].iter().flat_map(|kind| list(&spec[*kind]));
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let resources = &container["resources"];
        for name in ["cpu", "memory"] {
            let amount = |kind: &str| quantity(&resources[kind][name]).filter(|amount| !amount.is_zero());
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            let equal = match (&request, &limit) {
                (Some(request), Some(limit)) => request.nanos() == limit.nanos(),
                _ => false,
            };
            guaranteed &= equal;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// All that is wrong with a template, at `path`, whose labels the selector must match.
pub fn validate_template(template: &Value, path: &str, restart: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    super::tree::labels(&mut errors, &template["metadata"]["labels"], &format!("{path}.metadata.labels"));
    let spec = format!("{path}.spec");
    errors.extend(validate(&template["spec"], &spec));
    let policy = &template["spec"]["restartPolicy"];
    if errors.is_empty() && !restart.contains(&text(policy)) {
        errors.push(FieldError::not_supported(format!("{spec}.restartPolicy"), policy, restart));
    }
    errors
}

/// All that is wrong with a pod spec at `path`.
pub fn validate(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |field: &str| format!("{path}.{field}");
    let volumes = validate_volumes(&mut errors, &spec["volumes"], &at("volumes"));
    if list(&spec["containers"]).is_empty() {
        errors.push(FieldError::required(at("containers"), ""));
    }
    let mut seen = Vec::new();
    for kind in CONTAINER_LISTS {
        for (index, container) in list(&spec[kind]).iter().enumerate() {
            let path = format!("{path}.{kind}[{index}]");
            validate_container(&mut errors, container, &path, &volumes);
            if seen.contains(&&container["name"]) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &container["name"]));
            }
            seen.push(&container["name"]);
        }
    }
    for container in list(&spec["initContainers"]) {
        // Only sidecars, which start first and never end, may be restarted by themselves.
        one_of(
            &mut errors,
            &container["restartPolicy"],
            &at("initContainers.restartPolicy"),
            &["Always", "Never", "OnFailure"],
        );
    }
    one_of(&mut errors, &spec["restartPolicy"], &at("restartPolicy"), &["Always", "OnFailure", "Never"]);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(&mut errors, &spec["dnsPolicy"], &at("dnsPolicy"), &dns);
    one_of(&mut errors, &spec["preemptionPolicy"], &at("preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
    not_negative(&mut errors, &spec["terminationGracePeriodSeconds"], &at("terminationGracePeriodSeconds"));
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(at("activeDeadlineSeconds"), deadline, why));
    }
    for (field, check) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("schedulerName", names::qualified_name),
    ] {
        if !text(&spec[field]).is_empty() {
            named(&mut errors, &spec[field], &at(field), check);
        }
    }
    super::tree::labels(&mut errors, &spec["nodeSelector"], &at("nodeSelector"));
    validate_tolerations(&mut errors, &spec["tolerations"], &at("tolerations"));
    validate_spread(&mut errors, &spec["topologySpreadConstraints"], &at("topologySpreadConstraints"));
    errors
}

fn validate_volumes(errors: &mut Vec<FieldError>, volumes: &Value, path: &str) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    for (at, volume) in list(volumes).iter().enumerate() {
        let path = format!("{path}[{at}]");
        let name = &volume["name"];
        if text(name).is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            named(errors, name, &format!("{path}.name"), names::dns1123_label);
        }
        if known.iter().any(|known| known == text(name)) {
            errors.push(FieldError::duplicate(format!("{path}.name"), name));
        }
        known.push(text(name).to_owned());
        let sources: Vec<&String> = entries(volume)
            .filter(|(field, value)| *field != "name" && !value.is_null())
            .map(|(field, _)| field)
            .collect();
        for extra in sources.iter().skip(1) {
            errors.push(FieldError::forbidden(format!("{path}.{extra}"), "may not specify more than 1 volume type"));
        }
        for (kind, field) in [
            ("secret", "secretName"),
            ("configMap", "name"),
            ("persistentVolumeClaim", "claimName"),
            ("hostPath", "path"),
        ] {
            if is_set(volume, kind) && text(&volume[kind][field]).is_empty() {
                errors.push(FieldError::required(format!("{path}.{kind}.{field}"), ""));
            }
        }
    }
    known
}

fn validate_container(errors: &mut Vec<FieldError>, container: &Value, path: &str, volumes: &[String]) {
    let at = |field: &str| format!("{path}.{field}");
    if text(&container["name"]).is_empty() {
        errors.push(FieldError::required(at("name"), ""));
    } else {
        named(errors, &container["name"], &at("name"), names::dns1123_label);
    }
    let image = text(&container["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(at("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            at("image"),
            &container["image"],
            "must not have leading or trailing whitespace",
        ));
    }
    one_of(errors, &container["imagePullPolicy"], &at("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    one_of(
        errors,
        &container["terminationMessagePolicy"],
        &at("terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
    );
    validate_ports(errors, &container["ports"], &at("ports"));
    for (index, variable) in list(&container["env"]).iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        if text(&variable["name"]).is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            named(errors, &variable["name"], &format!("{path}.name"), names::env_var_name);
        }
        if is_set(variable, "valueFrom") && !text(&variable["value"]).is_empty() {
            let why = "may not be specified when `value` is not empty";
            errors.push(FieldError::invalid(format!("{path}.valueFrom"), &Value::from(""), why));
        }
    }
    validate_mounts(errors, container, path, volumes);
    validate_resources(errors, &container["resources"], &at("resources"));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if is_set(container, probe) {
            validate_probe(errors, &container[probe], &at(probe), probe != "readinessProbe");
        }
    }
}

fn validate_ports(errors: &mut Vec<FieldError>, ports: &Value, path: &str) {
    let mut seen = Vec::new();
    for (index, port) in list(ports).iter().enumerate() {
        let at = |field: &str| format!("{path}[{index}].{field}");
        if !text(&port["name"]).is_empty() {
            named(errors, &port["name"], &at("name"), names::port_name);
            if seen.contains(&&port["name"]) {
                errors.push(FieldError::duplicate(at("name"), &port["name"]));
            }
            seen.push(&port["name"]);
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => errors.push(FieldError::required(at("containerPort"), "")),
            Some(number) => errors.extend(
                names::port_number(number)
                    .iter()
                    .map(|why| FieldError::invalid(at("containerPort"), &port["containerPort"], why)),
            ),
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) {
            let complaints = names::port_number(number);
            errors.extend(complaints.iter().map(|why| FieldError::invalid(at("hostPort"), &port["hostPort"], why)));
        }
        one_of(errors, &port["protocol"], &at("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn validate_mounts(errors: &mut Vec<FieldError>, container: &Value, path: &str, volumes: &[String]) {
    let mut seen = Vec::new();
    for (index, mount) in list(&container["volumeMounts"]).iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let (name, target) = (&mount["name"], &mount["mountPath"]);
        if text(name).is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !volumes.iter().any(|volume| volume == text(name)) {
            errors.push(FieldError::not_found(format!("{path}.name"), name));
        }
        if text(target).is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        } else if seen.contains(&target) {
            errors.push(FieldError::invalid(format!("{path}.mountPath"), target, "must be unique"));
        }
        seen.push(target);
        let sub = text(&mount["subPath"]);
        if sub.starts_with('/') {
            errors.push(FieldError::invalid(format!("{path}.subPath"), &mount["subPath"], "must be a relative path"));
        } else if sub.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(format!("{path}.subPath"), &mount["subPath"], "must not contain '..'"));
        }
    }
}

fn validate_resources(errors: &mut Vec<FieldError>, resources: &Value, path: &str) {
    for kind in ["limits", "requests"] {
        for (name, amount) in entries(&resources[kind]) {
            let path = format!("{path}.{kind}[{name}]");
            match quantity(amount) {
                None => {
                    let why =
                        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                    errors.push(FieldError::invalid(path, amount, why));
                }
                Some(amount_given) if amount_given.is_negative() => {
                    errors.push(FieldError::invalid(path, amount, "must be greater than or equal to 0"));
                }
                Some(_) => {}
            }
        }
    }
    for (name, request) in entries(&resources["requests"]) {
        let limit = &resources["limits"][name.as_str()];
        if let (Some(asked), Some(most)) = (quantity(request), quantity(limit))
            && asked.nanos() > most.nanos()
        {
            let shown = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
            let why = format!("must be less than or equal to {name} limit of {shown}");
            errors.push(FieldError::invalid(format!("{path}.requests"), request, &why));
        }
    }
}

fn validate_probe(errors: &mut Vec<FieldError>, probe: &Value, path: &str, succeeds_once: bool) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|kind| is_set(probe, kind)).count();
    if handlers == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    } else if handlers > 1 {
        errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(errors, &probe[field], &format!("{path}.{field}"));
    }
    if succeeds_once && probe["successThreshold"].as_i64().is_some_and(|count| count != 1) {
        errors.push(FieldError::invalid(format!("{path}.successThreshold"), &probe["successThreshold"], "must be 1"));
    }
}

fn validate_tolerations(errors: &mut Vec<FieldError>, tolerations: &Value, path: &str) {
    for (index, toleration) in list(tolerations).iter().enumerate() {
        let at = |field: &str| format!("{path}[{index}].{field}");
        let (key, operator) = (text(&toleration["key"]), text(&toleration["operator"]));
        if !key.is_empty() {
            named(errors, &toleration["key"], &at("key"), names::qualified_name);
        }
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(at("operator"), &toleration["operator"], why));
        }
        if is_set(toleration, "tolerationSeconds") && text(&toleration["effect"]) != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(at("effect"), &toleration["effect"], why));
        }
        if operator == "Exists" && !text(&toleration["value"]).is_empty() {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(at("operator"), &toleration["value"], why));
        }
        if !operator.is_empty() {
            one_of(errors, &toleration["operator"], &at("operator"), &["Equal", "Exists"]);
        }
        if !text(&toleration["effect"]).is_empty() {
            one_of(errors, &toleration["effect"], &at("effect"), &["NoExecute", "NoSchedule", "PreferNoSchedule"]);
        }
    }
}

fn validate_spread(errors: &mut Vec<FieldError>, constraints: &Value, path: &str) {
    for (index, constraint) in list(constraints).iter().enumerate() {
        let at = |field: &str| format!("{path}[{index}].{field}");
        if constraint["maxSkew"].as_i64().unwrap_or(0) <= 0 {
            errors.push(FieldError::invalid(at("maxSkew"), &constraint["maxSkew"], "must be greater than zero"));
        }
        if text(&constraint["topologyKey"]).is_empty() {
            errors.push(FieldError::required(at("topologyKey"), "can not be empty"));
        }
        let supported = ["DoNotSchedule", "ScheduleAnyway"];
        if !supported.contains(&text(&constraint["whenUnsatisfiable"])) {
            errors.push(FieldError::not_supported(
                at("whenUnsatisfiable"),
                &constraint["whenUnsatisfiable"],
                &supported,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("host:5000/busybox", "Always"),
            ("host:5000/busybox:1", "IfNotPresent"),
            ("busybox@sha256:aa", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn defaults_are_upstreams_and_setting_them_twice_changes_nothing() {
        let mut spec = json!({"containers": [{"name": "c", "image": "a:1", "ports": [{"containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]});
        default(&mut spec);
        assert_eq!(
            spec,
            json!({"containers": [{"name": "c", "image": "a:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "imagePullPolicy": "IfNotPresent", "resources": {}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "securityContext": {}})
        );
        let once = spec.clone();
        default(&mut spec);
        assert_eq!(spec, once);
        assert_eq!(validate(&spec, "spec"), []);
    }

    #[test]
    fn complaints_are_upstreams() {
        let table = [
            (json!({"containers": []}), "spec.containers: Required value"),
            (json!({"containers": [{"name": "c"}]}), "spec.containers[0].image: Required value"),
            (
                json!({"containers": [{"name": "c", "image": "a"}, {"name": "c", "image": "a"}]}),
                r#"spec.containers[1].name: Duplicate value: "c""#,
            ),
            (
                json!({"containers": [{"name": "c", "image": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
                r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#,
            ),
            (
                json!({"containers": [{"name": "c", "image": "a",
                    "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
                r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
            ),
            (
                json!({"containers": [{"name": "c", "image": "a"}], "restartPolicy": "Sometimes"}),
                r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#,
            ),
        ];
        for (spec, complaint) in table {
            let errors: Vec<String> = validate(&spec, "spec").iter().map(ToString::to_string).collect();
            assert_eq!(errors, [complaint]);
        }
    }
}
