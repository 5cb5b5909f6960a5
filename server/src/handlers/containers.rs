//! Containers.

use berth_api::{ContainerApi, later};

use crate::engine::Engine;

impl ContainerApi for Engine {
    later!(
        container_list,
        container_create,
        container_inspect,
        container_top,
        container_logs,
        container_changes,
        container_export,
        container_stats,
        container_resize,
        container_start,
        container_stop,
        container_restart,
        container_kill,
        container_update,
        container_rename,
        container_pause,
        container_unpause,
        container_attach,
        container_attach_websocket,
        container_wait,
        container_delete,
        container_archive_info,
        container_archive,
        put_container_archive,
        container_prune
    );
}
