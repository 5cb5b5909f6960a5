//! `spec` and `features`: documents that describe the runtime itself.

use std::{fs::File, io::Write, path::PathBuf};

use berth_runtime::{Error, Result, error::Context as _, sandbox::defaults};
use clap::Args;
use oci_spec::runtime::Spec;
use serde_json::json;

use super::{OCI_VERSION, show::print_json};

const FILE: &str = "config.json";

/// `spec`.
#[derive(Args, Debug)]
pub(super) struct SpecCommand {
    /// Where to write it
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// Not supported
    #[arg(long)]
    rootless: bool,
}

impl SpecCommand {
    pub fn run(self) -> Result<()> {
        if self.rootless {
            return Err(Error::invalid(
                "--rootless is not supported: this runtime needs root",
            ));
        }
        let mut spec = Spec::default();
        spec.set_version(OCI_VERSION.to_owned())
            .set_hostname(Some("berth".to_owned()));
        if let Some(process) = spec.process_mut() {
            process.set_terminal(Some(true));
            // What a program keeps across the execution of another one is for users to choose.
            let mut sets = process.capabilities().clone().unwrap_or_default();
            sets.set_inheritable(None).set_ambient(None);
            process.set_capabilities(Some(sets));
        }
        if let Some(linux) = spec.linux_mut() {
            linux.set_namespaces(Some(defaults::namespaces()));
        }
        let path = self.bundle.join(FILE);
        let text = serde_json::to_vec_pretty(&spec).context(|| "cannot write the specification")?;
        let mut file = File::create_new(&path).context(|| format!("cannot make {}", path.display()))?;
        file.write_all(&text)
            .context(|| format!("cannot write {}", path.display()))
    }
}

/// `features`: what this runtime can do (OCI runtime specification, "Features Structure").
pub(super) fn features() -> Result<()> {
    let mut capabilities: Vec<String> = defaults::all_capabilities()
        .iter()
        .map(|c| format!("CAP_{c}").replace("CAP_CAP_", "CAP_"))
        .collect();
    capabilities.sort();
    let document = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion", "lazytime", "loud",
            "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private",
            "ratime", "rbind", "rdev", "rdiratime", "relatime", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec",
            "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw",
            "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "slave",
            "strictatime", "suid", "symfollow", "unbindable"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE"
                ]
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}}
        },
        "potentiallyUnsafeConfigAnnotations": ["berth."]
    });
    print_json(&document, true)
}
