//! Volumes. None can be made yet, so there are none: lists are empty, and every name is unknown.

use berth_api::{
    Ctx, VolumeApi, VolumeDeleteQuery, VolumeListQuery, VolumePruneQuery, VolumeUpdateQuery, later,
    models::{Volume, VolumeListResponse, VolumePruneResponse, VolumeUpdateRequest},
};
use berth_runtime::Kind;

use super::swarm::not_a_manager;
use crate::{
    engine::Engine,
    failure::{Failure, Reply},
};

impl VolumeApi for Engine {
    async fn volume_list(&self, _: Ctx, _: VolumeListQuery) -> Reply<VolumeListResponse> {
        Ok(VolumeListResponse::default())
    }

    async fn volume_inspect(&self, _: Ctx, name: String) -> Reply<Volume> {
        Err(unknown(&name))
    }

    async fn volume_delete(&self, _: Ctx, name: String, query: VolumeDeleteQuery) -> Reply<()> {
        // With force a volume that is not there is as good as removed.
        if query.force { Ok(()) } else { Err(unknown(&name)) }
    }

    async fn volume_prune(&self, _: Ctx, _: VolumePruneQuery) -> Reply<VolumePruneResponse> {
        Ok(VolumePruneResponse::default())
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

    later!(volume_create);
}

fn unknown(name: &str) -> Failure {
    Failure::new(Kind::NotFound, format!("get {name}: no such volume"))
}
