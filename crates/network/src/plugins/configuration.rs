//! Configurations of networks, as files in a folder: which one is taken, and what each of its plugins is told. Pure.

use serde_json::{Map, Value, json};

use cri::{AttachRequest, PortMapping};

/// The versions of the specification whose configurations and results are understood.
const VERSIONS: [&str; 6] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", ""];
/// Without a version the specification's first one is meant, which has another form of results.
const UNSAID: &str = "0.1.0";
/// A chain of more is a mistake.
const PLUGINS_MAX: usize = 32;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// JSON of another shape.
    #[error("{0}")]
    Shape(String),
}

/// A network: plugins that are called one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Network {
    /// Its name.
    pub(super) name: String,
    /// The version that its plugins are spoken to in.
    pub(super) version: String,
    /// Their configurations; each has a `type`, the name of a program.
    pub(super) plugins: Vec<Map<String, Value>>,
}

/// Whether a file of this name is a configuration.
pub(super) fn is_configuration(name: &str) -> bool {
    !name.starts_with('.') && [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end))
}

impl Network {
    /// Understands a list of plugins, or one plugin alone.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ConfigurationError> {
        let shape = |text: String| ConfigurationError::Shape(text);
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| ConfigurationError::Json(error.to_string()))?;
        let Value::Object(mut whole) = value else { return Err(shape("it is no object".to_owned())) };
        let text = |name: &str| whole.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, version) = (text("name"), newest(&whole));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || !name.bytes().all(plain) {
            return Err(shape(format!("the network's name {name:?} is not letters, digits, '_', '.' and '-'")));
        }
        if version.is_empty() || !VERSIONS.contains(&version.as_str()) {
            let said = if version.is_empty() { UNSAID } else { &version };
            return Err(shape(format!("cniVersion {said:?} is not one of {}", VERSIONS[..5].join(", "))));
        }
        let plugins = match whole.remove("plugins") {
            Some(Value::Array(list)) => list,
            Some(_) => return Err(shape("plugins is no list".to_owned())),
            None => vec![Value::Object(whole)],
        };
        if plugins.is_empty() || plugins.len() > PLUGINS_MAX {
            return Err(shape(format!("it has {} plugins: 1 to {PLUGINS_MAX} can be", plugins.len())));
        }
        let plugins = plugins.into_iter().map(|plugin| match plugin {
            Value::Object(plugin) if plugin.get("type").and_then(Value::as_str).is_some_and(is_program) => Ok(plugin),
            other => Err(shape(format!("a plugin's type {} is no program's name", other["type"]))),
        });
        Ok(Self { name, version, plugins: plugins.collect::<Result<_, _>>()? })
    }

    /// What a plugin is told in its input.
    pub(super) fn input(&self, plugin: &Map<String, Value>, previous: Option<&Value>, asked: &Asked) -> Value {
        let mut input = plugin.clone();
        input.insert("name".to_owned(), self.name.clone().into());
        input.insert("cniVersion".to_owned(), self.version.clone().into());
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        let capabilities = plugin.get("capabilities").and_then(Value::as_object);
        let told: Map<String, Value> = [("portMappings", &asked.ports), ("ipRanges", &asked.ranges)]
            .into_iter()
            .filter(|(name, value)| {
                let wanted = capabilities.and_then(|all| all.get(*name)).is_some_and(|wanted| *wanted == true);
                wanted && value.as_array().is_some_and(|list| !list.is_empty())
            })
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect();
        if !told.is_empty() {
            input.insert("runtimeConfig".to_owned(), Value::Object(told));
        }
        Value::Object(input)
    }
}

/// The newest version that is both offered and understood; `cniVersions` offers several.
fn newest(whole: &Map<String, Value>) -> String {
    let offered = whole.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let offered: Vec<&str> = offered.chain(whole.get("cniVersion")).filter_map(Value::as_str).collect();
    let known = VERSIONS.iter().rev().filter(|version| !version.is_empty());
    let best = known.copied().find(|version| offered.contains(version));
    best.or_else(|| offered.first().copied()).unwrap_or_default().to_owned()
}

/// Names of programs become paths.
fn is_program(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// What plugins with the capability for it are told of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    ports: Value,
    ranges: Value,
}

impl Asked {
    /// Of a pod, on a node with this range.
    pub(super) fn of(ports: &[PortMapping], pod_cidr: Option<&str>) -> Self {
        let ports = ports.iter().map(|port| {
            let protocol = match port.protocol {
                17 => "udp",
                132 => "sctp",
                _ => "tcp",
            };
            let host_ip = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
            json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol, "hostIP": host_ip})
        });
        let ranges = pod_cidr.map(|subnet| json!([{"subnet": subnet}]));
        Self { ports: ports.collect(), ranges: ranges.into_iter().collect() }
    }
}

/// `CNI_ARGS`.
pub(super) fn arguments(request: &AttachRequest) -> String {
    let AttachRequest { sandbox_id, pod_namespace, pod_name, pod_uid, .. } = request;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={pod_namespace};K8S_POD_NAME={pod_name};K8S_POD_INFRA_CONTAINER_ID={sandbox_id};\
         K8S_POD_UID={pod_uid}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Network::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn lists_and_single_plugins_are_understood_and_nonsense_is_named() {
        let list = br#"{"name": "net", "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "9.0.0"],
            "plugins": [{"type": "bridge", "bridge": "b0"}, {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;
        let network = Network::parse(list).unwrap();
        assert_eq!((network.name.as_str(), network.version.as_str(), network.plugins.len()), ("net", "1.0.0", 2));
        let single = Network::parse(br#"{"name": "n", "cniVersion": "1.1.0", "type": "ptp"}"#).unwrap();
        assert_eq!((single.plugins[0]["type"].clone(), single.version.as_str()), (json!("ptp"), "1.1.0"));
        for (text, wanted) in [
            ("{", "it is not JSON"),
            ("[]", "it is no object"),
            (r#"{"name": "../x", "cniVersion": "1.0.0", "type": "a"}"#, "the network's name \"../x\""),
            (r#"{"name": "n", "type": "a"}"#, "cniVersion \"0.1.0\" is not one of 0.3.0,"),
            (r#"{"name": "n", "cniVersion": "7.0.0", "type": "a"}"#, "cniVersion \"7.0.0\""),
            (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": []}"#, "it has 0 plugins"),
            (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": 1}"#, "plugins is no list"),
            (r#"{"name": "n", "cniVersion": "1.0.0", "type": "../../bin/sh"}"#, "is no program's name"),
            (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{}]}"#, "type null is no program's name"),
        ] {
            assert!(refused(text).contains(wanted), "{text}: {}", refused(text));
        }
        for (name, is) in
            [("10-a.conflist", true), ("a.conf", true), ("a.json", true), (".a.conf", false), ("a.conf~", false)]
        {
            assert_eq!(is_configuration(name), is, "{name}");
        }
    }

    #[test]
    fn a_plugin_is_told_what_it_has_the_capability_for() {
        let ports = [PortMapping { protocol: 17, host_ip: None, host_port: 53, container_port: 5353 }];
        let asked = Asked::of(&ports, Some("10.42.0.0/24"));
        let network = Network::parse(
            br#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "a"}, {"type": "b", "capabilities":
            {"portMappings": true, "ipRanges": true, "bandwidth": true}}, {"type": "c", "capabilities": {"portMappings": false}}]}"#,
        )
        .unwrap();
        let inputs: Vec<Value> =
            network.plugins.iter().map(|plugin| network.input(plugin, Some(&json!({"ips": []})), &asked)).collect();
        assert_eq!((&inputs[0]["name"], &inputs[0]["cniVersion"]), (&json!("n"), &json!("1.0.0")));
        assert_eq!(inputs[0]["prevResult"], json!({"ips": []}));
        assert!(inputs[0].get("runtimeConfig").is_none() && inputs[2].get("runtimeConfig").is_none());
        let told = json!({"portMappings": [{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": ""}],
            "ipRanges": [[{"subnet": "10.42.0.0/24"}]]});
        assert_eq!(inputs[1]["runtimeConfig"], told);
        let none = Asked::of(&[], None);
        assert!(network.input(&network.plugins[1], None, &none).get("runtimeConfig").is_none());
    }
}
