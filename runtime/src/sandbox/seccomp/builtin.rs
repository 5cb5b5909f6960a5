//! Docker's default profile (moby/profiles 0.2.3) as a function of the process's capabilities.

use super::{
    super::capabilities::has,
    architecture::Architecture,
    code::{Condition, Test},
    profile::{Action, FLAG_SPEC_ALLOW, Profile, Rule},
};

/// Allowed to everyone.
const ALWAYS: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 \
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 \
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 \
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait \
    futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid \
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid \
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname \
    getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl \
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 \
    madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 \
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap \
    name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc \
    pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 \
    pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall \
    riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp \
    select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto \
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
    setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown \
    sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 \
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete \
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink \
    unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev \
    process_vm_readv process_vm_writev ptrace";

/// Allowed with one of the capabilities.
const WITH_CAPABILITY: [(&str, &str); 14] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd \
        setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    (
        "SYS_PTRACE",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    (
        "SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// Allowed on one kind of machine.
const X86_ONLY: &str = "arch_prctl modify_ldt";
const ARM_ONLY: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// Linux, `UNAME26`, `PER_LINUX32` and both; and the value that only asks.
const PERSONALITIES: [u64; 5] = [0, 0x0002_0000, 0x0008, 0x0002_0008, 0xffff_ffff];

/// The profile for processes that can get `capabilities` (a bit mask) at most.
pub(super) fn profile(capabilities: u64) -> Profile<'static> {
    let mut rules = vec![allow(ALWAYS)];
    let native = Architecture::NATIVE;
    rules.push(allow(match native {
        Some(Architecture::Aarch64) => ARM_ONLY,
        _ => X86_ONLY,
    }));
    for (capability, names) in WITH_CAPABILITY {
        if has(capabilities, capability) {
            rules.push(allow(names));
        }
    }
    if !has(capabilities, "SYS_ADMIN") {
        let no_namespaces = Test::MaskedEqual {
            mask: NAMESPACE_FLAGS,
            value: 0,
        };
        rules.push(allow_if("clone", no_namespaces, false));
        // Its flags are in memory, where a filter cannot see them: C libraries fall back to clone on this error only.
        rules.push(Rule {
            names: vec!["clone3"],
            action: Action::Errno(libc::ENOSYS.cast_unsigned()),
            conditions: Vec::new(),
        });
    }
    // The kernel takes these arguments as `int`: the upper half must not help to get round the test.
    rules.push(allow_if("socket", Test::Less(AF_ALG), true));
    rules.push(allow_if("socket", Test::Equal(AF_ALG + 1), true));
    rules.push(allow_if("socket", Test::Greater(AF_VSOCK), true));
    rules.extend(PERSONALITIES.map(|p| allow_if("personality", Test::Equal(p), true)));
    Profile {
        default: Action::Errno(libc::EPERM.cast_unsigned()),
        architectures: Architecture::family().to_vec(),
        rules,
        flags: FLAG_SPEC_ALLOW,
    }
}

fn allow(names: &'static str) -> Rule<'static> {
    Rule {
        names: names.split_whitespace().collect(),
        action: Action::Allow,
        conditions: Vec::new(),
    }
}

fn allow_if(name: &'static str, test: Test, narrow: bool) -> Rule<'static> {
    Rule {
        names: vec![name],
        action: Action::Allow,
        conditions: vec![Condition {
            argument: 0,
            test,
            narrow,
        }],
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::{super::code::interpret, *};
    use crate::sandbox::defaults;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0000 | 38;

    struct Program(Vec<crate::sys::seccomp::Instruction>);

    impl Program {
        fn new(capabilities: u64) -> Self {
            Self(profile(capabilities).compile().unwrap())
        }

        fn ask(&self, architecture: Architecture, name: &str, argument: u64) -> u32 {
            let number = architecture
                .number(name)
                .unwrap_or_else(|| panic!("{architecture:?} {name}"));
            interpret(&self.0, architecture.audit(), number, [argument, 0, 0, 0, 0, 0])
        }

        fn native(&self, name: &str) -> u32 {
            self.ask(Architecture::X86_64, name, 0)
        }
    }

    #[test]
    fn the_list_is_complete() {
        // 361 names, and three that depend on the kernel being newer than 4.8.
        assert_eq!(ALWAYS.split_whitespace().count(), 361 + 3);
        let mut names: Vec<_> = ALWAYS.split_whitespace().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 361 + 3);
        let (_, admin) = WITH_CAPABILITY[1];
        assert_eq!(admin.split_whitespace().count(), 26);
    }

    #[test]
    fn default_capabilities() {
        let program = Program::new(defaults::CAPABILITY_MASK);
        for name in [
            "read",
            "openat2",
            "io_setup",
            "ptrace",
            "chroot",
            "mknod",
            "execveat",
            "clone",
            "arch_prctl",
        ] {
            assert_eq!(program.native(name), ALLOW, "{name}");
        }
        let denied = "mount unshare setns bpf fsopen keyctl add_key request_key userfaultfd pivot_root kexec_load swapon \
            nfsservctl uselib ustat io_uring_setup io_uring_enter io_uring_register open_by_handle_at syslog reboot \
            init_module kcmp iopl settimeofday vhangup mbind perf_event_open acct umount2";
        for name in denied.split_whitespace() {
            assert_eq!(program.native(name), EPERM, "{name}");
        }
        assert_eq!(program.native("clone3"), ENOSYS);
        let native = Architecture::X86_64;
        assert_eq!(program.ask(native, "clone", libc::CLONE_NEWUSER as u64), EPERM);
        assert_eq!(program.ask(native, "clone", libc::CLONE_VM as u64 | 17), ALLOW);
        for (family, verdict) in [
            (1, ALLOW),
            (37, ALLOW),
            (38, EPERM),
            (39, ALLOW),
            (40, EPERM),
            (41, ALLOW),
        ] {
            assert_eq!(program.ask(native, "socket", family), verdict, "{family}");
            assert_eq!(
                program.ask(native, "socket", family | 1 << 32),
                verdict,
                "{family} with upper bits"
            );
        }
        for (persona, verdict) in [
            (0, ALLOW),
            (0x20008, ALLOW),
            (0xffff_ffff, ALLOW),
            (0x0040_0000, EPERM),
        ] {
            assert_eq!(
                program.ask(native, "personality", persona),
                verdict,
                "{persona:#x}"
            );
        }
    }

    #[test]
    fn unknown_calls_look_like_an_older_kernel() {
        let program = Program::new(0);
        let newest = Architecture::X86_64.number("removexattrat").unwrap();
        let audit = Architecture::X86_64.audit();
        assert_eq!(interpret(&program.0, audit, newest + 1, [0; 6]), ENOSYS);
        assert_eq!(interpret(&program.0, audit, 0x3fff_ffff, [0; 6]), ENOSYS);
        assert_eq!(interpret(&program.0, audit, u32::MAX, [0; 6]), ENOSYS);
        assert_eq!(
            interpret(&program.0, 0xC000_00B7, 1, [0; 6]),
            0x8000_0000,
            "another machine's calls"
        );
    }

    #[test]
    fn other_architectures_of_the_kernel() {
        let program = Program::new(defaults::CAPABILITY_MASK);
        assert_eq!(program.ask(Architecture::X86, "socketcall", 0), ALLOW);
        assert_eq!(program.ask(Architecture::X86, "mount", 0), EPERM);
        assert_eq!(program.ask(Architecture::X86, "socket", 40), EPERM);
        assert_eq!(program.ask(Architecture::X86, "clone3", 0), ENOSYS);
        assert_eq!(program.ask(Architecture::X32, "execve", 0), ALLOW);
        assert_eq!(program.ask(Architecture::X32, "read", 0), ALLOW);
        assert_eq!(program.ask(Architecture::X32, "kexec_load", 0), EPERM);
    }

    #[test]
    fn capabilities_open_their_calls() {
        let with = |name: &str| Program::new(super::super::super::capabilities::bit(name).unwrap());
        let admin = with("SYS_ADMIN");
        for name in ["mount", "unshare", "clone3", "bpf", "setns"] {
            assert_eq!(admin.native(name), ALLOW, "{name}");
        }
        assert_eq!(
            admin.ask(Architecture::X86_64, "clone", libc::CLONE_NEWUSER as u64),
            ALLOW
        );
        assert_eq!(admin.native("kexec_load"), EPERM);
        assert_eq!(with("SYS_TIME").native("settimeofday"), ALLOW);
        assert_eq!(with("DAC_READ_SEARCH").native("open_by_handle_at"), ALLOW);
        assert_eq!(with("SYSLOG").native("syslog"), ALLOW);
        assert_eq!(Program::new(0).native("chroot"), EPERM);
    }

    #[test]
    fn programs_are_small() {
        assert!(Program::new(u64::MAX).0.len() < 450);
        assert!(Program::new(0).0.len() < 450, "{}", Program::new(0).0.len());
    }
}
