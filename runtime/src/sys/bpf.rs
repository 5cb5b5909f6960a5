//! Device programs of cgroup v2: the few instructions they need, and bpf(2).

use std::{
    ffi::c_void,
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

/// A register of the virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
}

/// `struct bpf_insn` of linux/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const SET: u8 = 0xb7;
const JUMP_IF: u8 = 0x15;
const JUMP_IF_NOT: u8 = 0x55;
const EXIT: u8 = 0x95;

impl Instruction {
    fn new(code: u8, to: Register, from: Register, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: to as u8 | (from as u8) << 4,
            offset,
            immediate,
        }
    }

    /// `to = *(u32 *)(from + offset)`
    pub fn load_word(to: Register, from: Register, offset: i16) -> Self {
        Self::new(LOAD_WORD, to, from, offset, 0)
    }

    /// `to = from`
    pub fn copy(to: Register, from: Register) -> Self {
        Self::new(COPY, to, from, 0, 0)
    }

    /// `to &= value`, with the value's sign extended to 64 bits.
    pub fn and(to: Register, value: i32) -> Self {
        Self::new(AND, to, Register::R0, 0, value)
    }

    /// `to >>= bits`
    pub fn shift_right(to: Register, bits: i32) -> Self {
        Self::new(SHIFT_RIGHT, to, Register::R0, 0, bits)
    }

    /// `to = value`
    pub fn set(to: Register, value: i32) -> Self {
        Self::new(SET, to, Register::R0, 0, value)
    }

    /// Skips `skip` instructions if the register holds `value`.
    pub fn jump_if(register: Register, value: i32, skip: i16) -> Self {
        Self::new(JUMP_IF, register, Register::R0, skip, value)
    }

    /// Skips `skip` instructions unless the register holds `value`.
    pub fn jump_if_not(register: Register, value: i32, skip: i16) -> Self {
        Self::new(JUMP_IF_NOT, register, Register::R0, skip, value)
    }

    /// Ends the program with the answer in R0.
    pub fn exit() -> Self {
        Self::new(EXIT, Register::R0, Register::R0, 0, 0)
    }
}

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
/// How many programs of a cgroup are looked at; the kernel allows 64.
const PROGRAMS: usize = 64;

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
#[derive(Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[derive(Default)]
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_QUERY`.
#[derive(Default)]
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_GET_FD_BY_ID`.
#[derive(Default)]
#[repr(C)]
struct ById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// bpf(2). `T` is the part of `union bpf_attr` that `command` reads.
fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes at most size_of::<T>() bytes of the exclusively borrowed `attributes`; the
    // pointers in it are made by this module's callers from buffers that live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes).cast::<c_void>(),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the caller just received this descriptor from bpf(2), which made it for us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Makes `program` the one device program of the cgroup at `path`. At no time is the cgroup without one: the new one is
/// in force before the old ones go.
pub(crate) fn set_device_program(path: &Path, program: &[Instruction]) -> io::Result<()> {
    let directory = File::open(path)?;
    let cgroup = directory.as_raw_fd().cast_unsigned();
    let old = device_programs(cgroup)?;
    let mut load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    let program = owned(bpf(BPF_PROG_LOAD, &mut load)?);
    let attach = |program: &OwnedFd, command, attach_flags| {
        let mut attach = Attach {
            target_fd: cgroup,
            attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
            attach_type: BPF_CGROUP_DEVICE,
            attach_flags,
            replace_bpf_fd: 0,
        };
        bpf(command, &mut attach)
    };
    attach(&program, BPF_PROG_ATTACH, BPF_F_ALLOW_MULTI)?;
    for id in old {
        let mut by_id = ById {
            prog_id: id,
            ..ById::default()
        };
        let program = owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut by_id)?);
        attach(&program, BPF_PROG_DETACH, 0)?;
    }
    Ok(())
}

/// Ids of the device programs attached to the cgroup itself.
fn device_programs(cgroup: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; PROGRAMS];
    let mut query = Query {
        target_fd: cgroup,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(PROGRAMS).map_err(io::Error::other)?,
        ..Query::default()
    };
    bpf(BPF_PROG_QUERY, &mut query)?;
    ids.truncate(query.prog_cnt as usize);
    Ok(ids)
}

/// What `program` answers for a context of words, as the kernel would compute it.
#[cfg(test)]
pub(crate) fn interpret(program: &[Instruction], context: &[u32]) -> u64 {
    let mut registers = [0_u64; 16];
    let mut at = 0;
    loop {
        let i = program[at];
        let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
        let value = i64::from(i.immediate).cast_unsigned();
        let mut skip = 0;
        match i.code {
            LOAD_WORD => {
                assert_eq!(from, 1);
                registers[to] = context[usize::try_from(i.offset).unwrap() / 4].into();
            }
            COPY => registers[to] = registers[from],
            AND => registers[to] &= value,
            SHIFT_RIGHT => registers[to] >>= i.immediate,
            SET => registers[to] = value,
            JUMP_IF if registers[to] == value => skip = i.offset,
            JUMP_IF_NOT if registers[to] != value => skip = i.offset,
            JUMP_IF | JUMP_IF_NOT => {}
            EXIT => return registers[0],
            other => panic!("unknown instruction {other:#x}"),
        }
        at += 1 + usize::try_from(skip).unwrap();
    }
}
