//! System call numbers of the architectures that one kernel can run.

use oci_spec::runtime::Arch;

/// An architecture that a filter can cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    X86_64,
    X86,
    /// Programs of x86_64 with 32-bit pointers; numbers of x86_64 with [`X32_BIT`] set.
    X32,
    Aarch64,
    Arm,
}

const X32_BIT: u32 = 0x4000_0000;

/// Calls that x32 numbers on its own (arch/x86/entry/syscalls/syscall_64.tbl), from 512 on.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// Calls private to 32-bit ARM (arch/arm/include/uapi/asm/unistd.h).
const ARM_OWN: [(&str, u32); 3] = [
    ("breakpoint", 0xf_0001),
    ("cacheflush", 0xf_0002),
    ("set_tls", 0xf_0005),
];

impl Architecture {
    /// What this program itself was built for.
    pub const NATIVE: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// Everything the native kernel may run.
    pub fn family() -> &'static [Self] {
        match Self::NATIVE {
            Some(Self::X86_64) => &[Self::X86_64, Self::X86, Self::X32],
            Some(Self::Aarch64) => &[Self::Aarch64, Self::Arm],
            _ => &[],
        }
    }

    /// Whether the kernel runs its programs. Calls of one that it does not run fail in the kernel, filter or not.
    pub fn is_there(self) -> bool {
        self != Self::X32 || crate::sys::seccomp::kernel_has_x32()
    }

    /// The one that `arch` of a specification names; none for those that a kernel of this family never runs.
    pub fn from_spec(arch: Arch) -> Option<Self> {
        let found = match arch {
            Arch::ScmpArchNative => return Self::NATIVE,
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchAarch64 => Self::Aarch64,
            Arch::ScmpArchArm => Self::Arm,
            _ => return None,
        };
        Self::family().contains(&found).then_some(found)
    }

    /// Its name in a specification.
    pub fn to_spec(self) -> Arch {
        match self {
            Self::X86_64 => Arch::ScmpArchX86_64,
            Self::X86 => Arch::ScmpArchX86,
            Self::X32 => Arch::ScmpArchX32,
            Self::Aarch64 => Arch::ScmpArchAarch64,
            Self::Arm => Arch::ScmpArchArm,
        }
    }

    /// `AUDIT_ARCH_…` of linux/audit.h, as `struct seccomp_data` tells it.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xC000_003E,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 32 bits only.
    pub fn is_32_bit(self) -> bool {
        matches!(self, Self::X86 | Self::Arm)
    }

    /// First number of this architecture among those with the same [`audit`](Self::audit) value.
    pub fn base(self) -> u32 {
        if self == Self::X32 { X32_BIT } else { 0 }
    }

    /// Whether `number` is one of those that grow with new kernels, so that a larger one is a call unknown today.
    pub fn is_ordinary(self, number: u32) -> bool {
        self != Self::Arm || number < 0xf_0000
    }

    /// Number of the call `name`; none if the architecture has no such call.
    pub fn number(self, name: &str) -> Option<u32> {
        let number = match self {
            Self::X86_64 => name.parse::<syscalls::x86_64::Sysno>().ok()?.id(),
            Self::X86 => name.parse::<syscalls::x86::Sysno>().ok()?.id(),
            Self::Aarch64 => name.parse::<syscalls::aarch64::Sysno>().ok()?.id(),
            Self::Arm => match ARM_OWN.iter().find(|(n, _)| *n == name) {
                Some((_, number)) => return Some(*number),
                None => name.parse::<syscalls::arm::Sysno>().ok()?.id(),
            },
            Self::X32 => {
                let own = X32_OWN.iter().zip(512..).find(|(n, _)| **n == name);
                return match own {
                    Some((_, number)) => Some(X32_BIT | number),
                    None => Self::X86_64.number(name).map(|n| X32_BIT | n),
                };
            }
        };
        u32::try_from(number).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(Architecture::X86_64.number("openat"), Some(257));
        assert_eq!(Architecture::X86.number("openat"), Some(295));
        assert_eq!(Architecture::X32.number("openat"), Some(0x4000_0000 | 257));
        assert_eq!(Architecture::X32.number("execve"), Some(0x4000_0000 | 520));
        assert_eq!(Architecture::X32.number("pwritev2"), Some(0x4000_0000 | 547));
        assert_eq!(Architecture::Aarch64.number("openat"), Some(56));
        assert_eq!(Architecture::Arm.number("set_tls"), Some(0xf_0005));
        assert_eq!(Architecture::X86_64.number("socketcall"), None);
        assert_eq!(Architecture::X86.number("socketcall"), Some(102));
    }
}
