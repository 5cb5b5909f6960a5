//! Options of memory file systems: tmpfs(5), mount(8).

use berth_api::models;
use berth_runtime::{Error, Result};

/// What holds unless the options say otherwise.
const DEFAULTS: [&str; 4] = ["noexec", "nosuid", "nodev", "rprivate"];

/// Options with a value.
const KEYS: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// Words that exclude each other; the last one given counts. Of `defaults`, none follows.
const GROUPS: [&[&str]; 11] = [
    &["ro", "rw"],
    &["suid", "nosuid"],
    &["dev", "nodev"],
    &["exec", "noexec"],
    &["sync", "async"],
    &["dirsync"],
    &["mand", "nomand"],
    &["diratime", "nodiratime"],
    &[
        "atime",
        "noatime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
    ],
    &[
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "unbindable",
        "runbindable",
    ],
    &["defaults"],
];

/// The final options of a memory file system: the defaults `noexec,nosuid,nodev,rprivate` overridden by `options`,
/// each option once, the last one of those that exclude each other.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for an option that is unknown or lacks its value.
pub fn merge(options: &str) -> Result<Vec<String>> {
    let given = options.split(',').filter(|option| !option.is_empty());
    let mut merged: Vec<&str> = Vec::new();
    for option in DEFAULTS.into_iter().chain(given) {
        let slot = slot(option)?;
        merged.retain(|earlier| self::slot(earlier).ok() != Some(slot));
        if option != "defaults" {
            merged.push(option);
        }
    }
    Ok(merged.into_iter().map(str::to_owned).collect())
}

/// What an option sets: two options with the same slot exclude each other.
fn slot(option: &str) -> Result<usize> {
    let invalid = || Error::invalid(format!("invalid tmpfs option [{option:?}]"));
    match option.split_once('=') {
        Some((key, value)) => {
            let key = KEYS.iter().position(|known| *known == key).ok_or_else(invalid)?;
            let fine = !value.is_empty() && check(KEYS[key], value);
            if fine {
                Ok(GROUPS.len() + key)
            } else {
                Err(invalid())
            }
        }
        None => GROUPS
            .iter()
            .position(|group| group.contains(&option))
            .ok_or_else(invalid),
    }
}

/// Whether a value has the form its option takes.
fn check(key: &str, value: &str) -> bool {
    let digits =
        |text: &str| !text.is_empty() && text.len() < 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    match key {
        "mode" => value.len() <= 5 && value.bytes().all(|byte| matches!(byte, b'0'..=b'7')),
        "uid" | "gid" => value.parse::<u32>().is_ok_and(|id| id < u32::MAX),
        "mpol" => value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'=')),
        "size" => digits(
            value
                .strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', '%'])
                .unwrap_or(value),
        ),
        _ => digits(
            value
                .strip_suffix(['k', 'K', 'm', 'M', 'g', 'G'])
                .unwrap_or(value),
        ),
    }
}

/// The options text of a mount object of type `tmpfs`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for a negative size or a mode above 7777 octal.
pub fn of_mount(options: Option<&models::MountTmpfsOptions>, read_only: bool) -> Result<String> {
    let mut words = Vec::new();
    if read_only {
        words.push("ro".to_owned());
    }
    if let Some(options) = options {
        if options.size_bytes < 0 {
            return Err(Error::invalid(format!(
                "TmpfsOptions.SizeBytes must not be negative: {}",
                options.size_bytes
            )));
        }
        if options.mode > 0o7777 {
            return Err(Error::invalid(format!(
                "TmpfsOptions.Mode is no file mode: {:o} (octal)",
                options.mode
            )));
        }
        if options.mode != 0 {
            words.push(format!("mode={:o}", options.mode));
        }
        if options.size_bytes != 0 {
            words.push(format!("size={}", options.size_bytes));
        }
    }
    Ok(words.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_overridden() {
        for (options, merged) in [
            ("", "noexec,nosuid,nodev,rprivate"),
            ("rw,size=65536k", "noexec,nosuid,nodev,rprivate,rw,size=65536k"),
            ("exec", "nosuid,nodev,rprivate,exec"),
            ("ro,rw", "noexec,nosuid,nodev,rprivate,rw"),
            ("size=1m,size=2m", "noexec,nosuid,nodev,rprivate,size=2m"),
            (
                "mode=1777,uid=5,gid=6",
                "noexec,nosuid,nodev,rprivate,mode=1777,uid=5,gid=6",
            ),
            ("noatime,strictatime", "noexec,nosuid,nodev,rprivate,strictatime"),
            ("defaults,size=50%", "noexec,nosuid,nodev,rprivate,size=50%"),
            ("nr_inodes=10k,,", "noexec,nosuid,nodev,rprivate,nr_inodes=10k"),
        ] {
            assert_eq!(merge(options).unwrap().join(","), merged, "{options}");
        }
    }

    #[test]
    fn bad_options_are_refused() {
        for options in [
            "bogus",
            "size",
            "size=",
            "size=x",
            "mode=9",
            "mode=777777",
            "uid=-1",
            "bind",
            "remount",
            "lowerdir=/",
            "size=1k,rw x",
            "uid=4294967295",
        ] {
            assert!(merge(options).is_err(), "{options}");
        }
        assert_eq!(
            merge("bogus").unwrap_err().to_string(),
            "invalid tmpfs option [\"bogus\"]"
        );
    }

    #[test]
    fn mount_objects() {
        let options = models::MountTmpfsOptions {
            size_bytes: 1 << 20,
            mode: 0o1777,
        };
        assert_eq!(
            of_mount(Some(&options), true).unwrap(),
            "ro,mode=1777,size=1048576"
        );
        assert_eq!(of_mount(None, false).unwrap(), "");
        assert!(
            of_mount(
                Some(&models::MountTmpfsOptions {
                    size_bytes: -1,
                    mode: 0
                }),
                false
            )
            .is_err()
        );
        assert!(
            of_mount(
                Some(&models::MountTmpfsOptions {
                    size_bytes: 0,
                    mode: 0o10000
                }),
                false
            )
            .is_err()
        );
    }
}
