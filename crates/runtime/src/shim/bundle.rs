//! A container's specification as an OCI runtime takes it: ours, with what the shim has done already taken out and what our
//! own launcher knows by itself put in.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use linux::capability;
use oci_spec::runtime::Spec;
use rustix::process::Pid;
use serde_json::{Value, json};

use super::launch::{Context, LaunchError, step};
use super::root;
use crate::records::{ContainerRecord, ProcessNamespace};
use crate::spec::{DEVICES, IMAGE};

/// Where the files of a container that an OCI runtime reads are, below the container's directory.
pub(super) const BUNDLE: &str = "bundle";
/// Where image volumes are mounted, below the bundle.
const VOLUMES: &str = "volumes";

/// Mounts the container's root and image volumes in the shim's own mount namespace, and writes the specification that names
/// them. The shim is in the pod's network, IPC and UTS namespaces, which its children inherit.
pub(super) fn make(
    context: &Context,
    record: &ContainerRecord,
    spec: &Spec,
    target: Option<Pid>,
) -> Result<(), LaunchError> {
    let directory = context.directory.join(&record.id);
    let bundle = directory.join(BUNDLE);
    std::fs::create_dir_all(&bundle).map_err(step("bundle"))?;
    root::mount_overlay(&context.layers, &directory, record)?;
    let mut adapted = adapt(spec, &directory, processes(context, record, target)?, record.privileged)?;
    for (number, wanted) in spec.mounts().iter().flatten().enumerate() {
        if wanted.typ().as_deref() == Some(IMAGE) {
            let place = bundle.join(VOLUMES).join(number.to_string());
            let tree = root::image_tree(&context.layers, &directory, wanted)?;
            attach(&tree, &place)?;
            bind_instead(&mut adapted, wanted.destination(), &place);
        }
    }
    let json = serde_json::to_vec(&adapted).expect("a specification is plain data");
    std::fs::write(bundle.join("config.json"), json).map_err(step("bundle"))
}

/// Undoes the mounts of [`make`]; may be called again, and where they were never made.
pub(super) fn unmake(directory: &Path) -> std::io::Result<()> {
    let volumes = directory.join(BUNDLE).join(VOLUMES);
    let entries = std::fs::read_dir(&volumes).into_iter().flatten();
    let places: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    for place in places.iter().map(std::path::PathBuf::as_path).chain([directory.join("rootfs").as_path()]) {
        match linux::mount::unmount(place, linux::mount::UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A tree may be a directory's or a single file's.
fn attach(tree: &OwnedFd, place: &Path) -> Result<(), LaunchError> {
    let is_directory = rustix::fs::fstat(tree).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
    let is_directory = is_directory.map_err(step("image volume"))? == rustix::fs::FileType::Directory;
    let parent = place.parent().unwrap_or(place);
    std::fs::create_dir_all(if is_directory { place } else { parent }).map_err(step("image volume"))?;
    if !is_directory {
        std::fs::write(place, "").map_err(step("image volume"))?;
    }
    linux::mount::attach_at(tree, place).map_err(step("image volume"))
}

/// The container's entry for its process namespace; `None` for the machine's.
fn processes(context: &Context, record: &ContainerRecord, target: Option<Pid>) -> Result<Option<Value>, LaunchError> {
    let shim = std::process::id();
    Ok(match (&record.processes, target) {
        (ProcessNamespace::Private, _) => Some(json!({"type": "pid"})),
        (ProcessNamespace::Host, _) => None,
        (ProcessNamespace::Pod, _) => {
            let held = context.pod_processes.as_ref();
            let held = held.ok_or_else(|| LaunchError("the pod shares no processes".to_owned()))?;
            Some(json!({"type": "pid", "path": format!("/proc/{shim}/fd/{}", held.as_raw_fd())}))
        }
        (ProcessNamespace::Target(_), Some(pid)) => {
            Some(json!({"type": "pid", "path": format!("/proc/{}/ns/pid", pid.as_raw_nonzero())}))
        }
        (ProcessNamespace::Target(id), None) => {
            return Err(LaunchError(format!("container {id}, whose processes are to be joined, does not run")));
        }
    })
}

fn adapt(spec: &Spec, directory: &Path, processes: Option<Value>, privileged: bool) -> Result<Value, LaunchError> {
    let mut adapted = serde_json::to_value(spec).map_err(step("specification"))?;
    // The oldest that has all that we say: runtimes refuse what is newer than they know.
    adapted["ociVersion"] = json!("1.0.2");
    adapted["root"]["path"] = json!(directory.join("rootfs"));
    Powers::own()?.limit(&mut adapted["process"]);
    let namespaces = [json!({"type": "mount"}), json!({"type": "cgroup"})];
    adapted["linux"]["namespaces"] = namespaces.into_iter().chain(processes).collect();
    adapted["linux"]["resources"]["devices"] = json!([{"allow": privileged, "access": "rwm"}]);
    let mounts = adapted["mounts"].as_array_mut().map(std::mem::take).unwrap_or_default();
    adapted["mounts"] = mounts.into_iter().filter_map(mount).collect::<Result<Vec<_>, _>>()?.into();
    Ok(adapted)
}

/// A mount as the OCI runtime makes it; `None` for what it makes by itself.
fn mount(mut mount: Value) -> Option<Result<Value, LaunchError>> {
    let destination = mount["destination"].as_str().unwrap_or_default().to_owned();
    if mount["type"] == "bind" && DEVICES.contains(&destination.as_str()) {
        return None;
    }
    if let Some(options) = mount["options"].as_array_mut() {
        if options.iter().any(|option| option == "rshared") {
            return Some(Err(LaunchError(format!(
                "mount {destination}: its mounts cannot reach the machine (Bidirectional) from a pod of this runtime class"
            ))));
        }
        // The runtime's device nodes are in here.
        options.retain(|option| destination != "/dev" || option != "nodev");
    }
    Some(Ok(mount))
}

/// What this process may give to a container. Our own launcher gives what it can; runtimes fail where they are asked for more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Powers {
    capabilities: capability::Set,
    /// The score that the kernel lets nobody go below without `CAP_SYS_RESOURCE`.
    oom_score_adj: i64,
}

impl Powers {
    pub(super) fn own() -> Result<Self, LaunchError> {
        let score = std::fs::read_to_string("/proc/self/oom_score_adj").map_err(step("oom_score_adj"))?;
        Ok(Self {
            capabilities: capability::permitted().map_err(step("capabilities"))?,
            oom_score_adj: score.trim().parse().map_err(step("oom_score_adj"))?,
        })
    }

    /// Takes out of a specification's process what is more.
    pub(super) fn limit(self, process: &mut Value) {
        let has = |name: &str| {
            let known = capability::Set::named(name);
            known.is_some_and(|one| one.intersection(self.capabilities) == one)
        };
        for set in process["capabilities"].as_object_mut().into_iter().flat_map(|sets| sets.values_mut()) {
            if let Some(names) = set.as_array_mut() {
                names.retain(|name| name.as_str().is_some_and(has));
            }
        }
        if process["oomScoreAdj"].as_i64().is_some_and(|wanted| wanted < self.oom_score_adj) && !has("CAP_SYS_RESOURCE")
        {
            process["oomScoreAdj"] = json!(self.oom_score_adj);
        }
    }
}

fn bind_instead(spec: &mut Value, destination: &Path, place: &Path) {
    let mounts = spec["mounts"].as_array_mut().into_iter().flatten();
    for mount in mounts.filter(|mount| mount["type"] == IMAGE && mount["destination"] == json!(destination)) {
        mount["type"] = json!("bind");
        mount["source"] = json!(place);
        mount["options"] = json!(["rbind", "rprivate", "ro", "noexec", "nodev", "nosuid"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(mounts: &Value) -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.2.0", "root": {"path": "rootfs"}, "mounts": mounts,
            "process": {"cwd": "/", "args": ["x"], "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "resources": {}},
        }))
        .unwrap()
    }

    #[test]
    fn the_runtime_makes_devices_and_inherits_the_pods_namespaces() {
        let mounts = json!([
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=755"]},
            {"destination": "/dev/null", "type": "bind", "source": "/dev/null", "options": ["rbind"]},
            {"destination": "/data", "type": "bind", "source": "/d", "options": ["rbind", "rslave", "nodev"]},
            {"destination": "/image", "type": "image", "source": "", "options": ["layer=a", "ro"]},
        ]);
        let mut adapted = adapt(&spec(&mounts), Path::new("/c"), None, false).unwrap();
        bind_instead(&mut adapted, Path::new("/image"), Path::new("/c/bundle/volumes/3"));
        let paths: Vec<_> = adapted["mounts"].as_array().unwrap().iter().map(|mount| &mount["destination"]).collect();
        assert_eq!(paths, ["/dev", "/data", "/image"]);
        assert_eq!(adapted["mounts"][0]["options"], json!(["nosuid", "mode=755"]));
        assert_eq!(adapted["mounts"][1]["options"], json!(["rbind", "rslave", "nodev"]));
        assert_eq!(
            (&adapted["mounts"][2]["type"], &adapted["mounts"][2]["source"]),
            (&json!("bind"), &json!("/c/bundle/volumes/3"))
        );
        assert_eq!(adapted["root"]["path"], "/c/rootfs");
        assert_eq!(adapted["linux"]["namespaces"], json!([{"type": "mount"}, {"type": "cgroup"}]));
        assert_eq!(adapted["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
    }

    #[test]
    fn powers_that_nobody_has_here_are_left_out() {
        let wanted = json!({"oomScoreAdj": -997, "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "ambient": []}});
        let few = Powers { capabilities: capability::Set::named("CAP_CHOWN").unwrap(), oom_score_adj: 0 };
        let mut process = wanted.clone();
        few.limit(&mut process);
        assert_eq!(process, json!({"oomScoreAdj": 0, "capabilities": {"bounding": ["CAP_CHOWN"], "ambient": []}}));
        let mut process = wanted.clone();
        Powers { capabilities: capability::Set::ALL, ..few }.limit(&mut process);
        assert_eq!(process, wanted);
    }

    #[test]
    fn what_cannot_reach_the_machine_is_refused() {
        let mounts = json!([{"destination": "/d", "type": "bind", "source": "/d", "options": ["rbind", "rshared"]}]);
        let error = adapt(&spec(&mounts), Path::new("/c"), None, true).unwrap_err();
        assert!(error.to_string().contains("mount /d") && error.to_string().contains("Bidirectional"), "{error}");
    }
}
