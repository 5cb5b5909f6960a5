//! Execs: further processes in containers.

use berth_api::{
    Ctx, ExecApi, ExecResizeQuery, Takeover,
    models::{ContainerExecRequest, ExecInspectResponse, ExecStartRequest, IdResponse},
};

use crate::{
    engine::{Engine, containers::ExecStart},
    failure::Reply,
};

impl ExecApi for Engine {
    async fn container_exec(&self, _: Ctx, id: String, body: ContainerExecRequest) -> Reply<IdResponse> {
        let container = self.containers.find(&id)?;
        let exec = self.containers.exec_create(&container, body).await?;
        Ok(IdResponse {
            id: exec.id.to_string(),
        })
    }

    async fn exec_start(&self, _: Ctx, id: String, body: ExecStartRequest) -> Reply<Takeover> {
        let session = self.containers.exec_start(&id, ExecStart::from(&body)).await?;
        Ok(match session {
            None => Takeover::none(),
            Some(session) => {
                let framing = session.framing();
                Takeover::streams(framing, |client| session.serve(client))
            }
        })
    }

    async fn exec_resize(&self, _: Ctx, id: String, query: ExecResizeQuery) -> Reply<()> {
        Ok(self.containers.exec_resize(&id, query.h, query.w).await?)
    }

    async fn exec_inspect(&self, _: Ctx, id: String) -> Reply<ExecInspectResponse> {
        Ok(self.containers.exec_inspect(&id)?)
    }
}
