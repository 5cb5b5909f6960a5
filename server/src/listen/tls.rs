//! TLS for TCP listeners: version 1.2 and newer, and no client authority but the one that is configured.

use std::{path::Path, sync::Arc};

use berth_runtime::{Error, Result};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;

/// Reads the files that `tls` names.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid), naming the file that does not do.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let bad = |path: &Path, e: &dyn std::fmt::Display| {
        Error::invalid(format!("cannot use {} for TLS: {e}", path.display()))
    };
    let verifier: Arc<dyn ClientCertVerifier> = match &tls.client_ca {
        None => Arc::new(NoClientAuth),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| bad(path, &e))?;
            }
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|e| bad(path, &e))?
        }
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| bad(&tls.key, &e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|e| Error::internal("TLS 1.2 and 1.3 are not available").caused_by(e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.cert)?, key)
        .map_err(|e| bad(&tls.cert, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |why: String| Error::invalid(format!("cannot use {} for TLS: {why}", path.display()));
    let list = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| bad(e.to_string()))?;
    if list.is_empty() {
        Err(bad("it holds no certificate in PEM form".into()))
    } else {
        Ok(list)
    }
}
