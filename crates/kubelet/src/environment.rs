//! A container's environment: `env`, `envFrom`, what they refer to, service variables, and `$(VAR)` in values, command and
//! arguments. Pure: what is referred to comes through [`Lookup`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::Typed;
use api::typed::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use crate::identity;
use crate::resources::{self, Capacity};

/// Why a container cannot be configured as things stand; becomes `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// The objects of the pod's namespace that its spec names.
pub(crate) trait Lookup: Send + Sync {
    /// The config map of that name.
    fn config_map(&self, name: &str) -> Option<ConfigMap>;
    /// The secret of that name.
    fn secret(&self, name: &str) -> Option<Secret>;
}

/// What else values may come from.
pub(crate) struct Facts<'a> {
    pub(crate) lookup: &'a dyn Lookup,
    /// The service variables; those that the spec sets win.
    pub(crate) services: BTreeMap<String, String>,
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) capacity: Capacity,
}

/// The variables of a container, later ones winning, in the order in which they were first set.
pub(crate) fn variables(
    pod: &Pod,
    container: &Container,
    facts: &Facts<'_>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut result = Ordered::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (name, value) in all_of(source, facts)? {
            result.set(format!("{prefix}{name}"), value);
        }
    }
    let mut seen: BTreeMap<String, String> = facts.services.clone();
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => match one_of(pod, container, source, facts)? {
                Some(value) => value,
                None => continue,
            },
            None => {
                let lookup = |name: &str| seen.get(name).or_else(|| result.get(name)).cloned();
                expand(variable.value.as_deref().unwrap_or_default(), lookup)
            }
        };
        seen.insert(variable.name.clone(), value.clone());
        result.set(variable.name.clone(), value);
    }
    // The API server's address does not depend on `enableServiceLinks`, and nothing that the spec sets is overridden.
    for (name, value) in &facts.services {
        if result.get(name).is_none() {
            result.set(name.clone(), value.clone());
        }
    }
    Ok(result.0)
}

#[derive(Default)]
struct Ordered(Vec<(String, String)>);

impl Ordered {
    fn get(&self, name: &str) -> Option<&String> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(key, _)| *key == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }
}

fn all_of(
    source: &api::typed::core::v1::EnvFromSource,
    facts: &Facts<'_>,
) -> Result<Vec<(String, String)>, ConfigError> {
    if let Some(reference) = &source.config_map_ref {
        return match facts.lookup.config_map(&reference.name) {
            Some(map) => Ok(map.data.unwrap_or_default().into_iter().collect()),
            None if reference.optional == Some(true) => Ok(Vec::new()),
            None => Err(ConfigError(format!("configmap \"{}\" not found", reference.name))),
        };
    }
    if let Some(reference) = &source.secret_ref {
        return match facts.lookup.secret(&reference.name) {
            Some(secret) => {
                let data = secret.data.unwrap_or_default().into_iter();
                Ok(data.map(|(name, value)| (name, String::from_utf8_lossy(&value.0).into_owned())).collect())
            }
            None if reference.optional == Some(true) => Ok(Vec::new()),
            None => Err(ConfigError(format!("secret \"{}\" not found", reference.name))),
        };
    }
    Ok(Vec::new())
}

fn one_of(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    facts: &Facts<'_>,
) -> Result<Option<String>, ConfigError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(selector) = &source.field_ref {
        let value = pod_field(pod, &selector.field_path, facts.pod_ips, facts.host_ips);
        let unknown = || ConfigError(format!("unsupported fieldPath: {}", selector.field_path));
        return value.ok_or_else(unknown).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = resources::field(pod, Some(&container.name), selector, facts.capacity);
        let unknown = || ConfigError(format!("unsupported container resource : {}", selector.resource));
        return value.ok_or_else(unknown).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(map) = facts.lookup.config_map(&selector.name) else {
            return missing(optional, || format!("configmap \"{}\" not found", selector.name));
        };
        return match map.data.and_then(|mut data| data.remove(&selector.key)) {
            Some(value) => Ok(Some(value)),
            None => missing(optional, || {
                format!("couldn't find key {} in ConfigMap {namespace}/{}", selector.key, selector.name)
            }),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(secret) = facts.lookup.secret(&selector.name) else {
            return missing(optional, || format!("secret \"{}\" not found", selector.name));
        };
        return match secret.data.and_then(|mut data| data.remove(&selector.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => missing(optional, || {
                format!("couldn't find key {} in Secret {namespace}/{}", selector.key, selector.name)
            }),
        };
    }
    Ok(None)
}

fn missing(optional: bool, message: impl FnOnce() -> String) -> Result<Option<String>, ConfigError> {
    if optional { Ok(None) } else { Err(ConfigError(message())) }
}

/// The value of a `fieldRef`; `None` where the path is not one of the API's.
pub(crate) fn pod_field(pod: &Pod, path: &str, pod_ips: &[IpAddr], host_ips: &[IpAddr]) -> Option<String> {
    let text = |value: &Option<String>| Some(value.clone().unwrap_or_default());
    let joined = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => text(&pod.metadata.name),
        "metadata.namespace" => text(&pod.metadata.namespace),
        "metadata.uid" => text(&pod.metadata.uid),
        "metadata.labels" => Some(format_map(pod.metadata.labels.as_ref())),
        "metadata.annotations" => Some(format_map(pod.metadata.annotations.as_ref())),
        "spec.nodeName" => text(&spec?.node_name),
        "spec.serviceAccountName" => text(&spec?.service_account_name),
        "status.hostIP" => Some(first(host_ips)),
        "status.hostIPs" => Some(joined(host_ips)),
        "status.podIP" => Some(first(pod_ips)),
        "status.podIPs" => Some(joined(pod_ips)),
        _ => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let map = match map {
                "metadata.labels" => pod.metadata.labels.as_ref(),
                "metadata.annotations" => pod.metadata.annotations.as_ref(),
                _ => return None,
            };
            Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
        }
    }
}

/// One `key="value"` a line, as downward API files hold labels.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Replaces `$(NAME)` by its value; `$$` stands for one dollar, and a name that is not known stays as it is written.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            result.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&rest[at..rest.len() - tail.len()]),
            }
            rest = tail;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

/// The service variables of a pod: those of its namespace's services where it asks for links, and always those of
/// `default/kubernetes`.
pub(crate) fn service_variables<'a>(
    pod: &Pod,
    services: impl Iterator<Item = &'a api::Object>,
) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut variables = BTreeMap::new();
    for object in services {
        let key = object.key();
        let master = &*key.namespace == "default" && &*key.name == "kubernetes";
        if master || (links && &*key.namespace == namespace) {
            match Service::decode(object.json()) {
                // A service of the pod's own namespace wins over `default/kubernetes` under the same name.
                Ok(service) if master && &*key.namespace != namespace => {
                    let mut own = variables_of(&service);
                    own.append(&mut variables);
                    variables = own;
                }
                Ok(service) => variables.append(&mut variables_of(&service)),
                Err(error) => {
                    tracing::warn!(service = %key, error = base::chain(&error), "service skipped: it cannot be read");
                }
            }
        }
    }
    variables
}

fn variables_of(service: &Service) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let Some(spec) = &service.spec else { return variables };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let Some(ports) = spec.ports.as_ref().filter(|ports| !ports.is_empty() && !ip.is_empty() && ip != "None") else {
        return variables;
    };
    let name = service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let mut set = |key: String, value: String| variables.insert(key, value);
    set(format!("{name}_SERVICE_HOST"), ip.to_owned());
    set(format!("{name}_SERVICE_PORT"), ports[0].port.to_string());
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if let Some(port_name) = port.name.as_deref().filter(|port_name| !port_name.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            set(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
        }
        if index == 0 {
            set(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        set(prefix.clone(), url);
        set(format!("{prefix}_PROTO"), protocol.to_lowercase());
        set(format!("{prefix}_PORT"), port.port.to_string());
        set(format!("{prefix}_ADDR"), ip.to_owned());
    }
    variables
}

/// The names of the config maps and secrets that the environment of a pod's containers refers to.
pub(crate) fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for (_, container) in identity::containers(pod) {
        for source in container.env_from.iter().flatten() {
            maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            maps.extend(source.config_map_key_ref.iter().map(|selector| selector.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|selector| selector.name.clone()));
        }
    }
    (maps, secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    struct Objects;

    impl Lookup for Objects {
        fn config_map(&self, name: &str) -> Option<ConfigMap> {
            let json = br#"{"metadata":{"name":"settings"},"data":{"COLOR":"blue","SIZE":"9"}}"#;
            (name == "settings").then(|| ConfigMap::decode(json).unwrap())
        }
        fn secret(&self, name: &str) -> Option<Secret> {
            let json = br#"{"metadata":{"name":"keys"},"data":{"token":"aHVzaA=="}}"#;
            (name == "keys").then(|| Secret::decode(json).unwrap())
        }
    }

    fn check(container: &str) -> Result<Vec<(String, String)>, ConfigError> {
        let pod = pod(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"ns","labels":{{"app":"web"}}}},"spec":{{"containers":[{container}]}}}}"#
        ));
        let facts = Facts {
            lookup: &Objects,
            services: [("KUBERNETES_SERVICE_HOST".to_owned(), "10.43.0.1".to_owned())].into(),
            pod_ips: &["10.42.0.9".parse().unwrap()],
            host_ips: &[],
            capacity: Capacity::default(),
        };
        let mut variables = variables(&pod, &pod.spec.as_ref().unwrap().containers[0], &facts)?;
        variables.retain(|(name, _)| name != "KUBERNETES_SERVICE_HOST");
        Ok(variables)
    }

    #[test]
    fn values_come_from_where_the_spec_says() {
        let variables = check(
            r#"{"name":"c","envFrom":[{"prefix":"P_","configMapRef":{"name":"settings"}},{"secretRef":{"name":"none","optional":true}}],
            "env":[{"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
                   {"name":"APP","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['app']"}}},
                   {"name":"TOKEN","valueFrom":{"secretKeyRef":{"name":"keys","key":"token"}}},
                   {"name":"GONE","valueFrom":{"configMapKeyRef":{"name":"settings","key":"nope","optional":true}}},
                   {"name":"ALL","value":"$(IP)/$(P_COLOR)/$$(IP)/$(NOPE)/$(KUBERNETES_SERVICE_HOST)"}]}"#,
        )
        .unwrap();
        let text = variables.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        assert_eq!(
            text,
            "P_COLOR=blue P_SIZE=9 IP=10.42.0.9 APP=web TOKEN=hush ALL=10.42.0.9/blue/$(IP)/$(NOPE)/10.43.0.1"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (env, wanted) in [
            (r#"{"configMapKeyRef":{"name":"none","key":"k"}}"#, "configmap \"none\" not found"),
            (r#"{"configMapKeyRef":{"name":"settings","key":"k"}}"#, "couldn't find key k in ConfigMap ns/settings"),
            (r#"{"secretKeyRef":{"name":"keys","key":"k"}}"#, "couldn't find key k in Secret ns/keys"),
        ] {
            let error = check(&format!(r#"{{"name":"c","env":[{{"name":"X","valueFrom":{env}}}]}}"#)).unwrap_err();
            assert_eq!(error.to_string(), wanted);
        }
    }

    #[test]
    fn dollars_expand_as_upstream_expands_them() {
        for (text, wanted) in [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B) $A $", "$(B) $A $"),
            ("$(A", "$(A"),
            ("$(A)$(A)", "11"),
        ] {
            assert_eq!(expand(text, |name| (name == "A").then(|| "1".to_owned())), wanted, "{text}");
        }
    }

    #[test]
    fn services_become_docker_style_variables() {
        let json = br#"{"metadata":{"name":"my-db","namespace":"ns"},"spec":{"clusterIP":"10.43.0.7","ports":[{"name":"sql","port":5432}]}}"#;
        let object = api::Object::parse(Service::resource(), bytes::Bytes::from_static(json)).unwrap();
        let pod = pod(r#"{"metadata":{"name":"p","namespace":"ns"},"spec":{"containers":[]}}"#);
        let variables = service_variables(&pod, std::iter::once(&object));
        assert_eq!(variables["MY_DB_SERVICE_HOST"], "10.43.0.7");
        assert_eq!(variables["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(variables["MY_DB_PORT_5432_TCP"], "tcp://10.43.0.7:5432");
    }
}
