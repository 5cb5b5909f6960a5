//! Volumes.

use berth_api::{
    ApiVersion, Ctx, VolumeApi, VolumeDeleteQuery, VolumeListQuery, VolumePruneQuery, VolumeUpdateQuery,
    models::{Volume, VolumeCreateOptions, VolumeListResponse, VolumePruneResponse, VolumeUpdateRequest},
};
use berth_runtime::{Error, Result};

use super::swarm::not_a_manager;
use crate::{
    engine::{Engine, volumes::Wanted},
    failure::Reply,
};

/// The version from which a clean-up spares volumes with names.
const NAMED_ARE_SPARED: ApiVersion = ApiVersion::new(1, 42);

impl VolumeApi for Engine {
    async fn volume_list(&self, _: Ctx, query: VolumeListQuery) -> Reply<VolumeListResponse> {
        let volumes = self.volumes.clone();
        Ok(blocking(move || volumes.list(&query.filters)).await?)
    }

    async fn volume_create(&self, _: Ctx, body: VolumeCreateOptions) -> Reply<Volume> {
        if body.cluster_volume_spec.is_some() {
            return Err(not_a_manager());
        }
        let volumes = self.volumes.clone();
        let wanted = Wanted {
            name: body.name,
            driver: body.driver,
            options: body.driver_opts,
            labels: body.labels,
            container: None,
        };
        let make = move || {
            let (record, _) = volumes.create(wanted)?;
            Ok(volumes.model_of(&record))
        };
        Ok(blocking(make).await?)
    }

    async fn volume_inspect(&self, _: Ctx, name: String) -> Reply<Volume> {
        let volumes = self.volumes.clone();
        Ok(blocking(move || volumes.inspect(&name)).await?)
    }

    async fn volume_delete(&self, _: Ctx, name: String, query: VolumeDeleteQuery) -> Reply<()> {
        let volumes = self.volumes.clone();
        Ok(blocking(move || volumes.remove(&name, query.force)).await?)
    }

    async fn volume_prune(&self, ctx: Ctx, query: VolumePruneQuery) -> Reply<VolumePruneResponse> {
        let filters = match ctx.version < NAMED_ARE_SPARED {
            true => query.filters.with("all", "true"),
            false => query.filters,
        };
        Ok(self.volumes.prune(filters).await?)
    }

    async fn volume_update(
        &self,
        _: Ctx,
        _: String,
        _: VolumeUpdateQuery,
        _: VolumeUpdateRequest,
    ) -> Reply<()> {
        Err(not_a_manager())
    }
}

/// Runs work that blocks where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a piece of work was broken off").caused_by(error)),
    }
}
