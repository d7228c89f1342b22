//! The seccomp part of an OCI runtime specification as a filter.

use linux::seccomp::{Action, Comparison, Condition, Filter, Rule, compile, number};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, Spec};

use super::launch::{LaunchError, step};

/// `EPERM`, which a profile means when it names no errno.
const DEFAULT_ERRNO: u32 = 1;

/// The filter of a specification, if it has one.
pub(super) fn of_spec(spec: &Spec) -> Result<Option<Filter>, LaunchError> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.map(of_profile).transpose()
}

fn of_profile(profile: &LinuxSeccomp) -> Result<Filter, LaunchError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut rules = Vec::new();
    for entry in profile.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret())?;
        let conditions = entry.args().iter().flatten().map(condition).collect::<Result<Vec<_>, _>>()?;
        // Profiles name calls of every architecture; those that this one lacks cannot be made here.
        let numbers = entry.names().iter().filter_map(|name| number(name));
        rules.extend(numbers.map(|call| Rule { call, conditions: conditions.clone(), action }));
    }
    compile(default, &rules).map_err(step("seccomp"))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action, LaunchError> {
    let number = u16::try_from(errno.unwrap_or(DEFAULT_ERRNO)).map_err(step("seccomp errno"))?;
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(number),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActTrace => Action::Trace(number),
        LinuxSeccompAction::ScmpActNotify => {
            return Err(LaunchError("seccomp: SCMP_ACT_NOTIFY needs a listener, which is not supported".to_owned()));
        }
    })
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition, LaunchError> {
    let comparison = match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => Comparison::Equal,
        LinuxSeccompOperator::ScmpCmpNe => Comparison::NotEqual,
        LinuxSeccompOperator::ScmpCmpGt => Comparison::Greater,
        LinuxSeccompOperator::ScmpCmpGe => Comparison::GreaterOrEqual,
        LinuxSeccompOperator::ScmpCmpLt => Comparison::Less,
        LinuxSeccompOperator::ScmpCmpLe => Comparison::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpMaskedEq => Comparison::Masked(argument.value()),
    };
    // A masked comparison carries its mask first and what it compares with second.
    let value = if argument.op() == LinuxSeccompOperator::ScmpCmpMaskedEq {
        argument.value_two().unwrap_or(0)
    } else {
        argument.value()
    };
    let index = u8::try_from(argument.index()).map_err(step("seccomp argument"))?;
    Ok(Condition { argument: index, comparison, value })
}
