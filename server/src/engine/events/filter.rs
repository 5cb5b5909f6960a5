//! Which events a follower wants.

use berth_api::{Filters, models::EventMessageType};

use super::Event;

/// Actions that a filter value without what follows the colon also matches.
const WITH_DETAIL: [&str; 3] = ["health_status", "exec_create", "exec_start"];

/// Filters whose name is a type of object; they compare id and name of the events' objects, whatever their type.
const OBJECTS: [&str; 9] = [
    "config",
    "container",
    "daemon",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
];

/// Whether `filters` want `event`. Names must all match, of the values of one name any, of labels all. Unknown
/// names are ignored.
pub(super) fn fits(filters: &Filters, event: &Event) -> bool {
    let name = event.attributes.get("name").map_or("", String::as_str);
    filters.exact("type", event.subject.as_str())
        && filters.exact("scope", "local")
        && action(filters, &event.action)
        && image(filters, event)
        && filters.values("label").all(|wanted| has_label(event, wanted))
        && OBJECTS.iter().all(|object| {
            filters.any(object, |value| {
                event.id.starts_with(value) || name.starts_with(value)
            })
        })
}

/// Exact, but by prefix as soon as one of the values is an action that comes with a detail.
fn action(filters: &Filters, action: &str) -> bool {
    let prefix = filters.values("event").any(|value| WITH_DETAIL.contains(&value));
    filters.any("event", |value| {
        if prefix {
            action.starts_with(value)
        } else {
            action == value
        }
    })
}

/// The image itself, or the image of a container, by id or name, with or without tag.
fn image(filters: &Filters, event: &Event) -> bool {
    let attribute = if event.subject == EventMessageType::Image {
        "name"
    } else {
        "image"
    };
    let name = event.attributes.get(attribute).map_or("", String::as_str);
    filters.any("image", |value| {
        [event.id.as_str(), name, repository(&event.id), repository(name)].contains(&value)
    })
}

/// `key` or `key=value`.
fn has_label(event: &Event, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => event.attributes.get(key).is_some_and(|v| v == value),
        None => event.attributes.contains_key(wanted),
    }
}

/// An image reference without tag and digest, and without the default registry's parts.
fn repository(reference: &str) -> &str {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let tag = name
        .rfind(':')
        .filter(|colon| name.rfind('/').is_none_or(|slash| slash < *colon));
    let name = tag.and_then(|colon| name.get(..colon)).unwrap_or(name);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn wants(values: &[(&str, &[&str])], event: &Event) -> bool {
        let filters = values.iter().fold(Filters::default(), |filters, (name, values)| {
            values
                .iter()
                .fold(filters, |filters, value| filters.with(name, value))
        });
        fits(&filters, event)
    }

    fn event(subject: EventMessageType, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
        Event {
            number: 0,
            at: Timestamp::UNIX_EPOCH,
            subject,
            action: action.into(),
            id: id.into(),
            attributes: attributes
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    fn start() -> Event {
        let attributes = [("name", "web1"), ("image", "nginx:1.27"), ("tier", "front")];
        event(EventMessageType::Container, "start", "4c01db", &attributes)
    }

    #[test]
    fn no_filter_fits_everything() {
        assert!(wants(&[], &start()));
        assert!(wants(&[("unheard-of", &["x"])], &start()));
    }

    #[test]
    fn names_are_and_values_are_or() {
        assert!(wants(
            &[("type", &["image", "container"]), ("event", &["start"])],
            &start()
        ));
        assert!(!wants(&[("type", &["container"]), ("event", &["die"])], &start()));
    }

    #[test]
    fn objects_match_by_id_or_name_and_prefix() {
        for value in ["4c01db", "4c", "web1", "web"] {
            assert!(wants(&[("container", &[value])], &start()), "{value}");
        }
        assert!(!wants(&[("container", &["eb1"])], &start()));
        assert!(
            wants(&[("network", &["web"])], &start()),
            "types are not told apart"
        );
    }

    #[test]
    fn actions_are_exact_but_for_those_with_a_detail() {
        let health = event(EventMessageType::Container, "health_status: healthy", "1", &[]);
        assert!(wants(&[("event", &["health_status"])], &health));
        assert!(wants(&[("event", &["health_status: healthy"])], &health));
        assert!(!wants(&[("event", &["health"])], &health));
        assert!(!wants(&[("event", &["star"])], &start()));
        let exec = event(EventMessageType::Container, "exec_create: ls -l", "1", &[]);
        assert!(wants(&[("event", &["exec_create"])], &exec));
        assert!(!wants(&[("event", &["exec_start"])], &exec));
    }

    #[test]
    fn images_match_with_and_without_tag() {
        for value in ["nginx", "nginx:1.27"] {
            assert!(wants(&[("image", &[value])], &start()), "{value}");
        }
        assert!(!wants(&[("image", &["ngin"])], &start()));
        let pull = event(
            EventMessageType::Image,
            "pull",
            "reg:5000/a/b:2",
            &[("name", "reg:5000/a/b")],
        );
        assert!(wants(&[("image", &["reg:5000/a/b"])], &pull));
        assert!(wants(&[("image", &["reg:5000/a/b:2"])], &pull));
        assert!(!wants(&[("image", &["reg"])], &pull));
    }

    #[test]
    fn labels_must_all_hold() {
        assert!(wants(&[("label", &["tier"])], &start()));
        assert!(wants(&[("label", &["tier=front", "name"])], &start()));
        assert!(!wants(&[("label", &["tier=back"])], &start()));
        assert!(!wants(&[("label", &["tier", "zone"])], &start()));
    }

    #[test]
    fn scope_is_local() {
        assert!(wants(&[("scope", &["local"])], &start()));
        assert!(!wants(&[("scope", &["swarm"])], &start()));
    }

    #[test]
    fn repository_of_a_reference() {
        for (reference, name) in [
            ("nginx", "nginx"),
            ("nginx:1", "nginx"),
            ("docker.io/library/nginx:1", "nginx"),
            ("reg:5000/a", "reg:5000/a"),
            ("a/b@sha256:00", "a/b"),
            ("", ""),
        ] {
            assert_eq!(repository(reference), name);
        }
    }
}
