//! `GET /version`.

use std::collections::BTreeMap;

use berth_api::{
    ApiVersion,
    models::{SystemVersion, SystemVersionComponentsItem, SystemVersionPlatform},
};

use crate::engine::Engine;

/// Version of the engine.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Revision that the program was built from, if the build knew it.
const COMMIT: Option<&str> = option_env!("BERTH_COMMIT");
/// When the program was built, in RFC 3339, if the build said so.
const BUILD_TIME: Option<&str> = option_env!("BERTH_BUILD_TIME");

/// The versions of the engine's parts.
pub fn version(engine: &Engine) -> SystemVersion {
    let host = &engine.host;
    let commit = COMMIT.unwrap_or("N/A");
    let build_time = BUILD_TIME.unwrap_or_default();
    let detail = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let newest = ApiVersion::NEWEST.to_string();
    let oldest = ApiVersion::OLDEST.to_string();
    let details: BTreeMap<_, _> = [
        ("ApiVersion", newest.as_str()),
        ("Arch", host.arch()),
        ("BuildTime", build_time),
        ("Experimental", "false"),
        ("GitCommit", commit),
        ("GoVersion", ""),
        ("KernelVersion", &host.kernel),
        ("MinAPIVersion", &oldest),
        ("Os", "linux"),
    ]
    .into_iter()
    .map(detail)
    .collect();
    let part = |name: &str| SystemVersionComponentsItem {
        name: name.into(),
        version: VERSION.into(),
        details: BTreeMap::from([detail(("GitCommit", commit))]),
    };
    SystemVersion {
        platform: SystemVersionPlatform { name: "Berth".into() },
        components: vec![
            SystemVersionComponentsItem {
                name: "Engine".into(),
                version: VERSION.into(),
                details,
            },
            part("berth-runtime"),
            part("berth-init"),
        ],
        version: VERSION.into(),
        api_version: newest,
        min_api_version: oldest,
        git_commit: commit.into(),
        go_version: String::new(),
        os: "linux".into(),
        arch: host.arch().into(),
        kernel_version: host.kernel.clone(),
        experimental: false,
        build_time: build_time.into(),
    }
}
