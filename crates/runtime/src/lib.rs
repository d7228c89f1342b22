//! The embedded container runtime: images, snapshots, sandboxes, containers and the shim.
