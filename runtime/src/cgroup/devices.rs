//! Which devices a cgroup's processes may open: lists on v1, a BPF program on v2.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Cgroup, Version};
use crate::{Error, Kind, Result, error::Context, sys::bpf};

/// Applies `rules` in order; later ones correct earlier ones.
pub(super) fn apply(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    if let Some(dir) = cgroup.find("devices") {
        // Each file takes any number of rules, one by write(2).
        let (mut allow, mut deny) = (dir.values("devices.allow"), dir.values("devices.deny"));
        for rule in rules {
            let file = if rule.allow() { &mut allow } else { &mut deny };
            file.write(&line(rule)?)?;
        }
        return Ok(());
    }
    match cgroup
        .v2()
        .filter(|_| cgroup.dirs.iter().all(|d| d.version == Version::V2))
    {
        Some(dir) => {
            let program = Policy::new(rules)?.program();
            bpf::set_device_program(&dir.path, &program)
                .context(|| format!("cannot restrict the devices of cgroup {}", dir.path.display()))
        }
        None => Err(Error::new(
            Kind::Unavailable,
            "devices cannot be restricted: the v1 devices controller is not mounted",
        )),
    }
}

/// A rule in the form of the v1 files: `c 1:3 rwm`.
fn line(rule: &LinuxDeviceCgroup) -> Result<String> {
    let kind = match kind(rule)? {
        Kinds::All => return Ok("a".to_owned()),
        Kinds::Block => 'b',
        Kinds::Char => 'c',
    };
    let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    let (major, minor) = numbers(rule)?;
    let access = rule
        .access()
        .as_deref()
        .filter(|a| !a.is_empty())
        .unwrap_or("rwm");
    Ok(format!("{kind} {}:{} {access}", number(major), number(minor)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kinds {
    All,
    Block,
    Char,
}

fn kind(rule: &LinuxDeviceCgroup) -> Result<Kinds> {
    match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => Ok(Kinds::All),
        LinuxDeviceType::B => Ok(Kinds::Block),
        LinuxDeviceType::C | LinuxDeviceType::U => Ok(Kinds::Char),
        LinuxDeviceType::P => Err(Error::invalid("a device rule cannot name a FIFO; use a, b or c")),
    }
}

/// Major and minor number; none stands for all.
fn numbers(rule: &LinuxDeviceCgroup) -> Result<(Option<u32>, Option<u32>)> {
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n)
            .map(Some)
            .map_err(|_| Error::invalid(format!("{n} is not a device number"))),
    };
    Ok((number(rule.major())?, number(rule.minor())?))
}

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

fn access(rule: &LinuxDeviceCgroup) -> Result<u32> {
    let text = rule
        .access()
        .as_deref()
        .filter(|a| !a.is_empty())
        .unwrap_or("rwm");
    text.chars().try_fold(0, |bits, c| match c {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        _ => Err(Error::invalid(format!(
            "device access {text:?} may consist of r, w and m only"
        ))),
    })
}

/// What a list of rules comes to, computed as the v1 controller does it: a default, and exceptions from it.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    default_allow: bool,
    exceptions: Vec<Exception>,
}

#[derive(Debug, PartialEq, Eq)]
struct Exception {
    kind: Kinds,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Policy {
    fn new(rules: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut policy = Self {
            default_allow: true,
            exceptions: Vec::new(),
        };
        for rule in rules {
            policy.add(rule)?;
        }
        policy.exceptions.retain(|e| e.access != 0);
        Ok(policy)
    }

    fn add(&mut self, rule: &LinuxDeviceCgroup) -> Result<()> {
        let kind = kind(rule)?;
        if kind == Kinds::All {
            self.default_allow = rule.allow();
            self.exceptions.clear();
            return Ok(());
        }
        let (major, minor) = numbers(rule)?;
        let access = access(rule)?;
        let is_exception = rule.allow() != self.default_allow;
        let same = |e: &&mut Exception| e.kind == kind && e.major == major && e.minor == minor;
        match self.exceptions.iter_mut().find(same) {
            Some(known) if is_exception => known.access |= access,
            Some(known) => known.access &= !access,
            None if is_exception => self.exceptions.push(Exception {
                kind,
                major,
                minor,
                access,
            }),
            None => {}
        }
        Ok(())
    }

    /// The policy as a program of type `BPF_PROG_TYPE_CGROUP_DEVICE` (its context: `struct bpf_cgroup_dev_ctx`).
    fn program(&self) -> Vec<bpf::Instruction> {
        use bpf::{Instruction as I, Register::*};
        // R2 type, R3 access asked for, R4 major, R5 minor.
        let mut code = vec![
            I::load_word(R2, R1, 0),
            I::copy(R3, R2),
            I::and(R2, 0xFFFF),
            I::shift_right(R3, 16),
            I::load_word(R4, R1, 4),
            I::load_word(R5, R1, 8),
        ];
        for exception in &self.exceptions {
            code.extend(self.exception(exception));
        }
        code.extend([I::set(R0, i32::from(self.default_allow)), I::exit()]);
        code
    }

    fn exception(&self, e: &Exception) -> Vec<bpf::Instruction> {
        use bpf::{Instruction as I, Register::*};
        const BLOCK: i32 = 1;
        const CHAR: i32 = 2;
        let verdict = [I::set(R0, i32::from(!self.default_allow)), I::exit()];
        let mut tests: Vec<Box<dyn Fn(i16) -> bpf::Instruction>> = Vec::new();
        let kind = if e.kind == Kinds::Block { BLOCK } else { CHAR };
        tests.push(Box::new(move |skip| I::jump_if_not(R2, kind, skip)));
        // Device numbers have 12 and 20 bits, so they are never negative here.
        for (register, number) in [(R4, e.major), (R5, e.minor)] {
            if let Some(number) = number {
                tests.push(Box::new(move |skip| {
                    I::jump_if_not(register, number.cast_signed(), skip)
                }));
            }
        }
        // Last: an allowance has to cover all that is asked for, a refusal needs only to touch it.
        let mut last = vec![I::copy(R1, R3)];
        if self.default_allow {
            last.extend([I::and(R1, e.access.cast_signed()), I::jump_if(R1, 0, 2)]);
        } else {
            last.extend([I::and(R1, (!e.access).cast_signed()), I::jump_if_not(R1, 0, 2)]);
        }
        let rest = last.len() + verdict.len();
        let count = tests.len();
        let mut code: Vec<_> = tests
            .iter()
            .enumerate()
            .map(|(i, test)| test(i16::try_from(count - 1 - i + rest).unwrap_or(i16::MAX)))
            .collect();
        code.extend(last);
        code.extend(verdict);
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, typ: &str, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
        let json = serde_json::json!({
            "allow": allow, "type": typ, "major": major, "minor": minor, "access": access
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn rules_in_v1_form() {
        assert_eq!(line(&rule(false, "a", -1, -1, "rwm")).unwrap(), "a");
        assert_eq!(line(&rule(true, "c", 1, 3, "rwm")).unwrap(), "c 1:3 rwm");
        assert_eq!(line(&rule(true, "b", -1, -1, "m")).unwrap(), "b *:* m");
        assert!(line(&rule(true, "c", -7, 3, "rwm")).is_err());
    }

    #[test]
    fn policy_follows_v1_semantics() {
        let rules = [
            rule(true, "c", 9, 9, "rwm"),
            rule(false, "a", -1, -1, "rwm"),
            rule(true, "c", 1, 3, "r"),
            rule(true, "c", 1, 3, "w"),
            rule(true, "c", 5, 0, "rwm"),
            rule(false, "c", 5, 0, "m"),
            rule(false, "c", 10, 229, "rwm"),
        ];
        let policy = Policy::new(&rules).unwrap();
        assert!(!policy.default_allow);
        let found: Vec<_> = policy
            .exceptions
            .iter()
            .map(|e| (e.major, e.minor, e.access))
            .collect();
        assert_eq!(
            found,
            [(Some(1), Some(3), READ | WRITE), (Some(5), Some(0), READ | WRITE)]
        );
    }

    /// What the program answers, computed by interpreting it.
    fn run(policy: &Policy, kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        bpf::interpret(&policy.program(), &[kind | access << 16, major, minor])
    }

    #[test]
    fn program_decides_as_the_policy() {
        let (block, char) = (1, 2);
        let rules = [
            rule(false, "a", -1, -1, "rwm"),
            rule(true, "c", 1, 3, "rw"),
            rule(true, "c", -1, -1, "m"),
            rule(true, "b", 8, -1, "r"),
        ];
        let policy = Policy::new(&rules).unwrap();
        assert_eq!(run(&policy, char, READ, 1, 3), 1);
        assert_eq!(run(&policy, char, READ | WRITE, 1, 3), 1);
        assert_eq!(run(&policy, char, READ | MKNOD, 1, 3), 0);
        assert_eq!(run(&policy, char, MKNOD, 77, 1), 1);
        assert_eq!(run(&policy, char, READ, 1, 4), 0);
        assert_eq!(run(&policy, block, READ, 8, 5), 1);
        assert_eq!(run(&policy, block, WRITE, 8, 5), 0);
        assert_eq!(run(&policy, block, READ, 1, 3), 0);

        let open = Policy::new(&[rule(true, "a", -1, -1, "rwm"), rule(false, "c", 10, 229, "w")]).unwrap();
        assert_eq!(run(&open, char, READ | WRITE, 10, 229), 0);
        assert_eq!(run(&open, char, READ, 10, 229), 1);
        assert_eq!(run(&open, block, WRITE, 10, 229), 1);
    }
}
