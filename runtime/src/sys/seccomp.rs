//! seccomp(2).

use std::io;

/// One instruction of a classic BPF program (`struct sock_filter` of linux/filter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub value: u32,
}

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

/// Filters the system calls of the calling thread from now on; irrevocable. Needs `CAP_SYS_ADMIN` or no_new_privs.
pub(crate) fn install(program: &[Instruction], flags: u64) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let program = Program {
        length: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr(),
    };
    // SAFETY: the kernel copies the program, which lives across the call, and checks it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        // With TSYNC: the id of a thread that could not follow.
        1.. => Err(io::Error::other("another thread could not be filtered")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel takes system calls of x32 (`CONFIG_X86_X32_ABI`).
pub(crate) fn kernel_has_x32() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        const X32_BIT: libc::c_long = 0x4000_0000;
        // SAFETY: getpid has no arguments and no effects.
        (unsafe { libc::syscall(libc::SYS_getpid | X32_BIT) }) > 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}
