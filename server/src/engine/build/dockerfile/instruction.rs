//! What the instructions of a Dockerfile say.

use std::collections::BTreeMap;

use berth_runtime::{Error, Result, image::Healthcheck};

use super::lines::{self, Heredoc, Line};
use crate::engine::time::parse_duration;

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Number of its first line in the Dockerfile.
    pub line: usize,
    /// How it is shown.
    pub text: String,
    /// What it says.
    pub instruction: Instruction,
}

/// What an instruction says; variables are not expanded yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// Begins a stage.
    From(From),
    /// Runs a command.
    Run(Run),
    /// Copies from the context, another stage, an image, or the Dockerfile itself; `ADD` also fetches and unpacks.
    Copy(Copy),
    /// Variables of the image, in order.
    Env(Vec<(String, String)>),
    /// Labels, in order.
    Label(Vec<(String, String)>),
    /// Variables of the build, with their defaults.
    Arg(Vec<(String, Option<String>)>),
    /// What a container runs.
    Cmd(Command),
    /// What it begins with.
    Entrypoint(Command),
    /// The shell of commands in shell form.
    Shell(Vec<String>),
    /// Where commands run.
    Workdir(String),
    /// As whom.
    User(String),
    /// Ports.
    Expose(Vec<String>),
    /// Places of volumes.
    Volume(Vec<String>),
    /// The signal that stops a container.
    StopSignal(String),
    /// How to see whether a container is well; a command in shell form is one word after `CMD-SHELL`.
    Healthcheck(Healthcheck),
    /// An instruction for builds upon this image.
    OnBuild(String),
    /// Who made it.
    Maintainer(String),
}

/// `FROM`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct From {
    /// Image or earlier stage.
    pub base: String,
    /// The stage's own name, in small letters.
    pub name: Option<String>,
    /// The platform of the base.
    pub platform: Option<String>,
}

/// A command, as a list of words or as a line for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Words.
    Exec(Vec<String>),
    /// A line.
    Shell(String),
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// Texts that belong to it.
    pub heredocs: Vec<Heredoc>,
    /// The values of `--mount`, as they are written.
    pub mounts: Vec<String>,
    /// `default`, `none` or `host`.
    pub network: Option<String>,
    /// `sandbox` or `insecure`.
    pub security: Option<String>,
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// Whether it is `ADD`.
    pub add: bool,
    /// Where from, and last where to.
    pub words: Vec<String>,
    /// Texts among the sources.
    pub heredocs: Vec<Heredoc>,
    /// Stage or image that is copied from.
    pub from: Option<String>,
    /// Owner and group.
    pub chown: Option<String>,
    /// Mode.
    pub chmod: Option<String>,
    /// What is left out.
    pub exclude: Vec<String>,
    /// Whether directories of the sources are kept.
    pub parents: bool,
    /// Whether links at the destination are replaced, not followed.
    pub link: bool,
    /// Digest that what is fetched must have.
    pub checksum: Option<String>,
    /// Whether archives are unpacked; by default those that are no downloads.
    pub unpack: Option<bool>,
    /// Whether `.git` of a repository is kept.
    pub keep_git: bool,
}

/// Flags of an instruction: names with the values they were given.
#[derive(Debug)]
struct Flags {
    instruction: String,
    given: Vec<(String, String)>,
}

impl Flags {
    /// Takes the flags off the beginning of `rest`.
    fn take<'a>(line: &Line, rest: &'a str, escape: char) -> (Self, &'a str) {
        let mut given = Vec::new();
        let mut rest = rest.trim_start();
        while rest.starts_with("--") {
            let end = end_of_word(rest, escape);
            let (flag, after) = rest.split_at(end);
            rest = after.trim_start();
            let flag = flag.strip_prefix("--").unwrap_or(flag);
            if flag.is_empty() {
                break;
            }
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            given.push((name.to_owned(), value.to_owned()));
        }
        let instruction = line.name.clone();
        (Self { instruction, given }, rest)
    }

    fn all(&mut self, name: &str) -> Vec<String> {
        let (hits, rest) = std::mem::take(&mut self.given)
            .into_iter()
            .partition(|(given, _)| given == name);
        self.given = rest;
        let hits: Vec<(String, String)> = hits;
        hits.into_iter().map(|(_, value)| value).collect()
    }

    fn one(&mut self, name: &str) -> Result<Option<String>> {
        let mut all = self.all(name);
        if all.len() > 1 {
            return Err(Error::invalid(format!("Duplicate flag specified: {name}")));
        }
        Ok(all.pop())
    }

    fn boolean(&mut self, name: &str) -> Result<Option<bool>> {
        match self.one(name)?.as_deref() {
            None => Ok(None),
            Some("" | "true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(Error::invalid(format!(
                "expecting boolean value for flag {name}, not: {other}"
            ))),
        }
    }

    fn finish(self) -> Result<()> {
        match self.given.first() {
            None => Ok(()),
            Some((name, _)) => Err(Error::invalid(format!(
                "unknown flag: --{name} of {}",
                self.instruction
            ))),
        }
    }
}

/// Where the first word of `text` ends: at the first blank outside quotes.
fn end_of_word(text: &str, escape: char) -> usize {
    let mut quote: Option<char> = None;
    let mut skip = false;
    for (at, c) in text.char_indices() {
        match quote {
            _ if std::mem::take(&mut skip) => {}
            _ if c == escape && quote != Some('\'') => skip = true,
            None if c.is_whitespace() => return at,
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
    }
    text.len()
}

/// Reads one instruction.
///
/// # Errors
/// Invalid for an unknown instruction or flag and malformed arguments, naming the line.
pub fn parse(line: &Line, escape: char) -> Result<Step> {
    let instruction = instruction(line, escape).map_err(|error| {
        Error::invalid(format!(
            "dockerfile parse error on line {}: {}",
            line.number,
            error.message()
        ))
    })?;
    Ok(Step {
        line: line.number,
        text: line.text(),
        instruction,
    })
}

fn instruction(line: &Line, escape: char) -> Result<Instruction> {
    let name = line.name.as_str();
    let (mut flags, rest) = match name {
        "ADD" | "COPY" | "FROM" | "HEALTHCHECK" | "RUN" => Flags::take(line, &line.rest, escape),
        _ => (Flags::take(line, "", escape).0, line.rest.as_str()),
    };
    if rest.is_empty() && !matches!(name, "CMD" | "ENTRYPOINT") {
        return Err(match KNOWN.contains(&name) {
            true => Error::invalid(format!("{name} requires at least one argument")),
            false => unknown(name),
        });
    }
    let parsed = match name {
        "FROM" => Instruction::From(from(rest, &mut flags)?),
        "RUN" => Instruction::Run(Run {
            command: command(rest)?,
            heredocs: line.heredocs.clone(),
            mounts: flags.all("mount"),
            network: flags.one("network")?,
            security: flags.one("security")?,
        }),
        "COPY" | "ADD" => Instruction::Copy(copy(line, rest, &mut flags, escape)?),
        "ENV" => Instruction::Env(pairs(name, rest, escape)?),
        "LABEL" => Instruction::Label(pairs(name, rest, escape)?),
        "ARG" => Instruction::Arg(arguments(rest, escape)?),
        "CMD" => Instruction::Cmd(command(rest)?),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)?),
        "SHELL" => match exec_form(rest)? {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            Some(_) => return Err(Error::invalid("SHELL requires at least one argument")),
            None => {
                return Err(Error::invalid(format!(
                    "SHELL requires the arguments to be in JSON form, not {rest:?}"
                )));
            }
        },
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        "USER" => Instruction::User(one_word(name, rest)?),
        "EXPOSE" => Instruction::Expose(lines::raw_words(rest, escape)),
        "VOLUME" => Instruction::Volume(volumes(rest, escape)?),
        "STOPSIGNAL" => Instruction::StopSignal(one_word(name, rest)?),
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(rest, &mut flags)?),
        "ONBUILD" => Instruction::OnBuild(on_build(line, rest, escape)?),
        "MAINTAINER" => Instruction::Maintainer(rest.to_owned()),
        _ => return Err(unknown(name)),
    };
    flags.finish()?;
    Ok(parsed)
}

/// All instructions there are.
const KNOWN: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

fn unknown(name: &str) -> Error {
    Error::invalid(format!("unknown instruction: {name}"))
}

fn one_word(name: &str, rest: &str) -> Result<String> {
    if name == "STOPSIGNAL" && rest.split_whitespace().count() != 1 {
        return Err(Error::invalid(format!("{name} requires exactly one argument")));
    }
    Ok(rest.to_owned())
}

fn from(rest: &str, flags: &mut Flags) -> Result<From> {
    let platform = flags.one("platform")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let name = match words.as_slice() {
        [_] => None,
        [_, keyword, name] if keyword.eq_ignore_ascii_case("as") => Some(stage_name(name)?),
        _ => return Err(Error::invalid("FROM requires either one or three arguments")),
    };
    Ok(From {
        base: (*words.first().unwrap_or(&"")).to_owned(),
        name,
        platform,
    })
}

fn stage_name(name: &str) -> Result<String> {
    let name = name.to_ascii_lowercase();
    let sound = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
    match sound {
        true => Ok(name),
        false => Err(Error::invalid(format!(
            "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
        ))),
    }
}

/// The words of a JSON list of strings; none for anything else.
///
/// # Errors
/// Invalid for a JSON list that holds something else.
pub fn exec_form(text: &str) -> Result<Option<Vec<String>>> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let word = |value: serde_json::Value| match value {
        serde_json::Value::String(word) => Ok(word),
        _ => Err(Error::invalid(
            "when using JSON array syntax, arrays must be comprised of strings only",
        )),
    };
    list.into_iter().map(word).collect::<Result<_>>().map(Some)
}

fn command(rest: &str) -> Result<Command> {
    Ok(match exec_form(rest)? {
        Some(words) => Command::Exec(words),
        None => Command::Shell(rest.to_owned()),
    })
}

fn copy(line: &Line, rest: &str, flags: &mut Flags, escape: char) -> Result<Copy> {
    let add = line.name == "ADD";
    let words = exec_form(rest)?.unwrap_or_else(|| lines::raw_words(rest, escape));
    if words.len() < 2 {
        return Err(Error::invalid(format!(
            "{} requires at least two arguments, but only one was provided. Destination could not be determined.",
            line.name
        )));
    }
    let mut copy = Copy {
        add,
        words,
        heredocs: line.heredocs.clone(),
        chown: flags.one("chown")?,
        chmod: flags.one("chmod")?,
        exclude: flags.all("exclude"),
        link: flags.boolean("link")?.unwrap_or_default(),
        ..Copy::default()
    };
    if add {
        copy.checksum = flags.one("checksum")?;
        copy.unpack = flags.boolean("unpack")?;
        copy.keep_git = flags.boolean("keep-git-dir")?.unwrap_or_default();
    } else {
        copy.from = flags.one("from")?;
        copy.parents = flags.boolean("parents")?.unwrap_or_default();
    }
    Ok(copy)
}

/// `k=v k2="v 2"`, or the old form `k the rest is the value`. Quotes stay for the expansion.
fn pairs(name: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>> {
    let words = lines::raw_words(rest, escape);
    let first = words.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{name} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), value.trim_start().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some(("", _)) => Err(Error::invalid(format!("{name} names can not be blank"))),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::invalid(format!(
            "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
        ))),
    };
    words.iter().map(pair).collect()
}

fn arguments(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>> {
    let argument = |word: String| match word.split_once('=') {
        Some(("", _)) => Err(Error::invalid("ARG names can not be blank")),
        Some((key, value)) => Ok((key.to_owned(), Some(value.to_owned()))),
        None => Ok((word, None)),
    };
    lines::raw_words(rest, escape).into_iter().map(argument).collect()
}

fn volumes(rest: &str, escape: char) -> Result<Vec<String>> {
    let paths = exec_form(rest)?.unwrap_or_else(|| lines::raw_words(rest, escape));
    if paths.is_empty() {
        return Err(Error::invalid("VOLUME requires at least one argument"));
    }
    if paths.iter().any(|path| path.trim().is_empty()) {
        return Err(Error::invalid("VOLUME specified can not be an empty string"));
    }
    Ok(paths)
}

fn on_build(line: &Line, rest: &str, escape: char) -> Result<String> {
    let name = rest
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    match name.as_str() {
        "ONBUILD" => {
            return Err(Error::invalid(
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ));
        }
        "FROM" | "MAINTAINER" => {
            return Err(Error::invalid(format!(
                "{name} isn't allowed as an ONBUILD trigger"
            )));
        }
        _ => {}
    }
    let mut text = rest.to_owned();
    for heredoc in &line.heredocs {
        text.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
    }
    // What could not be carried out later is refused now.
    trigger(&text, escape)?;
    Ok(text)
}

/// Reads the instruction that an image left for builds upon it.
///
/// # Errors
/// As [`parse`].
pub fn trigger(text: &str, escape: char) -> Result<Step> {
    let (_, lines) = lines::read_with(text, escape)?;
    match lines.as_slice() {
        [line] => parse(line, escape),
        _ => Err(Error::invalid(format!(
            "an ONBUILD trigger is one instruction, not {text:?}"
        ))),
    }
}

fn healthcheck(rest: &str, flags: &mut Flags) -> Result<Healthcheck> {
    let mut health = Healthcheck::default();
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => {
            health.test = Some(vec!["NONE".to_owned()]);
            return Ok(health);
        }
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if command.is_empty() => return Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
        "CMD" => {}
        other => {
            return Err(Error::invalid(format!(
                "Unknown type {other:?} in HEALTHCHECK (try CMD)"
            )));
        }
    }
    health.test = Some(match exec_form(command)? {
        Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
        None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
    });
    health.interval = duration(flags, "interval")?;
    health.timeout = duration(flags, "timeout")?;
    health.start_period = duration(flags, "start-period")?;
    health.start_interval = duration(flags, "start-interval")?;
    if let Some(text) = flags.one("retries")? {
        health.retries = text.parse().ok().filter(|n| *n >= 0).ok_or_else(|| {
            Error::invalid(format!(
                "--retries cannot be negative and must be a number, not {text:?}"
            ))
        })?;
    }
    Ok(health)
}

/// Nanoseconds; zero, or at least one millisecond.
fn duration(flags: &mut Flags, name: &str) -> Result<i64> {
    let Some(text) = flags.one(name)? else {
        return Ok(0);
    };
    parse_duration(&text)
        .and_then(|duration| i64::try_from(duration.as_nanos()).ok())
        .filter(|n| *n == 0 || *n >= 1_000_000)
        .ok_or_else(|| {
            Error::invalid(format!(
                "Interval {name:?} cannot be less than 1ms and must be a duration like 30s, not {text:?}"
            ))
        })
}

/// Variables that are arguments of every build, and are never recorded unless the Dockerfile declares them.
pub const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The labels of a request as the last instruction of a Dockerfile.
pub fn labels(labels: &BTreeMap<String, String>) -> Option<Step> {
    if labels.is_empty() {
        return None;
    }
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\"'\"'"));
    let pairs: Vec<(String, String)> = labels.iter().map(|(k, v)| (quoted(k), quoted(v))).collect();
    let text = labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect::<Vec<_>>()
        .join(" ");
    Some(Step {
        line: 0,
        text: format!("LABEL {text}"),
        instruction: Instruction::Label(pairs),
    })
}
