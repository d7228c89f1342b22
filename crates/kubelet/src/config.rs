//! From a pod's spec to what the runtime is told: sandbox and container configurations. Pure.

use std::collections::HashMap;
use std::path::Path;

use api::typed::core::v1::{Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, VolumeMount};
use cri::v1;

use crate::environment::{self, ConfigError};
use crate::identity::{self, Identity};
use crate::resources::{self, Capacity};

/// The configuration of a pod's sandbox.
pub(crate) fn sandbox(
    pod: &Pod,
    identity: &Identity,
    attempt: u32,
    host_name: &str,
    dns: v1::DnsConfig,
    logs: &Path,
) -> v1::PodSandboxConfig {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let context = spec.security_context.as_ref();
    let privileged = identity::containers(pod)
        .any(|(_, container)| container.security_context.as_ref().and_then(|context| context.privileged) == Some(true));
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: identity.name.clone(),
            uid: identity.uid.clone(),
            namespace: identity.namespace.clone(),
            attempt,
        }),
        // A pod on the node's network has the node's name.
        hostname: if spec.host_network == Some(true) { String::new() } else { host_name.to_owned() },
        log_directory: identity.log_directory(logs).to_string_lossy().into_owned(),
        dns_config: Some(dns),
        port_mappings: port_mappings(spec),
        labels: pod.metadata.labels.clone().unwrap_or_default().into_iter().chain(identity.labels()).collect(),
        annotations: identity::annotations(pod).into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                run_as_user: context.and_then(|context| context.run_as_user).map(|value| v1::Int64Value { value }),
                run_as_group: context.and_then(|context| context.run_as_group).map(|value| v1::Int64Value { value }),
                supplemental_groups: supplemental_groups(context),
                privileged,
                seccomp: Some(seccomp(None, context)),
                ..Default::default()
            }),
            sysctls: sysctls(context),
            resources: resources::whole_pod(pod),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn sysctls(context: Option<&PodSecurityContext>) -> HashMap<String, String> {
    let list = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    list.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone())).collect()
}

fn port_mappings(spec: &PodSpec) -> Vec<v1::PortMapping> {
    if spec.host_network == Some(true) { Vec::new() } else { host_ports(spec) }
}

/// The ports of the node that a pod takes, on its own network or on the node's.
pub(crate) fn host_ports(spec: &PodSpec) -> Vec<v1::PortMapping> {
    let init = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.is_some());
    let ports = init.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|port| port.host_port.unwrap_or(0) > 0)
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn namespaces(spec: &PodSpec) -> v1::NamespaceOption {
    let mode =
        |host: Option<bool>, otherwise| if host == Some(true) { v1::NamespaceMode::Node } else { otherwise } as i32;
    let shared = spec.share_process_namespace == Some(true);
    v1::NamespaceOption {
        network: mode(spec.host_network, v1::NamespaceMode::Pod),
        pid: mode(spec.host_pid, if shared { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container }),
        ipc: mode(spec.host_ipc, v1::NamespaceMode::Pod),
        ..Default::default()
    }
}

/// A target makes a difference only where containers have processes of their own.
fn with_target(options: v1::NamespaceOption, target: Option<String>) -> v1::NamespaceOption {
    match target {
        Some(target_id) if options.pid == v1::NamespaceMode::Container as i32 => {
            v1::NamespaceOption { pid: v1::NamespaceMode::Target as i32, target_id, ..options }
        }
        _ => options,
    }
}

fn supplemental_groups(context: Option<&PodSecurityContext>) -> Vec<i64> {
    let Some(context) = context else { return Vec::new() };
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

/// A container without a profile of its own has its pod's; without either it is unconfined, as upstream's are.
fn seccomp(own: Option<&SeccompProfile>, pod: Option<&PodSecurityContext>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let profile = own.or_else(|| pod.and_then(|pod| pod.seccomp_profile.as_ref()));
    let kind = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => ProfileType::RuntimeDefault,
        Some("Localhost") => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let reference = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: reference }
}

/// What a container's configuration is made from, beside its spec.
pub(crate) struct Parts<'a> {
    pub(crate) attempt: u32,
    pub(crate) image: &'a v1::Image,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) mounts: Vec<v1::Mount>,
    pub(crate) devices: Vec<v1::Device>,
    pub(crate) capacity: Capacity,
    /// The id of the container whose processes this one shares.
    pub(crate) target: Option<String>,
}

/// The configuration of a container.
pub(crate) fn container(
    pod: &Pod,
    identity: &Identity,
    spec: &Container,
    parts: Parts<'_>,
) -> Result<v1::ContainerConfig, ConfigError> {
    let context = spec.security_context.as_ref();
    let pod_context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    check_user(identity, spec, context, pod_context, parts.image)?;
    let lookup = |name: &str| parts.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let expanded =
        |list: &Option<Vec<String>>| list.iter().flatten().map(|text| environment::expand(text, lookup)).collect();
    let mut labels = identity.labels();
    labels.insert(identity::CONTAINER_NAME.to_owned(), spec.name.clone());
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: spec.name.clone(), attempt: parts.attempt }),
        image: Some(v1::ImageSpec {
            image: parts.image.id.clone(),
            user_specified_image: spec.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&spec.command),
        args: expanded(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        labels,
        annotations: annotations(pod, spec, parts.attempt),
        log_path: format!("{}/{}.log", spec.name, parts.attempt),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        stop_signal: stop_signal(spec) as i32,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::linux(pod, spec, parts.capacity)),
            security_context: Some(security(pod, context, pod_context, parts.target)),
        }),
        envs: parts.variables.into_iter().map(|(key, value)| v1::KeyValue { key, value: value.into_bytes() }).collect(),
        mounts: parts.mounts,
        devices: parts.devices,
        ..Default::default()
    })
}

/// The signal that asks the container to end, where it names one; else its image's.
fn stop_signal(spec: &Container) -> v1::Signal {
    let named = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    let named = named.map(|name| name.replace('+', "PLUS").replace('-', "MINUS"));
    named.and_then(|name| v1::Signal::from_str_name(&name)).unwrap_or(v1::Signal::RuntimeDefault)
}

fn annotations(pod: &Pod, spec: &Container, attempt: u32) -> HashMap<String, String> {
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    [
        (identity::HASH, identity::hash(spec)),
        (identity::RESTART_COUNT, attempt.to_string()),
        (identity::MESSAGE_PATH, message_path(spec).to_owned()),
        (identity::MESSAGE_POLICY, spec.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned())),
        (identity::GRACE, grace.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Where in the container its last words go.
pub(crate) fn message_path(spec: &Container) -> &str {
    spec.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log")
}

fn security(
    pod: &Pod,
    context: Option<&SecurityContext>,
    pod_context: Option<&PodSecurityContext>,
    target: Option<String>,
) -> v1::LinuxContainerSecurityContext {
    let privileged = context.and_then(|context| context.privileged) == Some(true);
    let unmasked = privileged || context.and_then(|context| context.proc_mount.as_deref()) == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() };
    let number = |own: Option<i64>, pod: Option<i64>| own.or(pod).map(|value| v1::Int64Value { value });
    let capabilities = context.and_then(|context| context.capabilities.as_ref());
    let strict = pod_context.and_then(|context| context.supplemental_groups_policy.as_deref()) == Some("Strict");
    v1::LinuxContainerSecurityContext {
        capabilities: capabilities.map(|wanted| v1::Capability {
            add_capabilities: wanted.add.clone().unwrap_or_default(),
            drop_capabilities: wanted.drop.clone().unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: pod.spec.as_ref().map(|spec| with_target(namespaces(spec), target)),
        run_as_user: number(
            context.and_then(|context| context.run_as_user),
            pod_context.and_then(|context| context.run_as_user),
        ),
        run_as_group: number(
            context.and_then(|context| context.run_as_group),
            pod_context.and_then(|context| context.run_as_group),
        ),
        readonly_rootfs: context.and_then(|context| context.read_only_root_filesystem) == Some(true),
        supplemental_groups: supplemental_groups(pod_context),
        supplemental_groups_policy: i32::from(strict),
        no_new_privs: context.and_then(|context| context.allow_privilege_escalation) == Some(false),
        masked_paths: paths(&cri::MASKED_PATHS),
        readonly_paths: paths(&cri::READONLY_PATHS),
        seccomp: Some(match privileged {
            true => v1::SecurityProfile {
                profile_type: v1::security_profile::ProfileType::Unconfined as i32,
                ..Default::default()
            },
            false => seccomp(context.and_then(|context| context.seccomp_profile.as_ref()), pod_context),
        }),
        ..Default::default()
    }
}

/// Refuses a container that would run as root where it says that it must not.
fn check_user(
    identity: &Identity,
    spec: &Container,
    context: Option<&SecurityContext>,
    pod: Option<&PodSecurityContext>,
    image: &v1::Image,
) -> Result<(), ConfigError> {
    let wanted =
        context.and_then(|context| context.run_as_non_root).or_else(|| pod.and_then(|pod| pod.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let about = format!("(pod: \"{}\", container: {})", identity.display(), spec.name);
    let user = context.and_then(|context| context.run_as_user).or_else(|| pod.and_then(|pod| pod.run_as_user));
    match (user, image.uid.as_ref().map(|uid| uid.value), image.username.as_str()) {
        (Some(0), ..) => Err(ConfigError(format!("container's runAsUser breaks non-root policy {about}"))),
        (Some(_), ..) => Ok(()),
        (None, Some(0), _) | (None, None, "") => {
            Err(ConfigError(format!("container has runAsNonRoot and image will run as root {about}")))
        }
        (None, Some(_), _) => Ok(()),
        (None, None, name) => Err(ConfigError(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {about}"
        ))),
    }
}

/// One mount of a volume into a container; a volume that is read only is so in all.
pub(crate) fn mount(spec: &VolumeMount, host_path: &Path, read_only: bool) -> v1::Mount {
    let propagation = match spec.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    let readonly = read_only || spec.read_only == Some(true);
    v1::Mount {
        container_path: if spec.mount_path.starts_with('/') {
            spec.mount_path.clone()
        } else {
            format!("/{}", spec.mount_path)
        },
        host_path: host_path.to_string_lossy().into_owned(),
        readonly,
        propagation: propagation as i32,
        recursive_read_only: readonly && matches!(spec.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn build(pod_context: &str, container: &str, image: &v1::Image) -> Result<v1::ContainerConfig, ConfigError> {
        let json = format!(
            r#"{{"metadata":{{"name":"p","namespace":"ns","uid":"u"}},"spec":{{"securityContext":{pod_context},"containers":[{container}]}}}}"#
        );
        let pod = pod(&json);
        let identity = Identity { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let parts = Parts {
            attempt: 2,
            image,
            variables: vec![("A".into(), "1".into())],
            mounts: vec![],
            devices: vec![],
            capacity: Capacity::default(),
            target: None,
        };
        super::container(&pod, &identity, &pod.spec.as_ref().unwrap().containers[0], parts)
    }

    #[test]
    fn commands_expand_and_a_restarted_kubelet_finds_what_it_needs() {
        let config = build(
            "{}",
            r#"{"name":"c","image":"i","command":["echo","$(A)"],"args":["$$(A)"]}"#,
            &v1::Image::default(),
        )
        .unwrap();
        assert_eq!((config.command, config.args), (vec!["echo".to_owned(), "1".to_owned()], vec!["$(A)".to_owned()]));
        assert_eq!(config.log_path, "c/2.log");
        assert_eq!(config.annotations[identity::RESTART_COUNT], "2");
        assert_eq!(config.labels[identity::CONTAINER_NAME], "c");
    }

    #[test]
    fn a_container_may_name_its_stop_signal() {
        for (lifecycle, wanted) in [
            ("{}", v1::Signal::RuntimeDefault),
            (r#"{"stopSignal":"SIGUSR1"}"#, v1::Signal::Sigusr1),
            (r#"{"stopSignal":"SIGRTMIN+3"}"#, v1::Signal::Sigrtminplus3),
            (r#"{"stopSignal":"SIGRTMAX-1"}"#, v1::Signal::Sigrtmaxminus1),
        ] {
            let config =
                build("{}", &format!(r#"{{"name":"c","lifecycle":{lifecycle}}}"#), &v1::Image::default()).unwrap();
            assert_eq!(config.stop_signal(), wanted, "{lifecycle}");
        }
    }

    #[test]
    fn the_container_s_security_context_wins_over_the_pod_s() {
        let pod = r#"{"runAsUser":1,"runAsGroup":2,"fsGroup":3,"supplementalGroups":[4],"seccompProfile":{"type":"RuntimeDefault"}}"#;
        let container = r#"{"name":"c","securityContext":{"runAsUser":9,"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}"#;
        let security = build(pod, container, &v1::Image::default()).unwrap().linux.unwrap().security_context.unwrap();
        assert_eq!((security.run_as_user.unwrap().value, security.run_as_group.unwrap().value), (9, 2));
        assert_eq!(security.supplemental_groups, [3, 4]);
        assert!(security.no_new_privs && !security.masked_paths.is_empty());
        assert_eq!(security.capabilities.unwrap().drop_capabilities, ["ALL"]);
        assert_eq!(security.seccomp.unwrap().profile_type, 0);
        let privileged =
            build(pod, r#"{"name":"c","securityContext":{"privileged":true}}"#, &v1::Image::default()).unwrap();
        let security = privileged.linux.unwrap().security_context.unwrap();
        assert!(security.masked_paths.is_empty() && security.seccomp.unwrap().profile_type == 1);
    }

    #[test]
    fn root_is_refused_where_the_pod_forbids_it() {
        let user = |uid: Option<i64>, name: &str| v1::Image {
            uid: uid.map(|value| v1::Int64Value { value }),
            username: name.to_owned(),
            ..Default::default()
        };
        for (context, image, fine) in [
            (r#"{"runAsNonRoot":true}"#, user(Some(0), ""), false),
            (r#"{"runAsNonRoot":true}"#, user(None, ""), false),
            (r#"{"runAsNonRoot":true}"#, user(None, "nginx"), false),
            (r#"{"runAsNonRoot":true}"#, user(Some(101), ""), true),
            (r#"{"runAsNonRoot":true,"runAsUser":0}"#, user(Some(101), ""), false),
            (r#"{"runAsNonRoot":true,"runAsUser":5}"#, user(None, "root"), true),
        ] {
            assert_eq!(build(context, r#"{"name":"c"}"#, &image).is_ok(), fine, "{context} {image:?}");
        }
    }
}
