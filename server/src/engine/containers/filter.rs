//! Which containers a list shows.

use std::{collections::HashSet, ops::RangeInclusive, sync::Arc};

use berth_api::{
    ErrorReply, Filters,
    models::{ContainerStateStatus, HealthStatus, PortType},
};
use berth_runtime::{Error, Result};
use regex::{Regex, RegexBuilder};

use super::{
    index::Index,
    model::{Container, Details},
    summary,
    validate::{MountSource, ports},
};

/// The filters of a list, read once.
#[derive(Debug, Default)]
pub struct Selection {
    filters: Filters,
    statuses: HashSet<ContainerStateStatus>,
    healths: HashSet<HealthStatus>,
    exit_codes: Vec<i64>,
    names: Vec<Pattern>,
    ids: Vec<Pattern>,
    full_ids: HashSet<Arc<str>>,
    ancestors: Vec<String>,
    publish: Vec<Ports>,
    expose: Vec<Ports>,
    tasks_only: bool,
    before: Option<Arc<Container>>,
    since: Option<Arc<Container>>,
}

impl Selection {
    /// Reads the filters; `images` gives the ids of the image that a text means and of those built upon it.
    ///
    /// # Errors
    /// Invalid for a bad value; not found for the containers named by `before` and `since`.
    pub fn read(
        filters: Filters,
        index: &Index<Container>,
        images: impl Fn(&str) -> Vec<String>,
    ) -> Result<Self> {
        let bad = |name| Error::invalid(filters.bad_value(name).message);
        let reference = |name| {
            filters
                .values(name)
                .last()
                .map(|text| index.find(text))
                .transpose()
        };
        Ok(Self {
            statuses: parsed(&filters, "status").ok_or_else(|| bad("status"))?,
            healths: parsed(&filters, "health").ok_or_else(|| bad("health"))?,
            exit_codes: parsed(&filters, "exited").ok_or_else(|| bad("exited"))?,
            names: filters.values("name").map(Pattern::new).collect(),
            ids: filters.values("id").map(Pattern::new).collect(),
            full_ids: filters
                .values("id")
                .filter_map(|prefix| index.complete(prefix))
                .collect(),
            ancestors: filters.values("ancestor").flat_map(images).collect(),
            publish: parsed(&filters, "publish").ok_or_else(|| bad("publish"))?,
            expose: parsed(&filters, "expose").ok_or_else(|| bad("expose"))?,
            tasks_only: filters.boolean("is-task").map_err(invalid)? == Some(true),
            before: reference("before")?,
            since: reference("since")?,
            filters,
        })
    }

    /// Whether containers that don't run are asked for by the filters alone.
    pub fn implies_all(&self) -> bool {
        !self.statuses.is_empty()
    }

    /// Cuts a newest-first list at the containers of `before` and `since`.
    pub fn cut<'a>(&self, list: &'a [Arc<Container>]) -> &'a [Arc<Container>] {
        let place = |of: &Option<Arc<Container>>| {
            of.as_ref()
                .and_then(|of| list.iter().position(|c| c.id() == of.id()))
        };
        let start = place(&self.before).map_or(0, |at| at + 1);
        let end = place(&self.since).unwrap_or(list.len());
        list.get(start..end).unwrap_or_default()
    }

    /// Whether a container is wanted.
    pub fn fits(&self, container: &Container, details: &Details) -> bool {
        let state = &details.state;
        let any_or_all = |empty: bool, fits: bool| empty || fits;
        let mut fits = !self.tasks_only
            && any_or_all(self.statuses.is_empty(), self.statuses.contains(&state.status()))
            && any_or_all(
                self.healths.is_empty(),
                self.healths.contains(&summary::health(container, details)),
            )
            && any_or_all(self.exit_codes.is_empty(), {
                !state.is_running()
                    && state.started_at.is_some()
                    && self.exit_codes.contains(&state.exit_code)
            });
        fits = fits && self.identity(container, details) && self.places(details);
        fits && self.ports(container, details)
    }

    fn identity(&self, container: &Container, details: &Details) -> bool {
        let slashed = format!("/{}", details.name);
        let name = self
            .names
            .iter()
            .any(|n| n.fits(&details.name) || n.fits(&slashed));
        let id = self.full_ids.contains(container.id()) || self.ids.iter().any(|i| i.fits(container.id()));
        let labels = container.config().labels.as_ref();
        (self.names.is_empty() || name)
            && (self.ids.is_empty() || id)
            && self
                .filters
                .labels(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
            && (!self.filters.contains("ancestor") || self.ancestors.contains(&container.identity.image))
    }

    fn places(&self, details: &Details) -> bool {
        let network = |wanted: &str| {
            details.networks.iter().any(|(name, endpoint)| {
                name == wanted || (!wanted.is_empty() && endpoint.network_id.starts_with(wanted))
            })
        };
        let volume = |wanted: &str| {
            details.mounts.iter().any(|mount| {
                let source = match &mount.source {
                    MountSource::Volume(volume) => &volume.name,
                    MountSource::Bind(bind) => &bind.path,
                    MountSource::Tmpfs { .. } => "",
                };
                mount.destination == wanted || (!wanted.is_empty() && source == wanted)
            })
        };
        self.filters.any("network", network) && self.filters.any("volume", volume)
    }

    fn ports(&self, container: &Container, details: &Details) -> bool {
        if self.publish.is_empty() && self.expose.is_empty() {
            return true;
        }
        // What was asked for, whether the container runs or not.
        let exposed = ports::exposed(container.config());
        let bound = details.host_config.port_bindings.iter();
        let published = bound.flat_map(|(port, bindings)| {
            let host_ports = bindings
                .iter()
                .flatten()
                .map(|binding| binding.host_port.as_str());
            host_ports.map(move |number| (port, number))
        });
        self.expose
            .iter()
            .any(|wanted| exposed.iter().any(|port| wanted.fits(None, port)))
            || published
                .clone()
                .any(|(port, number)| self.publish.iter().any(|w| w.fits(Some(number), port)))
    }
}

fn invalid(reply: ErrorReply) -> Error {
    Error::invalid(reply.message)
}

fn parsed<T: std::str::FromStr, C: FromIterator<T>>(filters: &Filters, name: &str) -> Option<C> {
    filters.values(name).map(|value| value.parse().ok()).collect()
}

/// A text that is looked for as it is, or as an expression.
#[derive(Debug)]
struct Pattern {
    text: String,
    expression: Option<Regex>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            expression: RegexBuilder::new(text).size_limit(1 << 20).build().ok(),
        }
    }

    fn fits(&self, value: &str) -> bool {
        self.text == value
            || self
                .expression
                .as_ref()
                .is_some_and(|expression| expression.is_match(value))
    }
}

/// Ports as `port[/protocol]` or `first-last[/protocol]`.
#[derive(Debug, PartialEq, Eq)]
struct Ports {
    range: RangeInclusive<u16>,
    protocol: PortType,
}

impl std::str::FromStr for Ports {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let port = |text: &str| text.parse::<u16>().map_err(drop);
        let range = port(first)?..=port(last)?;
        match range.is_empty() {
            true => Err(()),
            false => Ok(Self {
                range,
                protocol: protocol.to_ascii_lowercase().parse().map_err(drop)?,
            }),
        }
    }
}

impl Ports {
    /// Whether `port` (`number[/protocol]`) is among these, or another number with its protocol.
    fn fits(&self, number: Option<&str>, port: &str) -> bool {
        let (own, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let number = number.unwrap_or(own).parse::<u16>();
        number.is_ok_and(|number| self.range.contains(&number)) && protocol.parse() == Ok(self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use berth_api::models::{ContainerConfig, EndpointSettings};
    use berth_runtime::Kind;
    use jiff::Timestamp;

    use super::*;
    use crate::engine::containers::{
        model::{self, Record},
        validate::{MountPoint, VolumeSource},
    };

    fn container(
        id: &str,
        name: &str,
        change: impl FnOnce(&mut ContainerConfig, &mut Details),
    ) -> Arc<Container> {
        let mut config = ContainerConfig::default();
        let mut details = Details::new(name);
        change(&mut config, &mut details);
        Container::new(
            Record {
                identity: model::test_identity(id, config),
                details,
            },
            None,
        )
    }

    fn index() -> Arc<Index<Container>> {
        let index = Arc::new(Index::default());
        let at = Timestamp::from_second(5).unwrap();
        for container in [
            container("aa01", "web", |config, details| {
                config.labels = Some([("tier".to_owned(), "front".to_owned())].into());
                details.state.run(7, at);
                details.networks = Arc::new(
                    [(
                        "front".to_owned(),
                        EndpointSettings {
                            network_id: "beef".into(),
                            ..Default::default()
                        },
                    )]
                    .into(),
                );
            }),
            container("aa02", "web2", |_, details| {
                details.state.run(8, at);
                details.state.end(3, at, false, false);
                details.mounts = Arc::new(vec![MountPoint {
                    source: MountSource::Volume(VolumeSource {
                        name: "data".into(),
                        path: Some("/var/x".into()),
                        ..VolumeSource::default()
                    }),
                    destination: "/data".into(),
                    read_only: false,
                    mode: String::new(),
                }]);
            }),
            container("bb03", "db", |config, _| {
                config.exposed_ports = Some([("80/tcp".to_owned(), Default::default())].into());
            }),
        ] {
            index
                .reserve(&container.now().name, container.id())
                .unwrap()
                .keep();
            index.insert(container.id(), container.clone());
        }
        index
    }

    fn select(filters: &str) -> Result<String> {
        let index = index();
        let image = |name: &str| {
            (name == "busybox")
                .then(|| "sha256:11".to_owned())
                .into_iter()
                .collect()
        };
        let selection = Selection::read(Filters::parse(filters).unwrap(), &index, image)?;
        let all = index.all();
        let fits = selection.cut(&all).iter().filter(|c| selection.fits(c, &c.now()));
        Ok(fits.map(|c| c.now().name.clone()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn each_filter_selects() {
        for (filters, names) in [
            (r"{}", "web web2 db"),
            (r#"{"name":["web"]}"#, "web web2"),
            (r#"{"name":["^/web$"]}"#, "web"),
            (r#"{"name":["(bad"]}"#, ""),
            (r#"{"id":["bb"]}"#, "db"),
            (r#"{"id":["aa"]}"#, "web web2"),
            (r#"{"id":["2$"]}"#, "web2"),
            (r#"{"status":["exited"]}"#, "web2"),
            (r#"{"status":["created","running"]}"#, "web db"),
            (r#"{"exited":["3"]}"#, "web2"),
            (r#"{"exited":["0"]}"#, ""),
            (r#"{"label":["tier"]}"#, "web"),
            (r#"{"label":{"tier=back":true}}"#, ""),
            (r#"{"network":["front"]}"#, "web"),
            (r#"{"network":["be"]}"#, "web"),
            (r#"{"volume":["data"]}"#, "web2"),
            (r#"{"volume":["/data"]}"#, "web2"),
            (r#"{"volume":["/var/x"]}"#, ""),
            (r#"{"ancestor":["busybox"]}"#, "web web2 db"),
            (r#"{"ancestor":["unheard-of"]}"#, ""),
            (r#"{"is-task":["true"]}"#, ""),
            (r#"{"is-task":["false"]}"#, "web web2 db"),
            (r#"{"health":["none"]}"#, "web web2 db"),
            (r#"{"before":["web2"]}"#, "db"),
            (r#"{"since":["web2"]}"#, "web"),
            (r#"{"name":["web"],"status":["running"]}"#, "web"),
            (r#"{"expose":["80"]}"#, "db"),
            (r#"{"expose":["70-90/tcp"]}"#, "db"),
            (r#"{"expose":["80/udp"]}"#, ""),
            (r#"{"publish":["80"]}"#, ""),
        ] {
            assert_eq!(select(filters).unwrap(), names, "{filters}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for filters in [
            r#"{"status":["asleep"]}"#,
            r#"{"health":["fine"]}"#,
            r#"{"exited":["x"]}"#,
            r#"{"is-task":["perhaps"]}"#,
            r#"{"publish":["80:80"]}"#,
            r#"{"expose":["9-8"]}"#,
        ] {
            assert_eq!(select(filters).unwrap_err().kind(), Kind::Invalid, "{filters}");
        }
        assert_eq!(
            select(r#"{"before":["nobody"]}"#).unwrap_err().kind(),
            Kind::NotFound
        );
    }

    #[test]
    fn ports_are_read() {
        let ports = |text: &str| text.parse::<Ports>();
        assert_eq!(
            ports("53/udp").unwrap(),
            Ports {
                range: 53..=53,
                protocol: PortType::Udp
            }
        );
        assert_eq!(ports("80-90").unwrap().range, 80..=90);
        assert!(ports("80/tcp/x").is_err() && ports("x").is_err() && ports("70000").is_err());
    }
}
