//! Who the process is, by Docker's rules.

use std::{fs, os::unix::fs::symlink};

use crate::support::{Case, Output};

crate::tests!(
    who_is_who,
    unknown_users,
    numbers_out_of_range,
    group_add,
    numbers_without_a_name,
    homes,
    credentials_of_root_and_others,
    streams_belong_to_the_user,
    private_working_directory,
    unreadable_programs,
    umask,
    account_files_that_are_none,
);

/// uid, gid and groups of `user`.
fn identity(user: &str, group_add: &str) -> Output {
    let mut case = Case::script("cat /proc/self/status");
    case.user(user);
    if !group_add.is_empty() {
        case.annotate("berth.group-add", group_add);
    }
    case.run()
}

#[track_caller]
fn assert_identity(user: &str, group_add: &str, uid: u32, gid: u32, groups: &str) {
    let output = identity(user, group_add).ok();
    assert_eq!(
        output.value("Uid"),
        format!("{uid}\t{uid}\t{uid}\t{uid}"),
        "{user}"
    );
    assert_eq!(
        output.value("Gid"),
        format!("{gid}\t{gid}\t{gid}\t{gid}"),
        "{user}"
    );
    assert_eq!(output.value("Groups"), groups, "{user}");
}

fn who_is_who() {
    assert_identity("", "", 0, 0, "0 1");
    assert_identity("root", "", 0, 0, "0 1");
    assert_identity("bob", "", 1000, 1000, "29 1000");
    assert_identity("1000", "", 1000, 1000, "29 1000");
    assert_identity("bob:video", "", 1000, 44, "44");
    assert_identity("bob:5", "", 1000, 5, "5");
    assert_identity("7:8", "", 7, 8, "8");
    // An entry named like a number does not decide who that number is.
    assert_identity("1234", "", 1234, 0, "0");
    assert_identity("01", "", 1, 0, "0");
    assert_identity("2147483647", "", 2_147_483_647, 0, "0");
}

fn unknown_users() {
    identity("nobody", "").refused(
        128,
        "unable to find user nobody: no matching entries in passwd file",
    );
    identity("bob:nobody", "").refused(
        128,
        "unable to find group nobody: no matching entries in group file",
    );
    identity("bob", "nobody").refused(128, "Unable to find group nobody");
    let message = identity("nobody", "").stderr;
    assert!(!message.contains("OCI"), "{message}");
}

fn numbers_out_of_range() {
    for user in [
        "2147483648",
        "4294967295",
        "4294967296",
        "-1",
        "0x0",
        "a:b:c",
        "\n0",
        "bob:-1",
        "18446744073709551616",
    ] {
        let output = identity(user, "");
        assert_eq!(output.code, 125, "{user}: {output:?}");
    }
}

fn group_add() {
    assert_identity("bob", "video,77,audio", 1000, 1000, "29 44 77 1000");
    assert_identity("", "5", 0, 0, "0 1 5");
}

fn numbers_without_a_name() {
    let mut case = Case::script("cat /proc/self/status");
    case.spec["process"]["user"] = serde_json::json!({"uid": 12, "gid": 34, "additionalGids": [34, 56]});
    case.annotate("berth.group-add", "audio");
    let output = case.run().ok();
    assert_eq!(output.value("Uid"), "12\t12\t12\t12");
    assert_eq!(output.value("Groups"), "29 34 56");
}

fn homes() {
    for (user, home) in [
        ("", "/root"),
        ("bob", "/home/bob"),
        ("1000", "/home/bob"),
        ("77", "/"),
    ] {
        let mut case = Case::script("echo $HOME");
        case.user(user);
        assert_eq!(case.run().ok().stdout.trim(), home, "{user}");
    }
    let mut case = Case::script("echo $HOME");
    case.spec["process"]["env"]
        .as_array_mut()
        .unwrap()
        .push("HOME=/elsewhere".into());
    assert_eq!(case.run().ok().stdout, "/elsewhere\n");
}

fn credentials_of_root_and_others() {
    let root = identity("", "").ok();
    let bob = identity("bob", "").ok();
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(root.value(set), "0000000000000000", "{set}");
        assert_eq!(bob.value(set), "0000000000000000", "{set}");
    }
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(root.value(set), "00000000a80425fb", "{set}");
        assert_eq!(bob.value(set), "0000000000000000", "{set}");
    }
    assert_eq!(bob.value("CapBnd"), "00000000a80425fb");
    assert_eq!(bob.value("Seccomp"), "2");
}

fn streams_belong_to_the_user() {
    let mut case = Case::script("echo one > /dev/stdout; echo two > /dev/stderr; stat -L -c %u /dev/stdout");
    case.user("bob");
    let output = case.run().ok();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("one\n1000\n", "two\n")
    );
    let mut case = Case::script("stat -c '%u %g' $(tty); echo x > $(tty)");
    case.user("bob");
    assert_eq!(case.run_with_terminal().ok().lines()[0].trim(), "1000 5");
}

fn private_working_directory() {
    let mut case = Case::script("pwd; touch x && stat -c %u x");
    case.user("bob");
    case.spec["process"]["cwd"] = "/home/bob".into();
    assert_eq!(case.run().ok().lines(), ["/home/bob", "1000"]);
}

fn unreadable_programs() {
    let mut case = Case::new(&["/secret/program"]);
    fs::create_dir(case.layer("secret")).unwrap();
    fs::copy("/bin/busybox", case.layer("secret/program")).unwrap();
    fs::set_permissions(
        case.layer("secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    case.user("bob");
    case.run().refused(126, "permission denied");
}

fn umask() {
    let mut case = Case::script("umask");
    assert_eq!(case.run().ok().stdout, "0022\n");
    case.spec["process"]["user"]["umask"] = 0o077.into();
    assert_eq!(case.run().ok().stdout, "0077\n");
}

fn account_files_that_are_none() {
    let with = |make: &dyn Fn(&std::path::Path), user: &str| {
        let mut case = Case::new(&["id", "-u"]);
        make(&case.layer("etc/passwd"));
        case.user(user);
        case.run()
    };
    let fifo = |path: &std::path::Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    with(&fifo, "bob").refused(128, "not a regular file");
    with(&|path| symlink("/dev/zero", path).unwrap(), "bob").refused(128, "not a regular file");
    with(&|path| symlink("passwd", path).unwrap(), "bob").refused(128, "/etc/passwd");
    with(
        &|path| fs::File::create(path).unwrap().set_len(5 << 30).unwrap(),
        "bob",
    )
    .refused(128, "larger than");
    let members = format!("bob:x:1000:1000::/:/bin/sh{}\n", ",x".repeat(1_000_000));
    assert_eq!(
        with(&|path| fs::write(path, &members).unwrap(), "bob")
            .ok()
            .stdout,
        "1000\n"
    );
    // A link to a file of the host leads to one of the container.
    with(&|path| symlink("/../../../../etc/shadow", path).unwrap(), "bob")
        .refused(128, "unable to find user bob");
}
