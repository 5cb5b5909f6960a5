//! Which certificates are trusted and shown: `<directory>/<host[:port]>/{*.crt, *.cert, *.key}`, as Docker has it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use reqwest::{Certificate, ClientBuilder, Identity};

use crate::{Error, Result, error::Context};

/// Adds to a client what the directories hold for `host`. The first that knows the host decides.
///
/// # Errors
/// If a file cannot be read, is no certificate or key, or a certificate and its key are not both there.
pub fn apply(mut client: ClientBuilder, dirs: &[PathBuf], host: &str) -> Result<ClientBuilder> {
    for dir in dirs.iter().map(|dir| dir.join(host)) {
        let Some(files) = list(&dir)? else {
            continue;
        };
        let with = |suffix: &str| -> Vec<&PathBuf> {
            let fits = |path: &&PathBuf| path.extension().is_some_and(|e| e == suffix);
            files.iter().filter(fits).collect()
        };
        let mut authorities = Vec::new();
        for path in with("crt") {
            let bundle = Certificate::from_pem_bundle(&read(path)?)
                .context(|| format!("cannot read the certificate {}", path.display()))?;
            authorities.extend(bundle);
        }
        client = client.tls_certs_merge(authorities);
        for path in with("cert") {
            let key = path.with_extension("key");
            if !files.contains(&key) {
                return Err(missing(&key, path));
            }
            let pem = [read(path)?, b"\n".to_vec(), read(&key)?].concat();
            let identity = Identity::from_pem(&pem)
                .context(|| format!("cannot read the certificate {}", path.display()))?;
            client = client.identity(identity);
        }
        if let Some(key) = with("key")
            .into_iter()
            .find(|k| !files.contains(&k.with_extension("cert")))
        {
            return Err(missing(&key.with_extension("cert"), key));
        }
        break;
    }
    Ok(client)
}

fn missing(what: &Path, of: &Path) -> Error {
    Error::internal(format!("missing {} of {}", what.display(), of.display()))
}

/// The files of a directory in the order of their names; `None` if there is no such directory.
fn list(dir: &Path) -> Result<Option<Vec<PathBuf>>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.context(|| format!("cannot read {}", dir.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.context(|| format!("cannot read {}", dir.display()))?.path());
    }
    files.sort();
    Ok(Some(files))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).context(|| format!("cannot read {}", path.display()))
}
