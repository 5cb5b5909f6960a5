//! Devices that vendors describe (Container Device Interface), and requests for them.

use std::{fs, path::Path};

use berth_tests::{
    Engine,
    container::{STAY, shell},
};
use serde_json::{Value, json};

/// A directory with the description of two devices; `hook` is the path of a program that notes that it was run.
fn descriptions(dir: &Path) {
    let hook = dir.join("hook");
    let script = format!("#!/bin/sh\ncat > {}/$1\n", dir.display());
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(dir.join("vendor-file"), "from the vendor\n").unwrap();
    let hooks: Vec<Value> = ["createRuntime", "createContainer", "poststart", "poststop"]
        .iter()
        .map(|name| json!({"hookName": name, "path": hook, "args": ["hook", name]}))
        .collect();
    let description = json!({
        "cdiVersion": "0.6.0",
        "kind": "vendor.example/thing",
        "containerEdits": {"env": ["VENDOR=here"]},
        "devices": [
            {"name": "zero", "containerEdits": {
                "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero", "permissions": "r"}],
                "mounts": [{
                    "hostPath": dir.join("vendor-file"),
                    "containerPath": "/opt/vendor",
                    "options": ["ro", "bind"],
                }],
                "additionalGids": [4242],
            }},
            {"name": "hooked", "containerEdits": {"hooks": hooks}},
        ],
    });
    fs::create_dir(dir.join("cdi")).unwrap();
    fs::write(dir.join("cdi/vendor.json"), description.to_string()).unwrap();
}

async fn start(dir: &Path) -> Engine {
    descriptions(dir);
    let flag = format!("--cdi-spec-dir={}/cdi", dir.display());
    let engine = Engine::options().flag(flag).start().await;
    engine.api.load_busybox().await;
    engine
}

fn with_device(mut config: Value, names: &[&str]) -> Value {
    config["HostConfig"]["DeviceRequests"] = json!([{"Driver": "cdi", "DeviceIDs": names}]);
    config
}

#[tokio::test]
async fn what_a_device_needs_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let engine = start(dir.path()).await;
    let script = "head -c 3 /dev/thing | od -An -tx1; \
        cat /opt/vendor; echo x 2>/dev/null > /opt/vendor || echo read-only; echo $VENDOR; id -G";
    let outcome = engine
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--device",
            "vendor.example/thing=zero",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .await
        .ok();
    let lines: Vec<_> = outcome.lines().map(str::trim).collect();
    assert_eq!(lines[..4], ["00 00 00", "from the vendor", "read-only", "here"]);
    assert!(lines[4].split(' ').any(|group| group == "4242"), "{outcome}");
    let config = with_device(shell(STAY), &["vendor.example/thing=zero"]);
    let id = engine.api.create(&config).await;
    let shown = engine.api.inspect(&id).await;
    assert_eq!(shown["HostConfig"]["DeviceRequests"][0]["Driver"], "cdi");
    engine.finish().await;
}

#[tokio::test]
async fn hooks_are_run_at_their_points() {
    let dir = tempfile::tempdir().unwrap();
    let engine = start(dir.path()).await;
    let config = with_device(shell("exit 3"), &["vendor.example/thing=hooked"]);
    let id = engine.api.create(&config).await;
    engine.api.start(&id).await;
    assert_eq!(engine.api.wait(&id).await, 3);
    for (point, status) in [
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        let state: Value =
            serde_json::from_str(&fs::read_to_string(dir.path().join(point)).unwrap()).unwrap();
        assert_eq!(
            (&state["id"], &state["status"]),
            (&json!(id), &json!(status)),
            "{point}"
        );
    }
    // One that fails keeps the container from running.
    fs::write(dir.path().join("hook"), "#!/bin/sh\necho not today >&2; exit 1\n").unwrap();
    let told = engine
        .api
        .post(&format!("/containers/{id}/start"))
        .await
        .expect(500)
        .message();
    assert!(
        told.contains("createRuntime hook #0") && told.contains("not today"),
        "{told}"
    );
    engine.finish().await;
}

#[tokio::test]
async fn requests_that_nothing_fits() {
    let dir = tempfile::tempdir().unwrap();
    let engine = start(dir.path()).await;
    let config = with_device(shell(STAY), &["vendor.example/thing=none"]);
    let id = engine.api.create(&config).await;
    let told = engine
        .api
        .post(&format!("/containers/{id}/start"))
        .await
        .expect(400)
        .message();
    assert_eq!(
        told,
        "CDI device injection failed: unresolvable CDI devices vendor.example/thing=none"
    );
    let err = engine
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--gpus",
            "all",
            "busybox",
            "true",
        ])
        .await
        .fails(125);
    assert!(
        err.contains("could not select device driver \"\" with capabilities: [[gpu]]"),
        "{err}"
    );
    engine.finish().await;
}
