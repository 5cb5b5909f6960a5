//! Waiting for a container.

use std::sync::Arc;

use berth_api::models::{ContainerWaitCondition, ContainerWaitExitError, ContainerWaitResponse};

use super::{
    Containers,
    model::{Container, Progress},
};

impl Containers {
    /// Begins to wait at once; the future ends when the condition is fulfilled.
    pub fn wait(
        &self,
        container: &Arc<Container>,
        condition: ContainerWaitCondition,
    ) -> impl Future<Output = ContainerWaitResponse> + Send + 'static {
        let mut progress = container.progress.subscribe();
        let before = progress.borrow_and_update().clone();
        // Looked at after the subscription: an end between the two is seen by one of them.
        let state = container.now().state.clone();
        async move {
            let not_running = matches!(
                condition,
                ContainerWaitCondition::NotRunning | ContainerWaitCondition::Empty
            );
            if not_running && !state.is_running() {
                return answer(state.exit_code, &state.error);
            }
            let fulfilled = |now: &Progress| {
                let ended = condition != ContainerWaitCondition::Removed && now.ends > before.ends;
                // A removal ends every wait, and so does one that fails.
                ended || now.removed || now.failed_removals > before.failed_removals
            };
            match progress.wait_for(fulfilled).await {
                Ok(now) => answer(now.exit_code, &now.error),
                // The container itself is gone from memory, and with it what it could tell.
                Err(_) => answer(before.exit_code, &before.error),
            }
        }
    }
}

fn answer(exit_code: i64, error: &str) -> ContainerWaitResponse {
    let error = match error {
        "" => None,
        message => Some(ContainerWaitExitError {
            message: message.to_owned(),
        }),
    };
    ContainerWaitResponse {
        status_code: exit_code,
        error,
    }
}
