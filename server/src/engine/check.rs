//! Whether what is on disk is what it should be.

use berth_runtime::{
    Error, Result,
    image::{Check, Digest, Mend, Report},
    registry::Credentials,
};

use super::Engine;

/// Checks the image store; with credentials, which may be nobody's, it is mended too.
///
/// # Errors
/// Conflict if a check is under way; internal if the file system fails.
pub async fn run(engine: &Engine, repair: Option<Credentials>) -> Result<Report> {
    let engine = engine.clone();
    let mend = repair.map(|credentials| engine.images.refetch(credentials));
    let checked = tokio::task::spawn_blocking(move || {
        let is_mounted = |image: &Digest| {
            let containers = engine.containers.made_from(&image.to_string());
            containers
                .iter()
                .any(|container| container.now().state.is_running())
        };
        engine.images.store().check(&Check {
            mend: mend.as_ref().map(|mend| mend as &dyn Mend),
            is_mounted: &is_mounted,
        })
    });
    checked
        .await
        .map_err(|error| Error::internal("the check was broken off").caused_by(error))?
}
