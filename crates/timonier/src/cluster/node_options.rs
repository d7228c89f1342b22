//! What a node can be told at its start, in the words of upstream's kubelet.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use ipnet::Ipv4Net;
use kubelet::Settings;
use kubelet::settings::{ImagePattern, ImageVerification, Reserved, Signal, Soft, Threshold};
use machinery::quantity::Quantity;

use crate::data_dir::DataDir;

/// Flags about this node.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeOptions {
    /// The port of the node server, where the API server fetches logs and runs commands.
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    /// The socket of an installed container runtime, such as unix:///run/containerd/containerd.sock [default: the embedded one].
    #[arg(long, value_name = "SOCKET")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Where an installed container runtime, or with --pod-network cni the embedded one, looks for its network's configuration.
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// Where it looks for network plugins.
    #[arg(long, value_name = "FOLDER", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// This node's name [default: the machine's host name].
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The address that pods and other machines reach this node under [default: the default route's].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_ip: Option<Ipv4Addr>,
    /// On which of the node's addresses node ports are, as ranges [default: all].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) nodeport_addresses: Vec<Ipv4Net>,
    /// Mirrors, certificates and credentials of image registries, as k3s' registries.yaml [default: registries.yaml in the
    /// data directory, where it is there].
    #[arg(long, value_name = "FILE")]
    registries_config: Option<PathBuf>,
    /// The OCI runtime behind a handler that a RuntimeClass names; runc, crun, youki, runsc and kata are found by themselves.
    #[arg(long, value_name = "HANDLER=PROGRAM", value_parser = handler)]
    oci_runtime: Vec<(String, PathBuf)>,
    /// Pods that run here at most.
    #[arg(long, value_name = "NUMBER", default_value_t = 110)]
    max_pods: u16,
    /// Images that are pulled at once; 1 pulls one after the other.
    #[arg(long, value_name = "NUMBER", default_value_t = 4)]
    max_parallel_image_pulls: u16,
    /// Whether pods must have credentials for private images that are here already: NeverVerify, NeverVerifyPreloadedImages,
    /// NeverVerifyAllowlistedImages or AlwaysVerify.
    #[arg(long, value_name = "POLICY", default_value = "NeverVerifyPreloadedImages")]
    image_pull_credentials_verification_policy: VerificationPolicy,
    /// Images that need none with NeverVerifyAllowlistedImages, such as registry.example/base,registry.example/team/*.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = ImagePattern::parse)]
    preloaded_images_verification_allowlist: Vec<ImagePattern>,
    /// What the node's own processes keep, such as cpu=200m,memory=256Mi,ephemeral-storage=1Gi.
    #[arg(long, value_name = "LIST", value_parser = reserved, default_value = "")]
    kube_reserved: Reserved,
    /// What the system keeps, likewise.
    #[arg(long, value_name = "LIST", value_parser = reserved, default_value = "")]
    system_reserved: Reserved,
    /// When pods are evicted, such as memory.available<200Mi,nodefs.available<5%. What is not named keeps its default.
    #[arg(long, value_name = "LIST", value_parser = eviction, default_value = "")]
    eviction_hard: kubelet::settings::Eviction,
    /// When pods are evicted if it stays so for a while, such as memory.available<500Mi.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = threshold)]
    eviction_soft: Vec<(Signal, Threshold)>,
    /// For how long, such as memory.available=1m30s; each of the above needs one.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = grace)]
    eviction_soft_grace_period: Vec<(Signal, Duration)>,
    /// What pods that are evicted so get at most to end in, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    eviction_max_pod_grace_period: u32,
    /// What must be free beyond a threshold before it counts as kept again, such as nodefs.available=500Mi.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = reclaim)]
    eviction_minimum_reclaim: Vec<(Signal, Threshold)>,
    /// How long a condition such as MemoryPressure lasts at least.
    #[arg(long, value_name = "DURATION", value_parser = super::options::duration, default_value = "5m")]
    eviction_pressure_transition_period: Duration,
    /// Images are collected when more of the disk than this is in use, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u64).range(0..=100))]
    image_gc_high_threshold: u64,
    /// Until no more than this is in use, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u64).range(0..=100))]
    image_gc_low_threshold: u64,
    /// A container's log of more than this is begun anew.
    #[arg(long, value_name = "QUANTITY", default_value = "10Mi", value_parser = bytes)]
    container_log_max_size: i64,
    /// Files of one log.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    container_log_max_files: u16,
    /// Kernel parameters that pods may set beside the safe ones, such as net.core.somaxconn,kernel.msg*.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    allowed_unsafe_sysctls: Vec<String>,
    /// A folder of pods that run with or without the API server [default: manifests in the data directory].
    #[arg(long, value_name = "FOLDER")]
    pod_manifest_path: Option<PathBuf>,
}

/// `imagePullCredentialsVerificationPolicy` in the words of upstream's kubelet.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
enum VerificationPolicy {
    NeverVerify,
    NeverVerifyPreloadedImages,
    NeverVerifyAllowlistedImages,
    AlwaysVerify,
}

impl NodeOptions {
    /// The node's name: given, or the machine's host name in lower case.
    pub(crate) fn name(&self) -> Result<String> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname().context("cannot read the host name")?.to_string_lossy().to_lowercase(),
        };
        match machinery::names::dns1123_subdomain(&name).into_iter().next() {
            None => Ok(name),
            Some(why) => anyhow::bail!("the node name {name:?} cannot be used: {why}; choose another with --node-name"),
        }
    }

    /// Whether flags that only make sense together are together.
    pub(crate) fn check(&self) -> Result<()> {
        self.soft_thresholds().try_for_each(|threshold| threshold.map(drop))
    }

    fn soft_thresholds(&self) -> impl Iterator<Item = Result<Soft>> {
        self.eviction_soft.iter().map(|(signal, threshold)| {
            let mut periods = self.eviction_soft_grace_period.iter();
            let (_, grace) = periods.find(|(of, _)| of == signal).with_context(|| {
                let name = signal.name();
                format!(
                    "the soft threshold of {name} has no grace period: say --eviction-soft-grace-period {name}=1m30s"
                )
            })?;
            Ok(Soft { signal: *signal, threshold: *threshold, grace: *grace })
        })
    }

    /// Where images come from: the file, and the proxies that the environment names.
    pub(super) fn registries(&self, data: &DataDir) -> Result<runtime::registry::Config> {
        let default = data.path("registries.yaml");
        let path = self.registries_config.as_ref().unwrap_or(&default);
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.registries_config.is_none() => {
                String::new()
            }
            read => read.with_context(|| format!("cannot read the registries' configuration {}", path.display()))?,
        };
        let unusable = || format!("cannot use the registries' configuration {}", path.display());
        let mut config = match text.trim().is_empty() {
            true => runtime::registry::Config::default(),
            false => serde_saphyr::from_str(&text).with_context(unusable)?,
        };
        config.check().with_context(unusable)?;
        #[expect(clippy::disallowed_methods, reason = "the environment is read here, in the binary")]
        let variable = |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok());
        config.proxies = runtime::registry::Proxies {
            http: variable(["http_proxy", "HTTP_PROXY"]),
            https: variable(["https_proxy", "HTTPS_PROXY"]),
            none: variable(["no_proxy", "NO_PROXY"]).unwrap_or_default(),
        };
        Ok(config)
    }

    /// What runs pods whose class names a handler.
    pub(super) fn handlers(&self) -> runtime::Handlers {
        #[expect(clippy::disallowed_methods, reason = "the environment is read here, in the binary")]
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        runtime::Handlers {
            named: self.oci_runtime.iter().cloned().collect(),
            search: std::env::split_paths(&path)
                .chain(system.map(PathBuf::from))
                .filter(|path| path.is_absolute())
                .collect(),
        }
    }

    pub(super) fn settings(&self, data: &DataDir) -> Settings {
        let defaults = Settings::default();
        let both = |of: fn(&Reserved) -> i64| of(&self.kube_reserved).saturating_add(of(&self.system_reserved));
        Settings {
            image_pulls_max: self.max_parallel_image_pulls.into(),
            image_gc: kubelet::settings::ImageGc {
                high_percent: self.image_gc_high_threshold,
                low_percent: self.image_gc_low_threshold.min(self.image_gc_high_threshold),
                ..defaults.image_gc
            },
            image_verification: match self.image_pull_credentials_verification_policy {
                VerificationPolicy::NeverVerify => ImageVerification::Never,
                VerificationPolicy::NeverVerifyPreloadedImages => ImageVerification::NotPreloaded,
                VerificationPolicy::NeverVerifyAllowlistedImages => {
                    ImageVerification::NotListed(self.preloaded_images_verification_allowlist.clone())
                }
                VerificationPolicy::AlwaysVerify => ImageVerification::Always,
            },
            pods_max: self.max_pods.into(),
            reserved: Reserved {
                milli_cpu: both(|list| list.milli_cpu),
                memory_bytes: both(|list| list.memory_bytes),
                ephemeral_bytes: both(|list| list.ephemeral_bytes),
            },
            eviction: kubelet::settings::Eviction {
                transition: self.eviction_pressure_transition_period,
                soft: self.soft_thresholds().filter_map(Result::ok).collect(),
                pod_grace_seconds_max: self.eviction_max_pod_grace_period.into(),
                minimum_reclaim: self.eviction_minimum_reclaim.clone(),
                ..self.eviction_hard.clone()
            },
            log_bytes_max: self.container_log_max_size.unsigned_abs(),
            log_files_max: self.container_log_max_files.into(),
            unsafe_sysctls: self.allowed_unsafe_sysctls.clone(),
            manifests: Some(self.pod_manifest_path.clone().unwrap_or_else(|| data.path("manifests"))),
        }
    }
}

fn handler(text: &str) -> Result<(String, PathBuf), String> {
    let (name, program) = text.split_once('=').ok_or_else(|| format!("{text:?} is no HANDLER=PROGRAM"))?;
    if let Some(why) = machinery::names::dns1123_label(name).into_iter().next() {
        return Err(format!("{name:?} is no handler: {why}"));
    }
    let program = PathBuf::from(program);
    if program.is_absolute() {
        Ok((name.to_owned(), program))
    } else {
        Err(format!("{text:?}: the program's path is not absolute"))
    }
}

fn quantity(text: &str) -> std::result::Result<Quantity, String> {
    Quantity::parse(text).map_err(|error| format!("{text:?} is no quantity: {}", base::chain(&error)))
}

fn bytes(text: &str) -> std::result::Result<i64, String> {
    let bytes = quantity(text)?.value();
    if bytes > 0 { Ok(bytes) } else { Err(format!("{text:?} is nothing")) }
}

fn pairs(text: &str, sign: char) -> impl Iterator<Item = Result<(&str, &str), String>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(move |part| part.split_once(sign).ok_or_else(|| format!("{part:?} has no {sign:?}")))
}

fn reserved(text: &str) -> Result<Reserved, String> {
    let mut list = Reserved::default();
    for pair in pairs(text, '=') {
        let (name, value) = pair?;
        let value = quantity(value)?;
        let whole = value.value();
        match name {
            "cpu" => list.milli_cpu = value.milli_value(),
            "memory" => list.memory_bytes = whole,
            "ephemeral-storage" => list.ephemeral_bytes = whole,
            // Upstream takes it too, and it bounds nothing that we could keep.
            other => return Err(format!("{other:?} cannot be reserved: cpu, memory and ephemeral-storage can")),
        }
    }
    Ok(list)
}

fn eviction(text: &str) -> Result<kubelet::settings::Eviction, String> {
    let mut all = Settings::default().eviction;
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (signal, threshold) = threshold(part)?;
        match signal {
            Signal::Memory => all.memory = threshold,
            Signal::NodeDisk => all.node_disk = threshold,
            Signal::NodeInodes => all.node_inodes = threshold,
            Signal::ImageDisk => all.image_disk = threshold,
            Signal::Pids => all.pids = threshold,
        }
    }
    Ok(all)
}

fn threshold(text: &str) -> Result<(Signal, Threshold), String> {
    let (signal, value) = text.split_once('<').ok_or_else(|| format!("{text:?} has no '<'"))?;
    Ok((self::signal(signal)?, amount(value)?))
}

fn reclaim(text: &str) -> Result<(Signal, Threshold), String> {
    let (signal, value) = text.split_once('=').ok_or_else(|| format!("{text:?} has no '='"))?;
    Ok((self::signal(signal)?, amount(value)?))
}

fn grace(text: &str) -> Result<(Signal, Duration), String> {
    let (signal, value) = text.split_once('=').ok_or_else(|| format!("{text:?} has no '='"))?;
    Ok((self::signal(signal)?, super::options::duration(value)?))
}

fn signal(name: &str) -> Result<Signal, String> {
    Signal::named(name.trim()).ok_or_else(|| {
        let all = Signal::ALL.map(Signal::name).join(", ");
        format!("{name:?} is no signal that pods are evicted by: {all} are")
    })
}

fn amount(value: &str) -> Result<Threshold, String> {
    Ok(match value.strip_suffix('%') {
        Some("0") => Threshold::Off,
        Some(percent) => match percent.parse::<i64>() {
            Ok(percent @ 1..=99) => Threshold::Percent(percent),
            _ => return Err(format!("{value:?} is no share of a hundred")),
        },
        None => match quantity(value)?.value() {
            0 => Threshold::Off,
            amount => Threshold::Amount(amount),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_understood_and_nonsense_is_named() {
        let list = reserved("cpu=200m, memory=1Gi").unwrap();
        assert_eq!((list.milli_cpu, list.memory_bytes, list.ephemeral_bytes), (200, 1 << 30, 0));
        let all = eviction("memory.available<200Mi,nodefs.available<5%,pid.available<0%").unwrap();
        assert_eq!(
            (all.memory, all.node_disk, all.pids),
            (Threshold::Amount(200 << 20), Threshold::Percent(5), Threshold::Off)
        );
        for (result, wanted) in [
            (reserved("cpu").map(drop), "has no '='"),
            (reserved("gpu=1").map(drop), "cannot be reserved"),
            (reserved("cpu=x").map(drop), "no quantity"),
            (grace("memory.available").map(drop), "has no '='"),
            (grace("memory.available=soon").map(drop), "expected a duration"),
            (eviction("x<1").map(drop), "no signal"),
            (eviction("nodefs.available<200%").map(drop), "no share"),
        ] {
            let error = result.unwrap_err();
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
    }
}
