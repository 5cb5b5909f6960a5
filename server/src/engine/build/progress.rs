//! What a build tells its client. Stages that run at the same time are told one after the other.

use berth_api::models::{BuildInfo, ErrorDetail, ImageID};
use berth_runtime::{Error, Kind, Result};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Records that a stage may be ahead of what is told.
const AHEAD: usize = 1024;

/// Where a stage tells what it does.
#[derive(Clone, Debug)]
pub struct Out(Sender<BuildInfo>);

impl Out {
    /// One end for a stage, the other for [`forward`].
    pub fn new() -> (Self, Receiver<BuildInfo>) {
        let (sender, receiver) = channel(AHEAD);
        (Self(sender), receiver)
    }

    /// Tells text, with its line ends.
    ///
    /// # Errors
    /// Conflict if nobody listens any more.
    pub async fn text(&self, text: impl Into<String>) -> Result<()> {
        self.record(BuildInfo {
            stream: text.into(),
            ..BuildInfo::default()
        })
        .await
    }

    /// Tells the id of an image.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub async fn image(&self, id: &str) -> Result<()> {
        self.record(BuildInfo {
            aux: Some(ImageID { id: id.to_owned() }),
            ..BuildInfo::default()
        })
        .await
    }

    /// Tells anything, unless too much waits to be told already.
    pub fn try_record(&self, record: BuildInfo) {
        let _left_out = self.0.try_send(record);
    }

    /// Ends when nobody listens any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Tells anything.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub async fn record(&self, record: BuildInfo) -> Result<()> {
        let sent = self.0.send(record).await;
        sent.map_err(|_| Error::new(Kind::Conflict, "the build was cancelled"))
    }
}

/// Passes on what stages tell, one stage after the other.
///
/// # Errors
/// Conflict if the client has gone.
pub async fn forward(stages: Vec<Receiver<BuildInfo>>, to: &Out) -> Result<()> {
    for mut stage in stages {
        while let Some(record) = stage.recv().await {
            to.record(record).await?;
        }
    }
    Ok(())
}

/// The last record of a build that failed.
pub fn failure(error: &Failed) -> BuildInfo {
    BuildInfo {
        error: error.message.clone(),
        error_detail: Some(ErrorDetail {
            code: error.code,
            message: error.message.clone(),
        }),
        ..BuildInfo::default()
    }
}

/// Why a build failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Exit code of the command, if one failed.
    pub code: i64,
    /// What is told.
    pub message: String,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            code: 0,
            message: error.to_string(),
        }
    }
}
