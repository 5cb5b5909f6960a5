//! Sessions of build clients.

use berth_api::{SessionApi, later};

use crate::engine::Engine;

impl SessionApi for Engine {
    later!(session);
}
