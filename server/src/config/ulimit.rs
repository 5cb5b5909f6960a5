//! Default resource limits of containers: `--default-ulimit name=soft[:hard]` and `default-ulimits`.

use std::str::FromStr;

use berth_runtime::{Error, Result};
use serde::{Deserialize, Serialize};

/// Names that `setrlimit(2)` knows, in Docker's spelling.
const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A resource limit; -1 is unlimited. The unit is the resource's own (`setrlimit(2)`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Ulimit {
    /// The resource, for example `nofile`.
    #[serde(default)]
    pub name: String,
    /// The limit in force.
    pub soft: i64,
    /// The bound up to which a process may raise it.
    pub hard: i64,
}

impl Ulimit {
    /// The same limit if it makes sense.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for an unknown name or a soft limit above the hard one.
    pub fn checked(self) -> Result<Self> {
        if !NAMES.contains(&self.name.as_str()) {
            return Err(Error::invalid(format!("invalid ulimit type: {}", self.name)));
        }
        let unlimited = |v: i64| v == -1;
        if !unlimited(self.hard) && (unlimited(self.soft) || self.soft > self.hard) {
            return Err(Error::invalid(format!(
                "ulimit {}: the soft limit ({}) must not exceed the hard limit ({})",
                self.name, self.soft, self.hard
            )));
        }
        Ok(self)
    }
}

impl FromStr for Ulimit {
    type Err = Error;

    /// Reads `name=soft[:hard]`; without a hard limit both are the same.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("invalid ulimit argument: {text} (use name=soft[:hard])"));
        let (name, limits) = text.split_once('=').ok_or_else(bad)?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |s: &str| s.parse::<i64>().ok().filter(|v| *v >= -1).ok_or_else(bad);
        Self {
            name: name.to_owned(),
            soft: number(soft)?,
            hard: number(hard)?,
        }
        .checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_or_two_limits() {
        let both = "nofile=1024:2048".parse::<Ulimit>().unwrap();
        assert_eq!((both.soft, both.hard), (1024, 2048));
        let one = "core=-1".parse::<Ulimit>().unwrap();
        assert_eq!((one.name.as_str(), one.soft, one.hard), ("core", -1, -1));
    }

    #[test]
    fn refuses_nonsense() {
        for text in [
            "nofile",
            "nofile=",
            "nofile=a",
            "files=1",
            "nofile=3:2",
            "nofile=-1:5",
            "nofile=-2",
        ] {
            assert!(text.parse::<Ulimit>().is_err(), "{text}");
        }
    }
}
