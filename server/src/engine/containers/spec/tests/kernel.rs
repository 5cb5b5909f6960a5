//! Tests of devices, kernel parameters, filters, control groups and annotations.

use super::*;

#[test]
fn devices() {
    let mapping = |host: &str, container: &str| DeviceMapping {
        path_on_host: host.into(),
        path_in_container: container.into(),
        cgroup_permissions: "rw".into(),
    };
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap().to_owned();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    for name in ["one", "sub/two"] {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        let device = nix::sys::stat::makedev(1, 3);
        nix::sys::stat::mknod(
            &directory.path().join(name),
            nix::sys::stat::SFlag::S_IFCHR,
            mode,
            device,
        )
        .unwrap();
    }
    std::fs::write(directory.path().join("file"), "").unwrap();
    let plain = built(|_| {})
        .linux()
        .as_ref()
        .unwrap()
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .as_ref()
        .unwrap()
        .len();
    let spec = built(|setup| {
        setup.host_config.devices = Some(vec![
            mapping("/dev/zero", "/dev/nothing"),
            mapping(&root, "/dev/all"),
        ]);
        setup.host_config.device_cgroup_rules = words(&["c 13:* r"]);
    });
    let linux = spec.linux().as_ref().unwrap();
    let mut places: Vec<_> = linux
        .devices()
        .iter()
        .flatten()
        .map(|device| device.path().display().to_string())
        .collect();
    places.sort();
    assert_eq!(places, ["/dev/all/one", "/dev/all/sub/two", "/dev/nothing"]);
    let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
    assert_eq!(rules.len(), plain + 4);
    assert_eq!(
        (
            rules[plain].major(),
            rules[plain].minor(),
            rules[plain].access().as_deref()
        ),
        (Some(1), Some(5), Some("rw"))
    );
    assert_eq!(
        (rules[plain + 3].major(), rules[plain + 3].minor()),
        (Some(13), Some(-1))
    );

    for (path, why) in [
        ("/nowhere", "no such file or directory"),
        (&*format!("{root}/file"), "not a device node"),
    ] {
        let error =
            refused(|setup| setup.host_config.devices = Some(vec![mapping(path, "/dev/x")])).to_string();
        assert!(
            error.starts_with("error gathering device information while adding custom device")
                && error.contains(why),
            "{error}"
        );
    }
    let error = refused(|setup| {
        let capabilities = Some(vec![vec!["gpu".to_owned()]]);
        setup.host_config.device_requests = Some(vec![DeviceRequest {
            capabilities,
            count: -1,
            ..DeviceRequest::default()
        }]);
    });
    assert_eq!(
        error.to_string(),
        "could not select device driver \"\" with capabilities: [[gpu]]"
    );
}

#[test]
fn kernel_parameters() {
    let sysctl = |mode: &str, own: &[(&str, &str)]| {
        let mut setup = Setup::new();
        setup.host_config.network_mode = mode.into();
        setup.host_config.sysctls = own
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        setup.build().map(|spec| {
            let mut list: Vec<_> = spec
                .linux()
                .as_ref()
                .unwrap()
                .sysctl()
                .clone()
                .unwrap()
                .into_iter()
                .collect();
            list.sort();
            list.into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
        })
    };
    let own = [
        "net.ipv4.ip_unprivileged_port_start=0",
        "net.ipv4.ping_group_range=0 2147483647",
    ];
    assert_eq!(sysctl("bridge", &[]).unwrap(), own);
    assert_eq!(sysctl("none", &[]).unwrap(), own);
    assert_eq!(sysctl("host", &[]).unwrap(), [""; 0]);
    assert_eq!(
        sysctl(
            "none",
            &[
                ("net/ipv4/ip_forward", "1"),
                ("net.ipv4.ip_unprivileged_port_start", "1024"),
                ("kernel.shmmax", "5")
            ]
        )
        .unwrap(),
        [
            "kernel.shmmax=5",
            "net.ipv4.ip_forward=1",
            "net.ipv4.ip_unprivileged_port_start=1024",
            own[1]
        ]
    );
    for (mode, name, why) in [
        (
            "host",
            "net.ipv4.ip_forward",
            "is not allowed in the hosts network namespace",
        ),
        (
            "none",
            "kernel.core_pattern",
            "is not in a separate kernel namespace",
        ),
        ("none", "vm.swappiness", "is not in a separate kernel namespace"),
        (
            "none",
            "kernel.hostname",
            "is not allowed: set the container's Hostname instead",
        ),
        ("none", "net..x", "is not the name of a kernel parameter"),
        (
            "none",
            "net/../kernel/core_pattern",
            "is not the name of a kernel parameter",
        ),
        ("none", "", "is not the name of a kernel parameter"),
        ("none", "net.x\n", "is not the name of a kernel parameter"),
    ] {
        assert_eq!(
            sysctl(mode, &[(name, "1")]).unwrap_err().to_string(),
            format!("sysctl {name:?} {why}")
        );
    }
    let error = refused(|setup| {
        setup.host_config.ipc_mode = "host".into();
        setup
            .host_config
            .sysctls
            .insert("fs.mqueue.msg_max".into(), "5".into());
    });
    assert_eq!(
        error.to_string(),
        "sysctl \"fs.mqueue.msg_max\" is not allowed in the hosts ipc namespace"
    );
}

#[test]
fn control_groups() {
    let path = |parent: &str| {
        let spec = built(|setup| setup.host_config.cgroup_parent = parent.into());
        spec.linux()
            .as_ref()
            .unwrap()
            .cgroups_path()
            .as_ref()
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(
        [path(""), path("/a/"), path("a/b")],
        ["/berth/0123", "/a/0123", "a/b/0123"]
    );
}

#[test]
fn filters_of_system_calls() {
    use crate::engine::containers::validate::Seccomp;
    let choice = |seccomp: Seccomp, privileged: bool, supported: bool| {
        let mut setup = Setup::new();
        setup.security.seccomp = seccomp;
        setup.host_config.privileged = privileged;
        setup.host.seccomp = supported;
        setup.build().map(|spec| {
            let own = spec.linux().as_ref().unwrap().seccomp().is_some();
            (
                spec.annotations()
                    .as_ref()
                    .unwrap()
                    .get(ANNOTATION_SECCOMP)
                    .cloned(),
                own,
            )
        })
    };
    let builtin = || (Some(SECCOMP_BUILTIN.to_owned()), false);
    let unconfined = || (Some(SECCOMP_UNCONFINED.to_owned()), false);
    let profile = || Seccomp::Profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.into());
    assert_eq!(choice(Seccomp::Default, false, true).unwrap(), builtin());
    assert_eq!(choice(Seccomp::Default, true, true).unwrap(), unconfined());
    assert_eq!(choice(Seccomp::Builtin, true, true).unwrap(), builtin());
    assert_eq!(choice(Seccomp::Unconfined, false, true).unwrap(), unconfined());
    assert_eq!(choice(Seccomp::Default, false, false).unwrap(), unconfined());
    assert_eq!(choice(profile(), true, true).unwrap(), (None, true));
    assert!(choice(profile(), false, false).is_err());
}

#[test]
fn annotations() {
    let annotation = |name: &str| (name.to_owned(), "user".to_owned());
    let spec = built(|setup| {
        setup.host_config.annotations = ["a.b", "berth.seccomp", "Berth.init", "berth.made-up"]
            .map(annotation)
            .into();
        setup.host_config.group_add = words(&["audio", "5"]);
        setup.defaults.init = true;
        // Labels are the user's bookkeeping, whoever wrote them.
        setup.config.labels = Some(
            [
                annotation("berth.init"),
                annotation("run.oci.keep_original_groups"),
            ]
            .into(),
        );
    });
    let mut annotations: Vec<_> = spec.annotations().clone().unwrap().into_iter().collect();
    annotations.sort();
    let expected = [
        ("a.b", "user"),
        (ANNOTATION_GROUP_ADD, "audio,5"),
        (ANNOTATION_INIT, "true"),
        (ANNOTATION_SECCOMP, SECCOMP_BUILTIN),
    ];
    assert_eq!(
        annotations,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    let none = built(|setup| {
        setup.defaults.init = true;
        setup.host_config.init = Some(false);
    });
    assert!(!none.annotations().as_ref().unwrap().contains_key(ANNOTATION_INIT));
}
