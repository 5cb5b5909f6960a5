//! Who is killed when, and what is found afterwards.

use std::{io::Write, os::fd::OwnedFd};

use berth_runtime::supervisor::{Control, Event, Recovered, Request, Status, recover};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, pidfd_send_signal},
};

use crate::{
    SPARE,
    container::{ALL, Bundle, Container, PATIENCE, alive, frames},
};

crate::tests![
    a_new_engine_finds_its_container,
    a_new_engine_starts_what_the_old_one_created,
    what_ended_meanwhile_is_found,
    a_killed_supervisor_takes_its_container_along,
    a_supervisor_killed_before_the_start,
    a_request_of_a_dead_engine_is_not_carried_out,
    two_cannot_have_one_bundle,
];

/// What happens to an engine that is killed: its descriptors are closed.
fn kill_engine(container: Container) -> (Bundle, Control) {
    let stream = match recover(container.bundle.path()).unwrap() {
        Recovered::Alive(stream) => stream,
        other => panic!("{other:?}"),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (container.leave(), Control::new(stream))
}

fn state(control: &mut Control) -> Status {
    match control.next_event().unwrap() {
        Some(Event::State(state)) => state.status,
        other => panic!("{other:?}"),
    }
}

/// Waits for the end of a process.
fn gone(process: &OwnedFd) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let mut end = [PollFd::new(process, PollFlags::IN)];
    assert_eq!(
        poll(&mut end, Some(&patience)).unwrap(),
        1,
        "the supervisor goes on"
    );
}

fn exit_code(control: &mut Control) -> i32 {
    loop {
        if let Event::Exit(status) = control.next_event().unwrap().expect("an event") {
            return status.exit_code;
        }
    }
}

fn a_new_engine_finds_its_container() {
    // The spawner ends with its engine.
    let spawner = SPARE.lock().unwrap().pop().unwrap();
    let mut container = Bundle::shell("read x; echo \"<$x>\"; exit 6")
        .stdin(true)
        .launch_with(&spawner);
    container.start();
    let socket = container.socket();
    drop(spawner);
    let (_bundle, mut control) = kill_engine(container);
    assert_eq!(state(&mut control), Status::Running);
    let mut stream = berth_runtime::supervisor::connect_attach(&socket, ALL)
        .unwrap()
        .stream;
    stream.write_all(b"x\n").unwrap();
    assert_eq!(frames(&mut stream).0, "<x>\n");
    assert_eq!(exit_code(&mut control), 6);
}

fn a_new_engine_starts_what_the_old_one_created() {
    let container = Bundle::shell("exit 8").launch();
    let (_bundle, mut control) = kill_engine(container);
    assert_eq!(state(&mut control), Status::Created);
    control.call(Request::Start {}).unwrap();
    assert_eq!(exit_code(&mut control), 8);
}

fn what_ended_meanwhile_is_found() {
    let mut container = Bundle::shell("echo last; exit 11").launch();
    container.start();
    let supervisor = container.launched.supervisor.try_clone().unwrap();
    let bundle = container.leave();
    gone(&supervisor);
    match recover(bundle.path()).unwrap() {
        Recovered::Exited(status) => assert_eq!(status.exit_code, 11),
        other => panic!("{other:?}"),
    }
}

fn lost(container: &mut Container) {
    pidfd_send_signal(&container.launched.supervisor, Signal::KILL).unwrap();
    while container.control.next_event().unwrap().is_some() {}
    let status = match recover(container.bundle.path()).unwrap() {
        Recovered::Lost(status) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!((status.exit_code, status.pid), (137, container.pid));
    assert_eq!(container.exit_file(), status);
    assert!(!alive(container.pid) && container.cgroup().is_none() && !container.socket().exists());
    match recover(container.bundle.path()).unwrap() {
        Recovered::Exited(again) => assert_eq!(again, status),
        other => panic!("{other:?}"),
    }
}

fn a_killed_supervisor_takes_its_container_along() {
    let sleeper = || Bundle::command(&["/bin/sleep", "1000"]);
    for bundle in [sleeper(), sleeper().init()] {
        let mut container = bundle.start();
        lost(&mut container);
        assert!(container.exit_file().started_at.is_some());
    }
}

fn a_supervisor_killed_before_the_start() {
    let mut container = Bundle::command(&["/bin/sleep", "1000"]).launch();
    lost(&mut container);
    assert!(container.exit_file().started_at.is_none());
}

fn a_request_of_a_dead_engine_is_not_carried_out() {
    let bundle = Bundle::shell("true");
    // The bundle's lock is what a new engine holds while it decides; a launch that comes late finds it taken.
    let lock = std::fs::File::open(bundle.path()).unwrap();
    lock.lock().unwrap();
    let mut control = bundle.launch_raw();
    assert!(matches!(
        control.next_event().unwrap(),
        Some(Event::Failed { id: 0, .. })
    ));
    assert!(!bundle.path().join("exit.json").exists());
    drop(lock);
    assert!(matches!(recover(bundle.path()).unwrap(), Recovered::Lost(status) if status.pid == 0));
}

fn two_cannot_have_one_bundle() {
    let mut container = Bundle::command(&["/bin/sleep", "1000"]).start();
    let second = crate::SPAWNER
        .get()
        .unwrap()
        .launch(container.bundle.path())
        .unwrap();
    let mut control = Control::new(second.control);
    assert!(matches!(
        control.next_event().unwrap(),
        Some(Event::Failed { id: 0, .. })
    ));
    container.signal(9);
    assert_eq!(container.exit().exit_code, 137);
}
