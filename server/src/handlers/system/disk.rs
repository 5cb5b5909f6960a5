//! `GET /system/df`.

use berth_api::{
    ApiVersion, Filters, SystemDataUsageQuery,
    models::{
        ContainerSummary, ImageSummary, StorageUsage, SystemDataUsageResponse,
        SystemDataUsageTypeItem as Kind, Volume,
    },
};
use berth_runtime::{Error, Result};

use crate::{
    engine::{Engine, containers, images, storage},
    failure::Reply,
};

/// What takes how much space; of the kinds asked for, or of all.
pub async fn usage(
    engine: &Engine,
    version: ApiVersion,
    query: SystemDataUsageQuery,
) -> Reply<SystemDataUsageResponse> {
    let asked = |kind: Kind| query.r#type.is_empty() || query.r#type.contains(&kind);
    let mut usage = SystemDataUsageResponse::default();
    if asked(Kind::Container) {
        let measured = engine.clone();
        usage.containers = Some(engine.disk_usage.join(|| measure(measured)).await?);
    }
    if asked(Kind::Image) {
        usage.images = Some(images(engine, version)?);
        usage.layers_size = Some(i64::try_from(engine.images.layers_size()).unwrap_or(i64::MAX));
    }
    if asked(Kind::Volume) {
        usage.volumes = Some(
            engine
                .volume_usage
                .join(|| measure_volumes(engine.clone()))
                .await?,
        );
    }
    if asked(Kind::BuildCache) {
        usage.build_cache = Some(engine.build_cache.list());
    }
    if query.r#type.is_empty() {
        usage.storage = engine.storage.join(|| measure_storage(engine.clone())).await?;
    }
    Ok(usage)
}

/// The whole data root.
async fn measure_storage(engine: Engine) -> Result<Vec<StorageUsage>> {
    let measured = tokio::task::spawn_blocking(move || storage::storage(&engine)).await;
    measured.map_err(|error| Error::internal("measuring the data root was broken off").caused_by(error))?
}

/// All containers with their sizes; reads every writable layer.
async fn measure(engine: Engine) -> Result<Vec<ContainerSummary>> {
    let request = containers::ListRequest {
        all: true,
        limit: 0,
        size: true,
        filters: Filters::default(),
    };
    engine.containers.list(request).await
}

/// All volumes with their sizes; reads every one.
async fn measure_volumes(engine: Engine) -> Result<Vec<Volume>> {
    let measured = tokio::task::spawn_blocking(move || engine.volumes.usage()).await;
    measured.map_err(|error| Error::internal("measuring the volumes was broken off").caused_by(error))?
}

/// All images with what they share and how many containers they have.
fn images(engine: &Engine, version: ApiVersion) -> Result<Vec<ImageSummary>> {
    let mut list = engine.images.list(&images::ListRequest {
        filters: &Filters::default(),
        shared_size: true,
        version,
    })?;
    for image in &mut list {
        let users = engine.containers.made_from(&image.id).len();
        image.containers = i64::try_from(users).unwrap_or(i64::MAX);
    }
    Ok(list)
}
