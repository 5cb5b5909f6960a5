//! What a container inherits from its image.

use berth_api::models::{ContainerConfig, HealthConfig, ImageConfig};
use berth_runtime::{Error, Result};

/// Fills in what `config` leaves to the image.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) if there is neither an entrypoint nor a command then.
pub fn image(config: &mut ContainerConfig, image: &ImageConfig) -> Result<()> {
    all(config, image);
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if empty(&config.entrypoint) && empty(&config.cmd) {
        return Err(Error::invalid("no command specified"));
    }
    Ok(())
}

/// Fills in what `config` leaves to the image, be there a command in the end or not.
pub fn all(config: &mut ContainerConfig, image: &ImageConfig) {
    inherit(&mut config.user, &image.user);
    inherit(&mut config.working_dir, &image.working_dir);
    inherit(&mut config.stop_signal, &image.stop_signal);
    for port in image.exposed_ports.keys() {
        config
            .exposed_ports
            .get_or_insert_default()
            .entry(port.clone())
            .or_default();
    }
    // An empty object says no more than none, and is shown as none.
    config.volumes = config.volumes.take().filter(|volumes| !volumes.is_empty());
    for volume in image.volumes.iter().flat_map(|volumes| volumes.keys()) {
        config
            .volumes
            .get_or_insert_default()
            .entry(volume.clone())
            .or_default();
    }
    for (name, value) in image.labels.iter().flatten() {
        config
            .labels
            .get_or_insert_default()
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    environment(config, image);
    health(config, image.healthcheck.as_ref());
    command(config, image);
}

fn inherit(own: &mut String, inherited: &str) {
    if own.is_empty() {
        inherited.clone_into(own);
    }
}

/// The name in `NAME=value`, or in a name alone.
fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn environment(config: &mut ContainerConfig, image: &ImageConfig) {
    let own = config.env.clone().unwrap_or_default();
    for entry in image.env.iter().flatten() {
        if !own.iter().any(|known| name(known) == name(entry)) {
            config.env.get_or_insert_default().push(entry.clone());
        }
    }
}

fn health(config: &mut ContainerConfig, image: Option<&HealthConfig>) {
    let Some(image) = image.filter(|health| **health != HealthConfig::default()) else {
        return;
    };
    let own = config.healthcheck.get_or_insert_default();
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    for (own, inherited) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *own == 0 {
            *own = inherited;
        }
    }
}

fn command(config: &mut ContainerConfig, image: &ImageConfig) {
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if empty(&config.entrypoint) {
        if empty(&config.cmd) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // One empty text is how clients clear the image's entrypoint.
    if config
        .entrypoint
        .as_ref()
        .is_some_and(|list| list.len() == 1 && list[0].is_empty())
    {
        config.entrypoint = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_api::EmptyObject;

    use super::*;

    fn list(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn merged(
        change: impl FnOnce(&mut ContainerConfig),
        image_change: impl FnOnce(&mut ImageConfig),
    ) -> Result<ContainerConfig> {
        let mut config = ContainerConfig {
            cmd: list(&["own"]),
            ..ContainerConfig::default()
        };
        let mut of_image = ImageConfig::default();
        change(&mut config);
        image_change(&mut of_image);
        image(&mut config, &of_image)?;
        Ok(config)
    }

    #[test]
    fn commands() {
        type Words = Option<&'static [&'static str]>;
        type Row = (Words, Words, Words, Words, Option<(Words, Words)>);
        let table: [Row; 8] = [
            // entrypoint and cmd of the request, of the image, and both in the end
            (
                None,
                None,
                Some(&["e"]),
                Some(&["c"]),
                Some((Some(&["e"]), Some(&["c"]))),
            ),
            (
                None,
                Some(&["x"]),
                Some(&["e"]),
                Some(&["c"]),
                Some((Some(&["e"]), Some(&["x"]))),
            ),
            (
                Some(&["y"]),
                None,
                Some(&["e"]),
                Some(&["c"]),
                Some((Some(&["y"]), None)),
            ),
            (
                Some(&[]),
                None,
                Some(&["e"]),
                Some(&["c"]),
                Some((Some(&[]), Some(&["c"]))),
            ),
            (
                Some(&[""]),
                Some(&["x"]),
                Some(&["e"]),
                Some(&["c"]),
                Some((None, Some(&["x"]))),
            ),
            (Some(&[""]), None, Some(&["e"]), Some(&["c"]), None),
            (None, None, None, None, None),
            (None, Some(&[]), None, Some(&["c"]), Some((None, Some(&["c"])))),
        ];
        let own = |words: Words| words.and_then(list);
        for (entrypoint, cmd, image_entrypoint, image_cmd, expected) in table {
            let result = merged(
                |config| (config.entrypoint, config.cmd) = (own(entrypoint), own(cmd)),
                |image| (image.entrypoint, image.cmd) = (own(image_entrypoint), own(image_cmd)),
            );
            match (result, expected) {
                (Ok(config), Some((entrypoint, cmd))) => {
                    assert_eq!((config.entrypoint, config.cmd), (own(entrypoint), own(cmd)));
                }
                (Err(error), None) => assert_eq!(error.to_string(), "no command specified"),
                (result, expected) => panic!("{result:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn texts_maps_and_environment() {
        let config = merged(
            |config| {
                config.user = "me".into();
                config.env = list(&["A=1", "B"]);
                config.labels = Some(BTreeMap::from([("l".into(), "own".into())]));
                config.exposed_ports = Some(BTreeMap::from([("80/tcp".into(), EmptyObject {})]));
            },
            |image| {
                image.user = "other".into();
                image.working_dir = "/srv".into();
                image.stop_signal = "SIGQUIT".into();
                image.env = list(&["A=2", "B=3", "C=4"]);
                image.labels = Some(BTreeMap::from([
                    ("l".into(), "image".into()),
                    ("m".into(), "image".into()),
                ]));
                image.exposed_ports = BTreeMap::from([("81/tcp".into(), EmptyObject {})]);
                image.volumes = Some(BTreeMap::from([("/data".into(), EmptyObject {})]));
                image.shell = vec!["/bin/bash".into()];
            },
        )
        .unwrap();
        assert_eq!(
            (
                config.user.as_str(),
                config.working_dir.as_str(),
                config.stop_signal.as_str()
            ),
            ("me", "/srv", "SIGQUIT")
        );
        assert_eq!(config.env, list(&["A=1", "B", "C=4"]));
        assert_eq!(
            config.labels.unwrap(),
            [("l", "own"), ("m", "image")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .into()
        );
        assert_eq!(config.exposed_ports.unwrap().len(), 2);
        assert!(config.volumes.unwrap().contains_key("/data"));
        assert_eq!(config.shell, None);
    }

    #[test]
    fn health_checks_merge_by_field() {
        let image = |image: &mut ImageConfig| {
            image.healthcheck = Some(HealthConfig {
                test: vec!["CMD".into(), "x".into()],
                interval: 5,
                timeout: 6,
                start_period: 7,
                start_interval: 6,
                retries: 8,
            });
        };
        let inherited = merged(|_| {}, image).unwrap().healthcheck.unwrap();
        assert_eq!((inherited.interval, inherited.retries), (5, 8));
        let own = merged(
            |config| {
                config.healthcheck = Some(HealthConfig {
                    interval: 9,
                    ..HealthConfig::default()
                })
            },
            image,
        );
        let own = own.unwrap().healthcheck.unwrap();
        assert_eq!((own.test[1].as_str(), own.interval, own.timeout), ("x", 9, 6));
        let off = HealthConfig {
            test: vec!["NONE".into()],
            ..HealthConfig::default()
        };
        let off = merged(|config| config.healthcheck = Some(off), image)
            .unwrap()
            .healthcheck
            .unwrap();
        assert_eq!(off.test, ["NONE"]);
        assert_eq!(merged(|_| {}, |_| {}).unwrap().healthcheck, None);
    }
}
