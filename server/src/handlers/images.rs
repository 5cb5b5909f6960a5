//! Images and builds.

use berth_api::{ImageApi, later};

use crate::engine::Engine;

impl ImageApi for Engine {
    later!(
        build_prune,
        image_build,
        image_commit,
        image_create,
        image_delete,
        image_get,
        image_get_all,
        image_history,
        image_inspect,
        image_list,
        image_load,
        image_prune,
        image_push,
        image_search,
        image_tag
    );
}
