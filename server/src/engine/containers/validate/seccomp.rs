//! Docker's format of system call filters, which depends on the container.
//!
//! A profile in that format says which rules hold for which capabilities, architectures and kernels. Here those are
//! picked that hold for one container on this machine; the result is what the OCI specification can express.

use berth_runtime::{Error, Result};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use super::capabilities::CapSet;

/// A profile in Docker's format.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

/// Which other architectures a machine's programs may belong to.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: usize,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

/// When a rule holds, or does not.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// The machine and container that a profile is read for.
struct Circumstances<'a> {
    capabilities: Vec<&'static str>,
    arch: &'a str,
    kernel: (u32, u32),
}

impl Circumstances<'_> {
    fn includes(&self, filter: &Filter) -> bool {
        let arches = filter.arches.as_deref().unwrap_or_default();
        let caps = filter.caps.as_deref().unwrap_or_default();
        (arches.is_empty() || arches.iter().any(|arch| arch == self.arch))
            && caps.iter().all(|cap| self.has(cap))
            && filter
                .min_kernel
                .as_deref()
                .is_none_or(|kernel| self.is_at_least(kernel))
    }

    fn excludes(&self, filter: &Filter) -> bool {
        filter.arches.iter().flatten().any(|arch| arch == self.arch)
            || filter.caps.iter().flatten().any(|cap| self.has(cap))
            || filter
                .min_kernel
                .as_deref()
                .is_some_and(|kernel| self.is_at_least(kernel))
    }

    fn has(&self, capability: &str) -> bool {
        self.capabilities.contains(&capability)
    }

    fn is_at_least(&self, kernel: &str) -> bool {
        self.kernel >= version(kernel)
    }
}

/// Major and minor number of a kernel.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Docker's name of this machine's architecture, and the one of the filters.
fn native() -> Option<(&'static str, Arch)> {
    Some(match std::env::consts::ARCH {
        "x86_64" => ("amd64", Arch::ScmpArchX86_64),
        "x86" => ("x86", Arch::ScmpArchX86),
        "aarch64" => ("arm64", Arch::ScmpArchAarch64),
        "arm" => ("arm", Arch::ScmpArchArm),
        "riscv64" => ("riscv64", Arch::ScmpArchRiscv64),
        "s390x" => ("s390x", Arch::ScmpArchS390x),
        "powerpc64" => ("ppc64le", Arch::ScmpArchPpc64le),
        _ => return None,
    })
}

/// Reads a profile for a container with these capabilities, on a kernel of this release.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if it is not in Docker's format or contradicts itself.
pub fn compile(text: &str, capabilities: CapSet, kernel: &str) -> Result<LinuxSeccomp> {
    let invalid = |why: String| Error::invalid(format!("decoding seccomp profile failed: {why}"));
    let profile: Profile = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let listed = profile
        .architectures
        .as_ref()
        .is_some_and(|list| !list.is_empty());
    if listed && profile.arch_map.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err(invalid(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either".into(),
        ));
    }
    let (arch, native) = native().map_or(("", None), |(name, arch)| (name, Some(arch)));
    let circumstances = Circumstances {
        capabilities: capabilities.names().collect(),
        arch,
        kernel: version(kernel),
    };
    let mut rules = Vec::new();
    for rule in profile.syscalls.into_iter().flatten() {
        let names = match (
            rule.name.is_empty(),
            rule.names.as_ref().is_none_or(Vec::is_empty),
        ) {
            (false, false) => {
                return Err(invalid(
                    "both 'name' and 'names' are specified in the seccomp profile, use either".into(),
                ));
            }
            (false, true) => vec![rule.name],
            _ => rule.names.unwrap_or_default(),
        };
        let excluded = rule
            .excludes
            .as_ref()
            .is_some_and(|filter| circumstances.excludes(filter));
        let included = rule
            .includes
            .as_ref()
            .is_none_or(|filter| circumstances.includes(filter));
        if !names.is_empty() && included && !excluded {
            let mut syscall = LinuxSyscall::default();
            syscall
                .set_names(names)
                .set_action(rule.action)
                .set_errno_ret(rule.errno_ret)
                .set_args(arguments(rule.args.unwrap_or_default()).map_err(invalid)?);
            rules.push(syscall);
        }
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(architectures(profile.architectures, profile.arch_map, native))
        .set_flags(profile.flags.filter(|flags| !flags.is_empty()))
        .set_syscalls(Some(rules));
    Ok(seccomp)
}

fn architectures(
    listed: Option<Vec<Arch>>,
    map: Option<Vec<ArchMap>>,
    native: Option<Arch>,
) -> Option<Vec<Arch>> {
    if let Some(listed) = listed.filter(|list| !list.is_empty()) {
        return Some(listed);
    }
    let entry = map?
        .into_iter()
        .find(|entry| Some(entry.architecture) == native)?;
    let mut all = vec![entry.architecture];
    all.extend(entry.sub_architectures.unwrap_or_default());
    Some(all)
}

fn arguments(arguments: Vec<Argument>) -> Result<Option<Vec<LinuxSeccompArg>>, String> {
    let convert = |argument: Argument| {
        if argument.index > 5 {
            return Err(format!("system calls have no argument {}", argument.index));
        }
        LinuxSeccompArgBuilder::default()
            .index(argument.index)
            .value(argument.value)
            .value_two(argument.value_two)
            .op(argument.op)
            .build()
            .map_err(|error| error.to_string())
    };
    let converted = arguments
        .into_iter()
        .map(convert)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Some(converted).filter(|list| !list.is_empty()))
}

/// Checks that a text is a profile, whatever the container.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if it is not.
pub fn check(text: &str) -> Result<()> {
    compile(text, CapSet::default(), "").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["s390_runtime_instr"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"name": "clone3", "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        ]
    }"#;

    fn names(capabilities: CapSet, kernel: &str) -> Vec<String> {
        let seccomp = compile(PROFILE, capabilities, kernel).unwrap();
        seccomp
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|rule| rule.names().clone())
            .collect()
    }

    #[test]
    fn rules_follow_the_circumstances() {
        assert_eq!(
            names(CapSet::DEFAULT, "6.1.0-9-amd64"),
            ["read", "clone", "ptrace", "clone3"]
        );
        assert_eq!(names(CapSet::DEFAULT, "4.4.0"), ["read", "clone", "clone3"]);
        assert_eq!(names(CapSet::KNOWN, "4.8"), ["read", "bpf", "ptrace", "clone3"]);
    }

    #[test]
    fn the_rest_is_taken_over() {
        let seccomp = compile(PROFILE, CapSet::DEFAULT, "6.1").unwrap();
        assert_eq!(
            (seccomp.default_action(), seccomp.default_errno_ret()),
            (LinuxSeccompAction::ScmpActErrno, Some(1))
        );
        let rules = seccomp.syscalls().clone().unwrap();
        let argument = rules[1].args().as_ref().unwrap()[0];
        assert_eq!(
            (argument.value(), argument.value_two(), argument.op()),
            (2_114_060_288, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq)
        );
        assert_eq!(rules[3].errno_ret(), Some(38));
        if cfg!(target_arch = "x86_64") {
            let expected = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
            assert_eq!(seccomp.architectures().as_deref(), Some(&expected[..]));
        }
    }

    #[test]
    fn what_is_no_profile() {
        for (text, why) in [
            ("x", "expected value"),
            ("{}", "missing field `defaultAction`"),
            (r#"{"defaultAction":"SCMP_ACT_NONSENSE"}"#, "unknown variant"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
                "both 'name' and 'names'",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
                "both 'architectures' and 'archMap'",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["b"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}"#,
                "no argument 6",
            ),
        ] {
            let error = check(text).unwrap_err().to_string();
            assert!(
                error.starts_with("decoding seccomp profile failed: ") && error.contains(why),
                "{error}"
            );
        }
    }
}
