//! Volume drivers that are other programs: Docker's plugin protocol, JSON over HTTP on a socket that is found by the
//! driver's name in a directory of plugins.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use berth_runtime::{Error, Result, error::Context};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime::Handle,
};

/// Longest answer of a plugin.
const ANSWER_MAX: usize = 8 << 20;
/// How long a plugin may take to make a volume usable.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to say what it has.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);
/// What the bodies of both directions are.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";

/// The plugins of some directories. Nothing is remembered: they are looked for each time, and so come and go.
#[derive(Debug)]
pub struct Plugins(Vec<PathBuf>);

/// One plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    name: String,
    address: Address,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

/// A volume as a plugin tells of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PluginVolume {
    /// Its name.
    pub name: String,
    /// Its data on the host; may be empty while it is not mounted.
    pub mountpoint: String,
    /// When it was made.
    pub created_at: String,
    /// Whatever else the plugin tells.
    pub status: Map<String, Value>,
}

/// Every answer: an error, if it is not empty, and what the call gives.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Answer {
    err: String,
    mountpoint: String,
    volume: Option<PluginVolume>,
    volumes: Option<Vec<PluginVolume>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Manifest {
    implements: Vec<String>,
}

/// `NAME.json`: the address of a plugin.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Specification {
    addr: String,
    #[serde(rename = "TLSConfig")]
    tls_config: Option<Value>,
}

impl Plugins {
    /// Those whose sockets (`NAME.sock`, `NAME/NAME.sock`) or addresses (`NAME.spec`, `NAME.json`) are in `directories`.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self(directories)
    }

    /// The plugin of that name, if it is a volume driver.
    ///
    /// # Errors
    /// Not found.
    pub fn find(&self, name: &str) -> Result<Plugin> {
        let wrap = |error: Error| Error::not_found(format!("error looking up volume plugin {name}: {error}"));
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
        let address = plain
            .then(|| self.locate(name))
            .transpose()
            .map_err(wrap)?
            .flatten();
        let address = address.ok_or_else(|| wrap(Error::not_found(format!("plugin {name:?} not found"))))?;
        let plugin = Plugin {
            name: name.to_owned(),
            address,
        };
        plugin.activate().map_err(wrap)?;
        Ok(plugin)
    }

    /// All that are volume drivers.
    pub fn all(&self) -> Vec<Plugin> {
        let found = self.names().into_iter();
        found.filter_map(|name| self.find(&name).ok()).collect()
    }

    /// Names of all plugins that there seem to be.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for entry in self
            .0
            .iter()
            .filter_map(|path| fs::read_dir(path).ok())
            .flatten()
            .flatten()
        {
            let path = entry.path();
            let stem = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            let is_plugin = match path.extension().and_then(|extension| extension.to_str()) {
                Some("sock" | "spec" | "json") => true,
                None => path.join(format!("{stem}.sock")).exists(),
                Some(_) => false,
            };
            if is_plugin && !stem.is_empty() {
                names.push(stem.to_owned());
            }
        }
        names.sort();
        names.dedup();
        names
    }

    fn locate(&self, name: &str) -> Result<Option<Address>> {
        for directory in &self.0 {
            let socket = directory.join(format!("{name}.sock"));
            let nested = directory.join(name).join(format!("{name}.sock"));
            for path in [socket, nested] {
                if path.exists() {
                    return Ok(Some(Address::Unix(path)));
                }
            }
            if let Some(text) = read(&directory.join(format!("{name}.spec")))? {
                return Address::parse(text.trim()).map(Some);
            }
            if let Some(text) = read(&directory.join(format!("{name}.json")))? {
                let failed = || format!("plugin {name}: its .json file is malformed");
                let specification: Specification = serde_json::from_str(&text).context(failed)?;
                if specification.tls_config.is_some_and(|config| !config.is_null()) {
                    return Err(Error::invalid(format!(
                        "plugin {name} asks for TLS, which is not supported"
                    )));
                }
                return Address::parse(&specification.addr).map(Some);
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("cannot read {}", path.display())),
    }
}

impl Address {
    fn parse(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", host)) if !host.is_empty() => {
                Ok(Self::Tcp(host.trim_end_matches('/').to_owned()))
            }
            _ => Err(Error::invalid(format!(
                "{text:?} is no address of a plugin: unix:///path or tcp://host:port is needed"
            ))),
        }
    }
}

impl Plugin {
    /// Its name, which is that of the driver.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The handshake. A plugin that does not implement volumes is none here.
    fn activate(&self) -> Result<()> {
        let manifest: Manifest = self.post("Plugin.Activate", &Value::Null, SHORT_PATIENCE)?;
        match manifest.implements.iter().any(|what| what == "VolumeDriver") {
            true => Ok(()),
            false => Err(Error::not_found(format!(
                "plugin {:?} does not implement \"VolumeDriver\"",
                self.name
            ))),
        }
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// Internal, with the plugin's words; so for all that follow.
    pub fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<()> {
        self.call("Create", json!({"Name": name, "Opts": options}), PATIENCE)?;
        Ok(())
    }

    /// Removes a volume.
    ///
    /// # Errors
    /// As [`Plugin::create`].
    pub fn remove(&self, name: &str) -> Result<()> {
        self.call("Remove", json!({"Name": name}), PATIENCE)?;
        Ok(())
    }

    /// Makes a volume usable for the user `id`; gives where its data is.
    ///
    /// # Errors
    /// As [`Plugin::create`].
    pub fn mount(&self, name: &str, id: &str) -> Result<PathBuf> {
        let answer = self.call("Mount", json!({"Name": name, "ID": id}), PATIENCE)?;
        match answer.mountpoint.starts_with('/') {
            true => Ok(answer.mountpoint.into()),
            false => Err(Error::internal(format!(
                "VolumeDriver.Mount: plugin {:?} gave no path for volume {name}: {:?}",
                self.name, answer.mountpoint
            ))),
        }
    }

    /// The user `id` is done with a volume.
    ///
    /// # Errors
    /// As [`Plugin::create`].
    pub fn unmount(&self, name: &str, id: &str) -> Result<()> {
        self.call("Unmount", json!({"Name": name, "ID": id}), PATIENCE)?;
        Ok(())
    }

    /// Where the data of a volume is; may be empty.
    ///
    /// # Errors
    /// As [`Plugin::create`].
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let answer = self.call("Path", json!({"Name": name}), SHORT_PATIENCE)?;
        Ok(answer.mountpoint.into())
    }

    /// One volume.
    ///
    /// # Errors
    /// As [`Plugin::create`].
    pub fn get(&self, name: &str) -> Result<PluginVolume> {
        let answer = self.call("Get", json!({"Name": name}), SHORT_PATIENCE)?;
        answer
            .volume
            .ok_or_else(|| Error::internal(format!("plugin {:?} has no volume {name}", self.name)))
    }

    /// All its volumes.
    ///
    /// # Errors
    /// As [`Plugin::create`].
    pub fn list(&self) -> Result<Vec<PluginVolume>> {
        let answer = self.call("List", json!({}), SHORT_PATIENCE)?;
        Ok(answer.volumes.unwrap_or_default())
    }

    fn call(&self, method: &str, body: Value, patience: Duration) -> Result<Answer> {
        let answer: Answer = self.post(&format!("VolumeDriver.{method}"), &body, patience)?;
        match answer.err.as_str() {
            "" => Ok(answer),
            error => Err(Error::internal(format!("VolumeDriver.{method}: {error}"))),
        }
    }

    /// One exchange. Blocks, on a thread of the runtime that may.
    fn post<T: DeserializeOwned + Default>(&self, path: &str, body: &Value, patience: Duration) -> Result<T> {
        let failed = || format!("{path}: plugin {:?} did not answer", self.name);
        let body = match body {
            Value::Null => Bytes::new(),
            body => serde_json::to_vec(body).context(failed)?.into(),
        };
        let exchange = async {
            match &self.address {
                Address::Unix(path_of) => {
                    exchange(UnixStream::connect(path_of).await.context(failed)?, path, body).await
                }
                Address::Tcp(host) => {
                    exchange(TcpStream::connect(host).await.context(failed)?, path, body).await
                }
            }
        };
        let bytes = Handle::current().block_on(async {
            tokio::time::timeout(patience, exchange)
                .await
                .map_err(|_| Error::internal(format!("{} within {patience:?}", failed())))?
        })?;
        if bytes.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        serde_json::from_slice(&bytes).context(|| format!("{path}: plugin {:?} gave no JSON", self.name))
    }
}

/// Sends a request on a connection of its own and reads the answer. An answer that is no success is an error, with the
/// plugin's words where it gives any.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
    body: Bytes,
) -> Result<Bytes> {
    let failed = || path.to_owned();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context(failed)?;
    let request = Request::post(format!("/{path}"))
        .header("host", "plugin")
        .header("accept", MEDIA_TYPE)
        .header("content-type", MEDIA_TYPE)
        .body(Full::new(body))
        .context(failed)?;
    let answer = async {
        let response = sender.send_request(request).await.context(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body
            .map_err(|error| Error::internal(failed()).caused_by(error))?
            .to_bytes();
        Ok::<_, Error>((status, body))
    };
    tokio::pin!(answer);
    let (status, body) = tokio::select! {
        answer = &mut answer => answer?,
        // All that was sent is here; if that is too little, the answer says so.
        _ = connection => answer.await?,
    };
    if status.is_success() {
        return Ok(body);
    }
    let told: Answer = serde_json::from_slice(&body).unwrap_or_default();
    let words = match told.err.as_str() {
        "" => String::from_utf8_lossy(&body).trim().to_owned(),
        error => error.to_owned(),
    };
    Err(Error::internal(format!("{path}: {words} ({status})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("one.sock"), "").unwrap();
        fs::create_dir(at("two")).unwrap();
        fs::write(at("two/two.sock"), "").unwrap();
        fs::write(at("three.spec"), "tcp://127.0.0.1:9\n").unwrap();
        fs::write(at("four.json"), r#"{"Name":"four","Addr":"unix:///x.sock"}"#).unwrap();
        fs::write(
            at("five.json"),
            r#"{"Addr":"https://x","TLSConfig":{"CAFile":"x"}}"#,
        )
        .unwrap();
        fs::write(at("six.txt"), "").unwrap();
        let plugins = Plugins::new(vec![at("none"), dir.path().to_owned()]);
        assert_eq!(plugins.names(), ["five", "four", "one", "three", "two"]);
        let locate = |name: &str| plugins.locate(name).unwrap().unwrap();
        assert_eq!(locate("one"), Address::Unix(at("one.sock")));
        assert_eq!(locate("two"), Address::Unix(at("two/two.sock")));
        assert_eq!(locate("three"), Address::Tcp("127.0.0.1:9".into()));
        assert_eq!(locate("four"), Address::Unix("/x.sock".into()));
        assert!(plugins.locate("five").is_err());
        assert_eq!(plugins.locate("six").unwrap(), None);
        let error = plugins.find("../one").unwrap_err();
        assert_eq!(
            error.message(),
            "error looking up volume plugin ../one: plugin \"../one\" not found"
        );
    }
}
