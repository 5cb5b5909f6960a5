//! Instructions that change the configuration alone. Each gives the words by which Docker's history knows it.

use berth_runtime::{
    Error, Result,
    image::{Empty, Healthcheck, RunConfig},
};

use super::{
    dockerfile::{Command, Instruction},
    expand::{self, Variables},
    state::State,
};

/// Carries `instruction` out on the configuration. None for an instruction that does more than that.
///
/// # Errors
/// Invalid for what cannot be expanded or has no meaning.
pub fn apply(state: &mut State, instruction: &Instruction, escape: char) -> Result<Option<String>> {
    let variables = state.variables();
    let word = |text: &str| expand::word(text, escape, &variables);
    let comment = match instruction {
        Instruction::Env(pairs) => environment(&mut state.config, pairs, escape, &variables)?,
        Instruction::Label(pairs) => labels(&mut state.config, pairs, escape, &variables)?,
        Instruction::Maintainer(author) => {
            state.author.clone_from(author);
            format!("MAINTAINER {author}")
        }
        Instruction::Cmd(command) => {
            let words = command_words(state, command);
            let comment = format!("CMD {}", go_list(&words));
            state.config.cmd = (!words.is_empty()).then_some(words);
            state.command_set = true;
            comment
        }
        Instruction::Entrypoint(command) => {
            let words = command_words(state, command);
            let comment = format!("ENTRYPOINT {}", go_list(&words));
            state.config.entrypoint = (!words.is_empty()).then_some(words);
            if !state.command_set {
                state.config.cmd = None;
            }
            comment
        }
        Instruction::Shell(words) => {
            state.config.shell = Some(words.clone());
            format!("SHELL [{}]", words.join(" "))
        }
        Instruction::User(user) => {
            let user = word(user)?;
            state.config.user.clone_from(&user);
            format!("USER {user}")
        }
        Instruction::Expose(ports) => expose(&mut state.config, ports, escape, &variables)?,
        Instruction::Volume(paths) => {
            let paths = paths.iter().map(|path| word(path)).collect::<Result<Vec<_>>>()?;
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err(Error::invalid("VOLUME specified can not be an empty string"));
            }
            let volumes = state.config.volumes.get_or_insert_default();
            volumes.extend(paths.iter().map(|path| (path.clone(), Empty {})));
            format!("VOLUME [{}]", paths.join(" "))
        }
        Instruction::StopSignal(signal) => {
            let signal = word(signal)?;
            check_signal(&signal)?;
            state.config.stop_signal = Some(signal.clone());
            format!("STOPSIGNAL {signal}")
        }
        Instruction::Healthcheck(health) => {
            let health = health.clone();
            let comment = format!("HEALTHCHECK {}", go_health(&health));
            state.config.healthcheck = Some(health);
            comment
        }
        Instruction::OnBuild(trigger) => {
            state
                .config
                .on_build
                .get_or_insert_default()
                .push(trigger.clone());
            format!("ONBUILD {trigger}")
        }
        Instruction::From(_)
        | Instruction::Run(_)
        | Instruction::Copy(_)
        | Instruction::Arg(_)
        | Instruction::Workdir(_) => {
            return Ok(None);
        }
    };
    Ok(Some(comment))
}

/// The words that a command stands for.
pub fn command_words(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) if line.is_empty() => Vec::new(),
        Command::Shell(line) => {
            let mut words = state.shell();
            words.push(line.clone());
            words
        }
    }
}

fn environment(
    config: &mut RunConfig,
    pairs: &[(String, String)],
    escape: char,
    variables: &Variables,
) -> Result<String> {
    let mut comment = "ENV".to_owned();
    for (name, value) in pairs {
        let name = expand::word(name, escape, variables)?;
        let value = expand::word(value, escape, variables)?;
        if name.is_empty() {
            return Err(Error::invalid("ENV names can not be blank"));
        }
        let entry = format!("{name}={value}");
        comment.push(' ');
        comment.push_str(&entry);
        let list = config.env.get_or_insert_default();
        match list
            .iter_mut()
            .find(|old| old.split_once('=').is_some_and(|(known, _)| known == name))
        {
            Some(old) => *old = entry,
            None => list.push(entry),
        }
    }
    Ok(comment)
}

fn labels(
    config: &mut RunConfig,
    pairs: &[(String, String)],
    escape: char,
    variables: &Variables,
) -> Result<String> {
    let mut comment = "LABEL".to_owned();
    for (name, value) in pairs {
        let name = expand::word(name, escape, variables)?;
        let value = expand::word(value, escape, variables)?;
        if name.is_empty() {
            return Err(Error::invalid("LABEL names can not be blank"));
        }
        comment.push_str(&format!(" {name}={value}"));
        config.labels.get_or_insert_default().insert(name, value);
    }
    Ok(comment)
}

fn expose(config: &mut RunConfig, ports: &[String], escape: char, variables: &Variables) -> Result<String> {
    let mut words = Vec::new();
    for port in ports {
        words.extend(expand::words(port, escape, variables)?);
    }
    for word in &words {
        let bad = || {
            Error::invalid(format!(
                "Invalid containerPort: {word}: write PORT, PORT/PROTOCOL or FIRST-LAST"
            ))
        };
        let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        // What comes before is where it would be published, and means nothing here.
        let range = range.rsplit(':').next().unwrap_or(range);
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (
            first.parse().map_err(|_| bad())?,
            last.parse().map_err(|_| bad())?,
        );
        if first > last || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(bad());
        }
        let exposed = config.exposed_ports.get_or_insert_default();
        exposed.extend((first..=last).map(|port| (format!("{port}/{protocol}"), Empty {})));
    }
    words.sort();
    Ok(format!("EXPOSE {}", words.join(" ")))
}

fn check_signal(signal: &str) -> Result<()> {
    use crate::engine::containers::signal;
    signal::parse(signal)
        .map(drop)
        .map_err(|_| Error::invalid(format!("invalid signal: {signal}")))
}

/// The path that `WORKDIR` leads to.
pub fn working_directory(current: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { current };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A list as Go's `%q` shows it.
fn go_list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| go_quoted(word)).collect();
    format!("[{}]", quoted.join(" "))
}

fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A health check as Go's `%q` shows it.
fn go_health(health: &Healthcheck) -> String {
    let retries = u32::try_from(health.retries)
        .ok()
        .and_then(char::from_u32)
        .unwrap_or('\u{fffd}');
    let retries = match retries {
        '\0'..='\x06' | '\x0e'..='\x1f' | '\x7f' => format!("'\\x{:02x}'", u32::from(retries)),
        '\x07' => "'\\a'".to_owned(),
        '\x08' => "'\\b'".to_owned(),
        '\t' => "'\\t'".to_owned(),
        '\n' => "'\\n'".to_owned(),
        '\x0b' => "'\\v'".to_owned(),
        '\x0c' => "'\\f'".to_owned(),
        '\r' => "'\\r'".to_owned(),
        c => format!("'{c}'"),
    };
    format!(
        "&{{{} {} {} {} {retries}}}",
        go_list(health.test.as_deref().unwrap_or_default()),
        go_quoted(&go_duration(health.interval)),
        go_quoted(&go_duration(health.timeout)),
        go_quoted(&go_duration(health.start_period)),
    )
}

/// Nanoseconds as Go's `time.Duration` shows them.
fn go_duration(nanoseconds: i64) -> String {
    let fraction = |value: i64, unit: i64| {
        let text = format!("{}.{:09}", value / unit, (value % unit) * (1_000_000_000 / unit));
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => format!("{}µs", fraction(n, 1_000)),
        n if n < 1_000_000_000 => format!("{}ms", fraction(n, 1_000_000)),
        n => {
            let seconds = n / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = fraction(n - (seconds - seconds % 60) * 1_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{rest}s"),
                (0, m) => format!("{m}m{rest}s"),
                (h, m) => format!("{h}h{m}m{rest}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_shows_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_250_000_000, "1.25s"),
        ] {
            assert_eq!(go_duration(nanoseconds), text);
        }
    }

    #[test]
    fn remarks_of_the_history() {
        let mut state = State::default();
        let mut say = |text: &str| {
            let dockerfile = super::super::dockerfile::Dockerfile::parse(&format!("FROM x\n{text}")).unwrap();
            apply(&mut state, &dockerfile.steps[1].instruction, '\\')
                .unwrap()
                .unwrap()
        };
        assert_eq!(say("ENV A=1 B=\"two words\""), "ENV A=1 B=two words");
        assert_eq!(say("CMD echo \"$A\""), r#"CMD ["/bin/sh" "-c" "echo \"$A\""]"#);
        assert_eq!(say("ENTRYPOINT [\"a\", \"b\"]"), r#"ENTRYPOINT ["a" "b"]"#);
        assert_eq!(say("EXPOSE 90-91 $A/udp"), "EXPOSE 1/udp 90-91");
        assert_eq!(say("VOLUME /a /b"), "VOLUME [/a /b]");
        assert_eq!(say("LABEL x=\"$B\""), "LABEL x=two words");
        assert_eq!(
            say("HEALTHCHECK --interval=5s --retries=3 CMD true"),
            r#"HEALTHCHECK &{["CMD-SHELL" "true"] "5s" "0s" "0s" '\x03'}"#
        );
        assert_eq!(working_directory("/a/b", "../c/./d"), "/a/c/d");
    }
}
