//! The program in the image `berth/hello`: a handful of commands in one static binary, so that a container can be
//! tried out on a machine that has no other image.
//!
//! It runs as `/hello COMMAND [ARGUMENTS]` or under the name of the command itself. Without a command it tells what
//! a process sees of the container it is in. Everything is read from `/proc` and `/sys`; see proc(5), namespaces(7)
//! and cgroups(7).

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, process::parent_id},
    path::Path,
    process::ExitCode,
    thread,
    time::Duration,
};

/// What a command gets: where its output goes and the words after its name.
type Command = fn(&mut dyn Write, &[OsString]) -> io::Result<u8>;

/// Every command with its usage, in the order the help shows them.
const COMMANDS: &[(&str, &str, Command)] = &[
    (
        "cat",
        "cat [FILE...]   copy files, or standard input, to standard output",
        cat,
    ),
    ("echo", "echo [-n] [WORD...]   print words", echo),
    ("env", "env   print the environment", environment),
    ("exit", "exit [CODE]   end with this code", exit),
    ("false", "false   end with code 1", |_, _| Ok(1)),
    ("help", "help   print this list", help),
    ("id", "id   print user and groups", id),
    ("ls", "ls [PATH...]   list directories", ls),
    ("ps", "ps   list processes", ps),
    (
        "sleep",
        "sleep SECONDS   wait; fractions and `infinity` are understood",
        sleep,
    ),
    ("true", "true   end with code 0", |_, _| Ok(0)),
];

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().collect();
    let own = words
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .unwrap_or_default();
    let rest = words.get(1..).unwrap_or_default();
    let mut out = io::stdout().lock();
    let result = match (find(own), rest) {
        (Some(command), rest) => command(&mut out, rest),
        (None, []) => greet(&mut out),
        (None, [name, rest @ ..]) => match find(name) {
            Some(command) => command(&mut out, rest),
            None => {
                eprintln!("hello: no command {name:?}; `hello help` lists them");
                return ExitCode::from(127);
            }
        },
    };
    match result.and_then(|code| out.flush().map(|()| code)) {
        Ok(code) => ExitCode::from(code),
        // Whoever read the output has gone; there is nobody to tell.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(141),
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::FAILURE
        }
    }
}

fn find(name: &OsStr) -> Option<Command> {
    COMMANDS
        .iter()
        .find(|(known, ..)| name == *known)
        .map(|(.., command)| *command)
}

/// The same error with the path it is about in front.
fn about(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The content of a small file as text, or what kept it from being read.
fn text(path: &str) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        Err(error) => format!("({path}: {error})"),
    }
}

/// The value of one line `Key:\tvalue` of `/proc/PID/status`.
fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(str::trim)
}

// --- commands -------------------------------------------------------------------------------------------------

fn greet(out: &mut dyn Write) -> io::Result<u8> {
    let status = text("/proc/self/status");
    writeln!(out, "Hello from a container run by Berth.\n")?;
    writeln!(out, "What this process sees:")?;
    let pid = std::process::id();
    row(
        out,
        "process",
        &format!(
            "{pid} (parent {}; PID 1 is the container's first process)",
            parent_id()
        ),
    )?;
    row(out, "host name", &text("/proc/sys/kernel/hostname"))?;
    row(out, "user", &identity(&status))?;
    row(out, "root", &root_mount(&text("/proc/self/mountinfo")))?;
    row(
        out,
        "cgroup",
        &text("/proc/self/cgroup")
            .lines()
            .last()
            .unwrap_or_default()
            .replacen("::", ":", 1),
    )?;
    row(out, "memory limit", &memory_limit())?;
    row(out, "capabilities", field(&status, "CapEff").unwrap_or("unknown"))?;
    row(
        out,
        "seccomp",
        seccomp(field(&status, "Seccomp").unwrap_or_default()),
    )?;
    writeln!(
        out,
        "\nIts namespaces (compare with `ls -l /proc/self/ns` on the host):"
    )?;
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = match fs::read_link(format!("/proc/self/ns/{name}")) {
            Ok(target) => target.display().to_string(),
            Err(error) => format!("({error})"),
        };
        row(out, name, &link)?;
    }
    writeln!(
        out,
        "\nMore to try: hello help, hello ps, hello env, hello cat, hello sleep 60"
    )?;
    Ok(0)
}

fn row(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "  {name:<13} {value}")
}

fn help(out: &mut dyn Write, _: &[OsString]) -> io::Result<u8> {
    for (_, usage, _) in COMMANDS {
        writeln!(out, "{usage}")?;
    }
    Ok(0)
}

fn cat(out: &mut dyn Write, files: &[OsString]) -> io::Result<u8> {
    if files.is_empty() {
        copy(&mut io::stdin().lock(), out)?;
    }
    for file in files.iter().map(Path::new) {
        if file == Path::new("-") {
            copy(&mut io::stdin().lock(), out)?;
        } else {
            fs::File::open(file)
                .and_then(|mut open| copy(&mut open, out))
                .map_err(about(file))?;
        }
    }
    Ok(0)
}

/// Copies to the end and passes each piece on at once, as somebody may be typing it.
fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut piece = [0; 16 * 1024];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(piece.get(..length).unwrap_or_default())?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn echo(out: &mut dyn Write, words: &[OsString]) -> io::Result<u8> {
    let (end, words) = match words {
        [first, rest @ ..] if first == "-n" => ("", rest),
        all => ("\n", all),
    };
    for (number, word) in words.iter().enumerate() {
        if number > 0 {
            out.write_all(b" ")?;
        }
        out.write_all(word.as_bytes())?;
    }
    out.write_all(end.as_bytes())?;
    Ok(0)
}

fn environment(out: &mut dyn Write, _: &[OsString]) -> io::Result<u8> {
    for (name, value) in env::vars_os() {
        out.write_all(&[name.as_bytes(), b"=", value.as_bytes(), b"\n"].concat())?;
    }
    Ok(0)
}

fn exit(_: &mut dyn Write, words: &[OsString]) -> io::Result<u8> {
    let Some(word) = words.first() else { return Ok(0) };
    word.to_str()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::other(format!("exit: {word:?} is not a number from 0 to 255")))
}

fn id(out: &mut dyn Write, _: &[OsString]) -> io::Result<u8> {
    let path = Path::new("/proc/self/status");
    let status = fs::read_to_string(path).map_err(about(path))?;
    writeln!(out, "{}", identity(&status))?;
    Ok(0)
}

/// `uid=0(root) gid=0(root) groups=0(root)`, out of `/proc/PID/status`; effective ids.
fn identity(status: &str) -> String {
    let users = text("/etc/passwd");
    let groups = text("/etc/group");
    let effective = |key| {
        field(status, key)
            .and_then(|ids| ids.split_whitespace().nth(1))
            .unwrap_or("?")
    };
    let named = |list: &str, id: &str| match name_of(list, id) {
        Some(name) => format!("{id}({name})"),
        None => id.to_owned(),
    };
    let all: Vec<String> = field(status, "Groups")
        .unwrap_or_default()
        .split_whitespace()
        .map(|id| named(&groups, id))
        .collect();
    let mut line = format!(
        "uid={} gid={}",
        named(&users, effective("Uid")),
        named(&groups, effective("Gid"))
    );
    if !all.is_empty() {
        line += &format!(" groups={}", all.join(","));
    }
    line
}

/// The name that a passwd(5) or group(5) list has for a number.
fn name_of<'a>(list: &'a str, id: &str) -> Option<&'a str> {
    list.lines().find_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        (parts.nth(1)? == id).then_some(name)
    })
}

fn ls(out: &mut dyn Write, paths: &[OsString]) -> io::Result<u8> {
    let here = [OsString::from(".")];
    let paths = if paths.is_empty() { &here } else { paths };
    for path in paths.iter().map(Path::new) {
        if paths.len() > 1 {
            writeln!(out, "{}:", path.display())?;
        }
        if !fs::metadata(path).map_err(about(path))?.is_dir() {
            writeln!(out, "{}", path.display())?;
            continue;
        }
        let mut names = fs::read_dir(path)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(about(path))?;
        names.sort();
        for name in names {
            out.write_all(&[name.as_bytes(), b"\n"].concat())?;
        }
    }
    Ok(0)
}

fn ps(out: &mut dyn Write, _: &[OsString]) -> io::Result<u8> {
    let proc = Path::new("/proc");
    let users = text("/etc/passwd");
    let mut pids: Vec<u32> = fs::read_dir(proc)
        .map_err(about(proc))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    writeln!(out, "{:>5} {:<8} COMMAND", "PID", "USER")?;
    for pid in pids {
        // A process may end while it is being listed.
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let uid = field(&status, "Uid")
            .and_then(|ids| ids.split_whitespace().nth(1))
            .unwrap_or("?");
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect();
        let command = match words.as_slice() {
            [] => format!("[{}]", field(&status, "Name").unwrap_or("?")),
            words => words.join(" "),
        };
        writeln!(
            out,
            "{pid:>5} {:<8} {command}",
            name_of(&users, uid).unwrap_or(uid)
        )?;
    }
    Ok(0)
}

fn sleep(_: &mut dyn Write, words: &[OsString]) -> io::Result<u8> {
    let wrong = || io::Error::other("usage: sleep SECONDS, where SECONDS is a number or `infinity`");
    let word = words.first().and_then(|word| word.to_str()).ok_or_else(wrong)?;
    if word == "infinity" {
        loop {
            thread::park();
        }
    }
    let seconds: f64 = word.parse().map_err(|_| wrong())?;
    thread::sleep(Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?);
    Ok(0)
}

// --- what the greeting reads ----------------------------------------------------------------------------------

/// File system and options of the mount at `/`.
fn root_mount(mountinfo: &str) -> String {
    let found = mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(4);
        let (place, options) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (kind, source) = (back.next()?, back.next()?);
        (place == "/").then(|| format!("{kind} {source} ({options})"))
    });
    found.unwrap_or_else(|| "unknown".to_owned())
}

/// The limit of the own cgroup, whichever version is mounted.
fn memory_limit() -> String {
    let places = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let found = places.iter().find_map(|place| fs::read_to_string(place).ok());
    match found.as_deref().map(str::trim) {
        None => "unknown".to_owned(),
        Some("max") => "none".to_owned(),
        Some(bytes) => match bytes.parse::<u64>() {
            // Version 1 writes "no limit" as the largest whole number of pages.
            Ok(bytes) if bytes >= i64::MAX as u64 / 2 => "none".to_owned(),
            Ok(bytes) => format!("{bytes} bytes ({} MiB)", bytes >> 20),
            Err(_) => bytes.to_owned(),
        },
    }
}

fn seccomp(mode: &str) -> &'static str {
    match mode {
        "0" => "off",
        "1" => "strict",
        "2" => "filter",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: Command, words: &[&str]) -> (u8, String) {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let mut out = Vec::new();
        let code = command(&mut out, &words).expect("the command works");
        (code, String::from_utf8(out).expect("its output is text"))
    }

    #[test]
    fn echo_joins_words_and_n_leaves_the_newline_out() {
        assert_eq!(run(echo, &["a", "b  c"]), (0, "a b  c\n".into()));
        assert_eq!(run(echo, &["-n", "a"]), (0, "a".into()));
    }

    #[test]
    fn exit_takes_a_byte_and_nothing_else() {
        assert_eq!(run(exit, &["42"]).0, 42);
        assert_eq!(run(exit, &[]).0, 0);
        assert!(exit(&mut Vec::new(), &["256".into()]).is_err());
    }

    #[test]
    fn ps_shows_this_process() {
        let (_, out) = run(ps, &[]);
        let own = std::process::id().to_string();
        assert!(
            out.lines()
                .any(|line| line.split_whitespace().next() == Some(&own)),
            "{out}"
        );
    }

    #[test]
    fn names_are_looked_up_by_number() {
        let list = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false";
        assert_eq!(name_of(list, "65534"), Some("nobody"));
        assert_eq!(name_of(list, "1"), None);
    }

    #[test]
    fn the_root_mount_is_found_among_others() {
        let lines =
            "22 1 0:21 / /proc rw - proc proc rw\n30 1 0:30 / / rw,relatime master:1 - overlay overlay rw";
        assert_eq!(root_mount(lines), "overlay overlay (rw,relatime)");
    }

    #[test]
    fn every_command_is_found_by_its_name_and_has_it_in_its_usage() {
        for (name, usage, _) in COMMANDS {
            assert!(find(OsStr::new(name)).is_some() && usage.starts_with(name));
        }
        assert!(find(OsStr::new("hello")).is_none());
    }
}
