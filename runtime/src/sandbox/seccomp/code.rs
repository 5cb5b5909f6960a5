//! From decisions to instructions: a binary search over system call numbers instead of a chain of comparisons, which
//! keeps both the installation (the kernel evaluates the program once for each number) and every later call cheap.

use crate::sys::seccomp::Instruction;

// linux/bpf_common.h
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data` (linux/seccomp.h), little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// What the kernel is told to do (`SECCOMP_RET_…`).
pub(super) type Verdict = u32;

/// A comparison of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0–5.
    pub argument: u8,
    pub test: Test,
    /// Looks at the lower half only, for arguments that the kernel takes as `int`.
    pub narrow: bool,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    MaskedEqual { mask: u64, value: u64 },
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Always(Verdict),
    /// The first alternative whose conditions all hold; else the last verdict.
    First(Vec<(Vec<Condition>, Verdict)>, Verdict),
}

/// Decisions for ranges of call numbers: each holds from its number up to the next one's. The first begins at 0.
pub(super) type Ranges = Vec<(u32, Decision)>;

fn statement(code: u16, value: u32) -> Instruction {
    Instruction {
        code,
        jump_true: 0,
        jump_false: 0,
        value,
    }
}

fn branch(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        value,
    }
}

/// The whole program. Each architecture has its `AUDIT_ARCH_…` value, its argument size and its ranges; a call of any
/// other one gets `foreign`.
pub(super) fn program(architectures: &[(u32, Ranges, bool)], foreign: Verdict) -> Vec<Instruction> {
    let mut code = vec![statement(LOAD, ARCHITECTURE)];
    for (audit, ranges, narrow) in architectures {
        let mut block = vec![statement(LOAD, NUMBER)];
        block.extend(search(ranges, *narrow));
        code.push(branch(JUMP_IF_EQUAL, *audit, 1, 0));
        code.push(statement(JUMP, block.len() as u32));
        code.extend(block);
    }
    code.push(statement(RETURN, foreign));
    code
}

/// Finds the range that the accumulator is in and decides.
fn search(ranges: &[(u32, Decision)], narrow: bool) -> Vec<Instruction> {
    let (left, right) = match ranges {
        [] => return Vec::new(),
        [(_, decision)] => return decide(decision, narrow),
        _ => ranges.split_at(ranges.len() / 2),
    };
    let Some((first, _)) = right.first() else {
        return Vec::new();
    };
    let (first, left, right) = (*first, search(left, narrow), search(right, narrow));
    let mut code = Vec::with_capacity(left.len() + right.len() + 2);
    match u8::try_from(left.len()) {
        Ok(skip) => code.push(branch(JUMP_IF_AT_LEAST, first, skip, 0)),
        Err(_) => {
            code.push(branch(JUMP_IF_AT_LEAST, first, 0, 1));
            code.push(statement(JUMP, left.len() as u32));
        }
    }
    code.extend(left);
    code.extend(right);
    code
}

fn decide(decision: &Decision, narrow: bool) -> Vec<Instruction> {
    match decision {
        Decision::Always(verdict) => vec![statement(RETURN, *verdict)],
        Decision::First(alternatives, otherwise) => {
            let mut code = Vec::new();
            for (conditions, verdict) in alternatives {
                code.extend(alternative(conditions, *verdict, narrow));
            }
            code.push(statement(RETURN, *otherwise));
            code
        }
    }
}

/// Where a comparison leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Holds,
    Fails,
}

/// All conditions, then the verdict; behind it if one does not hold.
fn alternative(conditions: &[Condition], verdict: Verdict, narrow: bool) -> Vec<Instruction> {
    let mut code = vec![statement(RETURN, verdict)];
    // From the end, as it is known then how far the end is.
    for condition in conditions.iter().rev() {
        let steps = steps(condition, narrow || condition.narrow);
        let mut part = Vec::with_capacity(steps.len());
        for (i, (code_, value, on_true, on_false)) in steps.iter().copied().enumerate() {
            let after = steps.len() - i - 1;
            // At most six conditions of six steps each: these always fit.
            let skip = |to: To| match to {
                To::Next => 0,
                To::Holds => after as u8,
                To::Fails => (after + code.len()) as u8,
            };
            part.push(branch(code_, value, skip(on_true), skip(on_false)));
        }
        part.extend(code);
        code = part;
    }
    code
}

/// A condition as instructions with symbolic targets.
fn steps(condition: &Condition, narrow: bool) -> Vec<(u16, u32, To, To)> {
    use To::{Fails, Holds, Next};
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let split = |v: u64| ((v >> 32) as u32, v as u32);
    let load = |offset| (LOAD, offset, Next, Next);
    // Without the upper half, the decision falls with the lower one.
    let mut steps = Vec::with_capacity(6);
    let mut upper = |parts: &[(u16, u32, To, To)]| {
        if !narrow {
            steps.push(load(low + 4));
            steps.extend_from_slice(parts);
        }
    };
    let lower: Vec<(u16, u32, To, To)> = match condition.test {
        Test::Equal(v) => {
            upper(&[(JUMP_IF_EQUAL, split(v).0, Next, Fails)]);
            vec![(JUMP_IF_EQUAL, split(v).1, Holds, Fails)]
        }
        Test::NotEqual(v) => {
            upper(&[(JUMP_IF_EQUAL, split(v).0, Next, Holds)]);
            vec![(JUMP_IF_EQUAL, split(v).1, Fails, Holds)]
        }
        Test::Less(v) => {
            upper(&[
                (JUMP_IF_GREATER, split(v).0, Fails, Next),
                (JUMP_IF_EQUAL, split(v).0, Next, Holds),
            ]);
            vec![(JUMP_IF_AT_LEAST, split(v).1, Fails, Holds)]
        }
        Test::LessOrEqual(v) => {
            upper(&[
                (JUMP_IF_GREATER, split(v).0, Fails, Next),
                (JUMP_IF_EQUAL, split(v).0, Next, Holds),
            ]);
            vec![(JUMP_IF_GREATER, split(v).1, Fails, Holds)]
        }
        Test::Greater(v) => {
            upper(&[
                (JUMP_IF_GREATER, split(v).0, Holds, Next),
                (JUMP_IF_EQUAL, split(v).0, Next, Fails),
            ]);
            vec![(JUMP_IF_GREATER, split(v).1, Holds, Fails)]
        }
        Test::GreaterOrEqual(v) => {
            upper(&[
                (JUMP_IF_GREATER, split(v).0, Holds, Next),
                (JUMP_IF_EQUAL, split(v).0, Next, Fails),
            ]);
            vec![(JUMP_IF_AT_LEAST, split(v).1, Holds, Fails)]
        }
        Test::MaskedEqual { mask, value } => {
            upper(&[
                (AND, split(mask).0, Next, Next),
                (JUMP_IF_EQUAL, split(value).0, Next, Fails),
            ]);
            vec![
                (AND, split(mask).1, Next, Next),
                (JUMP_IF_EQUAL, split(value).1, Holds, Fails),
            ]
        }
    };
    steps.push(load(low));
    steps.extend(lower);
    steps
}

/// What `program` answers to a call, as the kernel would compute it.
#[cfg(test)]
pub(super) fn interpret(program: &[Instruction], audit: u32, number: u32, arguments: [u64; 6]) -> Verdict {
    let mut data = vec![number, audit, 0, 0];
    data.extend(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let i = program[at];
        at += 1;
        let holds = match i.code {
            LOAD => {
                accumulator = data[i.value as usize / 4];
                continue;
            }
            AND => {
                accumulator &= i.value;
                continue;
            }
            JUMP => {
                at += i.value as usize;
                continue;
            }
            RETURN => return i.value,
            JUMP_IF_EQUAL => accumulator == i.value,
            JUMP_IF_GREATER => accumulator > i.value,
            JUMP_IF_AT_LEAST => accumulator >= i.value,
            other => panic!("unknown instruction {other:#x}"),
        };
        at += usize::from(if holds { i.jump_true } else { i.jump_false });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(test: Test, v: u64) -> bool {
        match test {
            Test::Equal(x) => v == x,
            Test::NotEqual(x) => v != x,
            Test::Less(x) => v < x,
            Test::LessOrEqual(x) => v <= x,
            Test::Greater(x) => v > x,
            Test::GreaterOrEqual(x) => v >= x,
            Test::MaskedEqual { mask, value } => v & mask == value,
        }
    }

    /// Values that meet at the borders of the two halves.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0_u64..4,
            (0_u64..3, 0_u64..3).prop_map(|(a, b)| a << 32 | b),
            Just(u64::MAX),
            Just(u64::from(u32::MAX))
        ]
    }

    fn test() -> impl Strategy<Value = Test> {
        prop_oneof![
            number().prop_map(Test::Equal),
            number().prop_map(Test::NotEqual),
            number().prop_map(Test::Less),
            number().prop_map(Test::LessOrEqual),
            number().prop_map(Test::Greater),
            number().prop_map(Test::GreaterOrEqual),
            (number(), number()).prop_map(|(mask, value)| Test::MaskedEqual { mask, value }),
        ]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        (0_u8..6, test()).prop_map(|(argument, test)| Condition {
            argument,
            test,
            narrow: false,
        })
    }

    proptest! {
        #[test]
        fn conditions_mean_what_they_say(
            alternatives in prop::collection::vec(prop::collection::vec(condition(), 1..4), 1..4),
            arguments in prop::array::uniform6(number()),
        ) {
            let expected = alternatives.iter().position(|conditions| {
                conditions.iter().all(|c| holds(c.test, arguments[usize::from(c.argument)]))
            });
            let list: Vec<_> = alternatives.iter().cloned().zip(1..).collect();
            let code = program(&[(7, vec![(0, Decision::First(list, 99))], false)], 55);
            let expected = expected.map_or(99, |i| i as u32 + 1);
            prop_assert_eq!(interpret(&code, 7, 3, arguments), expected);
            prop_assert_eq!(interpret(&code, 8, 3, arguments), 55);
        }

        #[test]
        fn search_finds_the_range(numbers in prop::collection::btree_set(1_u32..2000, 0..600), call in 0_u32..2100) {
            let mut ranges: Ranges = vec![(0, Decision::Always(0))];
            ranges.extend(numbers.iter().map(|n| (*n, Decision::Always(*n))));
            let code = program(&[(7, ranges, false)], 1);
            let expected = numbers.range(..=call).next_back().copied().unwrap_or(0);
            prop_assert_eq!(interpret(&code, 7, call, [0; 6]), expected);
        }
    }
}
