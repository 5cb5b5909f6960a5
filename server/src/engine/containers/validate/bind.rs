//! Mounts as text: `source:destination[:modes]`, as `HostConfig.Binds` has them.

use berth_runtime::{Error, Result};

use super::{
    mount_point::{BindSource, MountPoint, MountSource, Propagation, VolumeSource},
    mounts::{check_destination, check_proc},
    path,
};

/// What the comma-separated words after the second colon say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// `ro`.
    pub read_only: bool,
    /// One of the propagation words.
    pub propagation: Option<Propagation>,
    /// `nocopy`.
    pub no_copy: bool,
    /// `idmap`, of our own: files show with the ids of the container's user namespace.
    pub mapped: bool,
}

/// The mode that is shown of volumes for which none was given, as Docker does.
pub const VOLUME_MODE: &str = "z";

impl Modes {
    /// Reads modes; an empty text has none.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for an unknown word, and for two words of one kind.
    pub fn parse(text: &str) -> Result<Self> {
        let mut modes = Self::default();
        if text.is_empty() {
            return Ok(modes);
        }
        let invalid = || Error::invalid(format!("invalid mode: {text}"));
        let mut seen = [false; 6];
        for word in text.split(',') {
            let kind = match word {
                "rw" | "ro" => 0,
                "z" | "Z" => 1,
                "nocopy" => 2,
                "consistent" | "cached" | "delegated" => 3,
                _ if Propagation::parse(word).is_some() => 4,
                "idmap" => 5,
                _ => return Err(invalid()),
            };
            if std::mem::replace(&mut seen[kind], true) {
                return Err(invalid());
            }
            modes.read_only |= word == "ro";
            modes.no_copy |= word == "nocopy";
            modes.mapped |= word == "idmap";
            modes.propagation = modes.propagation.or_else(|| Propagation::parse(word));
        }
        Ok(modes)
    }
}

/// Reads one mount. An absolute source is a path of the host, another one a volume's name; a destination alone is
/// an anonymous volume. `volume_driver` is the driver of volumes that do not exist yet. Says also whether the text names
/// a propagation.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for anything malformed.
pub fn parse(text: &str, volume_driver: &str) -> Result<(MountPoint, bool)> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts[..] {
        [destination] if !destination.is_empty() => ("", destination, ""),
        // A mode in second place would make the source the destination: `/foo:ro`.
        ["", ..] => return Err(invalid()),
        [_, destination] if Modes::parse(destination).is_ok() => return Err(invalid()),
        [source, destination] => (source, destination, ""),
        [source, destination, mode] => (source, destination, mode),
        _ => return Err(invalid()),
    };
    let modes = Modes::parse(mode)?;
    let destination = check_destination(destination).map_err(|error| {
        let kind = if source.starts_with('/') { "bind" } else { "volume" };
        Error::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {error}"
        ))
    })?;
    let is_bind = source.starts_with('/');
    check_proc(&destination, is_bind)?;
    let source = if is_bind {
        if source.contains('\0') {
            return Err(invalid());
        }
        MountSource::Bind(BindSource {
            path: path::clean(source),
            propagation: modes.propagation.unwrap_or_default(),
            recursive: true,
            recursive_read_only: false,
            create: true,
            fallback: false,
            mapped: modes.mapped,
        })
    } else {
        if modes.mapped {
            return Err(Error::invalid(format!(
                "invalid volume specification: '{text}': only the ids of a bind can be mapped (idmap)"
            )));
        }
        if modes.propagation.is_some() {
            return Err(Error::invalid(format!(
                "invalid mount config for type \"volume\": field BindOptions must not be specified: '{text}' asks for a propagation"
            )));
        }
        MountSource::Volume(VolumeSource {
            name: source.to_owned(),
            driver: volume_driver.to_owned(),
            copy_up: !modes.no_copy,
            anonymous: source.is_empty(),
            ..VolumeSource::default()
        })
    };
    let mode = match &source {
        MountSource::Volume(volume) if mode.is_empty() && !volume.anonymous => VOLUME_MODE.to_owned(),
        _ => mode.to_owned(),
    };
    let point = MountPoint {
        destination,
        source,
        read_only: modes.read_only,
        mode,
    };
    Ok((point, modes.propagation.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(text: &str) -> (String, BindSource, bool) {
        let point = parse(text, "").unwrap().0;
        match point.source {
            MountSource::Bind(bind) => (point.destination, bind, point.read_only),
            other => panic!("{text} is no bind: {other:?}"),
        }
    }

    #[test]
    fn host_paths() {
        let (destination, source, read_only) = bind("/srv//data/:/data/./x/:ro,rslave");
        assert_eq!(destination, "/data/x");
        assert_eq!(source.path, "/srv/data");
        assert_eq!(source.propagation, Propagation::Rslave);
        assert!(read_only && source.create && source.recursive);
        assert_eq!(bind("/a:/b").1.propagation, Propagation::Rprivate);
        assert!(!bind("/a:/b:rw,z,consistent,nocopy").2);
        assert_eq!(parse("/a:/b:ro,Z", "").unwrap().0.mode, "ro,Z");
    }

    #[test]
    fn volumes() {
        let point = parse("cache:/var/cache:nocopy", "nfs").unwrap().0;
        let MountSource::Volume(volume) = point.source else {
            panic!("no volume")
        };
        assert_eq!(
            (
                volume.name.as_str(),
                volume.driver.as_str(),
                volume.copy_up,
                volume.anonymous
            ),
            ("cache", "nfs", false, false)
        );
        assert_eq!(point.mode, "nocopy");
        assert_eq!(parse("cache:/var/cache", "").unwrap().0.mode, "z");
        let MountSource::Volume(volume) = parse("/data", "").unwrap().0.source else {
            panic!("no volume")
        };
        assert!(volume.anonymous && volume.name.is_empty() && volume.copy_up);
    }

    #[test]
    fn malformed_texts() {
        for (text, message) in [
            ("", "invalid volume specification: ''"),
            (":", "invalid volume specification: ':'"),
            (":/a", "invalid volume specification: ':/a'"),
            ("/a:ro", "invalid volume specification: '/a:ro'"),
            ("/a:", "invalid volume specification: '/a:'"),
            ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
            ("/a:/b:rx", "invalid mode: rx"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("/a:/b:ro,ro", "invalid mode: ro,ro"),
            ("/a:/b:z,Z", "invalid mode: z,Z"),
            ("/a:/b:shared,slave", "invalid mode: shared,slave"),
            ("/a:/b:ro,", "invalid mode: ro,"),
            (
                "/a:/",
                "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
            ),
            (
                "/a:/b/..",
                "invalid volume specification: '/a:/b/..': invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
            ),
            (
                "/a:b",
                "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute",
            ),
            (
                "a",
                "invalid volume specification: 'a': invalid mount config for type \"volume\": invalid mount path: 'a' mount path must be absolute",
            ),
            (
                "/a:/proc/self",
                "\"/proc/self\" cannot be mounted because it is inside /proc",
            ),
            (
                "v:/proc",
                "\"/proc\" cannot be mounted because it is not of type proc",
            ),
            (
                "v:/a:rshared",
                "invalid mount config for type \"volume\": field BindOptions must not be specified: 'v:/a:rshared' asks for a propagation",
            ),
        ] {
            assert_eq!(parse(text, "").unwrap_err().to_string(), message, "{text}");
        }
        parse("/a:/proc/cpuinfo", "").unwrap();
        parse("/proc:/proc", "").unwrap();
    }
}
