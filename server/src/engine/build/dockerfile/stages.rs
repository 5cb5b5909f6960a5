//! Stages, what they depend on, and which of them a build needs.

use std::collections::BTreeSet;

use berth_runtime::{Error, Result};

use super::{Dockerfile, Instruction, Step};
use crate::engine::build::expand::{self, Variables};

/// Where a stage or a copy begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing at all.
    Scratch,
    /// An earlier stage, by its position.
    Stage(usize),
    /// An image.
    Image(String),
}

/// From one `FROM` to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name.
    pub name: Option<String>,
    /// What it begins with.
    pub base: Target,
    /// Platform of the base, expanded.
    pub platform: Option<String>,
    /// Line of its `FROM`.
    pub line: usize,
    /// How that is shown.
    pub text: String,
    /// What follows.
    pub steps: Vec<Step>,
}

/// What is to be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// All stages.
    pub stages: Vec<Stage>,
    /// The one that is the result.
    pub target: usize,
    /// Those it needs and itself, in order.
    pub needed: Vec<usize>,
}

impl Plan {
    /// Divides a Dockerfile into stages and finds those that `target` (the last one if empty) needs. `globals` are the
    /// variables before the first stage.
    ///
    /// # Errors
    /// Invalid for a target that is not there, and for a base that cannot be expanded.
    pub fn new(dockerfile: &Dockerfile, globals: &Variables, target: &str) -> Result<Self> {
        let mut stages: Vec<Stage> = Vec::new();
        for step in &dockerfile.steps {
            let Instruction::From(from) = &step.instruction else {
                if let Some(stage) = stages.last_mut() {
                    stage.steps.push(step.clone());
                }
                continue;
            };
            let at = |error: Error| {
                Error::invalid(format!(
                    "dockerfile parse error on line {}: {}",
                    step.line,
                    error.message()
                ))
            };
            let expand = |text: &str| expand::word(text, dockerfile.escape, globals).map_err(at);
            let base = expand(&from.base)?;
            if base.is_empty() {
                return Err(at(Error::invalid(format!(
                    "base name ({}) should not be blank",
                    from.base
                ))));
            }
            let base = match base.as_str() {
                "scratch" => Target::Scratch,
                base => named(&stages, base).map_or_else(|| Target::Image(base.to_owned()), Target::Stage),
            };
            let platform = from.platform.as_deref().map(expand).transpose()?;
            stages.push(Stage {
                name: from.name.clone(),
                base,
                platform: platform.filter(|platform| !platform.is_empty()),
                line: step.line,
                text: step.text.clone(),
                steps: Vec::new(),
            });
        }
        let target = match target {
            "" => stages.len().saturating_sub(1),
            name => named(&stages, name)
                .or_else(|| name.parse().ok().filter(|index| *index < stages.len()))
                .ok_or_else(|| {
                    Error::invalid(format!("failed to reach build target {name} in Dockerfile"))
                })?,
        };
        let mut plan = Self {
            stages,
            target,
            needed: Vec::new(),
        };
        plan.needed = plan.closure()?;
        Ok(plan)
    }

    /// What `--from=NAME` in the stage `index` means.
    ///
    /// # Errors
    /// Invalid for the number of a stage that is not before it.
    pub fn source(&self, index: usize, name: &str) -> Result<Target> {
        let earlier = self.stages.get(..index).unwrap_or_default();
        if let Some(stage) = named(earlier, name) {
            return Ok(Target::Stage(stage));
        }
        match name.parse::<usize>() {
            Ok(number) if number < index => Ok(Target::Stage(number)),
            Ok(number) => Err(Error::invalid(format!(
                "invalid from flag value {number}: invalid stage index, only earlier stages can be named"
            ))),
            Err(_) => Ok(Target::Image(name.to_owned())),
        }
    }

    /// How many instructions the needed stages have.
    pub fn steps(&self) -> usize {
        let stages = self.needed.iter().filter_map(|index| self.stages.get(*index));
        stages.map(|stage| 1 + stage.steps.len()).sum()
    }

    fn closure(&self) -> Result<Vec<usize>> {
        let mut needed = BTreeSet::new();
        let mut ahead = vec![self.target];
        while let Some(index) = ahead.pop() {
            let Some(stage) = self.stages.get(index) else {
                continue;
            };
            if !needed.insert(index) {
                continue;
            }
            if let Target::Stage(base) = stage.base {
                ahead.push(base);
            }
            for name in stage.steps.iter().flat_map(|step| sources(&step.instruction)) {
                if let Target::Stage(source) = self.source(index, &name)? {
                    ahead.push(source);
                }
            }
        }
        Ok(needed.into_iter().collect())
    }
}

/// The stages and images that an instruction names.
fn sources(instruction: &Instruction) -> Vec<String> {
    match instruction {
        Instruction::Copy(copy) => copy.from.iter().cloned().collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            .flat_map(|mount| mount.split(','))
            .filter_map(|field| field.trim().strip_prefix("from="))
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// The latest stage of this name.
fn named(stages: &[Stage], name: &str) -> Option<usize> {
    stages.iter().rposition(|stage| {
        stage
            .name
            .as_deref()
            .is_some_and(|known| known.eq_ignore_ascii_case(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, target: &str) -> Result<Plan> {
        Plan::new(
            &Dockerfile::parse(text)?,
            &[("V".to_owned(), "3".to_owned())].into(),
            target,
        )
    }

    const TEXT: &str = "ARG V=3\nFROM alpine:$V AS Base\nRUN a\nFROM scratch AS unused\nFROM base AS two\n\
        RUN --mount=type=bind,from=three,target=/x b\nFROM busybox AS three\nFROM scratch\nCOPY --from=two /a /b\n\
        COPY --from=busybox /c /d\nLABEL a=b\n";

    #[test]
    fn only_what_the_target_needs() {
        let plan = plan(TEXT, "").unwrap();
        assert_eq!(plan.needed, [0, 2, 4]);
        assert_eq!(plan.steps(), 8);
        assert_eq!(plan.stages[0].base, Target::Image("alpine:3".to_owned()));
        assert_eq!(plan.stages[2].base, Target::Stage(0));
        assert_eq!(plan.source(4, "1").unwrap(), Target::Stage(1));
        assert_eq!(
            plan.source(4, "busybox").unwrap(),
            Target::Image("busybox".to_owned())
        );
        assert!(plan.source(4, "4").is_err());
    }

    #[test]
    fn targets() {
        assert_eq!(plan(TEXT, "TWO").unwrap().needed, [0, 2]);
        assert_eq!(plan(TEXT, "0").unwrap().needed, [0]);
        assert!(
            plan(TEXT, "nine")
                .unwrap_err()
                .message()
                .contains("failed to reach build target nine")
        );
    }

    #[test]
    fn refusals_name_the_line() {
        for (text, words) in [
            ("RUN a\nFROM x", "line 1: no build stage"),
            ("ARG A", "no build stage"),
            ("FROM x\nFOO y", "line 2: unknown instruction: FOO"),
            ("FROM x AS 1a", "invalid name for build stage"),
            ("FROM $NOPE", "should not be blank"),
            ("FROM x y", "either one or three"),
            ("FROM x\nRUN", "RUN requires at least one"),
            ("FROM x\nCOPY --what=1 a b", "unknown flag: --what"),
            ("FROM x\nCOPY --chown=1 --chown=2 a b", "Duplicate flag"),
            ("FROM x\nCOPY a", "at least two arguments"),
            ("FROM x\nENV A", "must have two arguments"),
            ("FROM x\nENV A=1 B", "can't find = in"),
            ("FROM x\nONBUILD FROM y", "isn't allowed"),
            ("FROM x\nONBUILD ONBUILD RUN y", "isn't allowed"),
            ("FROM x\nSHELL sh", "JSON form"),
            ("FROM x\nHEALTHCHECK MAYBE", "Unknown type"),
            ("FROM x\nHEALTHCHECK --interval=1us CMD a", "less than 1ms"),
            ("FROM x\nVOLUME [\"\"]", "empty string"),
        ] {
            let error = plan(text, "").unwrap_err();
            assert!(error.message().contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn nearly_good_files_are_read_or_refused() {
        let good: [&[u8]; 3] = [
            b"# syntax=x\n# escape=`\nARG A=1\nFROM a:${A:-b} AS one\nRUN <<E cat `\n && x\n$A\nE\nCMD [\"a\", \"b\"]\n",
            b"FROM scratch\nCOPY --from=one --chown=1:2 --chmod=644 a \"b c\" d/\nENV A=\"b c\" D=e\\ f G ${H:+I}\nEXPOSE 1-2/udp\n",
            b"FROM a\nHEALTHCHECK --interval=5s --retries=3 CMD x\nONBUILD ADD --checksum=sha256:0 a b\nLABEL a.b=\"c\\\nd\" e=f\nSHELL [\"a\"]\n\
              RUN --mount=type=cache,target=/x,id=${A} --network=none a\nSTOPSIGNAL 9\nVOLUME [\"/a\"] \nUSER a:b\n",
        ];
        berth_runtime::mutate::mutants("dockerfiles", &good, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(dockerfile) = Dockerfile::parse(&text) {
                let _ = Plan::new(&dockerfile, &Variables::default(), "");
            }
            for line in text.lines() {
                let variables = Variables::default();
                let _ = crate::engine::build::expand::words(line, '\\', &variables);
                let _ = crate::engine::build::expand::word(line, '`', &variables);
            }
        });
    }
}
