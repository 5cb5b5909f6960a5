//! Devices, device rules and resource limits of processes, as requests write them.

use std::{iter::Peekable, str::Chars};

use berth_api::models::{DeviceMapping, Ulimit};
use berth_runtime::{Error, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, PosixRlimitType};

use super::path;

/// Checks `Devices` and fills in what may be left out: the path in the container, and all permissions.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a path that is not absolute and for unknown permissions.
pub fn check(devices: &mut [DeviceMapping]) -> Result<()> {
    for device in devices {
        if device.path_in_container.is_empty() {
            device.path_in_container.clone_from(&device.path_on_host);
        }
        if device.cgroup_permissions.is_empty() {
            "rwm".clone_into(&mut device.cgroup_permissions);
        }
        for given in [&device.path_on_host, &device.path_in_container] {
            if !given.starts_with('/') || given.contains('\0') || path::clean(given) == "/" {
                return Err(Error::invalid(format!(
                    "invalid device path {given:?}: it must be an absolute path"
                )));
            }
        }
        if !is_access(&device.cgroup_permissions) {
            return Err(Error::invalid(format!(
                "invalid permissions {:?} of device {}: use the letters r, w and m, each at most once",
                device.cgroup_permissions, device.path_on_host,
            )));
        }
    }
    Ok(())
}

fn is_access(text: &str) -> bool {
    (1..=3).contains(&text.len())
        && text.bytes().all(|letter| matches!(letter, b'r' | b'w' | b'm'))
        && text
            .bytes()
            .enumerate()
            .all(|(index, letter)| !text.as_bytes()[..index].contains(&letter))
}

/// Reads a rule `type major:minor permissions` of `DeviceCgroupRules`, as `c 13:* rwm`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if it is malformed.
pub fn rule(text: &str) -> Result<LinuxDeviceCgroup> {
    read_rule(text).ok_or_else(|| Error::invalid(format!("invalid device cgroup rule format: '{text}'")))
}

fn read_rule(text: &str) -> Option<LinuxDeviceCgroup> {
    let mut letters = text.chars().peekable();
    let kind = match letters.next()? {
        'a' => LinuxDeviceType::A,
        'b' => LinuxDeviceType::B,
        'c' => LinuxDeviceType::C,
        _ => return None,
    };
    let next = |letters: &mut Peekable<Chars<'_>>, wanted: char| letters.next_if_eq(&wanted).map(|_| ());
    next(&mut letters, ' ')?;
    let major = device_number(&mut letters)?;
    next(&mut letters, ':')?;
    let minor = device_number(&mut letters)?;
    next(&mut letters, ' ')?;
    let access: String = letters.collect();
    if !is_access(&access) {
        return None;
    }
    LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(kind)
        .major(major)
        .minor(minor)
        .access(access)
        .build()
        .ok()
}

/// A device number; `*` is -1, which means all.
fn device_number(letters: &mut Peekable<Chars<'_>>) -> Option<i64> {
    if letters.next_if_eq(&'*').is_some() {
        return Some(-1);
    }
    let mut digits = String::new();
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    digits.parse::<u32>().ok().map(i64::from)
}

/// Checks `Ulimits`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for an unknown limit, and if the soft limit exceeds the hard one.
pub fn check_ulimits(ulimits: &[Ulimit]) -> Result<()> {
    for limit in ulimits {
        ulimit_type(&limit.name)
            .ok_or_else(|| Error::invalid(format!("invalid ulimit type: {}", limit.name)))?;
        let named = |value: i64| {
            if value == -1 {
                "-1 (unlimited)".to_owned()
            } else {
                value.to_string()
            }
        };
        if limit.soft < -1 || limit.hard < -1 {
            return Err(Error::invalid(format!(
                "invalid ulimit {}: limits must not be negative, except -1 (unlimited)",
                limit.name
            )));
        }
        if ulimit_value(limit.soft) > ulimit_value(limit.hard) {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: soft: {}, hard: {}",
                named(limit.soft),
                named(limit.hard),
            )));
        }
    }
    Ok(())
}

/// The limit of that name: getrlimit(2), in small letters and without `RLIMIT_`.
pub fn ulimit_type(name: &str) -> Option<PosixRlimitType> {
    Some(match name {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        _ => return None,
    })
}

/// The value the kernel takes: -1 is no limit, which is the largest number.
pub const fn ulimit_value(value: i64) -> u64 {
    if value < 0 { u64::MAX } else { value as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host: &str, container: &str, permissions: &str) -> DeviceMapping {
        DeviceMapping {
            path_on_host: host.into(),
            path_in_container: container.into(),
            cgroup_permissions: permissions.into(),
        }
    }

    #[test]
    fn mappings_are_completed() {
        let mut devices = [device("/dev/fuse", "", ""), device("/dev/sda", "/dev/xvda", "mr")];
        check(&mut devices).unwrap();
        assert_eq!(
            devices,
            [
                device("/dev/fuse", "/dev/fuse", "rwm"),
                device("/dev/sda", "/dev/xvda", "mr")
            ]
        );
        for bad in [
            device("", "", ""),
            device("dev/a", "", ""),
            device("/dev/a", "a", ""),
            device("/dev/a", "", "rr"),
            device("/dev/a", "", "x"),
            device("/dev/a", "/", ""),
        ] {
            assert!(check(&mut [bad.clone()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rules() {
        let read = rule("c 13:* rwm").unwrap();
        assert_eq!(
            (read.allow(), read.typ(), read.major(), read.minor()),
            (true, Some(LinuxDeviceType::C), Some(13), Some(-1))
        );
        assert_eq!(read.access().as_deref(), Some("rwm"));
        assert_eq!(rule("a *:* r").unwrap().typ(), Some(LinuxDeviceType::A));
        assert_eq!(rule("b 8:16 m").unwrap().minor(), Some(16));
        for text in [
            "",
            "c",
            "c 1:1",
            "c 1:1 ",
            "x 1:1 r",
            "c 1 r",
            "c 1:1 rwmm",
            "c 1:1 x",
            "c  1:1 r",
            " c 1:1 r",
            "c -1:1 r",
            "c 99999999999:1 r",
        ] {
            assert_eq!(
                rule(text).unwrap_err().to_string(),
                format!("invalid device cgroup rule format: '{text}'")
            );
        }
    }

    #[test]
    fn ulimits() {
        let limit = |name: &str, soft, hard| {
            [Ulimit {
                name: name.into(),
                soft,
                hard,
            }]
        };
        for (name, soft, hard) in [
            ("nofile", 10, 20),
            ("nproc", 5, 5),
            ("core", -1, -1),
            ("memlock", 5, -1),
            ("rttime", 0, 0),
        ] {
            check_ulimits(&limit(name, soft, hard)).unwrap();
        }
        for (name, soft, hard, message) in [
            ("NOFILE", 1, 1, "invalid ulimit type: NOFILE"),
            ("", 1, 1, "invalid ulimit type: "),
            (
                "nofile",
                2,
                1,
                "ulimit soft limit must be less than or equal to hard limit: soft: 2, hard: 1",
            ),
            (
                "nofile",
                -1,
                1,
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 1",
            ),
            (
                "nofile",
                -2,
                1,
                "invalid ulimit nofile: limits must not be negative, except -1 (unlimited)",
            ),
        ] {
            assert_eq!(
                check_ulimits(&limit(name, soft, hard)).unwrap_err().to_string(),
                message
            );
        }
        assert_eq!([ulimit_value(-1), ulimit_value(7)], [u64::MAX, 7]);
    }
}
