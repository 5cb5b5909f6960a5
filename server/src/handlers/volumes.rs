//! Volumes.

use berth_api::{VolumeApi, later};

use crate::engine::Engine;

impl VolumeApi for Engine {
    later!(
        volume_create,
        volume_inspect,
        volume_update,
        volume_delete,
        volume_list,
        volume_prune
    );
}
