//! The `RuntimeDefault` seccomp profile: every system call that this program knows is allowed, except those that reach
//! beyond a container. Some of these come with the capability that the kernel would ask for anyway. A call that this
//! program does not know is refused as if the kernel were older.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// Never: they are old, unsafe, not namespaced, or (io_uring) a way around the filter itself.
const NEVER: &[&str] = &[
    "_sysctl",
    "add_key",
    "afs_syscall",
    "create_module",
    "get_kernel_syms",
    "getpmsg",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "keyctl",
    "move_pages",
    "nfsservctl",
    "putpmsg",
    "query_module",
    "request_key",
    "security",
    "swapoff",
    "swapon",
    "sysfs",
    "tuxcall",
    "uselib",
    "userfaultfd",
    "ustat",
    "vserver",
];

/// Only with a capability.
const WITH_CAPABILITY: &[(&str, &[&str])] = &[
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["kexec_file_load", "kexec_load", "reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "migrate_pages", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_adjtime", "clock_settime", "settimeofday"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

/// The flags of `clone` that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// Address families whose sockets reach the machine: AF_VSOCK.
const FAMILY_VSOCK: u64 = 40;
/// Personalities that only change how memory and versions look.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];
const ENOSYS: u32 = 38;

/// The default profile for a container with these capabilities (by full name).
pub(crate) fn runtime_default(capabilities: &[String]) -> LinuxSeccomp {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let privileged = has("CAP_SYS_ADMIN");
    let granted =
        |call: &str| WITH_CAPABILITY.iter().any(|(capability, calls)| has(capability) && calls.contains(&call));
    let withheld = |call: &str| WITH_CAPABILITY.iter().any(|(_, calls)| calls.contains(&call));
    let conditional = |call: &str| matches!(call, "clone" | "clone3" | "personality" | "socket");
    let names = linux::seccomp::names().filter(|call| {
        !NEVER.contains(call) && (!withheld(call) || granted(call)) && (privileged || !conditional(call))
    });
    let mut rules = vec![rule(names.map(str::to_owned).collect(), LinuxSeccompAction::ScmpActAllow, None, None)];
    if !privileged {
        let allow =
            |name: &str, argument| rule(vec![name.to_owned()], LinuxSeccompAction::ScmpActAllow, None, Some(argument));
        rules.push(allow("clone", argument(LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NAMESPACES)));
        rules.push(allow("socket", argument(LinuxSeccompOperator::ScmpCmpNe, FAMILY_VSOCK)));
        for personality in PERSONALITIES {
            rules.push(allow("personality", argument(LinuxSeccompOperator::ScmpCmpEq, personality)));
        }
        // Its flags are in memory, where a filter cannot look: C libraries then use clone.
        rules.push(rule(vec!["clone3".to_owned()], LinuxSeccompAction::ScmpActErrno, Some(ENOSYS), None));
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno).set_default_errno_ret(Some(1));
    profile.set_syscalls(Some(rules));
    profile
}

/// A condition on the first argument. A masked one compares with zero.
fn argument(op: LinuxSeccompOperator, value: u64) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default().index(0usize).value(value).value_two(0u64).op(op);
    argument.build().expect("every field is set")
}

fn rule(
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    condition: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names).set_action(action).set_errno_ret(errno);
    rule.set_args(condition.map(|condition| vec![condition]));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_bring_their_calls() {
        let allowed = |capabilities: &[&str], call: &str| {
            let capabilities: Vec<_> = capabilities.iter().map(|name| (*name).to_owned()).collect();
            let profile = runtime_default(&capabilities);
            profile.syscalls().as_ref().unwrap()[0].names().iter().any(|name| name == call)
        };
        for (capabilities, call, expected) in [
            (&[][..], "read", true),
            (&[], "mount", false),
            (&["CAP_SYS_ADMIN"], "mount", true),
            (&[], "bpf", false),
            (&["CAP_BPF"], "bpf", true),
            (&["CAP_SYS_ADMIN"], "io_uring_setup", false),
            (&["CAP_SYS_CHROOT"], "chroot", true),
            (&[], "clone3", false),
            (&[], "rseq", true),
        ] {
            assert_eq!(allowed(capabilities, call), expected, "{call} with {capabilities:?}");
        }
        for (_, calls) in WITH_CAPABILITY {
            for call in *calls {
                assert!(
                    linux::seccomp::number(call).is_some() || cfg!(not(target_arch = "x86_64")),
                    "{call} is a call"
                );
            }
        }
    }
}
