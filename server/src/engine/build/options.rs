//! What a build is asked for (API operation `ImageBuild`).

use std::collections::{BTreeMap, HashMap};

use base64::{Engine as _, engine::general_purpose};
use berth_api::{ApiVersion, ImageBuildQuery, models, read};
use berth_runtime::{
    Error, Result,
    image::{Platform, Reference},
    registry::Event,
};
use serde::de::DeserializeOwned;

/// How many secrets one request may bring, and how long one may be, in bytes.
const SECRETS_MAX: usize = 64;
const SECRET_BYTES_MAX: usize = 500 << 10;

/// A build as it is asked for, everything read and checked.
#[derive(Clone, Default)]
pub struct Options {
    /// Path of the Dockerfile in the context.
    pub dockerfile: String,
    /// Names for the image.
    pub names: Vec<Reference>,
    /// Where the context comes from instead of the body.
    pub remote: String,
    /// Hold the output back.
    pub quiet: bool,
    /// Run every step.
    pub no_cache: bool,
    /// Images whose steps may be reused.
    pub cache_from: Vec<String>,
    /// Look base images up in their registries even if they are here.
    pub pull: bool,
    /// Remove intermediate containers after success, and after failure.
    pub remove: bool,
    /// See [`Self::remove`].
    pub force_remove: bool,
    /// Values of `ARG`; none is no value.
    pub arguments: BTreeMap<String, Option<String>>,
    /// Labels for the image.
    pub labels: BTreeMap<String, String>,
    /// Platform of the bases, `os/architecture`; the host's if empty.
    pub platform: String,
    /// The stage that is the result.
    pub target: String,
    /// How steps are bound to the host.
    pub host_config: models::HostConfig,
    /// Values of `--mount=type=secret` by id.
    pub secrets: HashMap<String, Vec<u8>>,
    /// What the registries want to know, as it came.
    pub registry_config: String,
    /// How the progress of a pull is told.
    pub told: Option<fn(Event) -> models::BuildInfo>,
}

impl std::fmt::Debug for Options {
    /// Neither secrets nor arguments are shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("dockerfile", &self.dockerfile)
            .field("names", &self.names)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Reads the query and the headers.
    ///
    /// # Errors
    /// Invalid for a value that is malformed or has no meaning here.
    pub fn read(query: ImageBuildQuery, registry_config: String, secrets: &str) -> Result<Self> {
        if query.squash {
            return Err(Error::invalid(
                "squash is not supported: use a stage that copies from others (COPY --from)",
            ));
        }
        if !matches!(query.isolation.as_str(), "" | "default") {
            return Err(Error::invalid(format!(
                "invalid isolation {:?}: Linux knows only default",
                query.isolation
            )));
        }
        let security: Option<Vec<String>> = json("securityopt", &query.securityopt)?;
        if security.is_some_and(|options| !options.is_empty()) {
            return Err(Error::invalid(
                "the daemon on this platform does not support setting security options on build",
            ));
        }
        check_platform(&query.platform)?;
        let mut names: Vec<Reference> = Vec::new();
        let exported = exported_names(&query.outputs)?;
        for text in query.t.iter().chain(&exported).filter(|text| !text.is_empty()) {
            let name = Reference::parse(text)?;
            if name.digest().is_some() {
                return Err(Error::invalid(format!(
                    "{text:?}: refusing to create a tag with a digest reference"
                )));
            }
            let name = name.normalized();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let host_config = host_config(&query)?;
        let labels: Option<BTreeMap<String, Option<String>>> = json("labels", &query.labels)?;
        let labels = labels
            .unwrap_or_default()
            .into_iter()
            .map(|(k, v)| (k, v.unwrap_or_default()));
        Ok(Self {
            dockerfile: match query.dockerfile.as_str() {
                "" => "Dockerfile".to_owned(),
                path => path.to_owned(),
            },
            names,
            remote: query.remote,
            quiet: query.q,
            no_cache: query.nocache,
            cache_from: json::<Option<Vec<String>>>("cachefrom", &query.cachefrom)?.unwrap_or_default(),
            pull: is_set(&query.pull),
            remove: query.rm,
            force_remove: query.forcerm,
            arguments: json::<Option<_>>("buildargs", &query.buildargs)?.unwrap_or_default(),
            labels: labels.collect(),
            platform: query.platform,
            target: query.target,
            host_config,
            secrets: read_secrets(secrets)?,
            registry_config,
            told: None,
        })
    }
}

/// Where the result goes (an exporter of BuildKit).
#[derive(serde::Deserialize)]
struct Output {
    #[serde(rename = "Type", alias = "type")]
    kind: String,
    #[serde(rename = "Attrs", alias = "attrs", default)]
    attributes: Option<BTreeMap<String, String>>,
}

/// The names that `outputs` asks for. The store of the engine is the only place where a result can go: everything else
/// is sent over a session.
fn exported_names(text: &str) -> Result<Vec<String>> {
    let outputs: Option<Vec<Output>> = json("outputs", text)?;
    let mut names = Vec::new();
    for output in outputs.unwrap_or_default() {
        let attributes = output.attributes.unwrap_or_default();
        let pushed = attributes.get("push").is_some_and(|value| is_set(value));
        if !matches!(output.kind.as_str(), "moby" | "image" | "docker")
            || pushed
            || attributes.contains_key("dest")
        {
            return Err(Error::invalid(format!(
                "outputs: {} is not supported: the image is kept in the store of the engine; save or push it from there",
                output.kind
            )));
        }
        let given = attributes.get("name").map(String::as_str).unwrap_or_default();
        names.extend(given.split(',').map(|name| name.trim().to_owned()));
    }
    Ok(names)
}

/// Whether a flag is set that is declared as a text: as all flags are read.
fn is_set(text: &str) -> bool {
    !matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "" | "0" | "no" | "false" | "none"
    )
}

/// The value of a parameter in JSON; zero if it is empty.
fn json<T: DeserializeOwned + Default>(name: &str, text: &str) -> Result<T> {
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("error reading {name}: it has to be JSON: {error}")))
}

/// Only what the kernel runs can be built.
fn check_platform(text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let parts: Vec<&str> = text.split('/').collect();
    let word = |part: &&str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if parts.len() > 3 || !parts.iter().all(word) {
        return Err(Error::invalid(format!(
            "{text:?} is an invalid platform: write os[/architecture[/variant]], like linux/amd64"
        )));
    }
    if parts.len() == 1
        && !parts.contains(&"linux")
        && parts.first().copied() != Some(Platform::host().architecture.as_str())
    {
        return Err(Error::invalid(format!(
            "{text:?}: unknown operating system or architecture: invalid argument"
        )));
    }
    if parts.len() > 1 && parts.first().is_some_and(|os| !os.eq_ignore_ascii_case("linux")) {
        return Err(Error::invalid(format!(
            "operating system of platform {text:?} is not supported"
        )));
    }
    Ok(())
}

fn host_config(query: &ImageBuildQuery) -> Result<models::HostConfig> {
    let ulimits = match query.ulimits.trim() {
        "" => None,
        text => {
            let value: serde_json::Value = json("ulimits", text)?;
            Some(
                read::read_value(value, ApiVersion::NEWEST)
                    .map_err(|error| Error::invalid(format!("error reading ulimits: {error}")))?,
            )
        }
    };
    Ok(models::HostConfig {
        memory: query.memory.unwrap_or_default(),
        memory_swap: query.memswap.unwrap_or_default(),
        cpu_shares: query.cpushares.unwrap_or_default(),
        cpu_period: query.cpuperiod.unwrap_or_default(),
        cpu_quota: query.cpuquota.unwrap_or_default(),
        cpuset_cpus: query.cpusetcpus.clone(),
        cpuset_mems: query.cpusetmems.clone(),
        cgroup_parent: query.cgroupparent.clone(),
        shm_size: query.shmsize.unwrap_or_default(),
        network_mode: query.networkmode.clone(),
        extra_hosts: (!query.extrahosts.is_empty()).then(|| query.extrahosts.clone()),
        ulimits,
        log_config: models::HostConfigLogConfig {
            r#type: "none".to_owned(),
            ..models::HostConfigLogConfig::default()
        },
        ..models::HostConfig::default()
    })
}

/// Secrets: base64 of the JSON text of an object, id to base64 of the value.
fn read_secrets(header: &str) -> Result<HashMap<String, Vec<u8>>> {
    if header.is_empty() {
        return Ok(HashMap::new());
    }
    // What was wrong is told without any of the value.
    let refused = || {
        Error::invalid(
            "invalid X-Build-Secrets: it has to be base64 of a JSON object whose values are base64 themselves",
        )
    };
    let bytes = decode(header).ok_or_else(refused)?;
    let texts: HashMap<String, String> = serde_json::from_slice(&bytes).map_err(|_| refused())?;
    if texts.len() > SECRETS_MAX {
        return Err(Error::invalid(format!("more than {SECRETS_MAX} secrets")));
    }
    let mut secrets = HashMap::new();
    for (id, text) in texts {
        let value = decode(&text).ok_or_else(refused)?;
        if value.len() > SECRET_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the secret {id:?} is larger than {SECRET_BYTES_MAX} bytes"
            )));
        }
        secrets.insert(id, value);
    }
    Ok(secrets)
}

/// Base64 of either alphabet, padded or not.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| general_purpose::STANDARD_NO_PAD.decode(text))
        .ok()
}
