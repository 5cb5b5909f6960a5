//! Devices by the Container Device Interface (CDI): files of vendors, JSON or YAML, describe what a container needs to
//! use a device. A device is named `vendor/class=name`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use berth_api::models::DeviceRequest;
use berth_runtime::{
    Error, Result,
    sandbox::{ANNOTATION_GROUP_ADD, defaults},
};
use oci_spec::runtime::{Hook, LinuxDevice, LinuxDeviceType, Mount, Spec};
use serde::Deserialize;

/// The driver of requests for such devices.
const DRIVER: &str = "cdi";
/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// A file that describes the devices of one kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    /// `vendor/class`.
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    /// What all of them need.
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

/// What a container needs beside its own settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<Program>,
    additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    r#type: String,
    major: i64,
    minor: i64,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// A file or directory of the host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bind {
    host_path: String,
    container_path: String,
    options: Vec<String>,
    r#type: String,
}

/// A program that is run at a point of the container's life.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Program {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

impl Edits {
    /// What the devices of `requests` need, by the files in `directories`, of which later ones count more.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid), in Docker's words, for a request to another driver and for
    /// devices that no file describes.
    pub fn of(requests: &[DeviceRequest], directories: &[PathBuf]) -> Result<Self> {
        if let Some(other) = requests.iter().find(|request| request.driver != DRIVER) {
            return Err(no_driver(other));
        }
        let descriptions = read_all(directories);
        let mut edits = Self::default();
        let mut kinds = BTreeSet::new();
        let mut missing = Vec::new();
        for name in requests
            .iter()
            .flat_map(|request| request.device_ids.iter().flatten())
        {
            match find(&descriptions, name) {
                Some((place, description, device)) => {
                    edits.add(&device.container_edits);
                    if kinds.insert(place) {
                        edits.add(&description.container_edits);
                    }
                }
                None => missing.push(name.as_str()),
            }
        }
        if missing.is_empty() {
            return Ok(edits);
        }
        let missing = missing.join(", ");
        Err(Error::invalid(format!(
            "CDI device injection failed: unresolvable CDI devices {missing}"
        )))
    }

    fn add(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.mounts.extend_from_slice(&other.mounts);
        self.hooks.extend_from_slice(&other.hooks);
        self.additional_gids.extend_from_slice(&other.additional_gids);
    }

    /// Adds all of it to a specification.
    ///
    /// # Errors
    /// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for what makes no sense, or is not on this host.
    pub fn apply(&self, spec: &mut Spec) -> Result<()> {
        self.add_env(spec);
        self.add_nodes(spec)?;
        self.add_mounts(spec)?;
        self.add_hooks(spec)?;
        self.add_groups(spec);
        Ok(())
    }

    fn add_env(&self, spec: &mut Spec) {
        let mut process = spec.process().clone().unwrap_or_default();
        let all = process.env_mut().get_or_insert_default();
        for entry in &self.env {
            let name = name_of(entry);
            match all.iter_mut().find(|own| name_of(own) == name) {
                Some(own) => own.clone_from(entry),
                None => all.push(entry.clone()),
            }
        }
        spec.set_process(Some(process));
    }

    fn add_nodes(&self, spec: &mut Spec) -> Result<()> {
        let mut linux = spec.linux().clone().unwrap_or_default();
        let mut resources = linux.resources().clone().unwrap_or_default();
        for node in &self.device_nodes {
            let device = node.device()?;
            let permissions = match node.permissions.as_str() {
                "" => "rwm",
                given => given,
            };
            if matches!(device.typ(), LinuxDeviceType::B | LinuxDeviceType::C) {
                let rules = resources.devices_mut().get_or_insert_default();
                rules.push(defaults::device_rule(
                    true,
                    device.typ(),
                    Some(device.major()),
                    Some(device.minor()),
                    permissions,
                ));
            }
            let devices = linux.devices_mut().get_or_insert_default();
            devices.retain(|own| own.path() != device.path());
            devices.push(device);
        }
        linux.set_resources(Some(resources));
        spec.set_linux(Some(linux));
        Ok(())
    }

    fn add_mounts(&self, spec: &mut Spec) -> Result<()> {
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for bind in &self.mounts {
            let mount = bind.mount()?;
            mounts.retain(|own| own.destination() != mount.destination());
            // What lies in something that is mounted later would be hidden by it.
            let place = mounts
                .iter()
                .position(|own| {
                    own.destination() != Path::new("/") && own.destination().starts_with(mount.destination())
                })
                .unwrap_or(mounts.len());
            mounts.insert(place, mount);
        }
        spec.set_mounts(Some(mounts));
        Ok(())
    }

    #[allow(deprecated, reason = "descriptions still have prestart hooks")]
    fn add_hooks(&self, spec: &mut Spec) -> Result<()> {
        if self.hooks.is_empty() {
            return Ok(());
        }
        let mut hooks = spec.hooks().clone().unwrap_or_default();
        for program in &self.hooks {
            let list = match program.hook_name.as_str() {
                "prestart" => hooks.prestart_mut(),
                "createRuntime" => hooks.create_runtime_mut(),
                "createContainer" => hooks.create_container_mut(),
                "startContainer" => hooks.start_container_mut(),
                "poststart" => hooks.poststart_mut(),
                "poststop" => hooks.poststop_mut(),
                other => return Err(failed(format!("unknown hook name {other:?}"))),
            };
            list.get_or_insert_default().push(program.hook()?);
        }
        spec.set_hooks(Some(hooks));
        Ok(())
    }

    /// Groups are looked up by the sandbox, which is told of those by an annotation.
    fn add_groups(&self, spec: &mut Spec) {
        if self.additional_gids.is_empty() {
            return;
        }
        let mut annotations = spec.annotations().clone().unwrap_or_default();
        let groups = annotations.entry(ANNOTATION_GROUP_ADD.to_owned()).or_default();
        for group in self.additional_gids.iter().filter(|group| **group != 0) {
            if !groups.is_empty() {
                groups.push(',');
            }
            groups.push_str(&group.to_string());
        }
        spec.set_annotations(Some(annotations));
    }
}

impl Node {
    /// The node; what is not said of it is as on the host.
    fn device(&self) -> Result<LinuxDevice> {
        let host = self.host_path.as_deref().unwrap_or(&self.path);
        if !self.path.is_absolute() {
            return Err(failed(format!("device path {:?} is not absolute", self.path)));
        }
        let kind = match self.r#type.as_str() {
            "" => None,
            "b" => Some(LinuxDeviceType::B),
            "c" | "u" => Some(LinuxDeviceType::C),
            "p" => Some(LinuxDeviceType::P),
            other => return Err(failed(format!("unknown device type {other:?}"))),
        };
        let is_known = kind == Some(LinuxDeviceType::P) || (kind.is_some() && self.major != 0);
        let mut device = match is_known {
            true => LinuxDevice::default(),
            false => defaults::device(host, &self.path)
                .map_err(|error| failed(error.to_string()))?
                .ok_or_else(|| failed(format!("{} is not a device node", host.display())))?,
        };
        device.set_path(self.path.clone());
        if let Some(kind) = kind {
            device.set_typ(kind);
        }
        if self.major != 0 {
            device.set_major(self.major).set_minor(self.minor);
        }
        if let Some(mode) = self.file_mode {
            device.set_file_mode(Some(mode));
        }
        if let Some(uid) = self.uid {
            device.set_uid(Some(uid));
        }
        if let Some(gid) = self.gid {
            device.set_gid(Some(gid));
        }
        Ok(device)
    }
}

impl Bind {
    fn mount(&self) -> Result<Mount> {
        if !self.container_path.starts_with('/') || self.host_path.is_empty() {
            return Err(failed(format!(
                "mount of {:?} at {:?}: both paths are needed, and the second must be absolute",
                self.host_path, self.container_path
            )));
        }
        let kind = match self.r#type.as_str() {
            "" => "bind",
            given => given,
        };
        let mut options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        if kind == "bind" && !options.iter().any(|option| matches!(*option, "bind" | "rbind")) {
            options.push("rbind");
        }
        Ok(defaults::mount(
            &self.container_path,
            kind,
            &self.host_path,
            &options,
        ))
    }
}

impl Program {
    fn hook(&self) -> Result<Hook> {
        if !self.path.is_absolute() {
            return Err(failed(format!("hook path {:?} is not absolute", self.path)));
        }
        let mut hook = Hook::default();
        let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        hook.set_path(self.path.clone())
            .set_args(list(&self.args))
            .set_env(list(&self.env))
            .set_timeout(self.timeout);
        Ok(hook)
    }
}

/// Docker's words for a request that no driver takes.
fn no_driver(request: &DeviceRequest) -> Error {
    let alternatives = request.capabilities.iter().flatten();
    let capabilities: Vec<String> = alternatives
        .map(|names| format!("[{}]", names.join(" ")))
        .collect();
    Error::invalid(format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request.driver,
        capabilities.join(" ")
    ))
}

fn failed(why: String) -> Error {
    Error::invalid(format!("CDI device injection failed: {why}"))
}

fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// All descriptions, those that count more last. A file that cannot be used is reported; its devices are not there.
fn read_all(directories: &[PathBuf]) -> Vec<Description> {
    let mut all = Vec::new();
    for directory in directories {
        let mut files: Vec<PathBuf> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let kind = path.extension().and_then(|kind| kind.to_str());
                matches!(kind, Some("json" | "yaml" | "yml"))
            })
            .collect();
        files.sort();
        for file in files {
            match read(&file) {
                Ok(description) => all.push(description),
                Err(why) => {
                    tracing::warn!(file = %file.display(), why, "a description of devices cannot be used")
                }
            }
        }
    }
    all
}

fn read(path: &Path) -> Result<Description, String> {
    let data = fs::metadata(path).map_err(|error| error.to_string())?;
    if !data.is_file() || data.len() > FILE_MAX {
        return Err("it is no file, or too large".to_owned());
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    // JSON is YAML as well.
    yaml_serde::from_str(&text).map_err(|error| error.to_string())
}

/// The device of that name: its description, and at which place that is.
fn find<'a>(descriptions: &'a [Description], name: &str) -> Option<(usize, &'a Description, &'a Device)> {
    let (kind, name) = name.split_once('=')?;
    descriptions
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, description)| description.kind == kind)
        .find_map(|(place, description)| {
            let device = description.devices.iter().find(|device| device.name == name)?;
            Some((place, description, device))
        })
}

#[cfg(test)]
mod tests {
    use berth_runtime::Kind;

    use super::*;

    const YAML: &str = "
cdiVersion: 0.6.0
kind: vendor.example/null
containerEdits:
  env: [SHARED=1]
  additionalGids: [0, 44]
devices:
  - name: one
    containerEdits:
      env: [PATH=/other, ONE=1]
      deviceNodes:
        - {path: /dev/mine, hostPath: /dev/null, permissions: rw, fileMode: 384}
        - {path: /dev/made, type: c, major: 1, minor: 5}
      mounts:
        - {hostPath: /etc, containerPath: /vendor, options: [ro, nosuid]}
      hooks:
        - {hookName: createContainer, path: /bin/true, args: [true, x], timeout: 5}
";

    fn request(driver: &str, devices: &[&str]) -> DeviceRequest {
        DeviceRequest {
            driver: driver.into(),
            device_ids: Some(devices.iter().map(|name| (*name).to_owned()).collect()),
            ..DeviceRequest::default()
        }
    }

    fn directories() -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let directories: Vec<_> = ["a", "b", "absent"].map(|name| dir.path().join(name)).into();
        for directory in &directories[..2] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(directories[0].join("vendor.yaml"), YAML).unwrap();
        fs::write(directories[0].join("bad.json"), "{").unwrap();
        fs::write(directories[0].join("ignored.txt"), YAML.replace("one", "hidden")).unwrap();
        let other = r#"{"cdiVersion":"0.5.0","kind":"vendor.example/null","devices":[{"name":"two","containerEdits":
            {"env":["TWO=2"]}}]}"#;
        fs::write(directories[1].join("two.json"), other).unwrap();
        (dir, directories)
    }

    #[test]
    fn all_that_a_device_needs_is_added_once() {
        let (_dir, directories) = directories();
        let names = ["vendor.example/null=one", "vendor.example/null=two"];
        let edits = Edits::of(&[request("cdi", &names)], &directories).unwrap();
        let mut spec = Spec::default();
        edits.apply(&mut spec).unwrap();
        let process = spec.process().as_ref().unwrap();
        let env = process.env().as_ref().unwrap();
        for entry in ["PATH=/other", "ONE=1", "SHARED=1", "TWO=2"] {
            assert_eq!(
                env.iter().filter(|own| *own == entry).count(),
                1,
                "{entry} in {env:?}"
            );
        }
        assert_eq!(env.iter().filter(|own| own.starts_with("PATH=")).count(), 1);
        let linux = spec.linux().as_ref().unwrap();
        let device = |path: &str| {
            let mut devices = linux.devices().iter().flatten();
            devices.find(|device| device.path() == Path::new(path)).unwrap()
        };
        let mine = device("/dev/mine");
        assert_eq!(
            (mine.major(), mine.minor(), mine.file_mode()),
            (1, 3, Some(0o600))
        );
        assert_eq!((device("/dev/made").major(), device("/dev/made").minor()), (1, 5));
        let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
        assert!(
            rules
                .iter()
                .any(|rule| rule.minor() == Some(3) && rule.access().as_deref() == Some("rw"))
        );
        let mounts = spec.mounts().as_ref().unwrap();
        let mount = mounts
            .iter()
            .find(|mount| mount.destination() == Path::new("/vendor"))
            .unwrap();
        assert_eq!(mount.options().as_ref().unwrap(), &["ro", "nosuid", "rbind"]);
        let hooks = spec
            .hooks()
            .as_ref()
            .unwrap()
            .create_container()
            .as_ref()
            .unwrap();
        assert_eq!((hooks.len(), hooks[0].timeout()), (1, Some(5)));
        assert_eq!(spec.annotations().as_ref().unwrap()[ANNOTATION_GROUP_ADD], "44");
    }

    #[test]
    fn what_is_not_described_and_other_drivers_are_refused() {
        let (_dir, directories) = directories();
        let refused = |request| {
            let error = Edits::of(&[request], &directories).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            error.to_string()
        };
        assert_eq!(
            refused(request("cdi", &["vendor.example/null=hidden", "x"])),
            "CDI device injection failed: unresolvable CDI devices vendor.example/null=hidden, x"
        );
        assert_eq!(
            refused(request("nvidia", &[])),
            "could not select device driver \"nvidia\" with capabilities: []"
        );
    }

    #[test]
    fn a_later_directory_counts_more() {
        let (_dir, directories) = directories();
        let again = YAML.replace("ONE=1", "ONE=again");
        fs::write(directories[1].join("again.yml"), again).unwrap();
        let edits = Edits::of(&[request("cdi", &["vendor.example/null=one"])], &directories).unwrap();
        assert!(edits.env.contains(&"ONE=again".to_owned()) && !edits.env.contains(&"ONE=1".to_owned()));
    }

    #[test]
    fn nonsense_is_refused() {
        for edits in [
            "deviceNodes: [{path: dev/null}]",
            "deviceNodes: [{path: /dev/nowhere}]",
            "deviceNodes: [{path: /etc/passwd}]",
            "deviceNodes: [{path: /dev/x, type: z}]",
            "mounts: [{hostPath: /etc, containerPath: etc}]",
            "mounts: [{containerPath: /etc}]",
            "hooks: [{hookName: sometimes, path: /bin/true}]",
            "hooks: [{hookName: poststop, path: 'true'}]",
        ] {
            let edits: Edits = yaml_serde::from_str(edits).unwrap();
            assert!(edits.apply(&mut Spec::default()).is_err(), "{edits:?}");
        }
    }
}
