//! The settings of the process: `Config`.

use berth_api::models::{ContainerConfig, HealthConfig};
use berth_runtime::{Error, Result};

use super::{super::signal, path, ports};

/// Longest host or domain name the kernel takes, in bytes.
const MAX_NAME: usize = 64;
/// Shortest duration of a health check, in nanoseconds.
const MIN_DURATION: i64 = 1_000_000;

/// Checks a configuration and brings it into the form that is stored. Also right for a configuration that has been
/// merged with its image's.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a value that is malformed or out of range.
pub fn check(config: &mut ContainerConfig) -> Result<()> {
    check_name("hostname", &config.hostname)?;
    check_name("domainname", &config.domainname)?;
    check_user(&config.user)?;
    if !config.working_dir.is_empty() {
        config.working_dir = working_dir(&config.working_dir)?;
    }
    if !config.stop_signal.is_empty() {
        signal::parse(&config.stop_signal)?;
    }
    for entry in config.env.iter().flatten() {
        check_env(entry)?;
    }
    for word in config.entrypoint.iter().chain(&config.cmd).flatten() {
        check_text("command", word)?;
    }
    if let Some(health) = &config.healthcheck {
        check_health(health)?;
    }
    for port in config.exposed_ports.iter().flat_map(|ports| ports.keys()) {
        // They are kept as they were written.
        ports::key(port)?;
    }
    config.labels.get_or_insert_default();
    Ok(())
}

/// Refuses what no system call can carry.
fn check_text(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(format!(
            "invalid {what} {text:?}: it contains a null character"
        )));
    }
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<()> {
    if name.len() > MAX_NAME {
        return Err(Error::invalid(format!(
            "invalid {what} {name:?}: it is longer than {MAX_NAME} bytes"
        )));
    }
    // A blank is as good as any letter to the kernel; what would break the lines of files is not.
    if name.contains(|letter: char| letter.is_control() || (letter.is_whitespace() && letter != ' ')) {
        return Err(Error::invalid(format!(
            "invalid {what} {name:?}: it contains a control character"
        )));
    }
    Ok(())
}

/// Checks the form of `User`: `user`, `user:group`, names or numbers. Names are looked up at start.
///
/// A number that is no id is refused here rather than taken for a name, so that it never ends up as another user.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for anything else.
pub fn check_user(user: &str) -> Result<()> {
    if user.is_empty() {
        return Ok(());
    }
    let refuse = |why: &str| {
        let start: String = user.chars().take(64).collect();
        Err(Error::invalid(format!("invalid user {start:?}: {why}")))
    };
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    if name.is_empty() || group.contains(':') {
        return refuse("it must be user, user:group, uid or uid:gid");
    }
    if user.len() > 512 || user.contains(|letter: char| letter.is_control() || letter.is_whitespace()) {
        return refuse("it is too long or contains a space or control character");
    }
    for id in [name, group] {
        let digits = id.strip_prefix(['-', '+']).unwrap_or(id);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && (digits != id || !digits.parse::<u32>().is_ok_and(|id| id <= i32::MAX as u32)) {
            return refuse("uids and gids must be in range 0-2147483647");
        }
    }
    Ok(())
}

/// Checks a working directory and cleans it.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if it is not absolute.
pub fn working_dir(dir: &str) -> Result<String> {
    if !dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )));
    }
    check_text("working directory", dir)?;
    Ok(path::clean(dir))
}

/// Checks an environment entry: `NAME=value`, or a name alone.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if the name is empty.
pub fn check_env(entry: &str) -> Result<()> {
    if entry.is_empty() || entry.starts_with('=') {
        return Err(Error::invalid(format!("invalid environment variable: {entry}")));
    }
    check_text("environment variable", entry)
}

fn check_health(health: &HealthConfig) -> Result<()> {
    for (name, duration) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ] {
        if duration != 0 && duration < MIN_DURATION {
            return Err(Error::invalid(format!(
                "{name} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if health.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    for word in &health.test {
        check_text("health check", word)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_api::EmptyObject;

    use super::*;

    type Change = fn(&mut ContainerConfig);

    #[test]
    fn what_is_refused() {
        let health = |change: fn(&mut HealthConfig)| {
            let mut health = HealthConfig::default();
            change(&mut health);
            check_health(&health).unwrap_err().to_string()
        };
        assert_eq!(
            health(|h| h.interval = 999_999),
            "Interval in Healthcheck cannot be less than 1ms"
        );
        assert_eq!(
            health(|h| h.timeout = -1),
            "Timeout in Healthcheck cannot be less than 1ms"
        );
        assert_eq!(
            health(|h| h.start_period = 1),
            "StartPeriod in Healthcheck cannot be less than 1ms"
        );
        assert_eq!(
            health(|h| h.retries = -1),
            "Retries in Healthcheck cannot be negative"
        );
        let table: [(Change, &str); 8] = [
            (
                |c| c.working_dir = "srv".into(),
                "the working directory 'srv' is invalid, it needs to be an absolute path",
            ),
            (|c| c.stop_signal = "SIGFOO".into(), "invalid signal: SIGFOO"),
            (
                |c| c.env = Some(vec![String::new()]),
                "invalid environment variable: ",
            ),
            (
                |c| c.env = Some(vec!["=x".into()]),
                "invalid environment variable: =x",
            ),
            (
                |c| c.env = Some(vec!["A=\0".into()]),
                "invalid environment variable \"A=\\0\": it contains a null character",
            ),
            (
                |c| c.cmd = Some(vec!["a\0b".into()]),
                "invalid command \"a\\0b\": it contains a null character",
            ),
            (
                |c| c.exposed_ports = Some(BTreeMap::from([("0/tcp".into(), EmptyObject {})])),
                "invalid port specification: \"0\"",
            ),
            (
                |c| c.hostname = "a\tb".into(),
                "invalid hostname \"a\\tb\": it contains a control character",
            ),
        ];
        for (change, message) in table {
            let mut config = ContainerConfig::default();
            change(&mut config);
            assert_eq!(check(&mut config).unwrap_err().to_string(), message);
        }
        let mut config = ContainerConfig {
            hostname: "x".repeat(65),
            ..ContainerConfig::default()
        };
        assert!(
            check(&mut config)
                .unwrap_err()
                .to_string()
                .ends_with("it is longer than 64 bytes")
        );
        config.hostname.pop();
        check(&mut config).unwrap();
    }

    #[test]
    fn what_is_normalised() {
        let mut config = ContainerConfig {
            working_dir: "/srv//x/../app/".into(),
            exposed_ports: Some(BTreeMap::from([("80".into(), EmptyObject {})])),
            env: Some(vec!["A=1".into(), "B".into(), "C=".into()]),
            ..ContainerConfig::default()
        };
        check(&mut config).unwrap();
        assert_eq!(config.working_dir, "/srv/app");
        assert!(config.exposed_ports.unwrap().contains_key("80"));
        assert_eq!(config.labels, Some(BTreeMap::new()));
        assert_eq!(
            (config.cmd, config.entrypoint, config.volumes),
            (None, None, None)
        );
    }

    #[test]
    fn users_never_become_others() {
        for user in [
            "",
            "root",
            "1",
            "01",
            "2147483647",
            "1:",
            "1:2",
            "app:staff",
            "0x0",
            "user-1",
            "a.b",
            "-x",
        ] {
            check_user(user).unwrap_or_else(|error| panic!("{user}: {error}"));
        }
        for user in [
            "2147483648",
            "4294967295",
            "4294967296",
            "-1",
            "+0",
            ":5",
            ":",
            "a:b:c",
            "1::",
            "\n0",
            "0\n",
            "a b",
            "1:-1",
            "1:4294967296",
        ] {
            assert!(check_user(user).is_err(), "{user:?}");
        }
        assert!(check_user(&"x".repeat(70 << 10)).unwrap_err().to_string().len() < 200);
    }
}
