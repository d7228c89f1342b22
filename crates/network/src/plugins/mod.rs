//! The pod network by installed plugins of others: the container network interface from the runtime's side.
//!
//! The first configuration in the folder, in the order of names, is the network; it is read each time, so that one which comes later or
//! is changed counts from then on. What a sandbox is given is written down before its plugins are called, with all that taking it back
//! needs: a `DEL` after a crash at any point, or after the configuration went, is the one that goes with the `ADD`.
//!
//! Public behaviour: the CNI specification 1.1 and the versions back to 0.3.0. What is left out: `CHECK` and `GC` (what is not there any
//! more is taken back one by one), and the capabilities other than `portMappings` and `ipRanges`.

mod configuration;
mod program;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use cri::{AttachRequest, NetworkError, PodNetwork};
use ipnet::Ipv4Net;
use linux::net::{Bridge, Net, NetError, Route};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use configuration::ConfigurationError;
use configuration::{Asked, Network};
pub use program::PluginError;
use program::Program;

use crate::{BRIDGE, hardware_address};

/// The folder of what sandboxes were given, in the state directory.
const RECORDS: &str = "plugins";
/// The pod's link.
const LINK: &str = "eth0";
/// A configuration of more is none.
const CONFIGURATION_BYTES_MAX: u64 = 1 << 20;

/// What plugins are called with.
#[derive(Clone)]
pub struct PluginsConfig {
    /// The node's own network namespace.
    pub net: Arc<dyn Net>,
    /// Where networks are configured.
    pub configuration_dir: PathBuf,
    /// Where plugins are.
    pub program_dir: PathBuf,
    /// Where it is written down what sandboxes were given.
    pub state_dir: PathBuf,
    /// The node's part of the pods' addresses, for plugins that want to be told.
    pub pod_cidr: Option<Ipv4Net>,
}

/// The pod network of installed plugins.
pub struct Plugins {
    config: PluginsConfig,
    records: PathBuf,
}

/// Pods have no network.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    /// A file or folder.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Nothing is configured.
    #[error("no networks found in {}", .0.display())]
    NotConfigured(PathBuf),
    /// What is configured cannot be used.
    #[error("{} cannot be used", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ConfigurationError,
    },
    /// A plugin.
    #[error("plugin type={plugin:?} failed ({command})")]
    Plugin {
        /// The program.
        plugin: String,
        /// `ADD` or `DEL`.
        command: &'static str,
        /// What it said.
        #[source]
        source: PluginError,
    },
    /// A result without an address.
    #[error("the plugins of network {0:?} gave the pod no address")]
    NoAddress(String),
    /// The kernel.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// What a sandbox was given.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    sandbox: String,
    network: String,
    version: String,
    /// Each with the input that it was called with, but for the results of those before it.
    inputs: Vec<Map<String, Value>>,
    program_dir: PathBuf,
    arguments: String,
    namespace: PathBuf,
    /// The namespace's device and number: its path may lead to another one when it is gone.
    identity: Option<(u64, u64)>,
    /// What the last plugin said; none while it is given.
    result: Option<Value>,
}

impl Plugins {
    /// Makes the folder for what sandboxes are given.
    pub fn open(config: PluginsConfig) -> Result<Self, PluginsError> {
        let records = config.state_dir.join(RECORDS);
        std::fs::create_dir_all(&records).map_err(file("make", &records))?;
        Ok(Self { config, records })
    }

    /// The network that is configured now.
    fn network(&self) -> Result<Network, PluginsError> {
        let folder = &self.config.configuration_dir;
        let mut names: Vec<String> = match std::fs::read_dir(folder) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(file("read", folder)(error)),
        };
        names.retain(|name| configuration::is_configuration(name));
        let first = names.into_iter().min().ok_or_else(|| PluginsError::NotConfigured(folder.clone()))?;
        let path = folder.join(first);
        let size = std::fs::metadata(&path).map_err(file("read", &path))?.len();
        let bytes = match size {
            ..=CONFIGURATION_BYTES_MAX => std::fs::read(&path).map_err(file("read", &path))?,
            _ => Vec::new(),
        };
        Network::parse(&bytes).map_err(|source| PluginsError::Configuration { path, source })
    }

    async fn add(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, PluginsError> {
        let path = self.record_path(&request.sandbox_id);
        if let Some(record) = read(&path)? {
            match record.result.as_ref().map(addresses).filter(|addresses| !addresses.is_empty()) {
                // It is repeated after a crash.
                Some(addresses) if record.is_there() => return Ok(addresses),
                _ => self.take_back(&record, &path).await?,
            }
        }
        let network = self.network()?;
        let cidr = self.config.pod_cidr.map(|cidr| cidr.to_string());
        let asked = Asked::of(&request.port_mappings, cidr.as_deref());
        let inputs = network.plugins.iter().map(|plugin| match network.input(plugin, None, &asked) {
            Value::Object(input) => input,
            _ => unreachable!("an input is an object"),
        });
        let mut record = Record {
            sandbox: request.sandbox_id.clone(),
            network: network.name.clone(),
            version: network.version.clone(),
            inputs: inputs.collect(),
            program_dir: self.config.program_dir.clone(),
            arguments: configuration::arguments(request),
            namespace: request.namespace_path.clone(),
            identity: identity(&request.namespace_path),
            result: None,
        };
        write(&path, &record)?;
        let pod = self.config.net.enter(&request.namespace_path).await?;
        pod.set_up("lo").await?;
        let added = record.add().await.and_then(|result| match addresses(&result) {
            addresses if addresses.is_empty() => Err(PluginsError::NoAddress(record.network.clone())),
            addresses => Ok((result, addresses)),
        });
        match added {
            Ok((result, addresses)) => {
                record.result = Some(result);
                write(&path, &record)?;
                Ok(addresses)
            }
            Err(error) => {
                // What the first plugins gave must not stay; a failure to take it back is met again when the sandbox goes.
                if let Err(error) = self.take_back(&record, &path).await {
                    tracing::warn!(
                        sandbox = record.sandbox,
                        error = base::chain(&error),
                        "cannot take back what a pod was given whose network failed"
                    );
                }
                Err(error)
            }
        }
    }

    async fn take_back(&self, record: &Record, path: &Path) -> Result<(), PluginsError> {
        record.delete().await?;
        remove(path)
    }

    /// Ids may be anything; a digest is a file's name.
    fn record_path(&self, sandbox: &str) -> PathBuf {
        let digest = Sha256::digest(sandbox.as_bytes());
        self.records.join(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl Record {
    async fn add(&self) -> Result<Value, PluginsError> {
        let mut result = None;
        for input in &self.inputs {
            result = self.call("ADD", input, result).await?;
        }
        Ok(result.unwrap_or_default())
    }

    /// In the other order, with what they all gave; also after some of them were never called.
    async fn delete(&self) -> Result<(), PluginsError> {
        for input in self.inputs.iter().rev() {
            self.call("DEL", input, self.result.clone()).await?;
        }
        Ok(())
    }

    async fn call(
        &self,
        command: &'static str,
        input: &Map<String, Value>,
        previous: Option<Value>,
    ) -> Result<Option<Value>, PluginsError> {
        let plugin = input.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut input = input.clone();
        input.extend(previous.map(|previous| ("prevResult".to_owned(), previous)));
        let namespace = if self.is_there() { self.namespace.as_os_str().to_owned() } else { Default::default() };
        let program = Program {
            path: self.program_dir.join(&plugin),
            environment: vec![
                ("CNI_COMMAND", command.into()),
                ("CNI_CONTAINERID", self.sandbox.clone().into()),
                ("CNI_NETNS", namespace),
                ("CNI_IFNAME", LINK.into()),
                ("CNI_ARGS", self.arguments.clone().into()),
                ("CNI_PATH", self.program_dir.clone().into()),
            ],
            input: Value::Object(input).to_string(),
        };
        program.run().await.map_err(|source| PluginsError::Plugin { plugin, command, source })
    }

    /// Whether the namespace's path leads to it still.
    fn is_there(&self) -> bool {
        self.identity.is_some() && identity(&self.namespace) == self.identity
    }
}

#[async_trait]
impl PodNetwork for Plugins {
    async fn attach(&self, request: &AttachRequest) -> Result<Vec<IpAddr>, NetworkError> {
        self.add(request).await.map_err(|error| failed("attach", &request.sandbox_id, error))
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        let path = self.record_path(sandbox_id);
        let taken = async {
            match read(&path)? {
                Some(record) => self.take_back(&record, &path).await,
                None => Ok(()),
            }
        };
        taken.await.map_err(|error| failed("detach", sandbox_id, error))
    }

    async fn attached(&self) -> Result<Vec<String>, NetworkError> {
        let records = all(&self.records).map_err(|error| failed("look at", "", error))?;
        Ok(records.into_iter().map(|(_, record)| record.sandbox).collect())
    }

    async fn status(&self) -> Result<(), NetworkError> {
        self.network().map(drop).map_err(|error| failed("look at", "", error))
    }
}

fn failed(action: &'static str, sandbox_id: &str, error: PluginsError) -> NetworkError {
    NetworkError { action, sandbox_id: sandbox_id.to_owned(), source: Box::new(error) }
}

/// Takes back what sandboxes were given, for when the node is reset: no pod may run.
pub async fn remove_all(state_dir: &Path) -> Result<(), PluginsError> {
    for (path, record) in all(&state_dir.join(RECORDS))? {
        record.delete().await?;
        remove(&path)?;
    }
    Ok(())
}

/// What the node itself needs where pods hang on links of others: a link for the address of cluster DNS, and a way to services for a
/// node without a default route.
pub async fn make_anchor(
    net: &dyn Net,
    node_ip: Ipv4Addr,
    service_cidr: Ipv4Net,
    cluster_dns: Ipv4Addr,
) -> Result<(), NetError> {
    crate::ensure_loopback_up(net).await?;
    let bridge = Bridge { name: BRIDGE.to_owned(), mac: hardware_address(cluster_dns), mtu: 1500 };
    net.add_bridge(&bridge).await?;
    net.add_address(BRIDGE, Ipv4Net::new_assert(cluster_dns, 32)).await?;
    net.set_up(BRIDGE).await?;
    net.set_sysctl("ipv4/ip_forward", "1").await?;
    // Pods of one bridge answer each other past the rules that gave a service's address to the question.
    if let Err(error) = net.set_sysctl("bridge/bridge-nf-call-iptables", "1").await {
        tracing::warn!(
            error = base::chain(&error),
            "bridged frames are not shown to the service rules: load the module br_netfilter if the plugins make a bridge"
        );
    }
    let (destination, link) = (service_cidr.trunc(), BRIDGE.to_owned());
    net.set_route(&Route { destination, gateway: None, link, source: Some(node_ip) }).await
}

/// The addresses in a result, IPv4 first as pods' primary ones are.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let addresses = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok());
    let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
    four.into_iter().chain(six).collect()
}

fn identity(namespace: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(namespace).ok().map(|found| (found.dev(), found.ino()))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PluginsError {
    let path = path.to_owned();
    move |source| PluginsError::File { action, path, source }
}

/// Half a record is of a crash before any plugin was called.
fn read(path: &Path) -> Result<Option<Record>, PluginsError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file("read", path)(error)),
    }
}

fn write(path: &Path, record: &Record) -> Result<(), PluginsError> {
    let unfinished = path.with_extension("new");
    let bytes = serde_json::to_vec(record).expect("a record is plain data");
    let written = std::fs::File::create(&unfinished).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()
    });
    written.map_err(file("write", &unfinished))?;
    std::fs::rename(&unfinished, path).map_err(file("write", path))
}

fn remove(path: &Path) -> Result<(), PluginsError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn all(folder: &Path) -> Result<Vec<(PathBuf, Record)>, PluginsError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file("read", folder)(error)),
    };
    let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_none());
    paths.filter_map(|path| read(&path).transpose().map(|record| Ok((path, record?)))).collect()
}

#[cfg(test)]
mod tests;
