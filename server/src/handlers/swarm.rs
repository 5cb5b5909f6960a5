//! Clusters. This engine is never part of one, and says so in the words that clients expect of a single engine.

use berth_api::{
    ByteStream, ConfigApi, ConfigListQuery, ConfigUpdateQuery, Ctx, NodeApi, NodeDeleteQuery, NodeListQuery,
    NodeUpdateQuery, SecretApi, SecretListQuery, SecretUpdateQuery, ServiceApi, ServiceCreateHeaders,
    ServiceInspectQuery, ServiceListQuery, ServiceLogsQuery, ServiceUpdateHeaders, ServiceUpdateQuery,
    SwarmApi, SwarmLeaveQuery, SwarmUpdateQuery, TaskApi, TaskListQuery, TaskLogsQuery,
    models::{
        Config, ConfigSpec, IdResponse, Node, NodeSpec, Secret, SecretSpec, Service, ServiceCreateResponse,
        ServiceSpec, ServiceUpdateResponse, Swarm, SwarmInitRequest, SwarmJoinRequest, SwarmSpec,
        SwarmUnlockRequest, SwarmUnlockkeyResponse, Task,
    },
};
use berth_runtime::Kind;

use crate::{
    engine::Engine,
    failure::{Failure, Reply},
};

const NOT_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                           connect this node to swarm and try again.";
const NOT_MEMBER: &str = "This node is not part of a swarm";
const NEVER_MEMBER: &str = "this engine cannot be part of a swarm; it runs the containers of one host";

/// What an engine outside a swarm answers to what only a manager can do.
pub(super) fn not_a_manager() -> Failure {
    Failure::new(Kind::Unavailable, NOT_MANAGER)
}

/// Operations that are unavailable for the reason given.
macro_rules! unavailable {
    ($reason:ident: $($operation:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(
            async fn $operation(&self, _: Ctx, $(_: $argument),*) -> Reply<$reply> {
                Err(Failure::new(Kind::Unavailable, $reason))
            }
        )*
    };
}

impl SwarmApi for Engine {
    unavailable! { NEVER_MEMBER:
        swarm_init(SwarmInitRequest) -> String;
        swarm_join(SwarmJoinRequest) -> ();
    }

    unavailable! { NOT_MEMBER:
        swarm_leave(SwarmLeaveQuery) -> ();
    }

    unavailable! { NOT_MANAGER:
        swarm_inspect() -> Swarm;
        swarm_unlock(SwarmUnlockRequest) -> ();
        swarm_unlockkey() -> SwarmUnlockkeyResponse;
        swarm_update(SwarmUpdateQuery, SwarmSpec) -> ();
    }
}

impl NodeApi for Engine {
    unavailable! { NOT_MANAGER:
        node_inspect(String) -> Node;
        node_delete(String, NodeDeleteQuery) -> ();
        node_list(NodeListQuery) -> Vec<Node>;
        node_update(String, NodeUpdateQuery, NodeSpec) -> ();
    }
}

impl ServiceApi for Engine {
    unavailable! { NOT_MANAGER:
        service_create(ServiceCreateHeaders, ServiceSpec) -> ServiceCreateResponse;
        service_inspect(String, ServiceInspectQuery) -> Service;
        service_delete(String) -> ();
        service_list(ServiceListQuery) -> Vec<Service>;
        service_logs(String, ServiceLogsQuery) -> ByteStream;
        service_update(String, ServiceUpdateQuery, ServiceUpdateHeaders, ServiceSpec) -> ServiceUpdateResponse;
    }
}

impl TaskApi for Engine {
    unavailable! { NOT_MANAGER:
        task_inspect(String) -> Task;
        task_list(TaskListQuery) -> Vec<Task>;
        task_logs(String, TaskLogsQuery) -> ByteStream;
    }
}

impl SecretApi for Engine {
    unavailable! { NOT_MANAGER:
        secret_create(SecretSpec) -> IdResponse;
        secret_inspect(String) -> Secret;
        secret_delete(String) -> ();
        secret_list(SecretListQuery) -> Vec<Secret>;
        secret_update(String, SecretUpdateQuery, SecretSpec) -> ();
    }
}

impl ConfigApi for Engine {
    unavailable! { NOT_MANAGER:
        config_create(ConfigSpec) -> IdResponse;
        config_inspect(String) -> Config;
        config_delete(String) -> ();
        config_list(ConfigListQuery) -> Vec<Config>;
        config_update(String, ConfigUpdateQuery, ConfigSpec) -> ();
    }
}
