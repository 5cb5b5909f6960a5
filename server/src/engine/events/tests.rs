use super::*;

fn publish(events: &Events, action: &str) {
    events.publish(EventMessageType::Container, action, "id", Attributes::new());
}

fn all(events: &Events) -> Vec<Arc<Event>> {
    events.ring().kept.iter().cloned().collect()
}

async fn action(follower: &mut Follower) -> String {
    match follower.next().await {
        Some(Item::Event(event)) => event.action.clone(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn live_only_without_a_time() {
    let events = Arc::new(Events::default());
    publish(&events, "before");
    let mut follower = events.follow(Filters::default(), None, None);
    assert_eq!(events.followers(), 1);
    publish(&events, "after");
    assert_eq!(action(&mut follower).await, "after");
    drop(follower);
    assert_eq!(events.followers(), 0);
}

#[tokio::test]
async fn times_increase_strictly_and_bounds_are_included() {
    let events = Arc::new(Events::default());
    for n in 0..10 {
        publish(&events, &n.to_string());
    }
    let kept = all(&events);
    assert!(kept.windows(2).all(|pair| pair[0].at < pair[1].at));
    let mut follower = events.follow(Filters::default(), Some(kept[3].at), Some(kept[5].at));
    for n in 3..=5 {
        assert_eq!(action(&mut follower).await, n.to_string());
    }
    assert_eq!(follower.next().await, None);
}

#[tokio::test]
async fn a_time_in_the_past_ends_at_once_and_until_alone_replays() {
    let events = Arc::new(Events::default());
    publish(&events, "one");
    let until = Timestamp::now();
    let mut follower = events.follow(Filters::default(), None, Some(until));
    assert_eq!(action(&mut follower).await, "one");
    assert_eq!(follower.next().await, None);
}

#[tokio::test]
async fn until_in_the_future_ends_then() {
    let events = Arc::new(Events::default());
    let until = Timestamp::now() + jiff::SignedDuration::from_millis(50);
    let mut follower = events.follow(Filters::default(), None, Some(until));
    publish(&events, "now");
    assert_eq!(action(&mut follower).await, "now");
    assert_eq!(follower.next().await, None);
    assert!(Timestamp::now() >= until);
}

#[tokio::test]
async fn only_what_fits() {
    let events = Arc::new(Events::default());
    let wanted = Filters::default().with("event", "die");
    let mut follower = events.follow(wanted, None, None);
    for name in ["start", "die", "destroy"] {
        publish(&events, name);
    }
    assert_eq!(action(&mut follower).await, "die");
    assert!(follower.kept().is_none());
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed() {
    let events = Arc::new(Events::default());
    let mut follower = events.follow(Filters::default(), None, None);
    for n in 0..KEPT + 7 {
        publish(&events, &n.to_string());
    }
    assert_eq!(follower.next().await, Some(Item::Missed(7)));
    for n in 7..KEPT + 7 {
        assert_eq!(action(&mut follower).await, n.to_string());
    }
    assert!(follower.kept().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_and_live_meet_without_loss_or_repetition() {
    let events = Arc::new(Events::default());
    publish(&events, "0");
    let writer = tokio::spawn({
        let events = Arc::clone(&events);
        async move {
            for n in 1..500 {
                publish(&events, &n.to_string());
                tokio::task::yield_now().await;
            }
        }
    });
    let mut since = Timestamp::UNIX_EPOCH;
    let mut seen = Vec::new();
    while seen.len() < 500 {
        // A client that reconnects with the time of the event after the last one it has.
        let mut follower = events.follow(Filters::default(), Some(since), None);
        for _ in 0..7 {
            if seen.len() == 500 {
                break;
            }
            let Some(Item::Event(event)) = follower.next().await else {
                panic!("the stream ended or lost events");
            };
            since = event.at + jiff::SignedDuration::from_nanos(1);
            seen.push(event.number);
        }
    }
    writer.await.unwrap();
    assert!(seen.iter().copied().eq(0..500));
}
