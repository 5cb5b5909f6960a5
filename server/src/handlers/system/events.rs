//! `GET /events`.

use berth_api::{
    ApiVersion, JsonStream, SystemEventsQuery,
    models::{EventActor, EventMessage, EventMessageScope, EventMessageType},
};
use berth_runtime::{Error, Result};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use crate::{
    engine::{
        Engine,
        events::{Event, Item},
        time,
    },
    failure::Reply,
};

/// Events of an image's creation are hidden from clients below this version.
const IMAGE_CREATE_SINCE: ApiVersion = ApiVersion::new(1, 46);

/// Kept and coming events as the query asks for them.
pub fn events(
    engine: &Engine,
    version: ApiVersion,
    query: SystemEventsQuery,
) -> Reply<JsonStream<EventMessage>> {
    let since = moment(&query.since)?;
    let until = moment(&query.until)?;
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(Error::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            query.since, query.until
        ))
        .into());
    }
    let follower = engine.events.follow(query.filters, since, until);
    let id = engine.id.clone();
    let items = stream::unfold(follower, |mut follower| async {
        let item = follower.next().await?;
        Some((item, follower))
    });
    let visible = move |item: &Item| {
        let hidden = version < IMAGE_CREATE_SINCE
            && matches!(item, Item::Event(event)
                if event.subject == EventMessageType::Image && event.action == "create");
        std::future::ready(!hidden)
    };
    Ok(JsonStream::of(items.filter(visible).map(
        move |item| match item {
            Item::Event(event) => message(&event),
            Item::Missed(count) => gap(&id, count),
        },
    )))
}

/// An empty text is no time.
fn moment(text: &str) -> Result<Option<Timestamp>> {
    if text.is_empty() {
        Ok(None)
    } else {
        time::parse_moment_now(text).map(Some)
    }
}

fn message(event: &Event) -> EventMessage {
    let nanos = i64::try_from(event.at.as_nanosecond()).unwrap_or(i64::MAX);
    let mut message = EventMessage {
        r#type: event.subject,
        action: event.action.clone(),
        actor: EventActor {
            id: event.id.clone(),
            attributes: event.attributes.clone(),
        },
        scope: EventMessageScope::Local,
        time: event.at.as_second(),
        time_nano: nanos,
        ..EventMessage::default()
    };
    // What clients read before events had actors.
    if matches!(
        event.subject,
        EventMessageType::Container | EventMessageType::Image
    ) {
        message.status.clone_from(&event.action);
        message.id.clone_from(&event.id);
    }
    if event.subject == EventMessageType::Container {
        message.from = event.attributes.get("image").cloned().unwrap_or_default();
    }
    message
}

/// Tells a client that was too slow that `count` events, of whatever kind, are lost to it.
fn gap(engine_id: &str, count: u64) -> EventMessage {
    message(&Event {
        number: 0,
        at: Timestamp::now(),
        subject: EventMessageType::Daemon,
        action: "events-missed".into(),
        id: engine_id.into(),
        attributes: [("missed".to_owned(), count.to_string())].into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subject: EventMessageType) -> EventMessage {
        message(&Event {
            number: 7,
            at: Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap(),
            subject,
            action: "start".into(),
            id: "4c01".into(),
            attributes: [("image".to_owned(), "alpine".to_owned())].into(),
        })
    }

    #[test]
    fn old_fields_are_for_containers_and_images() {
        let container = event(EventMessageType::Container);
        assert_eq!(
            (container.time, container.time_nano),
            (1_700_000_000, 1_700_000_000_123_456_789)
        );
        assert_eq!(container.status, "start");
        assert_eq!(
            (container.id.as_str(), container.from.as_str()),
            ("4c01", "alpine")
        );
        let image = event(EventMessageType::Image);
        assert_eq!((image.id.as_str(), image.from.as_str()), ("4c01", ""));
        let network = event(EventMessageType::Network);
        assert_eq!((network.status.as_str(), network.id.as_str()), ("", ""));
        assert_eq!(network.actor.id, "4c01");
    }

    #[test]
    fn a_gap_says_how_many() {
        let gap = gap("engine", 12);
        assert_eq!(gap.r#type, EventMessageType::Daemon);
        assert_eq!(gap.actor.attributes["missed"], "12");
    }
}
