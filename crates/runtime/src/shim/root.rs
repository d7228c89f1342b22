//! A container's root: mount namespace, overlay, mounts, masked and read-only paths, and the change of root.
//!
//! Sources are opened before the namespace is cut off from the machine's, so that a mount that shares with the machine
//! (`Bidirectional`) stays its peer; everything else is cut off first. Targets are opened inside the new root by the
//! kernel, so a symlink in an image cannot lead a mount out of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use linux::mount::{self, Attributes, Propagation};
use linux::process::{self, Namespaces};
use linux::rooted::Rooted;
use oci_spec::runtime::{self as oci, LinuxDeviceType, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountFlags;

use super::launch::{Context, LaunchError, step};
use crate::records::ContainerRecord;
use crate::spec::IMAGE;

/// The kernel takes one page of options for a mount, and the last byte is its end.
const OVERLAY_OPTIONS_MAX: usize = 4095;

/// Moves this process into its container's root.
pub(super) fn enter(context: &Context, record: &ContainerRecord, spec: &Spec) -> Result<(), LaunchError> {
    process::unshare(Namespaces::CLONE_NEWNS | Namespaces::CLONE_NEWCGROUP).map_err(step("namespaces"))?;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let opened = mounts.iter().map(open_source).collect::<Result<Vec<_>, _>>()?;
    mount::isolate_namespace().map_err(step("isolate the mount namespace"))?;
    let directory = context.directory.join(&record.id);
    mount_overlay(&context.layers, &directory, record)?;
    let root = Rooted::open(&directory.join("rootfs")).map_err(step("rootfs"))?;
    for (wanted, source) in mounts.iter().zip(opened) {
        let source = match wanted.typ().as_deref() {
            Some(IMAGE) => Some(image_tree(&context.layers, &directory, wanted)?),
            _ => source,
        };
        place(context, record, &root, wanted, source)?;
    }
    make_devices(&root, spec)?;
    make_links(&root)?;
    let linux = spec.linux().as_ref();
    for path in linux.and_then(|linux| linux.readonly_paths().as_ref()).into_iter().flatten() {
        make_read_only(&root, Path::new(path))?;
    }
    for path in linux.and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten() {
        mask(&root, Path::new(path))?;
    }
    if let Some(process) = spec.process() {
        // A working directory that an image names but does not have is made, as other runtimes do. Where that fails (a
        // read-only volume, a file in the way), changing into it says what is wrong.
        let _ = root.make_dirs(process.cwd());
    }
    if spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false)) {
        mount::set_attributes(root.as_fd(), Attributes::MOUNT_ATTR_RDONLY, None, false)
            .map_err(step("read-only rootfs"))?;
    }
    mount::pivot_into(root.as_fd()).map_err(step("pivot_root"))
}

/// Lower layers, an upper layer and its work directory become `rootfs`. All names are short and relative to the layers, as
/// the options must fit into one page; `volatile` because an upper layer is never used again after a power loss, and
/// without it every end of a container waits for the disk.
pub(super) fn mount_overlay(layers: &Path, directory: &Path, record: &ContainerRecord) -> Result<(), LaunchError> {
    rustix::process::chdir(layers).map_err(step("layers"))?;
    let lower: Vec<_> = record.layers.iter().rev().map(String::as_str).collect();
    let upper = Path::new("../sandboxes").join(&record.sandbox_id).join(&record.id);
    let options = format!(
        "lowerdir={},upperdir={upper}/upper,workdir={upper}/work,volatile",
        lower.join(":"),
        upper = upper.display()
    );
    if options.len() > OVERLAY_OPTIONS_MAX {
        return Err(LaunchError(format!("the image has {} layers, more than one overlay can hold", lower.len())));
    }
    let data = std::ffi::CString::new(options).map_err(step("overlay options"))?;
    let flags = if record.privileged { MountFlags::empty() } else { MountFlags::NODEV };
    let target = directory.join("rootfs");
    rustix::mount::mount("overlay", &target, "overlay", flags, data.as_c_str()).map_err(step("mount overlay"))?;
    rustix::process::chdir("/").map_err(step("chdir"))
}

/// A copy of what is at a path of an image, read-only; the overlay that it comes from is mounted in this namespace for a moment.
pub(super) fn image_tree(layers: &Path, directory: &Path, wanted: &oci::Mount) -> Result<OwnedFd, LaunchError> {
    let what = || format!("mount an image on {}", wanted.destination().display());
    let options = wanted.options().iter().flatten().filter_map(|option| option.strip_prefix("layer="));
    let mut lower: Vec<_> = options.collect();
    // An image without layers has the empty one twice, which an overlay does not take: it is empty itself.
    lower.dedup();
    lower.reverse();
    let inner = wanted.source().as_deref().unwrap_or(Path::new(""));
    let scratch = directory.join("volume");
    std::fs::create_dir_all(&scratch).map_err(step(what()))?;
    let mounted = if lower.len() < 2 {
        let only = layers.join(lower.first().copied().unwrap_or("empty"));
        rustix::mount::mount_bind(&only, &scratch)
    } else {
        rustix::process::chdir(layers).map_err(step(what()))?;
        let data = format!("lowerdir={}", lower.join(":"));
        if data.len() > OVERLAY_OPTIONS_MAX {
            return Err(LaunchError(format!("{}: it has too many layers for one overlay", what())));
        }
        let data = std::ffi::CString::new(data).map_err(step(what()))?;
        rustix::mount::mount("overlay", &scratch, "overlay", MountFlags::RDONLY, data.as_c_str())
    };
    mounted.map_err(step(what()))?;
    rustix::process::chdir("/").map_err(step("chdir"))?;
    let found = Rooted::open(&scratch)
        .and_then(|root| root.open_at(inner, OFlags::PATH, Mode::empty()))
        .and_then(|found| mount::clone_fd(found.as_fd()));
    let found =
        found.map_err(step(format!("open {} of the image for {}", inner.display(), wanted.destination().display())));
    mount::unmount(&scratch, mount::UnmountFlags::DETACH).map_err(step(what()))?;
    found
}

/// What a mount's options say.
#[derive(Debug)]
struct Options<'a> {
    set: Attributes,
    read_only: ReadOnly,
    propagation: Option<Propagation>,
    recursive: bool,
    data: Vec<(&'a str, &'a str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadOnly {
    No,
    Here,
    Recursive,
}

fn parse(options: Option<&Vec<String>>) -> Options<'_> {
    let mut parsed = Options {
        set: Attributes::empty(),
        read_only: ReadOnly::No,
        propagation: None,
        recursive: false,
        data: Vec::new(),
    };
    for option in options.into_iter().flatten() {
        match option.as_str() {
            "ro" => parsed.read_only = ReadOnly::Here,
            "rro" => parsed.read_only = ReadOnly::Recursive,
            "nosuid" => parsed.set |= Attributes::MOUNT_ATTR_NOSUID,
            "nodev" => parsed.set |= Attributes::MOUNT_ATTR_NODEV,
            "noexec" => parsed.set |= Attributes::MOUNT_ATTR_NOEXEC,
            "noatime" => parsed.set |= Attributes::MOUNT_ATTR_NOATIME,
            "relatime" | "rw" | "bind" | "suid" | "dev" | "exec" | "strictatime" => {}
            "rbind" => parsed.recursive = true,
            "private" | "rprivate" => parsed.propagation = Some(Propagation::Private),
            "slave" | "rslave" => parsed.propagation = Some(Propagation::Slave),
            "shared" | "rshared" => parsed.propagation = Some(Propagation::Shared),
            layer if layer.starts_with("layer=") => {}
            data => parsed.data.push(data.split_once('=').unwrap_or((data, ""))),
        }
    }
    parsed
}

fn is_bind(wanted: &oci::Mount) -> bool {
    let option = |name| wanted.options().iter().flatten().any(|option| option == name);
    wanted.typ().as_deref() == Some("bind") || option("bind") || option("rbind")
}

/// A copy of what a bind mount names, still a peer of the machine's; `None` for other kinds.
fn open_source(wanted: &oci::Mount) -> Result<Option<OwnedFd>, LaunchError> {
    if !is_bind(wanted) {
        return Ok(None);
    }
    let source = wanted.source().as_ref().ok_or_else(|| LaunchError("a bind mount has no source".to_owned()))?;
    let recursive = parse(wanted.options().as_ref()).recursive;
    let tree = mount::clone_tree(source, recursive).map_err(step(format!("mount {}", source.display())))?;
    Ok(Some(tree))
}

fn place(
    context: &Context,
    record: &ContainerRecord,
    root: &Rooted,
    wanted: &oci::Mount,
    source: Option<OwnedFd>,
) -> Result<(), LaunchError> {
    let destination = wanted.destination();
    let options = parse(wanted.options().as_ref());
    let kind = wanted.typ().as_deref().unwrap_or_default();
    let what = || format!("mount {kind} on {}", destination.display());
    let tree = match (source, kind) {
        (Some(tree), _) => tree,
        (None, "cgroup" | "cgroup2") => return place_cgroup(context, record, root, destination, options.read_only),
        (None, _) => mount::filesystem(kind, &options.data, options.set).map_err(step(what()))?,
    };
    let is_directory = rustix::fs::fstat(&tree)
        .map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        .map_err(step(what()))?;
    let propagation = options.propagation.or(Some(Propagation::Private));
    mount::set_attributes(&tree, options.set, propagation, true).map_err(step(what()))?;
    if options.read_only != ReadOnly::No {
        let recursive = options.read_only == ReadOnly::Recursive;
        mount::set_attributes(&tree, Attributes::MOUNT_ATTR_RDONLY, None, recursive).map_err(step(what()))?;
    }
    let target = if is_directory { root.make_dirs(destination) } else { root.make_file(destination) };
    mount::attach(tree, target.map_err(step(what()))?).map_err(step(what()))
}

/// A container sees its own control group as the root of the hierarchy: version 2's directly, version 1's each in its
/// directory, as programs look for their limits there.
fn place_cgroup(
    context: &Context,
    record: &ContainerRecord,
    root: &Rooted,
    destination: &Path,
    read_only: ReadOnly,
) -> Result<(), LaunchError> {
    let what = || format!("mount cgroup on {}", destination.display());
    let harmless = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOEXEC;
    let finish = |tree: OwnedFd, target: &Path| {
        if read_only != ReadOnly::No {
            mount::set_attributes(&tree, Attributes::MOUNT_ATTR_RDONLY, None, false).map_err(step(what()))?;
        }
        let target = root.make_dirs(target).map_err(step(what()))?;
        mount::attach(tree, target).map_err(step(what()))
    };
    if context.cgroups.is_v2() {
        let tree = mount::filesystem("cgroup2", &[], harmless).map_err(step(what()))?;
        return finish(tree, destination);
    }
    let tree = mount::filesystem("tmpfs", &[("mode", "755"), ("size", "65536")], harmless).map_err(step(what()))?;
    let target = root.make_dirs(destination).map_err(step(what()))?;
    mount::attach(&tree, target).map_err(step(what()))?;
    for (name, own) in context.cgroups.v1_directories(&record.cgroup) {
        let Ok(tree) = mount::clone_tree(&own, false) else {
            // A controller that no limit of this container asked for.
            continue;
        };
        mount::set_attributes(&tree, harmless, Some(Propagation::Private), false).map_err(step(what()))?;
        finish(tree, &destination.join(name))?;
    }
    if read_only != ReadOnly::No {
        mount::set_attributes(&tree, Attributes::MOUNT_ATTR_RDONLY, None, false).map_err(step(what()))?;
    }
    Ok(())
}

fn make_devices(root: &Rooted, spec: &Spec) -> Result<(), LaunchError> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for device in devices.into_iter().flatten() {
        let path = device.path();
        let what = || format!("device {}", path.display());
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            _ => FileType::CharacterDevice,
        };
        let number = rustix::fs::makedev(
            u32::try_from(device.major()).map_err(step(what()))?,
            u32::try_from(device.minor()).map_err(step(what()))?,
        );
        let name = path.file_name().ok_or_else(|| LaunchError(format!("{} has no name", what())))?;
        let parent = root.make_dirs(path.parent().unwrap_or(Path::new("/"))).map_err(step(what()))?;
        let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
        match rustix::fs::mknodat(&parent, name, kind, mode, number) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => continue,
            Err(error) => return Err(step(what())(error)),
        }
        let owner = (device.uid().map(rustix::fs::Uid::from_raw), device.gid().map(rustix::fs::Gid::from_raw));
        let no_follow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&parent, name, owner.0, owner.1, no_follow).map_err(step(what()))?;
        // mknod is subject to the shim's umask.
        rustix::fs::chmodat(&parent, name, mode, rustix::fs::AtFlags::empty()).map_err(step(what()))?;
    }
    Ok(())
}

/// The links that every program expects in `/dev`.
fn make_links(root: &Rooted) -> Result<(), LaunchError> {
    let directory = root.make_dirs(Path::new("/dev")).map_err(step("/dev"))?;
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ] {
        match rustix::fs::symlinkat(target, &directory, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS) => {}
            Err(error) => return Err(step(format!("link /dev/{name}"))(error)),
        }
    }
    Ok(())
}

fn make_read_only(root: &Rooted, path: &Path) -> Result<(), LaunchError> {
    let what = || format!("make {} read-only", path.display());
    let Some(target) = open_if_there(root, path).map_err(step(what()))? else { return Ok(()) };
    let tree = mount::clone_fd(target.as_fd()).map_err(step(what()))?;
    mount::set_attributes(&tree, Attributes::MOUNT_ATTR_RDONLY, None, false).map_err(step(what()))?;
    mount::attach(tree, target).map_err(step(what()))
}

/// A directory disappears under an empty one, a file under the null device.
fn mask(root: &Rooted, path: &Path) -> Result<(), LaunchError> {
    let what = || format!("mask {}", path.display());
    let Some(target) = open_if_there(root, path).map_err(step(what()))? else { return Ok(()) };
    let stat = rustix::fs::fstat(&target).map_err(step(what()))?;
    let tree = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        mount::filesystem("tmpfs", &[("size", "4096"), ("mode", "0")], Attributes::MOUNT_ATTR_RDONLY)
    } else {
        root.open_at(Path::new("/dev/null"), OFlags::PATH, Mode::empty()).and_then(|null| mount::clone_fd(null.as_fd()))
    };
    mount::attach(tree.map_err(step(what()))?, target).map_err(step(what()))
}

fn open_if_there(root: &Rooted, path: &Path) -> std::io::Result<Option<OwnedFd>> {
    match root.open_at(path, OFlags::PATH, Mode::empty()) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}
