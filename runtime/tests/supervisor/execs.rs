//! Further processes in a container.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
};

use berth_runtime::{
    Kind, Result,
    supervisor::{Attached, Event, ExecRequest, ExitStatus, Request, Streams, connect_exec},
};
use serde_json::json;

use crate::container::{ALL, Bundle, Container, OUTPUT, alive, frames};

crate::tests![
    an_exec_has_its_own_streams_and_status,
    an_exec_with_a_terminal,
    a_detached_exec_ends_by_itself,
    a_missing_program_is_told,
    execs_end_with_their_container,
    what_an_exec_leaves_behind_may_go_on_writing,
];

fn request(id: &str, script: &str, streams: Streams) -> ExecRequest {
    let process = json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin"],
        "cwd": "/",
    });
    ExecRequest {
        id: id.into(),
        process: serde_json::from_value(process).unwrap(),
        open_stdin: streams.stdin,
        streams,
    }
}

fn sleeper() -> Container {
    Bundle::command(&["/bin/sleep", "1000"]).start()
}

impl Container {
    fn exec(&self, request: ExecRequest) -> Result<Attached> {
        Ok(connect_exec(&self.socket(), request)?)
    }

    fn exec_exit(&mut self, name: &str) -> ExitStatus {
        let status = match self.event() {
            Event::ExecExit { exec, status } if exec == name => status,
            other => panic!("{other:?}"),
        };
        let file = self.bundle.path().join(format!("exec-{name}.json"));
        let written: ExitStatus = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!(written, status);
        status
    }
}

fn an_exec_has_its_own_streams_and_status() {
    let mut container = sleeper();
    let mut attached = container
        .exec(request("a", "cat; echo err >&2; exit 9", ALL))
        .unwrap();
    assert!(!attached.tty && alive(attached.pid));
    attached.stream.write_all(b"in\n").unwrap();
    attached.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(frames(&mut attached.stream), ("in\n".into(), "err\n".into()));
    // The code is on disk before the stream is closed.
    assert!(container.bundle.path().join("exec-a.json").exists());
    let status = container.exec_exit("a");
    assert_eq!((status.exit_code, status.pid), (9, attached.pid));
    assert_eq!(container.logged(), "");

    let mut attached = container
        .exec(request("b", "echo $PPID; sleep 1000", OUTPUT))
        .unwrap();
    let signal = Request::Signal {
        number: libc::SIGKILL,
        exec: Some("b".into()),
    };
    container.control.call(signal).unwrap();
    frames(&mut attached.stream);
    assert_eq!(container.exec_exit("b").signal, Some(libc::SIGKILL));
}

fn an_exec_with_a_terminal() {
    let mut container = sleeper();
    let mut request = request("t", "stty size; read x; stty size", ALL);
    request.process = serde_json::from_value({
        let mut process = serde_json::to_value(&request.process).unwrap();
        process["terminal"] = true.into();
        process["consoleSize"] = json!({ "height": 10, "width": 20 });
        process
    })
    .unwrap();
    let mut attached = container.exec(request).unwrap();
    assert!(attached.tty);
    let mut size = [0; 7];
    attached.stream.read_exact(&mut size).unwrap();
    assert_eq!(&size, b"10 20\r\n");
    let resize = Request::Resize {
        width: 21,
        height: 11,
        exec: Some("t".into()),
    };
    container.control.call(resize).unwrap();
    attached.stream.write_all(b"\n").unwrap();
    let mut rest = String::new();
    attached.stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("11 21\r\n"), "{rest:?}");
    assert_eq!(container.exec_exit("t").exit_code, 0);
}

fn a_detached_exec_ends_by_itself() {
    let mut container = sleeper();
    drop(
        container
            .exec(request("d", "seq 1 100000; exit 2", Streams::default()))
            .unwrap(),
    );
    assert_eq!(container.exec_exit("d").exit_code, 2);
}

fn a_missing_program_is_told() {
    let mut container = sleeper();
    let mut missing = request("m", "", OUTPUT);
    missing.process.set_args(Some(vec!["/bin/nonsense".into()]));
    let error = container.exec(missing).unwrap_err();
    assert!(error.message().contains("no such file or directory"), "{error}");
    let twice = container.exec(request("x/y", "true", OUTPUT)).unwrap_err();
    assert_eq!(twice.kind(), Kind::Invalid);
    container.signal(libc::SIGKILL);
    container.exit();
    let late = container.exec(request("l", "true", OUTPUT)).unwrap_err();
    assert_eq!(late.kind(), Kind::Unavailable);
}

fn execs_end_with_their_container() {
    let mut container = sleeper();
    let mut attached = container
        .exec(request("e", "echo up; sleep 1000", OUTPUT))
        .unwrap();
    let mut up = [0; 11];
    attached.stream.read_exact(&mut up).unwrap();
    container.signal(libc::SIGKILL);
    let mut told = None;
    container.exit_and(|event| {
        if let Event::ExecExit { status, .. } = event {
            told = Some(status.exit_code);
        }
    });
    assert_eq!(told, Some(137));
    assert_eq!(frames(&mut attached.stream).0, "");
    container.wait_for_supervisor();
}

fn what_an_exec_leaves_behind_may_go_on_writing() {
    let mut container = sleeper();
    let script = "(sleep 0.2; seq 1 100000; echo over > /dev/shm/over) & exit 0";
    let mut attached = container.exec(request("bg", script, OUTPUT)).unwrap();
    // The stream ends with the process, not with its children.
    frames(&mut attached.stream);
    assert_eq!(container.exec_exit("bg").exit_code, 0);
    let script = "while ! [ -e /dev/shm/over ]; do sleep 0.01; done";
    drop(
        container
            .exec(request("wait", script, Streams::default()))
            .unwrap(),
    );
    assert_eq!(container.exec_exit("wait").exit_code, 0);
}
