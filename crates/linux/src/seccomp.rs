//! System call filters: compiled from a profile of names, actions and argument conditions to the kernel's classic BPF, and
//! put in force.
//!
//! The compiler is ours because a profile mixes several actions with conditions on arguments, which `seccompiler`'s single
//! match action cannot express, and because its `apply_filter` forces `no_new_privs` on, which would break setuid programs
//! in containers that allow them. A call that is newer than every call the profile names answers `ENOSYS`, so that C
//! libraries fall back, as the OCI runtimes do. Calls of another architecture's table (32-bit programs) answer `ENOSYS` too.

use std::collections::BTreeMap;
use std::io;

use nix::libc;

mod numbers;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It runs.
    Allow,
    /// It fails with this errno.
    Errno(u16),
    /// Its thread is killed.
    KillThread,
    /// Its process is killed.
    KillProcess,
    /// Its thread gets SIGSYS.
    Trap,
    /// It runs and is logged.
    Log,
    /// A tracer decides, told this number.
    Trace(u16),
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// The argument's bits under this mask equal the value.
    Masked(u64),
}

/// A condition on one argument (0 to 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument.
    pub argument: u8,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

/// An action for one call, where all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The call's number.
    pub call: u32,
    /// Empty: always.
    pub conditions: Vec<Condition>,
    /// What then happens.
    pub action: Action,
}

/// A filter that the kernel takes.
#[derive(Debug, Clone)]
pub struct Filter(Vec<libc::sock_filter>);

/// A profile could not be made into a filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// An argument above 5.
    #[error("seccomp rule compares argument {0}; system calls have arguments 0 to 5")]
    Argument(u8),
    /// More instructions than the kernel takes (4096).
    #[error("seccomp profile compiles to {0} instructions; the kernel takes 4096")]
    TooLong(usize),
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Calls of the x32 table carry this bit and run 64-bit code with other arguments.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// Byte offsets in `struct seccomp_data`.
const OFFSET_CALL: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// The number of a call on this architecture; `None` where it has none.
pub fn number(name: &str) -> Option<u32> {
    let found = numbers::EVERYWHERE.iter().chain(numbers::HERE).find(|(known, _)| *known == name);
    found.and_then(|(_, number)| u32::try_from(*number).ok())
}

/// The names of all calls that this architecture has, as far as this program knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    numbers::EVERYWHERE.iter().chain(numbers::HERE).map(|(name, _)| *name)
}

/// Compiles rules; the first rule of a call whose conditions hold decides, and `default` where none does.
pub fn compile(default: Action, rules: &[Rule]) -> Result<Filter, FilterError> {
    let mut by_call: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        by_call.entry(rule.call).or_default().push(rule);
    }
    let mut code = vec![
        step(LOAD, OFFSET_ARCHITECTURE),
        branch(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        leave(Action::Errno(libc::ENOSYS as u16)),
        step(LOAD, OFFSET_CALL),
    ];
    #[cfg(target_arch = "x86_64")]
    code.extend([branch(JUMP_GREATER_OR_EQUAL, X32_BIT, 0, 1), leave(Action::Errno(libc::ENOSYS as u16))]);
    if let (Some(newest), Action::Errno(_)) = (by_call.keys().next_back(), default) {
        code.extend([branch(JUMP_GREATER, *newest, 0, 1), leave(Action::Errno(libc::ENOSYS as u16))]);
    }
    for (call, rules) in by_call {
        let body = body(default, &rules)?;
        let length = u32::try_from(body.len()).expect("a body is bounded by the filter's length");
        code.extend([branch(JUMP_EQUAL, call, 1, 0), step(JUMP, length)]);
        code.extend(body);
    }
    code.push(leave(default));
    if code.len() > 4096 { Err(FilterError::TooLong(code.len())) } else { Ok(Filter(code)) }
}

/// What one call's rules decide. The accumulator is free: every path through it returns.
fn body(default: Action, rules: &[&Rule]) -> Result<Vec<libc::sock_filter>, FilterError> {
    let mut code = Vec::new();
    for rule in rules {
        let mut tests = Vec::new();
        for condition in &rule.conditions {
            if condition.argument > 5 {
                return Err(FilterError::Argument(condition.argument));
            }
            tests.push(test(condition));
        }
        // Each test falls through to the next where it holds, and leaps over the rule's return where it does not.
        let mut rest: usize = tests.iter().map(Vec::len).sum::<usize>() + 1;
        for instructions in tests {
            let length = instructions.len();
            for (at, instruction) in instructions.into_iter().enumerate() {
                let holds = length - at - 1;
                code.push(instruction.resolve(holds, rest - at - 1));
            }
            rest -= length;
        }
        code.push(leave(rule.action));
        if rule.conditions.is_empty() {
            return Ok(code);
        }
    }
    code.push(leave(default));
    Ok(code)
}

/// Where a comparison goes.
#[derive(Debug, Clone, Copy)]
enum To {
    Next,
    Holds,
    Fails,
}

#[derive(Debug, Clone, Copy)]
enum Instruction {
    Plain(libc::sock_filter),
    Branch(u16, u32, To, To),
}

impl Instruction {
    fn resolve(self, holds: usize, fails: usize) -> libc::sock_filter {
        let distance = |to| match to {
            To::Next => 0,
            To::Holds => u8::try_from(holds).expect("a test has at most six instructions"),
            To::Fails => u8::try_from(fails).expect("a rule has at most six tests"),
        };
        match self {
            Self::Plain(instruction) => instruction,
            Self::Branch(code, value, yes, no) => branch(code, value, distance(yes), distance(no)),
        }
    }
}

/// Compares a 64-bit argument by its halves, as BPF has 32-bit words.
fn test(condition: &Condition) -> Vec<Instruction> {
    use Instruction::{Branch, Plain};
    use To::{Fails, Holds, Next};
    let low_offset = OFFSET_ARGUMENTS + 8 * u32::from(condition.argument);
    let (low, high) = (Plain(step(LOAD, low_offset)), Plain(step(LOAD, low_offset + 4)));
    let halves = |value: u64| ((value & 0xffff_ffff) as u32, (value >> 32) as u32);
    let (value_low, value_high) = halves(condition.value);
    let ordered = |code, yes, no| {
        vec![
            high,
            Branch(JUMP_GREATER, value_high, yes, Next),
            Branch(JUMP_EQUAL, value_high, Next, no),
            low,
            Branch(code, value_low, yes, no),
        ]
    };
    match condition.comparison {
        Comparison::Equal => {
            vec![high, Branch(JUMP_EQUAL, value_high, Next, Fails), low, Branch(JUMP_EQUAL, value_low, Next, Fails)]
        }
        Comparison::NotEqual => {
            vec![high, Branch(JUMP_EQUAL, value_high, Next, Holds), low, Branch(JUMP_EQUAL, value_low, Fails, Next)]
        }
        Comparison::Masked(mask) => {
            let (mask_low, mask_high) = halves(mask);
            vec![
                high,
                Plain(step(AND, mask_high)),
                Branch(JUMP_EQUAL, value_high, Next, Fails),
                low,
                Plain(step(AND, mask_low)),
                Branch(JUMP_EQUAL, value_low, Next, Fails),
            ]
        }
        Comparison::Greater => ordered(JUMP_GREATER, Holds, Fails),
        Comparison::GreaterOrEqual => ordered(JUMP_GREATER_OR_EQUAL, Holds, Fails),
        Comparison::Less => ordered(JUMP_GREATER_OR_EQUAL, Fails, Holds),
        Comparison::LessOrEqual => ordered(JUMP_GREATER, Fails, Holds),
    }
}

fn step(code: u16, value: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k: value }
}

fn branch(code: u16, value: u32, yes: u8, no: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: yes, jf: no, k: value }
}

fn leave(action: Action) -> libc::sock_filter {
    let value = match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
        Action::Trap => 0x0003_0000,
        Action::Log => 0x7ffc_0000,
        Action::Trace(message) => 0x7ff0_0000 | u32::from(message),
    };
    step(RETURN, value)
}

/// Puts a filter in force for this thread and all that it starts. Needs `CAP_SYS_ADMIN` or `no_new_privs`.
pub fn load(filter: &Filter) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.0.len()).expect("compile bounds the length"),
        filter: filter.0.as_ptr().cast_mut(),
    };
    #[expect(unsafe_code, reason = "seccomp has no wrapper in nix or rustix")]
    // SAFETY: `program` points to `len` instructions that live across the call; the kernel copies and checks them.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel does.
    fn run(filter: &Filter, call: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            OFFSET_CALL => call,
            OFFSET_ARCHITECTURE => ARCHITECTURE,
            _ => {
                let argument = arguments[((offset - OFFSET_ARGUMENTS) / 8) as usize];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let step = filter.0[at];
            let mut jump = |taken: bool| at += usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                LOAD => accumulator = load(step.k),
                AND => accumulator &= step.k,
                JUMP_EQUAL => jump(accumulator == step.k),
                JUMP_GREATER => jump(accumulator > step.k),
                JUMP_GREATER_OR_EQUAL => jump(accumulator >= step.k),
                JUMP => at += step.k as usize,
                RETURN => return step.k,
                other => panic!("no such instruction: {other}"),
            }
            at += 1;
        }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;

    #[test]
    fn compares_arguments() {
        let big = 1u64 << 40;
        for (comparison, value, argument, allowed) in [
            (Comparison::Equal, big + 5, big + 5, true),
            (Comparison::Equal, big + 5, 5, false),
            (Comparison::NotEqual, big + 5, big + 6, true),
            (Comparison::NotEqual, big + 5, big + 5, false),
            (Comparison::NotEqual, 5, big + 5, true),
            (Comparison::Greater, big, big + 1, true),
            (Comparison::Greater, big + 1, big, false),
            (Comparison::Greater, 7, big, true),
            (Comparison::GreaterOrEqual, big, big, true),
            (Comparison::Less, big, 9, true),
            (Comparison::Less, big, big, false),
            (Comparison::LessOrEqual, big, big, true),
            (Comparison::LessOrEqual, big, big + 1, false),
            (Comparison::Masked(0xff00), 0x1200, 0x12ff, true),
            (Comparison::Masked(0xff00), 0x1200, 0x1300, false),
        ] {
            let rule = |argument| Rule {
                call: 7,
                conditions: vec![
                    Condition { argument, comparison, value },
                    Condition { argument: 5, comparison: Comparison::Equal, value: 1 },
                ],
                action: Action::Allow,
            };
            let filter =
                compile(Action::Errno(1), &[rule(2), Rule { call: 9, conditions: vec![], action: Action::Allow }])
                    .unwrap();
            let expected = if allowed { ALLOW } else { EPERM };
            assert_eq!(run(&filter, 7, [0, 0, argument, 0, 0, 1]), expected, "{comparison:?} {value} {argument}");
            assert_eq!(run(&filter, 7, [0, 0, argument, 0, 0, 2]), EPERM, "both conditions must hold");
        }
    }

    #[test]
    fn several_actions_and_calls_that_nobody_knew() {
        let rule = |call, action| Rule { call, conditions: vec![], action };
        let rules = [rule(1, Action::Allow), rule(2, Action::KillProcess), rule(5, Action::Errno(38))];
        let filter = compile(Action::Errno(1), &rules).unwrap();
        let results: Vec<_> = [1, 2, 3, 5, 6].map(|call| run(&filter, call, [0; 6])).into();
        assert_eq!(results, [ALLOW, 0x8000_0000, EPERM, 0x0005_0026, 0x0005_0026]);
        let conditions = vec![Condition { argument: 6, comparison: Comparison::Equal, value: 0 }];
        let bad = Rule { call: 1, conditions, action: Action::Allow };
        assert_eq!(compile(Action::Allow, &[bad]).unwrap_err(), FilterError::Argument(6));
    }

    #[test]
    fn names_have_numbers() {
        assert_eq!(number("openat2"), Some(437));
        assert_eq!(number("nope"), None);
        assert!(names().count() > 250);
    }
}
