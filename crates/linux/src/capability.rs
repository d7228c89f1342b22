//! Linux capabilities by name, and the five sets of a process.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Names in the order of their numbers.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Set(u64);

impl Set {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// All that this program knows.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The set with the capability of that number alone.
    fn single(number: usize) -> Self {
        Self(1 << number)
    }

    /// The capability of a name, with or without `CAP_`, in any case.
    pub fn named(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES.iter().position(|known| known.strip_prefix("CAP_") == Some(short)).map(Self::single)
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Each member's name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(number, _)| self.0 & (1 << number) != 0).map(|(_, name)| *name)
    }

    fn kernel(self) -> CapabilitySet {
        CapabilitySet::from_bits_retain(self.0)
    }
}

/// The five sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    /// The most that any later program may get.
    pub bounding: Set,
    /// In force.
    pub effective: Set,
    /// May be put in force.
    pub permitted: Set,
    /// Offered to programs whose file inherits.
    pub inheritable: Set,
    /// Kept by programs without file capabilities.
    pub ambient: Set,
}

/// What this process itself may use.
pub fn permitted() -> io::Result<Set> {
    Ok(Set(rustix::thread::capabilities(None)?.permitted.bits() & Set::ALL.0))
}

/// Takes everything outside `bounding` out of the bounding set, for good.
pub fn limit_bounding(bounding: Set) -> io::Result<()> {
    for number in 0..NAMES.len() {
        let one = Set::single(number);
        if bounding.intersection(one) != Set::EMPTY {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one.kernel()) {
            // A kernel older than the name does not know the capability, and so cannot grant it either.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sets the effective, permitted, inheritable and ambient sets. What this process does not have itself is left out, as a
/// program started by it could not have it either.
pub fn apply(sets: &Sets) -> io::Result<()> {
    let own = permitted()?;
    let permitted = sets.permitted.intersection(own);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: sets.effective.intersection(permitted).kernel(),
            permitted: permitted.kernel(),
            inheritable: sets.inheritable.intersection(own).kernel(),
        },
    )?;
    rustix::thread::clear_ambient_capability_set()?;
    let ambient = sets.ambient.intersection(permitted).intersection(sets.inheritable);
    for number in (0..NAMES.len()).map(Set::single).filter(|one| ambient.intersection(*one) != Set::EMPTY) {
        rustix::thread::configure_capability_in_ambient_set(number.kernel(), true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_spelling() {
        assert_eq!(Set::named("NET_ADMIN"), Set::named("cap_net_admin"));
        assert_eq!(Set::named("NOPE"), None);
        assert_eq!(Set::named("CAP_CHECKPOINT_RESTORE").unwrap(), Set(1 << 40));
        let two = Set::named("KILL").unwrap().union(Set::named("CHOWN").unwrap());
        assert_eq!(two.names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(Set::ALL.without(two).names().count(), 39);
    }
}
