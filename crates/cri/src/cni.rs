//! The container network interface, as its plugins see it: what a runtime asks, and what it is answered.
//!
//! A plugin is a program: the runtime says in its environment what it wants, and in its input how the network is configured.
//! All that is here is pure; the binary reads the environment and talks to the node's agent, which has the network.
//!
//! Public behaviour: the CNI specification 1.1 (and 1.0, which lacks `STATUS` and `GC`). What is left out: other names of the
//! pod's link than `eth0`, and plugins before this one in a chain.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::network::{AttachRequest, PortMapping};

/// The versions of the specification that are spoken, the oldest first.
pub const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// The plugin that runtimes want for every pod's loopback, and the older versions that some ask it in.
pub const LOOPBACK: &str = "loopback";
const LOOPBACK_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", VERSIONS[0], VERSIONS[1]];

/// Configurations and results are a few kilobytes; without a bound a caller could fill the agent's memory.
pub const BYTES_MAX: u64 = 1 << 20;

/// The name of the pod's link.
const LINK: &str = "eth0";

/// An error as plugins report it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// The specification's number for it.
    pub code: u32,
    /// What was wrong.
    pub message: String,
}

impl CniError {
    /// A result in this version is not spoken.
    pub const VERSION: u32 = 1;
    /// No such container.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A variable of the environment is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The input is no JSON of the expected shape.
    pub const DECODING: u32 = 6;
    /// The configuration cannot be used.
    pub const CONFIGURATION: u32 = 7;
    /// Something passing: to be tried again.
    pub const TRY_AGAIN: u32 = 11;
    /// The plugin cannot serve `ADD` now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The network could not be made or removed: ours, as numbers from 100 on are.
    pub const NETWORK: u32 = 100;

    /// With one of the numbers above.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What goes to the plugin's output.
    pub fn to_json(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code, "msg": self.message})
    }
}

/// What a runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    /// Give a sandbox its network.
    Add,
    /// Take it back.
    Del,
    /// Is it still as it was given?
    Check,
    /// Could a sandbox be added now?
    Status,
    /// Take back all but those that are named.
    Gc,
    /// Which versions are spoken?
    Version,
}

impl Command {
    fn parse(text: &str) -> Option<Self> {
        serde_json::from_value(Value::String(text.to_owned())).ok()
    }
}

/// One call of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// What is wanted.
    pub command: Command,
    /// In which version the answer is read.
    pub version: String,
    /// The agent's socket, from the configuration.
    pub socket: String,
    /// The sandbox's id; empty where the command is about none.
    pub container_id: String,
    /// The sandbox's network namespace, as a file; empty where it is gone or the command is about none.
    pub namespace: String,
    /// `K8S_POD_NAMESPACE` and the like.
    pub args: BTreeMap<String, String>,
    /// Ports of the node.
    pub ports: Vec<PortMapping>,
    /// The sandboxes that are there, for `GC`.
    pub valid: Vec<String>,
}

/// The part of a configuration that is read; what others add to it is left alone.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    cni_version: String,
    socket: String,
    runtime_config: RuntimeConfiguration,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Vec<Attachment>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RuntimeConfiguration {
    port_mappings: Vec<Mapping>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mapping {
    host_port: u16,
    container_port: u16,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Attachment {
    #[serde(rename = "containerID")]
    container_id: String,
}

/// Understands a call from the plugin's environment and input. The version in which even an error is told is the first of
/// what is returned.
pub fn parse(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> (String, Result<Call, CniError>) {
    parse_as(variable, input, LINK, &VERSIONS)
}

/// The same for the plugin [`LOOPBACK`], which has no agent.
pub fn parse_loopback(variable: impl Fn(&str) -> Option<String>, input: &[u8]) -> (String, Result<Call, CniError>) {
    parse_as(variable, input, "lo", &LOOPBACK_VERSIONS)
}

fn parse_as(
    variable: impl Fn(&str) -> Option<String>,
    input: &[u8],
    link: &str,
    versions: &[&str],
) -> (String, Result<Call, CniError>) {
    let decoded = serde_json::from_slice::<Configuration>(input);
    let asked = decoded.as_ref().map(|config| config.cni_version.clone()).unwrap_or_default();
    let spoken = versions.contains(&asked.as_str());
    let version = if spoken { asked.clone() } else { VERSIONS[0].to_owned() };
    let call = || {
        let config = decoded
            .map_err(|error| CniError::new(CniError::DECODING, format!("the configuration cannot be read: {error}")))?;
        let named = variable("CNI_COMMAND").unwrap_or_default();
        let wrong = || CniError::new(CniError::ENVIRONMENT, format!("CNI_COMMAND is {named:?}"));
        let command = Command::parse(&named).ok_or_else(wrong)?;
        if !spoken && command != Command::Version {
            let known = versions.join(", ");
            return Err(CniError::new(CniError::VERSION, format!("version {asked:?} is not one of {known}")));
        }
        understand(command, version.clone(), config, link, variable)
    };
    let call = call();
    (version, call)
}

fn understand(
    command: Command,
    version: String,
    config: Configuration,
    wanted_link: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Call, CniError> {
    let about_one = matches!(command, Command::Add | Command::Del | Command::Check);
    let value = |name: &str, needed: bool| match variable(name).filter(|value| !value.is_empty()) {
        Some(value) => Ok(value),
        None if needed => Err(CniError::new(CniError::ENVIRONMENT, format!("{name} is missing"))),
        None => Ok(String::new()),
    };
    let container_id = value("CNI_CONTAINERID", about_one)?;
    if about_one && !is_id(&container_id) {
        let message = format!("CNI_CONTAINERID {container_id:?} is no container's id");
        return Err(CniError::new(CniError::ENVIRONMENT, message));
    }
    let namespace = value("CNI_NETNS", matches!(command, Command::Add | Command::Check))?;
    let link = value("CNI_IFNAME", about_one)?;
    if about_one && link != wanted_link {
        return Err(CniError::new(CniError::ENVIRONMENT, format!("CNI_IFNAME {link:?} is not {wanted_link}")));
    }
    if config.socket.is_empty() && wanted_link == LINK && command != Command::Version {
        return Err(CniError::new(CniError::CONFIGURATION, "the configuration names no socket of the node's agent"));
    }
    let args = variable("CNI_ARGS").unwrap_or_default();
    let args = args.split(';').filter_map(|pair| pair.split_once('='));
    let ports = config.runtime_config.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
    Ok(Call {
        command,
        version,
        socket: config.socket,
        container_id,
        namespace,
        args: args.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ports: ports.map(port).collect::<Result<_, _>>()?,
        valid: config.valid.into_iter().map(|attachment| attachment.container_id).collect(),
    })
}

/// Ids become names of files.
fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    id.len() <= 128 && id.starts_with(|first: char| first.is_ascii_alphanumeric()) && id.bytes().all(plain)
}

fn port(mapping: &Mapping) -> Result<PortMapping, CniError> {
    let wrong = |what: String| CniError::new(CniError::CONFIGURATION, what);
    let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        other => return Err(wrong(format!("protocol {other:?} of a port is unknown"))),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| wrong(format!("{text:?} is no address of the node")))?),
    };
    // Every address is the same as none.
    let host_ip = host_ip.filter(|address| !address.is_unspecified());
    Ok(PortMapping { protocol, host_ip, host_port: mapping.host_port, container_port: mapping.container_port })
}

impl Call {
    /// What the pod network is asked for an `ADD`.
    pub fn attach_request(&self) -> AttachRequest {
        let arg = |name: &str| self.args.get(name).cloned().unwrap_or_default();
        AttachRequest {
            sandbox_id: self.container_id.clone(),
            namespace_path: self.namespace.clone().into(),
            pod_namespace: arg("K8S_POD_NAMESPACE"),
            pod_name: arg("K8S_POD_NAME"),
            pod_uid: arg("K8S_POD_UID"),
            port_mappings: self.ports.clone(),
        }
    }

    /// The answer to an `ADD`.
    pub fn added(&self, addresses: &[IpAddr]) -> Value {
        let whole = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let ips = addresses.iter().map(|ip| json!({"address": format!("{ip}/{}", whole(ip)), "interface": 0}));
        json!({
            "cniVersion": self.version,
            "interfaces": [{"name": LINK, "sandbox": self.namespace}],
            "ips": ips.collect::<Vec<_>>(),
            "dns": {},
        })
    }
}

impl Call {
    /// The answer of [`LOOPBACK`] to an `ADD`.
    pub fn loopback_added(&self) -> Value {
        let interface = json!({"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": self.namespace});
        json!({"cniVersion": self.version, "interfaces": [interface], "dns": {}})
    }
}

/// The answer to `VERSION`.
pub fn versions() -> Value {
    json!({"cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS})
}

/// The configuration that a runtime is given: one plugin, of this type, whose agent listens on `socket`. An older runtime reads
/// the first version, a newer one chooses.
pub fn configuration(plugin: &str, socket: &str) -> Value {
    json!({
        "cniVersion": VERSIONS[0],
        "cniVersions": VERSIONS,
        "name": "timonier",
        "plugins": [{"type": plugin, "socket": socket, "capabilities": {"portMappings": true}}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(variables: &[(&str, &str)], input: &Value) -> Result<Call, CniError> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        parse(variable, input.to_string().as_bytes()).1
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "abc"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u1"),
    ];

    #[test]
    fn an_add_is_understood_and_answered() {
        let input = json!({"cniVersion": "1.1.0", "name": "timonier", "type": "timonier", "socket": "/s", "runtimeConfig":
            {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "0.0.0.0"},
                {"hostPort": 0, "containerPort": 1, "protocol": "udp"}]}});
        let add = call(&ADD, &input).unwrap();
        let request = add.attach_request();
        assert_eq!(
            (request.sandbox_id.as_str(), request.pod_name.as_str(), request.pod_uid.as_str()),
            ("abc", "web", "u1")
        );
        let port = PortMapping { protocol: 6, host_ip: None, host_port: 8080, container_port: 80 };
        assert_eq!(request.port_mappings, [port]);
        let answer = add.added(&["10.42.0.2".parse().unwrap()]);
        assert_eq!((&answer["cniVersion"], &answer["ips"][0]["address"]), (&json!("1.1.0"), &json!("10.42.0.2/32")));
        assert_eq!(answer["interfaces"][0], json!({"name": "eth0", "sandbox": "/run/netns/x"}));
        let sent: Call = serde_json::from_str(&serde_json::to_string(&add).unwrap()).unwrap();
        assert_eq!(sent, add);
    }

    #[test]
    fn what_is_wrong_has_its_number() {
        let good = json!({"cniVersion": "1.0.0", "socket": "/s"});
        let with = |name: &'static str, value: &'static str| -> Vec<(&str, &str)> {
            ADD.iter().copied().map(|(known, v)| if known == name { (known, value) } else { (known, v) }).collect()
        };
        for (variables, input, code) in [
            (with("CNI_COMMAND", "DANCE"), good.clone(), CniError::ENVIRONMENT),
            (with("CNI_NETNS", ""), good.clone(), CniError::ENVIRONMENT),
            (with("CNI_CONTAINERID", "../x"), good.clone(), CniError::ENVIRONMENT),
            (with("CNI_IFNAME", "net1"), good, CniError::ENVIRONMENT),
            (ADD.to_vec(), json!({"cniVersion": "0.2.0", "socket": "/s"}), CniError::VERSION),
            (ADD.to_vec(), json!({"cniVersion": "1.0.0"}), CniError::CONFIGURATION),
            (ADD.to_vec(), json!([1]), CniError::DECODING),
        ] {
            assert_eq!(call(&variables, &input).unwrap_err().code, code, "{variables:?} {input}");
        }
        assert!(call(&with("CNI_COMMAND", "VERSION"), &json!({"cniVersion": "9.9.9"})).is_ok());
    }

    #[test]
    fn a_loopback_needs_no_agent() {
        let variables = ADD.map(|(name, value)| (name, if name == "CNI_IFNAME" { "lo" } else { value }));
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        let input = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"}).to_string();
        let (version, call) = parse_loopback(variable, input.as_bytes());
        let answer = call.unwrap().loopback_added();
        assert_eq!((version.as_str(), &answer["interfaces"][0]["name"]), ("0.3.1", &json!("lo")));
        assert_eq!(parse(variable, input.as_bytes()).1.unwrap_err().code, CniError::VERSION);
    }

    #[test]
    fn a_collection_names_who_stays() {
        let input = json!({"cniVersion": "1.1.0", "socket": "/s",
            "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]});
        assert_eq!(call(&[("CNI_COMMAND", "GC")], &input).unwrap().valid, ["a"]);
    }
}
