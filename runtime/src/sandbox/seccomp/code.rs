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

/// The whole program. Each architecture has its `AUDIT_ARCH_…` value, its ranges and whether its arguments have 32 bits
/// only; a call of any other one gets `foreign`.
pub(super) fn program(architectures: &[(u32, Ranges, bool)], foreign: Verdict) -> Vec<Instruction> {
    let mut code = Backwards::default();
    let mut next = code.verdict(foreign);
    for (audit, ranges, narrow) in architectures.iter().rev() {
        let begin = code.search(ranges, *narrow);
        code.continue_at(begin);
        let found = code.push(LOAD, NUMBER);
        next = code.branch(JUMP_IF_EQUAL, *audit, found, next);
    }
    code.push(LOAD, ARCHITECTURE);
    code.finish()
}

/// Code that grows from its end. Jumps only lead forwards, so what they lead to is there when they are made; and as
/// verdicts are shared while they are within reach, most leaves of the search cost nothing.
#[derive(Default)]
struct Backwards {
    /// The last instruction first.
    code: Vec<Instruction>,
    /// Where the latest return of each verdict is.
    verdicts: Vec<(Verdict, Place)>,
}

/// An instruction, counted from the end.
type Place = usize;

impl Backwards {
    fn push(&mut self, code: u16, value: u32) -> Place {
        self.insert(Instruction {
            code,
            jump_true: 0,
            jump_false: 0,
            value,
        })
    }

    fn insert(&mut self, instruction: Instruction) -> Place {
        self.code.push(instruction);
        self.code.len() - 1
    }

    /// What a jump made as number `from` has to skip to reach `to`.
    fn distance(from: Place, to: Place) -> usize {
        from - to - 1
    }

    /// A return of `verdict` that a branch made soon can reach.
    fn verdict(&mut self, verdict: Verdict) -> Place {
        /// Leaves room for the few instructions of one condition.
        const REACH: usize = 200;
        let known = self
            .verdicts
            .iter()
            .find(|(v, _)| *v == verdict)
            .map(|(_, place)| *place);
        match known {
            Some(place) if Self::distance(self.code.len(), place) <= REACH => place,
            _ => {
                let place = self.push(RETURN, verdict);
                self.verdicts.retain(|(v, _)| *v != verdict);
                self.verdicts.push((verdict, place));
                place
            }
        }
    }

    /// A place from which a branch made next, or after one more such call, reaches `to`: `to` itself, or a jump to it.
    fn near(&mut self, to: Place) -> Place {
        if Self::distance(self.code.len() + 1, to) <= u8::MAX.into() {
            return to;
        }
        let distance = Self::distance(self.code.len(), to);
        self.push(JUMP, distance as u32)
    }

    /// Lets the instruction made next fall through to `place`.
    fn continue_at(&mut self, place: Place) {
        if place + 1 != self.code.len() {
            let distance = Self::distance(self.code.len(), place);
            self.push(JUMP, distance as u32);
        }
    }

    /// A comparison of the accumulator that leads to `on_true` or `on_false`.
    fn branch(&mut self, code: u16, value: u32, on_true: Place, on_false: Place) -> Place {
        let (on_true, on_false) = (self.near(on_true), self.near(on_false));
        let here = self.code.len();
        self.insert(Instruction {
            code,
            jump_true: Self::distance(here, on_true) as u8,
            jump_false: Self::distance(here, on_false) as u8,
            value,
        })
    }

    /// Finds the range that the accumulator, a call's number, is in and decides.
    fn search(&mut self, ranges: &[(u32, Decision)], narrow: bool) -> Place {
        let (left, right) = match ranges {
            [(_, decision)] => return self.decide(decision, narrow),
            _ => ranges.split_at(ranges.len() / 2),
        };
        let Some((first, _)) = right.first() else {
            return self.code.len().saturating_sub(1);
        };
        let at_least = self.search(right, narrow);
        let below = self.search(left, narrow);
        self.branch(JUMP_IF_AT_LEAST, *first, at_least, below)
    }

    fn decide(&mut self, decision: &Decision, narrow: bool) -> Place {
        match decision {
            Decision::Always(verdict) => self.verdict(*verdict),
            Decision::First(alternatives, otherwise) => {
                let mut next = self.verdict(*otherwise);
                for (conditions, verdict) in alternatives.iter().rev() {
                    let mut holds = self.verdict(*verdict);
                    for condition in conditions.iter().rev() {
                        holds = self.condition(condition, narrow || condition.narrow, holds, next);
                    }
                    next = holds;
                }
                next
            }
        }
    }

    /// Leads to `holds` or `fails`.
    fn condition(&mut self, condition: &Condition, narrow: bool, holds: Place, fails: Place) -> Place {
        let mut place = holds;
        for step in steps(condition, narrow).into_iter().rev() {
            // What was made last is the next step, if this is not the last one.
            let next = place;
            let to = |to: To| match to {
                To::Next => next,
                To::Holds => holds,
                To::Fails => fails,
            };
            place = match step.code {
                LOAD | AND => {
                    debug_assert_eq!(next, self.code.len() - 1);
                    self.push(step.code, step.value)
                }
                code => self.branch(code, step.value, to(step.on_true), to(step.on_false)),
            };
        }
        place
    }

    fn finish(mut self) -> Vec<Instruction> {
        self.code.reverse();
        self.code
    }
}

/// Where a comparison leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Holds,
    Fails,
}

/// One instruction of a condition.
#[derive(Clone, Copy)]
struct Step {
    code: u16,
    value: u32,
    on_true: To,
    on_false: To,
}

/// A condition as instructions with symbolic targets. The last one is always a comparison.
fn steps(condition: &Condition, narrow: bool) -> Vec<Step> {
    use To::{Fails, Holds, Next};
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let (upper, lower) = match condition.test {
        Test::Equal(v)
        | Test::NotEqual(v)
        | Test::Less(v)
        | Test::LessOrEqual(v)
        | Test::Greater(v)
        | Test::GreaterOrEqual(v) => ((v >> 32) as u32, v as u32),
        Test::MaskedEqual { value, .. } => ((value >> 32) as u32, value as u32),
    };
    let step = |code, value, on_true, on_false| Step {
        code,
        value,
        on_true,
        on_false,
    };
    let load = |offset| step(LOAD, offset, Next, Next);
    let is = |value, on_true, on_false| step(JUMP_IF_EQUAL, value, on_true, on_false);
    let above = |value, on_true, on_false| step(JUMP_IF_GREATER, value, on_true, on_false);
    let at_least = |value, on_true, on_false| step(JUMP_IF_AT_LEAST, value, on_true, on_false);
    let and = |mask| step(AND, mask, Next, Next);
    // The upper half decides, unless it is equal: then the lower one does.
    let (first, second) = match condition.test {
        Test::Equal(_) => (vec![is(upper, Next, Fails)], vec![is(lower, Holds, Fails)]),
        Test::NotEqual(_) => (vec![is(upper, Next, Holds)], vec![is(lower, Fails, Holds)]),
        Test::Less(_) => (
            vec![above(upper, Fails, Next), is(upper, Next, Holds)],
            vec![at_least(lower, Fails, Holds)],
        ),
        Test::LessOrEqual(_) => (
            vec![above(upper, Fails, Next), is(upper, Next, Holds)],
            vec![above(lower, Fails, Holds)],
        ),
        Test::Greater(_) => (
            vec![above(upper, Holds, Next), is(upper, Next, Fails)],
            vec![above(lower, Holds, Fails)],
        ),
        Test::GreaterOrEqual(_) => (
            vec![above(upper, Holds, Next), is(upper, Next, Fails)],
            vec![at_least(lower, Holds, Fails)],
        ),
        Test::MaskedEqual { mask, .. } => (
            vec![and((mask >> 32) as u32), is(upper, Next, Fails)],
            vec![and(mask as u32), is(lower, Holds, Fails)],
        ),
    };
    let mut steps = Vec::with_capacity(6);
    if !narrow {
        steps.push(load(low + 4));
        steps.extend(first);
    }
    steps.push(load(low));
    steps.extend(second);
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
            alternatives in prop::collection::vec(prop::collection::vec(condition(), 1..4), 1..40),
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
