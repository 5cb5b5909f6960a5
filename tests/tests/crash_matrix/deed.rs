//! What is done, how, and what must be so afterwards.

use std::{ops::Deref, sync::Arc};

use berth_tests::{
    Client, Reply,
    client::{Call, filters, query},
    container::{STAY, busybox, shell},
    hijack::Dialect,
    image::{Image, Tar},
};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// An engine to do it with, and a registry that has the image `subject:v1`.
#[derive(Clone)]
pub struct Place {
    pub client: Client,
    pub registry: Arc<str>,
}

impl Deref for Place {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The network that deeds are about.
pub const NETWORK: &str = "netsubject";
/// The volume that deeds are about.
pub const VOLUME: &str = "volsubject";

/// What is done to the container `subject` or the image of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Create,
    Start,
    Restart,
    Stop,
    Kill,
    End,
    Remove,
    Prune,
    Rename,
    Update,
    Pause,
    Unpause,
    Exec,
    Load,
    Import,
    Tag,
    Untag,
    RemoveImage,
    PruneImages,
    CreateNetwork,
    RemoveNetwork,
    PruneNetworks,
    Connect,
    Disconnect,
    StartWithAll,
    StopWithAll,
    RemoveWithAll,
    CreateVolume,
    RemoveVolume,
    PruneVolumes,
    Commit,
    CopyIn,
    CopyInRunning,
    CopyOut,
    Export,
    Build,
    PruneBuilds,
    Pull,
}

/// The reply, if there was one: success, or the text of the refusal.
pub type Outcome = Option<Result<(), String>>;

fn outcome(reply: Option<Reply>) -> Outcome {
    reply.map(|reply| {
        let text = reply.text();
        let failed = reply.status().is_client_error() || reply.status().is_server_error();
        match failed || text.contains("errorDetail") {
            true => Err(format!("{} {}", reply.status(), text.trim())),
            false => Ok(()),
        }
    })
}

/// Writes a line to the subject's standard input.
async fn tell_subject(api: &Place) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(api.socket()).await?;
    let request = "POST /containers/subject/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\
                   Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    stream.read_exact(&mut [0; 12]).await?;
    stream.write_all(b"go\n").await
}

/// The state of the subject; none if there is none.
pub async fn status(api: &Place) -> Option<String> {
    let found = api.get("/containers/subject/json").await;
    (found.status() == 200).then(|| found.json()["State"]["Status"].as_str().map(str::to_owned))?
}

/// A container that stays, with what most containers have: shared memory that others may join, a limit, a bind.
fn subject() -> Value {
    let mut config = shell(STAY);
    config["HostConfig"]["IpcMode"] = json!("shareable");
    config["HostConfig"]["Memory"] = json!(64 << 20);
    config["HostConfig"]["Binds"] = json!(["/etc:/host-etc:ro"]);
    config
}

/// A container with a network of its own, a port, and a volume that is mounted for it.
fn with_all() -> Value {
    let mut config = subject();
    config["ExposedPorts"] = json!({"80/tcp": {}});
    config["HostConfig"]["NetworkMode"] = json!(NETWORK);
    config["HostConfig"]["PortBindings"] = json!({"80/tcp": [{"HostIp": "127.0.0.1"}]});
    config["HostConfig"]["Binds"] = json!([format!("{VOLUME}:/data")]);
    config
}

fn network() -> Value {
    json!({"Name": NETWORK, "CheckDuplicate": true})
}

fn volume() -> Value {
    json!({"Name": VOLUME, "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}})
}

/// Makes what [`with_all`] is in.
async fn prepare_all(api: &Place) {
    api.post_json("/networks/create", &network()).await.expect(201);
    api.post_json("/volumes/create", &volume()).await.expect(201);
    api.create_named("subject", &with_all()).await;
}

/// Fails unless a process can be run in the container.
async fn responds(api: &Place, what: &str) {
    let config = json!({"Cmd": ["echo", "it lives"], "AttachStdout": true});
    let made = api.post_json("/containers/subject/exec", &config).await;
    assert_eq!(made.status(), 201, "{what}: {}", made.text());
    let path = format!("/exec/{}/start", made.json()["Id"].as_str().unwrap_or_default());
    let started = api
        .hijack(&path, Some(&json!({"Detach": false})), Dialect::Upgrade)
        .await;
    started.expect(101).until("it lives").await;
}

/// Fails unless the image of the deed is whole, or absent although that was not told.
async fn image_is_whole(api: &Place, name: &str, told: bool, words: &[&str], what: &str) {
    let found = api.get(&format!("/images/{name}/json")).await;
    assert!(found.status() == 200 || !told, "{what}: {}", found.text());
    if found.status() != 200 {
        return;
    }
    let mut config = busybox(words);
    config["Image"] = json!(name);
    ends_well(api, &config, what).await;
}

/// Runs a container to its end and removes it.
async fn ends_well(api: &Place, config: &Value, what: &str) {
    let id = api.create(config).await;
    api.start(&id).await;
    assert_eq!(api.wait(&id).await, 0, "{what}");
    api.remove(&id).await;
}

fn context() -> Vec<u8> {
    let text = "FROM busybox\nWORKDIR /work\nCOPY file copied\nRUN echo hi > made\nLABEL a=b\nADD file /added/\n\
                RUN test -f made && rm made && echo bye > last\nCMD [\"true\"]\n";
    Tar::new()
        .file("Dockerfile", 0o644, text)
        .file("file", 0o644, "content")
        .finish()
}

fn build(api: &Place) -> Call<'_> {
    let path = format!("/build{}", query(&[("t", "subject:v1"), ("forcerm", "1")]));
    api.call(Method::POST, &path)
        .header("content-type", "application/x-tar")
        .bytes(context())
}

fn archive() -> Vec<u8> {
    Image::busybox().tagged("subject:v1").docker_archive()
}

impl Deed {
    /// Makes what it is done to.
    pub async fn prepare(self, api: &Place) {
        match self {
            Self::Create | Self::Load | Self::Import | Self::CreateNetwork | Self::CreateVolume => {}
            Self::Build | Self::Pull => {}
            Self::PruneBuilds => {
                let told = build(api).attempt().await;
                assert_eq!(outcome(told), Some(Ok(())));
            }
            Self::Start | Self::Remove | Self::Prune | Self::Rename | Self::Update | Self::CopyIn => {
                api.create_named("subject", &subject()).await;
            }
            Self::Restart
            | Self::Stop
            | Self::Kill
            | Self::Pause
            | Self::Unpause
            | Self::Exec
            | Self::Commit
            | Self::CopyInRunning
            | Self::CopyOut
            | Self::Export => {
                api.create_named("subject", &subject()).await;
                api.start("subject").await;
                api.await_output("subject", "ready").await;
                if self == Self::Unpause {
                    api.post("/containers/subject/pause").await.expect(204);
                }
            }
            Self::End => {
                let mut config = shell("read line; exit 7");
                config["OpenStdin"] = json!(true);
                api.create_named("subject", &config).await;
                api.start("subject").await;
            }
            Self::RemoveNetwork | Self::PruneNetworks => {
                api.post_json("/networks/create", &network()).await.expect(201);
            }
            Self::PruneVolumes => {
                let plain = json!({"Name": VOLUME});
                api.post_json("/volumes/create", &plain).await.expect(201);
            }
            Self::RemoveVolume => {
                api.post_json("/volumes/create", &volume()).await.expect(201);
            }
            Self::Connect | Self::Disconnect => {
                api.post_json("/networks/create", &network()).await.expect(201);
                let mut config = subject();
                config["HostConfig"]["NetworkMode"] = json!("bridge");
                api.create_named("subject", &config).await;
                api.start("subject").await;
                api.await_output("subject", "ready").await;
                if self == Self::Disconnect {
                    Self::Connect.call(api).send().await.expect(200);
                }
            }
            Self::StartWithAll => prepare_all(api).await,
            Self::StopWithAll | Self::RemoveWithAll => {
                prepare_all(api).await;
                api.start("subject").await;
                api.await_output("subject", "ready").await;
            }
            Self::Tag | Self::Untag | Self::RemoveImage | Self::PruneImages => {
                let image = Image::small("subject:v1", "some text").with("Labels", json!({"subject": ""}));
                api.load(&image).await;
                if self == Self::Untag {
                    api.post("/images/subject:v1/tag?repo=subject&tag=v2")
                        .await
                        .expect(201);
                }
            }
        }
    }

    fn call(self, api: &Place) -> Call<'_> {
        let post = |path: &str| api.call(Method::POST, path);
        match self {
            Self::Create => post("/containers/create?name=subject").json(&subject()),
            Self::Start => post("/containers/subject/start"),
            Self::Restart => post("/containers/subject/restart?t=30"),
            Self::Stop => post("/containers/subject/stop?t=30"),
            Self::Kill => post("/containers/subject/kill"),
            Self::End => post("/containers/subject/wait"),
            Self::Remove => api.call(Method::DELETE, "/containers/subject?v=1"),
            Self::Prune => post("/containers/prune"),
            Self::Rename => post("/containers/subject/rename?name=renamed"),
            Self::Update => {
                post("/containers/subject/update").json(&json!({"Memory": 96 << 20, "MemorySwap": 192 << 20}))
            }
            Self::Pause => post("/containers/subject/pause"),
            Self::Unpause => post("/containers/subject/unpause"),
            Self::Exec => post("/containers/subject/exec").json(&json!({"Cmd": ["true"]})),
            Self::Load => post("/images/load")
                .header("content-type", "application/x-tar")
                .bytes(archive()),
            Self::Import => {
                let path = format!(
                    "/images/create{}",
                    query(&[("fromSrc", "-"), ("repo", "subject"), ("tag", "v1")])
                );
                post(&path)
                    .header("content-type", "application/x-tar")
                    .bytes(Image::busybox().layers[0].clone())
            }
            Self::Tag => post("/images/subject:v1/tag?repo=subject&tag=v2"),
            Self::Untag => api.call(Method::DELETE, "/images/subject:v2"),
            Self::RemoveImage => api.call(Method::DELETE, "/images/subject:v1"),
            Self::PruneImages => {
                let all = filters(&json!({"dangling": ["false"], "label": ["subject"]}));
                post(&format!("/images/prune{all}"))
            }
            Self::CreateNetwork => post("/networks/create").json(&network()),
            Self::RemoveNetwork => api.call(Method::DELETE, &format!("/networks/{NETWORK}")),
            Self::PruneNetworks => post("/networks/prune"),
            Self::Connect => {
                post(&format!("/networks/{NETWORK}/connect")).json(&json!({"Container": "subject"}))
            }
            Self::Disconnect => {
                post(&format!("/networks/{NETWORK}/disconnect")).json(&json!({"Container": "subject"}))
            }
            Self::StartWithAll => post("/containers/subject/start"),
            Self::StopWithAll => post("/containers/subject/stop?t=30"),
            Self::RemoveWithAll => api.call(Method::DELETE, "/containers/subject?v=1&force=1"),
            Self::CreateVolume => post("/volumes/create").json(&volume()),
            Self::RemoveVolume => api.call(Method::DELETE, &format!("/volumes/{VOLUME}")),
            Self::PruneVolumes => {
                let all = filters(&json!({"all": ["true"]}));
                post(&format!("/volumes/prune{all}"))
            }
            Self::Commit => post("/commit?container=subject&repo=subject&tag=v1&pause=1"),
            Self::CopyIn | Self::CopyInRunning => api
                .call(Method::PUT, "/containers/subject/archive?path=/")
                .header("content-type", "application/x-tar")
                .bytes(Tar::new().file("put", 0o644, "content").finish()),
            Self::CopyOut => api.call(Method::GET, "/containers/subject/archive?path=/etc"),
            Self::Export => api.call(Method::GET, "/containers/subject/export"),
            Self::Build => build(api),
            Self::PruneBuilds => post("/build/prune?all=1"),
            Self::Pull => {
                let name = format!("{}/subject", api.registry);
                post(&format!(
                    "/images/create{}",
                    query(&[("fromImage", &name), ("tag", "v1")])
                ))
            }
        }
    }

    /// Does it; for some, something besides the call makes it happen.
    pub async fn done(self, api: &Place) -> Outcome {
        if self == Self::End {
            // The engine may die of it at any moment.
            let _ = tell_subject(api).await;
        }
        let reply = self.call(api).attempt().await?;
        if self == Self::Exec && reply.status() == 201 {
            let path = format!("/exec/{}/start", reply.json()["Id"].as_str()?);
            let start = api.call(Method::POST, &path).json(&json!({"Detach": true}));
            return outcome(start.attempt().await);
        }
        // So do these.
        let (field, what) = match self {
            Self::PruneNetworks => ("NetworksDeleted", format!("/networks/{NETWORK}")),
            Self::PruneVolumes => ("VolumesDeleted", format!("/volumes/{VOLUME}")),
            Self::PruneImages => ("ImagesDeleted", "/images/subject:v1/json".to_owned()),
            _ => ("", String::new()),
        };
        if !field.is_empty()
            && reply.status() == 200
            && reply.json()[field].as_array().is_none_or(Vec::is_empty)
        {
            let left = api.call(Method::GET, &what).attempt().await?;
            return Some(match left.status() == 404 {
                true => Ok(()),
                false => Err(format!("pruning has left {what}")),
            });
        }
        // A prune goes on after what it cannot remove, and does not tell that it did.
        if self == Self::Prune && reply.status() == 200 && reply.json()["ContainersDeleted"].is_null() {
            let left = status(api).await;
            return Some(left.map_or(Ok(()), |left| Err(format!("pruning has left it {left}"))));
        }
        outcome(Some(reply))
    }

    /// Checks what is there; `told` is whether success was acknowledged.
    pub async fn check(self, api: &Place, told: bool, what: &str) {
        match self {
            Self::Create => {
                let found = api.get("/containers/subject/json").await;
                assert!(found.status() == 200 || !told, "{what}: {}", found.text());
                if found.status() == 200 {
                    assert_eq!(found.json()["State"]["Status"], "created", "{what}");
                    api.start("subject").await;
                }
            }
            Self::Start | Self::Restart => {
                let state = api.inspect("subject").await["State"].clone();
                // Killed after it has been let go is killed as the program that it was about to become.
                let was_killed = state["ExitCode"] == 137 && what.contains("inside.seal");
                assert!(state["Running"] == true || was_killed || !told, "{what}: {state}");
            }
            Self::Stop | Self::Kill | Self::End => {
                let state = api.inspect("subject").await["State"].clone();
                assert!(state["Running"] == false || !told, "{what}: {state}");
                let code = if self == Self::End { 7 } else { 0 };
                // A supervisor that is killed takes the code with it.
                if self != Self::Kill && told && !what.contains("kill at hit") {
                    assert_eq!(state["ExitCode"], code, "{what}: {state}");
                }
            }
            Self::Remove | Self::Prune => {
                let found = api.get("/containers/subject/json").await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
            }
            Self::Rename => {
                let names = api.names("?all=1").await;
                let (old, new) = (
                    names.contains(&"subject".to_owned()),
                    names.contains(&"renamed".to_owned()),
                );
                assert!(old != new && (new || !told), "{what}: {names:?}");
            }
            Self::Update => {
                let memory = api.inspect("subject").await["HostConfig"]["Memory"].clone();
                let (old, new) = (memory == json!(64 << 20), memory == json!(96 << 20));
                assert!(new || old && !told, "{what}: {memory}");
            }
            Self::Pause | Self::Unpause => {
                let state = api.inspect("subject").await["State"].clone();
                let wanted = self == Self::Pause;
                assert!(state["Paused"] == wanted || !told, "{what}: {state}");
                assert_eq!(state["Running"], true, "{what}: {state}");
                if state["Paused"] == false {
                    responds(api, what).await;
                }
            }
            Self::Exec => {
                let state = api.inspect("subject").await["State"].clone();
                // A supervisor that is killed takes its container with it.
                let may_end = what.contains("kill at hit");
                assert!(state["Running"] == true || may_end, "{what}: {state}");
            }
            Self::Load | Self::Import => {
                let found = api.get("/images/subject:v1/json").await;
                assert!(found.status() == 200 || !told, "{what}: {}", found.text());
                if found.status() == 200 {
                    let mut config = busybox(&["true"]);
                    config["Image"] = json!("subject:v1");
                    let id = api.create(&config).await;
                    api.start(&id).await;
                    assert_eq!(api.wait(&id).await, 0, "{what}");
                    api.remove(&id).await;
                }
            }
            Self::Tag => {
                let found = api.get("/images/subject:v2/json").await;
                assert!(found.status() == 200 || !told, "{what}: {}", found.text());
                api.get("/images/subject:v1/json").await.expect(200);
            }
            Self::Untag => {
                let found = api.get("/images/subject:v2/json").await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
                api.get("/images/subject:v1/json").await.expect(200);
            }
            Self::CreateNetwork => {
                let found = api.get(&format!("/networks/{NETWORK}")).await;
                assert!(found.status() == 200 || !told, "{what}: {}", found.text());
                if found.status() == 200 {
                    let mut config = busybox(&["ip", "route", "get", "192.0.2.1"]);
                    config["HostConfig"]["NetworkMode"] = json!(NETWORK);
                    ends_well(api, &config, what).await;
                }
            }
            Self::RemoveNetwork | Self::PruneNetworks => {
                let found = api.get(&format!("/networks/{NETWORK}")).await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
            }
            Self::Connect | Self::Disconnect => {
                let seen = api.inspect("subject").await;
                assert_eq!(seen["State"]["Running"], true, "{what}: {}", seen["State"]);
                let address = &seen["NetworkSettings"]["Networks"][NETWORK]["IPAddress"];
                let connected = address.as_str().is_some_and(|address| !address.is_empty());
                assert!(connected == (self == Self::Connect) || !told, "{what}: {seen:#}");
                let id = seen["Id"].as_str().unwrap_or_default();
                let network = api.get(&format!("/networks/{NETWORK}")).await.expect(200).json();
                assert_eq!(
                    network["Containers"][id].is_object(),
                    connected,
                    "{what}: {network:#}"
                );
                responds(api, what).await;
            }
            Self::StartWithAll => {
                let seen = api.inspect("subject").await;
                let running = seen["State"]["Running"] == true;
                let was_killed = seen["State"]["ExitCode"] == 137 && what.contains("inside.seal");
                assert!(running || was_killed || !told, "{what}: {}", seen["State"]);
                let port = &seen["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"];
                assert!(
                    !running || port.is_string(),
                    "{what}: {}",
                    seen["NetworkSettings"]
                );
            }
            Self::StopWithAll => {
                let state = api.inspect("subject").await["State"].clone();
                assert!(state["Running"] == false || !told, "{what}: {state}");
            }
            Self::RemoveWithAll => {
                let found = api.get("/containers/subject/json").await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
                api.get(&format!("/volumes/{VOLUME}")).await.expect(200);
            }
            Self::CreateVolume => {
                let found = api.get(&format!("/volumes/{VOLUME}")).await;
                assert!(found.status() == 200 || !told, "{what}: {}", found.text());
                if found.status() == 200 {
                    let mut config = busybox(&["touch", "/data/file"]);
                    config["HostConfig"]["Binds"] = json!([format!("{VOLUME}:/data")]);
                    ends_well(api, &config, what).await;
                }
            }
            Self::RemoveVolume | Self::PruneVolumes => {
                let found = api.get(&format!("/volumes/{VOLUME}")).await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
            }
            Self::Commit => {
                let state = api.inspect("subject").await["State"].clone();
                assert_eq!(state["Status"], "running", "{what}: {state}");
                responds(api, what).await;
                image_is_whole(api, "subject:v1", told, &["true"], what).await;
            }
            Self::CopyIn | Self::CopyInRunning => {
                let found = api.head("/containers/subject/archive?path=/put").await;
                assert!(found.status() == 200 || !told, "{what}: it is not there");
                if self == Self::CopyIn {
                    api.start("subject").await;
                }
                responds(api, what).await;
            }
            Self::CopyOut | Self::Export => responds(api, what).await,
            Self::Build => {
                let words = [
                    "sh",
                    "-c",
                    "test -f copied -a -f last -a -f /added/file -a ! -e made",
                ];
                image_is_whole(api, "subject:v1", told, &words, what).await;
                // What could not be removed is tried again behind the answer.
                let mut names = api.names("?all=1").await;
                for _ in 0..100 {
                    if names == ["bystander"] {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    names = api.names("?all=1").await;
                }
                assert_eq!(names, ["bystander"], "{what}");
            }
            Self::PruneBuilds => image_is_whole(api, "subject:v1", true, &["true"], what).await,
            Self::Pull => {
                let name = format!("{}/subject:v1", api.registry);
                image_is_whole(api, &name, told, &["true"], what).await;
            }
            Self::RemoveImage | Self::PruneImages => {
                let found = api.get("/images/subject:v1/json").await;
                assert!(found.status() == 404 || !told, "{what}: {}", found.text());
            }
        }
    }

    /// Whether this refusal of the second try says that the first has done it all.
    pub fn is_done(self, refusal: &str) -> bool {
        match self {
            Self::Create => refusal.starts_with("409") && refusal.contains("already in use"),
            Self::Kill => refusal.starts_with("409") && refusal.contains("is not running"),
            Self::Rename | Self::Remove => refusal.starts_with("404"),
            Self::Pause => refusal.starts_with("409") && refusal.contains("already paused"),
            Self::Unpause => refusal.contains("is not paused"),
            Self::Untag | Self::RemoveImage => refusal.starts_with("404"),
            Self::CreateNetwork => refusal.starts_with("409"),
            Self::RemoveNetwork | Self::RemoveVolume | Self::RemoveWithAll => refusal.starts_with("404"),
            Self::Connect => refusal.contains("already exists in network"),
            Self::Disconnect => refusal.contains("is not connected"),
            _ => false,
        }
    }
}
