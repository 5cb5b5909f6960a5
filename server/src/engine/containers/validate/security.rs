//! `SecurityOpt`, and the paths that are hidden or read-only.

use berth_api::models::HostConfig;
use berth_runtime::{Error, Result, sandbox::defaults::READONLY_PATHS};
use serde::{Deserialize, Serialize};

use super::{
    modes::{IpcMode, PidMode},
    seccomp,
};

/// The security settings of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityOptions {
    /// Whether its processes can never gain privileges.
    pub no_new_privileges: bool,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// Name of the AppArmor profile; empty: the default one.
    pub apparmor: String,
    /// Options of the SELinux label; without effect on hosts without it.
    pub labels: Vec<String>,
    /// Whether its control groups are writable for it.
    pub writable_cgroups: bool,
}

/// The system call filter of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The default profile for the container's capabilities; none for a privileged container.
    #[default]
    Default,
    /// The default profile, asked for by name, privileged or not.
    Builtin,
    /// No filter.
    Unconfined,
    /// A profile in Docker's JSON format.
    Profile(String),
}

impl SecurityOptions {
    /// Reads `SecurityOpt`; `systempaths=unconfined` empties `MaskedPaths` and `ReadonlyPaths`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for an unknown option or value.
    pub fn read(host_config: &mut HostConfig, no_new_privileges: bool) -> Result<Self> {
        let mut options = Self {
            no_new_privileges,
            ..Self::default()
        };
        let given = host_config.security_opt.clone().unwrap_or_default();
        for option in &given {
            options.take(option, host_config)?;
        }
        Ok(options)
    }

    fn take(&mut self, option: &str, host_config: &mut HostConfig) -> Result<()> {
        match option {
            "no-new-privileges" => self.no_new_privileges = true,
            "writable-cgroups" => self.writable_cgroups = true,
            "disable" => self.labels.push("disable".to_owned()),
            _ => {
                let separator = if option.contains('=') { '=' } else { ':' };
                let (name, value) = option
                    .split_once(separator)
                    .ok_or_else(|| Error::invalid(format!("invalid --security-opt 1: {option:?}")))?;
                self.take_pair(name, value, host_config)
                    .map_err(|()| Error::invalid(format!("invalid --security-opt 2: {option:?}")))?;
                if let Seccomp::Profile(profile) = &self.seccomp
                    && name == "seccomp"
                {
                    seccomp::check(profile)?;
                }
            }
        }
        Ok(())
    }

    fn take_pair(&mut self, name: &str, value: &str, host_config: &mut HostConfig) -> Result<(), ()> {
        match name {
            "label" => self.labels.push(value.to_owned()),
            "apparmor" => value.clone_into(&mut self.apparmor),
            "seccomp" => {
                self.seccomp = match value {
                    "unconfined" => Seccomp::Unconfined,
                    "builtin" | "runtime/default" | "docker/default" => Seccomp::Builtin,
                    "" => Seccomp::Default,
                    _ => Seccomp::Profile(value.to_owned()),
                }
            }
            "no-new-privileges" => self.no_new_privileges = boolean(value)?,
            "writable-cgroups" => self.writable_cgroups = boolean(value)?,
            "systempaths" if value == "unconfined" => {
                host_config.masked_paths = Some(Vec::new());
                host_config.readonly_paths = Some(Vec::new());
            }
            _ => return Err(()),
        }
        Ok(())
    }
}

fn boolean(text: &str) -> Result<bool, ()> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(()),
    }
}

/// Adds `label=disable` where SELinux labels would only be in the way, unless a label was asked for.
pub fn add_label(host_config: &mut HostConfig) -> Result<()> {
    let labelled = host_config
        .security_opt
        .iter()
        .flatten()
        .any(|option| option.starts_with("label="));
    let open = host_config.privileged
        || PidMode::parse(&host_config.pid_mode)? == PidMode::Host
        || IpcMode::parse(&host_config.ipc_mode)? == IpcMode::Host;
    if open && !labelled {
        host_config
            .security_opt
            .get_or_insert_default()
            .push("label=disable".to_owned());
    }
    Ok(())
}

/// Fills in the hidden and read-only paths that inspect shows; `masked` is what this host hides.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a path that is not absolute.
pub fn fill_paths(host_config: &mut HostConfig, masked: &[String]) -> Result<()> {
    if !host_config.privileged {
        host_config.masked_paths.get_or_insert_with(|| masked.to_vec());
        host_config
            .readonly_paths
            .get_or_insert_with(|| READONLY_PATHS.map(str::to_owned).to_vec());
    }
    let paths = host_config
        .masked_paths
        .iter()
        .chain(&host_config.readonly_paths)
        .flatten();
    match paths
        .into_iter()
        .find(|path| !path.starts_with('/') || path.contains('\0'))
    {
        None => Ok(()),
        Some(path) => Err(Error::invalid(format!(
            "invalid path {path:?} in MaskedPaths or ReadonlyPaths: it must be absolute"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Result<(SecurityOptions, HostConfig)> {
        let mut config = HostConfig {
            security_opt: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            ..HostConfig::default()
        };
        let options = SecurityOptions::read(&mut config, false)?;
        Ok((options, config))
    }

    #[test]
    fn known_options() {
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#;
        let expect = |options: &[&str], expected: SecurityOptions| {
            assert_eq!(read(options).unwrap().0, expected, "{options:?}");
        };
        let none = SecurityOptions::default;
        expect(&[], none());
        for on in [
            "no-new-privileges",
            "no-new-privileges:true",
            "no-new-privileges=1",
        ] {
            expect(
                &[on],
                SecurityOptions {
                    no_new_privileges: true,
                    ..none()
                },
            );
        }
        expect(&["no-new-privileges", "no-new-privileges:false"], none());
        expect(
            &["seccomp=unconfined"],
            SecurityOptions {
                seccomp: Seccomp::Unconfined,
                ..none()
            },
        );
        expect(
            &["seccomp:unconfined"],
            SecurityOptions {
                seccomp: Seccomp::Unconfined,
                ..none()
            },
        );
        expect(
            &["seccomp=builtin"],
            SecurityOptions {
                seccomp: Seccomp::Builtin,
                ..none()
            },
        );
        expect(
            &[&format!("seccomp={profile}")],
            SecurityOptions {
                seccomp: Seccomp::Profile(profile.into()),
                ..none()
            },
        );
        expect(
            &["apparmor=mine"],
            SecurityOptions {
                apparmor: "mine".into(),
                ..none()
            },
        );
        expect(
            &["label=user:u", "label:type:t", "disable"],
            SecurityOptions {
                labels: vec!["user:u".into(), "type:t".into(), "disable".into()],
                ..none()
            },
        );
        expect(
            &["writable-cgroups=true"],
            SecurityOptions {
                writable_cgroups: true,
                ..none()
            },
        );
    }

    #[test]
    fn open_system_paths() {
        let (_, mut config) = read(&["systempaths=unconfined"]).unwrap();
        fill_paths(&mut config, &[]).unwrap();
        assert_eq!(
            (config.masked_paths, config.readonly_paths),
            (Some(Vec::new()), Some(Vec::new()))
        );
    }

    #[test]
    fn unknown_options() {
        for (option, message) in [
            ("bogus", "invalid --security-opt 1: \"bogus\""),
            ("bogus=1", "invalid --security-opt 2: \"bogus=1\""),
            (
                "no-new-privileges=maybe",
                "invalid --security-opt 2: \"no-new-privileges=maybe\"",
            ),
            (
                "systempaths=confined",
                "invalid --security-opt 2: \"systempaths=confined\"",
            ),
            (
                "seccomp=/etc/profile.json",
                "decoding seccomp profile failed: expected value at line 1 column 1",
            ),
            (
                "seccomp=[]",
                "decoding seccomp profile failed: invalid length 0, expected struct Profile with 6 elements at line 1 column 2",
            ),
        ] {
            assert_eq!(read(&[option]).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn labels_are_disabled_for_open_containers() {
        let label = |change: fn(&mut HostConfig)| {
            let mut config = HostConfig::default();
            change(&mut config);
            add_label(&mut config).unwrap();
            config.security_opt
        };
        let disabled = Some(vec!["label=disable".to_owned()]);
        assert_eq!(label(|_| {}), None);
        assert_eq!(label(|config| config.privileged = true), disabled);
        assert_eq!(label(|config| config.pid_mode = "host".into()), disabled);
        assert_eq!(label(|config| config.ipc_mode = "host".into()), disabled);
        let asked = label(|config| {
            config.privileged = true;
            config.security_opt = Some(vec!["label=type:t".into()]);
        });
        assert_eq!(asked, Some(vec!["label=type:t".to_owned()]));
    }

    #[test]
    fn paths_are_filled_in() {
        let masked = ["/proc/kcore".to_owned(), "/sys/firmware".to_owned()];
        let mut config = HostConfig::default();
        fill_paths(&mut config, &masked).unwrap();
        assert_eq!(config.masked_paths.as_ref().map(Vec::len), Some(2));
        assert_eq!(config.readonly_paths.as_ref().map(Vec::len), Some(5));
        let mut config = HostConfig {
            privileged: true,
            ..HostConfig::default()
        };
        fill_paths(&mut config, &masked).unwrap();
        assert_eq!((config.masked_paths, config.readonly_paths), (None, None));
        let mut config = HostConfig {
            masked_paths: Some(vec!["/x".into()]),
            readonly_paths: Some(Vec::new()),
            ..HostConfig::default()
        };
        fill_paths(&mut config, &masked).unwrap();
        assert_eq!(
            (config.masked_paths, config.readonly_paths),
            (Some(vec!["/x".to_owned()]), Some(Vec::new()))
        );
        let mut config = HostConfig {
            masked_paths: Some(vec!["x".into()]),
            ..HostConfig::default()
        };
        assert!(fill_paths(&mut config, &masked).is_err());
    }
}
