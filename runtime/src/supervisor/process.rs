//! A supervisor's life, from the fork to the exit file.

use std::{os::unix::net::UnixStream, path::Path};

use super::{
    client::send_line,
    protocol::{Event, Failure, FailureKind},
};
use crate::Result;

/// Runs the container of `bundle` to its end.
pub(super) fn run(bundle: &Path, mut control: UnixStream) -> Result<()> {
    send_line(
        &mut control,
        &Event::Failed {
            id: 0,
            failure: Failure {
                kind: FailureKind::NotImplemented,
                code: 128,
                message: format!("cannot run {}: no sandbox is built in yet", bundle.display()),
            },
        },
    )
}
