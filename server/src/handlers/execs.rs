//! Execs: further processes in containers.

use berth_api::{ExecApi, later};

use crate::engine::Engine;

impl ExecApi for Engine {
    later!(container_exec, exec_start, exec_resize, exec_inspect);
}
