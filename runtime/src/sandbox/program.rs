//! Finding and executing the process's program.

use std::{ffi::CString, io};

use oci_spec::runtime::Process;
use rustix::fs::{Access, AtFlags, CWD};

use super::StartError;
use crate::{Error, Result, sys::process::Program};

/// Finds the program of `process` as a shell would, with the credentials that the caller has now, and prepares its
/// execution. `home` is its `HOME` unless its environment has one.
pub(super) fn find(process: &Process, home: Option<&str>) -> Result<Program, StartError> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let name = arguments
        .first()
        .ok_or_else(|| Error::invalid("no command specified"))?;
    let mut environment: Vec<String> = process.env().clone().unwrap_or_default();
    add_home(&mut environment, home);
    let path = look_up(name, &environment)?;
    Ok(Program::new(
        text(&path)?,
        arguments.iter().map(|a| text(a)).collect::<Result<_>>()?,
        environment.iter().map(|v| text(v)).collect::<Result<_>>()?,
    ))
}

fn text(value: &str) -> Result<CString> {
    CString::new(value).map_err(|_| {
        let start: String = value.chars().take(40).collect();
        Error::invalid(format!(
            "{start:?}… holds a NUL byte, which no argument or variable can"
        ))
    })
}

fn add_home(environment: &mut Vec<String>, home: Option<&str>) {
    if environment
        .iter()
        .any(|v| v.strip_prefix("HOME=").is_some_and(|h| !h.is_empty()))
    {
        return;
    }
    environment.retain(|v| !v.starts_with("HOME="));
    let home = home.filter(|h| !h.is_empty()).unwrap_or("/");
    environment.push(format!("HOME={home}"));
}

/// The path to execute for `name`.
fn look_up(name: &str, environment: &[String]) -> Result<String, StartError> {
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StartError::not_found(format!(
                "exec: {name:?}: stat {name}: no such file or directory"
            ))),
            Err(e) => Err(describe(&format!("exec: {name:?}"), &e)),
        };
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|v| v.strip_prefix("PATH="))
        .unwrap_or_default();
    let candidates = path.split(':').map(|directory| match directory {
        "" => format!("./{name}"),
        _ => format!("{}/{name}", directory.trim_end_matches('/')),
    });
    let found = candidates
        .into_iter()
        .find(|c| !name.is_empty() && executable(c).is_ok());
    found.ok_or_else(|| StartError::not_found(format!("exec: {name:?}: executable file not found in $PATH")))
}

/// Whether the caller may execute the file at `path`.
fn executable(path: &str) -> io::Result<()> {
    let data = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(data.st_mode).is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    // To root, every file is executable that is so to anybody.
    if data.st_mode & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(())
}

/// The failure of an execution as clients know it.
fn describe(prefix: &str, error: &io::Error) -> StartError {
    let message = match error.raw_os_error() {
        Some(libc::EACCES) => format!("{prefix}: permission denied"),
        Some(libc::EISDIR) => format!("{prefix}: is a directory"),
        Some(libc::ENOENT) => format!("{prefix}: no such file or directory"),
        Some(libc::ENOTDIR) => format!("{prefix}: not a directory"),
        Some(libc::ENOEXEC) => format!("{prefix}: exec format error"),
        Some(libc::EPERM) => format!("{prefix}: operation not permitted"),
        Some(libc::E2BIG) => format!("{prefix}: argument list too long"),
        _ => format!("{prefix}: {error}"),
    };
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => StartError::not_found(message),
        // Too long is what the caller asked for.
        Some(libc::E2BIG) => Error::invalid(message).into(),
        Some(libc::EACCES | libc::EISDIR | libc::ENOEXEC | libc::EPERM) => {
            StartError::not_executable(message)
        }
        _ => StartError::other(message),
    }
}

/// Why [`Program::execute`] came back.
pub(super) fn failure(program: &Program, error: &io::Error) -> StartError {
    describe(&format!("exec {}", program.path().to_string_lossy()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(name: &str, path: &str) -> (i32, String) {
        let error = look_up(name, &[format!("PATH={path}")]).unwrap_err();
        (error.code, error.to_string())
    }

    #[test]
    fn lookup() {
        let path = "/nowhere:/usr/bin:/bin";
        assert!(look_up("sh", &[format!("PATH={path}")]).unwrap().ends_with("/sh"));
        assert_eq!(look_up("/bin/sh", &[]).unwrap(), "/bin/sh");
        assert_eq!(
            code("nope", path),
            (
                127,
                "exec: \"nope\": executable file not found in $PATH".to_owned()
            )
        );
        assert_eq!(code("", path).0, 127);
        assert_eq!(code("sh", "").0, 127);
        let (exit, message) = code("/nope", path);
        assert_eq!(
            (exit, message.as_str()),
            (127, "exec: \"/nope\": stat /nope: no such file or directory")
        );
        assert_eq!(
            code("/tmp", path),
            (126, "exec: \"/tmp\": is a directory".to_owned())
        );
        assert_eq!(
            code("/etc/passwd", path),
            (126, "exec: \"/etc/passwd\": permission denied".to_owned())
        );
        assert_eq!(code("/etc/passwd/x", path).0, 127);
    }

    #[test]
    fn home_is_added_unless_given() {
        let with = |environment: &[&str], home| {
            let mut list: Vec<String> = environment.iter().map(|v| (*v).to_owned()).collect();
            add_home(&mut list, home);
            list
        };
        assert_eq!(with(&["HOME=/x"], Some("/y")), ["HOME=/x"]);
        assert_eq!(with(&["HOME="], Some("/y")), ["HOME=/y"]);
        assert_eq!(with(&["A=b"], None), ["A=b", "HOME=/"]);
        assert_eq!(with(&[], Some("")), ["HOME=/"]);
    }
}
