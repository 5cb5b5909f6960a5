//! Dockerfile instructions applied to an image's configuration: the `changes` of import and commit.

use std::collections::BTreeMap;

use berth_runtime::{
    Error, Result,
    image::{Empty, Healthcheck, RunConfig},
};

use super::words::{self, Variables};

/// Applies `changes`, each one or more lines of `INSTRUCTION arguments`, to `config` in order.
///
/// Allowed are CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR
/// (API operations `ImageCreate` and `ImageCommit`).
///
/// # Errors
/// Invalid for another instruction or malformed arguments; the message names the instruction.
pub fn apply(config: &mut RunConfig, changes: &[String]) -> Result<()> {
    let mut has_command = false;
    for line in changes.iter().flat_map(|change| change.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, arguments) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let name = name.to_ascii_uppercase();
        instruction(config, &name, arguments.trim())?;
        // Another entrypoint makes nothing of a command that was meant for the old one.
        if name == "ENTRYPOINT" && !has_command {
            config.cmd = None;
        }
        has_command |= name == "CMD";
    }
    Ok(())
}

fn instruction(config: &mut RunConfig, name: &str, arguments: &str) -> Result<()> {
    if arguments.is_empty() && !matches!(name, "CMD" | "ENTRYPOINT") {
        return Err(Error::invalid(format!("{name} requires at least one argument")));
    }
    match name {
        "CMD" => config.cmd = command(config, arguments),
        "ENTRYPOINT" => config.entrypoint = command(config, arguments),
        "ENV" => environment(config, arguments)?,
        "LABEL" => {
            let pairs = pairs("LABEL", arguments, &variables(config))?;
            config.labels.get_or_insert_default().extend(pairs);
        }
        "EXPOSE" => expose(config, arguments)?,
        "VOLUME" => volumes(config, arguments)?,
        "USER" => config.user = words::expand(arguments, &variables(config))?,
        "WORKDIR" => working_directory(config, arguments)?,
        "STOPSIGNAL" => config.stop_signal = Some(words::expand(arguments, &variables(config))?),
        "ONBUILD" => on_build(config, arguments)?,
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(arguments)?),
        other => {
            return Err(Error::invalid(format!(
                "{other} is not a valid change command; use CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, \
                 STOPSIGNAL, USER, VOLUME or WORKDIR"
            )));
        }
    }
    Ok(())
}

/// The exec form, a JSON list of texts; anything else is the shell form.
fn exec_form(arguments: &str) -> Option<Vec<String>> {
    serde_json::from_str(arguments).ok()
}

fn command(config: &RunConfig, arguments: &str) -> Option<Vec<String>> {
    let words = exec_form(arguments).unwrap_or_else(|| {
        if arguments.is_empty() {
            return Vec::new();
        }
        let default = || ["/bin/sh", "-c"].map(str::to_owned).to_vec();
        let mut words = config.shell.clone().unwrap_or_else(default);
        words.push(arguments.to_owned());
        words
    });
    (!words.is_empty()).then_some(words)
}

/// What `$NAME` means in later instructions: the environment as it stands.
fn variables(config: &RunConfig) -> Variables {
    let entries = config.env.iter().flatten();
    entries
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// `k=v k2="v 2"`, or the old form `k the rest is the value`.
fn pairs(name: &str, arguments: &str, variables: &Variables) -> Result<BTreeMap<String, String>> {
    let first = arguments.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = arguments.split_once(char::is_whitespace).ok_or_else(|| {
            Error::invalid(format!(
                "{name} must have two arguments: write {name} {first}=value"
            ))
        })?;
        return Ok([(key.to_owned(), words::expand(value.trim(), variables)?)].into());
    }
    let mut pairs = BTreeMap::new();
    for word in words::split(arguments, variables)? {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => pairs.insert(key.to_owned(), value.to_owned()),
            _ => {
                return Err(Error::invalid(format!(
                    "cannot parse {word:?} of {name}: write name=value"
                )));
            }
        };
    }
    Ok(pairs)
}

fn environment(config: &mut RunConfig, arguments: &str) -> Result<()> {
    for (name, value) in pairs("ENV", arguments, &variables(config))? {
        let entry = format!("{name}={value}");
        let list = config.env.get_or_insert_default();
        match list
            .iter_mut()
            .find(|e| e.split_once('=').is_some_and(|(n, _)| n == name))
        {
            Some(old) => *old = entry,
            None => list.push(entry),
        }
    }
    Ok(())
}

fn expose(config: &mut RunConfig, arguments: &str) -> Result<()> {
    for word in words::split(arguments, &variables(config))? {
        let (range, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        let bad = || {
            Error::invalid(format!(
                "invalid port {word:?} in EXPOSE: write PORT, PORT/PROTOCOL or FIRST-LAST"
            ))
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: u16 = first.parse().map_err(|_| bad())?;
        let last: u16 = last.parse().map_err(|_| bad())?;
        if first > last || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(bad());
        }
        let ports = config.exposed_ports.get_or_insert_default();
        ports.extend((first..=last).map(|port| (format!("{port}/{protocol}"), Empty {})));
    }
    Ok(())
}

fn volumes(config: &mut RunConfig, arguments: &str) -> Result<()> {
    let paths = match exec_form(arguments) {
        Some(paths) => paths,
        None => words::split(arguments, &variables(config))?,
    };
    if paths.iter().any(|path| path.trim().is_empty()) {
        return Err(Error::invalid("VOLUME specified can not be an empty string"));
    }
    let volumes = config.volumes.get_or_insert_default();
    volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
    Ok(())
}

fn working_directory(config: &mut RunConfig, arguments: &str) -> Result<()> {
    let path = words::expand(arguments, &variables(config))?;
    let base = if path.starts_with('/') {
        ""
    } else {
        config.working_dir.as_str()
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    config.working_dir = format!("/{}", parts.join("/"));
    Ok(())
}

fn on_build(config: &mut RunConfig, arguments: &str) -> Result<()> {
    let name = arguments
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    if matches!(name.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
        return Err(Error::invalid(format!(
            "{name} isn't allowed as an ONBUILD trigger"
        )));
    }
    config.on_build.get_or_insert_default().push(arguments.to_owned());
    Ok(())
}

fn healthcheck(arguments: &str) -> Result<Healthcheck> {
    let mut health = Healthcheck::default();
    let mut rest = arguments;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').ok_or_else(|| {
            Error::invalid(format!(
                "HEALTHCHECK option --{option} needs a value: write --{option}=value"
            ))
        })?;
        match name {
            "interval" => health.interval = duration(name, value)?,
            "timeout" => health.timeout = duration(name, value)?,
            "start-period" => health.start_period = duration(name, value)?,
            "start-interval" => health.start_interval = duration(name, value)?,
            "retries" => {
                health.retries = value.parse().ok().filter(|n| *n >= 0).ok_or_else(|| {
                    Error::invalid(format!(
                        "--retries of HEALTHCHECK must be a number from 0, not {value:?}"
                    ))
                })?;
            }
            other => return Err(Error::invalid(format!("unknown option --{other} of HEALTHCHECK"))),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    health.test = Some(match (kind.to_ascii_uppercase().as_str(), command.trim()) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", "") => return Err(Error::invalid("missing command after HEALTHCHECK CMD")),
        ("CMD", command) => match exec_form(command) {
            Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => {
            return Err(Error::invalid(format!(
                "unknown type {kind:?} in HEALTHCHECK: use CMD or NONE"
            )));
        }
    });
    Ok(health)
}

/// A Go duration such as `1m30s`, in nanoseconds; zero, or at least one millisecond.
fn duration(name: &str, text: &str) -> Result<i64> {
    crate::engine::time::parse_duration(text)
        .and_then(|d| i64::try_from(d.as_nanos()).ok())
        .filter(|n| *n == 0 || *n >= 1_000_000)
        .ok_or_else(|| {
            Error::invalid(format!(
                "--{name} of HEALTHCHECK must be a duration of at least 1ms like 30s, not {text:?}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> RunConfig {
        let mut config = RunConfig::default();
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(&mut config, &changes).unwrap();
        config
    }

    fn words(list: &Option<Vec<String>>) -> Vec<&str> {
        list.iter().flatten().map(String::as_str).collect()
    }

    #[test]
    fn commands_in_both_forms() {
        let config = changed(&[r#"CMD ["a", "b c"]"#, "entrypoint exec $X"]);
        assert_eq!(words(&config.cmd), ["a", "b c"]);
        assert_eq!(words(&config.entrypoint), ["/bin/sh", "-c", "exec $X"]);
    }

    #[test]
    fn an_entrypoint_drops_the_command_before_it() {
        let mut config = RunConfig {
            cmd: Some(vec!["old".to_owned()]),
            ..RunConfig::default()
        };
        apply(&mut config, &["ENTRYPOINT [\"e\"]".to_owned()]).unwrap();
        assert_eq!(
            (words(&config.entrypoint), words(&config.cmd)),
            (vec!["e"], vec![])
        );
        let config = changed(&["CMD [\"c\"]", "ENTRYPOINT [\"e\"]"]);
        assert_eq!(
            (words(&config.entrypoint), words(&config.cmd)),
            (vec!["e"], vec!["c"])
        );
    }

    #[test]
    fn environment_replaces_and_expands() {
        let config = changed(&["ENV A=1 B=\"two words\"", "ENV C $B and more", "ENV A=3"]);
        assert_eq!(words(&config.env), ["A=3", "B=two words", "C=two words and more"]);
    }

    #[test]
    fn the_other_instructions() {
        let config = changed(&[
            "LABEL a=b \"c d\"=e",
            "EXPOSE 80 443/udp 90-91",
            "VOLUME [\"/a\", \"/b\"]",
            "VOLUME /c /d",
            "USER 1000:1000",
            "WORKDIR /x/y",
            "WORKDIR ../z",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=5s --retries=2 CMD curl localhost",
        ]);
        let labels = config.labels.unwrap();
        assert_eq!(labels["a"], "b");
        assert_eq!(labels["c d"], "e");
        let ports: Vec<_> = config.exposed_ports.unwrap().into_keys().collect();
        assert_eq!(ports, ["443/udp", "80/tcp", "90/tcp", "91/tcp"]);
        let volumes: Vec<_> = config.volumes.unwrap().into_keys().collect();
        assert_eq!(volumes, ["/a", "/b", "/c", "/d"]);
        assert_eq!(config.user, "1000:1000");
        assert_eq!(config.working_dir, "/x/z");
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(words(&config.on_build), ["RUN make"]);
        let health = config.healthcheck.unwrap();
        assert_eq!(health.interval, 5_000_000_000);
        assert_eq!(health.retries, 2);
        assert_eq!(words(&health.test), ["CMD-SHELL", "curl localhost"]);
    }

    #[test]
    fn refuses_the_rest() {
        for change in [
            "RUN make",
            "ENV",
            "ENV A",
            "EXPOSE x",
            "EXPOSE 9-8",
            "ONBUILD FROM x",
            "HEALTHCHECK --interval=1us CMD x",
            "HEALTHCHECK MAYBE",
            "LABEL a='b",
        ] {
            let mut config = RunConfig::default();
            let error = apply(&mut config, &[change.to_owned()]).unwrap_err();
            assert_eq!(error.kind(), berth_runtime::Kind::Invalid, "{change}: {error}");
        }
    }
}
