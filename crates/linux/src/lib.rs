//! The kernel, for the crates above: every system call of the project's own goes through here, and so does its `unsafe`.
//!
//! A part of the kernel per module. What needs no kernel to be tested (cgroup layouts, filters) is pure code over a small
//! host trait or over plain values. Kernel 5.14 is the oldest that is supported: the mount API by file descriptors,
//! `openat2`, `mount_setattr` and pidfds are used without a fallback.

pub mod capability;
pub mod cgroup;
pub mod datagrams;
pub mod disk;
pub mod memory;
pub mod mount;
pub mod net;
pub mod process;
pub mod rooted;
pub mod seccomp;
