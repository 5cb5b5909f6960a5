//! Dockerfiles: text to instructions to stages. Pure code: nothing is looked up and nothing is expanded but what stands
//! before the first stage.

mod instruction;
mod lines;
mod stages;

pub use self::{
    instruction::{Command, Copy, From, Instruction, PROXIES, Run, Step, labels, trigger},
    lines::Heredoc,
    stages::{Plan, Stage, Target},
};

use berth_runtime::{Error, Result};

/// A Dockerfile.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// The character that continues lines and takes the meaning off others.
    pub escape: char,
    /// `ARG` before the first stage.
    pub globals: Vec<Step>,
    /// Everything else.
    pub steps: Vec<Step>,
    /// What is to be told of it before it is carried out.
    pub warnings: Vec<String>,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// Invalid for everything that is wrong with it, naming the line.
    pub fn parse(text: &str) -> Result<Self> {
        let (directives, lines) = lines::read(text)?;
        let escape = directives.escape;
        let mut steps = lines
            .iter()
            .map(|line| instruction::parse(line, escape))
            .collect::<Result<Vec<_>>>()?;
        let first = steps
            .iter()
            .position(|step| !matches!(step.instruction, Instruction::Arg(_)))
            .unwrap_or(steps.len());
        let rest = steps.split_off(first);
        match rest.first() {
            Some(step) if matches!(step.instruction, Instruction::From(_)) => {}
            Some(step) => {
                return Err(Error::invalid(format!(
                    "dockerfile parse error on line {}: no build stage in current context: begin with FROM",
                    step.line
                )));
            }
            None => return Err(Error::invalid("no build stage in the Dockerfile: it needs FROM")),
        }
        Ok(Self {
            escape,
            globals: steps,
            steps: rest,
            warnings: warnings(&lines),
        })
    }
}

/// Empty lines where an instruction goes on are no mistake yet.
fn warnings(lines: &[lines::Line]) -> Vec<String> {
    let mut warnings: Vec<String> = lines
        .iter()
        .filter(|line| line.gaps)
        .map(|line| format!("Empty continuation line found in:\n    {}", line.text()))
        .collect();
    if !warnings.is_empty() {
        warnings.push("Empty continuation lines will become errors in a future release.".to_owned());
    }
    warnings
}
