//! What `ps` shows of a process: the memory its command line is read from.

use std::{fs, io};

/// Replaces the command line of this process by `title`, cut to the room there is.
///
/// A fork shows its parent's command line until then, to the processes of a container too. The kernel reads a command
/// line from the process's own memory, proc_pid_cmdline(5); where that is, proc_pid_stat(5) tells (fields 48 and 49).
///
/// # Errors
/// If `/proc` can't be read or says nothing useful.
pub(crate) fn set(title: &str) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (start, end) =
        bounds(&stat).ok_or_else(|| io::Error::other("/proc/self/stat has no bounds of the arguments"))?;
    // SAFETY: the kernel says that the arguments of this process lie there. They are writable, bytes, and on the stack of
    // the main function below every frame. The process has one thread and reads its arguments no more, as its callers
    // have forked away from the program that did.
    let memory = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
    memory.fill(0);
    // The last byte stays zero: otherwise the kernel takes the environment for a part of the title.
    let length = title.len().min(memory.len().saturating_sub(1));
    memory[..length].copy_from_slice(&title.as_bytes()[..length]);
    Ok(())
}

/// The addresses of the first byte of the arguments and of the one after the last.
fn bounds(stat: &str) -> Option<(usize, usize)> {
    // The name, field 2, is in parentheses and may hold anything.
    let fields = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = fields.split_ascii_whitespace().skip(45);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    (start != 0 && start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_fields_48_and_49() {
        let numbers: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        assert_eq!(
            bounds(&format!("1 (a b) c) {}", numbers.join(" "))),
            Some((48, 49))
        );
        assert_eq!(bounds("1 (x) S 1 2"), None);
    }
}
