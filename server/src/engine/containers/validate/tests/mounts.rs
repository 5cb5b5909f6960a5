//! Tests of mounts.

use super::*;

/// The destinations of a request's mounts.
fn destinations(change: Change) -> Result<Vec<String>> {
    Ok(run(change)?
        .mounts
        .into_iter()
        .map(|point| point.destination)
        .collect())
}

fn mount(kind: MountType, source: &str, target: &str) -> Mount {
    Mount {
        r#type: Some(kind),
        source: source.into(),
        target: target.into(),
        ..Mount::default()
    }
}

#[test]
fn mounts_of_all_kinds_are_one_list() {
    let all: Change = |r, h| {
        h.binds = words(&["/b:/binds/b", "vol:/binds/v"]);
        h.mounts = vec![
            mount(MountType::Bind, "/", "/mounts/b/"),
            mount(MountType::Volume, "", "/mounts/v"),
            mount(MountType::Tmpfs, "", "/mounts/t"),
        ];
        h.volumes_from = words(&["db:ro"]);
        h.tmpfs.insert("/run".into(), "size=1m".into());
        r.volumes = Some(
            [
                ("/anonymous/".to_owned(), berth_api::EmptyObject {}),
                ("/data".to_owned(), berth_api::EmptyObject {}),
            ]
            .into(),
        );
    };
    let expected = [
        "/anonymous",
        "/binds/b",
        "/binds/v",
        "/data",
        "/mounts/b",
        "/mounts/t",
        "/mounts/v",
        "/tmpfs",
    ];
    assert_eq!(destinations(all).unwrap(), expected);
    let checked = run(all).unwrap();
    let data = checked
        .mounts
        .iter()
        .find(|point| point.destination == "/data")
        .unwrap();
    let MountSource::Volume(volume) = &data.source else {
        panic!("{data:?}")
    };
    assert!(data.read_only && !volume.copy_up && volume.path.is_some());
}

#[test]
fn explicit_mounts_win_over_those_of_others() {
    let checked = run(|_, h| {
        h.volumes_from = words(&["db"]);
        h.binds = words(&["/b:/data"]);
        h.tmpfs.insert("/tmpfs".into(), String::new());
    })
    .unwrap();
    assert_eq!(checked.mounts.len(), 1);
    assert!(matches!(checked.mounts[0].source, MountSource::Bind(_)));
}

#[test]
fn one_place_takes_one_mount() {
    let table: [Change; 4] = [
        |_, h| h.binds = words(&["/a:/x", "/b:/x/"]),
        |_, h| (h.binds, h.mounts) = (words(&["/a:/x"]), vec![mount(MountType::Tmpfs, "", "/x")]),
        |_, h| (h.binds, h.tmpfs) = (words(&["/a:/x"]), [("/x/".to_owned(), String::new())].into()),
        |_, h| {
            (h.mounts, h.tmpfs) = (
                vec![mount(MountType::Volume, "", "/y/../x")],
                [("/x".to_owned(), String::new())].into(),
            )
        },
    ];
    for change in table {
        assert_eq!(
            destinations(change).unwrap_err().to_string(),
            "Duplicate mount point: /x"
        );
    }
}

#[test]
fn mount_objects_that_are_refused() {
    let table: [(Change, &str); 15] = [
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "/", "")],
            "invalid mount config for type \"bind\": field Target must not be empty",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "/", "/")],
            "invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "/", "x")],
            "invalid mount config for type \"bind\": invalid mount path: 'x' mount path must be absolute",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "", "/x")],
            "invalid mount config for type \"bind\": field Source must not be empty",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "x", "/x")],
            "invalid mount config for type \"bind\": invalid mount path: 'x' mount path must be absolute",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Bind, "/nowhere/at/all", "/x")],
            "invalid mount config for type \"bind\": bind source path does not exist: /nowhere/at/all",
        ),
        (
            |_, h| {
                h.mounts = vec![Mount {
                    volume_options: Some(MountVolumeOptions::default()),
                    ..mount(MountType::Bind, "/", "/x")
                }]
            },
            "invalid mount config for type \"bind\": field VolumeOptions must not be specified",
        ),
        (
            |_, h| {
                h.mounts = vec![Mount {
                    bind_options: Some(MountBindOptions::default()),
                    ..mount(MountType::Volume, "", "/x")
                }]
            },
            "invalid mount config for type \"volume\": field BindOptions must not be specified",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Tmpfs, "x", "/x")],
            "invalid mount config for type \"tmpfs\": field Source must not be specified",
        ),
        (
            |_, h| {
                h.mounts = vec![Mount {
                    tmpfs_options: Some(MountTmpfsOptions {
                        size_bytes: -1,
                        mode: 0,
                    }),
                    ..mount(MountType::Tmpfs, "", "/x")
                }]
            },
            "invalid mount config for type \"tmpfs\": TmpfsOptions.SizeBytes must not be negative: -1",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Npipe, "x", "/x")],
            "invalid mount config for type \"npipe\": mount type unknown",
        ),
        (
            |_, h| {
                h.mounts = vec![Mount {
                    target: "/x".into(),
                    ..Mount::default()
                }]
            },
            "invalid mount config for type \"\": mount type unknown",
        ),
        (
            |_, h| h.mounts = vec![mount(MountType::Tmpfs, "", "/proc")],
            "invalid mount config for type \"tmpfs\": \"/proc\" cannot be mounted because it is not of type proc",
        ),
        (
            |_, h| h.tmpfs = [("/x".to_owned(), "bogus".to_owned())].into(),
            "invalid tmpfs option [\"bogus\"]",
        ),
        (
            |_, h| h.tmpfs = [("x".to_owned(), String::new())].into(),
            "invalid mount path: 'x' mount path must be absolute",
        ),
    ];
    for (change, message) in table {
        let error = run(change).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.kind()),
            (message, Kind::Invalid)
        );
    }
    let made = run(|_, h| {
        let options = MountBindOptions {
            create_mountpoint: true,
            non_recursive: true,
            propagation: MountBindOptionsPropagation::Rslave,
            ..MountBindOptions::default()
        };
        h.mounts = vec![Mount {
            bind_options: Some(options),
            ..mount(MountType::Bind, "/nowhere/at/all/", "/x")
        }];
    });
    let MountSource::Bind(bind) = made.unwrap().mounts.remove(0).source else {
        panic!("no bind")
    };
    assert_eq!(
        bind,
        BindSource {
            path: "/nowhere/at/all".into(),
            propagation: Propagation::Rslave,
            recursive: false,
            recursive_read_only: false,
            create: true,
            fallback: false,
            mapped: false,
        }
    );
}

#[test]
fn binds_around_the_engines_directory_do_not_pin_its_mounts() {
    let propagation = |text: &str| {
        let text = text.to_owned();
        let mut checked = run(move |_, h| h.binds = Some(vec![text]))?;
        match checked.mounts.remove(0).source {
            MountSource::Bind(bind) => Ok::<_, Error>(bind.propagation),
            other => panic!("{other:?}"),
        }
    };
    for source in ["/", "/var/lib", "/var/lib/berth", "/var/lib/berth/containers"] {
        assert_eq!(
            propagation(&format!("{source}:/x")).unwrap(),
            Propagation::Rslave,
            "{source}"
        );
    }
    assert_eq!(propagation("/var/lib/berthed:/x").unwrap(), Propagation::Rprivate);
    assert_eq!(propagation("/:/x:rshared").unwrap(), Propagation::Rshared);
    let error = propagation("/:/x:private").unwrap_err().to_string();
    assert!(
        error.starts_with("invalid mount config: must use either propagation mode \"rslave\" or \"rshared\""),
        "{error}"
    );
}

#[test]
fn images_add_what_is_missing() {
    let mut checked = run(|_, h| {
        h.binds = words(&["/b:/data"]);
        h.tmpfs.insert("/run".into(), String::new());
    })
    .unwrap();
    let volume = |path: &str| (path.to_owned(), berth_api::EmptyObject {});
    let mut image = ImageConfig {
        cmd: words(&["sh"]),
        volumes: Some([volume("/data/"), volume("/run"), volume("/../logs")].into()),
        ..ImageConfig::default()
    };
    checked.merge_image(&image).unwrap();
    assert_eq!(
        checked
            .mounts
            .iter()
            .map(|point| point.destination.as_str())
            .collect::<Vec<_>>(),
        ["/data", "/logs"]
    );
    checked.set_hostname("0123456789abcdef").unwrap();
    assert_eq!(checked.config.hostname, "0123456789ab");

    for bad in ["/proc", "/proc/sys", "relative", "/"] {
        image.volumes = Some([volume(bad)].into());
        assert_eq!(
            run(|_, _| {}).unwrap().merge_image(&image).unwrap_err().kind(),
            Kind::Invalid,
            "{bad}"
        );
    }
    image.volumes = None;
    image.user = "4294967296".into();
    assert!(run(|_, _| {}).unwrap().merge_image(&image).is_err());
    let mut in_hosts_network = run(|_, h| h.network_mode = "host".into()).unwrap();
    in_hosts_network.set_hostname("0123456789abcdef").unwrap();
    assert_eq!(in_hosts_network.config.hostname, host_name().unwrap());
}

#[test]
fn subpaths_stay_in_the_volume() {
    let with = |subpath: &str| {
        run(|_, h| {
            let mut mount = mount(MountType::Volume, "vol", "/v");
            mount.volume_options = Some(berth_api::models::MountVolumeOptions {
                subpath: subpath.into(),
                ..Default::default()
            });
            h.mounts = vec![mount];
        })
    };
    for fine in ["a", "a/b", "./a", "a/../b", "..."] {
        assert!(with(fine).is_ok(), "{fine}");
    }
    for bad in ["/a", "..", "a/../..", "../a", "a\0b"] {
        assert_eq!(
            with(bad).unwrap_err().to_string(),
            "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
            "{bad}"
        );
    }
}

#[test]
fn mounts_are_shown() {
    let checked = run(|_, h| {
        h.binds = words(&["/b:/b:ro,z", "vol:/v"]);
        h.mounts = vec![mount(MountType::Tmpfs, "", "/t")];
    });
    let shown: Vec<_> = checked.unwrap().mounts.iter().map(MountPoint::to_model).collect();
    let brief = |index: usize| {
        let point: &berth_api::models::MountPoint = &shown[index];
        (
            point.r#type,
            point.source.as_str(),
            point.name.as_str(),
            point.driver.as_str(),
            point.mode.as_str(),
            point.rw,
            point.propagation.as_str(),
        )
    };
    assert_eq!(
        brief(0),
        (MountType::Bind, "/b", "", "", "ro,z", false, "rprivate")
    );
    assert_eq!(brief(1), (MountType::Tmpfs, "", "", "", "", true, ""));
    assert_eq!(brief(2), (MountType::Volume, "", "vol", "local", "z", true, ""));
}
