//! How the steps of a build run: mounts, secrets, limits, networks.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berth_tests::{
    Engine,
    build::{Told, dockerfile, started},
    client::query,
    image::Tar,
};
use http::Method;
use serde_json::json;

/// Builds with secrets.
async fn with_secrets(
    engine: &Engine,
    secrets: &[(&str, &str)],
    pairs: &[(&str, &str)],
    context: Tar,
) -> Told {
    let secrets: serde_json::Map<_, _> = secrets
        .iter()
        .map(|(id, value)| ((*id).to_owned(), STANDARD.encode(value).into()))
        .collect();
    let path = format!("/build{}", query(pairs));
    let call = engine.api.call(Method::POST, &path);
    let call = call
        .header("content-type", "application/x-tar")
        .header("x-build-secrets", &STANDARD.encode(json!(secrets).to_string()));
    let reply = call.bytes(context.finish()).send().await.expect(200);
    Told::of(&reply.records())
}

#[tokio::test]
async fn secrets_are_files_or_variables_of_one_step() {
    let engine = started().await;
    let marker = "s3cr3t-marker-77aa";
    let text = "FROM busybox\nWORKDIR /w\n\
        RUN --mount=type=secret,id=dir/tok stat -c '%a %u:%g %s' /run/secrets/tok\n\
        RUN --mount=type=secret,id=tok,target=rel/t,uid=5,gid=6,mode=0440 stat -c '%a %u:%g %s' /w/rel/t\n\
        RUN --mount=type=secret,target=/etc/tok stat -c %s /etc/tok\n\
        RUN --mount=type=secret,id=tok,env=TOKEN echo ${#TOKEN}; test ! -e /run/secrets/tok\n\
        RUN --mount=type=secret,id=tok,env=TOKEN,target=/both echo \"${#TOKEN} $(wc -c < /both)\"\n\
        RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent && echo absent\n\
        RUN echo \"[$TOKEN]\"; ls /run/secrets /w/rel /both 2>&1 | grep -c No\n\
        RUN --mount=type=ssh echo \"agent [$SSH_AUTH_SOCK]\"\n";
    let told = with_secrets(
        &engine,
        &[("tok", marker), ("dir/tok", "x")],
        &[("t", "s")],
        dockerfile(text),
    )
    .await;
    let told = told.ok();
    for line in [
        "\n400 0:0 1\n",
        "\n440 5:6 18\n",
        "\n18\n",
        "\n18 18\n",
        "\nabsent\n",
        "\n[]\n3\n",
        "\nagent []\n",
    ] {
        assert!(told.contains(line), "{line:?}: {told}");
    }
    // Neither what was built nor what is left knows the value.
    assert!(!told.contains(marker));
    for path in [
        "/images/s/get",
        "/images/s/history",
        "/images/s/json",
        "/containers/json?all=1",
        "/system/df",
    ] {
        assert!(
            !engine.api.get(path).await.expect(200).text().contains(marker),
            "{path}"
        );
    }
    assert!(!engine.log().contains(marker));
    let found = std::process::Command::new("grep")
        .args(["-rl", marker])
        .args([engine.data_root(), engine.exec_root()])
        .output()
        .expect("grep");
    assert!(found.stdout.is_empty(), "{found:?}");
    // A failed step stays; its configuration has no secret either.
    let text = "FROM busybox\nRUN --mount=type=secret,id=tok,env=TOKEN exit 4\n";
    let failed = with_secrets(&engine, &[("tok", marker)], &[], dockerfile(text)).await;
    assert_eq!(failed.code, 4);
    for name in engine.api.names("?all=1").await {
        let name = name.trim_start_matches('/').to_owned();
        assert!(!engine.api.inspect(&name).await.to_string().contains(marker));
        engine.api.remove(&name).await;
    }
    for (mount, words) in [
        ("id=no,required", "secret no: not found"),
        ("id=bin,env=X", "cannot be the value of a variable"),
        ("env=X", "needs an id"),
        ("id=tok,mode=99", "invalid value for mode"),
        ("id=tok,nope=1", "unexpected key 'nope'"),
    ] {
        let text = format!("FROM busybox\nRUN --mount=type=secret,{mount} true\n");
        let failed = with_secrets(
            &engine,
            &[("tok", marker), ("bin", "a\0b")],
            &[],
            dockerfile(&text),
        )
        .await;
        let error = failed.fails();
        assert!(error.contains(words), "{mount}: {error}");
    }
    engine.finish().await;
}

#[tokio::test]
async fn mounts_show_and_take() {
    let engine = started().await;
    let text = "FROM busybox AS src\nRUN mkdir -p /data/in && echo of-stage > /data/in/f && ln -s in /data/link\nFROM busybox\nARG WHERE=/ctx\nWORKDIR /w\n\
        RUN --mount=target=/ctx cat /ctx/d/f && ! touch /ctx/new 2>/dev/null\n\
        RUN --mount=type=bind,source=d,target=rel cat rel/f\n\
        RUN --mount=type=bind,source=d/f,target=/one cat /one\n\
        RUN --mount=type=bind,target=$WHERE,rw echo changed > $WHERE/d/f && cat $WHERE/d/f\n\
        RUN --mount=type=bind,target=/ctx cat /ctx/d/f\n\
        RUN --mount=from=src,source=/data/link,target=/in cat /in/f\n\
        RUN --mount=from=busybox,source=bin,target=/b --mount=type=tmpfs,target=/t,size=2m test -e /b/busybox && df -k /t | grep -c 2048\n\
        RUN --mount=type=cache,id=a,target=/c,uid=7,gid=8,mode=0750 stat -c '%a %u:%g' /c && echo 1 >> /c/n\n\
        RUN --mount=type=cache,id=a,target=/other,readonly cat /other/n && ! touch /other/x 2>/dev/null\n\
        RUN --mount=type=cache,target=/from,from=src,source=/data/in cat /from/f\n\
        RUN --mount=type=cache,id=a,target=/x --mount=type=cache,id=a,target=/y,sharing=locked echo 2 >> /x/n && cat /y/n\n\
        RUN --network=none ls /sys/class/net\n\
        RUN ls -d /ctx /one /in /b /t /c /other /from /x /y /w/rel 2>/dev/null | wc -l\nCOPY d/f /copied\n";
    let context = || dockerfile(text).file("d/f", 0o644, "of-context\n");
    let told = engine.build(&[("t", "m")], context()).await.ok();
    assert_eq!(told.matches("\nof-context\n").count(), 4, "{told}");
    for line in [
        "\nchanged\n",
        "\nof-stage\n",
        "\n1\n",
        "\n750 7:8\n",
        "\n1\n2\n",
        "\nlo\n",
        "\n0\n",
    ] {
        assert!(told.contains(line), "{line:?}: {told}");
    }
    assert_eq!(engine.read_in("m", "cat /copied").await, "of-context\n");
    let all = engine.build(&[], context()).await.ok();
    assert_eq!(all.matches("Using cache").count(), 17, "{all}");
    // What a step sees of the context counts.
    let changed = dockerfile(text).file("d/f", 0o644, "of-another\n");
    let told = engine.build(&[], changed).await.ok();
    assert_eq!(told.matches("\nof-another\n").count(), 4, "{told}");
    engine.finish().await;
}

#[tokio::test]
async fn kept_directories_are_shared_private_or_locked() {
    let engine = started().await;
    // Two at the same time, each of which waits for the other if they can see each other.
    let pair = |sharing: &str, body: &str| {
        let step = |name: &str, other: &str| {
            format!(
                "FROM busybox AS {name}\nRUN --mount=type=cache,id=k,target=/k,sharing={sharing} {}\n",
                body.replace("ME", name).replace("OTHER", other)
            )
        };
        format!(
            "{}{}FROM busybox\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
            step("a", "b"),
            step("b", "a")
        )
    };
    let meet = "touch /k/ME; until [ -e /k/OTHER ]; do usleep 10000; done";
    engine.build(&[], dockerfile(&pair("shared", meet))).await.ok();
    engine.api.post("/build/prune?all=1").await.expect(200);
    let alone =
        "mkdir /k/busy && usleep 300000 && rmdir /k/busy && echo ME >> /k/seen && cat /k/seen | wc -l";
    let told = engine.build(&[], dockerfile(&pair("locked", alone))).await.ok();
    assert!(told.contains("\n1\n") && told.contains("\n2\n"), "{told}");
    engine.api.post("/build/prune?all=1").await.expect(200);
    let told = engine.build(&[], dockerfile(&pair("private", alone))).await.ok();
    assert_eq!(told.matches("\n1\n").count(), 2, "{told}");
    // They last: whoever is alone gets what was there.
    let text = "FROM busybox\nRUN --mount=type=cache,id=k,target=/k,sharing=private cat /k/seen | wc -l\n";
    assert!(engine.build(&[], dockerfile(text)).await.ok().contains("\n1\n"));
    let usage = engine
        .api
        .get("/system/df?type=build-cache")
        .await
        .expect(200)
        .json();
    let kept = usage["BuildCache"].as_array().expect("a list").iter();
    let kept: Vec<_> = kept
        .filter(|record| record["Type"] == "exec.cachemount")
        .collect();
    assert_eq!(kept.len(), 2, "{usage}");
    assert!(
        kept.iter()
            .all(|record| record["InUse"] == false && record["Description"] == "cached mount k"),
        "{usage}"
    );
    assert!(kept.iter().any(|record| record["UsageCount"] == 2), "{usage}");
    engine.finish().await;
}

#[tokio::test]
async fn limits_and_names_count_for_steps() {
    let engine = started().await;
    let text = "FROM busybox\nRUN cat /etc/hosts; df -k /dev/shm | tail -1 | awk '{print \"shm\", $2}' 2>/dev/null || df -k /dev/shm; ulimit -n; ulimit -Hn\n\
        RUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu.weight 2>/dev/null; \
            cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; grep Cpus_allowed_list /proc/self/status\n";
    let pairs = [
        ("extrahosts", "one:10.1.1.1"),
        ("extrahosts", "two:10.1.1.2"),
        ("shmsize", "8388608"),
        ("ulimits", "[{\"Name\":\"nofile\",\"Soft\":77,\"Hard\":99}]"),
        ("memory", "67108864"),
        ("memswap", "-1"),
        ("cpushares", "512"),
        ("cpuperiod", "100000"),
        ("cpuquota", "50000"),
        ("cpusetcpus", "0"),
        ("networkmode", "none"),
    ];
    let told = engine.build(&pairs, dockerfile(text)).await.ok();
    for part in [
        "10.1.1.1\tone",
        "10.1.1.2\ttwo",
        "8192",
        "\n77\n99\n",
        "\n67108864\n",
        "Cpus_allowed_list:\t0\n",
        "50000",
    ] {
        assert!(told.contains(part), "{part:?}: {told}");
    }
    let told = engine
        .build(
            &[("memory", "16777216"), ("forcerm", "1"), ("networkmode", "none")],
            dockerfile("FROM busybox\nRUN head -c 100m /dev/zero | tail\n"),
        )
        .await;
    assert!(told.code == 137 || told.code != 0, "{told:?}");
    for pair in [
        ("memory", "-5"),
        ("ulimits", "[{\"Name\":\"nope\",\"Soft\":1}]"),
        ("networkmode", "nothing-like-it"),
        ("cpusetcpus", "99"),
        ("extrahosts", "x"),
    ] {
        let path = format!("/build{}", query(&[pair, ("forcerm", "1")]));
        let reply = engine
            .api
            .post_tar(&path, dockerfile("FROM busybox\nRUN true\n").finish())
            .await;
        match reply.status().as_u16() {
            200 => drop(Told::of(&reply.records()).fails()),
            status => assert_eq!(status, 400, "{pair:?}"),
        }
    }
    assert_eq!(engine.api.names("?all=1").await, Vec::<String>::new());
    engine.finish().await;
}

#[tokio::test]
async fn steps_join_networks() {
    let engine = started().await;
    let body = json!({"Name": "steps", "IPAM": {"Config": [{"Subnet": "10.211.7.0/24"}]}});
    engine.api.post_json("/networks/create", &body).await.expect(201);
    let run = async |mode: &str| {
        let text = "FROM busybox\nRUN ls /sys/class/net | tr '\\n' ' '; echo; ip -4 addr show eth0 2>/dev/null | grep -o 'inet [0-9.]*' || true\n";
        engine
            .build(&[("networkmode", mode), ("nocache", "1")], dockerfile(text))
            .await
            .ok()
    };
    assert!(run("none").await.contains("\nlo \n"));
    assert!(run("steps").await.contains("\ninet 10.211.7."));
    assert!(run("").await.contains("eth0 lo \n"));
    let mut peer = berth_tests::container::busybox(&["sleep", "600"]);
    peer["HostConfig"] = json!({"NetworkMode": "none"});
    let id = engine.api.launch(&peer).await;
    assert!(run(&format!("container:{id}")).await.contains("\nlo \n"));
    let own: Vec<String> = std::fs::read_dir("/sys/class/net")
        .expect("links")
        .map(|link| link.expect("a link").file_name().to_string_lossy().into_owned())
        .collect();
    let told = run("host").await;
    assert!(
        own.iter()
            .any(|link| link != "lo" && told.contains(link.as_str())),
        "{told}"
    );
    let text = "FROM busybox\nRUN --network=none ls /sys/class/net\nRUN --network=default true\nRUN --network=host true\n";
    engine
        .build(&[("networkmode", "host")], dockerfile(text))
        .await
        .ok();
    engine.api.remove(&id).await;
    engine.api.delete("/networks/steps").await.expect(204);
    engine.finish().await;
}

#[tokio::test]
async fn parameters_that_cannot_be_kept_are_refused() {
    let engine = started().await;
    let context = || dockerfile("FROM busybox\nLABEL a=b\n").finish();
    for (pair, words) in [
        (("squash", "1"), "squash"),
        (("securityopt", "[\"label=x\"]"), "security options"),
        (
            ("outputs", "[{\"Type\":\"local\",\"Attrs\":{\"dest\":\"/x\"}}]"),
            "local",
        ),
        (("outputs", "[{\"Type\":\"tar\"}]"), "tar"),
        (("outputs", "x"), "outputs"),
        (("session", "abc"), "session"),
        (
            ("target", "nope"),
            "failed to reach build target nope in Dockerfile",
        ),
        (("t", "x/UPPER"), "invalid reference format"),
        (("t", "a:b:c"), "invalid reference format"),
        (("t", &format!("x@sha256:{}", "0".repeat(64))), "digest"),
        (("platform", "windows/amd64"), "windows"),
        (("platform", "a/b/c/d"), "invalid platform"),
        (("buildargs", "[1]"), "buildargs"),
        (("labels", "{"), "labels"),
        (("cachefrom", "{}"), "cachefrom"),
        (
            ("dockerfile", "../Dockerfile"),
            "Forbidden path outside the build context",
        ),
        (("dockerfile", "nope"), "Cannot locate specified Dockerfile: nope"),
        (("version", "3"), "version"),
    ] {
        let message = engine.build_refused(&[pair], context()).await;
        assert!(message.contains(words), "{pair:?}: {message}");
    }
    let arm = engine
        .build(&[("platform", "linux/s390x")], dockerfile("FROM busybox\n"))
        .await;
    assert!(!arm.error.is_empty(), "{arm:?}");
    let pairs = [
        ("t", "one"),
        ("t", "one:latest"),
        ("t", "registry.example:5000/two:v"),
        ("t", ""),
        ("labels", "{\"a\":\"over\",\"c\":null}"),
        ("pull", "False"),
        (
            "outputs",
            "[{\"Type\":\"image\",\"Attrs\":{\"name\":\"three,four:4\"}}]",
        ),
        ("version", "2"),
    ];
    let path = format!("/build{}", query(&pairs));
    let told = Told::of(&engine.api.post_tar(&path, context()).await.expect(200).records()).ok();
    assert_eq!(told.matches("Successfully tagged").count(), 4, "{told}");
    let seen = engine.api.get("/images/four:4/json").await.expect(200).json();
    assert_eq!(seen["Config"]["Labels"], json!({"a": "over", "c": ""}));
    engine.finish().await;
}
