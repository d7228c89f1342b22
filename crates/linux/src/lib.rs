//! The kernel: namespaces, mounts, cgroups, netlink, nftables; a real host and a fake one.
