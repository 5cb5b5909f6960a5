//! A profile: what is allowed, independent of its source, and its compilation.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscallBuilder,
};

use super::{
    architecture::Architecture,
    code::{self, Condition, Decision, Ranges, Test, Verdict},
};
use crate::{Error, Result, sys::seccomp::Instruction};

// linux/seccomp.h
const RET_KILL_PROCESS: Verdict = 0x8000_0000;
const RET_KILL_THREAD: Verdict = 0;
const RET_TRAP: Verdict = 0x0003_0000;
const RET_ERRNO: Verdict = 0x0005_0000;
const RET_TRACE: Verdict = 0x7ff0_0000;
const RET_LOG: Verdict = 0x7ffc_0000;
const RET_ALLOW: Verdict = 0x7fff_0000;
const FLAG_TSYNC: u64 = 1;
const FLAG_LOG: u64 = 2;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: no speculation mitigation for filtered processes. It is the runtimes' default.
pub(super) const FLAG_SPEC_ALLOW: u64 = 4;

/// The kernel's bound on the length of a program (`BPF_MAXINSNS`).
const INSTRUCTIONS_MAX: usize = 4096;
/// Errors that SECCOMP_RET_ERRNO can carry (`MAX_ERRNO`).
const ERRNO_MAX: u32 = 4095;

/// What is done about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u32),
    Raw(Verdict),
}

impl Action {
    fn verdict(self) -> Verdict {
        match self {
            Self::Allow => RET_ALLOW,
            Self::Errno(errno) => RET_ERRNO | errno.min(ERRNO_MAX),
            Self::Raw(verdict) => verdict,
        }
    }
}

/// Names of calls and what is done about them if all conditions hold.
#[derive(Clone, Debug)]
pub(super) struct Rule<'a> {
    pub names: Vec<&'a str>,
    pub action: Action,
    pub conditions: Vec<Condition>,
}

/// A whole profile.
#[derive(Clone, Debug)]
pub(super) struct Profile<'a> {
    /// For calls that no rule speaks of.
    pub default: Action,
    pub architectures: Vec<Architecture>,
    pub rules: Vec<Rule<'a>>,
    pub flags: u64,
}

impl<'a> Profile<'a> {
    /// The profile of a specification (OCI runtime specification, linux.seccomp).
    pub fn from_spec(spec: &'a LinuxSeccomp) -> Result<Self> {
        let native = Architecture::NATIVE
            .ok_or_else(|| Error::invalid("seccomp profiles are not known for this architecture"))?;
        let mut architectures = vec![native];
        for arch in spec.architectures().iter().flatten() {
            match Architecture::from_spec(*arch) {
                Some(a) if !architectures.contains(&a) => architectures.push(a),
                _ => {}
            }
        }
        let mut rules = Vec::new();
        for call in spec.syscalls().iter().flatten() {
            let action = action(call.action(), call.errno_ret())?;
            let names: Vec<_> = call.names().iter().map(String::as_str).collect();
            let conditions = call
                .args()
                .iter()
                .flatten()
                .map(condition)
                .collect::<Result<Vec<_>>>()?;
            for conditions in split_repeated(conditions) {
                rules.push(Rule {
                    names: names.clone(),
                    action,
                    conditions,
                });
            }
        }
        Ok(Self {
            default: action(spec.default_action(), spec.default_errno_ret())?,
            architectures,
            rules,
            flags: flags(spec),
        })
    }

    /// It as a part of a specification. Arguments that the kernel takes as `int` are compared in full there.
    pub fn in_full(&self) -> Result<LinuxSeccomp> {
        let failed =
            |e: oci_spec::OciSpecError| Error::internal("cannot write the seccomp profile").caused_by(e);
        let decided = |action: Action| match action {
            Action::Allow => Ok((LinuxSeccompAction::ScmpActAllow, None)),
            Action::Errno(errno) => Ok((LinuxSeccompAction::ScmpActErrno, Some(errno))),
            Action::Raw(verdict) => Err(Error::internal(format!("the verdict {verdict:#x} has no name"))),
        };
        let mut calls = Vec::with_capacity(self.rules.len());
        for rule in &self.rules {
            let (action, errno) = decided(rule.action)?;
            let mut call = LinuxSyscallBuilder::default()
                .names(rule.names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
                .action(action);
            if let Some(errno) = errno {
                call = call.errno_ret(errno);
            }
            if !rule.conditions.is_empty() {
                call = call.args(rule.conditions.iter().map(argument).collect::<Result<Vec<_>>>()?);
            }
            calls.push(call.build().map_err(failed)?);
        }
        let (action, errno) = decided(self.default)?;
        let mut profile = LinuxSeccompBuilder::default()
            .default_action(action)
            .architectures(self.architectures.iter().map(|a| a.to_spec()).collect::<Vec<_>>())
            .syscalls(calls);
        if let Some(errno) = errno {
            profile = profile.default_errno_ret(errno);
        }
        profile.build().map_err(failed)
    }

    /// The program for it.
    pub fn compile(&self) -> Result<Vec<Instruction>> {
        let mut parts: Vec<(u32, Ranges, bool)> = Vec::new();
        for architecture in &self.architectures {
            let ranges = self.ranges(*architecture);
            // x32 continues the numbers of x86_64.
            match parts
                .iter_mut()
                .find(|(audit, ..)| *audit == architecture.audit())
            {
                Some((_, known, _)) => {
                    known.extend(ranges);
                    known.sort_by_key(|(first, _)| *first);
                }
                None => parts.push((architecture.audit(), ranges, architecture.is_32_bit())),
            }
        }
        for (_, ranges, _) in &mut parts {
            ranges.dedup_by(|later, earlier| later.1 == earlier.1);
        }
        let program = code::program(&parts, RET_KILL_PROCESS);
        if program.len() > INSTRUCTIONS_MAX {
            return Err(Error::invalid(format!(
                "the seccomp profile is too large: {} instructions, the kernel takes {INSTRUCTIONS_MAX}",
                program.len()
            )));
        }
        Ok(program)
    }

    fn ranges(&self, architecture: Architecture) -> Ranges {
        let calls = self.calls(architecture);
        let base = architecture.base();
        let mut ranges = vec![(base, Decision::Always(self.default.verdict()))];
        for (&number, decision) in &calls {
            if number == base {
                ranges.clear();
            }
            ranges.push((number, decision.clone()));
            if !calls.contains_key(&(number + 1)) {
                ranges.push((number + 1, self.gap(architecture, &calls, number + 1)));
            }
        }
        ranges
    }

    /// What becomes of the calls from `first` up to the next one that a rule names.
    ///
    /// Calls that are newer than everything the profile knows fail with ENOSYS, as on the older kernel that it was
    /// written for, so that C libraries fall back to what they did there.
    fn gap(&self, architecture: Architecture, calls: &BTreeMap<u32, Decision>, first: u32) -> Decision {
        let newer = calls.range(first..).all(|(n, _)| !architecture.is_ordinary(*n));
        match self.default {
            Action::Allow | Action::Raw(RET_LOG) => Decision::Always(self.default.verdict()),
            _ if newer => Decision::Always(Action::Errno(libc::ENOSYS.cast_unsigned()).verdict()),
            _ => Decision::Always(self.default.verdict()),
        }
    }

    /// The decision for each call that a rule names. A rule without conditions outweighs those with some.
    fn calls(&self, architecture: Architecture) -> BTreeMap<u32, Decision> {
        let mut calls: BTreeMap<u32, Decision> = BTreeMap::new();
        let default = self.default.verdict();
        for rule in self.rules.iter().filter(|r| r.action != self.default) {
            let verdict = rule.action.verdict();
            for number in rule.names.iter().filter_map(|n| architecture.number(n)) {
                let decision = calls
                    .entry(number)
                    .or_insert_with(|| Decision::First(Vec::new(), default));
                match decision {
                    Decision::Always(_) => {}
                    _ if rule.conditions.is_empty() => *decision = Decision::Always(verdict),
                    Decision::First(alternatives, _) => alternatives.push((rule.conditions.clone(), verdict)),
                }
            }
        }
        calls
    }
}

/// Several conditions on one argument are alternatives, as in the reference runtime.
fn split_repeated(conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let mut seen = [false; 6];
    let repeats = conditions
        .iter()
        .any(|c| std::mem::replace(&mut seen[usize::from(c.argument) % 6], true));
    if repeats {
        conditions.into_iter().map(|c| vec![c]).collect()
    } else {
        vec![conditions]
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action> {
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(errno.unwrap_or(libc::EPERM.cast_unsigned())),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Action::Raw(RET_KILL_THREAD)
        }
        LinuxSeccompAction::ScmpActKillProcess => Action::Raw(RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Action::Raw(RET_TRAP),
        LinuxSeccompAction::ScmpActLog => Action::Raw(RET_LOG),
        LinuxSeccompAction::ScmpActTrace => {
            Action::Raw(RET_TRACE | errno.unwrap_or(libc::EPERM.cast_unsigned()) & 0xFFFF)
        }
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::invalid(
                "seccomp action SCMP_ACT_NOTIFY is not supported: there is no agent to be notified",
            ));
        }
    })
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition> {
    let argument = u8::try_from(arg.index()).ok().filter(|i| *i < 6).ok_or_else(|| {
        Error::invalid(format!(
            "seccomp argument index {}: system calls have arguments 0 to 5",
            arg.index()
        ))
    })?;
    let value = arg.value();
    let test = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
        LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Test::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
        LinuxSeccompOperator::ScmpCmpGe => Test::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => Test::MaskedEqual {
            mask: value,
            value: arg.value_two().unwrap_or_default(),
        },
    };
    Ok(Condition {
        argument,
        test,
        narrow: false,
    })
}

/// The reverse of [`condition`].
fn argument(condition: &Condition) -> Result<LinuxSeccompArg> {
    let (op, value, second) = match condition.test {
        Test::Equal(value) => (LinuxSeccompOperator::ScmpCmpEq, value, None),
        Test::NotEqual(value) => (LinuxSeccompOperator::ScmpCmpNe, value, None),
        Test::Less(value) => (LinuxSeccompOperator::ScmpCmpLt, value, None),
        Test::LessOrEqual(value) => (LinuxSeccompOperator::ScmpCmpLe, value, None),
        Test::Greater(value) => (LinuxSeccompOperator::ScmpCmpGt, value, None),
        Test::GreaterOrEqual(value) => (LinuxSeccompOperator::ScmpCmpGe, value, None),
        Test::MaskedEqual { mask, value } => (LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value)),
    };
    let argument = LinuxSeccompArgBuilder::default()
        .index(condition.argument)
        .value(value)
        .op(op);
    let argument = match second {
        Some(second) => argument.value_two(second),
        None => argument,
    };
    argument
        .build()
        .map_err(|e| Error::internal("cannot write the seccomp profile").caused_by(e))
}

fn flags(spec: &LinuxSeccomp) -> u64 {
    let Some(flags) = spec.flags() else {
        return FLAG_SPEC_ALLOW;
    };
    flags.iter().fold(0, |bits, flag| {
        bits | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            // Only means something together with notification.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(json: serde_json::Value) -> Result<Vec<Instruction>> {
        let spec: LinuxSeccomp = serde_json::from_value(json).unwrap();
        Profile::from_spec(&spec)?.compile()
    }

    const X86_64: u32 = 0xC000_003E;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn custom_profiles() {
        let program = compile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [
                {"names": ["chmod", "nonsense"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17},
                {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS", "args": [
                    {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"},
                    {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}
                ]},
            ]
        }))
        .unwrap();
        let ask = |number, arguments| code::interpret(&program, X86_64, number, arguments);
        assert_eq!(ask(90, [0; 6]), RET_ERRNO | 1);
        assert_eq!(ask(83, [0; 6]), RET_ERRNO | 17);
        assert_eq!(ask(62, [1, 9, 0, 0, 0, 0]), RET_KILL_PROCESS);
        assert_eq!(ask(62, [1, 15, 0, 0, 0, 0]), RET_KILL_PROCESS);
        assert_eq!(ask(62, [1, 10, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(ask(9999, [0; 6]), RET_ALLOW);
        assert_eq!(
            code::interpret(&program, 0x4000_0003, 1, [0; 6]),
            RET_KILL_PROCESS
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let notify = serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"});
        assert!(compile(notify).unwrap_err().to_string().contains("NOTIFY"));
        let index = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}
        ]});
        assert!(compile(index).is_err());
    }
}
