//! Attached clients and terminals.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use berth_runtime::supervisor::{Request, Streams, connect_attach};

use crate::container::{ALL, Bundle, OUTPUT, demultiplex, eventually, frames};

crate::tests![
    the_end_of_input_ends_it_once,
    input_is_kept_open_for_the_next_client,
    much_goes_in_and_comes_out,
    input_without_a_reader_waits,
    terminals_have_a_size,
    a_terminal_client_that_ends_its_input_is_detached,
    a_slow_client_gets_everything,
    a_slow_client_holds_the_container_up_at_the_limit,
    a_client_that_takes_nothing_is_cut_off,
    fifty_dead_clients_hold_nothing_up,
    everybody_gets_what_they_asked_for,
    any_user_can_reopen_the_streams,
    strangers_are_answered,
];

fn lines(n: u32) -> String {
    (1..=n).map(|i| format!("{i}\n")).collect()
}

fn the_end_of_input_ends_it_once() {
    let cat = || Bundle::command(&["/bin/cat"]).stdin(true);
    for bundle in [cat(), cat().init()] {
        let mut container = bundle.launch();
        let mut stream = container.attach(ALL);
        container.start();
        stream.write_all(b"hello\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(frames(&mut stream).0, "hello\n");
        assert_eq!(container.exit().exit_code, 0);
    }
}

fn input_is_kept_open_for_the_next_client() {
    let mut container = Bundle::command(&["/bin/cat"]).stdin(false).launch();
    container.start();
    for text in ["one\n", "two\n"] {
        let mut stream = container.attach(ALL);
        stream.write_all(text.as_bytes()).unwrap();
        let mut frame = vec![0; 8 + text.len()];
        stream.read_exact(&mut frame).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Its session ends, the container's input does not.
        assert_eq!(frames(&mut stream).0, "");
    }
    // A client that closes at once has still said something.
    container.attach(ALL).write_all(b"three\n").unwrap();
    eventually("it has been read", || container.logged() == "one\ntwo\nthree\n");
    container.control.call(Request::CloseStdin {}).unwrap();
    assert_eq!(container.exit().exit_code, 0);
}

fn much_goes_in_and_comes_out() {
    let mut container = Bundle::command(&["/bin/cat"]).stdin(true).launch();
    let mut stream = container.attach(ALL);
    container.start();
    let text = lines(300_000);
    let (mut input, expected) = (stream.try_clone().unwrap(), text.clone());
    let writer = thread::spawn(move || {
        input.write_all(text.as_bytes()).unwrap();
        input.shutdown(Shutdown::Write).unwrap();
    });
    assert!(frames(&mut stream).0 == expected);
    writer.join().unwrap();
    assert_eq!(container.exit().exit_code, 0);
    assert!(container.logged() == expected);
}

fn input_without_a_reader_waits() {
    let script = "echo up; sleep 0.3; wc -c";
    let mut container = Bundle::shell(script).stdin(true).launch();
    let mut stream = container.attach(ALL);
    container.start();
    let text = lines(200_000);
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(frames(&mut stream).0, format!("up\n{}\n", text.len()));
    container.exit();
}

/// Reads until `end` has come.
fn until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn terminals_have_a_size() {
    let script = "tty; stty size; read x; stty size; stty -echo; read x; echo \"<$x>\"";
    let mut container = Bundle::shell(script).terminal(24, 80).stdin(true).launch();
    let attached = connect_attach(&container.socket(), ALL).unwrap();
    assert!(attached.tty);
    let mut stream = attached.stream;
    container.start();
    assert_eq!(until(&mut stream, "80\r\n"), "/dev/pts/0\r\n24 80\r\n");
    let size = Request::Resize {
        width: 132,
        height: 50,
        exec: None,
    };
    container.control.call(size).unwrap();
    stream.write_all(b"\n").unwrap();
    assert_eq!(until(&mut stream, "132\r\n"), "\r\n50 132\r\n");
    stream.write_all(b"typed\n").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("<typed>\r\n"), "{rest:?}");
    assert_eq!(container.exit().exit_code, 0);
    assert!(container.logged().starts_with("/dev/pts/0\r\n24 80\r\n"));

    let mut container = Bundle::command(&["/bin/sleep", "1000"]).start();
    let size = Request::Resize {
        width: 1,
        height: 1,
        exec: None,
    };
    // Clients resize whatever they are attached to: without a terminal, nothing happens.
    container.control.call(size).unwrap();
}

fn a_terminal_client_that_ends_its_input_is_detached() {
    let mut container = Bundle::shell("read x; echo \"<$x>\"")
        .terminal(0, 0)
        .stdin(true)
        .launch();
    let mut first = container.attach(ALL);
    container.start();
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(first.read(&mut [0; 10]).unwrap(), 0);
    let mut second = container.attach(ALL);
    second.write_all(b"x\n").unwrap();
    let mut text = String::new();
    second.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("<x>\r\n"), "{text:?}");
    assert_eq!(container.exit().exit_code, 0);
}

fn a_slow_client_gets_everything() {
    let mut container = Bundle::command(&["/bin/seq", "1", "1000000"]).launch();
    let mut slow = container.attach(OUTPUT);
    let mut fast = container.attach(OUTPUT);
    container.start();
    let reader = thread::spawn(move || frames(&mut fast).0);
    // The container ends although one client has taken nothing: the backlog holds it all, and not in memory.
    container.exit();
    assert!(reader.join().unwrap() == lines(1_000_000));
    assert!(
        container.memory("Private_Dirty") < 800,
        "{}",
        container.memory("Private_Dirty")
    );
    assert!(frames(&mut slow).0 == lines(1_000_000));
    container.wait_for_supervisor();
    assert!(container.logged() == lines(1_000_000));
}

fn a_slow_client_holds_the_container_up_at_the_limit() {
    let mut bundle = Bundle::shell("seq 1 500000; echo done >&2");
    bundle.config.backlog_max = 100_000;
    let mut container = bundle.launch();
    let mut slow = container.attach(OUTPUT);
    container.start();
    let mut received = Vec::new();
    let mut buffer = vec![0; 300_000];
    loop {
        // Steady, but slower than the container.
        thread::sleep(Duration::from_millis(5));
        match slow.read(&mut buffer).unwrap() {
            0 => break,
            length => received.extend_from_slice(&buffer[..length]),
        }
        assert!(
            container.memory("Private_Dirty") < 800,
            "{}",
            container.memory("Private_Dirty")
        );
    }
    let (out, err) = demultiplex(&received);
    assert!(out == lines(500_000) && err == "done\n");
    container.exit();
}

fn a_client_that_takes_nothing_is_cut_off() {
    let mut bundle = Bundle::command(&["/bin/seq", "1", "1000000"]);
    bundle.config.backlog_max = 0;
    bundle.config.stall_timeout = 1;
    let mut container = bundle.launch();
    let mut dead = container.attach(OUTPUT);
    let mut live = container.attach(OUTPUT);
    container.start();
    assert!(frames(&mut live).0 == lines(1_000_000));
    container.exit();
    let mut received = Vec::new();
    dead.read_to_end(&mut received).unwrap();
    assert!(received.len() < 1_000_000);
}

fn fifty_dead_clients_hold_nothing_up() {
    let mut container = Bundle::command(&["/bin/seq", "1", "1000000"]).launch();
    let dead: Vec<_> = (0..50).map(|_| container.attach(ALL)).collect();
    container.start();
    assert_eq!(container.exit().exit_code, 0);
    let memory = container.memory("Private_Dirty");
    assert!(memory < 800, "{memory}");
    drop(dead);
    container.wait_for_supervisor();
}

fn everybody_gets_what_they_asked_for() {
    let script = "for i in 1 2 3; do echo out; echo err >&2; done";
    let mut container = Bundle::shell(script).launch();
    let mut out = container.attach(Streams {
        stdout: true,
        ..Streams::default()
    });
    let mut err = container.attach(Streams {
        stderr: true,
        ..Streams::default()
    });
    let mut none = container.attach(Streams::default());
    let mut feeding = container.attach(ALL);
    // There is no standard input: it is read and dropped.
    feeding.write_all(&[b'x'; 100_000]).unwrap();
    container.start();
    assert_eq!(frames(&mut out), ("out\n".repeat(3), String::new()));
    assert_eq!(frames(&mut err), (String::new(), "err\n".repeat(3)));
    assert_eq!(frames(&mut none), (String::new(), String::new()));
    assert_eq!(frames(&mut feeding), ("out\n".repeat(3), "err\n".repeat(3)));
    container.exit();
}

fn any_user_can_reopen_the_streams() {
    let mut bundle =
        Bundle::shell("echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin").stdin(true);
    bundle.spec["process"]["user"] = serde_json::json!({ "uid": 1000, "gid": 1000 });
    let mut container = bundle.launch();
    let mut stream = container.attach(ALL);
    container.start();
    stream.write_all(b"in\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(frames(&mut stream), ("out\nin\n".into(), "err\n".into()));
    assert_eq!(container.exit().exit_code, 0);
}

fn strangers_are_answered() {
    let container = Bundle::command(&["/bin/sleep", "1000"]).start();
    let mut stream = UnixStream::connect(container.socket()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("{\"failed\":"), "{answer}");
    // In pieces it is as good, and what follows the hello is input already.
    let mut stream = UnixStream::connect(container.socket()).unwrap();
    for piece in ["{\"cont", "rol\":{}", "}\n{\"id\":9,\"sig"] {
        stream.write_all(piece.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    stream.write_all(b"nal\":{\"number\":9}}\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(lines.len(), 3, "{answer}");
    assert_eq!(lines[1], "{\"done\":{\"id\":9}}");
}
