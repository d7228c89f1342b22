//! From CRI's words to an OCI runtime specification, the seam behind which a container may be started by our own launcher or
//! by an installed OCI runtime.

use std::path::{Path, PathBuf};

use cri::v1;
use linux::capability::Set;
use serde_json::{Value, json};

use crate::images::ImageConfig;
use crate::records::{ProcessNamespace, SHM, SandboxRecord, Share};
use crate::seccomp;
use crate::user::Identity;

/// What a container may do where nothing else was said.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The devices that every container has.
pub(crate) const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The type of a mount that is made from an image's layers; its source is the path within.
pub(crate) const IMAGE: &str = "image";

/// Nodes in the machine's `/dev` that a privileged container gets; more than any machine has.
const HOST_DEVICES_MAX: usize = 4096;

/// All that a specification is made from.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a v1::ContainerConfig,
    pub(crate) sandbox: &'a SandboxRecord,
    /// The sandbox's directory.
    pub(crate) directory: &'a Path,
    pub(crate) image: &'a ImageConfig,
    pub(crate) identity: &'a Identity,
    pub(crate) cgroup: &'a str,
    pub(crate) processes: &'a ProcessNamespace,
    /// The images that it mounts, by id.
    pub(crate) volume_images: &'a std::collections::BTreeMap<String, Vec<String>>,
}

/// What CRI asks for that cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("{0}")]
    Invalid(String),
    #[error("cannot read the seccomp profile {}", path.display())]
    Seccomp {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot list the machine's devices")]
    Devices(#[source] std::io::Error),
}

/// Makes the specification.
pub(crate) fn build(parts: &Parts<'_>) -> Result<Value, SpecError> {
    let config = parts.config;
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let capabilities = capabilities(&security)?;
    let privileged = security.privileged;
    let paths = |given: &[String], default: &[&str]| {
        let defaults = security.masked_paths.is_empty() && security.readonly_paths.is_empty();
        match (privileged, defaults) {
            (true, _) => Vec::new(),
            (false, true) => default.iter().map(|path| (*path).to_owned()).collect(),
            (false, false) => given.to_vec(),
        }
    };
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    if *parts.processes == ProcessNamespace::Private {
        namespaces.push(json!({"type": "pid"}));
    }
    let resources = linux.resources.unwrap_or_default();
    Ok(json!({
        "ociVersion": "1.2.0",
        "process": process(parts, &security, &capabilities, resources.oom_score_adj)?,
        "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
        "mounts": mounts(parts, &security)?,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": parts.cgroup,
            "resources": resources_json(&resources),
            "maskedPaths": paths(&security.masked_paths, &cri::MASKED_PATHS),
            "readonlyPaths": paths(&security.readonly_paths, &cri::READONLY_PATHS),
            "seccomp": seccomp_profile(&security, &capabilities)?,
            "devices": if privileged { host_devices()? } else { Vec::new() },
        },
    }))
}

fn process(
    parts: &Parts<'_>,
    security: &v1::LinuxContainerSecurityContext,
    capabilities: &[String],
    oom_score_adj: i64,
) -> Result<Value, SpecError> {
    let (config, image) = (parts.config, parts.image);
    let arguments = arguments(config, image);
    if arguments.is_empty() {
        return Err(SpecError::Invalid("no command specified: neither the pod nor the image names one".to_owned()));
    }
    let ambient = security.capabilities.iter().flat_map(|wanted| &wanted.add_ambient_capabilities);
    let ambient: Vec<_> =
        ambient.map(|name| capability(name)).collect::<Result<Vec<_>, _>>()?.into_iter().flat_map(Set::names).collect();
    let mut all: Vec<&str> = capabilities.iter().map(String::as_str).collect();
    all.extend(ambient.iter().filter(|name| !capabilities.iter().any(|known| known == *name)));
    let directory = [&config.working_dir, &image.working_dir].into_iter().find(|directory| !directory.is_empty());
    Ok(json!({
        "terminal": config.tty,
        "args": arguments,
        "env": environment(parts),
        "cwd": directory.map_or("/", String::as_str),
        "user": {"uid": parts.identity.uid, "gid": parts.identity.gid, "additionalGids": parts.identity.groups},
        "capabilities": {
            "bounding": all, "effective": all, "permitted": all, "inheritable": ambient, "ambient": ambient,
        },
        "noNewPrivileges": security.no_new_privs,
        "oomScoreAdj": oom_score_adj,
    }))
}

/// A command given replaces the image's program and its arguments; arguments given alone replace only those.
fn arguments(config: &v1::ContainerConfig, image: &ImageConfig) -> Vec<String> {
    let (program, default) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, [].as_slice()),
        (true, true) => (&image.entrypoint, image.cmd.as_slice()),
        (true, false) => (&image.entrypoint, [].as_slice()),
    };
    let rest = if config.args.is_empty() { default } else { config.args.as_slice() };
    program.iter().chain(rest).cloned().collect()
}

/// The image's variables, then the pod's; a later one of the same name takes the earlier one's place.
fn environment(parts: &Parts<'_>) -> Vec<String> {
    let mut variables = vec![DEFAULT_PATH.to_owned()];
    // A value is bytes on the wire, and text in the file that describes the container.
    let value = |entry: &v1::KeyValue| String::from_utf8_lossy(&entry.value).into_owned();
    let given = parts.config.envs.iter().map(|entry| format!("{}={}", entry.key, value(entry)));
    let defaults = [format!("HOSTNAME={}", parts.sandbox.hostname), format!("HOME={}", parts.identity.home)];
    let terminal = parts.config.tty.then(|| "TERM=xterm".to_owned());
    let hostname = (!parts.sandbox.hostname.is_empty()).then_some(0);
    let defaults = defaults.into_iter().enumerate().filter(|(index, _)| *index != 0 || hostname.is_some());
    let all = defaults.map(|(_, entry)| entry).chain(terminal).chain(parts.image.env.iter().cloned()).chain(given);
    for entry in all {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        match variables.iter_mut().find(|known| known.split('=').next() == Some(&name)) {
            Some(known) => *known = entry,
            None => variables.push(entry),
        }
    }
    variables
}

fn capability(name: &str) -> Result<Set, SpecError> {
    if name.eq_ignore_ascii_case("ALL") {
        return Ok(Set::ALL);
    }
    Set::named(name).ok_or_else(|| SpecError::Invalid(format!("unknown capability {name:?}")))
}

fn capabilities(security: &v1::LinuxContainerSecurityContext) -> Result<Vec<String>, SpecError> {
    if security.privileged {
        return Ok(Set::ALL.names().map(str::to_owned).collect());
    }
    let wanted = security.capabilities.clone().unwrap_or_default();
    let union = |names: &[String]| {
        names.iter().map(|name| capability(name)).try_fold(Set::EMPTY, |all, one| one.map(|one| all.union(one)))
    };
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL");
    let base = DEFAULT_CAPABILITIES.iter().filter_map(|name| Set::named(name)).fold(Set::EMPTY, Set::union);
    let (add, drop) = (union(&wanted.add_capabilities)?, &wanted.drop_capabilities);
    // Dropping all comes before adding some, dropping some after it: that is how pods mean it.
    let start = if drop.iter().any(|name| is_all(&name)) { Set::EMPTY } else { base };
    let some: Vec<_> = drop.iter().filter(|name| !is_all(name)).cloned().collect();
    Ok(start.union(add).without(union(&some)?).names().map(str::to_owned).collect())
}

fn seccomp_profile(
    security: &v1::LinuxContainerSecurityContext,
    capabilities: &[String],
) -> Result<Option<Value>, SpecError> {
    use v1::security_profile::ProfileType;
    let Some(wanted) = security.seccomp.as_ref().filter(|_| !security.privileged) else { return Ok(None) };
    match ProfileType::try_from(wanted.profile_type) {
        Ok(ProfileType::Unconfined) => Ok(None),
        Ok(ProfileType::RuntimeDefault) => Ok(Some(json!(seccomp::runtime_default(capabilities)))),
        Ok(ProfileType::Localhost) => {
            let path = PathBuf::from(wanted.localhost_ref.trim_start_matches("localhost/"));
            let path = if path.is_absolute() { path } else { Path::new("/").join(path) };
            let failed = |source| SpecError::Seccomp { path: path.clone(), source };
            let text = std::fs::read(&path).map_err(failed)?;
            let profile: oci_spec::runtime::LinuxSeccomp =
                serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
            Ok(Some(json!(profile)))
        }
        Err(_) => Err(SpecError::Invalid(format!("unknown seccomp profile type {}", wanted.profile_type))),
    }
}

fn mounts(parts: &Parts<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<Vec<Value>, SpecError> {
    let privileged = security.privileged;
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let access = if privileged { "rw" } else { "ro" };
    let dev = if privileged { "rw" } else { "nodev" };
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", dev, "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]),
    ];
    let bind = |target: &str, source: &Path, options: &[&str]| {
        let mut all = vec!["rbind", "rprivate"];
        all.extend(options);
        json!({"destination": target, "type": "bind", "source": source, "options": all})
    };
    let shared_memory = match parts.sandbox.ipc {
        Share::Pod => parts.directory.join(SHM),
        Share::Host => PathBuf::from("/dev/shm"),
    };
    all.push(bind("/dev/shm", &shared_memory, &["nosuid", "nodev", "noexec"]));
    if !privileged {
        all.extend(DEVICES.iter().map(|device| bind(device, Path::new(device), &["nosuid", "noexec"])));
    }
    let access = if security.readonly_rootfs { "ro" } else { "rw" };
    for name in ["hosts", "hostname", "resolv.conf"] {
        all.push(bind(&format!("/etc/{name}"), &parts.directory.join(name), &["nosuid", "nodev", access]));
    }
    let mut given: Vec<_> = parts.config.mounts.iter().collect();
    given.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    // What the pod mounts itself, and what would lie below that, is not ours to mount.
    all.retain(|ours| {
        let target = Path::new(ours["destination"].as_str().unwrap_or_default());
        !given.iter().any(|theirs| theirs.container_path != "/" && target.starts_with(&theirs.container_path))
    });
    for mount in given {
        all.push(match mount.image.as_ref().filter(|image| !image.image.is_empty()) {
            Some(image) => image_volume(mount, &image.image, parts)?,
            None => volume(mount, privileged)?,
        });
    }
    for device in &parts.config.devices {
        let target = if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
        let access = if device.permissions.contains('w') || device.permissions.is_empty() { "rw" } else { "ro" };
        all.push(bind(target, Path::new(&device.host_path), &["nosuid", "noexec", access]));
    }
    Ok(all)
}

/// An image as a volume: the shim makes it from the layers. Always read-only, and nothing in it is run.
fn image_volume(mount: &v1::Mount, image: &str, parts: &Parts<'_>) -> Result<Value, SpecError> {
    let target = &mount.container_path;
    let layers = parts.volume_images.get(image);
    let layers = layers.ok_or_else(|| SpecError::Invalid(format!("mount {target}: image {image:?} is not here")))?;
    let climbs = Path::new(&mount.image_sub_path).components().any(|part| part == std::path::Component::ParentDir);
    if !Path::new(target).is_absolute() || climbs {
        return Err(SpecError::Invalid(format!("mount {target}: paths of image volumes do not climb")));
    }
    let mut options: Vec<_> = layers.iter().map(|layer| format!("layer={layer}")).collect();
    options.extend(["ro", "noexec", "nodev", "nosuid"].map(str::to_owned));
    Ok(json!({"destination": target, "type": IMAGE, "source": mount.image_sub_path, "options": options}))
}

fn volume(mount: &v1::Mount, privileged: bool) -> Result<Value, SpecError> {
    let target = &mount.container_path;
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(SpecError::Invalid(format!("mount {target}: id-mapped mounts are not supported by this runtime")));
    }
    if !Path::new(target).is_absolute() {
        return Err(SpecError::Invalid(format!("mount path {target:?} is not absolute")));
    }
    let propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => "rprivate",
        Ok(v1::MountPropagation::PropagationHostToContainer) => "rslave",
        Ok(v1::MountPropagation::PropagationBidirectional) => "rshared",
        Err(_) => return Err(SpecError::Invalid(format!("mount {target}: unknown propagation {}", mount.propagation))),
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec!["rbind", propagation, access];
    if !privileged {
        options.push("nodev");
    }
    Ok(json!({"destination": target, "type": "bind", "source": mount.host_path, "options": options}))
}

/// Limits in the specification's shape; CRI says "not set" with zero.
pub(crate) fn resources_json(resources: &v1::LinuxContainerResources) -> Value {
    let number = |value: i64| (value != 0).then_some(value);
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    let pages = resources.hugepage_limits.iter();
    let mut all = json!({
        "cpu": {
            "shares": number(resources.cpu_shares), "quota": number(resources.cpu_quota),
            "period": number(resources.cpu_period), "cpus": text(&resources.cpuset_cpus),
            "mems": text(&resources.cpuset_mems),
        },
        "memory": {
            "limit": number(resources.memory_limit_in_bytes), "swap": number(resources.memory_swap_limit_in_bytes),
        },
        "hugepageLimits": pages.map(|page| json!({"pageSize": page.page_size, "limit": page.limit})).collect::<Vec<_>>(),
        "unified": resources.unified,
    });
    for part in ["cpu", "memory"] {
        if let Some(fields) = all[part].as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
    }
    all
}

/// Every device of the machine, for a container that may use them all.
fn host_devices() -> Result<Vec<Value>, SpecError> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/dev")];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).map_err(SpecError::Devices)? {
            let entry = entry.map_err(SpecError::Devices)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(SpecError::Devices)?;
            let own =
                ["pts", "shm", "fd", "mqueue", "console", "ptmx"].contains(&name.as_str()) || name.starts_with('.');
            if own || found.len() >= HOST_DEVICES_MAX {
                continue;
            }
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if let Some(device) = device(&entry.path(), kind) {
                found.push(device);
            }
        }
    }
    Ok(found)
}

fn device(path: &Path, kind: std::fs::FileType) -> Option<Value> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let kind = if kind.is_char_device() {
        "c"
    } else if kind.is_block_device() {
        "b"
    } else {
        return None;
    };
    // A device may go while we look.
    let stat = std::fs::symlink_metadata(path).ok()?;
    Some(json!({
        "path": path, "type": kind,
        "major": rustix::fs::major(stat.rdev()), "minor": rustix::fs::minor(stat.rdev()),
        "fileMode": stat.mode() & 0o7777, "uid": stat.uid(), "gid": stat.gid(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_follow_the_pods_rules() {
        let image = ImageConfig { entrypoint: vec!["e".into()], cmd: vec!["c".into()], ..ImageConfig::default() };
        for (command, args, expected) in [
            (vec![], vec![], vec!["e", "c"]),
            (vec!["x"], vec![], vec!["x"]),
            (vec![], vec!["y"], vec!["e", "y"]),
            (vec!["x"], vec!["y"], vec!["x", "y"]),
        ] {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let config =
                v1::ContainerConfig { command: owned(&command), args: owned(&args), ..v1::ContainerConfig::default() };
            assert_eq!(arguments(&config, &image), expected);
        }
    }

    #[test]
    fn capabilities_are_dropped_and_added() {
        let check = |add: &[&str], drop: &[&str], has: &[&str], lacks: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let wanted = v1::Capability {
                add_capabilities: owned(add),
                drop_capabilities: owned(drop),
                ..v1::Capability::default()
            };
            let security = v1::LinuxContainerSecurityContext {
                capabilities: Some(wanted),
                ..v1::LinuxContainerSecurityContext::default()
            };
            let found = capabilities(&security).unwrap();
            assert!(has.iter().all(|name| found.contains(&(*name).to_owned())), "{add:?} {drop:?}: {found:?}");
            assert!(!lacks.iter().any(|name| found.contains(&(*name).to_owned())), "{add:?} {drop:?}: {found:?}");
        };
        check(&[], &[], &["CAP_CHOWN"], &["CAP_SYS_ADMIN"]);
        check(&["SYS_ADMIN"], &["ALL"], &["CAP_SYS_ADMIN"], &["CAP_CHOWN"]);
        check(&["ALL"], &["CHOWN"], &["CAP_SYS_ADMIN"], &["CAP_CHOWN"]);
        check(&["NET_ADMIN"], &["KILL"], &["CAP_NET_ADMIN"], &["CAP_KILL"]);
    }
}
