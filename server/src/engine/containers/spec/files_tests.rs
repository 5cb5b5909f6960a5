//! Tests of the files.

use std::os::unix::fs::MetadataExt;

use berth_api::models::ContainerConfig;

use super::*;
use crate::engine::containers::validate::{BindSource, Propagation, SecurityOptions};

fn list(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

/// Calls `check` with a container of that network mode.
fn with_container<T>(
    mode: &str,
    change: impl FnOnce(&mut ContainerConfig, &mut HostConfig),
    check: impl FnOnce(&ContainerView<'_>) -> T,
) -> T {
    let mut config = ContainerConfig {
        hostname: "box".into(),
        ..ContainerConfig::default()
    };
    let mut host_config = HostConfig {
        network_mode: mode.into(),
        ..HostConfig::default()
    };
    change(&mut config, &mut host_config);
    check(&ContainerView {
        id: "0123",
        config: &config,
        host_config: &host_config,
        mounts: &[],
        security: &SecurityOptions::default(),
        linked: &[],
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn hosts_of_a_container() {
    let addresses = Addresses {
        own: &[ip("172.17.0.2"), ip("fd00::2")],
        links: &[(ip("172.17.0.9"), "db database".to_owned())],
        host_gateway: Some(ip("172.17.0.1")),
        name_server: false,
    };
    let text = with_container(
        "bridge",
        |config, host_config| {
            config.domainname = "example.org".into();
            host_config.extra_hosts = list(&["a:10.0.0.1", "b:[::7]", "h:host-gateway"]);
        },
        |container| hosts(container, NetworkMode::Bridge, &addresses).unwrap(),
    );
    let expected = "10.0.0.1\ta\n::7\tb\n172.17.0.1\th\n172.17.0.9\tdb database\n\
        172.17.0.2\tbox.example.org box\nfd00::2\tbox.example.org box\n";
    assert_eq!(text, format!("{LOCAL_HOSTS}{expected}"));
    assert!(LOCAL_HOSTS.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"));
    let none = with_container(
        "none",
        |_, _| {},
        |container| hosts(container, NetworkMode::None, &Addresses::default()).unwrap(),
    );
    assert_eq!(none, LOCAL_HOSTS);
    let error = with_container(
        "bridge",
        |_, host_config| host_config.extra_hosts = list(&["h:host-gateway"]),
        |container| {
            hosts(container, NetworkMode::Bridge, &Addresses::default())
                .unwrap_err()
                .to_string()
        },
    );
    assert!(error.starts_with("unable to derive the IP value for host-gateway"));
}

#[test]
fn hosts_in_the_hosts_network() {
    let own = read(HOST_HOSTS).unwrap();
    let text = with_container(
        "host",
        |_, _| {},
        |container| hosts(container, NetworkMode::Host, &Addresses::default()).unwrap(),
    );
    assert_eq!(text, own);
    let text = with_container(
        "host",
        |_, host_config| host_config.extra_hosts = list(&["a:10.0.0.1"]),
        |container| hosts(container, NetworkMode::Host, &Addresses::default()).unwrap(),
    );
    assert_eq!(text, format!("{LOCAL_HOSTS}10.0.0.1\ta\n"));
}

fn transformed(
    own: &str,
    mode: NetworkMode<'_>,
    name_server: bool,
    change: impl FnOnce(&mut HostConfig),
) -> String {
    let mut host_config = HostConfig::default();
    change(&mut host_config);
    let text = transform(ResolvConf::parse(own), &host_config, mode, name_server);
    text.lines().skip(1).map(|line| format!("{line}\n")).collect()
}

#[test]
fn name_servers() {
    const OWN: &str = "# mine\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\nsearch a.org b.org\noptions edns0\nsortlist 1.2.3.4\n";
    assert_eq!(
        transformed(OWN, NetworkMode::Bridge, false, |_| {}),
        "nameserver 10.0.0.2\nsearch a.org b.org\noptions edns0\nsortlist 1.2.3.4\n"
    );
    assert_eq!(
        transformed("nameserver 127.0.0.1\n", NetworkMode::Bridge, false, |_| {}),
        "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    );
    let asked = |host_config: &mut HostConfig| {
        host_config.dns = list(&["127.0.0.1", "1.1.1.1"]);
        host_config.dns_search = list(&["."]);
        host_config.dns_options = list(&["ndots:2"]);
    };
    assert_eq!(
        transformed(OWN, NetworkMode::Bridge, false, asked),
        "nameserver 127.0.0.1\nnameserver 1.1.1.1\noptions ndots:2\nsortlist 1.2.3.4\n"
    );
    assert_eq!(
        transformed(OWN, NetworkMode::Named("n"), true, |_| {}),
        "# Upstream servers (host): 10.0.0.2\nnameserver 127.0.0.11\nsearch a.org b.org\noptions edns0 ndots:0\nsortlist 1.2.3.4\n"
    );
    assert_eq!(
        transformed(OWN, NetworkMode::Named("n"), true, asked),
        "# Upstream servers (container): 127.0.0.1 1.1.1.1\nnameserver 127.0.0.11\noptions ndots:2\nsortlist 1.2.3.4\n"
    );
    assert!(
        transformed(OWN, NetworkMode::Host, false, |host_config| host_config
            .dns_search =
            list(&["x"]))
        .starts_with("nameserver 127.0.0.53\n")
    );
}

#[test]
fn files_are_written_in_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let names = ["hostname", "hosts", "resolv.conf", "resolv.conf.hash"];
    let of_shared = with_container(
        "container:x",
        |_, _| {},
        |container| write(directory.path(), container, &Addresses::default(), (0, 0)),
    );
    of_shared.unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    for _ in 0..2 {
        with_container(
            "none",
            |_, _| {},
            |container| write(directory.path(), container, &Addresses::default(), (0, 0)),
        )
        .unwrap();
        let mut found: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        found.sort();
        assert_eq!(found, names);
    }
    assert_eq!(
        fs::read_to_string(directory.path().join("hostname")).unwrap(),
        "box\n"
    );
    for name in names {
        assert_eq!(
            fs::metadata(directory.path().join(name)).unwrap().mode() & 0o7777,
            0o644,
            "{name}"
        );
    }
    with_container(
        "none",
        |config, _| config.domainname = "d.org".into(),
        |container| write(directory.path(), container, &Addresses::default(), (0, 0)),
    )
    .unwrap();
    assert_eq!(
        fs::read_to_string(directory.path().join("hostname")).unwrap(),
        "box.d.org\n"
    );
}

#[test]
fn bind_sources_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let point = |name: &str, create: bool| MountPoint {
        destination: "/x".into(),
        source: MountSource::Bind(BindSource {
            path: directory.path().join(name).to_string_lossy().into_owned(),
            propagation: Propagation::Rprivate,
            recursive: true,
            recursive_read_only: false,
            create,
            fallback: false,
            mapped: false,
        }),
        read_only: false,
        mode: String::new(),
    };
    fs::write(directory.path().join("file"), "").unwrap();
    make_bind_sources(
        &[point("a/b", true), point("c", false), point("file", true)],
        (7, 8),
    )
    .unwrap();
    let data = fs::metadata(directory.path().join("a")).unwrap();
    assert_eq!((data.uid(), data.gid()), (7, 8));
    assert!(directory.path().join("a/b").is_dir());
    assert!(!directory.path().join("c").exists());
    assert!(directory.path().join("file").is_file());
    let error = make_bind_sources(&[point("file/x", true)], (0, 0))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("error while creating mount source path '"),
        "{error}"
    );
}

#[test]
fn shared_memory_comes_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shm");
    unmount_shm(&path).unwrap();
    for _ in 0..2 {
        mount_shm(&path, 1 << 20, (0, 0)).unwrap();
        let stat = nix::sys::statvfs::statvfs(&path).unwrap();
        assert_eq!(stat.blocks() * stat.fragment_size(), 1 << 20);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o1777);
    }
    unmount_shm(&path).unwrap();
    assert!(!path.exists());
    unmount_shm(&path).unwrap();
}
