//! From creation to exit status.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    thread,
};

use berth_runtime::{
    Kind,
    supervisor::{Event, Recovered, Request, Status, recover},
};
use serde_json::json;

use crate::{
    SPARE, SPAWNER,
    container::{Bundle, OUTPUT, alive, eventually, frames},
};

crate::tests![
    output_log_and_status_of_a_short_life,
    signals_make_the_status,
    a_program_that_cannot_run_is_told,
    a_bad_specification_is_told,
    an_aborted_container_leaves_nothing,
    want_of_memory_is_told,
    want_of_memory_is_told_while_the_container_goes_on,
    leftovers_of_a_shared_pid_namespace_are_ended,
    a_stranger_cannot_keep_the_output_open,
    many_at_once,
    a_bundle_may_have_a_long_path,
    a_dead_spawner_is_noticed,
    an_idle_supervisor_is_small,
];

fn output_log_and_status_of_a_short_life() {
    let mut container = Bundle::shell("echo out; echo err >&2; exit 3").launch();
    let mode = fs::metadata(container.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = container.attach(OUTPUT);
    let mut other = container.connect();
    match other.next_event().unwrap() {
        Some(Event::State(state)) => {
            assert_eq!((state.status, state.pid), (Status::Created, container.pid));
        }
        event => panic!("{event:?}"),
    }
    container.start();
    assert_eq!(frames(&mut stream), ("out\n".into(), "err\n".into()));
    let status = container.exit();
    assert_eq!(
        (status.exit_code, status.signal, status.oom_killed),
        (3, None, false)
    );
    assert!(status.started_at.unwrap() <= status.finished_at);
    assert!(matches!(
        other.next_event().unwrap(),
        Some(Event::Started { id: 0, .. })
    ));
    assert_eq!(other.next_event().unwrap(), Some(Event::Exit(status.clone())));
    let mut lines: Vec<_> = container.logged().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    match recover(container.bundle.path()).unwrap() {
        Recovered::Exited(found) => assert_eq!(found, status),
        other => panic!("{other:?}"),
    }
    container.wait_for_supervisor();
}

fn signals_make_the_status() {
    let mut container =
        Bundle::shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done").launch();
    let mut stream = container.attach(OUTPUT);
    container.start();
    let mut ready = [0; 14];
    std::io::Read::read_exact(&mut stream, &mut ready).unwrap();
    // The supervisor itself does not mind.
    for signal in ["HUP", "INT", "TERM"] {
        let supervisor = container.supervisor.to_string();
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args(["-s", signal, &supervisor]).status().unwrap().success());
    }
    container.signal(libc::SIGTERM);
    assert_eq!(container.exit().exit_code, 7);

    for number in [libc::SIGKILL, libc::SIGRTMIN() + 3] {
        // The first process of a pid namespace is only ended from inside by signals it handles; from outside by KILL.
        let mut container = Bundle::command(&["/bin/sleep", "1000"]).launch();
        if number != libc::SIGKILL {
            container = {
                let mut bundle = Bundle::command(&["/bin/sleep", "1000"]);
                share_pids(&mut bundle);
                bundle.launch()
            };
        }
        container.start();
        container.signal(number);
        let status = container.exit();
        assert_eq!((status.exit_code, status.signal), (128 + number, Some(number)));
    }

    let mut container = Bundle::command(&["/bin/sleep", "1000"]).start();
    let error = container
        .control
        .call(Request::Signal {
            number: 65,
            exec: None,
        })
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    container.control.call(Request::KillAll {}).unwrap();
    assert_eq!(container.exit().exit_code, 137);
}

fn share_pids(bundle: &mut Bundle) {
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != json!("pid"));
}

/// Found when the sandbox is made, or only when the kernel tries to execute it.
fn a_program_that_cannot_run_is_told() {
    let bundle = Bundle::command(&["/bin/nonsense"]);
    let mut launched = bundle.launch_raw();
    match launched.next_event().unwrap() {
        Some(Event::Failed { id: 0, failure }) => {
            assert_eq!(failure.code, 127, "{}", failure.message);
            assert!(
                failure.message.contains("no such file or directory"),
                "{}",
                failure.message
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(launched.next_event().unwrap(), Some(Event::Exit(status)) if status.exit_code == 127));

    let mut container = Bundle::command(&["/bin/orphan"]).launch();
    let mut stream = container.attach(OUTPUT);
    let id = container.control.send(Request::Start {}).unwrap();
    match container.event() {
        Event::Failed {
            id: answered,
            failure,
        } => {
            assert_eq!((answered, failure.code), (id, 127));
            assert!(
                failure.message.contains("no such file or directory"),
                "{}",
                failure.message
            );
        }
        other => panic!("{other:?}"),
    }
    let status = container.exit();
    assert_eq!((status.exit_code, status.started_at), (127, None));
    assert!(status.error.is_some());
    assert_eq!(frames(&mut stream), (String::new(), String::new()));
}

fn a_bad_specification_is_told() {
    let mut bundle = Bundle::shell("true");
    bundle.spec["root"]["path"] = "/nonexistent".into();
    let mut control = bundle.launch_raw();
    match control.next_event().unwrap() {
        Some(Event::Failed { id: 0, failure }) => {
            assert!(failure.message.contains("/nonexistent"), "{}", failure.message);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(control.next_event().unwrap(), Some(Event::Exit(status)) if status.error.is_some()));
    assert!(control.next_event().unwrap().is_none());
    assert!(matches!(recover(bundle.path()).unwrap(), Recovered::Exited(_)));
}

fn an_aborted_container_leaves_nothing() {
    let mut container = Bundle::shell("echo never").launch();
    let id = container.control.send(Request::Abort {}).unwrap();
    let mut answered = false;
    let status = container.exit_and(|event| answered |= *event == Event::Done { id });
    assert!(answered);
    assert!(status.error.is_some() && status.started_at.is_none());
    assert_eq!(container.logged(), "");
    assert!(!alive(container.pid));
}

fn want_of_memory_is_told() {
    let mut bundle = Bundle::command(&["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]);
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    let mut container = bundle.start();
    let mut told = false;
    let status = container.exit_and(|event| told |= *event == Event::Oom {});
    assert!(told && status.oom_killed, "{status:?}");
    assert_eq!(status.exit_code, 137);
}

fn want_of_memory_is_told_while_the_container_goes_on() {
    let mut bundle = Bundle::shell("dd if=/dev/zero of=/dev/null bs=100M count=1; sleep 1000");
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    let mut container = bundle.start();
    assert_eq!(container.event(), Event::Oom {});
    container.signal(libc::SIGKILL);
    assert!(container.exit().oom_killed);
}

fn leftovers_of_a_shared_pid_namespace_are_ended() {
    let mut bundle = Bundle::shell("sleep 1000 & echo $!; exit 4");
    share_pids(&mut bundle);
    let mut container = bundle.launch();
    let mut stream = container.attach(OUTPUT);
    container.start();
    let (out, _) = frames(&mut stream);
    assert_eq!(container.exit().exit_code, 4);
    assert!(!alive(out.trim().parse().unwrap()));
}

fn a_stranger_cannot_keep_the_output_open() {
    let mut container = Bundle::command(&["/bin/sleep", "1000"])
        .log(|log| log.max_size = 10_000)
        .start();
    let output = fs::File::options()
        .write(true)
        .open(format!("/proc/{}/fd/1", container.pid));
    let mut stranger = std::process::Command::new("yes")
        .stdout(output.unwrap())
        .spawn()
        .unwrap();
    eventually("it is heard", || container.logged().contains("y\n"));
    container.signal(libc::SIGKILL);
    assert_eq!(container.exit().exit_code, 137);
    let status = stranger.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGPIPE));
}

fn many_at_once() {
    let spawner = SPAWNER.get().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                for n in 0..6 {
                    let mut container =
                        Bundle::shell(&format!("echo last {n}; exit {n}")).launch_with(spawner);
                    container.start();
                    assert_eq!(container.exit().exit_code, n);
                    assert_eq!(container.logged(), format!("last {n}\n"));
                    container.wait_for_supervisor();
                    let pid = container.supervisor;
                    eventually("the spawner has reaped it", || {
                        !fs::exists(format!("/proc/{pid}")).unwrap()
                    });
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn a_bundle_may_have_a_long_path() {
    let mut bundle = Bundle::shell("echo far away");
    bundle.directory = tempfile::Builder::new()
        .prefix(&"x".repeat(200))
        .tempdir()
        .unwrap();
    let mut container = bundle.launch();
    let mut stream = container.attach(OUTPUT);
    container.start();
    assert_eq!(frames(&mut stream).0, "far away\n");
    container.exit();
}

fn a_dead_spawner_is_noticed() {
    let spawner = SPARE.lock().unwrap().pop().unwrap();
    let mut container = Bundle::shell("read x; exit 5").stdin(true).launch_with(&spawner);
    rustix::process::pidfd_send_signal(spawner.pidfd().unwrap(), rustix::process::Signal::KILL).unwrap();
    let bundle = Bundle::shell("true");
    bundle.write();
    let error = spawner.launch(bundle.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    // What it has spawned goes on.
    container.start();
    drop(container.attach(crate::container::ALL));
    assert_eq!(container.exit().exit_code, 5);
}

fn an_idle_supervisor_is_small() {
    let container = Bundle::shell("seq 1 100000; sleep 1000").start();
    eventually("it has become small", || {
        container.logged().ends_with("100000\n") && container.memory("Private_Dirty") < 200
    });
}
